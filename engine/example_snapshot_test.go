package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"multiraft/engine"
	"multiraft/wire"
)

// stock counts things, and makes snapshots of what it has counted.
type stock struct{ count map[string]uint64 }

func (s *stock) Apply(entries []engine.Entry) error {
	for i := range entries {
		s.count[string(entries[i].Command)]++
		entries[i].Result.Value = s.count[string(entries[i].Command)]
	}
	return nil
}

func (s *stock) Query(thing any) (any, error) { return s.count[thing.(string)], nil }

// Snapshot copies the map, because Apply goes on while WriteTo runs. A large state
// would be one that can be shared instead, as a persistent tree or a view of a
// database.
func (s *stock) Snapshot() (io.WriterTo, error) { return stockCopy(maps.Clone(s.count)), nil }

type stockCopy map[string]uint64

func (c stockCopy) WriteTo(w io.Writer) (int64, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (s *stock) Restore(_ wire.Index, r io.Reader) error {
	count := map[string]uint64{}
	if err := json.NewDecoder(r).Decode(&count); err != nil {
		return err
	}
	s.count = count
	return nil
}

// A group whose state machine makes snapshots is exported to a file, and another
// group begins with what is in there.
func ExampleSnapshotter() {
	dir, err := os.MkdirTemp("", "multiraft-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is of this example alone
	if err := exportAndStart(context.Background(), dir); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 3 apples, 1 pear
	// 4 apples in the new group, 3 in the old one
}

func exportAndStart(ctx context.Context, dir string) (err error) {
	store, err := engine.Open(engine.Config{Cluster: 1, ID: 1, Dir: filepath.Join(dir, "store"), Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	start := func(id wire.GroupID, snapshot string) (*engine.Group, error) {
		group, err := store.StartGroup(ctx, engine.GroupConfig{
			ID:           id,
			Members:      []engine.Member{{Replica: 1, Store: 1}},
			StateMachine: &stock{count: map[string]uint64{}},
			Snapshot:     snapshot,
		})
		if err != nil {
			return nil, err
		}
		return group, group.WaitLeader(ctx)
	}

	group, err := start(1, "")
	if err != nil {
		return err
	}
	for _, thing := range []string{"apple", "pear", "apple", "apple"} {
		if _, err := group.Propose(ctx, []byte(thing)); err != nil {
			return err
		}
	}
	export := filepath.Join(dir, "export")
	file, err := os.Create(export)
	if err != nil {
		return err
	}
	_, err = group.ExportSnapshot(ctx, file)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}

	other, err := start(2, export)
	if err != nil {
		return err
	}
	apples, err := other.Read(ctx, "apple")
	if err != nil {
		return err
	}
	pears, err := other.Read(ctx, "pear")
	if err != nil {
		return err
	}
	fmt.Printf("%d apples, %d pear\n", apples, pears)
	result, err := other.Propose(ctx, []byte("apple"))
	if err != nil {
		return err
	}
	if apples, err = group.Read(ctx, "apple"); err != nil {
		return err
	}
	fmt.Printf("%d apples in the new group, %d in the old one\n", result.Value, apples)
	return nil
}
