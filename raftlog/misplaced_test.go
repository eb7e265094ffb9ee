package raftlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"multiraft/internal/allocs"
	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// A disk may write to another place than it was told to, or say that it wrote and
// not do it. What is read then is no noise: it is sound bytes of the same store, of
// another place or of an earlier time. None of that may be served or cut off in
// silence. One case nobody can decide: the write that is lost is that of the last
// batch of all. It is a seal, as far as Close, Seal and Open can see to it.

// misplacedRun is a log that was closed in good order, and what its files were
// before each of its batches was written.
type misplacedRun struct {
	*flipRun
	batches  []placedBatch
	records  []placedRecord
	pictures []*vfs.MemFS // before each write
	facts    map[string]int
}

// placedBatch is a batch in a file.
type placedBatch struct {
	name   string
	at     int
	bytes  []byte
	before []byte // what it was written over
}

// placedRecord is a block in a file, which a read finds by its place.
type placedRecord struct {
	name  string
	at    int
	bytes []byte
}

func makeMisplacedRun(t testing.TB) *misplacedRun {
	x := &misplacedRun{facts: make(map[string]int)}
	x.flipRun = makeWatchedRun(t, func(fs *vfs.MemFS, op vfs.Op) {
		if op.Kind == vfs.OpWrite {
			x.pictures = append(x.pictures, fs.CrashClone(nil, vfs.ProcessDies))
		}
	})
	recycled := 0
	for _, name := range files(t, x.disk, "segment-") {
		content := readAll(t, x.disk, name)
		_, end := x.used(name)
		for at := 0; at < end; {
			size := int(binary.LittleEndian.Uint32(content[at+atLength:]))
			b := placedBatch{name: name, at: at, bytes: content[at : at+size], before: make([]byte, size)}
			b.before = x.before(name, at, b.bytes)
			if !bytes.Equal(b.before, make([]byte, size)) {
				recycled++
			}
			x.batches = append(x.batches, b)
			rest := b.bytes[BatchHeaderBytes:]
			for range binary.LittleEndian.Uint32(b.bytes[atRecords:]) {
				n := wire.BlockHeaderBytes + int(binary.LittleEndian.Uint32(rest[36:])) // of a control record
				if block, _, err := wire.ParseBlock(rest); err == nil {
					x.records = append(x.records, placedRecord{name, at + size - len(rest), block})
					n = len(block)
				}
				rest = rest[n:]
			}
			at += size
		}
	}
	if len(x.batches) < 12 || recycled < 10 || len(x.records) < 6 {
		t.Fatalf("%d batches, %d of them in place of old ones, %d blocks", len(x.batches), recycled, len(x.records))
	}
	return x
}

// before returns what a file held at a place before it was written last.
func (x *misplacedRun) before(name string, at int, now []byte) []byte {
	for _, disk := range slices.Backward(x.pictures) {
		if !slices.Contains(files(x.t, disk, ""), name) {
			continue
		}
		content := readAll(x.t, disk, name)
		old := make([]byte, len(now))
		if at < len(content) {
			copy(old, content[at:])
		}
		if !bytes.Equal(old, now) {
			return old
		}
	}
	x.t.Fatalf("%s at %d was always as it is", name, at)
	return nil
}

// patch is bytes that a file holds at a place.
type patch struct {
	name  string
	at    int
	bytes []byte
}

// suffer puts patches into the files, between two starts and under a log that is
// open, and looks at what comes of it. proven says that a scan has to notice.
func (x *misplacedRun) suffer(what string, proven bool, patches ...patch) {
	x.t.Helper()
	write := func(disk *vfs.MemFS) {
		for _, p := range patches {
			f, err := disk.Open(p.name)
			if err == nil {
				_, err = f.WriteAt(p.bytes, int64(p.at))
				err = errors.Join(err, f.Sync(), f.Close())
			}
			if err != nil {
				x.t.Fatal(err)
			}
		}
	}
	for _, scanned := range []bool{true, false} {
		disk := x.disk.CrashClone(nil, vfs.ProcessDies)
		if scanned {
			for _, name := range files(x.t, disk, "checkpoint-") {
				if err := errors.Join(disk.Remove(name), disk.SyncDir("/log")); err != nil {
					x.t.Fatal(err)
				}
			}
		}
		write(disk)
		before := -1
		for round := range 2 {
			where := fmt.Sprintf("%s, scanned %v, start %d", what, scanned, round+1)
			x.damaged, x.cut, x.skipped, x.why = 0, 0, 0, nil
			x.o.FS = disk
			l, err := Open(x.o)
			if errors.As(err, new(*CorruptionError)) {
				x.facts["refused"]++
				if round > 0 {
					x.t.Fatalf("%s: %v", where, err)
				}
				break
			}
			if err != nil {
				x.t.Fatalf("%s: %v", where, err)
			}
			bad := x.read(l, where)
			switch {
			case round > 0 && bad != before:
				x.t.Fatalf("%s: %d groups have an error, and %d before", where, bad, before)
			case round > 0:
			case scanned && proven && x.damaged == 0:
				x.t.Fatalf("%s: not noticed", where)
			case bad > 0:
				x.facts["marked groups"]++
			case x.damaged > 0:
				x.facts["nothing lost"]++
			default:
				x.facts["of no use any more"]++
			}
			before = bad
			disk = disk.CrashClone(nil, vfs.AllLost)
		}
	}
	x.o.FS = x.disk.CrashClone(nil, vfs.ProcessDies)
	l := mustOpen(x.t, x.o)
	write(x.o.FS.(*vfs.MemFS))
	if x.read(l, what+", while open") > 0 {
		x.facts["noticed by a read"]++
	}
}

func (x *misplacedRun) done() {
	x.t.Helper()
	x.t.Logf("%d batches, %d blocks: %v", len(x.batches), len(x.records), x.facts)
	for _, fact := range []string{"marked groups", "noticed by a read"} {
		if x.facts[fact] == 0 {
			x.t.Errorf("nothing was %s", fact)
		}
	}
}

// TestLostWrites leaves out each write of a batch, as a whole, from any sector on,
// or in any one sector: what is there instead is what was there before, mostly
// batches of a former life of the file. The same for each copy of the identity.
func TestLostWrites(t *testing.T) {
	x := makeMisplacedRun(t)
	for i, b := range x.batches {
		proven := i < len(x.batches)-1
		for at := 0; at < len(b.bytes); at += SectorBytes {
			x.suffer(fmt.Sprintf("%s at %d, lost from %d on", b.name, b.at, at), proven, patch{b.name, b.at + at, b.before[at:]})
			sector := b.before[at : at+SectorBytes]
			if at > 0 && !bytes.Equal(sector, b.bytes[at:at+SectorBytes]) {
				x.suffer(fmt.Sprintf("%s at %d, lost sector at %d", b.name, b.at, at), proven, patch{b.name, b.at + at, sector})
			}
		}
	}
	x.done()

	x.o.FS = x.disk.CrashClone(nil, vfs.ProcessDies)
	disk := x.o.FS.(*vfs.MemFS)
	l := mustOpen(t, x.o)
	for _, raised := range []uint64{0, 1 << 20} {
		if err := l.RaiseIncarnation(raised); err != nil {
			t.Fatal(err)
		}
		used := l.Identity().Incarnation
		for _, base := range []string{"identity-a", "identity-b"} {
			name := filepath.Join("/log", base)
			now := readAll(t, disk, name)
			lost := disk.CrashClone(nil, vfs.AllLost)
			rewriteFile(t, lost, name, x.before(name, 0, now))
			x.o.FS = lost
			if got := mustOpen(t, x.o).Identity().Incarnation; got <= used {
				t.Errorf("the write of %s is lost: incarnation %d after %d", base, got, used)
			}
		}
		x.pictures = append(x.pictures, disk.CrashClone(nil, vfs.ProcessDies))
	}
}

// TestMisdirectedWrites puts each batch into the place of each other one: its own
// place keeps what it was, or gets the other batch.
func TestMisdirectedWrites(t *testing.T) {
	x := makeMisplacedRun(t)
	step := 1
	if testing.Short() {
		step = 7
	}
	for i, a := range x.batches {
		for k := i % step; k < len(x.batches); k += step {
			b := x.batches[k]
			if i == k {
				continue
			}
			what := fmt.Sprintf("%s at %d in the place of %s at %d", a.name, a.at, b.name, b.at)
			x.suffer(what, true, patch{b.name, b.at, a.bytes}, patch{a.name, a.at, a.before})
			if len(a.bytes) == len(b.bytes) && i < k {
				x.suffer(what+", swapped", true, patch{b.name, b.at, a.bytes}, patch{a.name, a.at, b.bytes})
			}
		}
	}
	x.done()
}

// FuzzDamage does to a sound log what its input says, four bytes at a time: wrong
// bits, sectors of another place, of an earlier time, or of nothing, in any number.
// Open refuses with an error, or each group is as it was written or has one, and a
// second start says the same. The last batch with records is left alone, and what is
// behind it: if that is gone nothing proves that there was anything.
func FuzzDamage(f *testing.F) {
	x := makeMisplacedRun(f)
	x.disk.SetHook(nil)
	x.pictures = nil
	last := len(x.batches) - 1
	for binary.LittleEndian.Uint32(x.batches[last].bytes[atRecords:]) == 0 {
		last--
	}
	x.batches = x.batches[:last]
	f.Add([]byte{0, 0, 0, 7})
	f.Add([]byte{1, 3, 1, 0, 1, 3, 2, 0})
	f.Add([]byte{2, 5, 0, 6, 2, 6, 0, 5})
	f.Add([]byte{3, 2, 0, 0, 4, 2, 1, 200})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64 {
			return
		}
		run := *x.flipRun
		run.t, run.counts = t, nil
		disk := x.disk.CrashClone(nil, vfs.ProcessDies)
		var patches []patch
		for ; len(data) >= 4; data = data[4:] {
			kind, b, other := data[0]%6, x.batches[int(data[1])%len(x.batches)], x.batches[int(data[3])%len(x.batches)]
			sector := int(data[2]) * SectorBytes % len(b.bytes)
			now := bytes.Clone(b.bytes[sector : sector+SectorBytes])
			switch kind {
			case 0:
				at := (int(data[2])<<8 | int(data[3])) % len(b.bytes)
				now = []byte{b.bytes[at] ^ 1<<(data[3]%8)}
				sector = at
			case 1:
				copy(now, b.before[sector:])
			case 2:
				copy(now, other.bytes[sector%len(other.bytes):])
			case 3:
				clear(now)
			case 4:
				copy(now[data[3]:], make([]byte, SectorBytes))
			case 5:
				for i := range now {
					now[i] = data[3] * byte(i)
				}
			}
			patches = append(patches, patch{b.name, b.at + sector, now})
		}
		for _, p := range patches {
			file, err := disk.Open(p.name)
			if err == nil {
				_, err = file.WriteAt(p.bytes, int64(p.at))
				err = errors.Join(err, file.Sync(), file.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		before := -1
		for round := range 2 {
			var l *Log
			var err error
			picture := disk
			run.o.FS = disk
			allocs.AtMost(t, 4<<20, func() { // nine segments of 4 KiB, and what they make
				run.o.FS = picture.CrashClone(nil, vfs.ProcessDies)
				l, err = Open(run.o)
			})
			if errors.As(err, new(*CorruptionError)) && round == 0 {
				return
			}
			if err != nil {
				t.Fatalf("start %d: %v", round+1, err)
			}
			bad := run.read(l, fmt.Sprintf("start %d", round+1))
			if round > 0 && bad != before {
				t.Fatalf("%d groups have an error, and then %d", before, bad)
			}
			before = bad
			disk = run.o.FS.(*vfs.MemFS).CrashClone(nil, vfs.AllLost)
		}
	})
}

// TestMisplacedBlocks puts each block into the place of each other one of its size,
// with a checksum that is right as it stands there. Only a scan sees the batch around
// it; a read by place has the block alone.
func TestMisplacedBlocks(t *testing.T) {
	x := makeMisplacedRun(t)
	pairs := 0
	for i, a := range x.records {
		for _, b := range x.records[i+1:] {
			if len(a.bytes) == len(b.bytes) && !bytes.Equal(a.bytes, b.bytes) {
				pairs++
				what := fmt.Sprintf("blocks at %s %d and %s %d", a.name, a.at, b.name, b.at)
				x.suffer(what, true, patch{a.name, a.at, b.bytes})
				x.suffer(what+", swapped", true, patch{a.name, a.at, b.bytes}, patch{b.name, b.at, a.bytes})
			}
		}
	}
	if pairs == 0 {
		t.Error("no two blocks are of one size")
	}
	x.done()
}
