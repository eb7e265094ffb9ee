//go:build linux

package faulttest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"multiraft/wire"
)

// straceWorks tells once why strace cannot be used here.
var straceWorks = sync.OnceValue(func() error {
	out, err := exec.Command("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// straceLine is what goes in front of a command so that system calls are
// tampered with. Calls are counted per thread.
func straceLine(t *testing.T, inject string) []string {
	t.Helper()
	if err := straceWorks(); err != nil {
		t.Skipf("needs strace that may trace: %v", err)
	}
	return []string{"strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e", inject}
}

// Calls with which a store changes what is on its disk.
const (
	writeCalls = "pwrite64"
	syncCalls  = "fdatasync,fsync"
	nameCalls  = "rename,renameat,renameat2,unlinkat,ftruncate,mkdirat"
)

// TestKillAtCalls kills a store at its k-th write, at its k-th sync, and at its
// k-th change of a name, for every k. Each life goes on from what the one before
// left, so starts are cut off as well.
func TestKillAtCalls(t *testing.T) {
	t.Parallel()
	for _, of := range []struct {
		name, calls string
		most, step  int
	}{
		{"writes", writeCalls, pick(24, 24, 400), pick(6, 1, 1)},
		{"syncs", syncCalls, pick(24, 24, 400), pick(6, 1, 1)},
		{"names", nameCalls, pick(9, 9, 60), pick(3, 1, 1)},
	} {
		t.Run(of.name, func(t *testing.T) {
			k := 0
			c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 1), SegmentBytes: 64 << 10, Filler: 4 << 10, Wrap: func(wire.StoreID) []string {
				if k == 0 {
					return nil
				}
				return straceLine(t, fmt.Sprintf("inject=%s:signal=KILL:when=%d", of.calls, k))
			}}, 8)
			opening, running, lives := 0, 0, 0
			for k = 1; k <= of.most; k += of.step {
				lives++
				switch killedAt(t, c, l) {
				case 1:
					opening++
				case 2:
					running++
				}
			}
			k = 0
			verify(t, c, l)
			t.Logf("killed %d times while opening and %d times under load, of %d; %d operations", opening, running, lives, l.History.Len())
			if opening+running < lives/2 || opening == 0 {
				t.Error("too few of the calls were reached")
			}
		})
	}
}

// killedAt runs a store until it is killed from outside: while it opens (1), or
// under load (2). It returns 0 when that did not happen.
func killedAt(t *testing.T, c *Cluster, l *Load) int {
	t.Helper()
	var open *OpenError
	if err := c.Start(1); errors.As(err, &open) && open.Killed {
		return 1
	} else if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), shortly)
	defer cancel()
	go func() { // ends with ctx
		select {
		case <-c.Process(1).Ended():
		case <-ctx.Done():
		}
		cancel()
	}()
	l.Begin()
	err := l.Answers(ctx, 600)
	l.End()
	c.Kill(1)
	if err != nil {
		return 2
	}
	return 0
}

// TestKillMemberAtCalls kills one store of three at its k-th write or sync while
// the others go on.
func TestKillMemberAtCalls(t *testing.T) {
	t.Parallel()
	inject := ""
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), SegmentBytes: 64 << 10, Filler: 4 << 10, Wrap: func(id wire.StoreID) []string {
		if inject == "" || id != 1 {
			return nil
		}
		return straceLine(t, inject)
	}}, 16)
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	killed := 0
	rounds := pick(3, 12, 200)
	for round := range rounds {
		answers(t, l, 100)
		c.Kill(1)
		inject = fmt.Sprintf("inject=%s:signal=KILL:when=%d", []string{writeCalls, syncCalls}[round%2], 5+3*round)
		var open *OpenError
		err := c.Start(1)
		switch {
		case errors.As(err, &open) && open.Killed:
			killed++
		case err != nil:
			t.Fatal(err)
		default:
			ended := c.Process(1).Ended()
			for n := 0; n < 20 && !closed(ended); n++ {
				answers(t, l, 50)
			}
			if closed(ended) {
				killed++
			}
		}
		inject = ""
		c.Kill(1) // who did not get as far as the call would reach it some time later
		must(t, c.Heal())
	}
	l.End()
	verify(t, c, l)
	t.Logf("killed %d times of %d; %d operations", killed, rounds, l.History.Len())
	if killed == 0 {
		t.Error("no call was reached")
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestFailedCalls has the k-th write or sync of a log fail, once, and takes the
// power away after it: nothing is acknowledged that rests on the call that failed
// or on a later one, and the store refuses everything from then on (F3). Linux
// returns nil for the next sync of the same file, so a store that tried again
// would acknowledge what is lost.
func TestFailedCalls(t *testing.T) {
	t.Parallel()
	for _, of := range []struct {
		name, calls, result string
		first, step, most   int
	}{
		{"sync EIO", syncCalls, "error=EIO", 6, 2, pick(2, 6, 300)},
		{"write EIO", writeCalls, "error=EIO", 7, 2, pick(1, 4, 300)},
		{"write ENOSPC", writeCalls, "error=ENOSPC", 8, 3, pick(1, 4, 300)},
		{"write EROFS", writeCalls, "error=EROFS", 9, 4, pick(1, 2, 100)},
	} {
		t.Run(of.name, func(t *testing.T) {
			v := newVolume(t, 128*mib)
			inject := ""
			c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, 1), SegmentBytes: 256 << 10, Wrap: func(wire.StoreID) []string {
				if inject == "" {
					return nil
				}
				return straceLine(t, inject)
			}}, 8)
			failed, opening := 0, 0
			for n := range of.most {
				v.mount()
				inject = fmt.Sprintf("inject=%s:%s:when=%d", of.calls, of.result, of.first+n*of.step)
				var open *OpenError
				switch err := c.Start(1); {
				case errors.As(err, &open) && !open.Killed:
					opening++ // which is right: it must not come up after that
				case err != nil:
					t.Fatal(err)
				default:
					l.Begin()
					if failsUnderLoad(t, c, l) {
						failed++
					}
					l.End()
				}
				v.cut()
				c.KillAll()
				v.unmount()
			}
			inject = ""
			v.mount()
			verify(t, c, l)
			t.Logf("%d stores failed under load and %d while opening, of %d; %d operations", failed, opening, of.most, l.History.Len())
			if failed == 0 {
				t.Error("no store failed under load")
			}
			c.KillAll()
			v.unmount()
		})
	}
}

// TestInterruptedCalls has signals interrupt every third call that writes, syncs
// or changes a name, before it does anything: it is made again, and nobody notices.
func TestInterruptedCalls(t *testing.T) {
	t.Parallel()
	interrupt := true
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 1), SegmentBytes: 64 << 10, Filler: 4 << 10, SnapshotEntries: 50, Wrap: func(wire.StoreID) []string {
		if !interrupt {
			return nil
		}
		return straceLine(t, "inject="+writeCalls+","+syncCalls+","+nameCalls+":error=EINTR:when=1+3")
	}}, 8)
	for range pick(1, 2, 20) {
		must(t, c.Start(1))
		l.Begin()
		answers(t, l, pick(100, 400, 2000))
		l.End()
		healthy(t, c)
		c.Kill(1)
	}
	interrupt = false
	verify(t, c, l)
	t.Logf("%d operations", l.History.Len())
}

// failsUnderLoad waits until a store has failed and checks that it then refuses
// everything. It returns false when it did not fail.
func failsUnderLoad(t *testing.T, c *Cluster, l *Load) bool {
	t.Helper()
	limit := l.Done() + 2000
	for {
		h, err := c.Health(t.Context(), 1)
		must(t, err)
		if h.Failed {
			break
		}
		if l.Done() >= limit {
			return false
		}
		must(t, pause(t.Context(), retryInterval))
	}
	before := l.Done()
	l.Attempts(50)
	// Answers that were on their way when it failed may still come in; whatever
	// begins from here on is refused.
	if before > l.Done() {
		t.Fatal("operations were unanswered")
	}
	for n := range uint64(20) {
		for _, op := range []operation{opWrite, opRead} {
			// Values above all that the load uses, so that they would be seen.
			a, err := c.Process(1).Call(t.Context(), Request{Op: op, Group: 1, Key: 1 << 40, Value: 1<<40 + n, Timeout: callTimeout})
			must(t, err)
			if a.Outcome == Done || !a.Failed || !strings.Contains(a.Text, "failed") {
				t.Errorf("a failed store answers operation %d with %+v", op, a)
			}
		}
	}
	return true
}
