package engine_test

import (
	"errors"
	"fmt"
	"testing"

	"multiraft/engine"
	"multiraft/group"
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
	c := newCluster(t, nil)
	g := c.startAlone(1)
	c.propose(1, "a")
	c.propose(1, "b")
	m, err := g.ChangeMembers(c.ctx(), group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 2, Store: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint([]engine.Member{{Replica: 1, Store: 1, Role: wire.Voter}, {Replica: 2, Store: 2, Role: wire.Learner}}); fmt.Sprint(m.Members) != want || m.Index == 0 || m.Joint {
		t.Fatalf("membership %+v, want members %v", m, want)
	}
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
