package engine_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

// leases switches lease reads on.
func leases(cfg *engine.Config) { cfg.Tuning.LeaseReads = true }

func leaseCluster(t *testing.T, groups int) *steppedCluster {
	c := newSteppedClusterWith(t, groups, leases)
	for range 10 {
		c.tick() // heartbeats earn the lease
	}
	return c
}

// readNow reads and steps until there is an answer, without time passing.
func (c *steppedCluster) readNow(g *engine.Group) (value any) {
	c.t.Helper()
	done := false
	if err := g.ReadAsync(nil, func(v any, err error) {
		value, done = v, true
		if err != nil {
			c.t.Error(err)
		}
	}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
	if !done {
		c.t.Fatal("no answer")
	}
	return value
}

// A leader with a lease reads without a message; with the ticks of a quiet minute
// it keeps its lease.
func TestLeaseReadsSendNothing(t *testing.T) {
	c := leaseCluster(t, 3)
	g := c.groups[0]
	for range 1200 {
		c.tick()
		before := c.frames()
		c.readNow(g)
		if sent := c.frames() - before; sent != 0 {
			t.Fatalf("a read by lease sent %d frames", sent)
		}
	}
	if m := g.Store().Metrics(); m.LeaseReads != 1200 || m.Reads != 1200 {
		t.Errorf("%d of %d reads by lease", m.LeaseReads, m.Reads)
	}
}

// A leader that stood still asks a majority before it serves a read, and earns its
// lease anew. Followers that stood still do not campaign.
func TestLeaseEndsWithAPause(t *testing.T) {
	c := leaseCluster(t, 3)
	g := c.groups[0]
	elections := func() (n int64) {
		for _, s := range c.stores {
			n += s.Metrics().Elections
		}
		return n
	}
	before := elections()
	for _, d := range c.steps {
		d.Pause(time.Hour)
	}
	c.readNow(g)
	if n := g.Store().Metrics().LeaseReads; n != 0 {
		t.Fatalf("%d reads by a lease of an hour ago", n)
	}
	for range 10 {
		c.tick()
	}
	c.readNow(g)
	if n := g.Store().Metrics().LeaseReads; n != 1 {
		t.Error("the lease was not earned anew")
	}
	if n := elections(); n != before {
		t.Errorf("%d elections after a pause of all", n-before)
	}
}

// A leader that stood still while another was elected serves nothing old.
func TestPausedLeaderServesNothingOld(t *testing.T) {
	c := leaseCluster(t, 1)
	old := c.groups[0]
	at := 0
	for i, s := range c.stores {
		if s == old.Store() {
			at = i
		}
	}
	// The others live on without it.
	var leader *engine.Group
	c.relay.loses = func(from, to wire.StoreID, _ []byte) bool { return from == old.Store().ID() || to == old.Store().ID() }
	ticks := 0
	for ; leader == nil && ticks < 1000; ticks++ {
		for i, d := range c.steps {
			if i != at {
				d.Tick()
			}
		}
		c.settleBut(at)
		for i, s := range c.stores {
			if g, ok := s.Group(1); ok && i != at && g.IsLeader() {
				leader = g
			}
		}
	}
	if leader == nil {
		t.Fatal("nobody was elected")
	}
	var count tally
	if err := leader.ProposeAsync(number(1), engine.NewPending(&count)); err != nil {
		t.Fatal(err)
	}
	c.settleBut(at)
	if count.done != 1 || count.failed != 0 {
		t.Fatal("the new leader does not write")
	}
	c.relay.loses = nil
	c.steps[at].Pause(time.Duration(ticks) * 50 * time.Millisecond)
	var value any
	if err := old.ReadAsync(nil, func(v any, err error) { value = v }); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.steps[at].Worker(0)
		c.steps[at].Applier(0)
	}
	if value != nil {
		t.Fatalf("read %v by a lease that had ended", value)
	}
	for range 100 {
		c.tick()
	}
	if value != uint64(1) {
		t.Errorf("read %v, want 1", value)
	}
}

// settleBut takes steps of all stores but one.
func (c *steppedCluster) settleBut(at int) {
	for again := true; again; {
		again = false
		for i, d := range c.steps {
			if i == at {
				continue
			}
			again = d.Worker(0) || again
			again = d.Log() || again
			again = d.Applier(0) || again
			again = c.relay.stores[c.stores[i].ID()].deliver() || again
		}
	}
}

// slowMachine lets time pass while it is queried.
type slowMachine struct {
	countingMachine
	pause   func()
	queries int
}

func (m *slowMachine) Query(q any) (any, error) {
	m.queries++
	m.pause()
	return m.countingMachine.Query(q)
}

// A query that takes longer than the lease runs again, once a majority has
// confirmed the leader.
func TestLeaseIsCheckedAfterTheQuery(t *testing.T) {
	c := leaseCluster(t, 1)
	var group *engine.Group
	machines := map[*engine.Store]*slowMachine{}
	for i, s := range c.stores {
		m := &slowMachine{pause: func() { c.steps[i].Pause(time.Minute) }}
		machines[s] = m
		g, err := s.StartGroup(t.Context(), engine.GroupConfig{ID: 10, Members: threeMembers, StateMachine: m})
		if err != nil {
			t.Fatal(err)
		}
		if i == 10%3 {
			group = g
		}
	}
	for range 10 {
		c.tick()
	}
	before := c.frames()
	c.readNow(group)
	if m := machines[group.Store()]; m.queries != 2 {
		t.Errorf("%d queries, want one by lease and one by a round", m.queries)
	}
	if c.frames() == before {
		t.Error("no majority was asked")
	}
}

// testClock is a Clock that tests move.
type testClock struct {
	mu  sync.Mutex
	now time.Duration
}

func (c *testClock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) move(d time.Duration) {
	c.mu.Lock()
	c.now += d
	c.mu.Unlock()
}

// A clock that goes back, or that falls behind the ticker, ends the leases that were
// measured with it. They are earned anew with the time that it tells from then on.
func TestLeaseEndsWithAWrongClock(t *testing.T) {
	const interval = 50 * time.Millisecond
	for name, wrong := range map[string]func(clock *testClock, step func(time.Duration)){
		"back":  func(clock *testClock, step func(time.Duration)) { clock.move(-time.Second) },
		"still": func(clock *testClock, step func(time.Duration)) { step(0) },
	} {
		clocks := map[wire.StoreID]*testClock{}
		c := newSteppedClusterWith(t, 1, func(cfg *engine.Config) {
			clocks[cfg.ID] = &testClock{now: time.Hour}
			cfg.Clock, cfg.Tuning.LeaseReads = clocks[cfg.ID], true
		}, func() {
			for _, clock := range clocks {
				clock.move(interval)
			}
		})
		g := c.groups[0]
		own := clocks[g.Store().ID()]
		by := func() int64 { return g.Store().Metrics().LeaseReads }
		c.readNow(g)
		if by() != 1 {
			t.Fatalf("%s: no lease to begin with", name)
		}
		// The others do not hear it from here on, so nothing earns a new one.
		c.relay.loses = func(from, _ wire.StoreID, _ []byte) bool { return from == g.Store().ID() }
		for range 3 {
			wrong(own, func(d time.Duration) {
				for range 10 {
					own.move(d)
					c.stepOf(g).Tick()
					c.stepOf(g).Worker(0)
				}
			})
		}
		if err := g.ReadAsync(nil, func(any, error) {}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if by() != 1 {
			t.Errorf("%s: read by a lease that was measured with a wrong clock", name)
		}
		c.relay.loses = nil
		for range 200 {
			c.tick()
		}
		before := by()
		for _, s := range c.stores {
			if g, ok := s.Group(1); ok && g.IsLeader() {
				before, by = s.Metrics().LeaseReads, func() int64 { return s.Metrics().LeaseReads }
				c.readNow(g)
			}
		}
		if by() != before+1 {
			t.Errorf("%s: the lease is not earned anew", name)
		}
	}
}

// Reads of all modes, on all stores, while leaders change: what Read returns holds
// every write that was acknowledged before it began, also by lease; what ReadStale
// and ReadLocal return holds every write acknowledged longer ago than they say.
func TestReadsHoldWhatTheyPromise(t *testing.T) {
	for _, byLease := range []bool{false, true} {
		c := newCluster(t, func(cfg *engine.Config) { cfg.Tuning.LeaseReads = byLease })
		c.startAll(1)
		c.leader(1)
		var acked atomic.Int64
		var mu sync.Mutex
		var history []time.Time // when write i was known to be acknowledged
		ackedBefore := func(at time.Time) (n int) {
			mu.Lock()
			defer mu.Unlock()
			for n < len(history) && history[n].Before(at) {
				n++
			}
			return n
		}
		stop := make(chan struct{})
		stopped := func() bool {
			select {
			case <-stop:
				return true
			default:
				return false
			}
		}
		var reads [4]atomic.Int64
		var wait sync.WaitGroup
		for id := range c.stores {
			g := c.group(id, 1)
			wait.Add(1)
			go func() {
				defer wait.Done()
				for !stopped() {
					for mode := range reads {
						least, start := int(acked.Load()), time.Now()
						var value any
						var err error
						switch mode {
						case 0:
							value, err = g.Read(c.ctx(), nil)
						case 1:
							value, _, err = g.ReadStale(c.ctx(), nil, 0)
						case 2:
							var age time.Duration
							value, age, err = g.ReadStale(c.ctx(), nil, 20*time.Millisecond)
							least = ackedBefore(start.Add(-age))
						case 3:
							var s engine.Staleness
							value, s, err = g.ReadLocal(c.ctx(), nil)
							if least = 0; s.Known {
								least = ackedBefore(start.Add(-s.Age))
							}
						}
						if errors.Is(err, engine.ErrNoLeader) {
							continue
						}
						if err != nil {
							t.Error(err)
							return
						}
						if got := len(value.([]string)); got < least {
							t.Errorf("byLease=%v mode %d on store %d: read %d writes, %d were acknowledged", byLease, mode, id, got, least)
							return
						}
						reads[mode].Add(1)
					}
				}
			}()
		}
		for round := range 3 {
			for range 20 {
				c.propose(1, "write")
				mu.Lock()
				history = append(history, time.Now())
				mu.Unlock()
				acked.Add(1)
			}
			leader := c.leader(1)
			if err := leader.TransferLeader(c.ctx(), wire.ReplicaID(round%3+1)); err != nil && !errors.Is(err, engine.ErrTransferFailed) && !errors.Is(err, engine.ErrNoLeader) {
				t.Fatal(err)
			}
		}
		close(stop)
		wait.Wait()
		for mode := range reads {
			if reads[mode].Load() < 10 {
				t.Errorf("byLease=%v: only %d reads of mode %d", byLease, reads[mode].Load(), mode)
			}
		}
		for id := range c.stores {
			c.close(id)
		}
	}
}

// A stale read is served without a round while the state is young enough, and says
// how old it may be.
func TestStaleReads(t *testing.T) {
	c := newSteppedCluster(t, 1)
	g := c.groups[0]
	const tick = 50 * time.Millisecond
	read := func(maxAge time.Duration) (age time.Duration, frames int64) {
		t.Helper()
		before := c.frames()
		done := false
		if err := g.ReadStaleAsync(nil, maxAge, func(_ any, a time.Duration, err error) {
			age, done = a, true
			if err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if !done {
			t.Fatal("no answer")
		}
		return age, c.frames() - before
	}
	local := func() (s engine.Staleness) {
		if err := g.ReadLocalAsync(nil, func(_ any, got engine.Staleness, err error) {
			s = got
			if err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		return s
	}
	if s := local(); s.Known || s.Applied == 0 || s.Committed != s.Applied {
		t.Errorf("before any round: %+v", s)
	}
	if age, frames := read(time.Hour); age != 0 || frames == 0 {
		t.Errorf("nothing was known: age %v, %d frames", age, frames)
	}
	for range 4 {
		c.tick()
	}
	if age, frames := read(4 * tick); age != 4*tick || frames != 0 {
		t.Errorf("young enough: age %v, %d frames", age, frames)
	}
	if s := local(); !s.Known || s.Age != 4*tick {
		t.Errorf("after 4 ticks: %+v", s)
	}
	if age, frames := read(4*tick - 1); age != 0 || frames == 0 {
		t.Errorf("too old: age %v, %d frames", age, frames)
	}
	c.tick()
	if age, frames := read(0); age != 0 || frames == 0 {
		t.Errorf("not stale at all: age %v, %d frames", age, frames)
	}
	c.steps[1].Pause(time.Hour) // the store of group 1
	if s := local(); s.Age < time.Hour {
		t.Errorf("after a pause: %+v", s)
	}
	if err := g.ReadStaleAsync(nil, 0, nil); !errors.Is(err, engine.ErrNoNotifier) {
		t.Errorf("nobody to tell: %v", err)
	}
	if err := g.ReadLocalAsync(nil, nil); !errors.Is(err, engine.ErrNoNotifier) {
		t.Errorf("nobody to tell: %v", err)
	}
}

// The age of a state that was confirmed before the clock went back is not known.
func TestAgeEndsWithAWrongClock(t *testing.T) {
	for _, back := range []time.Duration{0, time.Second} {
		clocks := map[wire.StoreID]*testClock{}
		c := newSteppedClusterWith(t, 1, func(cfg *engine.Config) {
			clocks[cfg.ID] = &testClock{now: time.Hour}
			cfg.Clock = clocks[cfg.ID]
		}, func() {
			for _, clock := range clocks {
				clock.move(50 * time.Millisecond)
			}
		})
		g := c.groups[0]
		age, done := time.Duration(-1), false
		err := g.ReadStaleAsync(nil, 0, func(_ any, a time.Duration, err error) {
			age, done = a, err == nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.stepOf(g).Worker(0) // the round begins
		clocks[g.Store().ID()].move(-back)
		c.settle()
		want := time.Duration(0)
		if back > 0 {
			want = 1<<63 - 1
		}
		if !done || age != want {
			t.Errorf("the clock goes back by %v: answered %t, age %v, want %v", back, done, age, want)
		}
	}
}
