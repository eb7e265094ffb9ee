package engine

import (
	"context"
	"sync/atomic"

	"multiraft/scheduler"
)

// Batch is a list of commands for any groups of one store that are proposed and
// completed together: one hand-over to the store and one wake-up of the caller
// for all of them. The zero value is an empty batch.
//
// Add commands, give the batch to [Store.ProposeBatch], Wait, look at the
// results, Reset, and use it again. A Batch belongs to one goroutine.
type Batch struct {
	items []batchItem
	slots []scheduler.Slot
	left  atomic.Int64
	done  chan struct{} // holds one signal
	err   error         // why nothing was queued
}

type batchItem struct {
	group   *Group
	command []byte
	pending Pending
}

// Add puts a command for a group into the batch. The command is copied by
// ProposeBatch; until then it must not change.
//
// REQUIRES: the batch is not in flight.
func (b *Batch) Add(g *Group, command []byte) {
	if b.done == nil {
		b.done = make(chan struct{}, 1)
	}
	b.items = append(b.items, batchItem{group: g, command: command})
}

// Len returns the number of commands.
func (b *Batch) Len() int { return len(b.items) }

// Reset empties the batch.
//
// REQUIRES: the batch is not in flight.
func (b *Batch) Reset() {
	clear(b.items)
	b.items, b.err = b.items[:0], nil
}

// Result returns the answer to command i, or why there is none.
//
// REQUIRES: Wait has returned nil.
func (b *Batch) Result(i int) (Result, error) { return b.items[i].pending.Result() }

// Err returns the first error of the batch, nil when every command was applied.
//
// REQUIRES: Wait has returned nil.
func (b *Batch) Err() error {
	for i := range b.items {
		if err := b.items[i].pending.err; err != nil {
			return err
		}
	}
	return nil
}

// Wait returns when every command has its result. When ctx ends first it
// returns ctx's error, and the batch stays in flight. After a ProposeBatch that
// failed as a whole it returns that error.
func (b *Batch) Wait(ctx context.Context) error {
	if len(b.items) == 0 || b.err != nil {
		return b.err
	}
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ProposalsDone counts completions and wakes the owner at the last one.
func (b *Batch) ProposalsDone(done []*Pending) { b.finish(len(done)) }

func (b *Batch) finish(n int) {
	if b.left.Add(-int64(n)) == 0 {
		b.done <- struct{}{}
	}
}

// ProposeBatch queues all commands of b. A command that is refused, because
// this store does not lead its group or a budget is used up, gets that error as
// its result; the others go on. It fails as a whole only when the store takes
// no work at all.
//
//mr:hotpath
func (s *Store) ProposeBatch(b *Batch) error {
	if b.err = s.state(); b.err != nil {
		return b.err
	}
	b.slots = b.slots[:0]
	b.left.Store(int64(len(b.items)))
	refused := 0
	for i := range b.items {
		item := &b.items[i]
		item.pending.notifier = b
		item.pending.result, item.pending.err = Result{}, nil
		if item.group == nil || item.group.store != s {
			item.pending.err = ErrUnknownGroup
			refused++
			continue
		}
		first, err := item.group.replica.enqueue(item.command, &item.pending)
		if err != nil {
			item.pending.err = err
			refused++
			continue
		}
		if first {
			b.slots = append(b.slots, item.group.replica.slot)
		}
	}
	s.gate.arriveAll(b.slots)
	if refused > 0 {
		b.finish(refused)
	}
	return nil
}
