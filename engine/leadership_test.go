package engine_test

import (
	"errors"
	"fmt"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

func TestTransferLeader(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll(1)
	c.propose(1, "0")
	for i := range 6 {
		from := c.leader(1)
		to := wire.ReplicaID(i%3 + 1)
		asked := c.group(wire.StoreID((i+1)%3+1), 1) // now the leader, now a follower
		if err := asked.WaitLeader(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := asked.TransferLeader(c.ctx(), to); err != nil {
			t.Fatalf("transfer from store %d to replica %d: %v", from.Store().ID(), to, err)
		}
		if got := asked.Leader().Replica; got != to {
			t.Fatalf("replica %d leads, want %d", got, to)
		}
		c.propose(1, fmt.Sprint(i+1))
	}
	c.converge(1, 7)
}

func TestTransferLeaderIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.startAll(1)
	c.propose(1, "x")
	leader := c.leader(1)
	if err := leader.TransferLeader(c.ctx(), 9); !errors.Is(err, engine.ErrNotVoter) {
		t.Errorf("to a stranger: %v, want ErrNotVoter", err)
	}
	if err := leader.TransferLeader(c.ctx(), wire.ReplicaID(leader.Store().ID())); err != nil {
		t.Errorf("to the leader itself: %v", err)
	}
	gone := wire.StoreID(1)
	if leader.Store().ID() == gone {
		gone = 2
	}
	c.close(gone)
	if err := leader.TransferLeader(c.ctx(), wire.ReplicaID(gone)); !errors.Is(err, engine.ErrTransferFailed) {
		t.Errorf("to a store that is down: %v, want ErrTransferFailed", err)
	}
	c.propose(1, "the old leader goes on")
}

// A replica of higher priority leads when it can, and again after it was away.
func TestPriorityBringsTheLeadershipBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	priority := map[wire.ReplicaID]uint8{2: 1}
	start := func(id wire.StoreID) {
		c.machines[id][1] = &ledger{}
		if _, err := c.stores[id].StartGroup(c.ctx(), engine.GroupConfig{
			ID: 1, Members: threeMembers, StateMachine: c.machines[id][1], Priority: priority}); err != nil {
			t.Fatal(err)
		}
	}
	for id := range c.stores {
		start(id)
	}
	c.until("replica 2 leads", func() bool { return c.group(2, 1).IsLeader() })
	c.propose(1, "x")
	c.close(2)
	c.propose(1, "y")
	c.open(2)
	start(2)
	c.until("replica 2 leads again", func() bool { return c.group(2, 1).IsLeader() })
	c.propose(1, "z")
	c.converge(1, 3)
}

// A replica stands for election when it is told to, and wins once the others take
// the leader for dead, long before they would have missed it.
func TestCampaignOnDemand(t *testing.T) {
	c := newCluster(t, func(cfg *engine.Config) { cfg.Tuning.ElectionTicks = 200 })
	c.startAll(1)
	c.propose(1, "0")
	c.converge(1, 1) // a replica that lacks an entry does not win
	leader := c.leader(1)
	if err := leader.Campaign(c.ctx()); err != nil {
		t.Errorf("campaign of the leader: %v", err)
	}
	var followers []*engine.Group
	for id := wire.StoreID(1); id <= 3; id++ {
		if g := c.group(id, 1); g.Store() != leader.Store() {
			followers = append(followers, g)
		}
	}
	c.close(leader.Store().ID())
	for _, g := range followers {
		if err := g.ForgetLeader(c.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	if err := followers[0].Campaign(c.ctx()); err != nil {
		t.Fatal(err)
	}
	if !followers[0].IsLeader() {
		t.Error("the campaign succeeded, and its replica does not lead")
	}
	if got := followers[0].Status().Term; got < 2 {
		t.Errorf("term %d after a second election", got)
	}
}
