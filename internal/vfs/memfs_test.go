package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"multiraft/raftlog"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustCreate(t testing.TB, f raftlog.FS, name string) raftlog.File {
	t.Helper()
	file, err := f.Create(name)
	must(t, err)
	return file
}

func mustWrite(t testing.TB, f raftlog.File, off int64, p string) {
	t.Helper()
	n, err := f.WriteAt([]byte(p), off)
	must(t, err)
	if n != len(p) {
		t.Fatalf("wrote %d of %d bytes", n, len(p))
	}
}

// content returns the whole of a file, or an error.
func content(f raftlog.FS, name string) (string, error) {
	file, err := f.Open(name)
	if err != nil {
		return "", err
	}
	size, err := file.Size()
	if err != nil {
		return "", err
	}
	p := make([]byte, size)
	if _, err := file.ReadAt(p, 0); err != nil && size > 0 {
		return "", err
	}
	return string(p), file.Close()
}

func mustContent(t testing.TB, f raftlog.FS, name string) string {
	t.Helper()
	p, err := content(f, name)
	must(t, err)
	return p
}

// dump returns everything visible under dir, for comparison.
func dump(t testing.TB, f raftlog.FS, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	names, err := f.List(dir)
	must(t, err)
	for _, name := range names {
		path := filepath.Join(dir, name)
		switch p, err := content(f, path); {
		case err == nil:
			all[path] = p
		case errors.Is(err, syscall.EISDIR):
			all[path] = "directory"
			maps.Copy(all, dump(t, f, path))
		default:
			t.Fatal(err)
		}
	}
	return all
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// errorClass is what two file systems must agree on.
func errorClass(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, io.EOF):
		return "eof"
	case errors.Is(err, fs.ErrNotExist):
		return "not exist"
	case errors.Is(err, syscall.ENOTDIR):
		return "not a directory"
	case errors.Is(err, syscall.EISDIR):
		return "is a directory"
	case errors.Is(err, raftlog.ErrLocked):
		return "locked"
	default:
		return "error"
	}
}

// Random calls on MemFS and on the operating system's file system give equal
// answers, and leave equal trees.
func TestMatchesOSFS(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			p := &pair{
				t: t, rng: newRand(seed), sides: [2]raftlog.FS{New(Options{}), raftlog.OSFS{}},
				roots: [2]string{"/x", t.TempDir()},
			}
			must(t, p.sides[0].MkdirAll(p.roots[0]))
			p.both("create f", func(side int) (string, error) {
				f, err := p.sides[side].Create(p.path(side, "f"))
				return "", errors.Join(err, f.Close())
			})
			for range 300 {
				p.step()
			}
			p.compareTrees()
			p.close()
		})
	}
}

// pair drives two file systems with the same calls.
type pair struct {
	t     *testing.T
	rng   *rand.Rand
	sides [2]raftlog.FS
	roots [2]string
	files [][2]raftlog.File
	locks [][2]io.Closer
}

// name returns one of a few names of files, in one of a few directories that
// may not be, or that may be a file.
func (p *pair) name() string {
	return []string{"", "d", "d/e", "f"}[p.rng.IntN(4)] + "/" + string("abc"[p.rng.IntN(3)])
}

// which makes a choice of three out of a name, equal on both sides.
func (p *pair) which(name string) int { return int(name[len(name)-1]) % 3 }

func (p *pair) path(side int, name string) string { return filepath.Join(p.roots[side], name) }

// both makes a call on each side and compares what comes of it.
func (p *pair) both(what string, call func(side int) (string, error)) bool {
	p.t.Helper()
	var text [2]string
	var errs [2]error
	for side := range 2 {
		text[side], errs[side] = call(side)
	}
	if errorClass(errs[0]) != errorClass(errs[1]) || text[0] != text[1] {
		p.t.Fatalf("%s:\nMemFS %q, %v\nOSFS  %q, %v", what, text[0], errs[0], text[1], errs[1])
	}
	return errs[0] == nil
}

func (p *pair) step() {
	name, other := p.name(), p.name()
	switch k := p.rng.IntN(16); {
	case k == 0:
		p.both("mkdir", func(side int) (string, error) {
			return "", p.sides[side].MkdirAll(p.path(side, []string{"d", "d/e", "f/g"}[p.which(name)]))
		})
	case k <= 2:
		if p.rng.IntN(20) == 0 {
			name = "" // a directory
		}
		var files [2]raftlog.File
		if p.both("create/open "+name, func(side int) (_ string, err error) {
			if k == 1 {
				files[side], err = p.sides[side].Create(p.path(side, name))
			} else {
				files[side], err = p.sides[side].Open(p.path(side, name))
			}
			return "", err
		}) {
			p.files = append(p.files, files)
		}
	case k == 3:
		p.both("remove "+name, func(side int) (string, error) { return "", p.sides[side].Remove(p.path(side, name)) })
	case k == 4:
		p.both("rename "+name+" "+other, func(side int) (string, error) {
			return "", p.sides[side].Rename(p.path(side, name), p.path(side, other))
		})
	case k == 5:
		p.both("list", func(side int) (string, error) {
			names, err := p.sides[side].List(filepath.Dir(p.path(side, name)))
			return strings.Join(names, " "), err
		})
	case k == 6:
		p.both("syncdir", func(side int) (string, error) {
			return "", p.sides[side].SyncDir(p.path(side, []string{"", "d", "d/e"}[p.which(name)]))
		})
	case k == 7 && len(p.locks) > 0 && p.rng.IntN(2) == 0:
		held := p.locks[0]
		p.locks = p.locks[1:]
		p.both("unlock", func(side int) (string, error) { return "", held[side].Close() })
	case k == 7:
		// Lock files have names of their own: the operating system's lock goes
		// with the file and not with the name.
		var locks [2]io.Closer
		lockName := fmt.Sprintf("lock%d", p.rng.IntN(2))
		if p.both("lock", func(side int) (_ string, err error) {
			locks[side], err = p.sides[side].Lock(p.path(side, lockName))
			return "", err
		}) {
			p.locks = append(p.locks, locks)
		}
	case len(p.files) > 0:
		p.stepFile(k)
	}
}

func (p *pair) stepFile(k int) {
	at := p.rng.IntN(len(p.files))
	f := p.files[at]
	off := int64(p.rng.IntN(3 * chunkBytes))
	buf := make([]byte, p.rng.IntN(2000))
	switch k {
	case 8:
		p.both("sync", func(side int) (string, error) { return "", f[side].Sync() })
	case 9:
		p.both("size", func(side int) (string, error) {
			size, err := f[side].Size()
			return fmt.Sprint(size), err
		})
	case 10:
		p.both("truncate", func(side int) (string, error) { return "", f[side].Truncate(off) })
	case 11:
		p.files = slices.Delete(p.files, at, at+1)
		p.both("close", func(side int) (string, error) { return "", f[side].Close() })
		p.both("size after close", func(side int) (string, error) {
			_, err := f[side].Size()
			return "", err
		})
		p.both("close twice", func(side int) (string, error) { return "", f[side].Close() })
	case 12:
		if off%7 == 0 {
			off = -off - 1
		}
		p.both("read", func(side int) (string, error) {
			clear(buf)
			n, err := f[side].ReadAt(buf, off)
			return string(buf[:n]), err
		})
	default:
		for i := range buf {
			buf[i] = byte(p.rng.Uint32())
		}
		p.both("write", func(side int) (string, error) {
			n, err := f[side].WriteAt(buf, off)
			return fmt.Sprint(n), err
		})
	}
}

func (p *pair) compareTrees() {
	var trees [2]map[string]string
	for side := range 2 {
		trees[side] = make(map[string]string)
		for path, text := range dump(p.t, p.sides[side], p.roots[side]) {
			trees[side][strings.TrimPrefix(path, p.roots[side])] = text
		}
	}
	if !maps.Equal(trees[0], trees[1]) {
		p.t.Fatalf("trees differ: %v and %v", slices.Sorted(maps.Keys(trees[0])), slices.Sorted(maps.Keys(trees[1])))
	}
}

func (p *pair) close() {
	for _, f := range p.files {
		for side := range 2 {
			must(p.t, f[side].Close())
		}
	}
	for _, l := range p.locks {
		for side := range 2 {
			must(p.t, l[side].Close())
		}
	}
}

func TestLockIsHeldOnce(t *testing.T) {
	m := New(Options{})
	l, err := m.Lock("LOCK")
	must(t, err)
	if _, err := m.Lock("/./LOCK"); !errors.Is(err, raftlog.ErrLocked) {
		t.Fatalf("a second lock: %v", err)
	}
	if _, err := m.CrashClone(nil, ProcessDies).Lock("LOCK"); err != nil {
		t.Fatalf("a lock outlived its process: %v", err)
	}
	must(t, l.Close())
	again, err := m.Lock("LOCK")
	must(t, err)
	must(t, l.Close()) // the first holder's, which is not the lock any more
	if _, err := m.Lock("LOCK"); !errors.Is(err, raftlog.ErrLocked) {
		t.Fatalf("closing a lock twice gave away the next holder's: %v", err)
	}
	must(t, again.Close())
}

func TestUsedFollowsFiles(t *testing.T) {
	m := New(Options{})
	used := func(want int64) {
		t.Helper()
		if got := m.Used(); got != want {
			t.Fatalf("used %d, want %d", got, want)
		}
	}
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 1000, "x")
	used(1001)
	must(t, f.Truncate(10))
	used(10)
	must(t, m.Remove("a"))
	used(10) // still open
	must(t, f.Close())
	used(0)
	g := mustCreate(t, m, "b")
	mustWrite(t, g, 0, "12345")
	h := mustCreate(t, m, "c")
	mustWrite(t, h, 0, "1234567")
	must(t, g.Close())
	must(t, m.Rename("c", "b")) // the five bytes go
	used(7)
	used(m.CrashClone(nil, ProcessDies).Used())
	mustCreate(t, m, "b")
	used(0)
}

func TestOffsetsAreChecked(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	for _, off := range []int64{-1, maxFileBytes, 1<<63 - 1} {
		if n, err := f.WriteAt([]byte("x"), off); err == nil || n != 0 {
			t.Errorf("write at %d: %d, %v", off, n, err)
		}
	}
	if err := f.Truncate(-1); err == nil {
		t.Error("a size below zero")
	}
	if err := f.Truncate(maxFileBytes + 1); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("a size above the bound: %v", err)
	}
	if m.Used() != 0 {
		t.Errorf("refused calls used %d bytes", m.Used())
	}
}

func TestSparseFileReadsZeros(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	must(t, f.Truncate(1<<30))
	mustWrite(t, f, 1<<29, "here")
	p := bytes.Repeat([]byte{7}, 3*chunkBytes)
	if n, err := f.ReadAt(p, 1<<29-chunkBytes); n != len(p) || err != nil {
		t.Fatal(n, err)
	}
	want := make([]byte, len(p))
	copy(want[chunkBytes:], "here")
	if !bytes.Equal(p, want) {
		t.Fatal("a hole does not read as zeros")
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	p := make([]byte, 4096)
	cycle := func() {
		for off := int64(0); off < 1<<16; off += int64(len(p)) {
			if _, err := f.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	if n := testing.AllocsPerRun(50, cycle); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkMemFS(b *testing.B) {
	m := New(Options{})
	f := mustCreate(b, m, "a")
	for _, size := range []int{512, 4 << 10, 64 << 10} {
		p := make([]byte, size)
		b.Run(fmt.Sprintf("write+sync=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			off := int64(0)
			for b.Loop() {
				if _, err := f.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(size)) & (1<<20 - 1)
			}
		})
	}
}

func BenchmarkCrashClone(b *testing.B) {
	m := New(Options{})
	for i := range 4 {
		f := mustCreate(b, m, fmt.Sprint(i))
		must(b, f.Truncate(1<<20))
		must(b, f.Sync())
		mustWrite(b, f, 5000, strings.Repeat("x", 8000))
	}
	must(b, m.SyncDir("."))
	source := newRand(1)
	for b.Loop() {
		m.CrashClone(source, DiskFails)
	}
}
