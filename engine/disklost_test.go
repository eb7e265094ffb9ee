package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multiraft/engine"
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
			isRefused() // an older copy is not an empty disk
			f.lead("remove", func(g *engine.Group) error { return g.RemoveReplica(f.ctx(), wire.ReplicaID(lost)) })
			f.until("who adds a replica there is told why it does not come", func() bool {
				ctx, cancel := context.WithTimeout(f.ctx(), 20*time.Millisecond)
				defer cancel()
				_, err := f.leader(1).AddReplica(ctx, engine.Member{Store: lost})
				return err != nil && strings.Contains(err.Error(), fmt.Sprintf("store %d is not connected: ", lost)) &&
					strings.Contains(err.Error(), "incarnation")
			})

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
