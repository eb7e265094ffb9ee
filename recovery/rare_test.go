package recovery_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/recovery"
	"multiraft/wire"
)

// TestOldMajorityOfSurvivors: survivors that are a majority of the old members elect
// nobody while the source is not up yet: it has entries that they lack, and that
// count as committed (Q2).
func TestOldMajorityOfSurvivors(t *testing.T) {
	c := newCluster(t, 5)
	c.open(five...)
	c.start(members(1, 2, 3), 1, 2, 3)
	c.write(4, 1, 2, 3)
	c.until("store 1 leads", func() bool { return lead(c, 1) })
	c.partition(1)
	d := new(done)
	var tail []string
	for range 3 {
		tail = append(tail, c.propose(d, 1))
	}
	c.tick()
	c.kill(five...)
	c.cut = nil
	p := c.plan(recovery.Options{Groups: []wire.GroupID{1}, Force: "a drill"}, 1, 2, 3)
	if p.Groups[0].Source != 1 {
		t.Fatalf("source is %d", p.Groups[0].Source)
	}
	c.apply(p, 1, 2, 3)
	c.open(2, 3)
	c.start(nil, 2, 3)
	for range 200 {
		c.tick()
		if g := c.leader(2, 3); g != nil {
			t.Fatalf("store %d leads without the floor", g.Store().ID())
		}
	}
	c.open(1)
	c.start(nil, 1)
	c.serves(1, 2, 3)
	for _, command := range tail {
		if !slices.Contains(c.sites[3].machine.commands, command) {
			t.Errorf("%q is lost", command)
		}
	}
	for _, id := range []wire.StoreID{1, 2, 3} { // all of them vote
		c.kill(id)
		c.serves(slices.DeleteFunc([]wire.StoreID{1, 2, 3}, func(other wire.StoreID) bool { return other == id })...)
		c.open(id)
		c.start(nil, id)
	}
}

// TestRecoverTwice: a survivor of the first recovery is left behind by the second.
func TestRecoverTwice(t *testing.T) {
	c := newCluster(t, 5)
	c.open(five...)
	c.start(members(five...), five...)
	c.write(3, five...)
	c.kill(five...)
	c.apply(c.plan(recovery.Options{}, 1, 2), 1, 2)
	c.open(1, 2)
	c.start(nil, 1, 2)
	c.serves(1, 2)
	c.kill(1, 2)
	p := c.plan(recovery.Options{}, 2)
	if g := p.Groups[0]; g.Generation != 2 || len(g.Lost) != 1 || g.Ceiling < 1<<17 {
		t.Errorf("plan %+v", g)
	}
	c.apply(p, 2)
	c.open(2)
	c.start(nil, 2)
	c.serves(2)
	c.open(1, 3, 4, 5)
	c.start(nil, 1, 3, 4, 5)
	c.expectBarred(1, 3, 4, 5)
	c.serves(2)
}

// TestDamagedCountsAsLost: a replica that lost entries is no survivor, is barred, and
// its disk is left as it is.
func TestDamagedCountsAsLost(t *testing.T) {
	c := newCluster(t, 5)
	c.open(five...)
	c.start(members(five...), five...)
	c.write(6, five...)
	c.kill(five...)
	s := c.sites[2]
	whole := s.disk
	names, err := whole.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	damaged := false
	for _, name := range names {
		if !strings.HasPrefix(name, "segment-") {
			continue
		}
		for at := int64(64); at < 2048 && !damaged; at += 16 {
			s.disk = whole.CrashClone(rand.New(rand.NewPCG(1, 2)), vfs.ProcessDies)
			if err := s.disk.FlipBit(dir+"/"+name, at, 3); err != nil {
				t.Fatal(err)
			}
			survey, err := c.disk(2).Survey()
			damaged = err == nil && len(survey.Replicas) == 1 && survey.Replicas[0].State == recovery.Damaged
		}
	}
	if !damaged {
		t.Fatal("no bit makes a difference: the test tests nothing")
	}
	p := c.plan(recovery.Options{}, 1, 2)
	g := &p.Groups[0]
	if g.Source != 1 || len(g.After) != 1 || len(g.Lost) != 4 || g.Replicas[1].Action != recovery.Leave || len(g.Notes) == 0 {
		t.Errorf("plan %+v", g)
	}
	before := c.survey(2)[0].Replicas[0].Mark
	c.apply(p, 1, 2)
	if after := c.survey(2)[0].Replicas[0].Mark; after != before {
		t.Error("what is left as it is was changed")
	}
	c.open(1)
	c.start(nil, 1)
	c.serves(1)
}

// TestSnapshotAheadOfLog: the only survivor is a learner that has just come up, and ended
// between the rename of the snapshot that it had received and the batch that puts its
// log behind it. It goes on from the snapshot, as its start would have.
func TestSnapshotAheadOfLog(t *testing.T) {
	c := newCluster(t, 6)
	c.snapshots = 4
	c.open(five...)
	c.start(members(five...), five...)
	c.write(20, five...)
	s := c.sites[6]
	var found *vfs.MemFS
	live := s.disk
	live.SetHook(func(op vfs.Op) vfs.Fault {
		if found != nil || !op.Kind.Mutates() {
			return vfs.Fault{}
		}
		clone := live.CrashClone(rand.New(rand.NewPCG(1, op.Call)), vfs.AllLost)
		survey, err := recovery.Disk{FS: clone, Dir: dir}.Survey()
		if err == nil && len(survey.Replicas) == 1 {
			if r := survey.Replicas[0]; r.Snapshot != nil && r.Snapshot.Index > r.Last {
				found = clone
			}
		}
		return vfs.Fault{}
	})
	ok := c.change(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 6, Store: 6}}}, five...)
	c.until("6 is added", func() bool { return *ok })
	c.write(20, five...)
	c.open(6)
	c.until("store 6 catches up", func() bool { return s.machine != nil && len(s.machine.commands) == len(c.acked) })
	if found == nil {
		t.Fatal("there was no such moment")
	}
	c.kill(c.ids()...)
	s.disk = found
	p := c.plan(recovery.Options{}, 6)
	g := &p.Groups[0]
	if snap := g.Replicas[0].Snapshot; snap == nil || g.Last != snap.Index || g.Committed != g.Last || len(g.Lost) != 5 {
		t.Fatalf("plan %+v", g)
	}
	c.apply(p, 6)
	c.open(6)
	c.start(nil, 6)
	want := slices.Clone(c.acked)
	c.serves(6)
	have := s.machine.commands
	if kept := len(have) - 3; kept < 20 || kept > len(want) || !slices.Equal(have[:kept], want[:kept]) {
		t.Errorf("has %q of %q", have, want)
	}
}

// TestBarredLeaderCannotReplace: those left behind have a majority, take a survivor
// out of the old members and add another replica on its store. The survivor's
// store does not give up its own for it.
func TestBarredLeaderCannotReplace(t *testing.T) {
	c := newCluster(t, 5)
	c.open(five...)
	c.start(members(five...), five...)
	c.write(3, five...)
	c.kill(five...)
	c.apply(c.plan(recovery.Options{}, 1, 2), 1, 2)
	c.open(1, 2)
	c.start(nil, 1, 2)
	c.serves(1, 2)
	have := slices.Clone(c.sites[1].machine.commands)
	c.partition(1, 2)
	c.open(3, 4, 5)
	c.start(nil, 3, 4, 5)
	ok := c.change(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 1}}}, 3, 4, 5)
	c.until("1 is removed from the old members", func() bool { return *ok })
	ok = c.change(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 9, Store: 1}}}, 3, 4, 5)
	c.until("another is added in its place", func() bool { return *ok })
	c.cut = nil
	for range 50 {
		c.tick()
	}
	c.serves(1, 2)
	if got := c.sites[1].machine.commands; len(got) < len(have) || !slices.Equal(got[:len(have)], have) {
		t.Errorf("store 1 has %q, had %q", got, have)
	}
	if m := c.sites[1].store.Metrics(); m.BarredMessages == 0 || m.JoinedReplicas != 0 {
		t.Errorf("%d barred messages, %d joined replicas", m.BarredMessages, m.JoinedReplicas)
	}
}

// TestDamagedSurvivorIsReplaced: a survivor whose disk loses what it has promised, and
// perhaps even its replica's id, is given another replica by the others. What it asks
// without an id comes from none of those that were left behind.
func TestDamagedSurvivorIsReplaced(t *testing.T) {
	for name, known := range map[string]bool{"id known": true, "id unknown": false} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3)
			c.open(1, 2, 3)
			c.start(members(1, 2, 3), 1, 2, 3)
			c.write(3, 1, 2, 3)
			c.kill(1, 2, 3)
			c.apply(c.plan(recovery.Options{Groups: []wire.GroupID{1}, Force: "a drill"}, 1, 2, 3), 1, 2, 3)
			c.open(1, 2, 3)
			c.start(nil, 1, 2, 3)
			c.serves(1, 2, 3)
			c.kill(2)
			s := c.sites[2]
			whole := s.disk
			names, err := whole.List(dir)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for until := int64(128); until < 4096 && !found; until += 64 {
				s.disk = whole.CrashClone(rand.New(rand.NewPCG(1, 2)), vfs.ProcessDies)
				for _, name := range names {
					for at := int64(64); strings.HasPrefix(name, "segment-") && at < until; at += 64 {
						if err := s.disk.FlipBit(dir+"/"+name, at, 3); err != nil {
							t.Fatal(err)
						}
					}
				}
				survey, err := c.disk(2).Survey()
				if err != nil {
					continue
				}
				r := slices.IndexFunc(survey.Replicas, func(r recovery.Replica) bool { return r.Replica == 2 })
				found = known && r >= 0 && survey.Replicas[r].State == recovery.Damaged && survey.Replicas[r].Generation == 1 || !known && r < 0
			}
			if !found {
				t.Fatal("no bits make this difference: the test tests nothing")
			}
			c.open(2)
			var lost *engine.ReplicaLostError
			if err := c.tryStart(2, members(1, 2, 3)); !errors.As(err, &lost) || known != (lost.Replica == 2) {
				t.Fatalf("start: %v", err)
			}
			c.until("it has another replica", func() bool { return s.store.Metrics().ReplacedLost == 1 })
			c.serves(1, 2, 3)
		})
	}
}

// TestLostSurvivorAsksItsOwn: a survivor that has lost what it promised asks all stores
// that may have a member, those left behind among them, which have a leader and have
// removed it. Their word is not that of its group.
func TestLostSurvivorAsksItsOwn(t *testing.T) {
	c := newCluster(t, 7)
	survivors, dead := []wire.StoreID{1, 2, 3}, []wire.StoreID{4, 5, 6, 7}
	c.open(c.ids()...)
	c.start(members(c.ids()...), c.ids()...)
	c.write(3, c.ids()...)
	c.kill(c.ids()...)
	c.apply(c.plan(recovery.Options{}, survivors...), survivors...)
	c.open(survivors...)
	c.start(nil, survivors...)
	c.serves(survivors...)
	c.kill(1)
	c.editStored(1, func(stored *wire.Stored) { stored.Descriptor.State |= wire.Lost })

	c.partition(2, 3)
	c.open(dead...)
	c.start(nil, dead...)
	ok := c.change(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 1}}}, dead...)
	c.until("1 is removed from the old members", func() bool { return *ok })
	c.open(1)
	var lost *engine.ReplicaLostError
	if err := c.tryStart(1, members(c.ids()...)); !errors.As(err, &lost) {
		t.Fatalf("start: %v", err)
	}
	c.until("it has heard of those left behind", func() bool { return c.sites[1].store.Metrics().BarredMessages > 0 })
	if stored, err := c.sites[1].store.Stored(); err != nil || len(stored) != 1 {
		t.Errorf("stored are %+v, %v", stored, err)
	}
	c.cut = nil
	c.until("it has another replica", func() bool { return c.sites[1].store.Metrics().ReplacedLost == 1 })
	c.serves(survivors...)
}

// TestWoundedSurvivorWaitsForTheFloor: a survivor begins with a snapshot that came
// before the recovery and was not installed, now because its log is damaged. The
// members that the snapshot tells of were passed over: it must not vote among them (Q2).
func TestWoundedSurvivorWaitsForTheFloor(t *testing.T) {
	c := newCluster(t, 5)
	c.snapshots = 4
	c.open(five...)
	c.start(members(five...), five...)
	c.write(3, five...)
	c.until("store 1 leads", func() bool { return lead(c, 1) })
	c.kill(2)
	c.sites[1].handler.PeerDown(2, errors.New("killed"))
	ok := c.change(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 5}}}, 1)
	c.until("5 is removed", func() bool { return *ok })
	c.write(20, 1, 3, 4)
	c.open(2)
	c.start(nil, 2)
	var found *vfs.MemFS
	live := c.sites[2].disk
	live.SetHook(func(op vfs.Op) vfs.Fault {
		if found == nil && op.Kind.Mutates() {
			clone := live.CrashClone(rand.New(rand.NewPCG(1, op.Call)), vfs.AllLost)
			if survey, err := (recovery.Disk{FS: clone, Dir: dir}).Survey(); err == nil && len(survey.Replicas) == 1 {
				if snap := survey.Replicas[0].Snapshot; snap != nil && snap.Ahead {
					found = clone
				}
			}
		}
		return vfs.Fault{}
	})
	c.until("store 2 catches up", func() bool { return slices.Equal(c.sites[2].machine.commands, c.acked) })
	if found == nil {
		t.Fatal("there was no such moment")
	}
	c.kill(five...)
	c.sites[2].disk = found
	p := c.plan(recovery.Options{}, 1, 2)
	if p.Groups[0].Source != 1 || len(p.Groups[0].Before.Members) != 4 {
		t.Fatalf("plan %+v", p)
	}
	c.apply(p, 1, 2)
	log, err := raftlog.Open(raftlog.Options{FS: found, Dir: dir, Cluster: 7, Store: 2, SegmentBytes: 64 << 10, Serial: true})
	if err != nil {
		t.Fatal(err)
	}
	log.SetSink(quietSink{})
	g := log.Group(1)
	term, err := g.Term(g.Last())
	if err != nil {
		t.Fatal(err)
	}
	b := new(raftlog.Batch)
	b.Wound(g, g.Last(), term, &raftlog.CorruptionError{})
	log.Submit(b)
	for log.Step() {
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	c.open(2)
	c.start(nil, 2)
	survivor, _ := c.sites[2].store.Group(1)
	if st := survivor.Status(); st.Self.Role != wire.Learner || len(st.Members) != 2 || st.Last != p.Groups[0].Committed {
		t.Errorf("begins as %+v", st)
	}
	c.open(1)
	c.start(nil, 1)
	c.serves(1, 2)
}
