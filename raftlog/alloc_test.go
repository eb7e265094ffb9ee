package raftlog_test

import (
	"io"
	"io/fs"
	"testing"

	. "multiraft/raftlog"
	"multiraft/wire"
)

// nullFS forgets what is written, so that only the log itself is measured.
type nullFS struct{}

func (nullFS) MkdirAll(string) error         { return nil }
func (nullFS) Create(string) (File, error)   { return nullFile{}, nil }
func (nullFS) Open(string) (File, error)     { return nil, fs.ErrNotExist }
func (nullFS) Remove(string) error           { return nil }
func (nullFS) Rename(string, string) error   { return nil }
func (nullFS) List(string) ([]string, error) { return nil, nil }
func (nullFS) SyncDir(string) error          { return nil }
func (nullFS) Lock(string) (io.Closer, error) {
	return nullFile{}, nil
}

type nullFile struct{}

func (nullFile) DropCache() error                       { return nil }
func (nullFile) ReadAt(p []byte, _ int64) (int, error)  { return 0, io.EOF }
func (nullFile) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nullFile) Close() error                           { return nil }
func (nullFile) Sync() error                            { return nil }
func (nullFile) Size() (int64, error)                   { return 64 << 20, nil }
func (nullFile) Truncate(int64) error                   { return nil }

// TestNoAllocations: once the slices have their size, blocks, hard states and
// compactions go through without any allocation.
func TestNoAllocations(t *testing.T) {
	r := newRound(t, Options{FS: nullFS{}, Dir: "/log", Cluster: 1, Store: 1, SegmentBytes: 1 << 30}, 2)
	step := func() {
		r.fill()
		for _, g := range r.groups {
			r.batch.HardState(g, wire.HardState{Term: 1, Commit: r.next - 1})
			r.batch.Compact(g, r.next-2, 1)
		}
		r.sync()
	}
	for range 100 {
		step()
	}
	if n := testing.AllocsPerRun(100, step); n > 0 {
		t.Errorf("%v allocations per sync", n)
	}
	if r.synced < 200 {
		t.Errorf("%d batches synced", r.synced)
	}
}

// TestReadAllocations: reading into a buffer that is large enough allocates
// nothing.
func TestReadAllocations(t *testing.T) {
	o := testOptions(OSFS{})
	o.Dir = t.TempDir()
	l := mustOpen(t, o)
	g := l.Group(1)
	for i := range wire.Index(20) {
		submit(t, l, func(b *Batch) { b.Append(g, block(1, 3*i+1, 1, 3)) })
	}
	buf := make([]byte, 0, 64<<10)
	if n := testing.AllocsPerRun(100, func() {
		if b, err := g.Blocks(2, 60, 1<<20, buf[:0]); err != nil || len(b) == 0 {
			t.Fatal(len(b), err)
		}
		if term, err := g.Term(30); term != 1 || err != nil {
			t.Fatal(term, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations per read", n)
	}
	mustClose(t, l)
}
