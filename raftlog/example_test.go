package raftlog_test

import (
	"fmt"
	"log"

	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/wire"
)

// printer is told what became durable.
type printer struct{}

func (printer) Durable(batches []*raftlog.Batch, err error) {
	for _, b := range batches {
		fmt.Println(b.Owner, "durable:", err == nil)
	}
}

// One batch carries the changes of any number of groups, and one sync makes
// them durable.
func Example() {
	l, err := raftlog.Open(raftlog.Options{FS: vfs.New(vfs.Options{}), Dir: "/store", Cluster: 1, Store: 1})
	if err != nil {
		log.Fatal(err)
	}
	l.SetSink(printer{})

	batch := raftlog.Batch{Owner: "first round"}
	for id := range wire.GroupID(2) {
		g := l.Group(id + 1)
		block := wire.AppendPayload(wire.NewBlock(nil), []byte("command"))
		block.Seal(g.ID(), 1, 1, wire.EntryCommand, 1)
		batch.HardState(g, wire.HardState{Term: 1, Vote: 1})
		batch.Append(g, block)
	}
	l.Submit(&batch)
	for l.Step() { // a store calls Start instead
	}

	g := l.Group(2)
	stored, err := g.Blocks(1, g.Last()+1, 1<<20, nil)
	if err != nil {
		log.Fatal(err)
	}
	command, _, _ := wire.NextPayload(wire.Block(stored).Payloads())
	fmt.Printf("group 2 has entries up to %d, the first is %q\n", g.Last(), command)
	if err := l.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// first round durable: true
	// group 2 has entries up to 1, the first is "command"
}
