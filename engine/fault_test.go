package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"multiraft/engine"
	"multiraft/raftlog"
	"multiraft/wire"
)

// brokenFS is the operating system's file system with a switch that fails every
// write or sync.
type brokenFS struct {
	raftlog.FS
	failWrites, failSyncs atomic.Bool
}

var errDisk = errors.New("disk is broken")

func (b *brokenFS) Create(name string) (raftlog.File, error) { return b.wrap(b.FS.Create(name)) }
func (b *brokenFS) Open(name string) (raftlog.File, error)   { return b.wrap(b.FS.Open(name)) }

func (b *brokenFS) wrap(f raftlog.File, err error) (raftlog.File, error) {
	if err != nil {
		return nil, err
	}
	return &brokenFile{File: f, fs: b}, nil
}

type brokenFile struct {
	raftlog.File
	fs *brokenFS
}

func (f *brokenFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.failWrites.Load() {
		return 0, &osError{syscall.EIO}
	}
	return f.File.WriteAt(p, off)
}

func (f *brokenFile) Sync() error {
	if f.fs.failSyncs.Load() {
		return errDisk
	}
	return f.File.Sync()
}

type osError struct{ errno syscall.Errno }

func (e *osError) Error() string { return e.errno.Error() }
func (e *osError) Unwrap() error { return e.errno }

var _ io.WriterAt = (*brokenFile)(nil)

// A store whose disk fails acknowledges nothing from then on, says why, and
// loses its leaderships; the others go on, and a restart over the repaired disk
// brings it back.
func TestDiskFailureStopsTheStore(t *testing.T) {
	t.Parallel()
	for name, breakDisk := range map[string]func(*brokenFS){
		"sync":  func(b *brokenFS) { b.failSyncs.Store(true) },
		"write": func(b *brokenFS) { b.failWrites.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			disks := map[wire.StoreID]*brokenFS{}
			c := newCluster(t, func(cfg *engine.Config) {
				disks[cfg.ID] = &brokenFS{FS: raftlog.OSFS{}}
				cfg.FS = disks[cfg.ID]
			})
			c.startAll(1)
			for i := range 20 {
				c.propose(1, fmt.Sprint(i))
			}
			c.converge(1, 20)
			leader := c.leader(1)
			broken := leader.Store()
			breakDisk(disks[broken.ID()])
			_, err := leader.Propose(c.ctx(), []byte("lost"))
			var failed *engine.StoreFailedError
			if !errors.As(err, &failed) || failed.Store != broken.ID() {
				t.Fatalf("propose over a broken disk: %v, want StoreFailedError", err)
			}
			if !errors.As(broken.Err(), &failed) {
				t.Errorf("store says %v", broken.Err())
			}
			if _, err := leader.Read(c.ctx(), nil); !errors.As(err, &failed) {
				t.Errorf("read on the failed store: %v", err)
			}
			c.close(broken.ID())
			c.propose(1, "after")
			c.open(broken.ID())
			c.start(broken.ID(), 1)
			got := c.converge(1, 21)
			for i := range 20 {
				if got[i] != fmt.Sprint(i) {
					t.Fatalf("command %d is %q", i, got[i])
				}
			}
		})
	}
}

func TestQueryPanicStopsOnlyItsReplica(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll(1, 2)
	c.propose(1, "x")
	c.converge(1, 1)
	follower := wire.StoreID(1)
	if c.leader(1).Store().ID() == follower {
		follower = 2
	}
	_, err := c.group(follower, 1).Read(c.ctx(), "panic")
	var panicked *engine.PanicError
	if !errors.As(err, &panicked) {
		t.Fatalf("read: %v, want PanicError", err)
	}
	c.until("the replica stops", func() bool { return c.group(follower, 1).Err() != nil })
	c.propose(1, "the group goes on")
	c.propose(2, "so does the store")
}

// Bit-rot in entries that were durable is never served and never cut away in
// silence: the group that lost them stays down with the place of the damage,
// while its other replicas and the other groups of the store go on.
func TestDamagedEntriesKeepOnlyTheirGroupDown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.startAll(1, 2)
	for i := range 10 {
		c.propose(1, fmt.Sprintf("damaged-%d", i))
		c.propose(2, fmt.Sprintf("healthy-%d", i))
	}
	c.converge(1, 10)
	c.converge(2, 10)
	dir := c.config(3).Dir
	c.close(3)
	flipByteAt(t, dir, "damaged-5")
	c.open(3)
	_, err := c.stores[3].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, StateMachine: &ledger{}})
	var corruption *raftlog.CorruptionError
	if !errors.As(err, &corruption) {
		t.Fatalf("start over damaged entries: %v, want CorruptionError", err)
	}
	c.start(3, 2)
	c.propose(1, "two of three go on")
	c.propose(2, "healthy")
	c.converge(2, 11)
}

// flipByteAt damages the first byte of the only place below dir that holds the
// text.
func flipByteAt(t *testing.T, dir, text string) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if at := bytes.Index(data, []byte(text)); at >= 0 {
			found++
			data[at] ^= 0x20
			return os.WriteFile(path, data, 0o600)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != 1 {
		t.Fatalf("%q is in %d files", text, found)
	}
}
