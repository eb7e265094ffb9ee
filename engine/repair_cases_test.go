package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// TestReplicaThatGaveUpIsReplacedByAVoter: a machine without snapshots meets damage
// while it runs. What takes its place votes as it did, also when the store ends
// before anybody has heard of it.
func TestReplicaThatGaveUpIsReplacedByAVoter(t *testing.T) {
	for _, restart := range []bool{false, true} {
		c := newRepairCluster(t, 3, []wire.GroupID{1}, nil)
		c.joins, c.plain = true, true
		c.startAll(5)
		at := c.leader(1)
		away := (at + 1) % 3
		c.close(away)
		c.write(1, 20)
		flipIn(t, c.places[at].fs, fmt.Sprintf("1:%06d", c.sent-10))
		cut := restart
		c.pass = func(from, to wire.StoreID, m *wire.Message) bool { return !cut || m.Kind != wire.Rejoin }
		c.start(away)
		c.until("found", func() bool { return len(c.damaged) > 0 })
		if len(c.damaged) != 1 || c.damaged[0].Group != 1 || c.damaged[0].InPlace {
			t.Fatalf("told of %+v", c.damaged)
		}
		if restart {
			c.close(at)
			cut = false
			c.start(at)
		}
		c.until(fmt.Sprintf("restart %v: whole", restart), func() bool { return c.repaired[1] != 0 && c.whole(25) })
		if st := c.group(at, 1).Status(); st.Self.Replica != 4 || st.Self.Role != wire.Voter || c.repaired[1] != 4 {
			t.Errorf("restart %v: it goes on as %+v, repaired %v", restart, st.Self, c.repaired)
		}
	}
}

// TestWoundedReplicaThatWasRemoved: an operator removes a replica that waits for its
// repair, and that hears nothing of it. It learns so when it asks again, though it
// never campaigns, and also when the one that it takes for the leader is gone.
func TestWoundedReplicaThatWasRemoved(t *testing.T) {
	for _, gone := range []bool{false, true} {
		c := newRepairCluster(t, 4, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotEntries = 10_000 })
		c.startAll(30)
		lead := c.leader(1)
		victim := (lead + 1) % 4
		c.close(victim)
		flipIn(t, c.places[victim].fs, "1:000007")
		cut := false
		c.pass = func(from, to wire.StoreID, m *wire.Message) bool {
			return m.Kind != wire.Snapshot && (!cut || from != wire.StoreID(victim+1) && to != wire.StoreID(victim+1))
		}
		c.start(victim)
		c.tick(30)
		if st := c.group(victim, 1).Status(); st.Repairing == nil || st.Leader.Store != wire.StoreID(lead+1) {
			t.Fatalf("not wounded: %+v", st)
		}
		cut = true
		change := group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: wire.ReplicaID(victim + 1)}}}
		removed := false
		if err := c.group(lead, 1).ChangeMembersAsync(change, func(_ engine.Membership, err error) { removed = err == nil }); err != nil {
			t.Fatal(err)
		}
		c.until("removed", func() bool { return removed })
		c.tick(50) // all that are left know
		if gone {
			c.close(lead)
			c.tick(50)
		}
		cut = false
		c.until(fmt.Sprintf("leader gone %v: it knows", gone), func() bool {
			_, runs := c.places[victim].store.Group(1)
			return !runs
		})
		c.tick(50)
		if n := c.places[victim].store.Metrics().Repairing; n != 0 {
			t.Errorf("%d replicas wait", n)
		}
	}
}

// TestRepairOfAnIdleGroup: nobody writes after the damage was found.
func TestRepairOfAnIdleGroup(t *testing.T) {
	for victim := range 3 {
		for _, at := range []int{2, 15, 29} {
			c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotEntries = 10_000 })
			c.startAll(30)
			c.close(victim)
			flipIn(t, c.places[victim].fs, fmt.Sprintf("1:%06d", at))
			c.start(victim)
			c.until(fmt.Sprintf("store %d, entry %d: whole", victim+1, at), func() bool { return c.whole(30) })
		}
	}
}

// TestLostGroupIsStartedAgain: a host that starts a lost replica once more gives the
// store another machine for its successor, and the earlier one is used no more.
func TestLostGroupIsStartedAgain(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID == 2 })
	c.startAll(3)
	for at := range c.places {
		c.close(at)
	}
	c.places[1].fs = vfs.New(vfs.Options{})
	lost = true
	c.start(1)
	p := c.places[1]
	var refused *engine.ReplicaLostError
	if _, err := p.store.StartGroup(t.Context(), engine.GroupConfig{ID: 1, Members: c.members, StateMachine: c.machine(p, 1)}); !errors.As(err, &refused) {
		t.Fatal(err)
	}
	c.start(0)
	c.start(2)
	c.until("whole", func() bool { return c.whole(3) })
}

// TestDemotedVoterIsNotRevived: a leader asks the store of a learner to run it, and does
// not know that it had a vote once. A store that has lost its disk, and was not told to
// start the group, does not run it: another one comes in its place.
func TestDemotedVoterIsNotRevived(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID == 2 })
	c.joins = true
	c.startAll(12)
	c.close(1)
	g := c.group(c.leader(1), 1)
	if g.Store().ID() == 2 {
		t.Fatal("the store that is closed leads")
	}
	demoted := errors.New("not answered")
	if err := g.ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 2}}}, func(_ engine.Membership, err error) {
		demoted = err
	}); err != nil {
		t.Fatal(err)
	}
	c.until("demoted", func() bool { return demoted == nil })
	c.close(0)
	c.close(2) // who has led knows that it ran
	c.places[1].fs = vfs.New(vfs.Options{})
	lost = true
	c.start(0)
	c.start(2)
	c.lost[1] = 2
	c.watch(1)
	groups := c.groups
	c.groups = nil
	c.start(1)
	c.groups = groups
	runs := func() bool {
		g, ok := c.places[1].store.Group(1)
		return ok && g.Status().Applied >= c.group(c.leader(1), 1).Applied()
	}
	c.until("another replica is there", runs)
	if st := c.group(1, 1).Status(); st.Self.Replica != 4 || st.Self.Role != wire.Learner {
		t.Errorf("%+v, want replica 4, a learner", st.Self)
	}
	c.write(1, 1)
	c.until("it goes on", runs)
	c.ordered()
}

// TestDamageBeforeTheFirstMembership: a replica that joins knows no members until it has
// applied that it is one. It cannot read what it is to apply before; others can.
func TestDamageBeforeTheFirstMembership(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotEntries = 10_000 })
	c.joins = true
	c.startAll(5)
	c.leadElsewhere(2)
	c.changeOne(group.Change{Op: group.Remove, Replica: 3})
	p := c.places[2]
	c.until("tombstone", func() bool { _, runs := p.store.Group(1); return !runs })
	c.pass = func(_, to wire.StoreID, m *wire.Message) bool {
		if to == 3 {
			m.Commit = min(m.Commit, 3)
		}
		return true
	}
	c.write(1, 20)
	c.changeOne(group.Change{Op: group.AddLearner, Replica: 4, Store: 3})
	last := c.group(c.leader(1), 1).Status().Last
	c.until("all entries", func() bool { return p.steps.Stored(1).Last() >= last })
	c.close(2) // its log is not in memory any more
	c.groups = nil
	c.start(2)
	c.groups = []wire.GroupID{1}
	if _, err := p.store.StartGroup(t.Context(), engine.GroupConfig{ID: 1, StateMachine: c.machine(p, 1)}); err != nil {
		t.Fatal(err)
	}
	flipIn(t, p.fs, fmt.Sprintf("1:%06d", c.sent-10))
	if g := c.group(2, 1); !g.Joins() || g.Applied() > 3 {
		t.Fatalf("%+v", g.Status())
	}
	c.pass = nil
	c.until("healed", func() bool { return p.store.Metrics().HealedReplicas == 1 && c.converged(25) })
	if self := c.group(2, 1).Status().Self; self.Replica != 4 || self.Role != wire.Learner {
		t.Errorf("%+v", self)
	}
}

// TestTwoOfThreeLost: nobody is elected, nobody votes under an old id, and both say
// that they wait.
func TestTwoOfThreeLost(t *testing.T) {
	lost := false
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID != 1 })
	c.startAll(3)
	for at := range c.places {
		c.close(at)
	}
	lost = true
	c.places[1].fs, c.places[2].fs = vfs.New(vfs.Options{}), vfs.New(vfs.Options{})
	for at := range c.places {
		c.start(at)
	}
	c.tick(500)
	if m := c.group(0, 1).Status(); m.Leader.Store != 0 || c.places[1].store.Metrics().Repairing != 1 || c.places[2].store.Metrics().Repairing != 1 {
		t.Errorf("%+v", m)
	}
}

// TestMajorityWoundedWithEntriesInFlight: two of three have acknowledged an entry that
// the third does not know to be committed. They elect it, and it can commit nothing, so
// no state holds that entry: the group stands still, and nobody gives up its promise.
func TestMajorityWoundedWithEntriesInFlight(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotEntries = 10_000 })
	c.startAll(30)
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool { return m.Kind != wire.AppendResponse }
	if err := c.group(c.leader(1), 1).ProposeAsync([]byte("in flight"), engine.NewPending(&c.count)); err != nil {
		t.Fatal(err)
	}
	c.settle()
	for at := range c.places {
		c.close(at)
	}
	flipIn(t, c.places[0].fs, "1:000007")
	flipIn(t, c.places[1].fs, "1:000019")
	c.pass = nil
	for at := range c.places {
		c.start(at)
	}
	c.tick(1000)
	for at := range 2 {
		if st := c.group(at, 1).Status(); st.Repairing == nil || st.Leader.Store != 3 || st.Last != 32 {
			t.Errorf("store %d: %+v", at+1, st)
		}
	}
	if n := len(c.places[2].books[1].commands); n != 30 || len(c.lost) != 0 {
		t.Errorf("the leader has applied %d commands, lost %v", n, c.lost)
	}
}

// TestCompactionWaitsForADurableMachine: a durable machine that is behind the newest
// snapshot has started from its own state, with the entries in between in the log.
// They stay there until it has them, whatever the snapshot holds.
func TestCompactionWaitsForADurableMachine(t *testing.T) {
	keep := uint64(1000)
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotEntries, cfg.KeepEntries = 10_000, keep })
	c.durable = true
	c.mustOpen(0, 1, 2)
	c.write(1, 30)
	c.until("equal", func() bool { return c.converged(30) })
	behind := *c.places[1].disks[1]
	c.write(1, 30)
	c.until("equal", func() bool { return c.converged(60) })
	made := func(g *engine.Group) {
		t.Helper()
		done := false
		if err := g.SnapshotAsync(func(_ wire.Index, err error) {
			if done = true; err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			c.step(c.places[1])
		}
		if !done {
			t.Fatal("no snapshot was made")
		}
	}
	made(c.group(1, 1))
	c.crash(1, vfs.CrashOptions{})
	*c.places[1].disks[1] = behind // its last pages were not on the disk
	keep = 2
	c.mustOpen(1)
	if at := c.group(1, 1).Status().Applied; at != behind.index {
		t.Fatalf("it begins at entry %d, want %d", at, behind.index)
	}
	made(c.group(1, 1)) // of its own state; the log may then be compacted
	c.until("equal", func() bool { return c.converged(60) })
	if err := c.group(1, 1).Err(); err != nil {
		t.Error(err)
	}
}

// TestDamageBehindATombstone: a store had a replica that was removed. What is damaged
// behind its tombstone may be the replica that came next, so the store asks for that
// one, and hosts the group again.
func TestDamageBehindATombstone(t *testing.T) {
	for _, returned := range []bool{false, true} {
		c := newRepairCluster(t, 3, []wire.GroupID{1, 2}, func(cfg *engine.Config) { cfg.SnapshotEntries = 10_000 })
		c.joins = true
		c.startAll(3)
		victim := (c.leader(1) + 1) % 3
		p := c.places[victim]
		change := func(change group.Change) {
			t.Helper()
			done := false
			err := c.group(c.leader(1), 1).ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{change}}, func(_ engine.Membership, err error) {
				if done = true; err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			c.until("changed", func() bool { return done })
		}
		change(group.Change{Op: group.Remove, Replica: p.replica()})
		c.until("removed", func() bool { _, runs := p.store.Group(1); return !runs })
		from := spoilable(t, p.fs)
		if returned {
			change(group.Change{Op: group.AddLearner, Replica: 4, Store: p.id})
			c.until("joined", func() bool { return c.converged(3) })
			change(group.Change{Op: group.AddVoter, Replica: 4})
		}
		c.write(2, 5)
		to := spoilable(t, p.fs)
		c.write(2, 5) // proves what was written before
		c.close(victim)
		for name, end := range to {
			if end > from[name] {
				if err := p.fs.Spoil(name, from[name], make([]byte, end-from[name])); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.start(victim)
		if !returned {
			change(group.Change{Op: group.AddLearner, Replica: 4, Store: p.id})
			c.until("joined", func() bool { return c.converged(3) })
			continue
		}
		c.until("whole", func() bool { return c.whole(3) })
		if id := c.group(victim, 1).Status().Self.Replica; id != 5 {
			t.Errorf("it goes on as replica %d", id)
		}
	}
}

// replica is the one that a group has on this store at first.
func (p *place) replica() wire.ReplicaID { return wire.ReplicaID(p.id) }

// spoilable tells how far each segment of a disk is written.
func spoilable(t testing.TB, fs *vfs.MemFS) map[string]int64 {
	ends := map[string]int64{}
	for _, name := range filesOf(t, fs) {
		if strings.Contains(name, "segment-") {
			ends[name] = int64(len(strings.TrimRight(string(contentOf(t, fs, name)), "\x00"))+511) &^ 511
		}
	}
	return ends
}
