package group

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"multiraft/wire"
)

// boundsLog is a Storage that keeps only bounds and a term: what a benchmark of
// the core needs of a log.
type boundsLog struct {
	hard wire.HardState
	last wire.Index
	term wire.Term
}

func (l *boundsLog) HardState() wire.HardState { return l.hard }
func (l *boundsLog) First() wire.Index         { return 1 }
func (l *boundsLog) Last() wire.Index          { return l.last }

func (l *boundsLog) Term(i wire.Index) (wire.Term, error) {
	switch {
	case i == 0:
		return 0, nil
	case i <= l.last:
		return l.term, nil
	}
	return 0, wire.ErrUnavailable
}

func (l *boundsLog) Blocks(_, _ wire.Index, _ int, dst []byte) ([]byte, error) {
	return dst, wire.ErrUnavailable
}

// write stores what a Ready says is to be persisted and returns the answer.
func (l *boundsLog) write(rd *Ready) Ack {
	l.hard = rd.HardState
	a := rd.Ack()
	if a.Index > 0 {
		l.last, l.term = a.Index, a.Term
	}
	return a
}

// trio is three replicas that hand each other their messages.
type trio struct {
	g     [3]*Group
	log   [3]boundsLog
	rd    Ready // one for all: nothing of it is used after the next
	acks  [3]Ack
	inbox [3][]wire.Message
	block [64]wire.Block // used again after the entries in them are applied
	turn  int
	now   uint64
}

func newTrio(tb testing.TB) *trio {
	c := new(trio)
	ms := members(3)
	tuning := Tuning{}.WithDefaults()
	for i := range c.g {
		g, err := New(Config{
			Group: 1, Replica: wire.ReplicaID(i + 1), Members: ms, Tuning: &tuning,
			Storage: &c.log[i], Rand: rand.New(rand.NewPCG(1, uint64(i))),
		})
		if err != nil {
			tb.Fatal(err)
		}
		c.g[i] = g
	}
	if err := c.g[0].Campaign(); err != nil {
		tb.Fatal(err)
	}
	c.settle()
	if c.g[0].Role() != Leader || c.g[0].Commit() != 1 {
		tb.Fatalf("%s, commit %d", c.g[0].Role(), c.g[0].Commit())
	}
	return c
}

// payload returns an unsealed block with count commands of 16 bytes.
func (c *trio) payload(count int) wire.Block {
	slot := &c.block[c.turn%len(c.block)]
	c.turn++
	b := wire.NewBlock((*slot)[:0])
	for range count {
		b = wire.AppendPayload(b, sixteen[:])
	}
	*slot = b
	return b
}

var sixteen [16]byte

// take runs a Ready of one replica: its log is durable at once, its
// acknowledgement waits for ack.
func (c *trio) take(i int) bool {
	if !c.g[i].Ready(&c.rd) {
		return false
	}
	if c.rd.Seq != 0 {
		c.acks[i] = c.log[i].write(&c.rd)
	}
	for j := range c.rd.Messages {
		to := c.rd.Messages[j].To - 1
		c.inbox[to] = append(c.inbox[to], c.rd.Messages[j])
	}
	if c.rd.CommittedLast >= c.rd.CommittedFirst {
		c.g[i].Applied(c.rd.CommittedLast)
	}
	return true
}

func (c *trio) ack(i int) bool {
	if c.acks[i].Seq == 0 {
		return false
	}
	c.g[i].Persisted(c.acks[i])
	c.acks[i] = Ack{}
	return true
}

// settle runs all three until nothing more happens.
func (c *trio) settle() {
	for busy := true; busy; {
		busy = false
		for i := range c.g {
			for j := range c.inbox[i] {
				if err := c.g[i].Step(&c.inbox[i][j]); err != nil {
					panic(err)
				}
				busy = true
			}
			c.inbox[i] = c.inbox[i][:0]
			for c.g[i].HasReady() && c.take(i) {
				busy = true
			}
			if c.ack(i) {
				busy = true
			}
		}
	}
}

func (c *trio) tick() {
	c.now++
	for i := range c.g {
		c.g[i].Tick(c.now)
	}
}

// BenchmarkReplicate proposes entries of 16 bytes to three replicas and runs them
// until all have applied them. calls=64 is 64 times Propose and then one Ready;
// batch=64 is one Propose of 64.
func BenchmarkReplicate(b *testing.B) {
	for _, bm := range []struct{ calls, batch int }{{1, 1}, {64, 1}, {1, 64}} {
		b.Run(fmt.Sprintf("calls=%d/batch=%d", bm.calls, bm.batch), func(b *testing.B) {
			c := newTrio(b)
			b.ReportAllocs()
			for b.Loop() {
				for range bm.calls {
					if _, _, err := c.g[0].Propose(c.payload(bm.batch), bm.batch); err != nil {
						b.Fatal(err)
					}
				}
				c.settle()
				if c.turn%1024 == 0 {
					c.tick()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*bm.calls*bm.batch), "ns/entry")
		})
	}
}

// followerLoop is what a follower does per append: Step, Ready, Persisted, and
// the Ready with the answer.
type followerLoop struct {
	c       *trio
	m       wire.Message
	blocks  [8]wire.Block // used again after the entries in them are applied
	entries int
	turn    int
}

func newFollowerLoop(tb testing.TB, entries int) *followerLoop {
	f := &followerLoop{c: newTrio(tb), entries: entries}
	f.m = wire.Message{Kind: wire.Append, Group: 1, From: 1, To: 2, Term: 1, Index: 1, LogTerm: 1, Commit: 1}
	for i := range f.blocks {
		f.blocks[i] = wire.NewBlock(nil)
		for range entries {
			f.blocks[i] = wire.AppendPayload(f.blocks[i], sixteen[:])
		}
	}
	return f
}

func (f *followerLoop) run(tb testing.TB) {
	b := f.blocks[f.turn%len(f.blocks)]
	f.turn++
	b.Seal(1, f.m.Index+1, 1, wire.EntryCommand, f.entries)
	f.m.Entries = b
	if err := f.c.g[1].Step(&f.m); err != nil {
		tb.Fatal(err)
	}
	f.c.take(1)
	f.c.ack(1)
	f.c.take(1)
	if got := len(f.c.inbox[0]); got != 1 || f.c.inbox[0][0].Index != b.Last() {
		tb.Fatalf("answers: %+v", f.c.inbox[0])
	}
	f.c.inbox[0] = f.c.inbox[0][:0]
	f.m.Index = b.Last()
	f.m.Commit = f.m.Index
}

// BenchmarkFollowerAppend includes sealing the message's block anew, whose
// checksum costs as much again as checking it.
func BenchmarkFollowerAppend(b *testing.B) {
	for _, entries := range []int{1, 64} {
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			f := newFollowerLoop(b, entries)
			b.ReportAllocs()
			for b.Loop() {
				f.run(b)
			}
		})
	}
}

// BenchmarkHeartbeat is a whole round: the leader's tick, two heartbeats, two
// answers.
func BenchmarkHeartbeat(b *testing.B) {
	c := newTrio(b)
	b.ReportAllocs()
	for b.Loop() {
		c.now += 2
		for i := range c.g {
			c.g[i].Tick(c.now)
		}
		c.settle()
	}
}

// BenchmarkIdleTick ticks a follower that has nothing to do.
func BenchmarkIdleTick(b *testing.B) {
	c := newTrio(b)
	b.ReportAllocs()
	for b.Loop() {
		c.g[1].Tick(1)
		if c.g[1].HasReady() {
			b.Fatal("not idle")
		}
	}
}

// BenchmarkReadIndex is a read on the leader, confirmed by two followers.
func BenchmarkReadIndex(b *testing.B) {
	c := newTrio(b)
	b.ReportAllocs()
	var context uint64
	for b.Loop() {
		context++
		if err := c.g[0].ReadIndex(context); err != nil {
			b.Fatal(err)
		}
		c.settle()
	}
}

// BenchmarkNew makes an idle follower.
func BenchmarkNew(b *testing.B) {
	ms, tuning, source := members(3), Tuning{}.WithDefaults(), fixedRand(1)
	log := new(boundsLog)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New(Config{Group: 1, Replica: 2, Members: ms, Tuning: &tuning, Storage: log, Rand: source}); err != nil {
			b.Fatal(err)
		}
	}
}

// heapOf returns the live heap per group of count groups.
func heapOf(count int, build func(i int) *Group) float64 {
	groups := make([]*Group, count)
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	for i := range groups {
		groups[i] = build(i)
	}
	after := live()
	runtime.KeepAlive(groups)
	return float64(int64(after)-int64(before)) / float64(count)
}
