// Command kv embeds three stores in one process and shards a key-value map over
// their groups. It writes keys, reads them back linearizably, stops a store in
// good order, starts it again over its directory, and shows that it holds
// everything.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

func main() {
	dir := flag.String("dir", "", "directory for the stores; empty: a scratch directory that is removed")
	groups := flag.Int("groups", 16, "raft groups to shard the keys over")
	keys := flag.Int("keys", 1000, "keys to write")
	flag.Parse()
	if err := run(*dir, *groups, *keys); err != nil {
		log.Fatal(err)
	}
}

func run(dir string, groups, keys int) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp(".", "kv-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cluster, err := openCluster(ctx, dir, groups)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.close()) }()

	start := time.Now()
	for i := range keys {
		if err := cluster.put(ctx, fmt.Sprintf("key-%d", i), fmt.Sprintf("value-%d", i)); err != nil {
			return err
		}
	}
	fmt.Printf("wrote %d keys one by one over %d groups in %v\n", keys, groups, time.Since(start).Round(time.Millisecond))

	value, err := cluster.get(ctx, 1, "key-7")
	if err != nil {
		return err
	}
	fmt.Printf("store 1 reads key-7 = %q\n", value)

	if err := cluster.restart(ctx, 2); err != nil {
		return err
	}
	if value, err = cluster.get(ctx, 2, "key-7"); err != nil {
		return err
	}
	fmt.Printf("store 2 after a restart reads key-7 = %q\n", value)
	return nil
}

// cluster is three stores of one process, as three processes would run one each.
type cluster struct {
	dir    string
	groups int
	addrs  map[wire.StoreID]string
	stores map[wire.StoreID]*engine.Store
}

var members = []engine.Member{{Replica: 1, Store: 1}, {Replica: 2, Store: 2}, {Replica: 3, Store: 3}}

func openCluster(ctx context.Context, dir string, groups int) (*cluster, error) {
	c := &cluster{dir: dir, groups: groups, addrs: map[wire.StoreID]string{}, stores: map[wire.StoreID]*engine.Store{}}
	for _, m := range members {
		if err := c.open(ctx, m.Store, "127.0.0.1:0"); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// open opens one store, tells all stores each other's addresses, and starts the
// store's replicas.
func (c *cluster) open(ctx context.Context, id wire.StoreID, listen string) error {
	store, err := engine.Open(engine.Config{
		Cluster: 7,
		ID:      id,
		Dir:     filepath.Join(c.dir, fmt.Sprintf("store-%d", id)),
		Listen:  listen,
	})
	if err != nil {
		return err
	}
	c.stores[id], c.addrs[id] = store, store.Addr()
	for _, a := range c.stores {
		for peer, addr := range c.addrs {
			if peer == a.ID() {
				continue
			}
			if err := a.SetPeer(peer, addr); err != nil {
				return err
			}
		}
	}
	for g := range c.groups {
		if _, err := store.StartGroup(ctx, engine.GroupConfig{
			ID:           wire.GroupID(g + 1),
			Members:      members,
			StateMachine: newKV(),
		}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) close() error {
	var err error
	for _, store := range c.stores {
		err = errors.Join(err, store.Close())
	}
	return err
}

func (c *cluster) restart(ctx context.Context, id wire.StoreID) error {
	if err := c.stores[id].Close(); err != nil {
		return err
	}
	return c.open(ctx, id, c.addrs[id])
}

// group returns the group of a key on one store.
func (c *cluster) group(id wire.StoreID, key string) (*engine.Group, error) {
	gid := wire.GroupID(engine.KeyGroup([]byte(key), c.groups) + 1)
	g, ok := c.stores[id].Group(gid)
	if !ok {
		return nil, fmt.Errorf("store %d, group %d: %w", id, gid, engine.ErrUnknownGroup)
	}
	return g, nil
}

// put writes on the store that leads the key's group, and asks again while a
// leader is being elected.
func (c *cluster) put(ctx context.Context, key, value string) error {
	at := wire.StoreID(1)
	for {
		g, err := c.group(at, key)
		if err != nil {
			return err
		}
		_, err = g.Propose(ctx, encodePut(key, value))
		var notLeader *engine.NotLeaderError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &notLeader) && notLeader.Store != 0:
			at = notLeader.Store
		case errors.As(err, &notLeader), errors.Is(err, engine.ErrBusy):
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return err
		}
	}
}

// get reads linearizably on any store.
func (c *cluster) get(ctx context.Context, at wire.StoreID, key string) (string, error) {
	for {
		g, err := c.group(at, key)
		if err != nil {
			return "", err
		}
		value, err := g.Read(ctx, key)
		if errors.Is(err, engine.ErrNoLeader) {
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		if err != nil {
			return "", err
		}
		return value.(string), nil
	}
}
