//go:build linux

package faulttest

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiraft/wire"
)

// newDiskVolume makes an ext4 file system on a Disk.
func newDiskVolume(t *testing.T, size int64, seed uint64) (*Disk, *volume) {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "fuse")
	must(t, os.Mkdir(dir, 0o700))
	d, err := NewDisk(dir, size, seed)
	if err != nil {
		t.Skipf("needs to mount FUSE: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			// Whoever still has it open loses it.
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		}
	})
	return d, newVolumeOn(t, d.Path())
}

// TestBlockPowerCut takes the power away from a disk that has a volatile cache
// and writes it in any order, in pieces, so that after every sync and between two
// of them, all images are legal that the file system can be left with.
func TestBlockPowerCut(t *testing.T) {
	d, v := newDiskVolume(t, 96*mib, 1)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, 1), SegmentBytes: 256 << 10}, 16)
	rng := rand.New(rand.NewPCG(1, 1))
	rounds := pick(3, 20, 2000)
	for range rounds {
		v.mount()
		must(t, c.StartAll())
		l.Begin()
		answers(t, l, 1+rng.IntN(300))
		d.PowerOff()
		l.End()
		c.KillAll()
		v.unmount()
		d.PowerOn()
	}
	v.mount()
	verify(t, c, l)
	t.Logf("power was cut %d times; %d operations, %d block writes, %d flushes", rounds, l.History.Len(), d.Counts().Writes, d.Counts().Syncs)
	c.KillAll()
	v.unmount()
}

// TestBlockReplay records what a store under load writes to its disk, and then
// starts it on what power cuts after the flushes leave. What was acknowledged
// before a flush is there after a cut behind it.
func TestBlockReplay(t *testing.T) {
	d, v := newDiskVolume(t, 48*mib, 6)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, 1), SegmentBytes: 64 << 10, Filler: 2 << 10}, 16)
	v.mount()
	recording := d.Record(l.History.Begin)
	must(t, c.StartAll())
	l.Begin()
	answers(t, l, pick(500, 1000, 5000))
	l.End()
	c.KillAll()
	v.unmount()
	d.Stop()
	rng := rand.New(rand.NewPCG(6, 6))
	kept := 0
	points := recording.Replay(pick(4, 30, 1<<20), rng, func(moment, until int64, image []byte) {
		d.Load(image)
		v.mount()
		then := NewLoad(c, 0)
		l.History.Before(moment, until, &then.History)
		then.lastKey = l.lastKey
		kept += then.History.Len()
		must(t, c.StartAll())
		if err := then.Verify(t.Context()); err != nil {
			t.Fatalf("power cut at moment %d: %v", moment, err)
		}
		c.KillAll()
		v.unmount()
	})
	t.Logf("%d power cuts after %d flushes; %d operations, %d of them before a cut on average",
		points, len(recording.flushes), l.History.Len(), kept/points)
}

// TestBlockWriteFails has one block write of the log fail, of which Linux tells
// the next sync, and no later one. What was written and not synced is then taken
// away, as the kernel does that believes it clean.
func TestBlockWriteFails(t *testing.T) {
	d, v := newDiskVolume(t, 96*mib, 2)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, 1), SegmentBytes: 256 << 10}, 8)
	failed := 0
	rounds := pick(2, 8, 400)
	for round := range rounds {
		v.mount()
		must(t, c.StartAll())
		l.Begin()
		left := 5 + 7*round
		d.SetFate(func(_ int64, b []byte) Fate {
			if !isLog(b) {
				return Keep
			}
			if left--; left != 0 {
				return Keep
			}
			return Fail
		})
		if failsUnderLoad(t, c, l) {
			failed++
		}
		l.End()
		d.SetFate(nil)
		d.PowerOff()
		c.KillAll()
		v.unmount()
		d.PowerOn()
	}
	v.mount()
	verify(t, c, l)
	t.Logf("%d stores failed of %d; %d operations, %d failed block writes", failed, rounds, l.History.Len(), d.Counts().Fates[Fail])
	if failed < rounds/2 || d.Counts().Fates[Fail] < failed {
		t.Error("too few block writes failed")
	}
	c.KillAll()
	v.unmount()
}

// TestBlockLies gives one store of three a disk that loses, misdirects or spoils
// writes of the log, or lets bits rot, and says nothing. After a restart the store
// serves what the others have, at once or when it got that from them; it never serves
// anything else (F4). The disk is honest for the last writes: with nothing behind
// them, their loss cannot be told from a torn tail.
func TestBlockLies(t *testing.T) {
	for _, of := range []struct {
		name string
		fate Fate
	}{{"lost writes", Lose}, {"misdirected writes", Misdirect}, {"spoilt writes", Spoil}, {"bit-rot", Keep}} {
		t.Run(of.name, func(t *testing.T) {
			found, rounds := 0, pick(1, 1, 100)
			for round := range rounds {
				if blockLies(t, of.fate, uint64(round)) {
					found++
				}
			}
			t.Logf("damage was found in %d of %d rounds", found, rounds)
		})
	}
}

func blockLies(t *testing.T, fate Fate, seed uint64) (found bool) {
	t.Helper()
	d, v := newDiskVolume(t, 64*mib, seed)
	places := dirs(t.TempDir(), 3)
	places[0] = v.dir
	c, l := newCluster(t, ClusterConfig{Dirs: places, SegmentBytes: 256 << 10}, 16)
	v.mount()
	must(t, c.StartAll())
	l.Begin()
	answers(t, l, 300)
	if fate != Keep {
		rng := rand.New(rand.NewPCG(seed, 3))
		d.SetFate(func(_ int64, b []byte) Fate {
			if isLog(b) && rng.IntN(10) == 0 {
				return fate
			}
			return Keep
		})
		answers(t, l, 500)
		d.SetFate(nil)
	}
	answers(t, l, 1000)
	c.Stop(1)
	v.unmount()
	rotten := 0
	if fate == Keep {
		rotten = d.Rot(3)
	}
	v.mount()

	found = afterDamage(t, c, l)
	t.Logf("%v lost, %v misdirected, %v spoilt, %d rotten",
		d.Counts().Fates[Lose], d.Counts().Fates[Misdirect], d.Counts().Fates[Spoil], rotten)
	c.KillAll()
	v.unmount()
	return found
}

// TestDiskHangs has the disk of one store of three stand still, with the store
// leading some of the groups. It loses its leaderships and the others go on. Nothing
// that was acknowledged depends on what the disk did not do, whether it goes on later
// or never does.
func TestDiskHangs(t *testing.T) {
	d, v := newDiskVolume(t, 64*mib, 5)
	places := dirs(t.TempDir(), 3)
	places[0] = v.dir
	c, l := newCluster(t, ClusterConfig{Dirs: places, SegmentBytes: 256 << 10}, 16)
	v.mount()
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	rounds := pick(1, 3, 100)
	answered := 0
	for round := range rounds {
		answers(t, l, 300)
		leads(t, c, 1)
		d.Hang()
		began := time.Now()
		leavesTo(t, c)
		t.Logf("nothing was led on a disk that hangs after %v", time.Since(began).Round(time.Millisecond))
		before := l.Done()
		answers(t, l, 100)
		answered += l.Done() - before
		if round+1 == rounds {
			// It hangs for ever, so the machine is reset. A process that waits for a disk
			// does not die before that.
			d.PowerOff()
			d.Resume()
			c.Kill(1)
			v.unmount()
			d.PowerOn()
			v.mount()
			must(t, c.Start(1))
		} else {
			d.Resume()
		}
		answers(t, l, 300)
	}
	l.End()
	verify(t, c, l)
	t.Logf("%d operations, %d of them while the disk hung", l.History.Len(), answered)
	c.KillAll()
	v.unmount()
}

// leads has a store lead at least one group: if it leads none, others give theirs up.
func leads(t *testing.T, c *Cluster, id wire.StoreID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		h, err := c.Health(ctx, id)
		must(t, err)
		if h.Health.Leading > 0 {
			return
		}
		// Refused by who does not lead, and by who is not caught up.
		for _, p := range c.Stores() {
			_, err := c.Process(p).Call(ctx, Request{Op: opTransfer, Group: 1, Store: id, Timeout: callTimeout})
			must(t, err)
		}
	}
}

// leavesTo waits until store 1 leads nothing, and the others lead all groups.
func leavesTo(t *testing.T, c *Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		var leading [4]int
		fitness := ""
		for _, id := range c.Stores() {
			h, err := c.Health(ctx, id)
			must(t, err)
			leading[id] = h.Health.Leading
			if id == 1 {
				fitness = h.Health.Fitness
			}
		}
		if leading[1] == 0 && leading[2]+leading[3] == c.cfg.Groups {
			return
		}
		if err := pause(ctx, retryInterval); err != nil {
			t.Fatalf("store 1, whose disk is %s, leads %d groups, the others lead %d and %d", fitness, leading[1], leading[2], leading[3])
		}
	}
}
