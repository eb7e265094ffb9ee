package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

// scroll is a ledger that makes snapshots.
type scroll struct {
	ledger
	slow    chan struct{} // WriteTo waits until it is closed; nil: it does not
	writing atomic.Int64
	closed  atomic.Int64
}

type scrollCopy struct {
	s        *scroll
	commands []string
}

func (s *scroll) Snapshot() (io.WriterTo, error) {
	return &scrollCopy{s, s.snapshot()}, nil
}

func (c *scrollCopy) WriteTo(w io.Writer) (int64, error) {
	c.s.writing.Add(1)
	if c.s.slow != nil {
		<-c.s.slow
	}
	n, err := io.WriteString(w, strings.Join(c.commands, "\n"))
	return int64(n), err
}

func (c *scrollCopy) Close() error { c.s.closed.Add(1); return nil }

func (s *scroll) Restore(_ wire.Index, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = nil
	if len(b) > 0 {
		s.commands = strings.Split(string(b), "\n")
	}
	return nil
}

func snapshotsOften(cfg *engine.Config) {
	cfg.SnapshotEntries, cfg.KeepEntries, cfg.CacheBytes, cfg.SnapshotChunkBytes = 100, 10, 1, 4096
}

// startScroll starts a group whose machines make snapshots.
func (c *cluster) startScroll(id wire.StoreID, group wire.GroupID) *scroll {
	c.t.Helper()
	s := &scroll{}
	c.machines[id][group] = &s.ledger
	if _, err := c.stores[id].StartGroup(c.ctx(), engine.GroupConfig{ID: group, Members: threeMembers, StateMachine: s}); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// The whole way with goroutines: a store misses what is compacted, comes back
// while writes go on, gets the state, and later restarts from it.
func TestSnapshotsOfLiveStores(t *testing.T) {
	t.Parallel()
	c := newCluster(t, snapshotsOften)
	for id := range c.stores {
		c.startScroll(id, 1)
	}
	pad := strings.Repeat("p", 200)
	n := 0
	write := func(count int) {
		batch := engine.Batch{}
		for count > 0 {
			batch.Reset()
			leader := c.leader(1)
			k := min(count, 50)
			for i := range k {
				batch.Add(leader, fmt.Appendf(nil, "%d%s", n+i, pad))
			}
			if err := errors.Join(leader.Store().ProposeBatch(&batch), batch.Wait(c.ctx()), batch.Err()); err != nil {
				t.Fatal(err)
			}
			n, count = n+k, count-k
		}
	}
	write(200)
	c.converge(1, n)
	// The one that goes is a follower, so that no proposal is lost with it.
	gone := wire.StoreID(1)
	if c.leader(1).Store().ID() == gone {
		gone = 2
	}
	c.close(gone)
	write(1000)
	c.until("compacted", func() bool { return c.leader(1).Status().First > 250 })
	c.open(gone)
	c.startScroll(gone, 1)
	write(500)
	c.converge(1, n)
	m := c.stores[gone].Metrics()
	if m.SnapshotsInstalled == 0 {
		t.Errorf("%+v", m)
	}
	for id := wire.StoreID(1); id <= 3; id++ {
		c.close(id)
	}
	for id := wire.StoreID(1); id <= 3; id++ {
		c.open(id)
		c.startScroll(id, 1)
	}
	write(10)
	c.converge(1, n)
}

// A machine that is slow to write holds up neither its group, nor the snapshots
// of others; StopGroup waits for it, and it is told that it is not needed.
func TestSlowSnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t, snapshotsOften)
	slow := map[wire.StoreID]*scroll{}
	for id := range c.stores {
		slow[id] = &scroll{slow: make(chan struct{})}
		c.machines[id][1] = &slow[id].ledger
		if _, err := c.stores[id].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers, StateMachine: slow[id]}); err != nil {
			t.Fatal(err)
		}
		c.startScroll(id, 2)
	}
	for i := range 300 {
		c.propose(1, fmt.Sprint("slow ", i))
		c.propose(2, fmt.Sprint("quick ", i))
	}
	leader := c.leader(1)
	s := slow[leader.Store().ID()]
	c.until("writing", func() bool { return s.writing.Load() == 1 })
	c.until("others", func() bool { return c.leader(2).Status().Snapshot > 100 })
	if st := leader.Status(); st.Snapshot != 0 || st.First != 1 {
		t.Errorf("%+v", st)
	}
	gone, cancel := context.WithCancel(c.ctx())
	cancel()
	if err := leader.Store().StopGroup(gone, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped while the machine is in use: %v", err)
	}
	for _, s := range slow {
		close(s.slow)
	}
	if err := leader.Store().StopGroup(c.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	if s.closed.Load() != 1 {
		t.Errorf("the capture was closed %d times", s.closed.Load())
	}
}

// Snapshot and ExportSnapshot as callers use them, and a group that begins with
// the export.
func TestExportToFile(t *testing.T) {
	c := newCluster(t, nil)
	for id := range c.stores {
		c.startScroll(id, 1)
	}
	leader := c.leader(1)
	for i := range 20 {
		c.propose(1, fmt.Sprint(i))
	}
	index, err := leader.Snapshot(c.ctx())
	if err != nil || index != leader.Applied() {
		t.Fatalf("snapshot at %d of %d: %v", index, leader.Applied(), err)
	}
	if again, err := leader.Snapshot(c.ctx()); err != nil || again != index {
		t.Fatalf("again: %d, %v", again, err)
	}
	var b bytes.Buffer
	if exported, err := leader.ExportSnapshot(c.ctx(), &b); err != nil || exported != index {
		t.Fatalf("export at %d: %v", exported, err)
	}
	path := filepath.Join(t.TempDir(), "export")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, store := range c.stores {
		s := &scroll{}
		c.machines[id][8] = &s.ledger
		if _, err := store.StartGroup(c.ctx(), engine.GroupConfig{ID: 8, Members: threeMembers, StateMachine: s, Snapshot: path}); err != nil {
			t.Fatal(err)
		}
	}
	c.propose(8, "more")
	if got := c.converge(8, 21); len(got) != 21 || got[19] != "19" || got[20] != "more" {
		t.Errorf("%v", got)
	}
	if _, err := leader.ExportSnapshot(c.ctx(), &brokenWriter{}); !errors.Is(err, errBook) {
		t.Errorf("export to a writer that fails: %v", err)
	}
	gone, cancel := context.WithCancel(c.ctx())
	cancel()
	if _, err := leader.Snapshot(gone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type brokenWriter struct{}

func (*brokenWriter) Write([]byte) (int, error) { return 0, errBook }

// A store with an empty disk joins a group whose log is compacted, and gets the
// state.
func TestJoinBySnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t, snapshotsOften)
	s := &scroll{}
	c.machines[1][1] = &s.ledger
	g, err := c.stores[1].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers[:1], StateMachine: s})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.WaitLeader(c.ctx()); err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		c.propose(1, fmt.Sprint(i))
	}
	c.until("compacted", func() bool { return g.Status().First > 50 })
	joined := make(chan error, 1)
	go func() {
		_, err := g.AddReplica(c.ctx(), engine.Member{Store: 2})
		joined <- err
	}()
	c.until("added", func() bool { return len(g.Membership().Members) == 2 })
	added := g.Membership().Members[1].Replica
	other := &scroll{}
	c.machines[2][1] = &other.ledger
	if _, err := c.stores[2].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Join: true, Replica: added, StateMachine: other}); err != nil {
		t.Fatal(err)
	}
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	c.propose(1, "together")
	c.until("the same", func() bool { return len(other.snapshot()) == 401 })
	if m := c.stores[2].Metrics(); m.SnapshotsInstalled != 1 {
		t.Errorf("%d snapshots were installed", m.SnapshotsInstalled)
	}
	// A restart has the membership that came with the state.
	c.close(2)
	c.open(2)
	again := &scroll{}
	c.machines[2][1] = &again.ledger
	h, err := c.stores[2].StartGroup(c.ctx(), engine.GroupConfig{ID: 1, StateMachine: again})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.WaitLeader(c.ctx()); err != nil {
		t.Fatal(err)
	}
	c.until("the same", func() bool { return len(again.snapshot()) == 401 })
	if m := h.Membership(); len(m.Members) != 2 || m.Members[1].Role != wire.Voter {
		t.Errorf("%+v", m)
	}
	// When it is removed, its files go with it.
	for { // a slow disk may have the leader hand over meanwhile
		err := c.leader(1).RemoveReplica(c.ctx(), added)
		if err == nil {
			break
		}
		if !errors.Is(err, engine.ErrTransferring) && !errors.Is(err, engine.ErrLeadershipLost) && !errors.As(err, new(*engine.NotLeaderError)) {
			t.Fatal(err)
		}
	}
	c.until("gone", func() bool {
		names, err := os.ReadDir(filepath.Join(c.dir, "2", "snapshots"))
		return err == nil && len(names) == 0
	})
}
