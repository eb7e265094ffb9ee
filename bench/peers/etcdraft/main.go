// Etcdraft measures the operations of package sample with go.etcd.io/raft/v3.
//
// The module has two module files, one per version of that library, and this
// program is built with one of them: go.mod and v360.go for v3.6.0, v3.7.0.mod
// and v370.go, with the build tag raft370, for v3.7.0. Those two source files
// hold all that differs: messages and entries are values in the one and pointers
// with fields that are pointers in the other.
//
// Each operation is done in the way that is cheapest for the library: payloads
// and, as far as a version does not keep them, messages and slices are made once
// and used again.
package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"

	"multiraft/bench/peers/sample"
)

func main() { sample.Main("etcdraft", rows()) }

func rows() map[string]sample.Row {
	rows := map[string]sample.Row{
		sample.Replicate:      {Time: func(t *sample.Timer) error { return replicate(t, 1, 1) }},
		sample.ProposeCalls:   {Time: func(t *sample.Timer) error { return replicate(t, sample.Batch, 1) }, PerOp: sample.Batch},
		sample.ProposeBatch:   {Time: func(t *sample.Timer) error { return replicate(t, 1, sample.Batch) }, PerOp: sample.Batch},
		sample.FollowerAppend: {Time: followerAppend},
		sample.Heartbeat:      {Time: heartbeat},
		sample.Encode:         {Time: encode},
		sample.Decode:         {Time: decode},
		sample.IdleFollower:   {Heap: idleFollower},

		sample.CommitIndex + sample.Joint: {Time: jointCommitIndexOf},
	}
	for _, voters := range []int{3, 5, 7} {
		rows[sample.LeaderAcks+strconv.Itoa(voters)] = sample.Row{
			Time: func(t *sample.Timer) error { return leaderAcks(t, voters) },
		}
		rows[sample.CommitIndex+strconv.Itoa(voters)] = sample.Row{
			Time: func(t *sample.Timer) error { return commitIndexOf(t, voters) },
		}
	}
	return rows
}

// replicate takes calls proposals of n entries each through all three replicas.
func replicate(t *sample.Timer, calls, n int) error {
	c, err := newCluster(3, config{})
	if err != nil {
		return err
	}
	leader, p := c.leader(), newProposer(n)
	ops := 0
	for t.Loop() {
		for range calls {
			if n == 1 {
				err = leader.Propose(p.payload)
			} else {
				err = leader.Step(p.next())
			}
			if err != nil {
				return err
			}
		}
		if err := c.finish(); err != nil {
			return err
		}
		ops++
	}
	return c.check(ops * calls * n)
}

// followerTerm is the term in which replica 2 leads replica 1.
const followerTerm = 2

// appendMessage returns an append of replica 2 to replica 1 with count entries
// behind index that commits what is in front of them.
func appendMessage(index uint64, payload []byte, count int) message {
	logTerm := uint64(followerTerm)
	if index == firstIndex-1 {
		logTerm = firstTerm
	}
	return newAppend(2, 1, followerTerm, index, logTerm, index, newEntries(index+1, followerTerm, payload, count))
}

// followerAppend gives replica 1 appends of replica 2.
func followerAppend(t *sample.Timer) error {
	r, err := newReplica(1, 3, config{})
	if err != nil {
		return err
	}
	payload := sample.Payload(1)
	appends := make([]message, 0, sample.AppendChunk)
	prepare := func(index uint64) {
		appends = appends[:0]
		for range sample.AppendChunk {
			appends = append(appends, appendMessage(index, payload, sample.Batch))
			index += sample.Batch
		}
	}
	next, ops := 0, 0
	for t.Loop() {
		if next == len(appends) {
			t.Stop()
			last, err := r.storage.LastIndex()
			if err != nil {
				return err
			}
			prepare(last)
			next = 0
			t.Start()
		}
		m := appends[next]
		if err := r.Step(m); err != nil {
			return err
		}
		acked := false
		for r.HasReady() {
			if err := r.ready(func(a message) error {
				acked = acked || kindOf(a) == raftpb.MsgAppResp && indexOf(a) == indexOf(m)+sample.Batch
				return nil
			}); err != nil {
				return err
			}
		}
		if !acked {
			return fmt.Errorf("append behind %d is not acknowledged", indexOf(m))
		}
		if err := r.compact(); err != nil {
			return err
		}
		next++
		ops++
	}
	if want := (ops - 1) * sample.Batch; r.commits != want {
		return fmt.Errorf("%d commands are applied, want %d", r.commits, want)
	}
	return nil
}

// leaderAcks gives a leader the acknowledgements of entry by entry.
func leaderAcks(t *sample.Timer, voters int) error {
	c, err := newCluster(voters, config{noCheckQuorum: true})
	if err != nil {
		return err
	}
	r, p := c.leader(), newProposer(1)
	acks := make([]message, voters+1)
	for from := 2; from <= voters; from++ {
		acks[from] = newAppendResponse(uint64(from), 1, termOf(r))
	}
	ack := func(from int, index uint64) error {
		setIndex(&acks[from], index)
		return r.Step(acks[from])
	}
	told, last := 0, r.applied
	drop := func(message) error { return nil }
	prepare := func() error {
		for from := 2; from <= voters; from++ {
			if err := ack(from, last); err != nil {
				return err
			}
		}
		if err := r.drain(drop); err != nil {
			return err
		}
		if err := r.compact(); err != nil {
			return err
		}
		for range sample.AckChunk {
			if err := r.Propose(p.payload); err != nil {
				return err
			}
			if err := r.drain(drop); err != nil {
				return err
			}
		}
		last += sample.AckChunk
		return nil
	}
	quorum, ops := voters/2+1, 0
	tell := func(message) error { told++; return nil }
	for t.Loop() {
		if r.applied == last {
			t.Stop()
			if err := prepare(); err != nil {
				return err
			}
			t.Start()
		}
		index := r.applied + 1
		for from := 2; from <= quorum; from++ {
			if err := ack(from, index); err != nil {
				return err
			}
		}
		if err := r.drain(tell); err != nil {
			return err
		}
		if r.applied != index {
			return fmt.Errorf("applied is %d, want %d", r.applied, index)
		}
		ops++
	}
	if told < ops*(voters-1) {
		return fmt.Errorf("%d messages told of %d commits", told, ops)
	}
	return nil
}

// heartbeat makes a leader of three send its heartbeats.
func heartbeat(t *sample.Timer) error {
	c, err := newCluster(3, config{noCheckQuorum: true})
	if err != nil {
		return err
	}
	r := c.leader()
	for t.Loop() {
		r.Tick()
		beats := 0
		if err := r.drain(func(m message) error {
			if kindOf(m) == raftpb.MsgHeartbeat {
				beats++
			}
			return nil
		}); err != nil {
			return err
		}
		if beats != 2 {
			return fmt.Errorf("%d heartbeats, want two", beats)
		}
	}
	return nil
}

// acked says how far the members are.
type acked map[uint64]quorum.Index

func (a acked) AckedIndex(id uint64) (quorum.Index, bool) {
	index, ok := a[id]
	return index, ok
}

// matches are the match indexes of the members, in no order.
var matches = acked{1: 7, 2: 3, 3: 9, 4: 1, 5: 8, 6: 2, 7: 6}

func majority(ids ...uint64) quorum.MajorityConfig {
	c := make(quorum.MajorityConfig)
	for _, id := range ids {
		c[id] = struct{}{}
	}
	return c
}

var sink quorum.Index

func commitIndexOf(t *sample.Timer, voters int) error {
	match, c := make(acked), make(quorum.MajorityConfig)
	for id := range uint64(voters) {
		match[id+1], c[id+1] = matches[id+1], struct{}{}
	}
	for t.Loop() {
		sink = c.CommittedIndex(match)
	}
	return checkCommit(map[int]quorum.Index{3: 7, 5: 7, 7: 6}[voters])
}

func jointCommitIndexOf(t *sample.Timer) error {
	c := quorum.JointConfig{majority(1, 2, 3), majority(1, 2, 4)}
	for t.Loop() {
		sink = c.CommittedIndex(matches)
	}
	return checkCommit(3)
}

func checkCommit(want quorum.Index) error {
	if sink != want {
		return fmt.Errorf("commit index is %d, want %d", sink, want)
	}
	return nil
}

// sampleAppend returns the append that is encoded and decoded.
func sampleAppend() message {
	const index, term = 1_000_000, 5
	return newAppend(1, 2, term, index, term, index, newEntries(index+1, term, sample.Payload(1), sample.Batch))
}

func encode(t *sample.Timer) error {
	m := sampleAppend()
	var buf []byte
	for t.Loop() {
		var err error
		if buf, err = marshal(buf, m); err != nil {
			return err
		}
	}
	if len(buf) != sizeOf(m) {
		return fmt.Errorf("%d bytes, want %d", len(buf), sizeOf(m))
	}
	return nil
}

func decode(t *sample.Timer) error {
	want := sampleAppend()
	buf, err := marshal(nil, want)
	if err != nil {
		return err
	}
	var m message
	for t.Loop() {
		if m, err = unmarshal(buf); err != nil {
			return err
		}
		if entries := entriesOf(m); len(entries) != sample.Batch {
			return fmt.Errorf("%d entries", len(entries))
		}
	}
	if again, err := marshal(nil, m); err != nil || !slices.Equal(again, buf) {
		return fmt.Errorf("decoded message differs: %w", err)
	}
	return nil
}

// idle is what one follower takes.
type idle struct {
	group   *raft.RawNode
	storage *raft.MemoryStorage
}

func idleFollower() (float64, error) {
	payload := sample.Payload(1)
	drop := func(message) error { return nil }
	return sample.Live(sample.IdleGroups, func(int) (idle, error) {
		r, err := newReplica(1, 3, config{})
		if err != nil {
			return idle{}, err
		}
		for i := range uint64(sample.IdleEntries) {
			m := appendMessage(firstIndex-1+i, payload, 1)
			if err := errors.Join(r.Step(m), r.drain(drop)); err != nil {
				return idle{}, err
			}
		}
		for range sample.IdleHeartbeats {
			m := newHeartbeat(2, 1, followerTerm, firstIndex-1+sample.IdleEntries)
			if err := errors.Join(r.Step(m), r.drain(drop)); err != nil {
				return idle{}, err
			}
		}
		if r.commits != sample.IdleEntries {
			return idle{}, fmt.Errorf("%d commands are applied, want %d", r.commits, sample.IdleEntries)
		}
		return idle{r.RawNode, r.storage}, r.storage.Compact(r.applied)
	})
}
