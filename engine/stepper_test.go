package engine_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"multiraft/engine"
	"multiraft/transport"
	"multiraft/wire"
)

// relay connects stepped stores: frames wait until the driver delivers them.
type relay struct {
	arena  wire.Arena
	stores map[wire.StoreID]*relayEnd
	// loses says which frames do not arrive; nil: all do.
	loses func(from, to wire.StoreID, payload []byte) bool
}

type relayEnd struct {
	relay   *relay
	id      wire.StoreID
	handler transport.Handler
	free    [][]byte
	inbox   []relayFrame
	spare   []relayFrame
	stats   transport.Stats
}

type relayFrame struct {
	from    wire.StoreID
	payload []byte
}

func (r *relay) end(id wire.StoreID) *relayEnd {
	if r.stores == nil {
		r.stores = map[wire.StoreID]*relayEnd{}
	}
	r.stores[id] = &relayEnd{relay: r, id: id}
	return r.stores[id]
}

func (e *relayEnd) Start(h transport.Handler) error { e.handler = h; return nil }
func (e *relayEnd) Close() error                    { return nil }
func (e *relayEnd) Stats() transport.Stats          { return e.stats }

func (e *relayEnd) Buffer() []byte {
	if n := len(e.free); n > 0 {
		b := e.free[n-1]
		e.free = e.free[:n-1]
		return b[:0]
	}
	return nil
}

func (e *relayEnd) Send(to wire.StoreID, lane wire.Lane, payload []byte) error {
	e.stats.Lanes[lane].FramesSent++
	e.stats.Lanes[lane].BytesSent += uint64(len(payload))
	if peer := e.relay.stores[to]; e.relay.loses == nil || !e.relay.loses(e.id, to, payload) {
		peer.inbox = append(peer.inbox, relayFrame{from: e.id, payload: append(e.relay.arena.Alloc(len(payload)), payload...)})
	}
	e.free = append(e.free, payload)
	return nil
}

// deliver hands over what waits. It tells whether there was anything.
func (e *relayEnd) deliver() bool {
	inbox := e.inbox
	e.inbox, e.spare = e.spare[:0], inbox
	for _, frame := range inbox {
		e.handler.HandleFrame(frame.from, frame.payload)
	}
	return len(inbox) > 0
}

// steppedCluster is three stores on the test's goroutine.
type steppedCluster struct {
	t      testing.TB
	relay  relay
	stores []*engine.Store
	steps  []*engine.Stepper
	groups []*engine.Group // on the store that leads them
	// beforeTick are called before each tick.
	beforeTick []func()
	// mayLog says whether the log of a store, by place, may take a step: a disk that
	// hangs does not. Nil: always.
	mayLog func(at int) bool
}

type countingMachine struct{ applied uint64 }

func (m *countingMachine) Apply(entries []engine.Entry) error {
	m.applied += uint64(len(entries))
	return nil
}
func (m *countingMachine) Query(any) (any, error) { return m.applied, nil }

func newSteppedCluster(t testing.TB, groups int) *steppedCluster {
	t.Helper()
	return newSteppedClusterWith(t, groups, nil)
}

func newSteppedClusterWith(t testing.TB, groups int, change func(*engine.Config), beforeTick ...func()) *steppedCluster {
	t.Helper()
	c := &steppedCluster{t: t, beforeTick: beforeTick}
	dir := t.TempDir()
	for id := wire.StoreID(1); id <= 3; id++ {
		cfg := engine.Config{
			Cluster: 7, ID: id, Dir: filepath.Join(dir, fmt.Sprint(id)), Seed: uint64(id),
			Transport: c.relay.end(id), NoSync: true, SegmentBytes: 16 << 20, Workers: 1, Appliers: 1,
		}
		if change != nil {
			change(&cfg)
		}
		store, steps, err := engine.OpenStepped(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.stores, c.steps = append(c.stores, store), append(c.steps, steps)
	}
	t.Cleanup(func() {
		for _, d := range c.steps {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for g := range groups {
		for i, store := range c.stores {
			group, err := store.StartGroup(t.Context(), engine.GroupConfig{
				ID: wire.GroupID(g + 1), Members: threeMembers, StateMachine: &countingMachine{}})
			if err != nil {
				t.Fatal(err)
			}
			if i == (g+1)%3 {
				c.groups = append(c.groups, group)
			}
		}
	}
	for range 10 {
		c.tick()
	}
	for _, g := range c.groups {
		if !g.IsLeader() {
			t.Fatalf("group %d: preferred replica does not lead: %+v", g.ID(), g.Status())
		}
	}
	return c
}

// settle takes steps until nothing has anything to do.
func (c *steppedCluster) settle() {
	for again := true; again; {
		again = false
		for i, d := range c.steps {
			again = d.Worker(0) || again
			again = (c.mayLog == nil || c.mayLog(i)) && d.Log() || again
			again = d.Applier(0) || again
			again = c.relay.stores[c.stores[i].ID()].deliver() || again
		}
	}
}

func (c *steppedCluster) tick() {
	for _, f := range c.beforeTick {
		f()
	}
	for _, d := range c.steps {
		d.Tick()
	}
	c.settle()
}

// tally is a Notifier that counts.
type tally struct{ done, failed int }

func (n *tally) ProposalsDone(done []*engine.Pending) {
	n.done += len(done)
	for _, p := range done {
		if _, err := p.Result(); err != nil {
			n.failed++
		}
	}
}

func skipUnderRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
}

// The whole path of a write, on all three stores together, allocates next to
// nothing: what is left are the chunks that blocks are carved from, and the
// growth of the log's index.
func TestWritePathAllocations(t *testing.T) {
	skipUnderRace(t)
	const groups, perGroup = 48, 20
	c := newSteppedCluster(t, groups)
	var count tally
	pendings := make([]engine.Pending, groups*perGroup)
	for i := range pendings {
		pendings[i].Init(&count)
	}
	command := make([]byte, 16)
	cycle := func() {
		for i := range pendings {
			if err := c.groups[i%groups].ProposeAsync(command, &pendings[i]); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
	}
	for range 50 {
		cycle()
	}
	before := count.done
	allocs := testing.AllocsPerRun(100, cycle)
	if done := count.done - before; done != 101*len(pendings) || count.failed > 0 {
		t.Fatalf("%d writes completed, %d failed; want %d and none", done, count.failed, 101*len(pendings))
	}
	if perWrite := allocs / float64(len(pendings)); perWrite > 0.02 {
		t.Errorf("%.4f allocations per write, want at most 0.02", perWrite)
	}
}

// Heartbeats of many idle groups allocate nothing.
func TestIdleAllocations(t *testing.T) {
	skipUnderRace(t)
	c := newSteppedCluster(t, 200)
	for range 50 {
		c.tick()
	}
	if allocs := testing.AllocsPerRun(100, c.tick); allocs > 0 {
		t.Errorf("%.1f allocations per tick of 200 groups on three stores, want none", allocs)
	}
}

// A lone write, from ProposeAsync over both followers to its completion,
// allocates nothing; the chunks that blocks are carved from, and the growth of
// the log's index, come up once in many writes.
func TestLoneWriteAllocations(t *testing.T) {
	skipUnderRace(t)
	c := newSteppedCluster(t, 3)
	var count tally
	pending := engine.NewPending(&count)
	command := make([]byte, 16)
	write := func() {
		if err := c.groups[0].ProposeAsync(command, pending); err != nil {
			t.Fatal(err)
		}
		c.settle()
	}
	for range 200 {
		write()
	}
	if allocs := testing.AllocsPerRun(500, write); allocs > 0 {
		t.Errorf("%.1f allocations per write, want none", allocs)
	}
	if count.failed > 0 || count.done != 701 {
		t.Errorf("%d writes completed, %d failed", count.done, count.failed)
	}
}

func TestSteppedStoreIsDeterministic(t *testing.T) {
	run := func() string {
		c := newSteppedCluster(t, 20)
		var count tally
		pendings := make([]engine.Pending, 100)
		for round := range 20 {
			for i := range pendings {
				pendings[i].Init(&count)
				if err := c.groups[i%20].ProposeAsync(number(round*100+i), &pendings[i]); err != nil {
					t.Fatal(err)
				}
			}
			c.tick()
		}
		var b []byte
		for _, s := range c.stores {
			b = fmt.Appendf(b, "%+v\n", s.Metrics())
		}
		return string(b)
	}
	if first, second := run(), run(); first != second {
		t.Errorf("two runs from one seed differ:\n%s\n%s", first, second)
	}
}

func BenchmarkWritePath(b *testing.B) {
	for _, groups := range []int{48, 1024} {
		b.Run(fmt.Sprintf("groups=%d/inflight=12288", groups), func(b *testing.B) {
			c := newSteppedCluster(b, groups)
			var count tally
			pendings := make([]engine.Pending, 12288)
			for i := range pendings {
				pendings[i].Init(&count)
			}
			command := make([]byte, 16)
			b.ReportAllocs()
			for b.Loop() {
				for i := range pendings {
					if err := c.groups[i%groups].ProposeAsync(command, &pendings[i]); err != nil {
						b.Fatal(err)
					}
				}
				c.settle()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(count.done), "ns/write")
		})
	}
}
