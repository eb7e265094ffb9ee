package engine_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"multiraft/engine"
	"multiraft/transport"
	"multiraft/wire"
)

// adder is a state machine: a sum of command lengths.
type adder struct{ sum uint64 }

func (a *adder) Apply(entries []engine.Entry) error {
	for i := range entries {
		a.sum += uint64(len(entries[i].Command))
		entries[i].Result.Value = a.sum
	}
	return nil
}

func (a *adder) Query(any) (any, error) { return a.sum, nil }

// A store with one group of one replica, from opening to closing.
func Example() {
	dir, err := os.MkdirTemp("", "multiraft-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is of this example alone

	ctx := context.Background()
	store, err := engine.Open(engine.Config{Cluster: 1, ID: 1, Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	group, err := store.StartGroup(ctx, engine.GroupConfig{
		ID:           7,
		Members:      []engine.Member{{Replica: 1, Store: 1}},
		StateMachine: &adder{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := group.WaitLeader(ctx); err != nil {
		fmt.Println(err)
		return
	}
	result, err := group.Propose(ctx, []byte("hello"))
	fmt.Println(result.Value, err)
	value, err := group.Read(ctx, nil)
	fmt.Println(value, err)
	fmt.Println(store.Close())
	// Output:
	// 5 <nil>
	// 5 <nil>
	// <nil>
}

// Commands for many groups are proposed and completed together.
func ExampleStore_ProposeBatch() {
	dir, err := os.MkdirTemp("", "multiraft-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is of this example alone

	ctx := context.Background()
	store, err := engine.Open(engine.Config{Cluster: 1, ID: 1, Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	var groups []*engine.Group
	for _, cfg := range []engine.GroupConfig{{ID: 1}, {ID: 2}, {ID: 3}} {
		cfg.Members = []engine.Member{{Replica: 1, Store: 1}}
		cfg.StateMachine = &adder{}
		group, err := store.StartGroup(ctx, cfg)
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := group.WaitLeader(ctx); err != nil {
			fmt.Println(err)
			return
		}
		groups = append(groups, group)
	}
	var batch engine.Batch
	for _, key := range []string{"apple", "pear", "fig", "plum"} {
		batch.Add(groups[engine.KeyGroup([]byte(key), len(groups))], []byte(key))
	}
	if err := store.ProposeBatch(&batch); err != nil {
		fmt.Println(err)
		return
	}
	if err := batch.Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(batch.Len(), "commands,", batch.Err())
	fmt.Println(store.Close())
	// Output:
	// 4 commands, <nil>
	// <nil>
}

// A store whose certificate, key and authorities are in files, which may be
// replaced while it runs. See docs/security.md for how to make them.
func ExampleConfig_tls() {
	files := &transport.TLSFiles{
		Certificate: "store1.pem", Key: "store1.key", Authorities: "authority.pem",
		Failed: func(err error) { log.Print(err) },
	}
	store, err := engine.Open(engine.Config{
		Cluster: 7, ID: 1, Dir: "data", Listen: ":7001", TLS: files.Config,
		Peers: map[wire.StoreID]string{2: "store2:7001", 3: "store3:7001"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(store.Addr())
	if err := store.Close(); err != nil {
		log.Fatal(err)
	}
}
