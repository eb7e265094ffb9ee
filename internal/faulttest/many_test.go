//go:build linux

package faulttest

import (
	"context"
	"sync"
	"testing"
	"time"

	"multiraft/wire"
)

// led waits until every group has a leader that all of its replicas know, and returns
// how long that took and how many campaigns it needed.
func led(t *testing.T, c *Cluster) (took time.Duration, elections int64) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 5*settleTimeout)
	defer cancel()
	for {
		leaders, known := 0, 0
		elections = 0
		for _, id := range c.Stores() {
			h, err := c.Health(ctx, id)
			must(t, err)
			leaders += h.Health.Leading
			known += h.Health.Led
			elections += h.Health.Elections
		}
		if leaders == c.cfg.Groups && known == c.cfg.Groups*c.cfg.Voters {
			return time.Since(began), elections
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			t.Fatalf("%d of %d groups have a leader, %d replicas know of one", leaders, c.cfg.Groups, known)
		}
	}
}

// TestCorrelatedRestart kills all stores of many groups at once and starts them
// again: every group gets a leader that all of its replicas know.
func TestCorrelatedRestart(t *testing.T) {
	t.Parallel()
	groups := pick(64, 512, 4096)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), Groups: groups, SegmentBytes: 16 * mib}, 16)
	must(t, startTogether(c))
	led(t, c)
	l.Begin()
	t.Cleanup(l.End)
	rounds := pick(1, 2, 5)
	for range rounds {
		answers(t, l, 1000)
		c.KillAll()
		must(t, startTogether(c))
		took, elections := led(t, c)
		// How many are in vain depends on what else the machine does.
		t.Logf("%d groups had leaders %v after the last store was open, with %d campaigns", groups, took.Round(time.Millisecond), elections)
	}
	l.End()
	verify(t, c, l)
	t.Logf("%d operations", l.History.Len())
}

// startTogether starts all stores at the same time.
func startTogether(c *Cluster) error {
	failed := make(chan error, len(c.procs))
	for _, id := range c.Stores() {
		go func() { failed <- c.Start(id) }() // ends when the store is open
	}
	var first error
	for range c.procs {
		if err := <-failed; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// TestWipedStore empties the disk of a store with many groups. It comes back under
// its id, as one that has lost everything; the operator takes its replicas out and
// adds new ones, which all need a snapshot at the same time. The others serve on, and
// no group elects another leader for want of heartbeats.
func TestWipedStore(t *testing.T) {
	t.Parallel()
	groups := pick(32, 128, 2000)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), Groups: groups, SegmentBytes: 4 * mib, SnapshotEntries: 8}, 16)
	must(t, startTogether(c))
	led(t, c)
	l.Moves = true
	l.Begin()
	t.Cleanup(l.End)
	for range groups {
		answers(t, l, 30) // about half are writes, so that logs are compacted
	}
	c.Kill(3)
	answers(t, l, 300) // so that those that store 3 led have other leaders
	must(t, c.StartWiped(3))
	before := campaigns(t, c)

	each := func(op operation) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*settleTimeout)
		defer cancel()
		failed := make(chan error, groups)
		var room sync.WaitGroup
		places := make(chan struct{}, 64) // an operator does not do all of it in one moment
		for g := wire.GroupID(1); int(g) <= groups; g++ {
			room.Add(1)
			go func() { // ends with ctx at the latest
				defer room.Done()
				places <- struct{}{}
				_, err := c.Change(ctx, Request{Op: op, Group: g, Store: 3})
				<-places
				failed <- err
			}()
		}
		room.Wait()
		for range groups {
			must(t, <-failed)
		}
	}
	each(opRemove)
	each(opAdd)
	answers(t, l, 300)
	after := campaigns(t, c)
	h, err := c.Health(t.Context(), 3)
	must(t, err)
	if h.Health.Hosted != groups {
		t.Errorf("store 3 has %d of %d groups", h.Health.Hosted, groups)
	}
	// Afterwards it is a store like others.
	c.Kill(3)
	must(t, c.Start(3))
	l.End()
	verify(t, c, l)
	t.Logf("%d groups moved onto an empty disk, %d by snapshot; %d campaigns meanwhile; %d operations",
		groups, h.Health.Installed, after-before, l.History.Len())
}

// campaigns adds up those of all stores since they were opened.
func campaigns(t *testing.T, c *Cluster) (n int64) {
	t.Helper()
	for _, id := range c.Stores() {
		h, err := c.Health(t.Context(), id)
		must(t, err)
		n += h.Health.Elections
	}
	return n
}
