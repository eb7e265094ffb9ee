// Package sample is what the measuring programs have in common: the names of the
// operations, their sizes, and the command line that runs one of them once.
//
//	corecost ── -row replicate -time 200ms ──▶ program ── {"ns":…,"allocs":…} ──▶ corecost
//
// # Concurrency
//
// A program runs one operation on one goroutine and ends.
package sample

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

// The operations. All entries have payloads of PayloadBytes. Storage is memory,
// and what is handed to it counts as durable at once. Every committed entry is
// applied: its payload is found and its first 8 bytes are added to a sum.
const (
	// Replicate proposes one entry and goes on until all three replicas have it
	// durable, committed and applied, and nobody has anything left to say.
	Replicate = "replicate"
	// ProposeCalls is the same with Batch calls that propose one entry each, in
	// front of the first Ready; per entry.
	ProposeCalls = "propose-calls"
	// ProposeBatch is the same with one call that proposes Batch entries; per
	// entry.
	ProposeBatch = "propose-batch"
	// FollowerAppend gives a follower an append of Batch entries that also
	// commits those of the append before, and goes on until they are durable, the
	// others are applied, and the acknowledgement is out.
	FollowerAppend = "follower-append"
	// LeaderAcks gives a leader, to which every entry is durable, the
	// acknowledgements of one more entry from as many followers as make a quorum,
	// and goes on until the entry is applied and the messages that tell followers
	// of the commit are out. Followed by the number of voters.
	LeaderAcks = "leader-acks-"
	// Heartbeat makes a leader send heartbeats to two followers.
	Heartbeat = "heartbeat"
	// CommitIndex finds the highest index that a quorum has. Followed by the
	// number of voters, or by Joint.
	CommitIndex = "commit-index-"
	// Encode encodes an append of Batch entries into a buffer that is used again.
	Encode = "encode"
	// Decode decodes it into a message whose entries are delimited and checked.
	Decode = "decode"
	// IdleFollower is the heap that one of IdleGroups followers of a group of
	// three takes with its storage. Each has applied a few entries, which its
	// storage has compacted, and has heard heartbeats since.
	IdleFollower = "idle-follower"

	// Joint is a configuration of three voters going over to three others, of
	// which they have two in common.
	Joint = "joint"
)

// Names returns all operations.
func Names() []string {
	return []string{
		Replicate, ProposeCalls, ProposeBatch, FollowerAppend,
		LeaderAcks + "3", LeaderAcks + "5", LeaderAcks + "7", Heartbeat,
		CommitIndex + "3", CommitIndex + "5", CommitIndex + "7", CommitIndex + Joint,
		Encode, Decode, IdleFollower,
	}
}

const (
	// PayloadBytes is the size of an entry's payload.
	PayloadBytes = 16
	// Batch is how many entries make a batch.
	Batch = 64
	// CompactEvery is after how many entries a program compacts the storage of
	// its replicas, as part of the operation. The storage of etcd's library
	// begins a new array at each compaction and grows it by and by; this interval
	// is short enough for it not to suffer from the growth.
	CompactEvery = 1024
	// AppendChunk is how many appends are made in front of a measured stretch.
	AppendChunk = 64
	// AckChunk is how many entries are made durable in front of a measured
	// stretch.
	AckChunk = 1024
	// IdleGroups is how many idle followers there are.
	IdleGroups = 10_000
	// IdleEntries is how many entries a follower applied before it was idle.
	IdleEntries = 4
	// IdleHeartbeats is how many heartbeats a follower hears before it counts as
	// idle.
	IdleHeartbeats = 20
)

// Row is one operation as one library does it. Exactly one of Time and Heap is
// set.
type Row struct {
	// Time measures; each turn of its loop is PerOp entries (zero means one), and
	// the result is per entry.
	Time  func(t *Timer) error
	PerOp int
	// Heap returns the bytes of one of the things counted.
	Heap func() (float64, error)
}

// Result is what one sample found.
type Result struct {
	// Value is nanoseconds, or bytes of heap.
	Value float64 `json:"value"`
	// Allocs and Bytes were allocated meanwhile.
	Allocs float64 `json:"allocs"`
	Bytes  float64 `json:"bytes"`
}

// Main is the main function of a program that has rows.
func Main(program string, rows map[string]Row) {
	if err := run(os.Args[1:], rows, os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		os.Exit(1)
	}
}

func run(args []string, rows map[string]Row, out io.Writer) (err error) {
	names := slices.Sorted(maps.Keys(rows))
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	name := flags.String("row", "", "the operation to measure: "+strings.Join(names, ", "))
	duration := flags.Duration("time", 200*time.Millisecond, "how long to measure")
	profile := flags.String("cpuprofile", "", "write a processor profile to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	row, ok := rows[*name]
	if !ok {
		return fmt.Errorf("-row: %q must be one of %s", *name, strings.Join(names, ", "))
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	result, err := row.Measure(*duration)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// Measure takes one sample of about the given time.
func (row Row) Measure(duration time.Duration) (Result, error) {
	if row.Heap != nil {
		bytes, err := row.Heap()
		return Result{Value: bytes}, err
	}
	t := newTimer(duration)
	defer t.unlock()
	if err := row.Time(t); err != nil {
		return Result{}, err
	}
	return t.result(max(1, row.PerOp))
}

// Live returns the bytes of heap that one of n things takes, as build makes them.
func Live[T any](n int, build func(i int) (T, error)) (float64, error) {
	things := make([]T, n)
	before := liveHeap()
	for i := range things {
		var err error
		if things[i], err = build(i); err != nil {
			return 0, err
		}
	}
	after := liveHeap()
	runtime.KeepAlive(things)
	return (float64(after) - float64(before)) / float64(n), nil
}

// liveHeap collects twice, because what a finalizer or a pool held survives the
// first collection.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// Payload returns the payload of an entry.
func Payload(i int) []byte {
	p := make([]byte, PayloadBytes)
	for j := range p {
		p[j] = byte(i + j)
	}
	return p
}
