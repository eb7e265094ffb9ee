//go:build linux

package faulttest

import (
	"context"
	"strings"
	"testing"
)

// TestDiskFull lets a file system run full under a store. Writes are refused
// before the log needs the space that is missing, reads go on, nothing fails, and
// with new space writes go on, without a restart.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	v := newVolume(t, 32*mib)
	v.mount()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, 1), SegmentBytes: 256 << 10, Filler: 8 << 10}, 16)
	must(t, c.StartAll())
	rounds := pick(1, 2, 20)
	for range rounds {
		l.Begin()
		answers(t, l, 100)
		free := v.fill()
		busy(t, c, l)
		l.End()
		healthy(t, c)
		if err := l.ReadAll(t.Context(), c.Stores()...); err != nil {
			t.Errorf("reads on a full disk: %v", err)
		}
		free()
		l.Begin()
		writable(t, c, l)
		answers(t, l, 200)
		l.End()
	}
	verify(t, c, l)
	c.KillAll()
	verify(t, c, l)
	t.Logf("%d operations", l.History.Len())
	c.KillAll()
	v.unmount()
}

// busy waits until a write is refused for want of space.
func busy(t *testing.T, c *Cluster, l *Load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		a, err := c.Process(1).Call(ctx, Request{Op: opWrite, Group: 1, Key: 1 << 40, Value: l.values.Add(1), Timeout: callTimeout})
		must(t, err)
		if a.Outcome == Refused && strings.Contains(a.Text, "busy") {
			return
		}
		healthy(t, c)
	}
}

// writable waits until a write is taken.
func writable(t *testing.T, c *Cluster, l *Load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		a, err := c.Process(1).Call(ctx, Request{Op: opWrite, Group: 1, Key: 1 << 40, Value: l.values.Add(1), Timeout: callTimeout})
		must(t, err)
		if a.Outcome == Done {
			return
		}
		must(t, pause(ctx, retryInterval))
	}
}

func healthy(t *testing.T, c *Cluster) {
	t.Helper()
	h, err := c.Health(t.Context(), 1)
	must(t, err)
	if h.Failed || h.Text != "" || len(h.Health.Damage) > 0 {
		t.Fatalf("the store does not run as it should: %+v", h)
	}
}
