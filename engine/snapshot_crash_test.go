package engine_test

import (
	"math/rand/v2"
	"testing"

	"multiraft/engine"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// crashStates is how many states of the disk are looked at for each call, of those
// that a power cut may leave: one file with all its sectors, each combined with
// losses of names and of other files.
const crashStates = 40

// crashPicture is a disk after a crash.
type crashPicture struct {
	what  string
	fs    *vfs.MemFS
	again bool // what was found there may not be on the disk
}

// crashPictures takes pictures of a disk after crashes of all kinds, and of states
// that it has not met before, spread over all there are.
func crashPictures(fs *vfs.MemFS, r *rand.Rand, met map[uint64]bool) (pictures []crashPicture) {
	pictures = append(pictures, crashPicture{"killed", fs.Fork(), true})
	for i, o := range []vfs.CrashOptions{vfs.ProcessDies, vfs.AllLost, vfs.PowerFails, vfs.DiskFails} {
		pictures = append(pictures, crashPicture{what: [...]string{"all kept", "all lost", "no power", "bad disk"}[i], fs: fs.CrashClone(r, o)})
	}
	failed := fs.Fork()
	failed.DropUnsynced()
	pictures = append(pictures, crashPicture{"killed after its syncs failed", failed, true})
	var states []crashPicture
	fs.States(vfs.StateOptions{Combined: 3, Entries: 3}, func(s *vfs.State) {
		if sum := s.Sum(); !met[sum] {
			met[sum] = true
			states = append(states, crashPicture{what: s.String(), fs: s.Clone()})
		}
	})
	most := crashStates
	if testing.Short() {
		most = 3
	}
	for i := range min(most, len(states)) {
		pictures = append(pictures, states[i*len(states)/min(most, len(states))])
	}
	return pictures
}

// crashEach runs scenario once for each call to a store's disk that it makes, and
// takes pictures of that disk in the middle of the call. From each picture the store
// must start and the cluster come together again.
func crashEach(t *testing.T, at int, prepare func() *snapCluster, scenario func(*snapCluster), want int) {
	t.Helper()
	tried, met := 0, make(map[uint64]bool)
	for call := uint64(1); ; call++ {
		c := prepare()
		fs := c.places[at].fs
		from := fs.Calls()
		var pictures []crashPicture
		r := rand.New(rand.NewPCG(call, 9))
		fs.SetHook(func(op vfs.Op) vfs.Fault {
			if op.Call == from+call && op.Kind.Mutates() {
				pictures = crashPictures(fs, r, met)
			}
			return vfs.Fault{}
		})
		scenario(c)
		fs.SetHook(nil)
		if fs.Calls() < from+call {
			if call < 20 || tried < 20 {
				t.Fatalf("the scenario makes %d calls, and there are %d pictures", call, tried)
			}
			t.Logf("%d calls, %d pictures", call-1, tried)
			return
		}
		for _, picture := range pictures {
			tried++
			// The others go on from the end of the scenario. They are a majority and
			// have all that was acknowledged, so what the store did after its picture
			// was taken may be taken back.
			after := prepareAfter(c, at, picture.fs)
			if err := after.open(at); err != nil {
				t.Fatalf("call %d, %s: %v", call, picture.what, err)
			}
			after.until("come together", func() bool { return after.converged(want) })
			after.ordered()
			after.write(1, 2)
			after.until("go on", func() bool { return after.converged(want + 2) })
			if picture.again {
				after.crash(at, vfs.AllLost)
				if err := after.open(at); err != nil {
					t.Fatalf("call %d, %s, and then the power failed: %v", call, picture.what, err)
				}
				after.until("come together again", func() bool { return after.converged(want + 2) })
			}
		}
	}
}

// prepareAfter returns a cluster of the disks as they are, but for one.
func prepareAfter(c *snapCluster, at int, picture *vfs.MemFS) *snapCluster {
	after := newSnapCluster(c.t, len(c.places), c.groups, c.change)
	after.weight, after.durable, after.sent = c.weight, c.durable, c.sent
	for i, p := range c.places {
		if i == at {
			after.places[i].fs = picture
			continue
		}
		after.places[i].fs = p.fs.CrashClone(nil, vfs.ProcessDies)
		after.mustOpen(i)
	}
	return after
}

// TestCrashAtEveryCallOfAnInstall: whenever a store loses power while it takes in
// a snapshot, it comes back with the old state or with the new one, and catches
// up.
func TestCrashAtEveryCallOfAnInstall(t *testing.T) {
	prepare := func() *snapCluster {
		c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
		c.weight = 10
		behind(t, c)
		c.mustOpen(2)
		return c
	}
	crashEach(t, 2, prepare, func(c *snapCluster) {
		c.until("installed", func() bool { return c.converged(205) })
	}, 205)
}

// TestCrashAtEveryCallOfASnapshot: the same for a store that makes a snapshot and
// compacts its log.
func TestCrashAtEveryCallOfASnapshot(t *testing.T) {
	prepare := func() *snapCluster {
		c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
		c.mustOpen(0, 1, 2)
		c.write(1, 75)
		c.until("beginning", func() bool { return c.converged(75) })
		return c
	}
	crashEach(t, 1, prepare, func(c *snapCluster) {
		made := c.places[1].store.Metrics().SnapshotsMade
		c.write(1, 10)
		c.until("made", func() bool { return c.places[1].store.Metrics().SnapshotsMade > made && c.converged(85) })
		c.tick(2)
	}, 85)
}

// TestConflictingLogAtInstall: the follower led once and has entries that nobody
// else got, in front of the snapshot's last entry and maybe behind it. They are
// gone when the snapshot is in, whenever it crashes.
func TestConflictingLogAtInstall(t *testing.T) {
	prepare := func() *snapCluster {
		c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
		c.mustOpen(0, 1, 2)
		c.write(1, 5)
		c.until("beginning", func() bool { return c.converged(5) })
		for at := c.leader(1); at != 2; at = c.leader(1) {
			if err := c.places[at].steps.TransferLeader(c.group(at, 1), 3); err != nil {
				t.Fatal(err)
			}
			c.tick(40)
		}
		c.pass = func(from, to wire.StoreID, _ *wire.Message) bool { return from != 3 && to != 3 }
		for range 150 {
			if err := c.group(2, 1).ProposeAsync([]byte("lost"), engine.NewPending(&tally{})); err != nil {
				t.Fatal(err)
			}
			c.settle()
		}
		c.crash(2, vfs.ProcessDies)
		c.pass = nil
		c.write(1, 100)
		c.tick(50)
		c.write(1, 50)
		c.mustOpen(2)
		return c
	}
	c := prepare()
	if st := c.group(2, 1).Status(); st.Last < 100 {
		t.Fatalf("store 3 has no entries of its own: %+v", st)
	}
	crashEach(t, 2, prepare, func(c *snapCluster) {
		c.until("installed", func() bool { return c.converged(155) })
	}, 155)
}
