package group

import (
	"slices"
	"testing"

	"multiraft/wire"
)

// joins takes the Joins that are in flight out of the network and returns whom
// they tell.
func joins(t *testing.T, c *cluster) (told []wire.ReplicaID) {
	t.Helper()
	c.net = slices.DeleteFunc(c.net, func(m wire.Message) bool {
		if m.Kind != wire.Join {
			return false
		}
		if m.Term != 0 || wire.Index(m.Context) != c.node(m.From).g.Members().Index {
			t.Errorf("%+v, want no term and the membership of %d", m, c.node(m.From).g.Members().Index)
		}
		told = append(told, m.To)
		return true
	})
	return told
}

// A voter that has acknowledged nothing when it is made a learner may have never
// run: its store is told.
func TestJoinGoesToDemotedVoters(t *testing.T) {
	c := newCluster(members(2), Tuning{})
	up := c.all()
	for _, n := range c.nodes {
		if err := n.start(0); err != nil {
			t.Fatal(err)
		}
	}
	g := c.node(1).g
	if err := g.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.settle(up...)
	c.join(3)
	for _, step := range []struct {
		op   ChangeOp
		want []wire.ReplicaID
	}{{AddVoter, nil}, {AddLearner, []wire.ReplicaID{3}}} {
		if _, _, err := g.ChangeMembers(MembershipChange{Changes: []Change{{Op: step.op, Replica: 3, Store: 3}}}); err != nil {
			t.Fatal(err)
		}
		c.settle(up...)
		joins(t, c)
		c.tick(c.tuning.HeartbeatTicks, up...)
		c.settle(up...)
		if told := joins(t, c); !slices.Equal(told, step.want) {
			t.Fatalf("%v were told after %v, want %v", told, step.op, step.want)
		}
	}
}

// The store of a learner is told of it with each heartbeat until the learner has
// acknowledged an entry; a voter's never is. A new leader begins anew.
func TestJoinGoesToLearnersThatAcknowledgedNothing(t *testing.T) {
	c := newCluster(members(3), Tuning{})
	up := c.all()
	for _, n := range c.nodes {
		if err := n.start(0); err != nil {
			t.Fatal(err)
		}
	}
	lead := func(id wire.ReplicaID) *Group {
		t.Helper()
		g := c.node(id).g
		if err := g.Campaign(); err != nil {
			t.Fatal(err)
		}
		c.settle(up...)
		if g.Role() != Leader {
			t.Fatalf("replica %d does not lead", id)
		}
		return g
	}
	beat := func() []wire.ReplicaID {
		t.Helper()
		c.tick(c.tuning.HeartbeatTicks, up...)
		c.settle(up...)
		return joins(t, c)
	}
	g := lead(1)
	if told := beat(); len(told) > 0 {
		t.Fatalf("%v were told, all are voters", told)
	}
	learner := c.join(4)
	if _, _, err := g.ChangeMembers(MembershipChange{Changes: []Change{{Op: AddLearner, Replica: 4, Store: 4}}}); err != nil {
		t.Fatal(err)
	}
	c.settle(up...)
	want := []wire.ReplicaID{4}
	if told := joins(t, c); !slices.Equal(told, want) {
		t.Fatalf("%v were told at once, want %v", told, want)
	}
	for range 3 {
		if told := beat(); !slices.Equal(told, want) {
			t.Fatalf("%v were told with a heartbeat, want %v", told, want)
		}
	}
	// The answer to a heartbeat proves nothing that a crash leaves.
	if err := g.Step(&wire.Message{Kind: wire.HeartbeatResponse, Group: 1, From: 4, To: 1, Term: g.Term()}); err != nil {
		t.Fatal(err)
	}
	if told := beat(); !slices.Equal(told, want) {
		t.Fatalf("%v were told after an answer, want %v", told, want)
	}
	if err := learner.start(0); err != nil {
		t.Fatal(err)
	}
	up = c.all()
	c.settle(up...)
	beat() // the first append to it may have been lost
	if told := beat(); len(told) > 0 {
		t.Fatalf("%v were told, the learner runs", told)
	}
	// Another leader has not heard from it.
	learner.g = nil
	up = up[:3]
	c.tick(c.tuning.ElectionTicks, up[1:]...) // they forget that they heard of a leader
	lead(2)
	c.settle(up...)
	if told := beat(); !slices.Equal(told, want) {
		t.Fatalf("%v were told by the new leader, want %v", told, want)
	}
	// Promoted, it is not told any more.
	if _, _, err := c.node(2).g.ChangeMembers(MembershipChange{Changes: []Change{{Op: AddVoter, Replica: 4}}}); err != nil {
		t.Fatal(err)
	}
	c.settle(up...)
	joins(t, c)
	if told := beat(); len(told) > 0 {
		t.Fatalf("%v were told, the learner is a voter", told)
	}
}

// A learner that has been made a voter by an entry that the leader has not applied
// may have voted and acknowledged as one elsewhere: its store is not told to run it.
func TestJoinWaitsForPendingMembership(t *testing.T) {
	c := newCluster(members(3), Tuning{})
	for _, n := range c.nodes {
		if err := n.start(0); err != nil {
			t.Fatal(err)
		}
	}
	up := c.all()
	g := c.node(1).g
	if err := g.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.settle(up...)
	c.join(4)
	change := func(op ChangeOp) wire.Index {
		t.Helper()
		index, _, err := g.ChangeMembers(MembershipChange{Changes: []Change{{Op: op, Replica: 4, Store: 4}}})
		if err != nil {
			t.Fatal(err)
		}
		c.settle(up...)
		return index
	}
	change(AddLearner)
	if told := joins(t, c); len(told) == 0 {
		t.Fatal("the learner is not told")
	}
	c.node(1).keepApplying = false
	promoted := change(AddVoter)
	joins(t, c)
	c.tick(c.tuning.HeartbeatTicks, up...)
	c.settle(up...)
	if g.Commit() < promoted || g.Members().Index >= promoted {
		t.Fatalf("commit %d, membership %d, want one entry that is committed and not in force", g.Commit(), g.Members().Index)
	}
	if told := joins(t, c); len(told) > 0 {
		t.Errorf("%v were told, by entry %d they may vote", told, promoted)
	}
}
