package vfs

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"syscall"
)

var errBroken = errors.New("broken")

// A script that uses every call; its calls are failed in turn.
func script(m *MemFS) error {
	return errors.Join(
		m.MkdirAll("d"),
		func() error {
			l, err := m.Lock("d/LOCK")
			if err != nil {
				return err
			}
			return l.Close()
		}(),
		func() error {
			f, err := m.Create("d/a")
			if err != nil {
				return err
			}
			_, writeErr := f.WriteAt([]byte("hello"), 0)
			_, readErr := f.ReadAt(make([]byte, 1), 0)
			_, sizeErr := f.Size()
			return errors.Join(writeErr, readErr, sizeErr, f.Truncate(5), f.Sync(), f.Close())
		}(),
		m.Rename("d/a", "d/b"),
		func() error {
			f, err := m.Open("d/b")
			if err != nil {
				return err
			}
			return f.Close()
		}(),
		func() error { _, err := m.List("d"); return err }(),
		m.SyncDir("d"),
		m.Remove("d/b"),
	)
}

func TestEveryCallCanBeFailed(t *testing.T) {
	var kinds []OpKind
	m := New(Options{})
	m.SetHook(func(op Op) Fault {
		if op.Call != uint64(len(kinds)+1) {
			t.Fatalf("call %d is numbered %d", len(kinds)+1, op.Call)
		}
		kinds = append(kinds, op.Kind)
		return Fault{}
	})
	if err := script(m); err != nil {
		t.Fatal(err)
	}
	want := []OpKind{OpMkdirAll, OpLock, OpCreate, OpWrite, OpRead, OpSize, OpTruncate, OpSync, OpRename, OpOpen, OpList,
		OpSyncDir, OpRemove}
	if !slices.Equal(kinds, want) {
		t.Fatalf("got %v, want %v", kinds, want)
	}
	for k, kind := range kinds {
		m := New(Options{})
		m.SetHook(FailCall(uint64(k+1), errBroken))
		err := script(m)
		var path *fs.PathError
		if !errors.Is(err, errBroken) || !errors.As(err, &path) {
			t.Errorf("call %d (%v): got %v", k+1, kind, err)
		}
	}
}

func TestFailFromLeavesReads(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 0, "x")
	m.SetHook(FailFrom(m.Calls()+1, syscall.EROFS))
	if got := mustContent(t, m, "a"); got != "x" {
		t.Fatalf("got %q", got)
	}
	for name, err := range map[string]error{
		"sync": f.Sync(), "truncate": f.Truncate(0), "mkdir": m.MkdirAll("d"), "remove": m.Remove("a"),
		"rename": m.Rename("a", "b"), "syncdir": m.SyncDir("."),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, err := f.WriteAt([]byte("yy"), 0); n != 0 || !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: %d, %v", n, err)
	}
	if _, err := m.Create("b"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("create: %v", err)
	}
}

func TestWriteFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault Fault
		n     int
		err   error
		want  string
	}{
		{"none", Fault{}, 4, nil, "..abcd...."},
		{"error", Fault{Err: errBroken}, 0, errBroken, ".........."},
		{"short", Fault{Err: errBroken, Written: 3}, 3, errBroken, "..abc....."},
		{"short by nothing", Fault{Err: errBroken, Written: 9}, 4, errBroken, "..abcd...."},
		{"lost", Fault{Lie: true}, 4, nil, ".........."},
		{"misdirected", Fault{Shift: 3}, 4, nil, ".....abcd."},
		{"misdirected before the start", Fault{Shift: -5}, 4, nil, "abcd......"},
	} {
		m := New(Options{})
		f := mustCreate(t, m, "a")
		mustWrite(t, f, 0, "..........")
		m.SetHook(func(op Op) Fault {
			if op.Kind != OpWrite {
				return Fault{}
			}
			if op.Name != "a" || op.Offset != 2 || op.Length != 4 {
				t.Errorf("%s: the hook saw %+v", c.name, op)
			}
			return c.fault
		})
		n, err := f.WriteAt([]byte("abcd"), 2)
		if n != c.n || !errors.Is(err, c.err) {
			t.Errorf("%s: got %d, %v", c.name, n, err)
		}
		if got := mustContent(t, m, "a"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// A disk that ignores flushes loses what was flushed: the planted bug by which
// crash tests prove that they look.
func TestLyingSync(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	must(t, m.SyncDir("."))
	m.SetHook(func(op Op) Fault { return Fault{Lie: op.Kind == OpSync || op.Kind == OpSyncDir} })
	mustWrite(t, f, 0, "x")
	must(t, f.Sync())
	mustCreate(t, m, "b")
	must(t, m.SyncDir("."))
	if tree := dump(t, m.CrashClone(nil, AllLost), "/"); len(tree) != 1 || tree["/a"] != "" {
		t.Fatalf("%v is left", tree)
	}
}

func TestDelaysAddUp(t *testing.T) {
	m := New(Options{})
	m.SetHook(func(op Op) Fault {
		if op.Kind == OpSync {
			return Fault{Delay: 5}
		}
		return Fault{}
	})
	f := mustCreate(t, m, "a")
	must(t, f.Sync())
	must(t, f.Sync())
	if a, b := m.TakeDelay(), m.TakeDelay(); a != 10 || b != 0 {
		t.Fatalf("got %d, then %d", a, b)
	}
}

// A hook may use the file system and may block: a hung disk.
func TestHookMayCallAndBlock(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 0, "x")
	entered, leave := make(chan struct{}), make(chan struct{})
	m.SetHook(func(op Op) Fault {
		if op.Kind == OpSync {
			close(entered)
			<-leave
			return Fault{Err: m.FlipBit("a", 0, 0)}
		}
		return Fault{}
	})
	synced := make(chan error)
	go func() { synced <- f.Sync() }()
	<-entered
	if got := mustContent(t, m, "a"); got != "x" {
		t.Fatalf("got %q while the sync hangs", got)
	}
	close(leave)
	must(t, <-synced)
	if got := mustContent(t, m, "a"); got != "y" {
		t.Fatalf("got %q", got)
	}
}

// A full disk takes what fits, goes on overwriting, and has room again once a
// file is gone.
func TestCapacity(t *testing.T) {
	m := New(Options{Capacity: 1000})
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 0, strings.Repeat("a", 600))
	g := mustCreate(t, m, "b")
	if n, err := g.WriteAt(make([]byte, 500), 0); n != 400 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %d, %v", n, err)
	}
	if n, err := g.WriteAt([]byte("b"), 400); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %d, %v", n, err)
	}
	if err := g.Truncate(401); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	mustWrite(t, g, 0, strings.Repeat("b", 400))
	if m.Used() != 1000 {
		t.Fatalf("used %d", m.Used())
	}
	must(t, f.Close())
	must(t, m.Remove("a"))
	mustWrite(t, g, 400, strings.Repeat("b", 600))
	if _, err := g.WriteAt([]byte("b"), 1000); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	m.SetCapacity(0)
	mustWrite(t, g, 1000, "b")
	if n := m.TakeNoRoom(); n != 4 || m.TakeNoRoom() != 0 {
		t.Fatalf("%d calls are said to have failed, want 4", n)
	}
}

func TestFlipBit(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	must(t, m.SyncDir("."))
	mustWrite(t, f, 0, "aaa")
	must(t, f.Sync())
	mustWrite(t, f, 0, "bbb")
	must(t, m.FlipBit("a", 1, 3))
	if got := mustContent(t, m, "a"); got != "bjb" {
		t.Fatalf("visible %q", got)
	}
	if got := mustContent(t, m.CrashClone(nil, AllLost), "a"); got != "aia" {
		t.Fatalf("durable %q", got)
	}
	if err := m.FlipBit("a", 3, 0); err == nil {
		t.Fatal("a flip behind the end")
	}
	if err := m.FlipBit("b", 0, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

// What a disk writes in place of something else is seen by reads and by crashes.
func TestSpoil(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	must(t, m.SyncDir("."))
	mustWrite(t, f, 0, "aaaa")
	must(t, f.Sync())
	mustWrite(t, f, 1, "b")
	calls := m.Calls()
	must(t, m.Spoil("a", 1, []byte("xa")))
	got := make([]byte, 9)
	if n := m.Peek("a", got, 0); string(got[:n]) != "axaa" || m.FileSize("a") != 4 || m.Calls() != calls {
		t.Fatalf("visible %q of %d bytes", got[:n], m.FileSize("a"))
	}
	// What was durable under an unsynced write has the same bits wrong.
	if got, want := mustContent(t, m.CrashClone(nil, AllLost), "a"), "a"+string(byte('a'^'b'^'x'))+"aa"; got != want {
		t.Fatalf("durable %q, want %q", got, want)
	}
	if err := m.Spoil("a", 3, []byte("xx")); err == nil {
		t.Fatal("bytes behind the end")
	}
	if err := m.Spoil("b", 0, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	if m.Peek("b", got, 0) != 0 || m.Peek("a", got, -1) != 0 || m.FileSize("b") != 0 {
		t.Fatal("bytes of nothing")
	}
}

func TestOpKindNames(t *testing.T) {
	seen := make(map[string]bool)
	for k := OpMkdirAll; k <= OpTruncate; k++ {
		if name := k.String(); strings.HasPrefix(name, "op(") || seen[name] {
			t.Errorf("kind %d is called %q", k, name)
		}
		seen[k.String()] = true
	}
	if got := OpKind(200).String(); got != "op(200)" {
		t.Errorf("got %q", got)
	}
}
