//go:build linux

package faulttest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"multiraft/wire"
)

// rot flips bits in n places of each of some files, and returns how many files there
// were. Of segments it spares the newest: behind its last batch there is nothing yet
// that proves it, so its loss cannot be told from a torn tail.
func rot(t *testing.T, pattern string, n int, rng *rand.Rand) int {
	t.Helper()
	names, err := filepath.Glob(pattern)
	must(t, err)
	slices.Sort(names) // numbers have leading zeros
	if filepath.Base(pattern) == "segment-*" && len(names) > 0 {
		names = names[:len(names)-1]
	}
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		info, err := f.Stat()
		must(t, err)
		b := make([]byte, 1)
		for range n {
			at := rng.Int64N(info.Size())
			_, err := f.ReadAt(b, at)
			must(t, err)
			b[0] ^= 1 << rng.IntN(8)
			_, err = f.WriteAt(b, at)
			must(t, err)
		}
		must(t, f.Close())
	}
	return len(names)
}

// TestBitRotAtRest lets bits rot in the files of a store that does not run: in
// segments, in checkpoints, in snapshots. It needs nothing of what is spoilt, or gets it
// from the others; or it does not open, says why, and comes back on an empty directory.
func TestBitRotAtRest(t *testing.T) {
	t.Parallel()
	for _, of := range []struct{ name, pattern string }{
		{"segments", "segment-*"},
		{"checkpoints", "checkpoint*"},
		{"snapshots", "snapshots/*.snap"},
		{"identity", "identity*"},
	} {
		t.Run(of.name, func(t *testing.T) {
			found, files, rounds := 0, 0, pick(1, 1, 50)
			for round := range rounds {
				c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), SegmentBytes: 64 << 10}, 16)
				must(t, c.StartAll())
				l.Begin()
				answers(t, l, 3000)
				c.Kill(1)
				rotten := rot(t, filepath.Join(c.Dir(1), of.pattern), 8, rand.New(rand.NewPCG(uint64(round), 8)))
				if rotten == 0 {
					t.Fatalf("there is no file %s", of.pattern)
				}
				if afterDamage(t, c, l) {
					found++
				}
				files += rotten
				c.KillAll()
			}
			t.Logf("damage was found in %d of %d rounds, %d files", found, rounds, files)
		})
	}
}

// TestBitRotUnderStore lets bits rot in segments of a store that runs and leads. It
// finds out when it reads them for a store that was away, or when it starts again; each
// time it gets from the others what it has lost.
func TestBitRotUnderStore(t *testing.T) {
	t.Parallel()
	found, rounds := 0, pick(1, 1, 50)
	for round := range rounds {
		c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), SegmentBytes: 64 << 10, Filler: 8 << 10, Budget: 64 << 10, SnapshotEntries: 1 << 20}, 16)
		must(t, c.StartAll())
		l.Begin()
		answers(t, l, 200)
		c.Kill(3)
		answers(t, l, 600)
		for g := wire.GroupID(1); int(g) <= c.cfg.Groups; g++ {
			// Where it does not come to that, the other serves what is missing.
			_, err := c.Process(2).Call(t.Context(), Request{Op: opTransfer, Group: g, Store: 1, Timeout: callTimeout})
			must(t, err)
		}
		files := rot(t, filepath.Join(c.Dir(1), "segment-*"), 200, rand.New(rand.NewPCG(uint64(round), 9)))
		must(t, c.Start(3))
		answers(t, l, 1000)
		running := repaired(t, c, 1)
		answers(t, l, 300)
		l.End()
		verify(t, c, l)
		c.Kill(1)
		l.Begin()
		if afterDamage(t, c, l) || running.Damaged > 0 {
			found++
		}
		t.Logf("bits rotted in %d segments; %d replicas were damaged while the store ran, %d of them healed in place, %d replaced",
			files, running.Damaged, running.Healed, running.Replaced)
		c.KillAll()
	}
	if found < rounds {
		t.Errorf("damage was found in %d of %d rounds", found, rounds)
	}
}

// TestRotIsRefused has the only store of a cluster start on what has rotted. There is
// nobody who could help out: either everything is there, or the store says what is not.
func TestRotIsRefused(t *testing.T) {
	t.Parallel()
	silent, rounds := 0, pick(2, 6, 400)
	for round := range rounds {
		c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 1), SegmentBytes: 64 << 10, SnapshotEntries: 1 << 20}, 8)
		must(t, c.StartAll())
		l.Begin()
		answers(t, l, 1000)
		l.End()
		c.Kill(1)
		if rot(t, filepath.Join(c.Dir(1), "segment-*"), 1+round%4, rand.New(rand.NewPCG(uint64(round), 10))) == 0 {
			t.Fatal("there is no segment")
		}
		var open *OpenError
		err := c.Start(1)
		if errors.As(err, &open) && !open.Killed {
			continue
		}
		must(t, err)
		hurt := 0
		for g := wire.GroupID(1); int(g) <= c.cfg.Groups; g++ {
			if !servesOrSays(t, c, g) {
				hurt++
			}
		}
		if hurt == 0 { // then everything is there
			silent++
			must(t, l.Verify(t.Context()))
		}
		must(t, c.Close())
	}
	t.Logf("in %d rounds of %d nothing that is needed had rotted", silent, rounds)
}

// servesOrSays waits until store 1 serves a group, or says that it is damaged: some of
// the log is read after the start only. It tells which.
func servesOrSays(t *testing.T, c *Cluster, g wire.GroupID) (serves bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		a, err := c.Process(1).Call(ctx, Request{Op: opState, Group: g, Timeout: callTimeout})
		must(t, err)
		if a.Outcome == Done {
			return true
		}
		h, err := c.Health(ctx, 1)
		must(t, err)
		if slices.Contains(h.Health.Damage, g) {
			return false
		}
		if err := pause(ctx, retryInterval); err != nil {
			t.Fatalf("group %d is neither served nor damaged: %s; %+v", g, a.Text, h)
		}
	}
}
