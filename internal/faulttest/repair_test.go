//go:build linux

package faulttest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"multiraft/wire"
)

// repaired waits until a store has all that its disk has lost, in place or as new
// replicas, and returns how it is then. Clients may go on meanwhile; nobody else does
// anything for it.
func repaired(t *testing.T, c *Cluster, id wire.StoreID) Health {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		h, err := c.Health(ctx, id)
		must(t, err)
		if h.Failed {
			t.Fatalf("the whole store failed: %s", h.Text)
		}
		if len(h.Health.Damage) == 0 && h.Health.Repairing == 0 {
			return h.Health
		}
		if err := pause(ctx, retryInterval); err != nil {
			t.Fatalf("store %d is not whole again: %+v\n%s", id, h.Health, c.Kill(id))
		}
	}
}

// afterDamage starts store 1, something of which is damaged, under load. It has to
// come back by itself while the others serve, and then hold what they do; nothing
// damaged is served on the way (F4). Where the directory cannot be opened any more the
// operator empties it. It tells whether anything was found.
func afterDamage(t *testing.T, c *Cluster, l *Load) (found bool) {
	t.Helper()
	var open *OpenError
	switch err := c.Start(1); {
	case errors.As(err, &open) && !open.Killed:
		found = true
		t.Logf("store 1 does not open: %s", open.Text)
		answers(t, l, 300)
		must(t, c.StartLost(1))
	case err != nil:
		t.Fatal(err)
	}
	answers(t, l, 1000)
	h := repaired(t, c, 1)
	answers(t, l, 100)
	l.End()
	verify(t, c, l)
	t.Logf("%d replicas were damaged, %d healed in place, %d replaced; %d operations", h.Damaged, h.Healed, h.Replaced, l.History.Len())
	return found || h.Damaged > 0
}

// TestRolledBackDisk puts an earlier copy of a store's directory in its place. When it
// was started since, the others have met the life in which the copy wakes up, or a later
// one: it is let in by nobody, and says so. When it was not, leaders know of entries that
// it has acknowledged and does not hold: its replicas stop. Where a group would need its
// vote then, nobody is elected. On an empty directory it comes back.
func TestRolledBackDisk(t *testing.T) {
	t.Parallel()
	for _, of := range []struct {
		name   string
		starts int // since the copy was made
		noted  func(c *Cluster, h Health) bool
	}{
		{"not started", 0, func(c *Cluster, h Health) bool { return h.Stopped == c.cfg.Groups }},
		{"started once", 1, func(_ *Cluster, h Health) bool { return h.Outlived > 0 }},
		{"started twice", 2, func(_ *Cluster, h Health) bool { return h.Outlived > 0 }},
	} {
		t.Run(of.name, func(t *testing.T) {
			c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3)}, 16)
			must(t, c.StartAll())
			l.Begin()
			t.Cleanup(l.End)
			rounds := pick(1, 1, 100)
			for range rounds {
				answers(t, l, 500)
				copied := copyOf(t, c, 3)
				for again := of.starts == 0; again; { // others are to lead since before the copy
					c.Kill(3)
					must(t, c.Start(3))
					readable(t, c, 3)
					answers(t, l, 500)
					copied = copyOf(t, c, 3)
					answers(t, l, 1000)
					h, err := c.Health(t.Context(), 3)
					must(t, err)
					again = h.Health.Leading > 0
				}
				c.Kill(3)
				for range of.starts {
					must(t, c.Start(3))
					readable(t, c, 3)
					answers(t, l, 1000) // behind what it has acknowledged in every group
					c.Kill(3)
				}
				must(t, os.RemoveAll(c.Dir(3)))
				must(t, os.Rename(copied, c.Dir(3)))
				must(t, c.Start(3))
				until(t, c, 3, "is told", func(h Health) bool { return of.noted(c, h) })
				noVote(t, c, l)
				answers(t, l, 300)

				c.Kill(3)
				must(t, c.StartLost(3))
				answers(t, l, 300)
				if h := repaired(t, c, 3); h.Replaced != int64(c.cfg.Groups) {
					t.Errorf("%d replicas were replaced on an empty disk, want %d", h.Replaced, c.cfg.Groups)
				}
				c.Kill(3)
				must(t, c.Start(3)) // as a store like others
			}
			l.End()
			verify(t, c, l)
			t.Logf("%d operations around %d disks that were rolled back", l.History.Len(), rounds)
		})
	}
}

// copyOf copies the directory of a store that runs, as of one moment.
func copyOf(t *testing.T, c *Cluster, id wire.StoreID) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "copy")
	must(t, c.Process(id).Signal(unix.SIGSTOP))
	must(t, os.CopyFS(dir, os.DirFS(c.Dir(id))))
	must(t, c.Process(id).Signal(unix.SIGCONT))
	return dir
}

// noVote cuts off store 2 for a while, so that no group has a majority unless store 3
// votes: there must be no leader.
func noVote(t *testing.T, c *Cluster, l *Load) {
	t.Helper()
	h, err := c.Health(t.Context(), 1)
	must(t, err)
	before := h.Health.Elections + int64(c.cfg.Groups)
	weather(c, func(from, to wire.StoreID) Weather { return Weather{Swallow: from == 2 || to == 2} })
	idle := func(h Health) bool { return h.Leading == 0 }
	for _, id := range c.Stores() {
		until(t, c, id, "leads nothing", idle)
	}
	done := l.Done()
	until(t, c, 1, "has campaigned for every group", func(h Health) bool { return h.Elections >= before })
	l.Attempts(100)
	for _, id := range c.Stores() {
		h, err := c.Health(t.Context(), id)
		must(t, err)
		if !idle(h.Health) {
			t.Errorf("store %d leads %d groups", id, h.Health.Leading)
		}
	}
	if n := l.Done() - done; n != 0 {
		t.Errorf("%d operations were answered with the help of a disk that was rolled back", n)
	}
	must(t, c.Heal())
}

// until waits until a store is as it should be.
func until(t *testing.T, c *Cluster, id wire.StoreID, what string, is func(Health) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		h, err := c.Health(ctx, id)
		must(t, err)
		if is(h.Health) {
			return
		}
		if err := pause(ctx, retryInterval); err != nil {
			t.Fatalf("store %d has not come to where it %s: %+v", id, what, h.Health)
		}
	}
}
