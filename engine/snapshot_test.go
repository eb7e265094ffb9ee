package engine_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"multiraft/engine"
	"multiraft/internal/snapfile"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// Over a long run the log stays as short as it was told to, there is one file
// per group, and a restart has the state from it and replays the rest only.
func TestSnapshotsBoundTheLog(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1, 2}, nil)
	c.mustOpen(0, 1, 2)
	var disk int64
	for round := range 12 {
		for _, id := range c.groups {
			c.write(id, 60)
		}
		c.until("followers", func() bool { return c.converged((round + 1) * 60) })
		for at, p := range c.places {
			for _, id := range c.groups {
				st := c.group(at, id).Status()
				if length := st.Last + 1 - st.First; length > 40+10+60 {
					t.Fatalf("round %d: store %d keeps %d entries of group %d: %+v", round, at+1, length, id, st)
				}
				if round > 0 && (st.Snapshot == 0 || st.First < 2) {
					t.Fatalf("round %d: no snapshot, or nothing compacted: %+v", round, st)
				}
			}
			if files := p.snapshotFiles(t); len(files) > 2 {
				t.Fatalf("round %d: %v", round, files)
			}
		}
		used := c.places[0].fs.Used()
		if round == 5 {
			disk = used
		}
		if round > 5 && used > disk+disk/2 {
			t.Fatalf("round %d: the disk holds %d bytes, %d in round 5", round, used, disk)
		}
	}
	if m := c.places[0].store.Metrics(); m.SnapshotsMade < 20 || m.SnapshotsFailed > 0 {
		t.Errorf("%d snapshots made, %d failed", m.SnapshotsMade, m.SnapshotsFailed)
	}
	for at, p := range c.places {
		before := slices.Clone(p.books[1].commands)
		c.close(at)
		c.mustOpen(at)
		b := c.places[at].books[1]
		if b.restores != 1 {
			t.Fatalf("store %d restored %d times", at+1, b.restores)
		}
		c.until("restart", func() bool { return c.converged(12 * 60) })
		if !slices.Equal(b.commands, before) || len(b.applied) > 110 {
			t.Fatalf("store %d: %d commands, %d of them replayed; %d before", at+1, len(b.commands), len(b.applied), len(before))
		}
	}
	c.ordered()
}

// What is applied while a snapshot is written may make the next one due at once,
// and the group may be quiet from then on: its log is compacted all the same, once
// and not more often.
func TestSnapshotIsDueWhenOneIsDone(t *testing.T) {
	c := newSnapCluster(t, 1, []wire.GroupID{1}, nil)
	c.mustOpen(0)
	b := c.places[0].books[1]
	b.during = func() {
		c.writing = true
		c.write(1, 200)
		c.writing = false
	}
	for b.during != nil {
		c.write(1, 1)
	}
	c.tick(100)
	st := c.group(0, 1).Status()
	if st.Applied < 240 || st.Snapshot != st.Applied || st.First != st.Snapshot-10+1 {
		t.Errorf("%+v", st)
	}
	if b.captures != 2 {
		t.Errorf("%d snapshots were made", b.captures)
	}
}

// behind makes store 3 miss so much that the entries it needs are compacted.
func behind(t *testing.T, c *snapCluster) {
	t.Helper()
	c.mustOpen(0, 1, 2)
	for _, id := range c.groups {
		c.write(id, 5)
	}
	c.until("beginning", func() bool { return c.converged(5) })
	c.crash(2, vfs.AllLost)
	for _, id := range c.groups {
		c.write(id, 150)
		c.tick(50) // nobody waits for store 3 any more
		c.write(id, 50)
	}
	for _, id := range c.groups {
		if st := c.group(c.leader(id), id).Status(); st.First < 100 {
			t.Fatalf("the log of group %d is not compacted: %+v", id, st)
		}
	}
}

// A follower that is behind the compacted log gets the state while writes go on,
// and then entries again.
func TestFollowerCatchesUpBySnapshot(t *testing.T) {
	var installed, sent []wire.Index
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) {
		cfg.Events.SnapshotInstalled = func(_ wire.GroupID, index wire.Index) { installed = append(installed, index) }
		cfg.Events.SnapshotSent = func(_ wire.GroupID, _ wire.ReplicaID, index wire.Index) { sent = append(sent, index) }
	})
	c.weight = 100
	behind(t, c)
	c.mustOpen(2)
	for range 30 {
		c.write(1, 1)
		c.tick(1)
	}
	c.until("all have the same", func() bool { return c.converged(235) })
	c.ordered()
	m := c.places[2].store.Metrics()
	if m.SnapshotsReceived != 1 || m.SnapshotsInstalled != 1 || m.SnapshotBytesReceived == 0 || c.places[2].books[1].restores != 1 {
		t.Errorf("received %d, installed %d, restored %d times", m.SnapshotsReceived, m.SnapshotsInstalled, c.places[2].books[1].restores)
	}
	if len(installed) != 1 || len(sent) != 1 || installed[0] != sent[0] {
		t.Errorf("told of %v installed, %v sent", installed, sent)
	}
	leader := c.leader(1)
	for _, p := range c.group(leader, 1).Status().Progress {
		if p.State != "replicate" {
			t.Errorf("replica %d is in %s", p.Replica, p.State)
		}
	}
	// The new state is what a restart finds.
	want := strings.Join(c.places[2].books[1].commands, " ")
	c.crash(2, vfs.AllLost)
	c.mustOpen(2)
	c.until("restart", func() bool { return c.converged(235) })
	if got := strings.Join(c.places[2].books[1].commands, " "); got != want {
		t.Errorf("after the restart: %s\nbefore: %s", got, want)
	}
}

// isChunk tells whether m carries a part of a snapshot.
func isChunk(m *wire.Message) bool { return m.Kind == wire.SnapshotChunk && !m.Reject }

// A transfer that is cut goes on from what is there, also after a restart of the
// receiver: no chunk travels twice but those that were on their way.
func TestTransferResumes(t *testing.T) {
	for _, restart := range []bool{false, true} {
		c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
		c.weight = 500
		behind(t, c)
		passed, total := 0, 0
		c.pass = func(_, to wire.StoreID, m *wire.Message) bool {
			if isChunk(m) {
				passed++
				return passed <= 60
			}
			if m.Kind == wire.Snapshot {
				total++
			}
			return true
		}
		c.mustOpen(2)
		c.until("cut", func() bool { return passed > 60 })
		if restart {
			c.crash(2, vfs.ProcessDies)
			c.mustOpen(2)
		} else {
			c.tick(200) // until everybody has given up
		}
		c.pass = nil
		c.until("all have the same", func() bool { return c.converged(205) })
		if total == 0 || c.places[2].store.Metrics().SnapshotsInstalled != 1 {
			t.Fatalf("restart=%v: %d offers, %+v", restart, total, c.places[2].store.Metrics())
		}
		file, err := snapfile.OpenFile(c.places[2].fs, "/store/snapshots/"+c.places[2].snapshotFiles(t)[0])
		if err != nil {
			t.Fatal(err)
		}
		if chunks := int(file.Info().Chunks); chunks < 100 || c.chunks < chunks || c.chunks > chunks+30 {
			t.Errorf("restart=%v: %d chunks were delivered of a snapshot of %d", restart, c.chunks, chunks)
		}
	}
}

// The sender dies in the middle; another one leads, has its own snapshot, and
// the follower gets the state from there.
func TestSenderDies(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.weight = 500
	behind(t, c)
	passed := 0
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool {
		if isChunk(m) {
			passed++
		}
		return !isChunk(m) || passed <= 40
	}
	c.mustOpen(2)
	c.until("under way", func() bool { return passed > 40 })
	died := c.leader(1)
	c.crash(died, vfs.AllLost)
	c.pass = nil
	// The other two make a quorum only once the follower has the state.
	c.until("the rest goes on", func() bool { return c.converged(205) })
	c.write(1, 5)
	c.mustOpen(died)
	c.until("all have the same", func() bool { return c.converged(210) })
	c.ordered()
}

// A chunk that is not what it should be is fetched again.
func TestDamagedChunk(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.weight = 500
	behind(t, c)
	seen := 0
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool {
		if isChunk(m) {
			if seen++; seen%7 == 0 {
				m.Entries = bytes.Clone(m.Entries)
				m.Entries[len(m.Entries)/2] ^= 1
			}
		}
		return true
	}
	c.mustOpen(2)
	c.until("all have the same", func() bool { return c.converged(205) })
	if m := c.places[2].store.Metrics(); m.SnapshotsFailed == 0 || m.SnapshotsInstalled != 1 {
		t.Errorf("%d failures noticed, %d installed", m.SnapshotsFailed, m.SnapshotsInstalled)
	}
}

// Chunks come late, twice, or not at all.
func TestLossyTransfer(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.weight = 500
	behind(t, c)
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool {
		return m.Kind != wire.SnapshotChunk && m.Kind != wire.SnapshotFetch && m.Kind != wire.Snapshot || c.r.IntN(4) > 0
	}
	c.mustOpen(2)
	c.until("all have the same", func() bool { return c.converged(205) })
}

// Several groups need snapshots on one store, which takes one at a time.
func TestSnapshotsTakeTurns(t *testing.T) {
	groups := []wire.GroupID{1, 2, 3, 4, 5}
	c := newSnapCluster(t, 3, groups, func(cfg *engine.Config) { cfg.MaxSnapshots = 1 })
	c.weight = 100
	behind(t, c)
	c.mustOpen(2)
	c.until("all have the same", func() bool { return c.converged(205) })
	if m := c.places[2].store.Metrics(); m.SnapshotsInstalled != int64(len(groups)) {
		t.Errorf("%d snapshots were installed", m.SnapshotsInstalled)
	}
}

// The rate bounds what is sent in a tick, in both directions.
func TestSnapshotRate(t *testing.T) {
	const perTick = 8 << 10
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotBytesPerSecond = 20 * perTick })
	c.weight = 1000
	behind(t, c)
	c.mustOpen(2)
	last := int64(0)
	c.until("all have the same", func() bool {
		now := c.places[2].store.Metrics().SnapshotBytesReceived
		if now-last > 2*perTick+1024 {
			t.Fatalf("%d bytes in one tick", now-last)
		}
		last = now
		return c.converged(205)
	})
	if last < 10*perTick {
		t.Errorf("the snapshot had %d bytes only", last)
	}
}

// A machine with state of its own is not replayed behind what it has, its log is
// compacted as far as it reports, and a snapshot of it is made only when a
// follower needs one.
func TestDurableMachine(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.durable = true
	behind(t, c)
	for at := range 2 {
		if n := c.places[at].books[1].captures; n != 0 {
			t.Errorf("store %d: %d snapshots were made for nobody", at+1, n)
		}
	}
	c.mustOpen(2)
	c.until("all have the same", func() bool { return c.converged(205) })
	if n := c.places[0].books[1].captures + c.places[1].books[1].captures; n != 1 || c.places[2].books[1].restores != 1 {
		t.Errorf("%d snapshots made, %d restored", n, c.places[2].books[1].restores)
	}
	for at := range c.places {
		c.crash(at, vfs.AllLost)
		c.mustOpen(at)
		c.until("restart", func() bool { return c.converged(205) })
		b := c.places[at].books[1]
		if b.restores != 0 || len(b.applied) != 0 {
			t.Errorf("store %d: restored %d times, %d entries applied again", at+1, b.restores, len(b.applied))
		}
	}
	c.write(1, 3)
	c.until("goes on", func() bool { return c.converged(208) })
}

// A durable machine whose state is gone, or older than the log, begins with the
// stored snapshot.
func TestDurableMachineThatLostItsState(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.durable = true
	behind(t, c)
	c.mustOpen(2)
	c.until("all have the same", func() bool { return c.converged(205) })
	c.crash(2, vfs.AllLost)
	c.places[2].disks[1] = nil
	c.mustOpen(2)
	c.until("all have the same", func() bool { return c.converged(205) })
	if b := c.places[2].books[1]; b.restores != 1 {
		t.Errorf("restored %d times", b.restores)
	}
	// Without the snapshot there is nothing to begin with, and no other reason.
	leader := c.leader(1)
	other := 1 - leader
	if leader == 2 {
		other = 0
	}
	c.crash(other, vfs.AllLost)
	c.places[other].disks[1] = nil
	for _, name := range c.places[other].snapshotFiles(t) {
		if err := c.places[other].fs.Remove("/store/snapshots/" + name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.open(other); !errors.Is(err, wire.ErrCompacted) {
		t.Errorf("start without state: %v", err)
	}
}

// The disk is full while a snapshot comes: what came is dropped, the store goes
// on, and the next try succeeds when there is space.
func TestDiskFullWhileReceiving(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.weight = 500
	behind(t, c)
	c.mustOpen(2)
	full := c.places[2].fs
	full.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, ".part") && op.Offset > 20_000 {
			return vfs.Fault{Err: syscall.ENOSPC}
		}
		return vfs.Fault{}
	})
	c.until("refused", func() bool { return c.places[2].store.Metrics().SnapshotsFailed >= 2 })
	if files := c.places[2].snapshotFiles(t); len(files) > 1 {
		t.Errorf("left behind: %v", files)
	}
	if err := c.group(2, 1).Err(); err != nil {
		t.Fatal(err)
	}
	full.SetHook(nil)
	c.until("all have the same", func() bool { return c.converged(205) })
}

// A snapshot that cannot be made costs nothing but the attempt.
func TestSnapshotThatFails(t *testing.T) {
	c := newSnapCluster(t, 1, []wire.GroupID{1}, nil)
	c.mustOpen(0)
	b := c.places[0].books[1]
	b.fail = errBook
	c.write(1, 100)
	if m := c.places[0].store.Metrics(); m.SnapshotsFailed == 0 || m.SnapshotsFailed > 15 || m.SnapshotsMade != 0 {
		t.Errorf("%d failed, %d made", m.SnapshotsFailed, m.SnapshotsMade)
	}
	if st := c.group(0, 1).Status(); st.First != 1 || st.Err != nil {
		t.Errorf("%+v", st)
	}
	var index wire.Index
	var err error
	ask := func() {
		index, err = 0, errors.New("nobody has answered")
		if e := c.group(0, 1).SnapshotAsync(func(i wire.Index, e error) { index, err = i, e }); e != nil {
			t.Fatal(e)
		}
		c.settle()
	}
	if ask(); !errors.Is(err, errBook) {
		t.Errorf("by request: %v", err)
	}
	b.fail = nil
	if ask(); err != nil || index != c.group(0, 1).Applied() {
		t.Errorf("by request: %d, %v", index, err)
	}
	captures := b.captures
	if ask(); err != nil || b.captures != captures {
		t.Errorf("nothing is new: %d, %v, %d captures", index, err, b.captures-captures)
	}
	if st := c.group(0, 1).Status(); st.First != index-10+1 || st.Snapshot != index {
		t.Errorf("%+v", st)
	}
}

// Without Snapshotter nothing is compacted, and a request says why.
func TestNoSnapshotter(t *testing.T) {
	c := newSteppedCluster(t, 1)
	var err error
	if e := c.groups[0].SnapshotAsync(func(_ wire.Index, e error) { err = e }); e != nil {
		t.Fatal(e)
	}
	for range 3 {
		for i, d := range c.steps {
			d.Snapshots()
			d.Applier(0)
			d.Snapshots()
			_ = i // each store has its own loop
		}
	}
	if !errors.Is(err, engine.ErrNoSnapshotter) {
		t.Error(err)
	}
}

// A machine that does not take a snapshot fails its group, with a type.
func TestRestoreThatFails(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	behind(t, c)
	c.mustOpen(2)
	c.places[2].books[1].fail = errBook
	c.until("failed", func() bool { return c.group(2, 1).Err() != nil })
	var failed *engine.GroupFailedError
	var snapshot *engine.SnapshotError
	if err := c.group(2, 1).Err(); !errors.As(err, &failed) || !errors.As(err, &snapshot) || !errors.Is(err, errBook) {
		t.Errorf("%v", err)
	}
	// The file is whole, so the next start has the state from there.
	c.crash(2, vfs.AllLost)
	c.mustOpen(2)
	c.until("all have the same", func() bool { return c.converged(205) })
}

// A damaged file is a typed error of its group, and not even that while the log
// has everything.
func TestDamagedSnapshotAtStart(t *testing.T) {
	for _, whole := range []bool{false, true} {
		c := newSnapCluster(t, 1, []wire.GroupID{1, 2}, func(cfg *engine.Config) {
			if cfg.KeepEntries = 10; whole {
				cfg.KeepEntries = 10_000
			}
		})
		c.mustOpen(0)
		c.write(1, 100)
		c.write(2, 100)
		c.close(0)
		p := c.places[0]
		name := "/store/snapshots/" + p.snapshotFiles(t)[0] // of group 1
		if err := p.fs.FlipBit(name, 600, 3); err != nil {
			t.Fatal(err)
		}
		err := c.open(0)
		if whole {
			if err != nil {
				t.Fatal(err)
			}
			c.until("replayed", func() bool { return c.converged(100) })
			if b := p.books[1]; b.restores != 0 || len(b.applied) < 100 {
				t.Errorf("restored %d times, %d applied", b.restores, len(b.applied))
			}
			c.write(1, 60)
			continue
		}
		var damage *engine.SnapshotError
		if !errors.As(err, &damage) || damage.Group != 1 {
			t.Fatalf("start with a damaged snapshot: %v", err)
		}
		if _, err := p.store.StartGroup(t.Context(), engine.GroupConfig{ID: 2, StateMachine: c.machine(p, 2)}); err != nil {
			t.Errorf("the other group: %v", err)
		}
	}
}

// export writes a snapshot of a group of the cluster.
func export(t *testing.T, c *snapCluster, at int, id wire.GroupID) []byte {
	t.Helper()
	var index wire.Index
	if err := c.group(at, id).SnapshotAsync(func(i wire.Index, err error) { index = i }); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if index == 0 {
		t.Fatal("no snapshot")
	}
	// ExportSnapshot waits for the loop, which this goroutine steps.
	done := make(chan error, 1)
	var b bytes.Buffer
	go func() {
		_, err := c.group(at, id).ExportSnapshot(t.Context(), &b)
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		default:
			c.settle()
		}
	}
}

func writeFile(t *testing.T, fs *vfs.MemFS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), fs.SyncDir("/"), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// What was exported starts a group of another id, with other members, in another
// cluster; damage is found before anything is written.
func TestExportImport(t *testing.T) {
	c := newSnapCluster(t, 1, []wire.GroupID{1}, nil)
	c.mustOpen(0)
	c.write(1, 77)
	file := export(t, c, 0, 1)

	d := newSnapCluster(t, 2, nil, func(cfg *engine.Config) { cfg.Cluster = 9 })
	d.mustOpen(0, 1)
	start := func(at int, path string) error {
		p := d.places[at]
		_, err := p.store.StartGroup(t.Context(), engine.GroupConfig{ID: 50, Members: d.members, StateMachine: d.machine(p, 50), Snapshot: path})
		return err
	}
	for i := range 3 {
		bad := bytes.Clone(file)
		bad[[]int{20, len(bad) / 2, len(bad) - 5}[i]] ^= 4
		writeFile(t, d.places[0].fs, "/bad", bad)
		calls := d.places[0].fs.Calls()
		err := start(0, "/bad")
		if err == nil {
			t.Fatal("a damaged file was imported")
		}
		d.places[0].fs.SetHook(nil)
		if files := d.places[0].snapshotFiles(t); len(files) > 0 || len(d.places[0].books[50].commands) > 0 {
			t.Fatalf("%v, %d calls: something was written: %v", err, d.places[0].fs.Calls()-calls, files)
		}
		if stored, err := d.places[0].store.Stored(); err != nil || len(stored) != 0 {
			t.Fatal(stored, err)
		}
	}
	for at := range 2 {
		writeFile(t, d.places[at].fs, "/good", file)
		if err := start(at, "/good"); err != nil {
			t.Fatal(err)
		}
	}
	d.groups = []wire.GroupID{50}
	d.until("imported", func() bool { return d.converged(77) })
	d.write(50, 60)
	d.until("goes on", func() bool { return d.converged(137) })
	for at := range 2 {
		d.crash(at, vfs.AllLost)
		d.mustOpen(at)
	}
	d.until("restart", func() bool { return d.converged(137) })
	if got := d.places[0].books[50].commands[0]; got != "1:000001" {
		t.Errorf("the first command is %s", got)
	}
}

// A crash at any call of an import leaves a group that is not stored, and can be
// imported again, or one that is.
func TestCrashAtEveryCallOfAnImport(t *testing.T) {
	c := newSnapCluster(t, 1, []wire.GroupID{1}, nil)
	c.mustOpen(0)
	c.write(1, 30)
	file, met := export(t, c, 0, 1), make(map[uint64]bool)
	for call := uint64(1); ; call++ {
		d := newSnapCluster(t, 1, nil, nil)
		d.mustOpen(0)
		p := d.places[0]
		writeFile(t, p.fs, "/good", file)
		cfg := engine.GroupConfig{ID: 50, Members: d.members, StateMachine: d.machine(p, 50), Snapshot: "/good"}
		at, reached := p.fs.Calls()+call, false
		var pictures []crashPicture
		fs := p.fs
		fs.SetHook(func(op vfs.Op) vfs.Fault {
			if op.Call == at {
				reached = true
				pictures = crashPictures(fs, d.r, met)
			}
			return vfs.Fault{}
		})
		if _, err := p.store.StartGroup(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		fs.SetHook(nil)
		if !reached {
			break
		}
		for _, picture := range pictures {
			e := newSnapCluster(t, 1, nil, nil)
			e.places[0].fs = picture.fs
			e.mustOpen(0)
			again := cfg
			again.StateMachine = e.machine(e.places[0], 50)
			if stored, err := e.places[0].store.Stored(); err != nil || len(stored) > 0 {
				again.Snapshot = ""
			}
			if _, err := e.places[0].store.StartGroup(t.Context(), again); err != nil {
				t.Fatalf("call %d, %s: %v", call, picture.what, err)
			}
			e.groups = []wire.GroupID{50}
			if !e.converged(30) {
				t.Fatalf("call %d, %s: %d commands", call, picture.what, len(e.places[0].books[50].commands))
			}
			e.write(50, 3)
		}
	}
}

// Restore does not have to read to the end, and still notices damage there.
func TestLazyRestore(t *testing.T) {
	c := newSnapCluster(t, 1, []wire.GroupID{1}, nil)
	c.mustOpen(0)
	c.write(1, 100)
	file := export(t, c, 0, 1)
	d := newSnapCluster(t, 1, nil, nil)
	d.mustOpen(0)
	writeFile(t, d.places[0].fs, "/good", file)
	if _, err := d.places[0].store.StartGroup(t.Context(), engine.GroupConfig{
		ID: 50, Members: d.members, StateMachine: lazyBook{&book{}}, Snapshot: "/good"}); err != nil {
		t.Fatal(err)
	}
}

type lazyBook struct{ *book }

func (lazyBook) Restore(_ wire.Index, r io.Reader) error {
	_, err := r.Read(make([]byte, 1))
	return err
}

// A file that rots while its group runs is replaced by a new one when it is
// needed, and stays until then.
func TestDamagedSnapshotIsMadeAnew(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	behind(t, c)
	for _, offset := range []int64{10, 3000} { // in the header, so that it does not open; in a chunk
		leader := c.places[c.leader(1)]
		files := leader.snapshotFiles(t)
		if len(files) != 1 {
			t.Fatal(files)
		}
		if err := leader.fs.FlipBit("/store/snapshots/"+files[0], offset, 2); err != nil {
			t.Fatal(err)
		}
		failed := leader.store.Metrics().SnapshotsFailed
		c.mustOpen(2)
		c.until("all have the same", func() bool { return c.converged(c.sent) })
		if leader.store.Metrics().SnapshotsFailed == failed {
			t.Errorf("damage at %d was not noticed", offset)
		}
		c.tick(200) // until the log is not held for store 3 any more
		c.crash(2, vfs.AllLost)
		c.write(1, 150)
		c.tick(50)
		c.write(1, 150)
	}
}

// A follower that takes long to take in a state finds the entries behind it when
// it is done, however far the leader has come meanwhile.
func TestLogIsHeldForASnapshotOnItsWay(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	behind(t, c)
	// The state arrives, and its receiver says nothing more for a while.
	c.pass = func(from, _ wire.StoreID, m *wire.Message) bool {
		return from != 3 || m.Kind == wire.SnapshotFetch || c.places[2].store.Metrics().SnapshotsReceived == 0
	}
	c.mustOpen(2)
	c.until("arrived", func() bool { return c.places[2].store.Metrics().SnapshotsReceived == 1 })
	c.write(1, 300)
	at := c.places[2].store.Metrics()
	if st := c.group(c.leader(1), 1).Status(); st.Snapshot < 400 || at.SnapshotsInstalled != 1 {
		t.Fatalf("%d were installed, and the leader made none meanwhile: %+v", at.SnapshotsInstalled, st)
	}
	c.pass = nil
	c.until("all have the same", func() bool { return c.converged(505) })
	if m := c.places[2].store.Metrics(); m.SnapshotsInstalled != 1 {
		t.Errorf("%d snapshots were needed", m.SnapshotsInstalled)
	}
}
