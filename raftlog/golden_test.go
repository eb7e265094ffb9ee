package raftlog_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// Logs that were written once, by each version of the format, are read for ever.
//
// A directory below testdata/golden is one: its files, and in state.txt what is in
// it. A version is never written again. To add one, bump the version and run
//
//	go test ./raftlog -run TestGolden -golden.write=v3
//
// and read state.txt line by line.
var goldenWrite = flag.String("golden.write", "", "TestGolden: write a log of this version, which must be new")

// TestGolden opens the logs of all versions, with and without their checkpoint,
// twice, and goes on writing to them.
func TestGolden(t *testing.T) {
	if *goldenWrite != "" {
		writeGolden(t, filepath.Join("testdata/golden", *goldenWrite))
	}
	versions, err := filepath.Glob("testdata/golden/*")
	if err != nil || len(versions) == 0 {
		t.Fatalf("%d versions, %v", len(versions), err)
	}
	for _, dir := range versions {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join(dir, "state.txt"))
			if err != nil {
				t.Fatal(err)
			}
			for _, checkpoint := range []bool{true, false} {
				disk := loadGolden(t, dir, checkpoint)
				for round := range 3 {
					o, events := goldenOptions(disk)
					l := mustOpen(t, o)
					if got := goldenState(t, l); got != string(want) {
						t.Fatalf("checkpoint %v, start %d:\n%s\nwant:\n%s", checkpoint, round+1, got, want)
					}
					if round < 2 && len(*events) > 0 { // by then upkeep has recycled what the checkpoint names
						t.Errorf("checkpoint %v, start %d: %v", checkpoint, round+1, *events)
					}
					if round == 1 { // what is new goes behind what is old
						submit(t, l, func(b *Batch) { b.Append(l.Group(9), block(9, 1, 1, 1)) })
						submit(t, l, func(b *Batch) { b.Remove(l.Group(9)) })
						want = []byte(goldenState(t, l))
						maintain(l)
					}
					disk = disk.CrashClone(nil, vfs.AllLost)
				}
				if want, err = os.ReadFile(filepath.Join(dir, "state.txt")); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func goldenOptions(disk *vfs.MemFS) (o Options, events *[]string) {
	events = new([]string)
	tell := func(format string, args ...any) { *events = append(*events, fmt.Sprintf(format, args...)) }
	o = Options{
		FS: disk, Dir: "/log", Cluster: 7, Store: 3,
		SegmentBytes: 4 << 10, MaxBatchBytes: 2 << 10, Serial: true, Rand: func() uint64 { return 5 },
	}
	o.Events = Events{
		Damaged:           func(err *CorruptionError, groups []wire.GroupID) { tell("damaged: %v, %v", err, groups) },
		TailCut:           func(segment uint64, offset int64) { tell("cut: %d, %d", segment, offset) },
		CheckpointSkipped: func(name string, err error) { tell("skipped: %s, %v", name, err) },
		MaintainFailed:    func(err error) { tell("maintenance: %v", err) },
		Ignored:           func(name string) { tell("ignored: %s", name) },
	}
	return o, events
}

// loadGolden copies the files of a version.
func loadGolden(t *testing.T, dir string, checkpoint bool) *vfs.MemFS {
	disk := vfs.New(vfs.Options{})
	if err := errors.Join(disk.MkdirAll("/log"), disk.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		base := name.Name()
		if base == "state.txt" || !checkpoint && strings.HasPrefix(base, "checkpoint-") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, base))
		if err != nil {
			t.Fatal(err)
		}
		rewriteFile(t, disk, "/log/"+base, content)
	}
	if err := disk.SyncDir("/log"); err != nil {
		t.Fatal(err)
	}
	return disk
}

// goldenState says what is in a log.
func goldenState(t *testing.T, l *Log) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %d, store %d, uuid %x\n", l.Identity().Cluster, l.Identity().Store, l.Identity().UUID)
	for _, id := range l.Groups() {
		g := l.Group(id)
		fmt.Fprintf(&b, "group %d: [%d, %d], hard state %d %d %d, meta %q, removed %v\n",
			id, g.First(), g.Last(), g.HardState().Term, g.HardState().Vote, g.HardState().Commit, g.Meta(), g.Removed())
		if err := g.Err(); err != nil {
			fmt.Fprintf(&b, "\terror: %v\n", err)
			if w, ok := g.Wound(); ok {
				fmt.Fprintf(&b, "\twound: %+v\n", w)
			}
			continue
		}
		for i := g.First() - 1; i <= g.Last(); i++ {
			term, err := g.Term(i)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "\t%d: term %d\n", i, term)
		}
		blocks, err := g.Blocks(g.First(), g.Last()+1, 1<<20, nil)
		for err == nil && len(blocks) > 0 {
			var one wire.Block
			if one, blocks, err = wire.ParseBlock(blocks); err == nil {
				fmt.Fprintf(&b, "\tblock [%d, %d], term %d, kind %d, payloads %q\n", one.First(), one.Last(), one.Term(), one.Kind(), one.Payloads())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// writeGolden makes a log with everything in it that a log may have: each kind of
// record, also moved and damaged, segments that were recycled, a checkpoint.
func writeGolden(t *testing.T, dir string) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	disk := vfs.New(vfs.Options{})
	o, _ := goldenOptions(disk)
	l := mustOpen(t, o)
	// Groups 8 and 10 are damaged for good: one loses a hard state, one entries.
	submit(t, l, func(b *Batch) {
		b.Append(l.Group(8), block(8, 1, 1, 2))
		b.HardState(l.Group(10), wire.HardState{Term: 1, Vote: 3})
	})
	name, offset := l.ActiveSegment()
	submit(t, l, func(b *Batch) { b.HardState(l.Group(8), wire.HardState{Term: 4, Vote: 2, Commit: 1}) })
	_, entries := l.ActiveSegment()
	submit(t, l, func(b *Batch) { b.Append(l.Group(10), block(10, 1, 1, 2)) })
	mustClose(t, l)
	for _, at := range []int64{offset + BatchHeaderBytes + 24, entries + BatchHeaderBytes + 60} {
		if err := disk.FlipBit(name, at, 3); err != nil {
			t.Fatal(err)
		}
	}
	l = mustOpen(t, o)
	empty := wire.NewBlock(nil)
	empty = wire.AppendPayload(empty, nil)
	empty.Seal(2, 1, 1, wire.EntryEmpty, 1)
	config := wire.NewBlock(nil)
	config = wire.AppendPayload(config, []byte("members"))
	config.Seal(2, 2, 1, wire.EntryConfig, 1)
	submit(t, l, func(b *Batch) {
		b.Append(l.Group(1), block(1, 1, 1, 5)) // stays, and is moved
		b.HardState(l.Group(1), wire.HardState{Term: 3, Vote: 2, Commit: 4})
		b.Meta(l.Group(1), []byte("descriptor of group 1"))
		b.Append(l.Group(2), empty)
		b.Append(l.Group(2), config)
		b.Append(l.Group(3), block(3, 1, 1, 4))
		b.Append(l.Group(3), block(3, 3, 2, 2))
		b.Compact(l.Group(3), 1, 1)
		b.Append(l.Group(4), block(4, 1, 1, 3))
		b.Restart(l.Group(4), 2, 5)
		b.Meta(l.Group(4), []byte("members of a snapshot"))
		b.Append(l.Group(5), block(5, 1, 1, 1))
		b.Remove(l.Group(5))
		b.Meta(l.Group(5), []byte("tombstone"))
		b.Remove(l.Group(7))
	})
	next, checkpoint := wire.Index(1), ""
	for fresh := false; !fresh || l.Stats().Moved == 0 || l.Stats().Rotations < 9; {
		submit(t, l, func(b *Batch) {
			b.Append(l.Group(6), block(6, next, 1, 20))
			if next > 60 {
				b.Compact(l.Group(6), next-60, 1)
			}
		})
		next += 20
		maintain(l)
		if names := files(t, disk, "checkpoint-"); len(names) > 0 {
			fresh, checkpoint = names[0] != checkpoint, names[0]
		}
	}
	submit(t, l, func(b *Batch) { // behind the checkpoint
		b.Append(l.Group(1), block(1, 6, 3, 1))
		b.HardState(l.Group(1), wire.HardState{Term: 4, Vote: 1, Commit: 5})
		b.Append(l.Group(4), block(4, 3, 5, 2))
		b.Restart(l.Group(4), 9, 6)
		b.Meta(l.Group(4), []byte("members of another snapshot"))
		b.Remove(l.Group(5))
	})
	state := goldenState(t, l)
	mustClose(t, l)
	err := os.WriteFile(filepath.Join(dir, "state.txt"), []byte(state), 0o644)
	for _, path := range files(t, disk, "") {
		base := filepath.Base(path)
		if err == nil && base != "lock" && !strings.HasPrefix(base, "spare-") {
			err = os.WriteFile(filepath.Join(dir, base), readAll(t, disk, path), 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
