package engine

import (
	"context"

	"multiraft/wire"
)

// Propose replicates a command and returns what the state machine answered when
// it was applied here. The command is copied before Propose returns.
//
// A replica that does not lead returns [*NotLeaderError], or with
// Config.ForwardProposals has the leader propose the command and returns what the
// leader's state machine answered; when no answer comes, [ErrNoAnswer]. Budgets that are used
// up return ErrBusy at once. When ctx ends first, its error is returned and the
// outcome is unknown.
func (g *Group) Propose(ctx context.Context, command []byte) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	s := g.store
	w := s.waiters.Get().(*waiter)
	if err := g.ProposeAsync(command, &w.pending); err != nil {
		s.waiters.Put(w)
		return Result{}, err
	}
	select {
	case <-w.done:
		result, err := w.pending.Result()
		s.waiters.Put(w)
		return result, err
	case <-ctx.Done():
		return Result{}, ctx.Err() // the applier still holds w; it is not reused
	}
}

// ProposeAsync queues a command and returns. p's notifier is called exactly
// once when the command is applied here or will not be. The command is copied
// before ProposeAsync returns. On an error nothing was queued and p is still the
// caller's.
//
//mr:hotpath
func (g *Group) ProposeAsync(command []byte, p *Pending) error {
	first, err := g.replica.enqueue(command, p)
	if err != nil {
		return err
	}
	if first {
		g.store.gate.arrive(g.replica.slot)
	}
	return nil
}

// enqueue puts a proposal into the mailbox. It tells whether it is the first
// one there, whose group has to be shown to the gate.
//
//mr:hotpath
func (r *replica) enqueue(command []byte, p *Pending) (first bool, err error) {
	s := r.store
	if p.bytes != 0 {
		return false, ErrPendingInUse
	}
	if p.notifier == nil {
		return false, ErrNoNotifier
	}
	if len(command) > s.cfg.MaxCommandBytes {
		return false, &CommandTooLargeError{Group: r.id, Bytes: len(command), Limit: s.cfg.MaxCommandBytes}
	}
	if err := r.state(); err != nil {
		return false, err
	}
	if !r.isLeader() && !(s.cfg.ForwardProposals && r.lead.Load() != 0) {
		return false, r.notLeader()
	}
	bytes := int64(wire.PayloadBytes(len(command)))
	if r.inflightBytes.Add(bytes) > s.cfg.MaxGroupInflightBytes {
		r.inflightBytes.Add(-bytes)
		return false, ErrBusy
	}
	if s.inflightBytes.Add(bytes) > s.cfg.MaxInflightBytes || s.log.DiskFull() {
		s.inflightBytes.Add(-bytes)
		r.inflightBytes.Add(-bytes)
		return false, ErrBusy
	}
	r.mu.Lock()
	if r.box.closed {
		r.mu.Unlock()
		s.inflightBytes.Add(-bytes)
		r.inflightBytes.Add(-bytes)
		return false, r.refuseClosed()
	}
	if len(r.box.block)+int(bytes) > maxBlockBytes && len(r.box.pending) > 0 {
		r.box.full = append(r.box.full, proposalRun{block: r.box.block, pending: r.box.pending})
		r.box.block, r.box.pending = nil, nil
	}
	if len(r.box.pending) == 0 {
		first = len(r.box.full) == 0
		r.box.block = wire.NewBlock(s.blocks.get())
		r.box.pending = s.pendings.get()
	}
	p.bytes = int32(bytes)
	r.box.block = wire.AppendPayload(r.box.block, command)
	r.box.pending = append(r.box.pending, p)
	r.mu.Unlock()
	return first, nil
}
