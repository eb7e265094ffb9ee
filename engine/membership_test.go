package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/raftlog"
	"multiraft/wire"
)

// startAlone starts a group that has store 1 only.
func (c *cluster) startAlone(id wire.GroupID) *engine.Group {
	c.t.Helper()
	c.machines[1][id] = &ledger{}
	g, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{
		ID: id, Members: threeMembers[:1], StateMachine: c.machines[1][id]})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := g.WaitLeader(c.ctx()); err != nil {
		c.t.Fatal(err)
	}
	return g
}

// join starts an added replica by hand.
func (c *cluster) join(store wire.StoreID, id wire.GroupID, replica wire.ReplicaID) *engine.Group {
	c.t.Helper()
	c.machines[store][id] = &ledger{}
	g, err := c.stores[store].StartGroup(c.ctx(), engine.GroupConfig{
		ID: id, Join: true, Replica: replica, StateMachine: c.machines[store][id]})
	if err != nil {
		c.t.Fatal(err)
	}
	return g
}

// refused asserts that a change was refused for a reason.
func refused(t *testing.T, err error, want group.MembershipReason) {
	t.Helper()
	var refusal *group.MembershipError
	if !errors.As(err, &refusal) || refusal.Reason != want {
		t.Errorf("got %v, want a refusal: %v", err, want)
	}
}

func TestChangeMembers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	g := c.startAlone(1)
	c.propose(1, "a")
	c.propose(1, "b")
	m, err := g.ChangeMembers(c.ctx(), group.MembershipChange{Exact: true, Changes: []group.Change{{Op: group.AddLearner, Replica: 2, Store: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint([]engine.Member{{Replica: 1, Store: 1, Role: wire.Voter}, {Replica: 2, Store: 2, Role: wire.Learner}}); fmt.Sprint(m.Members) != want || m.Index == 0 || m.Joint {
		t.Fatalf("membership %+v, want members %v", m, want)
	}
	// The membership that a group begins with can be named as well.
	_, err = g.ChangeMembers(c.ctx(), group.MembershipChange{Exact: true, Changes: []group.Change{{Op: group.AddVoter, Replica: 2}}})
	refused(t, err, group.ReasonStale)
	c.join(2, 1, 2)
	if _, err = g.ChangeMembers(c.ctx(), group.MembershipChange{
		IfIndex: m.Index,
		Changes: []group.Change{{Op: group.AddVoter, Replica: 2}, {Op: group.AddVoter, Replica: 3, Store: 3}},
		Leave:   group.LeaveExplicit,
	}); err != nil {
		t.Fatal(err)
	}
	c.join(3, 1, 3)
	if !g.Membership().Joint {
		t.Fatalf("membership %+v is not joint", g.Membership())
	}
	_, err = g.ChangeMembers(c.ctx(), group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 2}}})
	refused(t, err, group.ReasonJoint)
	if m, err = g.LeaveJoint(c.ctx()); err != nil || m.Joint {
		t.Fatalf("left the joint configuration: %+v, %v", m, err)
	}
	_, err = g.LeaveJoint(c.ctx())
	refused(t, err, group.ReasonNotJoint)
	_, err = g.ChangeMembers(c.ctx(), group.MembershipChange{IfIndex: 1, Changes: []group.Change{{Op: group.Remove, Replica: 2}}})
	refused(t, err, group.ReasonStale)
	c.propose(1, "c")
	if got := fmt.Sprint(c.converge(1, 3)); got != "[a b c]" {
		t.Errorf("machines hold %v", got)
	}
	c.until("the members are known everywhere", func() bool {
		return c.group(2, 1).Membership().Index == m.Index && c.group(3, 1).Status().Membership == m.Index
	})
	var notLeader *engine.NotLeaderError
	_, err = c.group(2, 1).ChangeMembers(c.ctx(), group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 3}}})
	if !errors.As(err, &notLeader) || notLeader.Leader != 1 || notLeader.Store != 1 {
		t.Errorf("change on a follower: %v, want a NotLeaderError that names replica 1", err)
	}
	// Everything is found again after a restart, and what StartGroup is told is
	// not looked at any more.
	for id := wire.StoreID(1); id <= 3; id++ {
		c.close(id)
	}
	for id := wire.StoreID(1); id <= 3; id++ {
		c.open(id)
		c.start(id, 1)
	}
	c.propose(1, "d")
	if got := fmt.Sprint(c.converge(1, 4)); got != "[a b c d]" {
		t.Errorf("machines hold %v after a restart", got)
	}
	if got := c.group(3, 1).Membership(); got.Index < m.Index || len(got.Members) != 3 {
		t.Errorf("membership after a restart: %+v", got)
	}
}

func TestGroupConfigOfMembers(t *testing.T) {
	c := newCluster(t, nil)
	two := []engine.Member{{Replica: 1, Store: 1}, {Replica: 2, Store: 2}}
	for name, cfg := range map[string]engine.GroupConfig{
		"join without an id":      {ID: 5, Join: true},
		"join with members":       {ID: 5, Join: true, Replica: 1, Members: two},
		"join with a snapshot":    {ID: 5, Join: true, Replica: 1, Snapshot: "export"},
		"a role of the engine":    {ID: 5, Members: []engine.Member{{Replica: 1, Store: 1, Role: wire.Outgoing}}},
		"learners only":           {ID: 5, Members: []engine.Member{{Replica: 1, Store: 1, Role: wire.Learner}}},
		"another id than Members": {ID: 5, Members: two, Replica: 2},
	} {
		cfg.StateMachine = &ledger{}
		var fault *engine.ConfigError
		if _, err := c.stores[1].StartGroup(c.ctx(), cfg); !errors.As(err, &fault) {
			t.Errorf("%s: %v, want a ConfigError", name, err)
		}
	}
	c.startAlone(1)
	if err := c.stores[1].StopGroup(c.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	var fault *engine.ConfigError
	if _, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Replica: 4, StateMachine: &ledger{}}); !errors.As(err, &fault) || fault.Field != "Replica" {
		t.Errorf("another replica than the stored one: %v, want a ConfigError about Replica", err)
	}
}

// What was started by mistake can be taken back, and the right replica started in
// its place, as long as the wrong one has promised nothing.
func TestRemoveGroup(t *testing.T) {
	c := newCluster(t, nil)
	g := c.startAlone(1)
	c.propose(1, "a")
	store := c.stores[3]
	if err := store.RemoveGroup(c.ctx(), 1); !errors.Is(err, engine.ErrUnknownGroup) {
		t.Errorf("remove what is not stored: %v, want ErrUnknownGroup", err)
	}
	if m, err := g.AddLearner(c.ctx(), engine.Member{Replica: 3, Store: 3}); err != nil || m.Replica != 3 {
		t.Fatalf("added %+v, %v", m, err)
	}
	c.join(3, 1, 7) // should have been 3
	if err := store.RemoveGroup(c.ctx(), 1); !errors.Is(err, engine.ErrGroupExists) {
		t.Errorf("remove what runs: %v, want ErrGroupExists", err)
	}
	stop := func() {
		t.Helper()
		if err := store.StopGroup(c.ctx(), 1); err != nil {
			t.Fatal(err)
		}
	}
	start := func(cfg engine.GroupConfig) error {
		cfg.ID, cfg.StateMachine = 1, &ledger{}
		_, err := store.StartGroup(c.ctx(), cfg)
		return err
	}
	stop()
	var fault *engine.ConfigError
	if err := start(engine.GroupConfig{Join: true, Replica: 3}); !errors.As(err, &fault) || fault.Field != "Replica" {
		t.Errorf("start of another replica than the stored one: %v, want a ConfigError about Replica", err)
	}
	// A program that always gives the members that its groups began with goes on
	// working when replicas were replaced.
	if err := start(engine.GroupConfig{Members: threeMembers}); err != nil {
		t.Errorf("the first members, for a replica that was added since: %v", err)
	}
	stop()
	if err := start(engine.GroupConfig{Snapshot: "export"}); !errors.As(err, &fault) || fault.Field != "Snapshot" {
		t.Errorf("a snapshot for a stored group: %v, want a ConfigError about Snapshot", err)
	}
	if err := store.RemoveGroup(c.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	c.close(3)
	store = c.open(3)
	if stored, err := store.Stored(); err != nil || len(stored) > 0 {
		t.Fatalf("stored are %+v, %v", stored, err)
	}
	c.join(3, 1, 3)
	c.until("the right replica follows", func() bool { return fmt.Sprint(c.machines[3][1].snapshot()) == "[a]" })

	// It has answered now, so its id is not used again.
	stop()
	for range 2 {
		if err := store.RemoveGroup(c.ctx(), 1); err != nil {
			t.Fatal(err)
		}
	}
	var removed *engine.ReplicaRemovedError
	for name, cfg := range map[string]engine.GroupConfig{
		"join": {Join: true, Replica: 3}, "members": {Members: threeMembers}, "nothing": {},
	} {
		if err := start(cfg); !errors.As(err, &removed) || removed.Replica != 3 {
			t.Errorf("start with %s: %v, want a ReplicaRemovedError", name, err)
		}
	}
	// A mistake in front of the tombstone leaves it there.
	c.join(3, 1, 9)
	stop()
	if err := store.RemoveGroup(c.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	if err := start(engine.GroupConfig{Members: threeMembers}); !errors.As(err, &removed) || removed.Replica != 3 {
		t.Errorf("start behind a mistake: %v, want a ReplicaRemovedError of replica 3", err)
	}
	if err := g.RemoveReplica(c.ctx(), 3); err != nil {
		t.Fatal(err)
	}
	if m, err := g.AddLearner(c.ctx(), engine.Member{Store: 3}); err != nil || m.Replica != 4 {
		t.Fatalf("added %+v, %v", m, err)
	}
	c.join(3, 1, 4)
	c.until("the next replica follows", func() bool { return fmt.Sprint(c.machines[3][1].snapshot()) == "[a]" })
}

// Who waits in vain is told for what.
func TestWaitingTellsWhy(t *testing.T) {
	c := newCluster(t, nil) // whose stores join nothing by themselves
	g := c.startAlone(1)
	c.propose(1, "a")
	told := func(what string, call func(context.Context) error) {
		t.Helper()
		var err error
		c.until("to be told that "+what, func() bool {
			ctx, cancel := context.WithTimeout(c.ctx(), 10*time.Millisecond)
			defer cancel()
			err = call(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%v, want a context.DeadlineExceeded", err)
			}
			return strings.Contains(err.Error(), what) && strings.Contains(err.Error(), "group 1")
		})
	}
	add := func(store wire.StoreID) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := g.AddReplica(ctx, engine.Member{Store: store})
			return err
		}
	}
	told("replica 2, a learner on store 77, waits to catch up: store 77 was never connected", add(77))
	told("replica 3, a learner on store 2, waits to catch up: its store does not run it", add(2))
}

// A joint configuration that nobody leaves holds up those who wait.
func TestWaitingForLeaveJoint(t *testing.T) {
	c := newCluster(t, nil)
	g := c.startAlone(1)
	c.propose(1, "a")
	if _, err := g.ChangeMembers(c.ctx(), group.MembershipChange{
		Changes: []group.Change{{Op: group.AddLearner, Replica: 2, Store: 2}}, Joint: true, Leave: group.LeaveExplicit,
	}); err != nil {
		t.Fatal(err)
	}
	c.until("to be told to leave", func() bool {
		ctx, cancel := context.WithTimeout(c.ctx(), 10*time.Millisecond)
		defer cancel()
		err := g.RemoveReplica(ctx, 2)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v, want a context.DeadlineExceeded", err)
		}
		return strings.Contains(err.Error(), "LeaveJoint")
	})
	if err := g.TransferLeader(c.ctx(), 2); !errors.Is(err, engine.ErrNotVoter) || !strings.Contains(err.Error(), "group 1") {
		t.Errorf("transfer to a learner: %v, want ErrNotVoter of group 1", err)
	}
	if _, err := g.Snapshot(c.ctx()); !errors.Is(err, engine.ErrNoSnapshotter) || !strings.Contains(err.Error(), "group 1") {
		t.Errorf("snapshot: %v, want ErrNoSnapshotter of group 1", err)
	}
}

// A group may begin with learners; they follow and are never handed the lead.
func TestGroupBeginsWithALearner(t *testing.T) {
	c := newCluster(t, nil)
	members := []engine.Member{{Replica: 1, Store: 1, Role: wire.Learner}, {Replica: 2, Store: 2}, {Replica: 3, Store: 3}}
	for id := wire.StoreID(1); id <= 3; id++ {
		c.machines[id][2] = &ledger{}
		if _, err := c.stores[id].StartGroup(c.ctx(), engine.GroupConfig{ID: 2, Members: members, StateMachine: c.machines[id][2]}); err != nil {
			t.Fatal(err)
		}
	}
	c.propose(2, "a")
	c.converge(2, 1)
	if st := c.group(1, 2).Status(); st.Self.Role != wire.Learner || len(st.Members) != 3 {
		t.Errorf("status of the learner: %+v", st)
	}
	if err := c.leader(2).TransferLeader(c.ctx(), 1); !errors.Is(err, engine.ErrNotVoter) {
		t.Errorf("transfer to a learner: %v, want ErrNotVoter", err)
	}
}

// A change that cannot commit ends with its group, or with the leadership.
func TestChangeWithoutQuorum(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"stop", "lose"} {
		t.Run(end, func(t *testing.T) {
			c := newCluster(t, nil)
			c.startAll(1)
			c.propose(1, "a")
			leader := c.leader(1)
			for id := range c.stores {
				if id != leader.Store().ID() {
					c.close(id)
				}
			}
			result := make(chan error, 1)
			err := leader.ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 9, Store: 9}}},
				func(_ engine.Membership, err error) { result <- err })
			var notLeader *engine.NotLeaderError
			if errors.As(err, &notLeader) {
				t.Skip("it stepped down before it was asked")
			} else if err != nil {
				t.Fatal(err)
			}
			if end == "stop" {
				if err := leader.Store().StopGroup(c.ctx(), 1); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-result; !errors.Is(err, engine.ErrLeadershipLost) && !errors.Is(err, engine.ErrGroupStopped) && !errors.As(err, &notLeader) {
				t.Errorf("the change ended with %v", err)
			}
		})
	}
}

func TestChangeNeedsSomebodyToTell(t *testing.T) {
	c := newCluster(t, nil)
	g := c.startAlone(1)
	if err := g.ChangeMembersAsync(group.MembershipChange{}, nil); !errors.Is(err, engine.ErrNoNotifier) {
		t.Errorf("a change: %v, want ErrNoNotifier", err)
	}
	if err := g.LeaveJointAsync(nil); !errors.Is(err, engine.ErrNoNotifier) {
		t.Errorf("leaving: %v, want ErrNoNotifier", err)
	}
}

// An embedder hears of what happens, and an operator reads how a group starts.
func TestEvents(t *testing.T) {
	type heard struct {
		what  string
		group wire.GroupID
		store wire.StoreID
	}
	events := make(chan heard, 100)
	logs, observed := observer.New(zap.InfoLevel)
	c := newCluster(t, func(cfg *engine.Config) {
		cfg.Logger = zap.New(logs)
		cfg.Events = engine.Events{
			LeaderChanged: func(id wire.GroupID, leader engine.Member) { events <- heard{"leader", id, leader.Store} },
			MembershipChanged: func(id wire.GroupID, m engine.Membership) {
				events <- heard{"members", id, m.Members[len(m.Members)-1].Store}
			},
			GroupFailed: func(err *engine.GroupFailedError) { events <- heard{"failed", err.Group, 0} },
		}
	})
	await := func(want heard) {
		t.Helper()
		for {
			select {
			case got := <-events:
				if got == want {
					return
				}
			case <-c.ctx().Done():
				t.Fatalf("never heard %+v", want)
			}
		}
	}
	g := c.startAlone(1)
	await(heard{"leader", 1, 1})
	if _, err := g.AddLearner(c.ctx(), engine.Member{Store: 2}); err != nil {
		t.Fatal(err)
	}
	await(heard{"members", 1, 2})
	c.machines[1][1].fail("boom")
	var failed *engine.GroupFailedError
	if _, err := g.Propose(c.ctx(), []byte("boom")); !errors.As(err, &failed) {
		t.Fatalf("propose: %v, want a GroupFailedError", err)
	}
	await(heard{"failed", 1, 0})
	starts := observed.FilterMessage("group starts").All()
	if len(starts) != 1 {
		t.Fatalf("%d lines on the start of one group", len(starts))
	}
	fields := starts[0].ContextMap()
	for _, field := range []string{"group", "replica", "members", "membership", "term", "vote", "commit", "applied", "first", "last", "last term"} {
		if _, ok := fields[field]; !ok {
			t.Errorf("the line does not tell %s: %v", field, fields)
		}
	}
}

// The embedder hears that the store failed.
func TestStoreFailedEvent(t *testing.T) {
	disk := &brokenFS{FS: raftlog.OSFS{}}
	failed := make(chan *engine.StoreFailedError, 1)
	c := newCluster(t, func(cfg *engine.Config) {
		if cfg.ID == 1 {
			cfg.FS = disk
			cfg.Events.StoreFailed = func(err *engine.StoreFailedError) { failed <- err }
		}
	})
	g := c.startAlone(1)
	disk.failSyncs.Store(true)
	if _, err := g.Propose(c.ctx(), []byte("x")); err == nil {
		t.Fatal("a write was acknowledged without a sync")
	}
	if err := <-failed; err.Store != 1 || !errors.Is(err, errDisk) {
		t.Errorf("heard of %v", err)
	}
}
