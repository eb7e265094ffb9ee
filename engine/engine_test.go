package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/raftlog"
	"multiraft/scheduler"
	"multiraft/transport"
	"multiraft/wire"
)

func TestProposeReachesAllReplicas(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll(1, 2, 3)
	for group := wire.GroupID(1); group <= 3; group++ {
		for i := range 10 {
			result := c.propose(group, fmt.Sprintf("%d/%d", group, i))
			if result.Value != uint64(i+1) {
				t.Fatalf("group %d: result %d, want %d", group, result.Value, i+1)
			}
		}
	}
	for group := wire.GroupID(1); group <= 3; group++ {
		got := c.converge(group, 10)
		for i, command := range got {
			if want := fmt.Sprintf("%d/%d", group, i); command != want {
				t.Fatalf("group %d: command %d is %q, want %q", group, i, command, want)
			}
		}
	}
}

func TestInitialLeadersAreSpreadEvenly(t *testing.T) {
	c := newCluster(t, nil)
	for group := wire.GroupID(1); group <= 30; group++ {
		c.startAll(group)
	}
	for group := wire.GroupID(1); group <= 30; group++ {
		c.leader(group)
	}
	for id, store := range c.stores {
		if got := store.Metrics().Leading; got != 10 {
			t.Errorf("store %d leads %d groups, want 10", id, got)
		}
	}
}

func TestRestartReplaysTheLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.startAll(1)
	for i := range 100 {
		c.propose(1, fmt.Sprint(i))
	}
	c.converge(1, 100)
	for id := wire.StoreID(1); id <= 3; id++ {
		c.close(id)
	}
	for id := wire.StoreID(1); id <= 3; id++ {
		stored, err := c.open(id).Stored()
		if err != nil {
			t.Fatal(err)
		}
		if len(stored) != 1 || stored[0].ID != 1 || fmt.Sprint(stored[0].Members) != "[{1 1 1} {2 2 1} {3 3 1}]" {
			t.Fatalf("store %d holds %v, want group 1 with three voters", id, stored)
		}
	}
	c.startAll(1)
	c.propose(1, "after")
	got := c.converge(1, 101)
	if len(got) != 101 || got[100] != "after" || got[99] != "99" {
		t.Fatalf("after the restart %d commands, ending in %q", len(got), got[len(got)-1])
	}
}

// A follower that is away while a million entries are written reads them back
// from the leader's log; next to nothing of them is in memory.
func TestFollowerCatchesUpFromTheLog(t *testing.T) {
	t.Parallel()
	writes := 1_000_000
	if testing.Short() {
		writes = 50_000
	}
	c := newCluster(t, func(cfg *engine.Config) { cfg.CacheBytes = 1 << 20 })
	machines := map[wire.StoreID]*digestMachine{}
	start := func(id wire.StoreID) *engine.Group {
		machines[id] = &digestMachine{}
		g, err := c.stores[id].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers, StateMachine: machines[id]})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	for id := range c.stores {
		start(id)
	}
	leader := c.leader(1)
	slow := wire.StoreID(1)
	if leader.Store().ID() == slow {
		slow = 2
	}
	c.close(slow)
	var b engine.Batch
	command := make([]byte, 16)
	for written := 0; written < writes; written += b.Len() {
		b.Reset()
		for range 10_000 {
			b.Add(leader, command)
		}
		if err := leader.Store().ProposeBatch(&b); err != nil {
			t.Fatal(err)
		}
		if err := b.Wait(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := b.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if cached := leader.Store().Metrics().CachedBytes; cached > 4<<20 {
		t.Errorf("%d bytes of entries stayed in memory", cached)
	}
	c.open(slow)
	start(slow)
	c.until("the follower has caught up", func() bool {
		count, digest := machines[slow].state()
		wantCount, wantDigest := machines[leader.Store().ID()].state()
		return count == uint64(writes) && count == wantCount && digest == wantDigest
	})
}

// An append above MaxReceiveBytes is taken when nothing else waits; a follower
// that dropped it every time would never catch up.
func TestAppendAboveTheReceiveBudgetArrives(t *testing.T) {
	c := newCluster(t, func(cfg *engine.Config) { cfg.MaxReceiveBytes = 100 })
	c.startAll(1)
	for i := range 5 {
		c.propose(1, fmt.Sprint(i, strings.Repeat("x", 1000)))
	}
	c.converge(1, 5)
}

// A core that holds committed entries back until earlier ones are applied hears
// of that, also in a group of one member, which has no ticks.
func TestHeldCommittedEntriesAreApplied(t *testing.T) {
	c := newCluster(t, func(cfg *engine.Config) { cfg.Tuning.MaxCommittedBytes = 1 })
	g, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{
		ID: 1, Members: threeMembers[:1], StateMachine: &digestMachine{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.WaitLeader(c.ctx()); err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		var b engine.Batch
		for i := range 100 {
			b.Add(g, number(round*100+i))
		}
		if err := c.stores[1].ProposeBatch(&b); err != nil {
			t.Fatal(err)
		}
		if err := b.Wait(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := b.Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// digestMachine counts commands and chains their checksums.
type digestMachine struct {
	mu            sync.Mutex
	count, digest uint64
}

func (m *digestMachine) Apply(entries []engine.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range entries {
		m.count++
		m.digest = m.digest*0x100000001b3 ^ xxhash.Sum64(entries[i].Command) ^ uint64(entries[i].Index)
	}
	return nil
}

func (m *digestMachine) Query(any) (any, error) { count, _ := m.state(); return count, nil }

func (m *digestMachine) state() (count, digest uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count, m.digest
}

func TestReadsAreLinearizableOnEveryStore(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll(1)
	for i := range 20 {
		c.propose(1, fmt.Sprint(i))
		for id := range c.stores {
			value, err := c.group(id, 1).Read(c.ctx(), nil)
			if err != nil {
				t.Fatalf("read on store %d: %v", id, err)
			}
			if got := len(value.([]string)); got != i+1 {
				t.Fatalf("read on store %d after %d writes sees %d", id, i+1, got)
			}
		}
	}
	done := make(chan int, 1)
	if err := c.leader(1).ReadAsync(nil, func(value any, err error) { done <- len(value.([]string)) }); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got != 20 {
		t.Fatalf("asynchronous read sees %d commands, want 20", got)
	}
}

// A read that comes before there is a leader, or while one is being elected,
// waits for it; without a quorum it ends.
func TestReadsWaitForALeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(cfg *engine.Config) { cfg.Tuning.ElectionTicks = 10 })
	c.startAll(1)
	for id := range c.stores {
		if _, err := c.group(id, 1).Read(c.ctx(), nil); err != nil {
			t.Fatalf("read on store %d before the first election: %v", id, err)
		}
	}
	c.propose(1, "x")
	c.close(c.leader(1).Store().ID())
	for id := range c.stores {
		value, err := c.group(id, 1).Read(c.ctx(), nil)
		if err != nil {
			t.Fatalf("read on store %d after the leader was lost: %v", id, err)
		}
		if got := len(value.([]string)); got != 1 {
			t.Fatalf("read on store %d sees %d commands, want 1", id, got)
		}
	}
	c.close(c.leader(1).Store().ID())
	for id := range c.stores {
		if _, err := c.group(id, 1).Read(c.ctx(), nil); !errors.Is(err, engine.ErrNoLeader) {
			t.Fatalf("read without a quorum: %v, want ErrNoLeader", err)
		}
	}
}

func TestLeaderLossElectsAnotherAndLosesNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.startAll(1)
	for i := range 50 {
		c.propose(1, fmt.Sprint(i))
	}
	old := c.leader(1).Store().ID()
	c.close(old)
	c.propose(1, "after")
	c.open(old)
	c.start(old, 1)
	got := c.converge(1, 51)
	for i := range 50 {
		if got[i] != fmt.Sprint(i) {
			t.Fatalf("command %d is %q", i, got[i])
		}
	}
}

func TestNotLeaderNamesTheLeader(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll(1)
	c.propose(1, "x")
	leader := c.leader(1).Store().ID()
	for id := range c.stores {
		if id == leader {
			continue
		}
		c.until("followers know the leader", func() bool { return c.group(id, 1).Leader().Store == leader })
		_, err := c.group(id, 1).Propose(c.ctx(), []byte("y"))
		var notLeader *engine.NotLeaderError
		if !errors.As(err, &notLeader) || notLeader.Store != leader || notLeader.Group != 1 {
			t.Fatalf("propose on store %d: %v, want NotLeaderError with store %d", id, err, leader)
		}
	}
}

func TestProposeErrors(t *testing.T) {
	c := newCluster(t, func(cfg *engine.Config) { cfg.MaxCommandBytes = 100 })
	c.startAll(1)
	c.propose(1, "x")
	leader := c.leader(1)

	var tooLarge *engine.CommandTooLargeError
	if _, err := leader.Propose(c.ctx(), make([]byte, 101)); !errors.As(err, &tooLarge) || tooLarge.Limit != 100 || tooLarge.Bytes != 101 {
		t.Errorf("101 bytes: %v, want CommandTooLargeError", err)
	}
	if _, err := leader.Propose(c.ctx(), make([]byte, 100)); err != nil {
		t.Errorf("100 bytes: %v", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := leader.Propose(cancelled, []byte("y")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled context: %v", err)
	}
	if _, err := leader.Read(cancelled, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("read with a cancelled context: %v", err)
	}
	if err := leader.Store().StopGroup(c.ctx(), 99); !errors.Is(err, engine.ErrUnknownGroup) {
		t.Errorf("stop of an unknown group: %v", err)
	}
	if _, err := leader.Store().StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers, StateMachine: &ledger{}}); !errors.Is(err, engine.ErrGroupExists) {
		t.Errorf("second start: %v", err)
	}
	store := leader.Store()
	c.close(store.ID())
	if _, err := leader.Propose(c.ctx(), []byte("z")); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("closed store: %v", err)
	}
	if _, err := leader.Read(c.ctx(), nil); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("read on a closed store: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestBudgetsRefuseAtOnce(t *testing.T) {
	c := newCluster(t, func(cfg *engine.Config) { cfg.MaxGroupInflightBytes, cfg.MaxCommandBytes = 1000, 100 })
	c.startAll(1, 2)
	c.propose(1, "x")
	c.propose(2, "x")
	// Without followers nothing completes, so the budget fills up.
	leader := c.leader(1)
	for id := range c.stores {
		if id != leader.Store().ID() {
			c.close(id)
		}
	}
	done := make(notifications, 1000)
	accepted := 0
	var err error
	for err == nil {
		if err = leader.ProposeAsync(make([]byte, 96), engine.NewPending(done)); err == nil {
			accepted++
		}
	}
	if !errors.Is(err, engine.ErrBusy) || accepted != 10 {
		t.Fatalf("%d proposals of 100 bytes were accepted and then: %v; want 10 and ErrBusy", accepted, err)
	}
	c.close(leader.Store().ID())
	for range accepted {
		p := <-done
		if _, err := p.Result(); err == nil {
			t.Fatal("a proposal without a quorum was acknowledged")
		}
	}
}

// notifications is a Notifier that passes on each pending object.
type notifications chan *engine.Pending

func (n notifications) ProposalsDone(done []*engine.Pending) {
	for _, p := range done {
		n <- p
	}
}

func TestStateMachineFaultStopsOnlyItsGroup(t *testing.T) {
	t.Parallel()
	poison := func(command []byte) error {
		switch string(command) {
		case "panic":
			panic("poisoned")
		case "error":
			return errors.New("refused by the machine")
		}
		return nil
	}
	for _, command := range []string{"panic", "error"} {
		t.Run(command, func(t *testing.T) {
			c := newCluster(t, nil)
			c.startAll(1, 2)
			c.propose(1, "fine")
			c.converge(1, 1)
			for id := range c.stores {
				machine := c.machines[id][1]
				machine.mu.Lock()
				machine.apply = poison
				machine.mu.Unlock()
			}
			_, err := c.leader(1).Propose(c.ctx(), []byte(command))
			var failed *engine.GroupFailedError
			if !errors.As(err, &failed) || failed.Group != 1 {
				t.Fatalf("propose: %v, want GroupFailedError", err)
			}
			// The next leader commits the command and stops too. The third replica
			// may be alone by then, with nothing to tell it that the entry is committed.
			c.until("at least two replicas stop", func() bool {
				stopped := 0
				for id := range c.stores {
					if err := c.group(id, 1).Status().Err; errors.As(err, &failed) {
						stopped++
					}
				}
				return stopped >= 2
			})
			var panicked *engine.PanicError
			if errors.As(err, &panicked) != (command == "panic") {
				t.Errorf("reason is %v", err)
			}
			c.propose(2, "other groups go on")
			c.converge(2, 1)
		})
	}
}

func TestStopAndStartGroup(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.startAll(1)
	for i := range 10 {
		c.propose(1, fmt.Sprint(i))
	}
	stopped := c.group(2, 1)
	if err := c.stores[2].StopGroup(c.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.stores[2].Group(1); ok {
		t.Error("the stopped group is still listed")
	}
	if _, err := stopped.Propose(c.ctx(), []byte("x")); !errors.Is(err, engine.ErrGroupStopped) {
		t.Errorf("propose on a stopped group: %v", err)
	}
	c.propose(1, "meanwhile")
	c.start(2, 1)
	c.converge(1, 11)
}

func TestOpenRefusesWrongConfigurations(t *testing.T) {
	_, err := engine.Open(engine.Config{Workers: -1, Tuning: group.Tuning{ElectionTicks: 1, HeartbeatTicks: 2}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"Cluster", "ID", "Dir", "Listen", "Workers", "ElectionTicks"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("error does not name %s: %v", field, err)
		}
	}
	var fault *engine.ConfigError
	if !errors.As(err, &fault) {
		t.Errorf("%T is no ConfigError", err)
	}
}

func TestStartGroupRefusesWrongConfigurations(t *testing.T) {
	c := newCluster(t, func(cfg *engine.Config) { cfg.MaxGroups = 2 })
	c.startAll(1)
	for name, cfg := range map[string]engine.GroupConfig{
		"zero id":        {Members: threeMembers, StateMachine: &ledger{}},
		"no machine":     {ID: 5, Members: threeMembers},
		"no members":     {ID: 5, StateMachine: &ledger{}},
		"not here":       {ID: 5, Members: []engine.Member{{Replica: 9, Store: 9}}, StateMachine: &ledger{}},
		"store twice":    {ID: 5, Members: []engine.Member{{Replica: 1, Store: 1}, {Replica: 2, Store: 1}}, StateMachine: &ledger{}},
		"replica twice":  {ID: 5, Members: []engine.Member{{Replica: 1, Store: 1}, {Replica: 1, Store: 2}}, StateMachine: &ledger{}},
		"too many":       {ID: 5, Members: manyMembers(8), StateMachine: &ledger{}},
		"zero replica":   {ID: 5, Members: []engine.Member{{Replica: 0, Store: 1}}, StateMachine: &ledger{}},
		"unknown member": {ID: 5, Members: []engine.Member{{Replica: 1, Store: 0}}, StateMachine: &ledger{}},
	} {
		_, err := c.stores[1].StartGroup(c.ctx(), cfg)
		var fault *engine.ConfigError
		if !errors.As(err, &fault) {
			t.Errorf("%s: %v, want a ConfigError", name, err)
		}
	}
	c.start(1, 2)
	if _, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{ID: 3, Members: threeMembers, StateMachine: &ledger{}}); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("third group of two: %v, want ErrBusy", err)
	}
	if err := c.stores[1].StopGroup(c.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	other := []engine.Member{{Replica: 1, Store: 1}, {Replica: 2, Store: 2}}
	if _, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: other, StateMachine: &ledger{}}); err == nil {
		t.Error("members that differ from the stored ones were accepted")
	}
}

func manyMembers(n int) []engine.Member {
	var list []engine.Member
	for i := range n {
		list = append(list, engine.Member{Replica: wire.ReplicaID(i + 1), Store: wire.StoreID(i + 1)})
	}
	return list
}

func TestDirectoryOfAnotherStoreIsRefused(t *testing.T) {
	c := newCluster(t, nil)
	open := c.config(1)
	if _, err := engine.Open(open); !errors.Is(err, raftlog.ErrLocked) {
		t.Errorf("second open of a directory: %v, want ErrLocked", err)
	}
	c.close(1)
	for name, change := range map[string]func(*engine.Config){
		"store":   func(cfg *engine.Config) { cfg.ID = 4 },
		"cluster": func(cfg *engine.Config) { cfg.Cluster = 8 },
	} {
		cfg := c.config(1)
		cfg.Transport = transport.NewNetwork(transport.NetworkConfig{Cluster: 8}).Transport(4)
		change(&cfg)
		_, err := engine.Open(cfg)
		var identity *raftlog.IdentityError
		if !errors.As(err, &identity) {
			t.Errorf("directory of another %s: %v, want IdentityError", name, err)
		}
	}
}

// tapped is a transport whose handler a test calls as well.
type tapped struct {
	transport.Transport
	handler transport.Handler
}

func (t *tapped) Start(h transport.Handler) error {
	t.handler = h
	return t.Transport.Start(h)
}

// What a peer can make a store log is bounded, however many bad frames it sends.
func TestGarbageFramesAreDropped(t *testing.T) {
	logs, observed := observer.New(zap.WarnLevel)
	tap := &tapped{}
	c := newCluster(t, func(cfg *engine.Config) {
		if cfg.ID == 1 {
			tap.Transport = cfg.Transport
			cfg.Transport, cfg.Logger = tap, zap.New(logs)
		}
	})
	c.startAll(1)
	c.propose(1, "x")
	for _, payload := range [][]byte{nil, {0}, {255, 255, 255, 255}, []byte(strings.Repeat("garbage", 100)), make([]byte, 4096)} {
		tap.handler.HandleFrame(2, payload)
	}
	const more = 10_000
	before, began := c.stores[1].Metrics().BadFrames, time.Now()
	for range more {
		tap.handler.HandleFrame(2, []byte{255, 255, 255, 255})
	}
	if got := c.stores[1].Metrics().BadFrames - before; got != more {
		t.Errorf("%d bad frames were counted, want %d", got, more)
	}
	lines := observed.FilterMessage("dropped the rest of a bad frame").Len()
	if most := 2 + int(time.Since(began)/time.Second); lines < 1 || lines > most {
		t.Errorf("%d lines about bad frames, want 1 to %d", lines, most)
	}
	c.propose(1, "y")
	c.converge(1, 2)
}

// What the parts of a store call is not for embedders.
func TestStoreShowsNoSeams(t *testing.T) {
	var store any = new(engine.Store)
	if _, ok := store.(transport.Handler); ok {
		t.Error("a Store can be taken for a transport.Handler")
	}
	if _, ok := store.(raftlog.Sink); ok {
		t.Error("a Store can be taken for a raftlog.Sink")
	}
	if _, ok := store.(scheduler.Processor); ok {
		t.Error("a Store can be taken for a scheduler.Processor")
	}
}

func TestKeyGroupIsEven(t *testing.T) {
	const keys, groups = 100_000, 48
	var counts [groups]int
	for i := range keys {
		counts[engine.KeyGroup(number(i), groups)]++
	}
	for g, n := range counts {
		if n < keys/groups*8/10 || n > keys/groups*12/10 {
			t.Errorf("group %d got %d of %d keys", g, n, keys)
		}
	}
}
