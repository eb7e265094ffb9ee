// Command members grows a group from one store to three, replaces one of them,
// and shrinks the group again, while it counts. Stores start the replicas that
// they are given by themselves, and get the count from a snapshot: the log, of
// which little is kept, does not begin with the first entry any more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

func main() {
	dir := flag.String("dir", "", "directory for the stores; empty: a scratch directory that is removed")
	flag.Parse()
	if err := run(*dir); err != nil {
		log.Fatal(err)
	}
}

const group wire.GroupID = 1

func run(dir string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp(".", "members-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := &cluster{addrs: map[wire.StoreID]string{}}
	defer func() { err = errors.Join(err, c.close()) }()
	for id := wire.StoreID(1); id <= 4; id++ {
		if err := c.open(id, filepath.Join(dir, fmt.Sprintf("store-%d", id))); err != nil {
			return err
		}
	}
	// The group begins on store 1 alone.
	if _, err := c.stores[0].StartGroup(ctx, engine.GroupConfig{
		ID: group, Members: []engine.Member{{Replica: 1, Store: 1}}, StateMachine: &counter{},
	}); err != nil {
		return err
	}
	// It counts, and its log is compacted. That would happen by itself after
	// Config.SnapshotEntries.
	if err := c.onLeader(ctx, func(g *engine.Group) error {
		if err := count(ctx, g, 1000); err != nil {
			return err
		}
		_, err := g.Snapshot(ctx)
		return err
	}); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(leader *engine.Group) error
	}{
		{"one store", func(*engine.Group) error { return nil }},
		{"store 2 is added", func(g *engine.Group) error { _, err := g.AddReplica(ctx, engine.Member{Store: 2}); return err }},
		{"store 3 is added", func(g *engine.Group) error { _, err := g.AddReplica(ctx, engine.Member{Store: 3}); return err }},
		{"store 4 replaces store 1", func(g *engine.Group) error {
			_, err := g.ReplaceReplica(ctx, 1, engine.Member{Store: 4})
			return err
		}},
		{"store 2 is removed", func(g *engine.Group) error { return g.RemoveReplica(ctx, 2) }},
	} {
		if err := c.onLeader(ctx, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		var counted uint64
		var members []engine.Member
		if err := c.onLeader(ctx, func(g *engine.Group) error {
			result, err := g.Propose(ctx, []byte("count"))
			counted, members = result.Value, g.Membership().Members
			return err
		}); err != nil {
			return fmt.Errorf("%s: count: %w", step.what, err)
		}
		var stores []wire.StoreID
		for _, m := range members {
			stores = append(stores, m.Store)
		}
		slices.Sort(stores)
		fmt.Printf("%-25s the group is on stores %v and has counted %d\n", step.what+":", stores, counted)
	}
	for _, store := range c.stores[1:] {
		if store.Metrics().SnapshotsInstalled == 0 {
			return fmt.Errorf("store %d has joined without a snapshot", store.ID())
		}
	}
	return nil
}

// count proposes n commands together.
func count(ctx context.Context, g *engine.Group, n int) error {
	var batch engine.Batch
	for range n {
		batch.Add(g, []byte("count"))
	}
	return errors.Join(g.Store().ProposeBatch(&batch), batch.Wait(ctx), batch.Err())
}

// counter is the state machine. It makes snapshots of its count.
type counter struct{ n uint64 }

func (c *counter) Apply(entries []engine.Entry) error {
	for i := range entries {
		c.n++
		entries[i].Result.Value = c.n
	}
	return nil
}

func (c *counter) Query(any) (any, error) { return c.n, nil }

func (c *counter) Snapshot() (io.WriterTo, error) { return &counter{c.n}, nil }

func (c *counter) WriteTo(w io.Writer) (int64, error) {
	n, err := fmt.Fprintln(w, c.n)
	return int64(n), err
}

func (c *counter) Restore(_ wire.Index, r io.Reader) error {
	_, err := fmt.Fscanln(r, &c.n)
	return err
}

// cluster is four stores of one process, as four processes would run one each.
type cluster struct {
	stores []*engine.Store
	addrs  map[wire.StoreID]string
}

func (c *cluster) open(id wire.StoreID, dir string) error {
	store, err := engine.Open(engine.Config{
		Cluster: 7, ID: id, Dir: dir, Listen: "127.0.0.1:0",
		KeepEntries: 10, // in the log in front of a snapshot; the default is meant for real ones
		// Called when a replica was added here.
		Join: func(engine.JoinRequest) (engine.GroupConfig, error) {
			return engine.GroupConfig{StateMachine: &counter{}}, nil
		},
	})
	if err != nil {
		return err
	}
	for _, other := range c.stores {
		if err := errors.Join(other.SetPeer(id, store.Addr()), store.SetPeer(other.ID(), c.addrs[other.ID()])); err != nil {
			return errors.Join(err, store.Close())
		}
	}
	c.stores, c.addrs[id] = append(c.stores, store), store.Addr()
	return nil
}

// onLeader calls do with the replica that leads, with the next one when
// leadership changes meanwhile.
func (c *cluster) onLeader(ctx context.Context, do func(*engine.Group) error) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		for _, store := range c.stores {
			g, ok := store.Group(group)
			if !ok || !g.IsLeader() {
				continue
			}
			err := do(g)
			var notLeader *engine.NotLeaderError
			var removed *engine.ReplicaRemovedError
			if !errors.As(err, &notLeader) && !errors.As(err, &removed) {
				return err
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *cluster) close() error {
	var err error
	for _, store := range c.stores {
		err = errors.Join(err, store.Close())
	}
	return err
}
