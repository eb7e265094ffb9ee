package engine

import (
	"context"
	"errors"
	"math"

	"multiraft/group"
	"multiraft/wire"
)

// transfer is a wish that another replica lead, from the call to its outcome.
type transfer struct {
	to      wire.ReplicaID
	expires uint64     // tick
	done    chan error // holds the outcome
}

// transferElections is how many election time-outs a transfer may take: one
// that the leader gives it, and one for the election that it brings.
const transferElections = 2

// WaitLeader returns when this replica knows a leader of its group. It returns
// ctx's error when that ends first, and why when the replica stops.
func (g *Group) WaitLeader(ctx context.Context) error {
	for {
		// In this order: a replica that ends closes the channels made before.
		known := g.replica.leaderKnown()
		if err := g.Err(); err != nil {
			return err
		}
		if known == nil {
			return nil
		}
		select {
		case <-known:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TransferLeader has another voter lead and returns when this replica sees it
// lead (thesis, section 3.10). On a follower, the leader is asked to. Meanwhile
// the old leader refuses proposals with [ErrTransferring].
//
// It returns [ErrNoLeader] when no leader is known, [ErrNotVoter] when the
// target has no vote in the group, and [ErrTransferFailed] when it does not lead
// after two election time-outs: it may be out of reach or far behind, and the
// group goes on under whoever leads. When ctx ends first the transfer goes on.
func (g *Group) TransferLeader(ctx context.Context, to wire.ReplicaID) error {
	t := transfer{to: to, done: make(chan error, 1)}
	if err := g.replica.enqueueTransfer(t); err != nil {
		return err
	}
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enqueueTransfer puts a wish into the mailbox.
func (r *replica) enqueueTransfer(t transfer) error {
	if err := r.state(); err != nil {
		return err
	}
	r.mu.Lock()
	if r.box.closed {
		r.mu.Unlock()
		return r.refuseClosed()
	}
	r.box.transfers = append(r.box.transfers, t)
	r.mu.Unlock()
	r.store.sched.Set(r.slot, flagControl)
	return nil
}

// startTransfers tells the core what is wished.
func (w *worker) startTransfers(r *replica, wishes []transfer, now uint64) {
	for _, t := range wishes {
		if err := r.core.TransferLeader(t.to); err != nil {
			t.done <- transferRefusal(err)
			continue
		}
		t.expires = now + uint64(transferElections*w.store.electionTicks())
		r.transfers = append(r.transfers, t)
	}
}

// transferRefusal turns the core's word into the engine's.
func transferRefusal(err error) error {
	switch {
	case errors.Is(err, group.ErrNoLeader):
		return ErrNoLeader
	case errors.Is(err, group.ErrUnknownReplica), errors.Is(err, group.ErrLearner):
		return ErrNotVoter
	}
	return err
}

// settleTransfers answers the wishes that came true or took too long, and
// returns when to look again.
func (w *worker) settleTransfers(r *replica, now uint64) (deadline uint64) {
	deadline = math.MaxUint64
	kept := r.transfers[:0]
	for _, t := range r.transfers {
		switch {
		case r.core.Leader() == t.to:
			t.done <- nil
		case now >= t.expires:
			t.done <- ErrTransferFailed
		default:
			deadline = min(deadline, t.expires)
			kept = append(kept, t)
		}
	}
	clear(r.transfers[len(kept):])
	if r.transfers = kept; len(kept) == 0 {
		r.transfers = nil
	}
	return deadline
}
