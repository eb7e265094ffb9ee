package raftlog_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

var errSync = errors.New("input/output error")

// TestFailedSyncIsNotFoundAgain shows that a batch whose sync failed is not
// counted on by the next start of the process. As on Linux, its bytes can still
// be read, and another sync of them returns nil and does nothing.
func TestFailedSyncIsNotFoundAgain(t *testing.T) {
	fsys := vfs.New(vfs.Options{FailedSyncDrops: true})
	o := testOptions(fsys)
	l := mustOpen(t, o)
	submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 1, 1, 2)) })

	fsys.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpSync {
			return vfs.Fault{Err: errSync}
		}
		return vfs.Fault{}
	})
	var b Batch
	s := &sink{}
	l.SetSink(s)
	b.Append(l.Group(1), block(1, 3, 1, 2))
	l.Submit(&b)
	l.Step()
	if !errors.Is(s.err, errSync) {
		t.Fatalf("got %v, want %v", s.err, errSync)
	}
	if err := l.Close(); !errors.Is(err, errSync) {
		t.Fatalf("close: got %v, want %v", err, errSync)
	}

	fsys.SetHook(nil)
	l = mustOpen(t, o)
	check(t, l.Group(1), 1, 1, 1)
	submit(t, l, func(b *Batch) { b.HardState(l.Group(1), wire.HardState{Term: 2, Vote: 5}) })

	o.FS = fsys.CrashClone(rand.NewPCG(1, 2), vfs.AllLost)
	l = mustOpen(t, o)
	if err := l.Group(1).Err(); err != nil {
		t.Fatal(err)
	}
	check(t, l.Group(1), 1, 1, 1)
	mustClose(t, l)
}

// TestPowerCutKeepsTheDirectory shows that what is durable in the log is not
// lost with the directory it is in, even if the start that made the directory
// died in the middle of it.
func TestPowerCutKeepsTheDirectory(t *testing.T) {
	for call := uint64(1); call <= 12; call++ {
		fsys := vfs.New(vfs.Options{})
		o := testOptions(fsys)
		o.Dir = "/a/b/log"
		fsys.SetHook(vfs.FailFrom(call, errSync))
		if l, err := Open(o); err == nil {
			mustClose(t, l)
		}
		fsys.SetHook(nil)
		l := mustOpen(t, o)
		submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 1, 1, 2)) })
		o.FS = fsys.CrashClone(rand.NewPCG(1, 2), vfs.AllLost)
		l = mustOpen(t, o)
		check(t, l.Group(1), 1, 1, 1)
		mustClose(t, l)
	}
}
