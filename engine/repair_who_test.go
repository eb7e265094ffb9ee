package engine_test

import (
	"errors"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// loseDisk has a store come back with an empty disk.
func (c *repairCluster) loseDisk(at int) {
	c.t.Helper()
	c.close(at)
	c.places[at].fs = vfs.New(vfs.Options{})
	c.start(at)
}

// runsOn returns the replica of group 1 that runs on a store, zero for none.
func (c *repairCluster) runsOn(at int) wire.ReplicaID {
	if g, runs := c.places[at].store.Group(1); runs {
		return g.Status().Self.Replica
	}
	return 0
}

// TestLostSuccessorDoesNotRunAgain: the replica that took the place of a lost one is lost
// as well, before it was made a voter. The embedder knows of the first one only, and the
// leader is one that has heard nothing of the second: it would have it run again. Another
// one takes its place, and becomes the voter that the first one was.
func TestLostSuccessorDoesNotRunAgain(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID == 3 })
	c.startAll(12)
	lost = true
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool { return m.Kind != wire.Rejoin || m.Reject }
	c.loseDisk(2)
	self := func() wire.ReplicaID { return c.runsOn(2) }
	c.until("the successor runs", func() bool { return c.converged(12) })
	if self() != 4 {
		t.Fatalf("replica %d runs", self())
	}
	c.pass = nil
	at := c.leader(1)
	c.close(at)
	c.loseDisk(2)
	c.start(at)
	c.until("whole", func() bool {
		if self() == 4 {
			t.Fatal("replica 4 runs again")
		}
		return c.whole(12)
	})
	if self() != 5 {
		t.Errorf("replica %d runs", self())
	}
}

// TestOlderMarkIsAskedAbout: the successor of a lost replica is lost as well. The store
// was told to start the first one, which is noted, and ended before it heard from anybody.
// In its next life nobody starts anything, and the leader asks it to run the successor:
// the mark of the first one does not say that the second never ran.
func TestOlderMarkIsAskedAbout(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID == 3 })
	c.joins = true
	c.startAll(12)
	c.leadElsewhere(2)
	c.close(2)
	lost = true
	c.places[2].fs = vfs.New(vfs.Options{})
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool { return m.Kind != wire.Rejoin || m.Reject }
	c.start(2)
	c.until("the successor runs", func() bool { return c.converged(12) })
	if self := c.group(2, 1).Status().Self; self.Replica != 4 || self.Role != wire.Learner {
		t.Fatalf("%+v runs", self)
	}
	clear(c.lost)
	c.loseDisk(2)
	if c.lost[1] != 3 {
		t.Fatalf("lost: %v", c.lost)
	}
	c.close(2)
	at := c.leader(1) // who has led knows that the successor ran
	c.close(at)
	c.start(at)
	lost, c.pass = false, nil
	c.groups = nil
	c.start(2)
	c.groups = []wire.GroupID{1}
	runs := func() bool {
		g, ok := c.places[2].store.Group(1)
		if ok && g.Status().Self.Replica == 4 {
			t.Fatal("replica 4 runs again")
		}
		return ok && g.Status().Applied >= c.group(c.leader(1), 1).Applied()
	}
	c.until("another replica is there", runs)
	c.until("whole", func() bool { return runs() && c.whole(12) })
	if self := c.group(2, 1).Status().Self; self.Replica != 5 {
		t.Errorf("%+v runs", self)
	}
}

// TestOlderReplicaInADamagedLog: a log has lost a part, and all that is left of a group is
// an older replica than ran last. In this life nobody starts anything, and the leader asks
// it to run that one again.
func TestOlderReplicaInADamagedLog(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, nil)
	c.joins = true
	c.startAll(12)
	c.leadElsewhere(2)
	p := c.places[2]
	older := p.fs.CrashClone(nil, vfs.AllLost)
	c.changeOne(group.Change{Op: group.Remove, Replica: 3})
	c.until("tombstone", func() bool { return c.runsOn(2) == 0 })
	c.changeOne(group.Change{Op: group.AddLearner, Replica: 4, Store: 3})
	c.until("the successor runs", func() bool { return c.runsOn(2) == 4 && c.converged(12) })
	c.close(2)
	at := c.leader(1) // who has led knows that the successor ran
	c.close(at)
	c.start(at)
	p.fs = older
	flipIn(t, p.fs, "1:000003")
	c.groups = nil
	c.start(2)
	c.groups = []wire.GroupID{1}
	if err := p.steps.Stored(1).Err(); err == nil {
		t.Fatal("nothing is damaged")
	}
	c.until("another replica is there", func() bool {
		if c.runsOn(2) == 4 {
			t.Fatal("replica 4 runs again")
		}
		return c.runsOn(2) == 5 && c.converged(12)
	})
}

// TestNewLeaderFirstCatchesUp: the successor of a lost replica is lost as well, and who
// leads by then has yet to apply that it was ever added. It says nothing of what the store
// had before it has: the store would take the successor for one that never ran.
func TestNewLeaderFirstCatchesUp(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID == 3 })
	c.startAll(12)
	c.leadElsewhere(2)
	old := c.leader(1)
	next := 1 - old
	var before wire.Index
	c.until("all is applied", func() bool {
		before = c.group(next, 1).Status().Committed
		return before == c.group(old, 1).Status().Applied
	})
	alone := false // the next leader cannot commit anything
	c.pass = func(_, to wire.StoreID, m *wire.Message) bool {
		if to == c.places[next].id {
			m.Commit = min(m.Commit, before)
			if m.Kind == wire.AppendResponse && alone {
				return false
			}
		}
		return m.Kind != wire.Rejoin || m.Reject // nobody is made a voter
	}
	lost = true
	self := func() wire.ReplicaID { return c.runsOn(2) }
	c.loseDisk(2)
	c.until("the successor runs", func() bool { return self() == 4 && c.places[2].steps.Stored(1).Last() > before })
	alone = true
	if err := c.places[old].steps.TransferLeader(c.group(old, 1), wire.ReplicaID(next+1)); err != nil {
		t.Fatal(err)
	}
	c.until("transfer", func() bool { return c.group(next, 1).IsLeader() })
	c.loseDisk(2)
	c.tick(50)
	if g := c.group(next, 1); !g.IsLeader() || g.Status().Applied > before {
		t.Fatal("the leader is not behind")
	}
	c.pass = nil
	c.until("whole", func() bool {
		if self() == 4 {
			t.Fatal("replica 4 runs again")
		}
		return c.whole(12)
	})
	if self() != 5 {
		t.Errorf("replica %d runs", self())
	}
}

// TestDeposedLeaderNamesNobody: the successor of a lost replica is lost as well, and the
// first to be asked which one it was led before that was added, and does not know that
// others lead by now. It says nothing before a majority has told it that it leads.
func TestDeposedLeaderNamesNobody(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 5, []wire.GroupID{1}, func(cfg *engine.Config) {
		cfg.DiskLost = lost && cfg.ID == 5
		cfg.Tuning.DisableCheckQuorum = true // or it would find out by itself
	})
	c.startAll(12)
	c.leadElsewhere(4)
	old := c.places[c.leader(1)].id
	alone := func(from, to wire.StoreID) bool { return from == old || to == old }
	c.pass = func(from, to wire.StoreID, m *wire.Message) bool {
		return !alone(from, to) && (m.Kind != wire.Rejoin || m.Reject) // nobody is made a voter
	}
	lost = true
	self := func() wire.ReplicaID { return c.runsOn(4) }
	c.loseDisk(4)
	c.until("the successor runs", func() bool { return self() == 6 && !c.group(4, 1).Joins() })
	var next int
	for at := range 4 {
		if g := c.group(at, 1); g.IsLeader() && c.places[at].id != old {
			next = at
		}
	}
	asked := false
	c.pass = func(from, to wire.StoreID, m *wire.Message) bool {
		asked = asked || to == old && m.Kind == wire.Rejoin
		return alone(from, to) && (from == 5 || to == 5)
	}
	c.loseDisk(4)
	c.tick(50)
	if !asked || !c.group(int(old-1), 1).IsLeader() {
		t.Fatal("who led before was not asked")
	}
	c.close(next) // who has led knows that the successor ran
	c.start(next)
	c.pass = func(from, to wire.StoreID, _ *wire.Message) bool { return !alone(from, to) }
	again := func() bool {
		if self() == 6 {
			t.Fatal("replica 6 runs again")
		}
		return self() == 7
	}
	c.until("another successor runs", again)
	c.pass = nil
	c.until("whole", func() bool { return again() && c.whole(12) })
}

// TestMarksLeaveAStoreBlank: a store that has lost its disk ends before it has met
// anybody. What it has noted of its replicas does not keep it out.
func TestMarksLeaveAStoreBlank(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = true })
	for range 2 {
		c.start(2)
		if life := c.places[2].steps.Incarnation(); life >= 10 {
			t.Fatalf("life %d", life)
		}
		c.crash(2, vfs.CrashOptions{})
	}
	c.start(2)
	if life := c.places[2].steps.Outlived(1, 10); life <= 10 {
		t.Errorf("the store is in life %d, and its peers have met 10", life)
	}
	c.close(2)
}

// answer has a store hear from replica 1, on store 1, what it asks about group 1.
func (c *repairCluster) answer(at int, m wire.Message) {
	c.t.Helper()
	m.Kind, m.From = wire.Rejoined, 1
	c.say(at, m)
}

// TestWordOfAFormerLeader: a leader that knows of no id as high as the one that was lost
// does not know what the group has here. One that does may say that there is none.
func TestWordOfAFormerLeader(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = true })
	c.start(2)
	p := c.places[2]
	says := func(m wire.Message) int64 {
		c.answer(2, m)
		return p.store.Metrics().Repairing
	}
	for _, hint := range []wire.Index{1, 2} {
		if says(wire.Message{Reject: true, Hint: hint}) != 1 || says(wire.Message{Hint: hint}) != 1 {
			t.Fatalf("what a leader says that knows of replica %d is taken", hint)
		}
	}
	if says(wire.Message{Reject: true, Hint: 3}) != 0 {
		t.Error("the store asks on")
	}
	c.close(2)
}

// TestEverybodyIsAsked: the members of a lost replica's group may be on other stores by
// now than those that are stored.
func TestEverybodyIsAsked(t *testing.T) {
	c := newRepairCluster(t, 5, []wire.GroupID{1}, func(cfg *engine.Config) {
		cfg.DiskLost = true
		cfg.Peers = map[wire.StoreID]string{1: "a", 2: "b", 4: "d", 5: "e"}
	})
	c.members = c.members[:3]
	c.start(2)
	p := c.places[2]
	for _, peer := range c.places {
		if peer != p {
			p.handler.PeerUp(peer.id, 1, wire.ProtocolVersion)
		}
	}
	for range 20 {
		p.steps.Tick()
		p.steps.Join()
	}
	for _, peer := range c.places {
		if peer != p && len(peer.inbox) == 0 {
			t.Errorf("store %d is not asked", peer.id)
		}
	}
	c.close(2)
}

// TestDemotedSuccessorStaysALearner: a replica that has taken the place of a lost voter,
// and became one, was made a learner since. It does not ask for its vote again.
func TestDemotedSuccessorStaysALearner(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID == 3 })
	c.startAll(12)
	c.close(2)
	lost = true
	c.places[2].fs = vfs.New(vfs.Options{})
	c.start(2)
	c.until("whole", func() bool { return c.whole(12) })
	demoted := errors.New("not answered")
	if err := c.group(c.leader(1), 1).ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 4}}}, func(_ engine.Membership, err error) {
		demoted = err
	}); err != nil {
		t.Fatal(err)
	}
	c.until("demoted", func() bool { return demoted == nil })
	c.write(1, 1)
	c.until("equal", func() bool { return c.converged(13) })
	c.close(2)
	lost = false
	c.start(2)
	if n := c.places[2].store.Metrics().Repairing; n != 0 {
		t.Errorf("%d replicas wait for something", n)
	}
	c.tick(300)
	if n := c.voters(1); n != 2 {
		t.Errorf("%d voters", n)
	}
}

// TestWordOfAnEmbedderWhereTheLogHasForgotten: the successor of a lost voter is lost
// before it has its vote, and nothing in the log tells what it was to become. Its leader
// knows of a learner, and the embedder of a voter, so another voter takes its place.
func TestWordOfAnEmbedderWhereTheLogHasForgotten(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1, 2}, func(cfg *engine.Config) {
		cfg.DiskLost = lost && cfg.ID == 3
		cfg.SnapshotEntries = 10_000
	})
	c.startAll(3)
	c.close(2)
	p := c.places[2]
	p.fs = vfs.New(vfs.Options{})
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool { return m.Kind != wire.Rejoin || m.Reject }
	lost = true
	c.start(2)
	c.until("successors run", func() bool { return c.converged(3) })
	forgotten := spoilable(t, p.fs)
	c.write(2, 5) // proves what was written before
	c.until("proven", func() bool { return c.voters(1) == 2 })
	c.close(2)
	for name, end := range forgotten {
		if err := p.fs.Spoil(name, 0, make([]byte, end)); err != nil {
			t.Fatal(err)
		}
	}
	lost, c.pass = false, nil
	clear(c.lost)
	c.start(2)
	if len(c.lost) > 0 {
		t.Fatalf("the log knows of %v", c.lost)
	}
	c.write(1, 5)
	c.until("whole", func() bool { return c.whole(8) })
	for _, id := range c.groups {
		if now := c.group(2, id).Status().Self.Replica; now != 5 {
			t.Errorf("replica %d of group %d runs", now, id)
		}
	}
}

// TestLostReplicaWasRemoved: the event that tells that a lost replica was removed
// names that one, and not the newest of its group, which is on another store.
func TestLostReplicaWasRemoved(t *testing.T) {
	var removed []*engine.ReplicaRemovedError
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) {
		cfg.DiskLost = true
		cfg.Events.ReplicaRemoved = func(err *engine.ReplicaRemovedError) { removed = append(removed, err) }
	})
	c.start(2)
	c.answer(2, wire.Message{Reject: true, Hint: 7})
	if len(removed) != 1 || *removed[0] != (engine.ReplicaRemovedError{Group: 1, Replica: 3}) {
		t.Errorf("removed: %v", removed)
	}
	if n := c.places[2].store.Metrics().Repairing; n != 0 {
		t.Errorf("%d replicas wait for something", n)
	}
	c.close(2)
}
