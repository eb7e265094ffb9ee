package engine_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/transport"
	"multiraft/wire"
)

// completions counts how often each proposal was notified.
type completions struct{ done, twice atomic.Int64 }

func (c *completions) ProposalsDone(done []*engine.Pending) {
	for _, p := range done {
		if p.Tag++; p.Tag > 1 {
			c.twice.Add(1)
		}
	}
	c.done.Add(int64(len(done)))
}

// Goal: E3, a store that closes under load completes everything that it took,
// once, and gives all budgets back. Method: proposers and readers hurry a store
// until it refuses them, while it is closed at some moment.
func TestCloseUnderLoadCompletesEverything(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 6
	}
	for round := range rounds {
		store, err := engine.Open(engine.Config{
			Cluster: 7, ID: 1, Dir: filepath.Join(t.TempDir(), "store"), SegmentBytes: 4 << 20,
			Transport:    transport.NewNetwork(transport.NetworkConfig{Cluster: 7}).Transport(1),
			TickInterval: time.Millisecond, Workers: 1 + round%4, Appliers: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		groups := make([]*engine.Group, []int{1, 30, 300}[round%3])
		for i := range groups {
			groups[i], err = store.StartGroup(t.Context(), engine.GroupConfig{
				ID: wire.GroupID(i + 1), Members: threeMembers[:1], StateMachine: &countingMachine{}})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, g := range groups {
			if err := g.WaitLeader(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var count completions
		var sent, reads, answered atomic.Int64
		var load sync.WaitGroup
		for w := range 2 {
			load.Go(func() {
				for i := w; ; i++ {
					err := groups[i%len(groups)].ProposeAsync(number(i), engine.NewPending(&count))
					switch {
					case err == nil:
						sent.Add(1)
					case !errors.Is(err, engine.ErrBusy):
						return
					}
					runtime.Gosched()
				}
			})
		}
		load.Go(func() {
			for i := 0; ; i++ {
				if groups[i%len(groups)].ReadAsync(nil, func(any, error) { answered.Add(1) }) != nil {
					return
				}
				reads.Add(1)
				runtime.Gosched()
			}
		})
		for sent.Load() < int64(100*(1+round%7)) {
			runtime.Gosched()
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		load.Wait()
		if count.done.Load() != sent.Load() || count.twice.Load() != 0 || answered.Load() != reads.Load() {
			t.Errorf("round %d: %d proposals, %d completed, %d twice; %d reads, %d answered", round,
				sent.Load(), count.done.Load(), count.twice.Load(), reads.Load(), answered.Load())
		}
		checkBudgets(t, store)
	}
}

func checkBudgets(t *testing.T, store *engine.Store) {
	t.Helper()
	inflight, receive, apply, cached, held := store.Budgets()
	if inflight != 0 || receive != 0 || apply != 0 || cached != 0 || held != 0 {
		t.Errorf("store %d: in flight %d, received %d, to apply %d, cached %d, held %d; want nothing",
			store.ID(), inflight, receive, apply, cached, held)
	}
}

// Replicas that stop and start again under load lose nothing and keep nothing.
func TestStopAndStartUnderLoad(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	c := newCluster(t, nil)
	c.startAll(1, 2)
	leader := c.leader(1)
	churned := wire.StoreID(1)
	if leader.Store().ID() == churned {
		churned = 2
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for group := wire.GroupID(1); group <= 2; group++ {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					for id := wire.StoreID(1); id <= 3; id++ {
						if g, ok := c.stores[id].Group(group); ok {
							// Whoever does not lead refuses, and a leader that is
							// stopped loses what is under way: both are expected.
							_, _ = g.Propose(c.ctx(), number(i))
						}
					}
				}
			}
		})
	}
	for range rounds {
		if err := c.stores[churned].StopGroup(c.ctx(), 1); err != nil {
			t.Fatal(err)
		}
		c.start(churned, 1)
	}
	close(stop)
	load.Wait()
	c.propose(1, "last")
	c.propose(2, "last")
	for id := range c.stores {
		for group := wire.GroupID(1); group <= 2; group++ {
			c.until("everything is applied", func() bool {
				list := c.machines[id][group].snapshot()
				return len(list) > 0 && list[len(list)-1] == "last"
			})
		}
	}
	for id, store := range c.stores {
		c.close(id)
		checkBudgets(t, store)
	}
}

// WaitLeader ends with the replica, also when that ends at the same moment.
func TestWaitLeaderEndsWithTheReplica(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	for id := range c.stores {
		if id != 1 {
			c.close(id)
		}
	}
	for group := wire.GroupID(1); group <= 200; group++ {
		g := c.start(1, group)
		waited := make(chan error, 1)
		go func() { waited <- g.WaitLeader(c.ctx()) }()
		if err := c.stores[1].StopGroup(c.ctx(), group); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; !errors.Is(err, engine.ErrGroupStopped) {
			t.Fatalf("group %d: %v, want ErrGroupStopped", group, err)
		}
	}
}

// One state machine that stands still holds up its own group and the budget of
// appliers, but the list of groups that wait for it stays short.
func TestHeldGroupsAreListedOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(cfg *engine.Config) {
		cfg.MaxApplyBytes = 1
		cfg.Appliers = 2
	})
	var ids []wire.GroupID
	for id := wire.GroupID(1); id <= 20; id++ {
		ids = append(ids, id)
	}
	c.startAll(ids...)
	for _, id := range ids {
		c.propose(id, "x")
	}
	for _, id := range ids {
		c.converge(id, 1)
	}
	release := make(chan struct{})
	for id := range c.stores {
		machine := c.machines[id][1]
		machine.mu.Lock()
		machine.apply = func([]byte) error { <-release; return nil }
		machine.mu.Unlock()
	}
	var count completions
	for range 3 {
		for _, id := range ids {
			if err := c.leader(id).ProposeAsync([]byte("y"), engine.NewPending(&count)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Heartbeats give every group many turns meanwhile.
	before := c.stores[1].Metrics().WireFrames
	c.until("many turns", func() bool { return c.stores[1].Metrics().WireFrames > before+200 })
	for id, store := range c.stores {
		if _, _, _, _, held := store.Budgets(); held > len(ids) {
			t.Errorf("store %d lists %d held groups of %d", id, held, len(ids))
		}
	}
	close(release)
	c.until("everything completes", func() bool { return count.done.Load() == int64(3*len(ids)) })
}

func TestCallsWithoutANotifierAreRefused(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll(1)
	c.propose(1, "x")
	leader := c.leader(1)
	if err := leader.ProposeAsync([]byte("y"), &engine.Pending{}); !errors.Is(err, engine.ErrNoNotifier) {
		t.Errorf("proposal: %v", err)
	}
	if err := leader.ReadAsync(nil, nil); !errors.Is(err, engine.ErrNoNotifier) {
		t.Errorf("read: %v", err)
	}
	var b engine.Batch
	b.Add(nil, []byte("z"))
	if err := leader.Store().ProposeBatch(&b); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(c.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := b.Err(); !errors.Is(err, engine.ErrUnknownGroup) {
		t.Errorf("batch for no group: %v", err)
	}
	c.propose(1, "still alive")
}

func TestBatchOnAClosedStoreSaysSo(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll(1)
	leader := c.leader(1)
	store := leader.Store()
	c.close(store.ID())
	var b engine.Batch
	b.Add(leader, []byte("x"))
	if err := store.ProposeBatch(&b); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("propose: %v", err)
	}
	if err := b.Wait(context.Background()); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("wait: %v", err)
	}
}

// Two calls for one group do not start it twice.
func TestConcurrentStartsOfOneGroup(t *testing.T) {
	c := newCluster(t, nil)
	for id := wire.GroupID(1); id <= 20; id++ {
		var started, refused atomic.Int64
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				_, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{ID: id, Members: threeMembers, StateMachine: &countingMachine{}})
				switch {
				case err == nil:
					started.Add(1)
				case errors.Is(err, engine.ErrGroupExists):
					refused.Add(1)
				}
			})
		}
		calls.Wait()
		if started.Load() != 1 || refused.Load() != 3 {
			t.Fatalf("group %d: %d started, %d refused", id, started.Load(), refused.Load())
		}
	}
}
