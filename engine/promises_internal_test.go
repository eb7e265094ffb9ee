package engine

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"multiraft/group"
	"multiraft/internal/vfs"
)

// life opens the promises of a store for one life on a disk.
func life(t *testing.T, disk *vfs.MemFS, leases bool, electionTicks int, interval time.Duration) *promises {
	t.Helper()
	if err := disk.MkdirAll("/store"); err != nil {
		t.Fatal(err)
	}
	if err := disk.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	p, err := openPromises(&Store{cfg: Config{Dir: "/store", FS: disk, TickInterval: interval,
		Tuning: group.Tuning{ElectionTicks: electionTicks, LeaseReads: leases}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPromisesOutliveStores: however leases, time-outs and ticks change from life to
// life, a store owes at least what it has promised in any life before, until it has
// kept that once to its end.
func TestPromisesOutliveStores(t *testing.T) {
	disk := vfs.New(vfs.Options{})
	if p := life(t, disk, false, 10, time.Second); p.owed(0) != 0 {
		t.Errorf("a new store owes %d ticks", p.owed(0))
	}
	if p := life(t, disk, true, 10, time.Second); p.owed(0) != 0 {
		t.Errorf("the first promises are owed from %d ticks before they were made", p.owed(0))
	}
	disk = disk.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.AllLost)
	p := life(t, disk, false, 3, 2*time.Second)
	if p.owed(0) != 6 || p.owed(5) != 6 || p.owed(6) != 0 {
		t.Errorf("10 s promised: owes %d ticks of 2 s, then %d, then %d", p.owed(0), p.owed(5), p.owed(6))
	}
	if err := p.close(5); err != nil {
		t.Fatal(err)
	}
	// Closed too early, it is owed again; and something longer counts for more.
	if p := life(t, disk, true, 20, time.Second); p.owed(0) != 11 {
		t.Errorf("owes %d ticks of 1 s", p.owed(0))
	}
	if p = life(t, disk, true, 7, time.Second); p.owed(0) != 21 {
		t.Errorf("owes %d ticks of 1 s", p.owed(0))
	}
	if err := p.close(21); err != nil {
		t.Fatal(err)
	}
	disk = disk.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.AllLost)
	if p = life(t, disk, false, 10, time.Second); p.owed(0) != 8 {
		t.Errorf("owes %d ticks after the longer promise is over", p.owed(0))
	}
	if err := p.close(11); err != nil {
		t.Fatal(err)
	}
	if names, err := disk.List("/store"); err != nil || len(names) != 0 {
		t.Errorf("left behind %v, %v", names, err)
	}
}

// TestPromiseIsDurableFirst: a store that cannot note how long it promises silence
// does not open.
func TestPromiseIsDurableFirst(t *testing.T) {
	broken := errors.New("broken")
	for _, op := range []vfs.OpKind{vfs.OpCreate, vfs.OpSync, vfs.OpSyncDir, vfs.OpList} {
		disk := vfs.New(vfs.Options{})
		if err := disk.MkdirAll("/store"); err != nil {
			t.Fatal(err)
		}
		disk.SetHook(func(call vfs.Op) vfs.Fault {
			if call.Kind == op {
				return vfs.Fault{Err: broken}
			}
			return vfs.Fault{}
		})
		_, err := openPromises(&Store{cfg: Config{Dir: "/store", FS: disk, TickInterval: time.Second, Tuning: group.Tuning{ElectionTicks: 10, LeaseReads: true}}})
		if !errors.Is(err, broken) {
			t.Errorf("%v fails: %v", op, err)
		}
	}
}

// TestNamesOfPromises: names of other files are not ours.
func TestNamesOfPromises(t *testing.T) {
	p := &promises{}
	for _, span := range []time.Duration{1, time.Hour, maxPromise} {
		if got, ok := promiseSpan(p.name(span)); !ok || got != span {
			t.Errorf("%v became %v, %v", span, got, ok)
		}
	}
	for _, name := range []string{"", "promise-", "promise-1", "promise-00000000000000000000", "promise-99999999999999999999",
		"promise-0000000000000000000x", "promise-000000000000000000001"} {
		if span, ok := promiseSpan(name); ok {
			t.Errorf("%q is %v", name, span)
		}
	}
	if got := spanOf(1<<30, time.Minute); got != maxPromise {
		t.Errorf("a billion minutes are %v", got)
	}
}
