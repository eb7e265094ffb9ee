package engine

import (
	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/internal/planted"
	"multiraft/wire"
)

// A replica whose state machine has diverged ends, and stays down:
//
//	noticed ─▶ the machine is called no more ─▶ hands over, if it leads, for two election
//	           time-outs at most ─▶ stops with DivergedError ─▶ mark in the log
//
// Its state is wrong since some entry of the range that was compared, or longer, and
// so may be the snapshots that it has made: neither is used again. The mark in the
// descriptor has every later start refused. The way back is another replica.

// diverge begins the end of a replica that has made something else of the entries up
// to last than a majority has. It may be called from anywhere.
func (r *replica) diverge(last wire.Index) {
	err := &DivergedError{Group: r.id, Replica: r.self, Index: last}
	if planted.Is(planted.KeepDiverged) || !r.diverged.CompareAndSwap(nil, err) {
		return
	}
	r.store.metrics.divergedReplicas.Add(1)
	r.store.cfg.Logger.Error("state machine has diverged", zap.Uint64("group", uint64(r.id)), zap.Uint64("replica", uint64(r.self)),
		zap.Uint64("index", uint64(last)))
	r.store.sched.Set(r.slot, flagControl)
}

// withdrawElections is for how many election time-outs a leader that has diverged
// tries to hand over before it steps down.
const withdrawElections = 2

// withdraw ends a replica that has diverged, once it does not lead.
//
// REQUIRES: turnMu is held.
func (w *worker) withdraw(r *replica, now uint64) {
	err := r.diverged.Load()
	switch {
	case r.failed.Load() != nil:
	case r.core == nil || r.role != group.Leader || r.install != nil:
		r.fail(err)
	case r.withdrawAt == 0:
		r.withdrawAt = now + uint64(withdrawElections*w.store.electionTicks())
		r.core.SetFitness(group.Slow)
	case now >= r.withdrawAt:
		r.fail(err) // nobody could take over; its silence lets the others campaign
	}
}

// markDiverged leaves in the log that the state of a replica is not to be used.
func (w *worker) markDiverged(r *replica) {
	d := r.lastDescription()
	d.State |= wire.Diverged
	w.log.Meta(r.log, d.encode())
}
