package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/transport"
	"multiraft/wire"
)

// fleet is a cluster whose stores join groups by themselves.
type fleet struct {
	*cluster
	mu       sync.Mutex // guards the fields below: stores join on goroutines of their own
	ledgers  map[wire.StoreID]*ledger
	removed  map[wire.ReplicaID]bool
	joinErr  error
	requests []engine.JoinRequest
}

func newFleet(t testing.TB, stores wire.StoreID, more ...func(*engine.Config)) *fleet {
	f := &fleet{ledgers: map[wire.StoreID]*ledger{}, removed: map[wire.ReplicaID]bool{}}
	f.cluster = newCluster(t, func(cfg *engine.Config) {
		id := cfg.ID
		cfg.Join = func(req engine.JoinRequest) (engine.GroupConfig, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.requests = append(f.requests, req)
			if f.joinErr != nil {
				return engine.GroupConfig{}, f.joinErr
			}
			f.ledgers[id] = &ledger{}
			return engine.GroupConfig{StateMachine: f.ledgers[id]}, nil
		}
		cfg.Events.ReplicaRemoved = func(err *engine.ReplicaRemovedError) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.removed[err.Replica] = true
		}
		for _, change := range more {
			change(cfg)
		}
	})
	for id := wire.StoreID(4); id <= stores; id++ {
		f.open(id)
	}
	return f
}

func (f *fleet) ledger(store wire.StoreID) *ledger {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ledgers[store]
}

// begin starts the group on the given stores, replica n on store n.
func (f *fleet) begin(stores ...wire.StoreID) *engine.Group {
	f.t.Helper()
	var members []engine.Member
	for _, id := range stores {
		members = append(members, engine.Member{Replica: wire.ReplicaID(id), Store: id})
	}
	for _, id := range stores {
		f.mu.Lock()
		l := &ledger{}
		f.ledgers[id] = l
		f.mu.Unlock()
		if _, err := f.stores[id].StartGroup(f.ctx(), engine.GroupConfig{ID: 1, Members: members, StateMachine: l}); err != nil {
			f.t.Fatal(err)
		}
	}
	return f.leader(1)
}

// lead runs do on whoever leads, again when leadership changes meanwhile.
func (f *fleet) lead(what string, do func(*engine.Group) error) {
	f.t.Helper()
	for {
		err := do(f.leader(1))
		var notLeader *engine.NotLeaderError
		var removed *engine.ReplicaRemovedError
		switch {
		case err == nil:
			return
		case errors.As(err, &notLeader), errors.As(err, &removed), errors.Is(err, engine.ErrLeadershipLost), errors.Is(err, engine.ErrTransferring):
		default:
			f.t.Fatalf("%s: %v", what, err)
		}
	}
}

func (f *fleet) add(store wire.StoreID) (added engine.Member) {
	f.t.Helper()
	f.lead(fmt.Sprintf("add a replica on store %d", store), func(g *engine.Group) (err error) {
		added, err = g.AddReplica(f.ctx(), engine.Member{Store: store})
		return err
	})
	return added
}

// agree waits until the machines of the given stores hold the same commands.
func (f *fleet) agree(want []string, stores ...wire.StoreID) {
	f.t.Helper()
	for _, id := range stores {
		f.until(fmt.Sprintf("store %d holds %d commands", id, len(want)), func() bool {
			return fmt.Sprint(f.ledger(id).snapshot()) == fmt.Sprint(want)
		})
	}
}

// gone waits until a store has let go of a removed replica.
func (f *fleet) gone(store wire.StoreID, replica wire.ReplicaID) {
	f.t.Helper()
	f.until(fmt.Sprintf("store %d forgets replica %d", store, replica), func() bool {
		f.mu.Lock()
		told := f.removed[replica]
		f.mu.Unlock()
		g, runs := f.stores[store].Group(1)
		return told && (!runs || g.Status().Self.Replica != replica)
	})
}

func TestGrowAndShrink(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5)
	f.begin(1)
	var want []string
	write := func() {
		t.Helper()
		want = append(want, fmt.Sprint(len(want)))
		f.propose(1, want[len(want)-1])
	}
	write()
	for store := wire.StoreID(2); store <= 5; store++ {
		if m := f.add(store); m.Replica != wire.ReplicaID(store) || m.Store != store || m.Role != wire.Voter {
			t.Fatalf("added %+v on store %d", m, store)
		}
		write()
	}
	f.agree(want, 1, 2, 3, 4, 5)
	// The group lives on any three of the five.
	leader := f.leader(1)
	for _, id := range []wire.StoreID{2, 3, 4, 5} {
		if id != leader.Store().ID() {
			f.lead("remove", func(g *engine.Group) error { return g.RemoveReplica(f.ctx(), wire.ReplicaID(id)) })
			f.gone(id, wire.ReplicaID(id))
			write()
		}
		if len(f.leader(1).Membership().Members) == 2 {
			break
		}
	}
	// The leader removes itself, and the other one is alone.
	old := f.leader(1)
	self := old.Status().Self
	if err := old.RemoveReplica(f.ctx(), self.Replica); err != nil {
		t.Fatal(err)
	}
	var removed *engine.ReplicaRemovedError
	f.until("the old leader knows that it is removed", func() bool { return errors.As(old.Err(), &removed) })
	if _, err := old.Propose(f.ctx(), []byte("x")); !errors.As(err, &removed) || removed.Replica != self.Replica {
		t.Errorf("propose to a removed replica: %v, want a ReplicaRemovedError", err)
	}
	write()
	f.gone(self.Store, self.Replica)
	last := f.leader(1)
	if m := last.Membership(); len(m.Members) != 1 || m.Members[0].Store != last.Store().ID() {
		t.Errorf("left are %+v", m)
	}
	f.agree(want, last.Store().ID())
	// Nothing of a removed replica is left but its name.
	if stored, err := f.stores[self.Store].Stored(); err != nil || len(stored) != 0 {
		t.Errorf("store %d holds %v, %v", self.Store, stored, err)
	}
	_, err := f.stores[self.Store].StartGroup(f.ctx(), engine.GroupConfig{ID: 1, Members: []engine.Member{self}, StateMachine: &ledger{}})
	if !errors.As(err, &removed) {
		t.Errorf("start of a removed replica: %v, want a ReplicaRemovedError", err)
	}
	_, err = f.stores[self.Store].StartGroup(f.ctx(), engine.GroupConfig{ID: 1, Join: true, Replica: self.Replica, StateMachine: &ledger{}})
	if !errors.As(err, &removed) {
		t.Errorf("join under a removed id: %v, want a ReplicaRemovedError", err)
	}
	_, err = last.AddReplica(f.ctx(), engine.Member{Replica: self.Replica, Store: self.Store})
	refused(t, err, group.ReasonReused)
	// The store gets a new replica, under a new id, although it had one.
	if m := f.add(self.Store); m.Replica != 6 {
		t.Errorf("added replica %d, want 6", m.Replica)
	}
	f.agree(want, self.Store)
}

// All three members are replaced, one after the other, while clients write.
func TestReplaceEveryMemberUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6)
	f.begin(1, 2, 3)
	ctx, stop := context.WithCancel(t.Context())
	const clients = 4
	acked := make([]int, clients)
	var load sync.WaitGroup
	for client := range clients {
		load.Add(1)
		go func() {
			defer load.Done()
			for n := 0; ctx.Err() == nil; n++ {
				f.writeAnyhow(fmt.Sprintf("%d/%d", client, n))
				acked[client] = n + 1
			}
		}()
	}
	for i := wire.StoreID(1); i <= 3; i++ {
		f.lead("replace", func(g *engine.Group) error {
			m, err := g.ReplaceReplica(f.ctx(), wire.ReplicaID(i), engine.Member{Store: i + 3})
			if err == nil && m.Role != wire.Voter {
				t.Errorf("replaced by %+v", m)
			}
			return err
		})
		f.gone(i, wire.ReplicaID(i))
	}
	stop()
	load.Wait()
	leader := f.leader(1)
	m := leader.Membership()
	if len(m.Members) != 3 || m.Joint || has(m, 1) || has(m, 2) || has(m, 3) {
		t.Fatalf("the members are %+v", m)
	}
	var first []string
	f.until("the new members agree", func() bool {
		first = f.ledger(4).snapshot()
		return fmt.Sprint(first) == fmt.Sprint(f.ledger(5).snapshot()) && fmt.Sprint(first) == fmt.Sprint(f.ledger(6).snapshot())
	})
	count := map[string]int{}
	for _, command := range first {
		count[command]++
	}
	for client, n := range acked {
		if n == 0 {
			t.Errorf("client %d wrote nothing", client)
		}
		for i := range n {
			if count[fmt.Sprintf("%d/%d", client, i)] == 0 {
				t.Fatalf("write %d of client %d was acknowledged and is lost", i, client)
			}
		}
	}
}

func has(m engine.Membership, id wire.ReplicaID) bool {
	return slices.ContainsFunc(m.Members, func(m engine.Member) bool { return m.Replica == id })
}

// writeAnyhow writes through whoever leads until a write is acknowledged.
func (f *fleet) writeAnyhow(command string) {
	for {
		for id := wire.StoreID(1); id <= 6; id++ {
			store := f.stores[id]
			if store == nil {
				continue
			}
			g, ok := store.Group(1)
			if !ok || !g.IsLeader() {
				continue
			}
			if _, err := g.Propose(context.Background(), []byte(command)); err == nil {
				return
			}
		}
		runtime.Gosched()
	}
}

// A replica that was cut off while it was removed learns it when it comes back.
func TestRemovedWhileCutOff(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	f.begin(1, 2, 3)
	f.propose(1, "a")
	leader := f.leader(1).Store().ID()
	away := leader%3 + 1
	f.agree([]string{"a"}, 1, 2, 3)
	f.network.Cut(away, leader)
	f.network.Cut(away, 6-away-leader)
	f.lead("remove", func(g *engine.Group) error { return g.RemoveReplica(f.ctx(), wire.ReplicaID(away)) })
	f.propose(1, "b")
	if g, ok := f.stores[away].Group(1); !ok || g.Err() != nil {
		t.Fatalf("replica %d cannot know yet", away)
	}
	f.network.Heal(away, leader)
	f.network.Heal(away, 6-away-leader)
	f.gone(away, wire.ReplicaID(away))
	f.propose(1, "c")
}

// A store whose embedder refuses is asked again, and one with a dead replica of
// an earlier id is given a new one.
func TestJoinIsAskedForAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	g := f.begin(1)
	f.propose(1, "a")
	f.mu.Lock()
	f.joinErr = errors.New("no room")
	f.mu.Unlock()
	if m, err := g.AddLearner(f.ctx(), engine.Member{Replica: 7, Store: 2}); err != nil || m.Replica != 7 || m.Role != wire.Learner {
		t.Fatalf("added %+v, %v", m, err)
	}
	asked := func(n int) func() bool {
		return func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.requests) >= n
		}
	}
	f.until("the embedder is asked twice", asked(2))
	f.mu.Lock()
	if want := (engine.JoinRequest{Group: 1, Replica: 7, From: 1}); f.requests[0] != want {
		t.Errorf("asked for %+v, want %+v", f.requests[0], want)
	}
	f.joinErr = nil
	f.mu.Unlock()
	f.until("the learner runs", func() bool { _, ok := f.stores[2].Group(1); return ok })
	f.agree([]string{"a"}, 2)
	// As a learner it does not vote, and it is promoted where it is.
	if m := f.add(2); m.Replica != 7 || m.Role != wire.Voter {
		t.Errorf("promoted %+v", m)
	}
	if m := f.add(2); m.Replica != 7 {
		t.Errorf("added once more: %+v", m)
	}
	f.add(3)
	// Replica 7 fails for good, and is replaced on the same store.
	f.ledger(2).fail("boom")
	f.propose(1, "boom")
	f.until("replica 7 has failed", func() bool { return f.group(2, 1).Err() != nil })
	f.lead("remove", func(g *engine.Group) error { return g.RemoveReplica(f.ctx(), 7) })
	if m := f.add(2); m.Replica != 9 {
		t.Errorf("added %+v in place of the failed one, want replica 9", m)
	}
	f.agree([]string{"a", "boom"}, 2)
}

// fail has the machine fail at a command.
func (l *ledger) fail(at string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apply = func(command []byte) error {
		if string(command) == at {
			return errors.New(at)
		}
		return nil
	}
}

// Several callers add replicas at the same time; each gets an id of its own.
func TestConcurrentChanges(t *testing.T) {
	f := newFleet(t, 5)
	f.begin(1)
	f.propose(1, "a")
	var callers sync.WaitGroup
	added := make([]engine.Member, 6)
	for store := wire.StoreID(2); store <= 5; store++ {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for {
				g, _ := f.stores[1].Group(1)
				m, err := g.AddReplica(context.Background(), engine.Member{Store: store})
				if err == nil {
					added[store] = m
					return
				}
				var notLeader *engine.NotLeaderError
				if !errors.As(err, &notLeader) && !errors.Is(err, engine.ErrLeadershipLost) && !errors.Is(err, engine.ErrTransferring) {
					t.Errorf("add on store %d: %v", store, err)
					return
				}
				if err := g.TransferLeader(context.Background(), 1); err != nil && !errors.Is(err, engine.ErrNoLeader) && !errors.Is(err, engine.ErrTransferFailed) {
					t.Errorf("bring the lead back: %v", err)
					return
				}
			}
		}()
	}
	callers.Wait()
	seen := map[wire.ReplicaID]bool{1: true}
	for store := wire.StoreID(2); store <= 5; store++ {
		m := added[store]
		if m.Store != store || m.Role != wire.Voter || seen[m.Replica] {
			t.Errorf("added %+v on store %d", m, store)
		}
		seen[m.Replica] = true
	}
	f.agree([]string{"a"}, 1, 2, 3, 4, 5)
}

// A caller that waits no more leaves things as they are, and another one goes on
// from there.
func TestAddReplicaGoesOn(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	g := f.begin(1)
	f.propose(1, "a")
	f.mu.Lock()
	f.joinErr = errors.New("not yet")
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(f.ctx())
	result := make(chan error, 1)
	go func() {
		_, err := g.AddReplica(ctx, engine.Member{Store: 2})
		result <- err
	}()
	f.until("the learner is there", func() bool { return has(g.Membership(), 2) })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("the first call: %v, want context.Canceled", err)
	}
	_, err := g.AddReplica(f.ctx(), engine.Member{Replica: 5, Store: 2})
	refused(t, err, group.ReasonSameStore)
	_, err = g.ReplaceReplica(f.ctx(), 0, engine.Member{Store: 3})
	refused(t, err, group.ReasonZeroID)
	_, err = g.ReplaceReplica(f.ctx(), 1234, engine.Member{Store: 3})
	refused(t, err, group.ReasonUnknown)
	if m := g.Membership(); len(m.Members) != 2 {
		t.Errorf("a replacement for nobody has changed the members to %+v", m)
	}
	refused(t, g.RemoveReplica(f.ctx(), 7), group.ReasonUnknown)
	f.mu.Lock()
	f.joinErr = nil
	f.mu.Unlock()
	if m := f.add(2); m.Replica != 2 || m.Role != wire.Voter {
		t.Errorf("the second call: %+v", m)
	}
	var notLeader *engine.NotLeaderError
	other := f.group(2, 1)
	if other.IsLeader() {
		other = f.group(1, 1)
	}
	if _, err := other.AddReplica(f.ctx(), engine.Member{Store: 2}); !errors.As(err, &notLeader) {
		t.Errorf("on a follower: %v, want a NotLeaderError", err)
	}
}

// What waits on a replica when it is removed is answered; a store that closes
// while the replica lingers has buried it.
func TestRemovedLeaderAnswersEverybody(t *testing.T) {
	f := newFleet(t, 3)
	g := f.begin(1, 2, 3)
	f.propose(1, "a")
	at := g.Store().ID()
	done := make(chan error, 64)
	var writers sync.WaitGroup
	for range 4 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for {
				if _, err := g.Propose(context.Background(), []byte("w")); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	if err := g.RemoveReplica(f.ctx(), g.Status().Self.Replica); err != nil {
		t.Fatal(err)
	}
	writers.Wait()
	close(done)
	for err := range done {
		var removed *engine.ReplicaRemovedError
		var notLeader *engine.NotLeaderError
		if !errors.As(err, &removed) && !errors.As(err, &notLeader) && !errors.Is(err, engine.ErrLeadershipLost) && !errors.Is(err, engine.ErrTransferring) {
			t.Errorf("a writer ended with %v", err)
		}
	}
	f.close(at)
	if stored, err := f.open(at).Stored(); err != nil || len(stored) > 0 {
		t.Errorf("store %d holds %v after a restart, %v", at, stored, err)
	}
	f.writeAnyhow("b")
}

// A store whose disk is gone is not asked to begin its voter anew. It is
// replaced by a learner under another id, which catches up and votes.
func TestEmptyDiskIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	f.begin(1, 2, 3)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		f.propose(1, want[i])
	}
	f.agree(want, 1, 2, 3)
	lost := f.leader(1).Store().ID()%3 + 1
	f.close(lost)
	if err := os.RemoveAll(filepath.Join(f.dir, fmt.Sprint(lost))); err != nil {
		t.Fatal(err)
	}
	f.network = transport.NewNetwork(transport.NetworkConfig{Cluster: 7}) // the incarnations of the lost store begin anew
	for id := wire.StoreID(1); id <= 3; id++ {
		f.close(id)
		f.open(id)
		if id == lost {
			continue
		}
		f.mu.Lock()
		f.ledgers[id] = &ledger{}
		l := f.ledgers[id]
		f.mu.Unlock()
		if _, err := f.stores[id].StartGroup(f.ctx(), engine.GroupConfig{ID: 1, StateMachine: l}); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, "without it")
	f.propose(1, "without it")
	f.mu.Lock()
	if len(f.requests) > 0 {
		t.Errorf("the store was asked to begin a voter anew: %+v", f.requests)
	}
	f.mu.Unlock()
	f.lead("remove", func(g *engine.Group) error { return g.RemoveReplica(f.ctx(), wire.ReplicaID(lost)) })
	if m := f.add(lost); m.Replica != 4 {
		t.Errorf("added %+v, want replica 4", m)
	}
	f.agree(want, 1, 2, 3)
}

// Who waits for a leader hears at once that there will be none.
func TestWaitLeaderOnRemoved(t *testing.T) {
	f := newFleet(t, 3)
	g := f.begin(1, 2)
	other := f.group(3-g.Store().ID(), 1)
	if err := g.RemoveReplica(f.ctx(), wire.ReplicaID(other.Store().ID())); err != nil {
		t.Fatal(err)
	}
	var removed *engine.ReplicaRemovedError
	f.until("it knows", func() bool { return errors.As(other.Err(), &removed) })
	if err := other.WaitLeader(f.ctx()); !errors.As(err, &removed) {
		t.Errorf("wait for a leader: %v, want a ReplicaRemovedError", err)
	}
	if _, err := other.Read(f.ctx(), nil); !errors.As(err, &removed) {
		t.Errorf("read: %v, want a ReplicaRemovedError", err)
	}
}
