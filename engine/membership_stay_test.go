package engine_test

import (
	"errors"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

// A leader that is removed and stays is found by the followers and their clients,
// and hands over when it is told to.
func TestRemovedLeaderStays(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, func(cfg *engine.Config) {
		cfg.Tuning.StayWhenRemoved = true
		cfg.Tuning.ElectionTicks = 50 // nobody but the transfer is to end the leadership
		cfg.ForwardProposals = true
	})
	old := f.begin(1, 2, 3, 4)
	f.propose(1, "a")
	self := old.Status().Self
	if err := old.RemoveReplica(f.ctx(), self.Replica); err != nil {
		t.Fatal(err)
	}
	if got := old.Leader(); got.Replica != self.Replica || got.Store != self.Store {
		t.Errorf("the leader takes %+v for the leader, want itself", got)
	}
	var followers []*engine.Group
	for id := wire.StoreID(1); id <= 4; id++ {
		if id == self.Store {
			continue
		}
		g := f.group(id, 1)
		followers = append(followers, g)
		f.until("the follower knows of the removal", func() bool { return !has(g.Membership(), self.Replica) })
		if got := g.Leader(); got.Replica != self.Replica || got.Store != self.Store {
			t.Errorf("store %d takes %+v for the leader, want replica %d on store %d", id, got, self.Replica, self.Store)
		}
		if value, err := g.Read(f.ctx(), nil); err != nil || len(value.([]string)) == 0 {
			t.Errorf("read on store %d: %v, %v", id, value, err)
		}
		if _, err := g.Propose(f.ctx(), []byte("b")); err != nil {
			t.Errorf("forwarded from store %d: %v", id, err)
		}
	}
	// A follower that starts anew hears of the leader from the leader.
	away := followers[0].Store().ID()
	f.close(away)
	f.open(away)
	f.mu.Lock()
	f.ledgers[away] = &ledger{}
	machine := f.ledgers[away]
	f.mu.Unlock()
	again, err := f.stores[away].StartGroup(f.ctx(), engine.GroupConfig{ID: 1, StateMachine: machine})
	if err != nil {
		t.Fatal(err)
	}
	f.until("the restarted follower knows where the leader lives", func() bool { return again.Leader().Store == self.Store })
	if _, err := again.Propose(f.ctx(), []byte("b")); err != nil {
		t.Errorf("forwarded after a restart: %v", err)
	}
	if !old.IsLeader() {
		t.Fatal("the removed leader does not lead any more")
	}
	if err := old.TransferLeader(f.ctx(), followers[1].Status().Self.Replica); err != nil {
		t.Errorf("transfer by the removed leader: %v", err)
	}
	f.until("the old leader ends", func() bool {
		var removed *engine.ReplicaRemovedError
		return errors.As(old.Err(), &removed)
	})
	f.gone(self.Store, self.Replica)
	f.until("a member leads", func() bool {
		at := f.leader(1).Status().Self.Store
		return at != self.Store
	})
	f.propose(1, "c")
	f.agree([]string{"a", "b", "b", "b", "b", "c"}, followers[0].Store().ID(), followers[1].Store().ID(), followers[2].Store().ID())
}
