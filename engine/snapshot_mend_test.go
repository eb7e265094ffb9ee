package engine_test

import (
	"errors"
	"slices"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/wire"
)

// copyFile copies a file of one disk to another.
func copyFile(t *testing.T, from, to *vfs.MemFS, name string) {
	t.Helper()
	f, err := from.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := to.MkdirAll("/store/snapshots"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, name, data)
}

// TestStartGivesUpWhatASnapshotContradicts: a durable machine needs no snapshot
// whose last entry the log has. One that reaches as far but holds other entries
// does not count, whatever is stored besides: those were never committed. Here
// the members of an interrupted install are stored, which say that entries were.
func TestStartGivesUpWhatASnapshotContradicts(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.durable = true
	c.mustOpen(0, 1, 2)
	c.write(1, 5)
	c.until("beginning", func() bool { return c.converged(5) })
	for at := c.leader(1); at != 2; at = c.leader(1) {
		if err := c.places[at].steps.TransferLeader(c.group(at, 1), 3); err != nil {
			t.Fatal(err)
		}
		c.tick(40)
	}
	alone := func(from, to wire.StoreID, _ *wire.Message) bool { return from != 3 && to != 3 }
	c.pass = alone
	for range 300 {
		if err := c.group(2, 1).ProposeAsync([]byte("lost"), engine.NewPending(&tally{})); err != nil {
			t.Fatal(err)
		}
		c.settle()
	}
	c.crash(2, vfs.ProcessDies)
	c.pass = nil
	c.write(1, 60)
	for range 9 - len(c.places) { // learner 9 is on a store that is never there
		c.places = append(c.places, &place{})
	}
	lead := c.leader(1)
	change := group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 9, Store: 9}}}
	changed := false
	if err := c.group(lead, 1).ChangeMembersAsync(change, func(_ engine.Membership, err error) { changed = err == nil }); err != nil {
		t.Fatal(err)
	}
	c.until("changed", func() bool { return changed })
	c.write(1, 60)
	var index wire.Index
	if err := c.group(lead, 1).SnapshotAsync(func(i wire.Index, err error) { index = i }); err != nil {
		t.Fatal(err)
	}
	c.settle()
	m, p := c.group(lead, 1).Membership(), c.places[2]
	copyFile(t, c.places[lead].fs, p.fs, "/store/snapshots/"+c.places[lead].snapshotFiles(t)[0])

	l, err := raftlog.Open(raftlog.Options{FS: p.fs, Dir: "/store", Cluster: 7, Store: 3, SegmentBytes: 64 << 10, Serial: true})
	if err != nil {
		t.Fatal(err)
	}
	if last := l.Group(1).Last(); index == 0 || m.Index == 0 || last <= index {
		t.Fatalf("the log ends at %d, the snapshot at %d, members of %d", last, index, m.Index)
	}
	b := &raftlog.Batch{}
	b.Meta(l.Group(1), (&wire.Membership{Index: m.Index, Members: m.Members, MaxReplica: m.MaxReplica}).AppendTo((&wire.Descriptor{Replica: 3}).AppendTo(nil)))
	l.Submit(b)
	for l.Step() {
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	c.pass = alone
	c.mustOpen(2)
	c.tick(5)
	if slices.Contains(p.books[1].commands, "lost") {
		t.Fatal("applied what was never committed")
	}
	if st := c.group(2, 1).Status(); st.First != index+1 || st.Applied != index {
		t.Errorf("the replica did not begin behind the snapshot at %d: %+v", index, st)
	}
	c.pass = nil
	c.write(1, 2)
	c.until("all have the same", func() bool { return c.converged(127) })
}

// stepBut lets all stores do what there is to do, one of them without its
// appliers and its event loop.
func (c *snapCluster) stepBut(frozen int) {
	for again := true; again; {
		again = false
		for at, p := range c.places {
			if at != frozen {
				again = c.step(p) || again
				continue
			}
			d := p.steps
			for _, did := range []bool{c.deliver(p), d.Worker(0), d.Log(), d.Snapshots(), d.Maintain()} {
				again = did || again
			}
		}
	}
}

// TestInstallOvertakesSlowMachine: a snapshot comes while the machine has not yet
// applied what was committed and is to be read from the log, which goes on behind
// the snapshot. That is no fault of the group: the state holds all of it.
func TestInstallOvertakesSlowMachine(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.Tuning.MaxCommittedBytes = 128 })
	c.mustOpen(0, 1, 2)
	c.write(1, 30)
	c.until("beginning", func() bool { return c.converged(30) })
	c.close(2)
	c.write(1, 150)
	c.tick(50)
	c.write(1, 50)
	cut := true
	c.pass = func(from, to wire.StoreID, _ *wire.Message) bool { return !cut || from != 3 && to != 3 }
	c.mustOpen(2)
	tick := func() {
		for _, p := range c.places {
			p.steps.Tick()
		}
		c.stepBut(2)
	}
	for range 60 { // it misses its leader, and hands out what it knows to be committed
		tick()
	}
	cut = false
	overtaken := func() bool { st := c.group(2, 1).Status(); return st.First > 100 && st.Applied < 30 }
	for range 300 {
		if tick(); overtaken() {
			break
		}
	}
	if !overtaken() {
		t.Fatalf("the install did not overtake the machine: %+v", c.group(2, 1).Status())
	}
	c.settle()
	if err := c.group(2, 1).Err(); err != nil {
		t.Fatal(err)
	}
	c.until("all have the same", func() bool { return c.converged(230) })
	c.ordered()
}

// stopGroup stops a group.
func (c *snapCluster) stopGroup(at int, id wire.GroupID) {
	c.t.Helper()
	if c.places[at].steps.StopGroup(id) {
		return
	}
	if c.settle(); !c.places[at].steps.StopGroup(id) {
		c.t.Fatal("the group does not stop")
	}
}

// startGroup starts it again, with a machine that has no state.
func (c *snapCluster) startGroup(at int, id wire.GroupID) {
	c.t.Helper()
	p := c.places[at]
	if _, err := p.store.StartGroup(c.t.Context(), engine.GroupConfig{ID: id, Members: c.members, StateMachine: c.machine(p, id)}); err != nil {
		c.t.Fatalf("start again in the same store: %v", err)
	}
}

// TestStartAfterInterruptedInstall: a group whose install came to nothing because
// the machine failed, or because it was stopped in the middle, starts again in the
// same store, and goes on from the snapshot.
func TestStartAfterInterruptedInstall(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
		behind(t, c)
		c.mustOpen(2)
		if stopped {
			for i := 0; c.group(2, 1).Status().First < 100; i++ {
				if i == 1000 {
					t.Fatal("the log never went on behind a snapshot")
				}
				for _, p := range c.places {
					p.steps.Tick()
				}
				c.stepBut(2)
			}
		} else {
			c.places[2].books[1].fail = errBook
			c.until("failed", func() bool { return c.group(2, 1).Err() != nil })
		}
		c.stopGroup(2, 1)
		c.startGroup(2, 1)
		c.until("all have the same", func() bool { return c.converged(205) })
		if n := len(c.places[2].snapshotFiles(t)); n != 1 {
			t.Errorf("stopped %v: %d files", stopped, n)
		}
		c.ordered()
	}
}

// TestReceivedFileOfStoppedGroup: a snapshot that is whole when its group stops
// leaves no file behind that nobody knows of, and the next life gets it again.
func TestReceivedFileOfStoppedGroup(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	behind(t, c)
	c.mustOpen(2)
	p := c.places[2]
	received := func() bool { return p.store.Metrics().SnapshotsReceived > 0 }
	for i := 0; !received(); i++ {
		if i == 5000 {
			t.Fatal("nothing was received")
		}
		for _, q := range c.places {
			q.steps.Tick()
			for range 3 {
				if !received() {
					c.step(q)
				}
			}
		}
	}
	if files := p.snapshotFiles(t); len(files) != 1 {
		t.Fatalf("files: %v", files)
	}
	c.pass = func(from, to wire.StoreID, _ *wire.Message) bool { return from != 3 && to != 3 }
	c.stopGroup(2, 1)
	c.settle()
	if m, files := p.store.Metrics(), p.snapshotFiles(t); m.SnapshotsInstalled != 0 || len(files) != 0 {
		t.Fatalf("%d installed, files left: %v", m.SnapshotsInstalled, files)
	}
	c.pass = nil
	c.startGroup(2, 1)
	c.until("all have the same", func() bool { return c.converged(205) })
}

// TestStartFromOlderSnapshot: looking at a damaged newest snapshot removes none
// of the older ones, which are tried next; once one of them is chosen the others
// go. When none will do, all of them stay for whoever has to decide.
func TestStartFromOlderSnapshot(t *testing.T) {
	for _, usable := range []bool{true, false} {
		c := newSnapCluster(t, 1, []wire.GroupID{1}, nil)
		c.mustOpen(0)
		c.write(1, 100)
		c.close(0)
		p := c.places[0]
		good := p.snapshotFiles(t)
		if len(good) != 1 {
			t.Fatalf("files: %v", good)
		}
		for _, name := range []string{"0000000000000001-00000000000000f0.snap", "0000000000000001-00000000000000f1.snap"} {
			writeFile(t, p.fs, "/store/snapshots/"+name, make([]byte, 5000))
		}
		if !usable {
			if err := p.fs.FlipBit("/store/snapshots/"+good[0], 600, 3); err != nil {
				t.Fatal(err)
			}
		}
		before := p.snapshotFiles(t)
		err := c.open(0)
		if !usable {
			var damage *engine.SnapshotError
			if !errors.As(err, &damage) {
				t.Errorf("start with damaged snapshots only: %v", err)
			}
			if after := p.snapshotFiles(t); !slices.Equal(before, after) {
				t.Errorf("files %v, before %v", after, before)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if after := p.snapshotFiles(t); !slices.Equal(after, good) {
			t.Errorf("files %v, want %v", after, good)
		}
		c.until("started", func() bool { return c.converged(100) })
		if b := p.books[1]; b.restores != 1 {
			t.Errorf("restored %d times", b.restores)
		}
		c.write(1, 60)
	}
}

// TestLeadershipThatComesBackMidTransfer: leadership moves away from a sender and
// back before it notices. What it was sending is replaced once by what the new
// leadership asks for, and the end of the old one is not taken for that of the
// new one, which would be asked for again and again.
func TestLeadershipThatComesBackMidTransfer(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotBytesPerSecond, cfg.MaxSnapshots = 4<<10, 4 })
	c.weight = 500
	behind(t, c)
	c.mustOpen(2)
	lead := c.leader(1)
	other := 1 - lead
	transfers := map[uint64]bool{}
	c.pass = func(from, to wire.StoreID, m *wire.Message) bool {
		if m.Kind == wire.Snapshot && to == 3 && from == wire.StoreID(lead+1) {
			transfers[m.Context] = true
		}
		return true
	}
	c.until("under way", func() bool { return c.chunks > 2 })
	for _, move := range [][2]int{{lead, other}, {other, lead}} {
		if err := c.places[move[0]].steps.TransferLeader(c.group(move[0], 1), wire.ReplicaID(move[1]+1)); err != nil {
			t.Fatal(err)
		}
		c.settle() // no tick in between
		if !c.group(move[1], 1).IsLeader() {
			t.Fatalf("store %d does not lead", move[1]+1)
		}
	}
	c.until("all have the same", func() bool { return c.converged(205) })
	if len(transfers) > 2 {
		t.Errorf("%d transfers of one snapshot", len(transfers))
	}
	if m := c.places[2].store.Metrics(); m.SnapshotsInstalled != 1 {
		t.Errorf("%d were installed", m.SnapshotsInstalled)
	}
}

// TestDurableLogIsHeldForASnapshotOnItsWay: a durable machine needs no log behind
// what it reports, but who is receiving its state does. When that has ended the
// log is compacted all the same.
func TestDurableLogIsHeldForASnapshotOnItsWay(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotBytesPerSecond = 8 << 10 })
	c.weight, c.durable = 200, true
	behind(t, c)
	c.mustOpen(2)
	c.until("under way", func() bool { return c.chunks > 2 })
	lead := c.leader(1)
	at := c.group(lead, 1).Status()
	under := func() bool { return c.places[2].store.Metrics().SnapshotsReceived == 0 }
	n := 205
	for under() {
		c.write(1, 5)
		n += 5
		c.tick(1)
		if st := c.group(lead, 1).Status(); under() && st.First > at.Snapshot+1 {
			t.Fatalf("the log begins at %d, behind the snapshot on its way, %d", st.First, at.Snapshot)
		}
	}
	if n < 305 {
		t.Fatalf("%d commands: nothing was due to be compacted", n)
	}
	c.until("all have the same", func() bool { return c.converged(n) })
	if m := c.places[2].store.Metrics(); m.SnapshotsInstalled != 1 {
		t.Errorf("%d snapshots were needed", m.SnapshotsInstalled)
	}
	c.until("compacted", func() bool { return c.group(lead, 1).Status().First > at.Snapshot+20 })
}
