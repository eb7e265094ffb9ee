package raftlog_test

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

var errDisk = errors.New("input/output error")

// TestFailingCalls fails each call of a run in turn, once with the disk working
// again afterwards and once without. A write or sync that failed is never
// followed by anything called durable (L6), and what was durable is found by the
// next Open.
func TestFailingCalls(t *testing.T) {
	const batches = 40
	const never = 1 << 40
	calls, failed := uint64(0), 0 // calls of a run that works
	for _, lasting := range []bool{false, true} {
		for call := uint64(never); call > 0; call-- {
			fs := vfs.New(vfs.Options{FailedSyncDrops: true})
			hook := vfs.FailCall(call, errDisk)
			if lasting {
				hook = vfs.FailFrom(call, errDisk)
			}
			fs.SetHook(hook)
			o := testOptions(fs)
			o.SegmentBytes = 4 << 10
			m := newModel()
			x := &modelRun{t: t, r: rand.New(rand.NewPCG(4, 4)), o: o, fs: fs, m: m}
			l, err := Open(o)
			if err == nil {
				x.l = l
				failed += x.runToFailure(batches)
			}
			if call == never {
				calls = fs.Calls()
				call = calls + 1
			}
			if err == nil {
				// After a failure the files are closed, and nothing else.
				if err := l.Close(); !errors.Is(err, l.Err()) {
					t.Fatalf("call %d: close: %v, the log failed with %v", call, err, l.Err())
				}
			}
			fs.SetHook(nil)
			x.reopen(fs.CrashClone(x.r, vfs.AllLost), "after a failure")
			if err := x.l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if calls < 100 || failed < 50 {
		t.Fatalf("%d calls are made, %d runs failed: the test does not test", calls, failed)
	}
}

// runToFailure submits batches until the log fails, and then checks that it
// stays failed. It returns how often the log failed.
func (x *modelRun) runToFailure(batches int) int {
	s := &failSink{x: x}
	x.l.SetSink(s)
	for range batches {
		x.submit()
		x.l.Step()
		x.l.Maintain()
	}
	if x.l.Err() == nil {
		if s.refused > 0 {
			x.t.Fatal("batches were refused by a log that works")
		}
		return 0
	}
	if !errors.Is(x.l.Err(), errDisk) || !errors.As(x.l.Err(), new(*FailedError)) {
		x.t.Fatalf("failure is %v", x.l.Err())
	}
	refused := s.refused
	x.submit()
	x.l.Step()
	if s.refused != refused+1 || s.durableAfter > 0 {
		x.t.Fatalf("after the failure: %d refused, %d durable", s.refused-refused, s.durableAfter)
	}
	return 1
}

type failSink struct {
	x                     *modelRun
	refused, durableAfter int
}

func (s *failSink) Durable(batches []*Batch, err error) {
	for range batches {
		n := s.x.sizes[0]
		s.x.sizes = s.x.sizes[1:]
		switch {
		case err != nil:
			s.refused++
			if !errors.Is(err, s.x.l.Err()) {
				s.x.t.Fatalf("refused with %v, failed with %v", err, s.x.l.Err())
			}
		case s.x.l.Err() != nil:
			s.durableAfter++
		default:
			s.x.durable += n
		}
	}
}

// TestDiskFull: when there is no space for the reserve the log says so while it
// can still write two segments, and says that it is over when space is back.
func TestDiskFull(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 8 << 10
	var told []bool
	o.Events.DiskFull = func(full bool) { told = append(told, full) }
	o.Events.MaintainFailed = func(err error) { t.Errorf("a full disk is no failure: %v", err) }
	l := mustOpen(t, o)
	for l.Maintain() {
	}
	if l.DiskFull() || l.Stats().Spares != ReserveSegments {
		t.Fatalf("full %v, %d spares", l.DiskFull(), l.Stats().Spares)
	}
	fs.SetCapacity(fs.Used() + o.SegmentBytes)
	g := l.Group(1)
	written := int64(0)
	var next wire.Index = 1
	for !l.DiskFull() {
		submit(t, l, func(b *Batch) { b.Append(g, block(1, next, 1, 1)) })
		next++
		for l.Maintain() {
		}
	}
	if l.Stats().Spares != ReserveSegments-1 {
		t.Fatalf("the reserve is %d when the disk is found full", l.Stats().Spares)
	}
	// What elections and compaction need still fits, though nothing can grow.
	for written < (ReserveSegments-1)*o.SegmentBytes {
		before := l.Stats().Bytes
		submit(t, l, func(b *Batch) { b.HardState(g, wire.HardState{Term: 2}) })
		l.Maintain()
		written += int64(l.Stats().Bytes - before)
	}
	if !l.DiskFull() {
		t.Fatal("the disk is not full any more")
	}
	// Compaction makes the space that it takes to go on.
	submit(t, l, func(b *Batch) { b.Compact(g, next-1, 1) })
	for l.Maintain() || l.Step() {
	}
	if l.DiskFull() {
		t.Fatalf("still full after compaction: %+v", l.Stats())
	}
	if len(told) != 2 || !told[0] || told[1] {
		t.Fatalf("told %v", told)
	}
	mustClose(t, l)
	check(t, mustOpen(t, o).Group(1), next)
}

// TestOpenOnFullDisk: without space for a first segment there is no log, and
// nothing is in the way of the next try.
func TestOpenOnFullDisk(t *testing.T) {
	fs := vfs.New(vfs.Options{Capacity: 1000})
	o := testOptions(fs)
	if _, err := Open(o); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("open: %v", err)
	}
	fs.SetCapacity(0)
	l := mustOpen(t, o)
	submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 1, 1, 1)) })
	mustClose(t, l)
}

// TestMaintainFailure: an error that is not about space is told and tried
// again.
func TestMaintainFailure(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	var told []error
	o.Events.MaintainFailed = func(err error) { told = append(told, err) }
	l := mustOpen(t, o)
	fs.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpWrite {
			return vfs.Fault{Err: syscall.EIO}
		}
		return vfs.Fault{}
	})
	if l.Maintain() || len(told) != 1 || !errors.Is(told[0], syscall.EIO) || l.Err() != nil {
		t.Fatalf("told %v, failed %v", told, l.Err())
	}
	fs.SetHook(nil)
	for l.Maintain() {
	}
	if l.Stats().Spares != ReserveSegments || len(told) != 1 {
		t.Fatalf("%d spares, told %v", l.Stats().Spares, told)
	}
	mustClose(t, l)
}
