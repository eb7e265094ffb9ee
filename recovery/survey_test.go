package recovery_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/recovery"
	"multiraft/wire"
)

// TestAbandonedChange: a leader that was cut off has written a change of the members
// which nobody else has heard of; others have committed other entries in its place.
// The change was never in force: who has a quorum, and who is a member, is for the
// members that there were before to say.
func TestAbandonedChange(t *testing.T) {
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.start(members(1, 2, 3), 1, 2, 3)
	c.write(3, 1, 2, 3)
	c.until("store 1 leads", func() bool { return lead(c, 1) })
	c.partition(1)
	c.change(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 2}}}, 1)
	c.tick()
	c.write(5, 2, 3)
	// An operator stops the stores, and those that end in good order leave behind what
	// is committed.
	for _, id := range []wire.StoreID{1, 2, 3} {
		if err := c.sites[id].steps.Close(); err != nil {
			t.Fatal(err)
		}
		c.sites[id].store = nil
	}
	c.cut = nil

	surveys := c.survey(1, 2)
	if pending := surveys[0].Replicas[0].Pending; len(pending) != 1 {
		t.Fatalf("store 1 has changes on their way: %+v", pending)
	}
	p, err := recovery.NewPlan(surveys, recovery.Options{})
	if !errors.Is(err, recovery.ErrNothing) {
		t.Fatalf("%v: two of three are a quorum; the plan is %+v", err, p)
	}
	c.open(1, 2)
	c.start(nil, 1, 2)
	c.serves(1, 2)
	c.kill(1, 2)

	// By force, what was committed stays, and nobody is barred who is a member.
	c.apply(c.plan(recovery.Options{Groups: []wire.GroupID{1}, Force: "a drill"}, 1, 2), 1, 2)
	c.open(1, 2)
	c.start(nil, 1, 2)
	c.serves(1, 2)
}

// TestShorterSnapshotIsInstalled: a replica that an abandoned leader has left with a
// long log of an old term gets a snapshot of a lower index, and ends between the
// rename of the file and the batch that puts its log behind it. What it stands for is
// the snapshot, not the longer log, which nobody has committed.
func TestShorterSnapshotIsInstalled(t *testing.T) {
	c := newCluster(t, 3)
	c.snapshots = 4
	c.open(1, 2, 3)
	c.start(members(1, 2, 3), 1, 2, 3)
	c.write(3, 1, 2, 3)
	c.until("store 1 leads", func() bool { return lead(c, 1) })
	c.partition(1)
	d := new(done)
	for range 60 {
		c.propose(d, 1)
	}
	c.tick()
	c.write(20, 2, 3)
	var before, found *vfs.MemFS
	live := c.sites[1].disk
	live.SetHook(func(op vfs.Op) vfs.Fault {
		if found != nil || !op.Kind.Mutates() {
			return vfs.Fault{}
		}
		clone := live.CrashClone(rand.New(rand.NewPCG(1, op.Call)), vfs.AllLost)
		survey, err := recovery.Disk{FS: clone, Dir: dir}.Survey()
		if err == nil && len(survey.Replicas) == 1 {
			r := survey.Replicas[0]
			if r.Snapshot != nil && r.Snapshot.Index <= r.Last && r.Snapshot.Term > r.LastTerm {
				found = clone
				return vfs.Fault{}
			}
			before = clone
		}
		return vfs.Fault{}
	})
	c.cut = nil
	c.until("store 1 catches up", func() bool { return slices.Equal(c.sites[1].machine.commands, c.acked) })
	if found == nil {
		t.Fatal("there was no such moment")
	}
	c.kill(1, 2, 3)
	// Nothing but the file has come since this plan was made.
	c.sites[1].disk = before
	old := c.plan(recovery.Options{}, 1)
	confirm, err := old.Confirmation()
	if err != nil {
		t.Fatal(err)
	}
	c.sites[1].disk = found
	var changed *recovery.ChangedError
	if _, err := c.disk(1).Apply(old, recovery.ApplyOptions{Confirm: confirm}); !errors.As(err, &changed) {
		t.Errorf("a plan was carried out that knows nothing of the snapshot: %v", err)
	}
	p := c.plan(recovery.Options{}, 1)
	if snap := p.Groups[0].Replicas[0].Snapshot; snap == nil || p.Groups[0].Last != snap.Index {
		t.Errorf("goes on from entry %d, the snapshot is %+v", p.Groups[0].Last, snap)
	}
	c.apply(p, 1)
	want := slices.Clone(c.acked)
	c.open(1)
	c.start(nil, 1)
	c.serves(1)
	have := c.sites[1].machine.commands
	if kept := len(have) - 3; kept < 10 || kept > len(want) || !slices.Equal(have[:kept], want[:kept]) {
		t.Errorf("has %q of %q", have, want)
	}
}

// TestDivergedCountsAsLost: a replica whose state machine has diverged is not started
// again, so a group does not go on from it, however good its log is.
func TestDivergedCountsAsLost(t *testing.T) {
	five := config(0, "v1 v2 v3 v4 v5")
	p, err := recovery.NewPlan([]*recovery.Survey{
		survivor(1, 3, 9, 5, five),
		with(survivor(2, 3, 12, 11, five), func(r *recovery.Replica) { r.State = recovery.Diverged }),
	}, recovery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := summary(&p.Groups[0]), "1: v1 5-9 loss leave2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.start(members(1, 2, 3), 1, 2, 3)
	c.write(3, 1, 2, 3)
	c.kill(1, 2, 3)
	c.editStored(1, func(stored *wire.Stored) { stored.Descriptor.State |= wire.Diverged })
	var diverged *engine.DivergedError
	if r := c.survey(1)[0].Replicas[0]; r.State != recovery.Diverged || len(r.Problems) != 1 {
		t.Errorf("listed as %+v", r)
	}
	if _, err := recovery.NewPlan(c.survey(1), recovery.Options{}); !errors.Is(err, recovery.ErrNothing) {
		t.Errorf("a plan goes on from it: %v", err)
	}
	c.open(1)
	if err := c.tryStart(1, nil); !errors.As(err, &diverged) {
		t.Errorf("it starts: %v", err)
	}
}

// A store that was told that its directory is an older copy, and has noted that, is no
// survivor.
func TestOlderCopyIsNoSurvivor(t *testing.T) {
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.start(members(1, 2, 3), 1, 2, 3)
	c.write(3, 1, 2, 3)
	c.kill(1)
	c.open(1)
	c.sites[1].steps.Outlived(2, 9)
	c.kill(1, 2, 3)
	if r := c.survey(1)[0].Replicas[0]; r.State != recovery.Damaged || len(r.Problems) != 1 {
		t.Errorf("listed as %+v", r)
	}
	if _, err := recovery.NewPlan(c.survey(1), recovery.Options{}); !errors.Is(err, recovery.ErrNothing) {
		t.Errorf("a plan goes on from it: %v", err)
	}
	p, err := recovery.NewPlan(c.survey(1, 2), recovery.Options{})
	if err != nil || len(p.Groups) != 1 {
		t.Fatalf("with another one: %+v, %v", p, err)
	}
	if got, want := summary(&p.Groups[0]), "2: v2 0-4 loss leave1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// editStored changes what a store has of its replica, which no program of ours would.
func (c *cluster) editStored(id wire.StoreID, change func(*wire.Stored)) {
	c.t.Helper()
	log, err := raftlog.Open(raftlog.Options{FS: c.sites[id].disk, Dir: dir, Cluster: 7, Store: id, SegmentBytes: 64 << 10, Serial: true})
	if err != nil {
		c.t.Fatal(err)
	}
	log.SetSink(quietSink{})
	var stored wire.Stored
	if err := stored.Decode(log.Group(1).Meta()); err != nil {
		c.t.Fatal(err)
	}
	change(&stored)
	b := new(raftlog.Batch)
	b.Meta(log.Group(1), stored.AppendTo(nil))
	log.Submit(b)
	for log.Step() {
	}
	if err := log.Close(); err != nil {
		c.t.Fatal(err)
	}
}

type quietSink struct{}

func (quietSink) Durable([]*raftlog.Batch, error) {}

// TestChangesBeforeTheFloor: what a recovery has passed over is not on its way for the
// next one.
func TestChangesBeforeTheFloor(t *testing.T) {
	c := newCluster(t, 5)
	c.open(five...)
	c.start(members(five...), five...)
	c.write(3, five...)
	c.until("store 1 leads", func() bool { return lead(c, 1) })
	c.partition(1, 2)
	c.change(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 2}}}, 1)
	c.tick()
	c.kill(five...)
	p := c.plan(recovery.Options{}, 1, 2)
	follower := 3 - wire.StoreID(p.Groups[0].Source)
	if len(c.survey(follower)[0].Replicas[0].Pending) != 1 {
		t.Fatalf("no change is on its way: %+v", p)
	}
	c.apply(p, 1, 2)
	if pending := c.survey(follower)[0].Replicas[0].Pending; len(pending) != 0 {
		t.Errorf("on their way: %+v", pending)
	}
}
