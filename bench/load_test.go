package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

// testLoad returns a load on groups whose leaders are spread over three stores
// that do not exist: everything but proposing works.
func testLoad(groups int, cfg Config) *load {
	cfg = cfg.WithDefaults()
	cfg.Groups = groups
	l := &load{
		cfg: &cfg,
		routes: &routes{
			stores:  3,
			ids:     make([]wire.GroupID, groups),
			handles: make([]*engine.Group, 3*groups),
			leaders: make([]atomic.Uint32, groups),
		},
		schedule:  newSchedule(cfg.Rate),
		sequences: make([]atomic.Uint64, groups),
		stopping:  make(chan struct{}),
		clock:     newClock(),
	}
	for g := range groups {
		l.routes.ids[g] = groupID(g)
		l.routes.leaders[g].Store(uint32(g%3) + 1)
	}
	return l
}

// cycle lets a part do n writes without an engine: choose, stamp, complete.
type cycle struct {
	part    *asyncPart
	ids     []uint32
	pending []*engine.Pending
}

func newCycle(groups, inflight int, cfg Config) *cycle {
	l := testLoad(groups, cfg)
	c := &cycle{part: newAsyncPart(l, 1, inflight, newRecorder(l.cfg))}
	c.part.rec.openWindow()
	for i := range c.part.slots {
		c.pending = append(c.pending, &c.part.slots[i].pending)
	}
	return c
}

// round does one write per slot, completed in batches of the given size.
func (c *cycle) round(tb testing.TB, batch int) {
	p := c.part
	c.ids = p.free.take(c.ids[:0], p.load.stopping)
	if len(c.ids) != len(p.slots) {
		tb.Fatalf("%d free slots of %d", len(c.ids), len(p.slots))
	}
	for i := 0; i < len(c.ids); i += stampEvery {
		now := p.load.clock.now()
		for _, id := range c.ids[i:min(i+stampEvery, len(c.ids))] {
			if _, ok := p.prepare(id, now); !ok {
				tb.Fatal("no group")
			}
			p.command.with(p.slots[id].sequence)
		}
	}
	for i := 0; i < len(c.pending); i += batch {
		p.ProposalsDone(c.pending[i:min(i+batch, len(c.pending))])
	}
}

func TestAsyncCycleDoesNotAllocate(t *testing.T) {
	for _, verify := range []bool{false, true} {
		c := newCycle(96, 256, Config{Verify: verify})
		if verify {
			for g := range c.part.rec.acked {
				c.part.rec.acked[g].grow(1 << 10)
			}
		}
		c.round(t, 16) // the first round swaps in the second slice of ids
		c.round(t, 16)
		if n := testing.AllocsPerRun(100, func() { c.round(t, 16) }); n != 0 {
			t.Errorf("verify %v: %v allocations per round", verify, n)
		}
	}
}

// A write is counted once, by the recorder of its part, with its own sequence
// number and only on groups led by the part's store.
func TestAsyncCycleAccounts(t *testing.T) {
	c := newCycle(10, 7, Config{Verify: true})
	const rounds = 30
	for range rounds {
		c.round(t, 3)
	}
	rec := c.part.rec
	if rec.ops[opWrite] != rounds*7 || rec.total != rounds*7 || rec.latency[opWrite].TotalCount() != rounds*7 {
		t.Errorf("ops %d, total %d, histogram %d, want %d", rec.ops[opWrite], rec.total, rec.latency[opWrite].TotalCount(), rounds*7)
	}
	sum := 0
	for g, acked := range rec.acked {
		n := acked.count()
		sum += n
		if (n > 0) != (g%3 == 0) {
			t.Errorf("group %d, led by store %d: %d writes from the part of store 1", g, g%3+1, n)
		}
		if uint64(n) != acked.limit() || uint64(n) != c.part.load.sequences[g].Load() {
			t.Errorf("group %d: %d writes, limit %d, next sequence %d", g, n, acked.limit(), c.part.load.sequences[g].Load())
		}
		if g%3 == 0 && (n < rounds*7/4-1 || n > rounds*7/4+1) {
			t.Errorf("group %d: %d of %d writes is not its part", g, n, rounds*7)
		}
	}
	if sum != rounds*7 {
		t.Errorf("%d acknowledged, want %d", sum, rounds*7)
	}
}

func BenchmarkHarness(b *testing.B) {
	for _, groups := range []int{48, 1024, 10_000} {
		for _, verify := range []bool{false, true} {
			for _, batch := range []int{1, 16, 256} {
				b.Run(fmt.Sprintf("groups=%d/verify=%v/batch=%d", groups, verify, batch), func(b *testing.B) {
					const inflight = 4096
					c := newCycle(groups, inflight, Config{Verify: verify})
					b.ReportAllocs()
					for b.Loop() {
						c.round(b, batch)
					}
					b.ReportMetric(float64(b.Elapsed())/float64(b.N)/inflight, "ns/write")
				})
			}
		}
	}
}

func BenchmarkMachine(b *testing.B) {
	for _, verify := range []bool{false, true} {
		b.Run(fmt.Sprintf("verify=%v", verify), func(b *testing.B) {
			m := newMachine(1, verify)
			entries := testEntries(1, make([]uint64, 64)...)
			next := uint64(0)
			c := command{}
			b.ReportAllocs()
			for b.Loop() {
				for i := range entries {
					c.bytes = entries[i].Command
					c.with(next)
					next++
					entries[i].Index = wire.Index(next)
				}
				if err := m.Apply(entries); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/64, "ns/write")
		})
	}
}

func TestRoutes(t *testing.T) {
	r := testLoad(6, Config{}).routes // leaders 1 2 3 1 2 3
	order := func(store uint32, n int) (got []uint32) {
		cursor := uint32(5)
		for range n {
			g, leader, ok := r.next(cursor, store)
			if !ok {
				return got
			}
			if store != anyStore && leader != store {
				t.Fatalf("group %d is led by %d, not %d", g, leader, store)
			}
			got, cursor = append(got, g), g
		}
		return got
	}
	if got := fmt.Sprint(order(2, 4), order(anyStore, 7)); got != "[1 4 1 4] [0 1 2 3 4 5 0]" {
		t.Errorf("round robin: %s", got)
	}
	r.handles[1*3+0] = &engine.Group{} // group 1 has replicas on stores 1 and 2
	r.handles[1*3+1] = &engine.Group{}
	r.moved(1, 2, 1)
	if got := fmt.Sprint(order(2, 2), order(1, 3)); got != "[4 4] [0 1 3]" {
		t.Errorf("after a move: %s", got)
	}
	r.moved(1, 2, 2) // an old refusal changes nothing
	if got := r.leaders[1].Load(); got != 1 {
		t.Errorf("an old refusal moved the group to %d", got)
	}
	for _, to := range []wire.StoreID{0, 3, 1, 99} { // none, no replica there, where it came from, no such store
		r.leaders[1].Store(1)
		r.unknown.Store(0)
		r.moved(1, 1, to)
		if r.leaders[1].Load() != leaderUnknown || r.unknown.Load() != 1 {
			t.Errorf("moved to %d: leader %d, %d unknown", to, r.leaders[1].Load(), r.unknown.Load())
		}
	}
	r.dead(4, 2)
	if got := order(2, 1); got != nil {
		t.Errorf("store 2 leads %v", got)
	}
	if got := fmt.Sprint(order(anyStore, 4)); got != "[0 2 3 5]" {
		t.Errorf("any: %s", got)
	}
}

func TestAlive(t *testing.T) {
	l := testLoad(3, Config{})
	for g := range uint32(3) {
		if !l.alive() {
			t.Fatal("dead too early")
		}
		l.routes.dead(g, g+1)
	}
	if l.alive() {
		t.Error("alive without a group")
	}
}

// What a failed operation leads to.
func TestReroute(t *testing.T) {
	for _, tc := range []struct {
		err  error
		kind failure
		want uint32 // leader of group 0 afterwards
		rest bool
	}{
		{&engine.NotLeaderError{Leader: 2, Store: 2}, failNotLeader, 2, false},
		{&engine.NotLeaderError{}, failNotLeader, leaderUnknown, false},
		{fmt.Errorf("wrapped: %w", engine.ErrLeadershipLost), failLeadershipLost, leaderUnknown, false},
		{engine.ErrProposalDropped, failDropped, leaderUnknown, false},
		{engine.ErrNoLeader, failNoLeader, leaderUnknown, false},
		{engine.ErrBusy, failBusy, 1, true},
		{engine.ErrClosed, failStopped, groupDead, false},
		{&engine.GroupFailedError{Err: errors.New("x")}, failStopped, groupDead, false},
		{&engine.StoreFailedError{Err: errors.New("x")}, failStopped, groupDead, false},
		{context.DeadlineExceeded, failCanceled, 1, false},
		{errors.New("x"), failOther, 1, true},
	} {
		l := testLoad(1, Config{})
		l.routes.handles[1] = &engine.Group{}
		rec := newRecorder(l.cfg)
		kind := rec.failed(tc.err)
		rest := l.reroute(kind, tc.err, 0, 1)
		if got := l.routes.leaders[0].Load(); kind != tc.kind || got != tc.want || rest != tc.rest {
			t.Errorf("%v: kind %v, leader %d, rest %v", tc.err, failureNames[kind], got, rest)
		}
		if rec.errors[tc.kind] != 1 {
			t.Errorf("%v is not counted", tc.err)
		}
	}
}

func TestClassifyOfFailedGroup(t *testing.T) {
	if got := classify(&engine.GroupFailedError{Err: engine.ErrBusy}); got != failStopped {
		t.Errorf("a failed group is %q", failureNames[got])
	}
	if classify(nil) != noFailure {
		t.Error("nil is a failure")
	}
}

func TestSchedule(t *testing.T) {
	s := newSchedule(1000) // one per millisecond
	ms := int64(time.Millisecond)
	if first, n := s.claim(0, 16); first != 0 || n != 1 {
		t.Errorf("at 0: %d from %d", n, first)
	}
	if first, n := s.claim(ms-1, 16); n != 0 || s.at(first) != ms {
		t.Errorf("just before 1 ms: %d from %d", n, first)
	}
	if first, n := s.claim(10*ms, 4); first != 1 || n != 4 {
		t.Errorf("at 10 ms: %d from %d", n, first)
	}
	if got := s.backlog(10 * ms); got != 6 {
		t.Errorf("backlog %d", got)
	}
	if first := s.take(3); first != 5 || s.at(first) != 5*ms {
		t.Errorf("took from %d", first)
	}
	var none *schedule = newSchedule(0)
	if none != nil || none.backlog(1e18) != 0 {
		t.Error("a closed loop has a schedule")
	}
	if k := int64(1e9); math.Abs(float64(newSchedule(3).at(k))/(float64(k)*1e9/3)-1) > 1e-12 {
		t.Error("the schedule drifts")
	}
}

// Claims of many goroutines are disjoint and complete.
func TestScheduleClaimsAreDisjoint(t *testing.T) {
	s := newSchedule(1e6)
	const ops = 20_000
	now := s.at(ops - 1)
	seen := make([]atomic.Int32, ops)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				first, n := s.claim(now, 7)
				if n == 0 {
					return
				}
				for k := first; k < first+int64(n); k++ {
					seen[k].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for k := range seen {
		if seen[k].Load() != 1 {
			t.Fatalf("operation %d was claimed %d times", k, seen[k].Load())
		}
	}
}

func TestMixer(t *testing.T) {
	for _, tc := range []struct {
		cfg       Config
		low, high float64
	}{
		{Config{Workload: WorkloadWrite}, 0, 0},
		{Config{Workload: WorkloadRead}, 1, 1},
		{Config{Workload: WorkloadMixed, ReadRatio: 0.9}, 0.88, 0.92},
		{Config{Workload: WorkloadMixed, ReadRatio: 0.1}, 0.08, 0.12},
	} {
		cfg := tc.cfg.WithDefaults()
		cfg.Seed = 42
		m := newMixer(&cfg, 3)
		reads := 0
		const draws = 10_000
		for range draws {
			if m.next() == opRead {
				reads++
			}
		}
		if share := float64(reads) / draws; share < tc.low || share > tc.high {
			t.Errorf("%s %v: %v reads", cfg.Workload, cfg.ReadRatio, share)
		}
	}
}

func TestFreeSlots(t *testing.T) {
	var f freeSlots
	f.init(4)
	stopping := make(chan struct{})
	ids := f.take(nil, stopping)
	if len(ids) != 4 {
		t.Fatalf("took %v", ids)
	}
	got := make(chan []uint32)
	go func() { got <- f.take(nil, stopping) }()
	f.put(2)
	if second := <-got; len(second) != 1 || second[0] != 2 {
		t.Errorf("took %v", second)
	}
	close(stopping)
	if rest := f.take(nil, stopping); len(rest) != 0 {
		t.Errorf("took %v when stopping", rest)
	}
	done := make(chan struct{})
	go func() { f.waitAll(context.Background()); close(done) }()
	f.put(0, 1)
	select {
	case <-done:
		t.Fatal("waitAll returned with slots missing")
	default:
	}
	f.put(2, 3)
	<-done
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	f.take(nil, nil)
	f.waitAll(ended) // returns though nothing is free
}
