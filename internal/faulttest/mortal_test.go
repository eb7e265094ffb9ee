//go:build linux

package faulttest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"multiraft/wire"
)

// dies runs store 1 until it kills itself at a moment, or until done says that there
// will be no such moment any more. It returns the store's last words.
func dies(t *testing.T, c *Cluster, done func(Health) bool) (words string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	var open *OpenError
	if err := c.Start(1); errors.As(err, &open) && open.Killed {
		words = open.Stderr
	} else if err != nil {
		t.Fatal(err)
	} else {
		for {
			h, err := c.Health(ctx, 1)
			if errors.Is(err, errEnded) || err == nil && done(h.Health) {
				break
			}
			must(t, err)
			must(t, pause(ctx, retryInterval))
		}
		words = c.Kill(1)
	}
	last := words[strings.LastIndexByte(words, '\n')+1:]
	if said, ok := strings.CutPrefix(last, deathNote); ok {
		return said
	}
	return ""
}

// deaths calls life with one moment after the other, until there are no more of them,
// and logs which there were.
func deaths(t *testing.T, step int64, life func(at int64) (words string)) {
	t.Helper()
	words := make(map[string]int)
	killed := 0
	// No two lives are quite the same, so one without a death is not the end.
	for at, missed := int64(2), 0; missed < 3; at += step {
		if w := life(at); w != "" {
			words[w]++
			killed++
		} else {
			missed++
		}
	}
	for _, w := range slices.Sorted(maps.Keys(words)) {
		t.Logf("%3d × killed %s", words[w], w)
	}
	if least := pick(2, 5, 20); killed < least {
		t.Errorf("killed only %d times, want %d", killed, least)
	}
}

// TestKillWhileSnapshotIsInstalled has a store that needs a snapshot kill itself
// before and after every call with which it receives and installs one. The next life
// goes on from what is left, and has the state of the others.
func TestKillWhileSnapshotIsInstalled(t *testing.T) {
	t.Parallel()
	var death *Death
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), Groups: 1, SnapshotEntries: 20, SegmentBytes: 64 << 10,
		Death: func(id wire.StoreID) *Death {
			if id == 1 {
				return death
			}
			return nil
		}}, 8)
	must(t, c.StartAll())
	l.Begin()
	answers(t, l, pick(600, 1500, 3000)) // so that the state has several chunks
	l.End()
	deaths(t, int64(pick(11, 3, 1)), func(at int64) string {
		must(t, c.Agree(t.Context(), 1, 2, 3)) // so that its log goes hardly further than its machine
		last, err := c.Health(t.Context(), 1)
		must(t, err)
		// A leader keeps entries for the receiver of the last round for some seconds. One
		// that is started again does not.
		c.KillAll()
		must(t, c.Start(2))
		must(t, c.Start(3))
		for compacted := false; !compacted; {
			l.Begin()
			answers(t, l, 60)
			l.End()
			compacted = true
			for _, id := range []wire.StoreID{2, 3} {
				h, err := c.Health(t.Context(), id)
				must(t, err)
				compacted = compacted && h.Health.First > last.Health.Applied+10
			}
		}
		death = &Death{Suffix: ".part", At: at}
		words := dies(t, c, func(h Health) bool { return h.Installed > 0 })
		death = nil
		must(t, c.Heal())
		must(t, c.Agree(t.Context(), 1, 2))
		return words
	})
	verify(t, c, l)
	t.Logf("%d operations", l.History.Len())
}

// TestKillWhileSnapshotIsMade is the same for the calls with which a store makes a
// snapshot and compacts its log behind it. It is alone, so nobody could help it out.
func TestKillWhileSnapshotIsMade(t *testing.T) {
	t.Parallel()
	var death *Death
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 1), Groups: 1, SnapshotEntries: 20, SegmentBytes: 64 << 10, Filler: 4 << 10,
		Death: func(wire.StoreID) *Death { return death }}, 4)
	deaths(t, int64(pick(13, 5, 1)), func(at int64) string {
		death = &Death{Suffix: ".snap.tmp", At: at}
		l.Begin()
		defer l.End()
		return dies(t, c, func(h Health) bool { return h.Made > 2 })
	})
	death = nil
	verify(t, c, l)
	t.Logf("%d operations", l.History.Len())
}
