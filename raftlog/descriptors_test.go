package raftlog_test

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

func holdsAll(t *testing.T, g *Group, last wire.Index) {
	t.Helper()
	if g.First() != 1 || g.Last() != last || g.Err() != nil {
		t.Errorf("entries [%d,%d], want [1,%d]; %v", g.First(), g.Last(), last, g.Err())
	}
}

// Without a descriptor to be had, for long, the log says that its reserve is
// missing and goes on, and what it wrote survives a crash. When there are some
// again, it goes on in new segments.
func TestNoDescriptors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		t.Run(errno.Error(), func(t *testing.T) {
			fs := vfs.New(vfs.Options{})
			o := testOptions(fs)
			o.SegmentBytes = 8 << 10
			l := mustOpen(t, o)
			for l.Maintain() {
			}
			refused := 0
			fs.SetHook(func(op vfs.Op) vfs.Fault {
				if op.Kind == vfs.OpCreate || op.Kind == vfs.OpOpen {
					refused++
					return vfs.Fault{Err: errno}
				}
				return vfs.Fault{}
			})
			g := l.Group(1)
			var next wire.Index = 1
			write := func(bytes uint64) {
				for before := l.Stats().Bytes; l.Stats().Bytes < before+bytes; next++ {
					submit(t, l, func(b *Batch) { b.Append(g, block(1, next, 1, 1)) })
					l.Maintain()
				}
			}
			write(10 * 8 << 10)
			if l.Err() != nil || !l.DiskFull() || refused == 0 || l.Stats().Spares != 0 {
				t.Fatalf("%v, full %v, %d refused, %+v", l.Err(), l.DiskFull(), refused, l.Stats())
			}
			clone := fs.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.AllLost)
			fs.SetHook(nil)
			crashed := o
			crashed.FS = clone
			after := mustOpen(t, crashed)
			holdsAll(t, after.Group(1), next-1)
			mustClose(t, after)

			for l.Maintain() {
			}
			if l.DiskFull() {
				t.Error("descriptors are back, and the log does not say so")
			}
			segments := l.Stats().Rotations
			write(5 * 8 << 10)
			if got := l.Stats().Rotations - segments; got < 4 {
				t.Errorf("%d new segments", got)
			}
			mustClose(t, l)
			holdsAll(t, mustOpen(t, o).Group(1), next-1)
		})
	}
}

// Any other error of a rotation is final, as before.
func TestRotationThatFails(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 8 << 10
	l := mustOpen(t, o)
	fs.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpCreate {
			return vfs.Fault{Err: errDisk}
		}
		return vfs.Fault{}
	})
	g := l.Group(1)
	for next := wire.Index(1); l.Err() == nil; next++ {
		if next > 1000 {
			t.Fatal("the log goes on")
		}
		b := &Batch{}
		b.Append(g, block(1, next, 1, 1))
		l.Submit(b)
		l.Step()
	}
	if err := l.Close(); err == nil {
		t.Error("close tells nothing")
	}
}
