package raftlog_test

import (
	"strings"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// TestUnitsAreNotParted: wherever a batch is full, a crash leaves all of the
// control records that a caller submitted side by side for a group, or none.
// Those of another group in front, and blocks, are parted from them.
func TestUnitsAreNotParted(t *testing.T) {
	both, none := 0, 0
	for filler := range 300 {
		fs := vfs.New(vfs.Options{})
		o := testOptions(fs)
		l := mustOpen(t, o)
		submit(t, l, func(b *Batch) {
			b.Append(l.Group(1), block(1, 1, 2, 5))
			b.Meta(l.Group(1), []byte("old"))
		})
		var b Batch
		b.Meta(l.Group(2), []byte(strings.Repeat("x", 3600+2*filler)))
		b.HardState(l.Group(1), wire.HardState{Term: 9})
		b.Restart(l.Group(1), 70, 9)
		b.Meta(l.Group(1), []byte("new"))
		b.Append(l.Group(1), block(1, 71, 9, 1))
		l.Submit(&b)
		l.Step() // what fits in the first batch
		l = mustOpen(t, testOptions(fs.CrashClone(nil, vfs.AllLost)))
		if l.Group(2).Meta() == nil {
			t.Fatalf("filler %d: the first record is not there", filler)
		}
		g := l.Group(1)
		restarted, renewed, voted := g.First() == 71, string(g.Meta()) == "new", g.HardState().Term == 9
		if restarted != renewed || restarted != voted {
			t.Fatalf("filler %d: restarted %v, new meta %v, new hard state %v", filler, restarted, renewed, voted)
		}
		if restarted {
			both++
		} else {
			none++
		}
		mustClose(t, l)
	}
	if both == 0 || none == 0 {
		t.Fatalf("all %d, none %d times: no batch was full at the unit", both, none)
	}
}

// TestUnitsOfAnySize: what no batch can hold is parted, and arrives all the same.
func TestUnitsOfAnySize(t *testing.T) {
	o := testOptions(vfs.New(vfs.Options{}))
	l := mustOpen(t, o)
	submit(t, l, func(b *Batch) {
		for _, c := range "abc" {
			b.Meta(l.Group(1), []byte(strings.Repeat(string(c), o.MaxBatchBytes-200)))
		}
		b.Restart(l.Group(1), 7, 2)
	})
	if n := l.Stats().Batches; n < 3 {
		t.Errorf("%d batches hold what is longer than two", n)
	}
	mustClose(t, l)
	l = mustOpen(t, o)
	if meta := string(l.Group(1).Meta()); !strings.HasPrefix(meta, "cc") || l.Group(1).First() != 8 {
		t.Errorf("found meta %.10s, first %d", meta, l.Group(1).First())
	}
	mustClose(t, l)
}
