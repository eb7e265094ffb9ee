package engine

import "multiraft/wire"

// StateMachine is what a group replicates. Every replica applies the same
// commands in the same order, so Apply must depend on nothing else: no clock,
// no randomness, no map order.
//
// The engine calls the methods of one state machine from one goroutine at a
// time. An error or a panic stops the group on this store with that reason;
// other groups go on.
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

// Entry is one committed command.
type Entry struct {
	Index   wire.Index
	Term    wire.Term
	Command []byte
	Result  Result
}

// Result is what a state machine answers to one command. It reaches the caller
// of Propose on the store that proposed it.
type Result struct {
	Value uint64
	Data  []byte
}
