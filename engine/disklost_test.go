package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// A store that was restarted before it lost its disk is refused by its peers until
// it says so. Then it gets new replicas, over the connections that they have made.
func TestDiskLost(t *testing.T) {
	t.Parallel()
	for _, lost := range []wire.StoreID{1, 3} { // which dials, and which is dialled
		t.Run(fmt.Sprint("store ", lost), func(t *testing.T) {
			diskLost := false
			f := newFleet(t, 3, func(cfg *engine.Config) {
				cfg.Transport, cfg.Listen = nil, "127.0.0.1:0"
				cfg.DiskLost = diskLost && cfg.ID == lost
			})
			introduce := func() {
				t.Helper()
				for _, a := range f.stores {
					for id, b := range f.stores {
						if a != b {
							if err := a.SetPeer(id, b.Addr()); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
			}
			fresh := func() *ledger {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.ledgers[lost] = &ledger{}
				return f.ledgers[lost]
			}
			start := func() {
				t.Helper()
				if _, err := f.stores[lost].StartGroup(f.ctx(), engine.GroupConfig{ID: 1, StateMachine: fresh()}); err != nil {
					t.Fatal(err)
				}
			}
			introduce()
			f.begin(1, 2, 3)
			want := []string{"a"}
			f.propose(1, "a")
			dir := filepath.Join(f.dir, fmt.Sprint(lost))
			copied := t.TempDir()
			f.close(lost)
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			f.open(lost)
			for range 3 {
				f.close(lost)
				f.open(lost)
				introduce()
				start()
				f.agree(want, lost)
			}
			empty := func() {
				t.Helper()
				f.close(lost)
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				f.open(lost)
			}
			isRefused := func() {
				t.Helper()
				before := f.stores[lost].Metrics().RefusedConnections
				f.until("the store is refused", func() bool { return f.stores[lost].Metrics().RefusedConnections > before+4 })
			}
			empty()
			introduce()
			isRefused()
			diskLost = true
			f.close(lost)
			if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(copied))); err != nil {
				t.Fatal(err)
			}
			f.open(lost)
			introduce()
			var outlived *engine.OutlivedError
			f.until("the older copy is told, and stops", func() bool { return errors.As(f.stores[lost].Err(), &outlived) })
			if outlived.Blank || outlived.Met <= outlived.Incarnation {
				t.Errorf("an older copy is told %+v", outlived)
			}
			f.lead("remove", func(g *engine.Group) error { return g.RemoveReplica(f.ctx(), wire.ReplicaID(lost)) })
			f.until("who adds a replica there is told why it does not come", func() bool {
				ctx, cancel := context.WithTimeout(f.ctx(), 20*time.Millisecond)
				defer cancel()
				_, err := f.leader(1).AddReplica(ctx, engine.Member{Store: lost})
				return err != nil && strings.Contains(err.Error(), fmt.Sprintf("store %d is not connected: ", lost)) &&
					strings.Contains(err.Error(), "incarnation")
			})
			f.close(lost)
			if store, err := engine.Open(f.config(lost)); !errors.As(err, &outlived) {
				t.Fatalf("the older copy opens: %v, %v", store, err)
			}

			empty()
			var gone *engine.ReplicaLostError
			_, err := f.stores[lost].StartGroup(f.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers, StateMachine: fresh()})
			if !errors.As(err, &gone) || gone.Replica != wire.ReplicaID(lost) {
				t.Errorf("begin of the lost voter: %v, want a ReplicaLostError", err)
			}
			introduce()
			// Replica 4 was added above. The store cannot know that it never ran there.
			f.until("another one takes its place", func() bool { return f.stores[lost].Metrics().Repairing == 0 })
			if m := f.add(lost); m.Replica != 5 || m.Role != wire.Voter {
				t.Errorf("added %+v, want replica 5", m)
			}
			f.agree(want, lost)

			// The next life is an ordinary one.
			diskLost = false
			f.close(lost)
			f.open(lost)
			introduce()
			start()
			want = append(want, "b")
			f.propose(1, "b")
			f.agree(want, 1, 2, 3)
		})
	}
}

// A store that was told that it is an older copy of its disk remembers so: it would
// pass for the true one after as many starts as that had.
func TestOlderCopyRemembers(t *testing.T) {
	for _, full := range []bool{false, true} {
		lost := false
		c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = lost && cfg.ID == 3 })
		c.startAll(5)
		lost = true
		p := c.places[2]
		c.crash(2, vfs.CrashOptions{})
		c.start(2)
		if full {
			p.fs.SetHook(func(op vfs.Op) (f vfs.Fault) {
				if strings.HasSuffix(op.Name, "outlived") {
					f.Err = syscall.ENOSPC
				}
				return f
			})
		}
		life := p.steps.Incarnation()
		if now := p.steps.Outlived(1, life); now != life || p.store.Err() != nil {
			t.Fatalf("told of its own life: in life %d, %v", now, p.store.Err())
		}
		if now := p.steps.Outlived(1, 10); now != life {
			t.Fatalf("in life %d, not %d", now, life)
		}
		want := engine.OutlivedError{Store: 3, Peer: 1, Incarnation: life, Met: 10}
		isOutlived := func(err error) bool {
			got := new(engine.OutlivedError)
			return errors.As(err, &got) && *got == want
		}
		if err := p.store.Err(); !isOutlived(err) || errors.Is(err, syscall.ENOSPC) != full {
			t.Fatalf("told of a later life: %v", err)
		}
		p.fs.SetHook(nil)
		c.crash(2, vfs.AllLost)
		if full {
			c.start(2) // to be told again
			continue
		}
		for range 12 {
			want.Incarnation++
			if _, _, err := engine.OpenStepped(c.config(2)); !isOutlived(err) {
				t.Fatalf("opens in life %d: %v", want.Incarnation, err)
			}
		}
		p.fs = vfs.New(vfs.Options{})
		c.start(2)
		if now := p.steps.Outlived(1, 20); now <= 20 || p.store.Err() != nil {
			t.Errorf("on an empty disk: in life %d, %v", now, p.store.Err())
		}
		c.until("whole", func() bool { return c.whole(5) })
	}
}

// A directory without replicas is no older copy, whatever was in there once.
func TestEmptiedCopyOpens(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, nil)
	fsys := c.places[2].fs
	if err := fsys.MkdirAll("/store"); err != nil {
		t.Fatal(err)
	}
	file, err := fsys.Create("/store/outlived")
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c.start(2) // the second time with a replica
		if slices.Contains(filesOf(t, fsys), "/store/outlived") {
			t.Error("the mark is still there")
		}
		c.close(2)
	}
}
