package engine

import (
	"io"

	"multiraft/wire"
)

// StateMachine is what a group replicates. Every replica applies the same
// commands in the same order, so Apply must depend on nothing else: no clock,
// no randomness, no map order.
//
// The engine calls the methods of one state machine from one goroutine at a
// time. An error or a panic stops the group on this store with that reason, in an
// [*ApplyError] for Apply; other groups go on.
type StateMachine interface {
	// Apply executes committed entries in order and sets the Result of each in
	// place. Indexes rise but need not be consecutive: the group's own entries
	// are left out. Commands are borrowed: copy what is kept. Results may not
	// alias commands.
	Apply(entries []Entry) error
	// Query answers a read. It must not change the state.
	Query(query any) (any, error)
}

// Durable is implemented by state machines that keep their state across
// restarts themselves. Entries up to the index that it reports are not applied
// again.
type Durable interface {
	// AppliedIndex returns the index of the last entry whose effect is durable.
	AppliedIndex() (wire.Index, error)
}

// Snapshotter is implemented by state machines whose state can be written out
// and read back. The log of a group is compacted only when its machine does, and
// only then can a replica that is far behind, or new, get the state instead of
// entries that are gone.
type Snapshotter interface {
	// Snapshot captures the state between two calls of Apply, quickly: the group
	// waits for it. WriteTo of what it returns is called once at most, on another
	// goroutine, while Apply goes on; it must write the captured state, the same
	// bytes whatever happens meanwhile. If it is an io.Closer too, Close is called
	// when it is not needed any more.
	Snapshot() (io.WriterTo, error)
	// Restore replaces the whole state by one that WriteTo wrote, on this store
	// or another, which holds all entries up to index. It is called when the group
	// starts, or later, on another goroutine, while nothing else of the machine
	// is called. A machine with durable state reports index as applied once
	// Restore has returned nil; when it fails, or the process dies in the middle,
	// it must not report an index of the new state with a part of it.
	//
	// What is read is checked piece by piece, the last one before the end is
	// reported: an error of r must end Restore.
	Restore(index wire.Index, r io.Reader) error
}

// Digester is implemented by state machines that can tell quickly whether they are the
// same: by a digest of the whole state that they keep as it changes. Replicas compare
// them every [Config.DigestEntries] entries, besides the results of commands, which are
// compared for all machines.
type Digester interface {
	// Digest returns a digest of the state, after some call of Apply. It must be the
	// same for the same state on all replicas, on one that was restored too.
	Digest() uint64
}

// Entry is one committed command.
type Entry struct {
	Index   wire.Index
	Term    wire.Term
	Command []byte
	Result  Result
}

// Result is what a state machine answers to one command. It reaches the caller
// of Propose on the store that proposed it; for a forwarded proposal it is that of
// the leader's machine.
type Result struct {
	Value uint64
	Data  []byte
}
