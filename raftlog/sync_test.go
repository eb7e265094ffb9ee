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

// TestProcessDiesWithItsFailedSync shows that a batch is safe once a start has
// found it, though its sync had failed and the process died before it could take
// it back: the pages are clean then, a sync of them does nothing, and so the batch
// has to be written again. It goes through all calls of that start: a power cut
// there may take the batch, and nothing else.
func TestProcessDiesWithItsFailedSync(t *testing.T) {
	fsys := vfs.New(vfs.Options{})
	l := mustOpen(t, testOptions(fsys))
	submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 1, 1, 2)) })
	var died *vfs.MemFS
	fsys.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpSync {
			died = fsys.Fork()
			died.DropUnsynced()
		}
		return vfs.Fault{}
	})
	submit(t, l, func(b *Batch) {
		b.Append(l.Group(1), block(1, 3, 1, 1))
		b.HardState(l.Group(2), wire.HardState{Term: 7, Vote: 1})
	})

	states := 0
	find := func(disk *vfs.MemFS, least wire.Index, when string) {
		states++
		o := testOptions(disk)
		o.Events.Damaged = func(err *CorruptionError, _ []wire.GroupID) {
			if err.Segment != 0 { // a torn copy of the identity is no harm
				t.Errorf("%s: called damage: %v", when, err)
			}
		}
		l := mustOpen(t, o)
		last, term := l.Group(1).Last(), l.Group(2).HardState().Term
		if last != 2 && last != 3 || last < least || last == 2 && term == 7 {
			t.Errorf("%s: found entries up to %d, term %d", when, last, term)
		}
	}
	died.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind.Mutates() {
			died.States(vfs.StateOptions{Combined: 3, Entries: 4}, func(s *vfs.State) {
				find(s.Clone(), 2, "before "+op.Kind.String()+" "+op.Name+", "+s.String())
			})
		}
		return vfs.Fault{}
	})
	l = mustOpen(t, testOptions(died))
	check(t, l.Group(1), 1, 1, 1, 1)
	died.States(vfs.StateOptions{}, func(s *vfs.State) { find(s.Clone(), 3, "at the end, "+s.String()) })
	if states < 100 {
		t.Errorf("%d states", states)
	}
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
