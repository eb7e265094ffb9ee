package engine_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/transport"
	"multiraft/wire"
)

// ledger is a state machine that remembers every command in order.
type ledger struct {
	mu       sync.Mutex // Query and tests look in while Apply runs elsewhere
	commands []string
	apply    func(command []byte) error // may fail or panic, for tests
}

func (l *ledger) Apply(entries []engine.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range entries {
		if l.apply != nil {
			if err := l.apply(entries[i].Command); err != nil {
				return err
			}
		}
		l.commands = append(l.commands, string(entries[i].Command))
		entries[i].Result = engine.Result{Value: uint64(len(l.commands)), Data: entries[i].Command[:0:0]}
	}
	return nil
}

func (l *ledger) Query(query any) (any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if query == "panic" {
		panic("query panics")
	}
	return append([]string(nil), l.commands...), nil
}

func (l *ledger) snapshot() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.commands...)
}

// cluster is three stores that talk through an in-process network.
type cluster struct {
	t        testing.TB
	dir      string
	network  *transport.Network
	change   func(*engine.Config)
	stores   map[wire.StoreID]*engine.Store
	machines map[wire.StoreID]map[wire.GroupID]*ledger
}

func newCluster(t testing.TB, change func(*engine.Config)) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), network: transport.NewNetwork(transport.NetworkConfig{Cluster: 7}), change: change,
		stores: map[wire.StoreID]*engine.Store{}, machines: map[wire.StoreID]map[wire.GroupID]*ledger{}}
	for id := wire.StoreID(1); id <= 3; id++ {
		c.open(id)
	}
	t.Cleanup(func() {
		for id := range c.stores {
			c.close(id)
		}
	})
	return c
}

func (c *cluster) config(id wire.StoreID) engine.Config {
	cfg := engine.Config{
		Cluster:      7,
		ID:           id,
		Dir:          filepath.Join(c.dir, fmt.Sprint(id)),
		Transport:    c.network.Transport(id),
		TickInterval: 10 * time.Millisecond,
		SegmentBytes: 4 << 20,
		Seed:         uint64(id),
	}
	if c.change != nil {
		c.change(&cfg)
	}
	return cfg
}

func (c *cluster) open(id wire.StoreID) *engine.Store {
	c.t.Helper()
	store, err := engine.Open(c.config(id))
	if err != nil {
		c.t.Fatal(err)
	}
	c.stores[id] = store
	c.machines[id] = map[wire.GroupID]*ledger{}
	return store
}

func (c *cluster) close(id wire.StoreID) {
	c.t.Helper()
	if store := c.stores[id]; store != nil {
		if err := store.Close(); err != nil && store.Err() == nil {
			c.t.Errorf("close store %d: %v", id, err)
		}
		delete(c.stores, id)
	}
}

var threeMembers = []engine.Member{{Replica: 1, Store: 1}, {Replica: 2, Store: 2}, {Replica: 3, Store: 3}}

func (c *cluster) start(id wire.StoreID, group wire.GroupID) *engine.Group {
	c.t.Helper()
	machine := &ledger{}
	c.machines[id][group] = machine
	g, err := c.stores[id].StartGroup(c.ctx(), engine.GroupConfig{ID: group, Members: threeMembers, StateMachine: machine})
	if err != nil {
		c.t.Fatal(err)
	}
	return g
}

func (c *cluster) startAll(groups ...wire.GroupID) {
	c.t.Helper()
	for _, group := range groups {
		for id := range c.stores {
			c.start(id, group)
		}
	}
}

// ctx bounds one step of a test; it is far above what any step takes.
func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

// until polls for a condition that the cluster reaches by itself.
func (c *cluster) until(what string, condition func() bool) {
	c.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !condition() {
		select {
		case <-poll.C:
		case <-deadline.C:
			c.t.Fatalf("%s: not reached within a minute", what)
		}
	}
}

func (c *cluster) group(id wire.StoreID, group wire.GroupID) *engine.Group {
	c.t.Helper()
	g, ok := c.stores[id].Group(group)
	if !ok {
		c.t.Fatalf("group %d does not run on store %d", group, id)
	}
	return g
}

// leader waits for a leader among the open stores and returns its handle.
func (c *cluster) leader(group wire.GroupID) *engine.Group {
	c.t.Helper()
	var leader *engine.Group
	c.until(fmt.Sprintf("leader of group %d", group), func() bool {
		for id := range c.stores {
			if g, ok := c.stores[id].Group(group); ok && g.Err() == nil && g.IsLeader() {
				leader = g
				return true
			}
		}
		return false
	})
	return leader
}

// propose writes through whoever leads, over changes of leadership. Commands
// must be idempotent for a test that loses leaders.
func (c *cluster) propose(group wire.GroupID, command string) engine.Result {
	c.t.Helper()
	for {
		result, err := c.leader(group).Propose(c.ctx(), []byte(command))
		var notLeader *engine.NotLeaderError
		switch {
		case err == nil:
			return result
		case errors.As(err, &notLeader), errors.Is(err, engine.ErrLeadershipLost), errors.Is(err, engine.ErrProposalDropped), errors.Is(err, engine.ErrTransferring):
			continue
		default:
			c.t.Fatalf("propose %q to group %d: %v", command, group, err)
		}
	}
}

// converge waits until all open stores have applied the same commands.
func (c *cluster) converge(group wire.GroupID, want int) []string {
	c.t.Helper()
	var first []string
	c.until(fmt.Sprintf("%d commands of group %d everywhere", want, group), func() bool {
		first = nil
		for id := range c.stores {
			got := c.machines[id][group].snapshot()
			if len(got) < want {
				return false
			}
			if first == nil {
				first = got
			}
			if fmt.Sprint(got) != fmt.Sprint(first) {
				return false
			}
		}
		return true
	})
	return first
}

func number(i int) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(i)) }
