package raftlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// flipRun flips bits of a log that was closed in good order, so that all of it
// is proven but for the last seal.
type flipRun struct {
	t      testing.TB
	o      Options
	m      *model
	want   map[wire.GroupID][]byte // digests
	disk   *vfs.MemFS
	digest digester

	damaged, cut, skipped int // events of the last Open
	why                   []string
	counts                map[string]int
}

// makeFlipRun makes a log of several segments with all kinds of records.
func makeFlipRun(t testing.TB) *flipRun { return makeWatchedRun(t, nil) }

// makeWatchedRun is makeFlipRun with a hook, which is told the file system.
func makeWatchedRun(t testing.TB, watch func(*vfs.MemFS, vfs.Op)) *flipRun {
	x := &flipRun{t: t, m: newModel(), want: make(map[wire.GroupID][]byte), counts: make(map[string]int)}
	x.o = Options{
		FS: vfs.New(vfs.Options{}), Dir: "/log", Cluster: 7, Store: 3,
		SegmentBytes: 4 << 10, MaxBatchBytes: 2 << 10, Serial: true, Rand: func() uint64 { return 5 },
	}
	if fs := x.o.FS.(*vfs.MemFS); watch != nil {
		fs.SetHook(func(op vfs.Op) vfs.Fault {
			watch(fs, op)
			return vfs.Fault{}
		})
	}
	l := mustOpen(t, x.o)
	r := rand.New(rand.NewPCG(21, 21))
	for id := range wire.GroupID(crashGroups) {
		x.m.group(id + 1)
	}
	for l.Stats().Rotations < 12 || len(files(t, x.o.FS, "checkpoint-")) == 0 {
		submit(t, l, func(b *Batch) {
			for range 4 {
				c := x.m.random(r, crashGroups)
				x.m.add(c)
				c.addTo(b, l.Group(c.group))
			}
		})
		maintain(l)
	}
	mustClose(t, l)
	for id, g := range x.m.groups {
		x.want[id] = g.appendDigest(nil)
	}
	x.disk = x.o.FS.(*vfs.MemFS).CrashClone(nil, vfs.AllLost)
	x.o.Events = Events{
		Damaged: func(err *CorruptionError, ids []wire.GroupID) {
			x.damaged++
			x.why = append(x.why, fmt.Sprint(err, ids))
		},
		TailCut:           func(uint64, int64) { x.cut++ },
		CheckpointSkipped: func(string, error) { x.skipped++ },
	}
	return x
}

// used returns where the batches of a segment end, and where the last one begins.
func (x *flipRun) used(name string) (last, end int) {
	content := readAll(x.t, x.disk, name)
	for end+BatchHeaderBytes <= len(content) && isBatch(content[end:], int64(end)) &&
		uint64(binary.LittleEndian.Uint32(content[end+atSegment:])) == segmentOf(name) {
		last, end = end, end+int(binary.LittleEndian.Uint32(content[end+atLength:]))
	}
	return last, end
}

// read compares all groups with what they should be. It returns how many have
// an error; one that is wrong without one fails the test.
func (x *flipRun) read(l *Log, where string) (bad int) {
	for id := range wire.GroupID(crashGroups) {
		x.digest.buf = x.digest.buf[:0]
		switch err := x.digest.group(l.Group(id + 1)); {
		case err == nil && !bytes.Equal(x.digest.buf, x.want[id+1]):
			x.t.Fatalf("%s: group %d is not as it was written, and has no error", where, id+1)
		case err != nil && !errors.As(err, new(*CorruptionError)):
			x.t.Fatalf("%s: group %d: %v", where, id+1, err)
		case err != nil:
			bad++
		}
	}
	return bad
}

// flip opens the log with one byte changed, twice, and tells what came of it.
func (x *flipRun) flip(name string, offset int, mask byte, scanned bool) {
	where := fmt.Sprintf("%s at %d, mask %02x", name, offset, mask)
	disk := x.disk.CrashClone(nil, vfs.ProcessDies)
	for bit := range uint(8) {
		if mask>>bit&1 != 0 {
			if err := disk.FlipBit(name, int64(offset), bit); err != nil {
				x.t.Fatal(err)
			}
		}
	}
	before := 0
	for round := range 2 {
		x.damaged, x.cut, x.skipped, x.why = 0, 0, 0, nil
		x.o.FS = disk
		l, err := Open(x.o)
		if err != nil {
			x.t.Fatalf("%s: %v", where, err)
		}
		bad := x.read(l, where)
		if bad > 1 {
			x.t.Fatalf("%s: %d groups suffer from one byte: %v", where, bad, x.why)
		}
		if round == 1 {
			if bad != before {
				x.t.Fatalf("%s: %d groups have an error, and %d at the second start", where, before, bad)
			}
			return
		}
		before = bad
		detected := x.damaged+x.cut+x.skipped > 0
		switch {
		case scanned && !detected:
			x.t.Fatalf("%s: not detected", where)
		case bad > 0 && detected:
			x.counts["marked a group"]++
		case bad > 0:
			x.counts["found when read"]++
		case detected:
			x.counts["found, nothing lost"]++
		default:
			x.counts["of no use any more"]++
		}
		disk = disk.CrashClone(nil, vfs.AllLost)
	}
}

// TestEveryByteFlipped changes every byte of every file of a log of several
// segments, in a few ways. With or without a checkpoint, whatever is proven is
// either right or an error, one byte costs one group at most, and a second start
// says the same. Without a checkpoint all segments are scanned: then every byte
// of every batch is noticed at once, though it be padding.
func TestEveryByteFlipped(t *testing.T) {
	masks, step := []byte{0x01, 0xff}, 1
	switch {
	case *crashFull:
		masks = []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, 0x55}
	case testing.Short():
		masks, step = masks[:1], 13
	}
	for _, checkpoint := range []bool{true, false} {
		t.Run(fmt.Sprintf("checkpoint=%v", checkpoint), func(t *testing.T) {
			t.Parallel()
			x := makeFlipRun(t)
			if !checkpoint {
				for _, name := range files(t, x.disk, "checkpoint-") {
					if err := errors.Join(x.disk.Remove(name), x.disk.SyncDir("/log")); err != nil {
						t.Fatal(err)
					}
				}
			}
			segments := files(t, x.disk, "segment-")
			if len(segments) < 3 {
				t.Fatalf("segments %v", segments)
			}
			flips := 0
			for _, name := range files(t, x.disk, "") {
				if filepath.Base(name) == "lock" || strings.HasPrefix(filepath.Base(name), "spare-") {
					continue // they hold nothing
				}
				size, end := len(readAll(t, x.disk, name)), 0
				if strings.HasPrefix(filepath.Base(name), "segment-") {
					var last int
					if last, end = x.used(name); name == segments[len(segments)-1] {
						end = last // nothing proves the last seal, and nothing is in it
					}
				}
				for offset := 0; offset < size; offset += step {
					for i, mask := range masks {
						if (checkpoint || end > 0 && offset >= end) && i > 0 && i != offset%len(masks) {
							continue
						}
						flips++
						x.flip(name, offset, mask, !checkpoint && offset < end)
					}
				}
			}
			t.Logf("%d segments, %d flips: %v", len(segments), flips, x.counts)
			if x.counts["marked a group"] == 0 || x.counts["found, nothing lost"] == 0 || checkpoint && x.counts["found when read"] == 0 {
				t.Error("one of the ways to deal with damage was not taken")
			}
		})
	}
}

// TestRunsOfBytesLost wipes runs of bytes, with zeros and with noise, some of
// them longer than a record. More than one group may have an error then, and the
// log may not open, but nothing is wrong without an error. Content of a moved
// record whose header is gone is not taken for new entries.
func TestRunsOfBytesLost(t *testing.T) {
	x := makeFlipRun(t)
	r := rand.New(rand.NewPCG(8, 8))
	step := 24
	if testing.Short() {
		step = 240
	}
	refused, bad, right := 0, 0, 0
	for _, name := range files(t, x.disk, "segment-") {
		content := readAll(t, x.disk, name)
		_, end := x.used(name)
		for offset := 0; offset < end; offset += 1 + r.IntN(step) {
			for _, n := range []int{30, 48, 100, 260} {
				disk := x.disk.CrashClone(nil, vfs.ProcessDies)
				lost := bytes.Clone(content)
				for i := offset; i < min(offset+n, end); i++ {
					lost[i] = byte(r.Uint32() * uint32(n%4)) // zeros for most lengths
				}
				rewriteFile(t, disk, name, lost)
				x.o.FS = disk
				l, err := Open(x.o)
				if errors.As(err, new(*CorruptionError)) {
					refused++
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				wrong := x.read(l, fmt.Sprintf("%s: %d bytes at %d", name, n, offset))
				bad += wrong
				right += crashGroups - wrong
			}
		}
	}
	t.Logf("%d refused; %d groups with an error, %d right", refused, bad, right)
	if bad == 0 || right == 0 {
		t.Error("the test does not test")
	}
}

// TestEveryByteFlippedWhileOpen changes every byte of the batches of a log that
// is open: a read gives what was written, or an error.
func TestEveryByteFlippedWhileOpen(t *testing.T) {
	x := makeFlipRun(t)
	x.o.FS = x.disk.CrashClone(nil, vfs.ProcessDies)
	l := mustOpen(t, x.o)
	disk := x.o.FS.(*vfs.MemFS)
	flips, noticed := 0, 0
	for _, name := range files(t, x.disk, "segment-") {
		if !slices.Contains(files(t, disk, "segment-"), name) {
			continue // recycled at the start
		}
		_, end := x.used(name)
		for offset := range end {
			bit := uint(offset*5) % 8
			flip := func() {
				if err := disk.FlipBit(name, int64(offset), bit); err != nil {
					t.Fatal(err)
				}
			}
			flip()
			flips++
			noticed += x.read(l, fmt.Sprintf("%s at %d", name, offset))
			flip()
		}
	}
	if n := x.read(l, "put right again"); n != 0 || noticed == 0 {
		t.Errorf("%d flips, %d noticed, %d groups with an error at the end", flips, noticed, n)
	}
}
