package engine

import (
	"context"
	"errors"
	"fmt"
	"math"

	"multiraft/group"
	"multiraft/wire"
)

// transfer is a wish about who leads, from the call to its outcome.
type transfer struct {
	order   order
	to      wire.ReplicaID
	expires uint64     // tick
	done    chan error // holds the outcome
}

// order is what a wish asks the core for.
type order uint8

const (
	orderTransfer order = iota // that to leads
	orderCampaign              // that this replica leads
	orderForget                // that no leader is known here
)

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
//
// A leader that stays although it was removed ([group.Tuning].StayWhenRemoved) is
// not told who leads after it: it returns nil when its leadership is over and
// another term has begun.
func (g *Group) TransferLeader(ctx context.Context, to wire.ReplicaID) error {
	return g.order(ctx, transfer{order: orderTransfer, to: to})
}

// Campaign has this replica stand for election now instead of when it misses its
// leader, and returns when it leads, or leads already. With pre-vote a campaign
// does not disturb a leader that the other voters hear: it fails.
//
// It returns [ErrNotVoter] on a replica without a vote, [ErrCampaignFailed] when
// it does not lead after two election time-outs, and an error that wraps
// [group.ErrPromised] or [group.ErrAwaitsChange] when it may not campaign yet. When
// ctx ends first the campaign goes on.
func (g *Group) Campaign(ctx context.Context) error {
	return g.order(ctx, transfer{order: orderCampaign, to: g.replica.self})
}

// ForgetLeader makes a follower take its leader for dead, so that it grants votes
// before its time-out: for a host that knows that the leader's store is gone. The
// follower follows again when it hears from the leader. Where no leader is followed
// it does nothing; while the leader may hold a lease it returns an error that wraps
// [group.ErrPromised].
func (g *Group) ForgetLeader(ctx context.Context) error {
	return g.order(ctx, transfer{order: orderForget})
}

// order runs a wish and waits for its outcome.
func (g *Group) order(ctx context.Context, t transfer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.done = make(chan error, 1)
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
	o := r.box.order()
	o.transfers = append(o.transfers, t)
	r.mu.Unlock()
	r.store.sched.Set(r.slot, flagControl)
	return nil
}

// startTransfers tells the core what is wished.
func (w *worker) startTransfers(r *replica, wishes []transfer, now uint64) {
	for _, t := range wishes {
		if err := r.obey(&t); err != nil || t.order == orderForget {
			t.done <- err
			continue
		}
		t.expires = now + uint64(transferElections*w.store.electionTicks())
		r.transfers = append(r.transfers, t)
	}
}

// obey tells the core what one wish asks for.
func (r *replica) obey(t *transfer) error {
	var err error
	switch t.order {
	case orderTransfer:
		err = r.core.TransferLeader(t.to)
	case orderCampaign:
		err = r.core.Campaign()
	case orderForget:
		err = r.core.ForgetLeader()
	}
	return r.transferRefusal(err)
}

// transferRefusal turns the core's word into the engine's.
func (r *replica) transferRefusal(err error) error {
	switch {
	case errors.Is(err, group.ErrNoLeader):
		return ErrNoLeader
	case errors.Is(err, group.ErrUnknownReplica), errors.Is(err, group.ErrLearner), errors.Is(err, group.ErrNotVoter):
		return fmt.Errorf("group %d: %w", r.id, ErrNotVoter)
	}
	return err
}

// failure is the outcome of a wish that did not come true in time.
func (t *transfer) failure() error {
	if t.order == orderCampaign {
		return ErrCampaignFailed
	}
	return ErrTransferFailed
}

// endTransfers answers the wishes of a replica that turns out to be removed as
// well as can be known. One that led on after its removal has handed over when
// somebody has begun a term behind its own; nobody tells it who leads there.
//
// REQUIRES: r.role and r.term are those before this turn.
func (w *worker) endTransfers(r *replica, now uint64) {
	w.settleTransfers(r, now)
	if r.role != group.Leader || r.core.Term() == r.term {
		return
	}
	kept := r.transfers[:0]
	for _, t := range r.transfers {
		if t.order == orderTransfer {
			t.done <- nil
			continue
		}
		kept = append(kept, t)
	}
	r.transfers = kept
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
			t.done <- t.failure()
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
