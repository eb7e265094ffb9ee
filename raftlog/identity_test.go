package raftlog_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

func TestIncarnation(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	var first Identity
	for n := range uint64(5) {
		l := mustOpen(t, o)
		id := l.Identity()
		if n == 0 {
			first = id
		}
		if id.Incarnation != n+1 || id.UUID != first.UUID || id.Cluster != 7 || id.Store != 3 {
			t.Fatalf("open %d: %+v", n, id)
		}
		// Durable before anything else: a crash right now does not take it back.
		o.FS = o.FS.(*vfs.MemFS).CrashClone(nil, vfs.AllLost)
	}
	if first.UUID == [16]byte{} {
		t.Fatal("the store has no random id")
	}
	o.Rand = nil // crypto/rand
	o.FS = vfs.New(vfs.Options{})
	if mustOpen(t, o).Identity().UUID == first.UUID {
		t.Fatal("two stores have one id")
	}
}

// A raised incarnation is durable when the call returns, while the log is written
// and maintained, and the next life comes behind it.
func TestRaiseIncarnation(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	l := mustOpen(t, o)
	for _, want := range []uint64{40, 40, 90} {
		if err := l.RaiseIncarnation(want); err != nil {
			t.Fatal(err)
		}
		if err := l.RaiseIncarnation(3); err != nil {
			t.Fatal(err)
		}
		if got := l.Identity().Incarnation; got != want {
			t.Fatalf("incarnation %d, want %d", got, want)
		}
		crashed := o
		crashed.FS = fs.CrashClone(nil, vfs.AllLost)
		if got := mustOpen(t, crashed).Identity().Incarnation; got != want+1 {
			t.Fatalf("incarnation %d after a crash, want %d", got, want+1)
		}
	}
	broken := errors.New("broken")
	fs.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind.Mutates() {
			return vfs.Fault{Err: broken}
		}
		return vfs.Fault{}
	})
	if err := l.RaiseIncarnation(100); !errors.Is(err, broken) {
		t.Errorf("raise on a broken disk: %v", err)
	}
	if got := l.Identity().Incarnation; got != 90 {
		t.Errorf("incarnation %d that is not durable", got)
	}
	fs.SetHook(nil)
}

// TestRaiseInTwoSteps fails each call of a raise in turn. The store stays in the life
// in which it was until both copies say more, and then it is that much further on.
func TestRaiseInTwoSteps(t *testing.T) {
	for call := uint64(1); ; call++ {
		fs := vfs.New(vfs.Options{FailedSyncDrops: true})
		l := mustOpen(t, testOptions(fs))
		fs.SetHook(vfs.FailFrom(fs.Calls()+call, errSync))
		err := l.RaiseIncarnation(40)
		fs.SetHook(nil)
		if err == nil {
			if call < 6 {
				t.Fatalf("a raise makes %d calls", call-1)
			}
			return
		}
		if got := l.Identity().Incarnation; !errors.Is(err, errSync) || got != 1 {
			t.Fatalf("call %d: incarnation %d, %v", call, got, err)
		}
		if err := l.RaiseIncarnation(30); err != nil || l.Identity().Incarnation != 30 {
			t.Fatalf("raised again after call %d failed: %v", call, err)
		}
		for _, name := range files(t, fs, "identity-") {
			o := testOptions(fs.CrashClone(nil, vfs.AllLost))
			if err := o.FS.(*vfs.MemFS).FlipBit(name, 60, 1); err != nil {
				t.Fatal(err)
			}
			if got := mustOpen(t, o).Identity().Incarnation; got <= 30 {
				t.Fatalf("call %d failed once, %s is damaged: incarnation %d", call, name, got)
			}
		}
	}
}

// identityLife is a life in which the identity is written for each reason there is.
// It calls told with each incarnation that the store is in.
func identityLife(t *testing.T, o Options, raised uint64, told func(uint64)) {
	t.Helper()
	l := mustOpen(t, o)
	told(l.Identity().Incarnation)
	for l.Stats().Rotations < 2 {
		submit(t, l, func(b *Batch) { b.Meta(l.Group(1), make([]byte, 2000)) })
		l.Maintain()
	}
	for l.Maintain() {
	}
	if err := l.RaiseIncarnation(raised); err != nil {
		t.Fatal(err)
	}
	told(l.Identity().Incarnation)
	mustClose(t, l)
}

// TestIdentityAtEveryCall lets the power fail in front of each call of two lives, and
// takes each state of the disk that may leave as it is and with each of the copies
// damaged. Where both were sound one of them is enough, and no incarnation that
// anybody was told is seen again.
func TestIdentityAtEveryCall(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	type state struct{ sum, told uint64 }
	told, seen, damaged := uint64(0), make(map[state]bool), 0
	open := func(disk *vfs.MemFS) (sound bool, err error) {
		o := testOptions(disk)
		sound = disk.FileSize("/log/identity-a") > 0 && disk.FileSize("/log/identity-b") > 0
		o.Events.Damaged = func(*CorruptionError, []wire.GroupID) { sound = false }
		l, err := Open(o)
		if err == nil && l.Identity().Incarnation <= told {
			err = fmt.Errorf("incarnation %d again", l.Identity().Incarnation)
		}
		return sound, err
	}
	fs.SetHook(func(op vfs.Op) vfs.Fault {
		if !op.Kind.Mutates() {
			return vfs.Fault{}
		}
		fs.States(vfs.StateOptions{Combined: 2, Entries: 3}, func(s *vfs.State) {
			this := state{s.Sum(), told}
			if seen[this] {
				return
			}
			seen[this] = true
			sound, err := open(s.Clone())
			if err != nil {
				t.Fatalf("power failed before %s %s, %s: %v", op.Kind, op.Name, s, err)
			}
			if !sound {
				return
			}
			for _, name := range []string{"/log/identity-a", "/log/identity-b"} {
				disk := s.Clone()
				if err := disk.FlipBit(name, 60, 1); err != nil {
					t.Fatal(err)
				}
				damaged++
				if _, err := open(disk); err != nil {
					t.Fatalf("power failed before %s %s, %s, %s is damaged: %v", op.Kind, op.Name, s, name, err)
				}
			}
		})
		return vfs.Fault{}
	})
	for life := range uint64(2) {
		identityLife(t, testOptions(fs), 1000*(life+1), func(is uint64) { told = is })
	}
	if len(seen) < 500 || damaged < 500 {
		t.Fatalf("%d states, %d with a damaged copy", len(seen), damaged)
	}
}

// TestIdentityFlippedBits: whenever nothing is under way, any wrong bit of either copy
// costs nothing: the incarnation is above all there were, the peers may have met one
// that was far ahead, and the loss of the last segment is noticed. The next damage
// may hit the other copy.
func TestIdentityFlippedBits(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	incarnation := func(disk *vfs.MemFS, damaged int) uint64 {
		t.Helper()
		o, told := testOptions(disk), 0
		o.Events.Damaged = func(*CorruptionError, []wire.GroupID) { told++ }
		l := mustOpen(t, o)
		if told != damaged {
			t.Fatalf("%d copies are called damaged, want %d", told, damaged)
		}
		return l.Identity().Incarnation
	}
	look := func(when string, floor uint64) {
		t.Helper()
		copies := files(t, fs, "identity-")
		for i, name := range copies {
			for at := range int64(8 * len(readAll(t, fs, name))) {
				disk := fs.CrashClone(nil, vfs.AllLost)
				if err := disk.FlipBit(name, at/8, uint(at%8)); err != nil {
					t.Fatal(err)
				}
				got := incarnation(disk, 1)
				if got <= floor {
					t.Fatalf("%s, bit %d of %s: incarnation %d, but %d was in use", when, at, name, got, floor)
				}
				if at%64 != 0 {
					continue
				}
				disk = disk.CrashClone(nil, vfs.AllLost)
				if err := disk.FlipBit(copies[1-i], at/8, uint(at%8)); err != nil {
					t.Fatal(err)
				}
				if next := incarnation(disk, 1); next <= got {
					t.Fatalf("%s, bit %d of one copy and then of the other: incarnation %d after %d", when, at, next, got)
				}
			}
			disk := fs.CrashClone(nil, vfs.AllLost)
			segments := files(t, disk, "segment-")
			if err := errors.Join(disk.FlipBit(name, 60, 1), disk.Remove(segments[len(segments)-1])); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(testOptions(disk)); !errors.Is(err, ErrMissing) {
				t.Fatalf("%s, without %s and the last segment: %v", when, name, err)
			}
		}
	}
	for _, met := range []uint64{1 << 20, 1 << 30} {
		l := mustOpen(t, o)
		life := l.Identity().Incarnation
		look("opened", life)
		if err := l.RaiseIncarnation(met); err != nil {
			t.Fatal(err)
		}
		look("raised", met)
		for l.Stats().Rotations == 0 {
			submit(t, l, func(b *Batch) { b.Meta(l.Group(1), make([]byte, 2000)) })
		}
		submit(t, l, func(b *Batch) { b.Meta(l.Group(1), make([]byte, 2000)) })
		for l.Maintain() {
		}
		look("in a later segment", met)
		mustClose(t, l)
		look("closed", met)
	}
}

// TestIdentityOfKilledProcess kills a process in front of each call of its first
// two lives, so that what it wrote is in the page cache only, and lets the power
// fail in front of each call of the start that follows, which keeps all names but
// the lost ones and no content but what was synced. There is an identity left
// each time, or no log yet, and no incarnation that was in use is seen again.
func TestIdentityOfKilledProcess(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	recoveries, told := 0, uint64(0)
	open := func(disk *vfs.MemFS, what string) {
		l, err := Open(testOptions(disk))
		if err == nil && l.Identity().Incarnation <= told {
			err = fmt.Errorf("incarnation %d again", l.Identity().Incarnation)
		}
		if err != nil {
			t.Fatalf("power failed before %s: %v", what, err)
		}
	}
	restart := func(killed *vfs.MemFS) {
		o := testOptions(killed)
		killed.SetHook(func(op vfs.Op) vfs.Fault {
			if op.Kind.Mutates() {
				recoveries++
				for _, crash := range []vfs.CrashOptions{{Lost: 100}, {EntriesLost: 100}, vfs.AllLost} {
					open(killed.CrashClone(nil, crash), op.Kind.String()+" "+op.Name)
				}
				if !strings.Contains(op.Name, "identity") && op.Kind != vfs.OpSyncDir {
					return vfs.Fault{}
				}
				killed.States(vfs.StateOptions{Combined: 1, Entries: 4}, func(s *vfs.State) {
					open(s.Clone(), op.Kind.String()+" "+op.Name+", "+s.String())
				})
			}
			return vfs.Fault{}
		})
		mustOpen(t, o)
	}
	fs.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind.Mutates() {
			restart(fs.Fork())
			failed := fs.Fork()
			failed.DropUnsynced()
			restart(failed)
		}
		return vfs.Fault{}
	})
	for life := range uint64(2) {
		l := mustOpen(t, testOptions(fs))
		told = l.Identity().Incarnation
		if err := l.RaiseIncarnation(100 * (life + 1)); err != nil {
			t.Fatal(err)
		}
		told = l.Identity().Incarnation
		mustClose(t, l)
	}
	if recoveries < 100 {
		t.Fatalf("%d recoveries", recoveries)
	}
}

// TestIdentityCopies damages each copy and both.
func TestIdentityCopies(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	incarnation := uint64(0)
	for range 3 {
		l := mustOpen(t, o)
		incarnation = l.Identity().Incarnation
		mustClose(t, l)
	}
	copies := files(t, fs, "identity-")
	if len(copies) != 2 {
		t.Fatalf("copies %v", copies)
	}
	for _, name := range copies {
		damaged := fs.CrashClone(nil, vfs.ProcessDies)
		if err := damaged.FlipBit(name, 60, 1); err != nil {
			t.Fatal(err)
		}
		o.FS = damaged
		told := 0
		o.Events.Damaged = func(*CorruptionError, []wire.GroupID) { told++ }
		l := mustOpen(t, o)
		if got := l.Identity().Incarnation; got <= incarnation || told != 1 {
			t.Fatalf("without %s: incarnation %d after %d, told %d times", name, got, incarnation, told)
		}
		mustClose(t, l)
	}
	for _, name := range copies {
		if err := fs.FlipBit(name, 10, 1); err != nil {
			t.Fatal(err)
		}
	}
	o.FS = fs
	if _, err := Open(o); err == nil {
		t.Fatal("a log without identity opens")
	}
}

func TestWrongDirectory(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	mustClose(t, mustOpen(t, testOptions(fs)))
	for field, change := range map[string]func(*Options){
		"cluster": func(o *Options) { o.Cluster = 8 },
		"store":   func(o *Options) { o.Store = 4 },
	} {
		o := testOptions(fs)
		change(&o)
		wrong := new(IdentityError)
		if _, err := Open(o); !errors.As(err, &wrong) || wrong.Field != field {
			t.Fatalf("%s: %v", field, err)
		}
	}
	l := mustOpen(t, testOptions(fs))
	if l.Identity().Incarnation != 2 {
		t.Fatal("a refused open raised the incarnation")
	}
	mustClose(t, l)
}

// TestSegmentOfAnotherStore: batches of another store are not taken for own ones.
func TestSegmentOfAnotherStore(t *testing.T) {
	own, other := vfs.New(vfs.Options{}), vfs.New(vfs.Options{})
	o := testOptions(other)
	o.Rand = nil
	l := mustOpen(t, o)
	submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 1, 1, 1)) })
	mustClose(t, l)
	o.FS = own
	mustClose(t, mustOpen(t, o))
	name := files(t, own, "segment-")[0]
	rewriteFile(t, own, name, readAll(t, other, name))
	if _, err := Open(o); !errors.As(err, new(*CorruptionError)) {
		t.Fatalf("open with a foreign segment: %v", err)
	}
}

func TestForeignFiles(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	mustClose(t, mustOpen(t, o))
	names := []string{"/log/notes.txt", "/log/segment-1", "/log/segment-0000000000000000", "/log/x.tmp"}
	for _, name := range names {
		rewriteFile(t, fs, name, []byte("not ours"))
	}
	unfinished := "/log/spare-00000000000000ff.tmp"
	rewriteFile(t, fs, unfinished, []byte("ours"))
	var ignored []string
	o.Events.Ignored = func(name string) { ignored = append(ignored, name) }
	mustClose(t, mustOpen(t, o))
	if got := strings.Join(ignored, " "); len(ignored) != len(names) {
		t.Fatalf("ignored %s", got)
	}
	for _, name := range names {
		if string(readAll(t, fs, name)) != "not ours" {
			t.Fatalf("%s was changed", name)
		}
	}
	if _, err := fs.Open(unfinished); err == nil {
		t.Fatalf("%s is still there", unfinished)
	}
}

func TestLock(t *testing.T) {
	for name, fs := range map[string]FS{"memory": vfs.New(vfs.Options{}), "disk": OSFS{}} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(fs)
			if name == "disk" {
				o.Dir = t.TempDir()
			}
			l := mustOpen(t, o)
			if _, err := Open(o); !errors.Is(err, ErrLocked) {
				t.Fatalf("second open: %v", err)
			}
			mustClose(t, l)
			mustClose(t, mustOpen(t, o))
		})
	}
}

func TestOptions(t *testing.T) {
	o := Options{Cluster: 1, SegmentBytes: 100, MaxBatchBytes: 1, Recovery: 9}
	err := o.Validate()
	for _, field := range []string{"Dir", "Store", "SegmentBytes", "MaxBatchBytes", "Recovery"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not in %v", field, err)
		}
	}
	if _, openErr := Open(o); !errors.As(openErr, new(*OptionError)) {
		t.Errorf("open: %v", openErr)
	}
}

// TestNoBatchIsMissing: the identity says that there was a log.
func TestNoBatchIsMissing(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	mustClose(t, mustOpen(t, o))
	for _, name := range files(t, fs, "segment-") {
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(o); !errors.Is(err, ErrMissing) {
		t.Fatalf("open: %v", err)
	}
}

var _ io.Closer = (*Log)(nil)
