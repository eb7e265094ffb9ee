//go:build unix

package raftlog_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	. "multiraft/raftlog"
	"multiraft/wire"
)

const descriptorsDir = "MULTIRAFT_TEST_DESCRIPTORS_DIR"

// On the operating system's files: a child process takes every descriptor that its
// limit leaves, and its log rotates through the spares and goes on behind them.
func TestNoDescriptorsLeftInTheProcess(t *testing.T) {
	if dir := os.Getenv(descriptorsDir); dir != "" {
		writeWithoutDescriptors(t, dir)
		return
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestNoDescriptorsLeftInTheProcess$", "-test.v")
	child.Env = append(os.Environ(), descriptorsDir+"="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "wrote with nothing left") {
		t.Fatalf("%v\n%s", err, out)
	}
	l := mustOpen(t, Options{Dir: dir, Cluster: 1, Store: 1, SegmentBytes: 16 << 10})
	holdsAll(t, l.Group(1), 2000)
	mustClose(t, l)
}

func writeWithoutDescriptors(t *testing.T, dir string) {
	l := mustOpen(t, Options{Dir: dir, Cluster: 1, Store: 1, SegmentBytes: 16 << 10})
	for l.Maintain() {
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}); err != nil {
		t.Fatal(err)
	}
	var taken []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		taken = append(taken, f)
	}
	g := l.Group(1)
	for next := wire.Index(1); next <= 2000; next++ {
		submit(t, l, func(b *Batch) { b.Append(g, block(1, next, 1, 1)) })
		l.Maintain()
	}
	if s := l.Stats(); l.Err() != nil || !l.DiskFull() || s.Rotations < 2 || s.Bytes < 5*16<<10 {
		t.Fatalf("%v, reserve missing: %v, %+v", l.Err(), l.DiskFull(), s)
	}
	t.Logf("wrote with nothing left but %d descriptors", len(taken))
	for _, f := range taken {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)
}
