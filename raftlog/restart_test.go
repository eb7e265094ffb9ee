package raftlog_test

import (
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// TestRestart: nothing is left behind the place where the log goes on, neither
// of higher terms nor of equal ones, and that is also what a later start finds,
// from all segments, after the record was rewritten forward, and from a
// checkpoint.
func TestRestart(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 8 << 10
	l := mustOpen(t, o)
	submit(t, l, func(b *Batch) {
		b.Append(l.Group(1), block(1, 1, 2, 5))
		b.Append(l.Group(1), block(1, 6, 3, 5))
		b.Append(l.Group(2), block(2, 1, 2, 10))
	})
	submit(t, l, func(b *Batch) {
		b.Restart(l.Group(1), 7, 2)
		b.Restart(l.Group(2), 7, 2)
		b.Append(l.Group(2), block(2, 8, 2, 2))
		b.Restart(l.Group(3), 70, 6) // of which there was nothing
	})
	verify := func(what string) {
		t.Helper()
		check(t, l.Group(1), 8)
		check(t, l.Group(2), 8, 2, 2)
		check(t, l.Group(3), 71)
		for id, want := range map[wire.GroupID][2]uint64{1: {7, 2}, 2: {7, 2}, 3: {70, 6}} {
			if term, err := l.Group(id).Term(wire.Index(want[0])); err != nil || term != wire.Term(want[1]) {
				t.Fatalf("%s: group %d: term of entry %d is %d (%v), want %d", what, id, want[0], term, err, want[1])
			}
		}
	}
	verify("at first")
	mustClose(t, l)
	l = mustOpen(t, o)
	verify("reopened")
	moved := uint64(0)
	for range 3 {
		busy(t, l, 9, 100)
		moved += l.Stats().Moved
		verify("moved")
		mustClose(t, l)
		l = mustOpen(t, o)
		verify("moved and reopened")
	}
	if moved == 0 {
		t.Fatal("nothing was moved")
	}
	// A restart in front of what is compacted is an older word.
	submit(t, l, func(b *Batch) { b.Restart(l.Group(3), 60, 5) })
	verify("an older restart")
	mustClose(t, l)
}
