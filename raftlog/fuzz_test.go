package raftlog_test

import (
	"encoding/binary"
	"runtime"
	"testing"

	"multiraft/internal/allocs"
	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// FuzzRecovery opens a log whose first segment is anything: as it comes, or cut
// into batches with right checksums, so that the records behind them are
// reached. Open may refuse or find damage, but it may not panic, may not take
// memory out of proportion, and must find the same when it is run again.
func FuzzRecovery(f *testing.F) {
	fs := vfs.New(vfs.Options{})
	l := mustOpen(f, testOptions(fs))
	name, _ := l.ActiveSegment()
	submit(f, l, func(b *Batch) {
		b.Meta(l.Group(1), []byte("descriptor"))
		b.Append(l.Group(1), block(1, 1, 1, 3))
		b.Append(l.Group(2), block(2, 1, 1, 1))
		b.HardState(l.Group(1), wire.HardState{Term: 1})
		b.Compact(l.Group(1), 2, 1)
		b.Append(l.Group(4), block(4, 1, 3, 4))
		b.Restart(l.Group(4), 2, 1)
		b.Remove(l.Group(3))
	})
	submit(f, l, func(b *Batch) { b.Append(l.Group(1), block(1, 3, 2, 2)) })
	uuid := l.Identity().UUID
	content := readAll(f, fs, name)
	f.Add(content[:2048], uint16(0))
	f.Add(content[:2048], uint16(512))
	f.Add(content[512:1536], uint16(1024))

	f.Fuzz(func(t *testing.T, data []byte, batchBytes uint16) {
		if len(data) > 16<<10 {
			return
		}
		if n := int(batchBytes); n > 0 {
			var sealed []byte
			for sequence := uint64(1); len(data) > 0; sequence++ {
				piece := append([]byte(nil), data[:min(n, len(data))]...)
				data = data[len(piece):]
				if len(piece) >= BatchHeaderBytes {
					binary.LittleEndian.PutUint64(piece[24:], sequence)
				}
				sealed = append(sealed, SealBatch(uuid, 1, uint32(len(sealed)), piece)...)
			}
			data = sealed
		}
		disk := fs.CrashClone(nil, vfs.ProcessDies)
		rewriteFile(t, disk, name, data)
		o := testOptions(disk)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		l, err := Open(o)
		runtime.ReadMemStats(&after)
		// A record of 48 bytes may make a group, of which the first handle and a
		// mark are kept.
		if used, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+40*len(data)); used > limit {
			t.Fatalf("%d bytes of memory for %d bytes of log", used, len(data))
		}
		if err != nil {
			return
		}
		type state struct {
			first, last wire.Index
			hard        wire.HardState
			meta        string
			damaged     bool
			removed     bool
		}
		states := make(map[wire.GroupID]state)
		for _, id := range l.Groups() {
			g := l.Group(id)
			states[id] = state{g.First(), g.Last(), g.HardState(), string(g.Meta()), g.Err() != nil, g.Removed()}
			if g.Last()-g.First() < 1000 {
				_, _ = g.Blocks(g.First(), g.Last()+1, 1<<20, nil) // must not panic
			}
		}
		o.FS = disk.CrashClone(nil, vfs.AllLost)
		l, err = Open(o)
		if err != nil {
			t.Fatalf("opened once, and then: %v", err)
		}
		if n := len(l.Groups()); n != len(states) {
			t.Fatalf("%d groups, then %d", len(states), n)
		}
		for id, want := range states {
			g := l.Group(id)
			if got := (state{g.First(), g.Last(), g.HardState(), string(g.Meta()), g.Err() != nil, g.Removed()}); got != want {
				t.Fatalf("group %d: %+v, then %+v", id, want, got)
			}
		}
	})
}

// FuzzCheckpoint opens a log with anything as its checkpoint: it is used only
// when it is what was written.
func FuzzCheckpoint(f *testing.F) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 4 << 10
	l := mustOpen(f, o)
	for i := range wire.Index(60) {
		submit(f, l, func(b *Batch) { b.Append(l.Group(1), block(1, i+1, 1, 1)) })
		maintain(l)
	}
	name := files(f, fs, "checkpoint-")[0]
	f.Add(readAll(f, fs, name))
	f.Fuzz(func(t *testing.T, data []byte) {
		o := o
		var l *Log
		// What Open needs for a log of some segments, which this disk copies too, and
		// twice the file. A count in it is compared with what is there.
		allocs.AtMost(t, uint64(4<<20+4*len(data)), func() {
			disk := fs.CrashClone(nil, vfs.ProcessDies)
			rewriteFile(t, disk, name, data)
			o.FS = disk
			l = mustOpen(t, o)
		})
		if l.Group(1).Last() != 60 || l.Group(1).First() != 1 {
			t.Fatalf("[%d, %d]", l.Group(1).First(), l.Group(1).Last())
		}
	})
}
