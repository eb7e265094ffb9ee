//go:build linux

package faulttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// controlGroups counts them, as tests run side by side.
var controlGroups atomic.Int64

// controlGroup is a version 1 control group of this test.
type controlGroup struct {
	t   *testing.T
	dir string
}

func newControlGroup(t *testing.T, controller string) *controlGroup {
	t.Helper()
	needRoot(t)
	root := filepath.Join("/sys/fs/cgroup", controller)
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		t.Skipf("needs the %s controller of control groups, version 1: %v", controller, err)
	}
	g := &controlGroup{t: t, dir: filepath.Join(root, named(fmt.Sprint("group-", controlGroups.Add(1))))}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		t.Skipf("needs to make control groups: %v", err)
	}
	t.Cleanup(func() {
		if err := removeGroup(g.dir); err != nil {
			t.Errorf("remove control group: %v", err)
		}
	})
	return g
}

func (g *controlGroup) set(file, text string) {
	g.t.Helper()
	must(g.t, os.WriteFile(filepath.Join(g.dir, file), []byte(text), 0))
}

// TestFewFiles lets one store of three open no file any more, though it takes writes
// that fill many segments, and its connections are cut. It goes on in the segment that
// it has; with files again it catches up by itself.
func TestFewFiles(t *testing.T) {
	t.Parallel()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), SegmentBytes: 64 << 10, Filler: 4 << 10}, 16)
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	rounds := pick(1, 1, 50)
	for range rounds {
		answers(t, l, 300)
		leads(t, c, 1)
		p := c.Process(1)
		var before unix.Rlimit
		must(t, unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, nil, &before))
		must(t, unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}, nil))
		answers(t, l, 200) // what had its file open ends
		h, err := c.Health(t.Context(), 1)
		must(t, err)
		made := h.Health.Made
		answers(t, l, pick(1000, 3000, 20_000))
		for _, p := range c.proxies {
			p.Cut()
		}
		answers(t, l, 300)
		if h, err = c.Health(t.Context(), 1); err != nil || h.Failed || h.Health.Stopped > 0 || len(h.Health.Damage) > 0 {
			t.Fatalf("a store without files: %v, %+v", err, h)
		}
		if h.Health.Made > made {
			t.Error("a snapshot was made without a file: there was no limit")
		}
		must(t, unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, &before, nil))
		readable(t, c, 1)
		for made = h.Health.Made; h.Health.Made == made; {
			answers(t, l, 300)
			h, err = c.Health(t.Context(), 1)
			must(t, err)
		}
	}
	l.End()
	healthy(t, c)
	verify(t, c, l)
	t.Logf("%d operations around %d times without files", l.History.Len(), rounds)
}

// TestSameDirectoryTwice starts a second process on the directory of one that
// runs. It is refused, and the first does not notice.
func TestSameDirectoryTwice(t *testing.T) {
	t.Parallel()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 1)}, 4)
	must(t, c.StartAll())
	l.Begin()
	answers(t, l, 50)
	again, err := NewCluster(c.cfg)
	must(t, err)
	var open *OpenError
	if err := again.Start(1); !errors.As(err, &open) || open.Killed {
		t.Errorf("a second process on one directory: %v", err)
	}
	must(t, again.Close())
	answers(t, l, 50)
	l.End()
	verify(t, c, l)
}

// TestFrozenProcess freezes one store after another, all threads at once and
// without a signal, as a paused virtual machine is. When it goes on it must not
// believe that it still leads.
func TestFrozenProcess(t *testing.T) {
	t.Parallel()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3)}, 24)
	must(t, c.StartAll())
	g := newControlGroup(t, "freezer")
	t.Cleanup(func() {
		g.set("freezer.state", "THAWED")
		c.KillAll() // a control group with processes in it cannot be removed
	})
	l.Begin()
	t.Cleanup(l.End)
	rounds := pick(2, 4, 200)
	for round := range rounds {
		p := c.Process(storeAt(round % 3))
		g.set("cgroup.procs", fmt.Sprint(p.Pid()))
		answers(t, l, 500)
		g.set("freezer.state", "FROZEN")
		l.Attempts(200)
		g.set("freezer.state", "THAWED")
		answers(t, l, 500)
		must(t, os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.procs"), []byte(fmt.Sprint(p.Pid())), 0))
	}
	l.End()
	verify(t, c, l)
	t.Logf("%d operations around %d pauses", l.History.Len(), rounds)
}

// TestSlowDisk lets the disk of one store of three take only so many bytes a
// second. Its leaderships leave.
func TestSlowDisk(t *testing.T) {
	v := newVolume(t, 128*mib)
	v.mount()
	places := dirs(t.TempDir(), 3)
	places[0] = v.dir
	c, l := newCluster(t, ClusterConfig{Dirs: places, SegmentBytes: 256 << 10}, 24)
	must(t, c.StartAll())
	g := newControlGroup(t, "blkio")
	t.Cleanup(c.KillAll)
	var st unix.Stat_t
	must(t, unix.Stat(v.device, &st))
	device := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	g.set("cgroup.procs", fmt.Sprint(c.Process(1).Pid()))
	l.Begin()
	answers(t, l, 300)
	leads(t, c, 1)
	g.set("blkio.throttle.write_bps_device", device+" 65536")
	leavesTo(t, c)
	answers(t, l, pick(200, 1000, 20_000))
	throttled := g.bytes("blkio.throttle.io_service_bytes", device)
	g.set("blkio.throttle.write_bps_device", device+" 0")
	answers(t, l, 300)
	l.End()
	if throttled == 0 {
		t.Error("nothing was written through the limit")
	}
	verify(t, c, l)
	t.Logf("%d operations, %d bytes through the limit", l.History.Len(), throttled)
	c.KillAll()
	v.unmount()
}

// bytes returns what a file of the group counts as written to a device.
func (g *controlGroup) bytes(file, device string) (n int64) {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, file))
	must(g.t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, device+" Write "); ok {
			_, err := fmt.Sscan(rest, &n)
			must(g.t, err)
		}
	}
	return n
}
