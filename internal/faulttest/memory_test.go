//go:build linux

package faulttest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOutOfMemory has the kernel end a process for want of memory, in the middle of
// what it does. That is a SIGKILL whose moment nobody chose.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3)}, 16)
	g := newControlGroup(t, "memory")
	t.Cleanup(c.KillAll)
	g.set("memory.limit_in_bytes", fmt.Sprint(128*mib))
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	rounds := pick(1, 3, 100)
	for round := range rounds {
		answers(t, l, 300)
		id := storeAt(round % 3)
		p := c.Process(id)
		g.set("cgroup.procs", fmt.Sprint(p.Pid()))
		ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
		if a, err := p.Call(ctx, Request{Op: opHog, Timeout: settleTimeout}); err == nil {
			t.Errorf("a store that takes all memory answers %+v", a)
		}
		cancel()
		if !closed(p.Ended()) {
			t.Fatal("the kernel did not end the process")
		}
		l.Attempts(100)
		c.Kill(id)
		must(t, c.Start(id))
	}
	if n := g.count("memory.oom_control", "oom_kill "); n < int64(rounds) {
		t.Errorf("the kernel ended %d processes for want of memory in %d rounds", n, rounds)
	}
	answers(t, l, 300)
	l.End()
	verify(t, c, l)
	t.Logf("%d operations around %d deaths", l.History.Len(), rounds)
}

// TestMemoryUnderLimit has three stores run within a limit for memory while one of
// them stands still: what waits for it, in its leaders and on the way, is bounded.
func TestMemoryUnderLimit(t *testing.T) {
	t.Parallel()
	const budget, limit = 2 * mib, 96 * mib
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), Filler: 12 << 10, Budget: budget, SegmentBytes: mib, SnapshotEntries: 2000}, 48)
	g := newControlGroup(t, "memory")
	t.Cleanup(c.KillAll)
	g.set("memory.limit_in_bytes", fmt.Sprint(limit))
	must(t, c.StartAll())
	for _, id := range c.Stores()[:2] {
		g.set("cgroup.procs", fmt.Sprint(c.Process(id).Pid()))
	}
	l.Begin()
	t.Cleanup(l.End)
	answers(t, l, 300)
	must(t, c.Process(3).Signal(unix.SIGSTOP))
	answers(t, l, pick(1000, 2500, 200_000))
	must(t, c.Process(3).Signal(unix.SIGCONT))
	answers(t, l, 500)
	l.End()
	if n := g.count("memory.oom_control", "oom_kill "); n != 0 {
		t.Errorf("the kernel ended %d processes for want of memory", n)
	}
	heap := g.count("memory.stat", "total_rss ")
	most := g.count("memory.max_usage_in_bytes", "")
	verify(t, c, l)
	t.Logf("%d operations; two stores had %d MiB together at the end, and %d MiB with the files of the cache at most, of %d",
		l.History.Len(), heap/mib, most/mib, limit/mib)
}

// count returns a number in a file of the group, the one behind a prefix.
func (g *controlGroup) count(file, prefix string) (n int64) {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, file))
	must(g.t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			_, err := fmt.Sscan(rest, &n)
			must(g.t, err)
			return n
		}
	}
	g.t.Fatalf("%s has no line that begins with %q", file, prefix)
	return 0
}
