package raftlog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// TestBlocksRanges reads every range of a log whose blocks were cut, from
// segments that other groups write to as well.
func TestBlocksRanges(t *testing.T) {
	l := mustOpen(t, testOptions(vfs.New(vfs.Options{})))
	g := l.Group(1)
	var terms []wire.Term
	add := func(first wire.Index, term wire.Term, count int) {
		submit(t, l, func(b *Batch) {
			b.Append(l.Group(2), block(2, l.Group(2).Last()+1, 1, 1))
			b.Append(g, block(1, first, term, count))
		})
		terms = terms[:first-1]
		for range count {
			terms = append(terms, term)
		}
	}
	add(1, 1, 5)
	add(6, 1, 1)
	add(7, 2, 7)
	add(11, 3, 4) // cuts
	add(15, 3, 2)
	add(14, 4, 1) // cuts again
	submit(t, l, func(b *Batch) { b.Compact(g, 2, 1) })
	check(t, g, 3, terms[2:]...)

	last := wire.Index(len(terms))
	for lo := wire.Index(3); lo <= last; lo++ {
		for hi := lo; hi <= last+1; hi++ {
			got, err := entries(g, lo, hi, 1<<20)
			if err != nil || len(got) != int(hi-lo) {
				t.Fatalf("[%d, %d): %d entries, %v", lo, hi, len(got), err)
			}
			// One byte is not enough for a block: it gets one all the same, and
			// no second one.
			one, err := g.Blocks(lo, hi, 1, []byte("before"))
			if err != nil || string(one[:6]) != "before" {
				t.Fatalf("[%d, %d): %q %v", lo, hi, one, err)
			}
			if hi > lo {
				if b, rest, err := wire.ParseBlock(one[6:]); err != nil || len(rest) > 0 || b.First() != lo {
					t.Fatalf("[%d, %d): %v, %d bytes behind the block", lo, hi, err, len(rest))
				}
			}
		}
	}
	for _, c := range []struct {
		lo, hi wire.Index
		err    error
	}{{2, 5, wire.ErrCompacted}, {3, last + 2, wire.ErrUnavailable}, {last + 1, last + 2, wire.ErrUnavailable}} {
		if b, err := g.Blocks(c.lo, c.hi, 1000, nil); !errors.Is(err, c.err) || len(b) > 0 {
			t.Errorf("[%d, %d): %v, want %v", c.lo, c.hi, err, c.err)
		}
	}
	if _, err := g.Term(1); !errors.Is(err, wire.ErrCompacted) {
		t.Errorf("term of a compacted entry: %v", err)
	}
	if term, err := g.Term(2); term != 1 || err != nil {
		t.Errorf("term of the last compacted entry: %d, %v", term, err)
	}
}

// TestReadsTogether: small blocks that lie near each other cost one read for
// many, whether they are back to back or have other groups' between them.
func TestReadsTogether(t *testing.T) {
	for _, groups := range []wire.GroupID{1, 8} {
		fs := vfs.New(vfs.Options{})
		o := testOptions(fs)
		o.SegmentBytes, o.MaxBatchBytes = 1<<20, 1<<20
		l := mustOpen(t, o)
		const blocks = 2000
		for i := wire.Index(1); i <= blocks; i += 50 {
			submit(t, l, func(b *Batch) {
				for k := range wire.Index(50) {
					for id := range groups {
						b.Append(l.Group(id+1), block(id+1, i+k, 1, 1))
					}
				}
			})
		}
		reads := 0
		fs.SetHook(func(op vfs.Op) vfs.Fault {
			if op.Kind == vfs.OpRead {
				reads++
			}
			return vfs.Fault{}
		})
		got, err := entries(l.Group(1), 1, blocks+1, 1<<20)
		if err != nil || len(got) != blocks {
			t.Fatalf("%d entries, %v", len(got), err)
		}
		if reads > blocks/30 {
			t.Errorf("%d groups: %d reads for %d blocks", groups, reads, blocks)
		}
	}
}

// TestConcurrentReads reads while the log is written, truncated, compacted,
// recycled and rewritten. A reader sees what is right or that it is gone.
func TestConcurrentReads(t *testing.T) {
	o := testOptions(vfs.New(vfs.Options{}))
	o.SegmentBytes = 8 << 10
	o.Events.Damaged = func(err *CorruptionError, _ []wire.GroupID) { t.Errorf("sound bytes are called damaged: %v", err) }
	l := mustOpen(t, o)
	done := make(chan struct{})
	s := &waitSink{done: make(chan error, 1)}
	l.SetSink(s)
	l.Start()

	var readers sync.WaitGroup
	reads := make([]int, 3)
	for k := range reads {
		readers.Add(1)
		go func() {
			defer readers.Done()
			r := rand.New(rand.NewPCG(uint64(k), 5))
			for {
				select {
				case <-done:
					return
				default:
				}
				g := l.Group(wire.GroupID(1 + r.IntN(3)))
				lo, hi := g.First(), g.Last()+1
				if lo >= hi {
					continue
				}
				lo += wire.Index(r.Uint64N(uint64(hi - lo)))
				got, err := entries(g, lo, hi, r.IntN(2000))
				switch {
				case errors.Is(err, wire.ErrCompacted), errors.Is(err, wire.ErrUnavailable):
					continue
				case err != nil:
					t.Error(err)
					return
				}
				for i, c := range got {
					var id, index, term uint64
					if n, err := fmt.Sscanf(c, "%d/%d/%d", &id, &index, &term); n != 3 || err != nil ||
						id != uint64(g.ID()) || index != uint64(lo)+uint64(i) {
						t.Errorf("entry %d of group %d is %s", lo+wire.Index(i), g.ID(), c)
						return
					}
				}
				reads[k]++
			}
		}()
	}
	m := newModel()
	r := rand.New(rand.NewPCG(6, 6))
	for range 3000 {
		var b Batch
		for range 3 {
			c := m.random(r, 3)
			if c.kind == "remove" {
				continue
			}
			m.add(c)
			c.addTo(&b, l.Group(c.group))
		}
		l.Submit(&b)
		if err := <-s.done; err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	readers.Wait()
	if err := m.diff(l); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if err := l.Close(); err != nil { // again
		t.Fatal(err)
	}
	late := &sink{}
	l.SetSink(late)
	l.Submit(&Batch{})
	if !errors.Is(late.err, ErrClosed) {
		t.Fatalf("after Close: %v", late.err)
	}
	if s := l.Stats(); s.Rotations < 50 || reads[0] == 0 {
		t.Fatalf("%d segments begun, %d reads: the test does not test", s.Rotations, reads[0])
	}
}

type waitSink struct{ done chan error }

func (s *waitSink) Durable(batches []*Batch, err error) {
	for range batches {
		s.done <- err
	}
}

// TestHandleSize holds the cost of an idle group.
func TestHandleSize(t *testing.T) {
	l := mustOpen(t, testOptions(vfs.New(vfs.Options{})))
	g := l.Group(1)
	submit(t, l, func(b *Batch) {
		b.HardState(g, wire.HardState{Term: 1})
		b.Append(g, block(1, 1, 1, 1))
	})
	if n := int(unsafe.Sizeof(*g)) + g.IndexBytes(); n > 200 {
		t.Errorf("a group with one block takes %d bytes, %d of them the handle", n, unsafe.Sizeof(*g))
	}
}
