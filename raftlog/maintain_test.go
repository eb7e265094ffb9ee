package raftlog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// maintain runs background work and what it asks of the writer.
func maintain(l *Log) {
	for l.Maintain() || l.Step() {
	}
}

// busy writes n batches of one group that is compacted all the time.
func busy(t testing.TB, l *Log, id wire.GroupID, n int) {
	t.Helper()
	g := l.Group(id)
	for range n {
		next := g.Last() + 1
		submit(t, l, func(b *Batch) {
			b.Append(g, block(id, next, 1, 1))
			b.Compact(g, next-1, 1)
		})
		maintain(l)
	}
}

// TestStragglers: idle groups whose few records are older than everything else
// do not keep the log from being recycled, and lose nothing when they are moved.
func TestStragglers(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 8 << 10
	l := mustOpen(t, o)
	submit(t, l, func(b *Batch) {
		b.HardState(l.Group(1), wire.HardState{Term: 3, Vote: 2, Commit: 1})
		b.Meta(l.Group(2), []byte("descriptor"))
		b.Append(l.Group(3), block(3, 1, 1, 9))
		b.Remove(l.Group(4))
		b.Compact(l.Group(5), 70, 6)
		b.Append(l.Group(5), block(5, 71, 7, 4))
	})
	submit(t, l, func(b *Batch) {
		b.Append(l.Group(3), block(3, 6, 2, 2)) // cuts the block before
		b.Compact(l.Group(3), 2, 1)             // and leaves its front compacted
	})
	verify := func(what string) {
		t.Helper()
		if hs := l.Group(1).HardState(); hs != (wire.HardState{Term: 3, Vote: 2, Commit: 1}) {
			t.Fatalf("%s: hard state %+v", what, hs)
		}
		if got := string(l.Group(2).Meta()); got != "descriptor" {
			t.Fatalf("%s: meta %q", what, got)
		}
		check(t, l.Group(3), 3, 1, 1, 1, 2, 2)
		if !l.Group(4).Removed() {
			t.Fatalf("%s: the tombstone is gone", what)
		}
		check(t, l.Group(5), 71, 7, 7, 7, 7)
		if term, err := l.Group(5).Term(70); term != 6 || err != nil {
			t.Fatalf("%s: term of the compacted entry: %d, %v", what, term, err)
		}
		if got := fmt.Sprint(l.Groups()[:5]); got != "[1 2 3 4 5]" {
			t.Fatalf("%s: groups %s", what, got)
		}
	}
	verify("at first")
	for round := range 4 {
		busy(t, l, 9, 100)
		s := l.Stats()
		if s.Segments > 5 || s.Moved == 0 && round > 0 {
			t.Fatalf("%+v", s)
		}
		if s.LiveBytes <= 0 || s.LiveBytes > s.UsedBytes || s.UsedBytes > s.DiskBytes {
			t.Fatalf("sizes contradict each other: %+v", s)
		}
		verify("moved")
		mustClose(t, l)
		l = mustOpen(t, o)
		verify("reopened")
	}
	if spares := l.Stats().Spares; spares > 4 {
		t.Fatalf("%d spares", spares)
	}
}

// TestLiveLogIsKept: what is live is not rewritten for nothing.
func TestLiveLogIsKept(t *testing.T) {
	o := testOptions(vfs.New(vfs.Options{}))
	o.SegmentBytes = 8 << 10
	l := mustOpen(t, o)
	for i := range wire.Index(300) {
		submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 30*i+1, 1, 30)) })
		maintain(l)
	}
	if s := l.Stats(); s.Moved != 0 || s.Segments < 15 {
		t.Fatalf("%+v", s)
	}
}

// TestRewriteRaces lets groups change between the copy and the write.
func TestRewriteRaces(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 8))
		fs := vfs.New(vfs.Options{})
		o := testOptions(fs)
		o.SegmentBytes = 4 << 10
		l := mustOpen(t, o)
		m := newModel()
		for range 150 {
			l.Maintain() // may hand a copy over …
			var b Batch  // … that this makes out of date
			for range 1 + r.IntN(4) {
				c := m.random(r, 4)
				m.add(c)
				c.addTo(&b, l.Group(c.group))
			}
			l.Submit(&b)
			l.Step()
		}
		for range 2 {
			if err := m.diff(l); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			mustClose(t, l)
			l = mustOpen(t, o)
		}
	}
}

// TestCheckpoint compares Open with a checkpoint, with a damaged one and without
// any, and in one goroutine and many: all must find the same.
func TestCheckpoint(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 3))
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 4 << 10
	l := mustOpen(t, o)
	m := newModel()
	for range 120 {
		submit(t, l, func(b *Batch) {
			for range 4 {
				c := m.random(r, 8)
				m.add(c)
				c.addTo(b, l.Group(c.group))
			}
		})
		maintain(l)
	}
	names := files(t, fs, "checkpoint-")
	if len(names) != 1 {
		t.Fatalf("checkpoints %v", names)
	}
	content := readAll(t, fs, names[0])
	open := func(what string, fs *vfs.MemFS, serial bool) (bytes int64, skipped int) {
		t.Helper()
		var reads atomic.Int64
		fs.SetHook(func(op vfs.Op) vfs.Fault {
			if op.Kind == vfs.OpRead {
				reads.Add(op.Length)
			}
			return vfs.Fault{}
		})
		o.FS, o.Serial = fs, serial
		o.Events.CheckpointSkipped = func(string, error) { skipped++ }
		o.Events.Damaged = func(err *CorruptionError, _ []wire.GroupID) { t.Errorf("%s: %v", what, err) }
		l := mustOpen(t, o)
		if err := m.diff(l); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return reads.Load(), skipped
	}
	with, skipped := open("with", fs.CrashClone(nil, vfs.ProcessDies), true)
	if skipped != 0 {
		t.Fatal("a good checkpoint was skipped")
	}
	for offset := 0; offset < len(content); offset += 7 {
		damaged := fs.CrashClone(nil, vfs.ProcessDies)
		if err := damaged.FlipBit(names[0], int64(offset), uint(offset%8)); err != nil {
			t.Fatal(err)
		}
		if _, skipped := open(fmt.Sprintf("damaged at %d", offset), damaged, offset%2 == 0); skipped != 1 {
			t.Fatalf("damaged at %d: skipped %d checkpoints", offset, skipped)
		}
	}
	without := fs.CrashClone(nil, vfs.ProcessDies)
	if err := without.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if all, _ := open("without", without, false); with >= all {
		t.Fatalf("%d bytes read with a checkpoint, %d without", with, all)
	}
}

// TestSealProves: after a seal the last batch with content is proven, so damage
// to it is damage; before, it could not be told from a tear.
func TestSealProves(t *testing.T) {
	for _, seal := range []bool{false, true} {
		fs := vfs.New(vfs.Options{})
		o := testOptions(fs)
		l := mustOpen(t, o)
		name, offset := l.ActiveSegment()
		submit(t, l, func(b *Batch) { b.HardState(l.Group(1), wire.HardState{Term: 1, Vote: 1}) })
		if seal {
			batches := l.Stats().Batches
			for range 3 { // more seals prove no more
				l.Seal()
				for l.Step() {
				}
			}
			if n := l.Stats().Batches - batches; n != 1 {
				t.Fatalf("%d seals were written", n)
			}
		}
		if err := fs.FlipBit(name, offset+BatchHeaderBytes+20, 0); err != nil {
			t.Fatal(err)
		}
		strict := o
		strict.Recovery = RecoverStrict
		strict.FS = fs.CrashClone(nil, vfs.ProcessDies)
		_, err := Open(strict)
		if torn := errors.Is(err, ErrTornTail); err == nil || torn == seal {
			t.Fatalf("sealed %v: strict mode says %v", seal, err)
		}
		o.FS = fs.CrashClone(nil, vfs.ProcessDies)
		cut := 0
		o.Events.TailCut = func(uint64, int64) { cut++ }
		l = mustOpen(t, o)
		if damaged := l.Group(1).Err() != nil; damaged != seal || (cut > 0) == seal {
			t.Fatalf("sealed %v: damaged %v, cut %d", seal, damaged, cut)
		}
	}
}

// TestLargeBlock: a block that no segment can hold gets one of its own.
func TestLargeBlock(t *testing.T) {
	o := testOptions(vfs.New(vfs.Options{}))
	l := mustOpen(t, o)
	large := wire.AppendPayload(wire.NewBlock(nil), make([]byte, 3*o.SegmentBytes))
	large.Seal(1, 2, 1, wire.EntryCommand, 1)
	submit(t, l, func(b *Batch) {
		b.Append(l.Group(1), block(1, 1, 1, 1))
		b.Append(l.Group(1), large)
		b.Append(l.Group(1), block(1, 3, 1, 1))
	})
	for range 2 {
		got, err := l.Group(1).Blocks(1, 4, 1<<30, nil)
		if err != nil || len(got) != len(block(1, 1, 1, 1))+len(large)+len(block(1, 3, 1, 1)) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		mustClose(t, l)
		l = mustOpen(t, o)
	}
	submit(t, l, func(b *Batch) { b.Compact(l.Group(1), 3, 1) })
	busy(t, l, 2, 200)
	if s := l.Stats(); s.DiskBytes > 10*o.SegmentBytes {
		t.Fatalf("the long segment was not given back: %+v", s)
	}
}

// TestBatchesAreCut: one batch of a caller may take many writes, and is told
// durable after the last.
func TestBatchesAreCut(t *testing.T) {
	o := testOptions(vfs.New(vfs.Options{}))
	l := mustOpen(t, o)
	s := &sink{}
	l.SetSink(s)
	var first, second, empty Batch
	for i := range wire.Index(200) {
		first.Append(l.Group(1), block(1, i+1, 1, 1))
	}
	second.HardState(l.Group(1), wire.HardState{Term: 1})
	if first.Len() != 200 || first.Bytes() < 3*o.MaxBatchBytes/2 {
		t.Fatalf("%d changes of %d bytes", first.Len(), first.Bytes())
	}
	l.Submit(&first)
	l.Submit(&empty)
	l.Submit(&second)
	steps := 0
	for ; len(s.done) == 0; steps++ {
		if !l.Step() {
			t.Fatal("nothing to do, and nothing durable")
		}
	}
	if steps < 2 || fmt.Sprintf("%p %p %p", s.done[0], s.done[1], s.done[2]) != fmt.Sprintf("%p %p %p", &first, &empty, &second) {
		t.Fatalf("%d steps, %d batches", steps, len(s.done))
	}
	first.Reset()
	if first.Len() != 0 || first.Bytes() != 0 {
		t.Fatal("Reset leaves something")
	}
	mustClose(t, l)
}

// TestOnDisk runs the log as a store does, on real files.
func TestOnDisk(t *testing.T) {
	o := testOptions(OSFS{})
	o.Dir = t.TempDir() + "/a/b"
	m := newModel()
	r := rand.New(rand.NewPCG(7, 7))
	for range 3 {
		l := mustOpen(t, o)
		s := &waitSink{done: make(chan error, 1)}
		l.SetSink(s)
		l.Start()
		for range 100 {
			var b Batch
			c := m.random(r, 3)
			m.add(c)
			c.addTo(&b, l.Group(c.group))
			l.Submit(&b)
			if err := <-s.done; err != nil {
				t.Fatal(err)
			}
		}
		if err := m.diff(l); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
	}
	l := mustOpen(t, o)
	if err := m.diff(l); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
}

// TestHolePanics: L5 is the caller's to keep, and is checked.
func TestHolePanics(t *testing.T) {
	l := mustOpen(t, testOptions(vfs.New(vfs.Options{})))
	defer func() {
		if recover() == nil {
			t.Fatal("a hole was accepted")
		}
	}()
	submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 2, 1, 1)) })
}
