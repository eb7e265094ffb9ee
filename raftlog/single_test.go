package raftlog_test

import (
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// TestNextSingle: entries that are alone in their blocks are found, those of longer
// blocks passed over, also where a block was cut at either end.
func TestNextSingle(t *testing.T) {
	l := mustOpen(t, testOptions(vfs.New(vfs.Options{})))
	g := l.Group(1)
	if got := g.NextSingle(1, 9); got != 9 {
		t.Errorf("empty log: %d", got)
	}
	submit(t, l, func(b *Batch) {
		b.Append(g, block(1, 1, 1, 5))
		b.Append(g, block(1, 6, 1, 1))
		b.Append(g, block(1, 7, 2, 7))
		b.Append(g, block(1, 14, 2, 1))
		b.Append(g, block(1, 15, 2, 2))
	})
	for lo := wire.Index(1); lo <= 17; lo++ {
		for hi := lo; hi <= 17; hi++ {
			want := hi
			for _, alone := range []wire.Index{14, 6} {
				if lo <= alone && alone < hi {
					want = alone
				}
			}
			if got := g.NextSingle(lo, hi); got != want {
				t.Errorf("[%d, %d): %d, want %d", lo, hi, got, want)
			}
		}
	}
	submit(t, l, func(b *Batch) { b.Compact(g, 10, 2) })
	if got := g.NextSingle(11, 17); got != 14 {
		t.Errorf("behind what is compacted: %d", got)
	}
}
