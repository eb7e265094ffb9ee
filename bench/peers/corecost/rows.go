package main

import "multiraft/bench/peers/sample"

// row is one operation and what is asked of this project in it. Anyone's figure
// is a median of samples.
type row struct {
	name  string // of package sample
	title string
	unit  string // ns, or B of heap
	// atMost is how much of the better opponent's figure ours may be, as its
	// divisor: 4 means a quarter. Zero: there is only a limit.
	atMost float64
	// limit is what our figure may be at most, in unit. Zero: only atMost.
	limit float64
	// noAllocs says that ours must not allocate in steady state.
	noAllocs bool
}

// allocsTolerated is how many allocations per operation count as none: blocks
// come out of chunks, and now and then a chunk has to be made.
const allocsTolerated = 0.05

const (
	nanoseconds = "ns"
	heapBytes   = "B"
)

var rows = []row{
	{name: sample.Replicate, title: "replicate 1 entry over 3 replicas", unit: nanoseconds, atMost: 4, noAllocs: true},
	{name: sample.ProposeCalls, title: "per entry: 64 propose calls, then Ready", unit: nanoseconds, atMost: 30, noAllocs: true},
	{name: sample.ProposeBatch, title: "per entry: one proposal of 64", unit: nanoseconds, atMost: 5, noAllocs: true},
	{name: sample.FollowerAppend, title: "follower append of 64 entries", unit: nanoseconds, atMost: 8, noAllocs: true},
	{name: sample.LeaderAcks + "3", title: "leader, acks to commit, 3 voters", unit: nanoseconds, atMost: 6, noAllocs: true},
	{name: sample.LeaderAcks + "5", title: "leader, acks to commit, 5 voters", unit: nanoseconds, atMost: 6, noAllocs: true},
	{name: sample.LeaderAcks + "7", title: "leader, acks to commit, 7 voters", unit: nanoseconds, atMost: 6, noAllocs: true},
	{name: sample.Heartbeat, title: "leader heartbeat to 2 followers", unit: nanoseconds, atMost: 4, noAllocs: true},
	{name: sample.CommitIndex + "3", title: "commit index, 3 voters", unit: nanoseconds, atMost: 8},
	{name: sample.CommitIndex + "5", title: "commit index, 5 voters", unit: nanoseconds, atMost: 8},
	{name: sample.CommitIndex + "7", title: "commit index, 7 voters", unit: nanoseconds, atMost: 8},
	{name: sample.CommitIndex + sample.Joint, title: "commit index, joint 3&&3", unit: nanoseconds, atMost: 8},
	{name: sample.Encode, title: "encode an append of 64 entries", unit: nanoseconds, atMost: 10, noAllocs: true},
	{name: sample.Decode, title: "decode an append of 64 entries", unit: nanoseconds, atMost: 10, noAllocs: true},
	{name: sample.IdleFollower, title: "heap of an idle follower, 3 voters", unit: heapBytes, limit: 768},
}
