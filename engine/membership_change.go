package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/wire"
)

// memberRequest is a change of the membership, or a wait for one to be possible,
// from the call to its outcome. Requests of a group are a list: they are rare,
// and a mailbox without any holds one pointer.
type memberRequest struct {
	next   *memberRequest
	change group.MembershipChange
	// leave asks to leave a joint configuration, instead of change.
	leave bool
	// caughtUp waits until this member's log is close to the leader's, instead of
	// change.
	caughtUp wire.ReplicaID
	// patient waits while another change is on its way.
	patient bool
	// final waits until a joint configuration is left, too.
	final bool
	// index is the entry, zero before there is one.
	index  wire.Index
	nextAt uint64 // tick of the next word to the logger
	// dropped is set by a caller that waits no more. A change that has an entry
	// goes on all the same.
	dropped atomic.Bool
	done    func(Membership, error) // called once, on the applier
}

// Membership returns the configuration that this replica has applied.
func (g *Group) Membership() Membership { return publicMembership(g.replica.members.Load().wire) }

// ChangeMembers changes the members of the group with all parts of the change at
// once, and returns the new membership when it is in force here. One that goes
// through a joint configuration is in force when that is left, unless
// [group.LeaveExplicit] was asked for: then when it is entered.
//
// A replica that does not lead returns [*NotLeaderError]. A change that may not
// be made is refused with a [*group.MembershipError], which errors.As finds,
// and nothing was appended. [ErrLeadershipLost] says that the outcome is unknown;
// the membership tells. When ctx ends first the change goes on.
func (g *Group) ChangeMembers(ctx context.Context, change group.MembershipChange) (Membership, error) {
	return g.request(ctx, &memberRequest{change: change, final: change.Leave == group.LeaveAuto})
}

// ChangeMembersAsync is ChangeMembers without a goroutine that waits: done is
// called once, on the applier's goroutine, and must not block. After an error
// done is not called.
func (g *Group) ChangeMembersAsync(change group.MembershipChange, done func(Membership, error)) error {
	if done == nil {
		return ErrNoNotifier
	}
	return g.replica.enqueueChange(&memberRequest{change: change, final: change.Leave == group.LeaveAuto, done: done})
}

// LeaveJoint leaves a joint configuration that was entered with
// [group.LeaveExplicit] and returns the new membership when it is in force here.
func (g *Group) LeaveJoint(ctx context.Context) (Membership, error) {
	return g.request(ctx, &memberRequest{leave: true, final: true})
}

// LeaveJointAsync is LeaveJoint in the way of ChangeMembersAsync.
func (g *Group) LeaveJointAsync(done func(Membership, error)) error {
	if done == nil {
		return ErrNoNotifier
	}
	return g.replica.enqueueChange(&memberRequest{leave: true, final: true, done: done})
}

// request runs q and waits for its outcome.
func (g *Group) request(ctx context.Context, q *memberRequest) (Membership, error) {
	if err := ctx.Err(); err != nil {
		return Membership{}, err
	}
	type outcome struct {
		membership Membership
		err        error
	}
	done := make(chan outcome, 1)
	q.done = func(m Membership, err error) { done <- outcome{m, err} }
	if err := g.replica.enqueueChange(q); err != nil {
		return Membership{}, err
	}
	select {
	case o := <-done:
		return o.membership, o.err
	case <-ctx.Done():
		q.dropped.Store(true)
		return Membership{}, fmt.Errorf("group %d: %s: %w", g.ID(), g.replica.waitsFor(q), ctx.Err())
	}
}

// waitsFor tells in words what a request waits for that has no outcome.
func (r *replica) waitsFor(q *memberRequest) string {
	r.turnMu.Lock()
	defer r.turnMu.Unlock()
	if r.core == nil {
		return "the replica has ended"
	}
	var st group.Status
	r.core.Status(&st)
	switch m := publicMembership(st.Members); {
	case q.index > m.Index:
		return fmt.Sprintf("the change is entry %d, which waits to be committed and applied", q.index)
	case q.caughtUp != 0:
		return r.lags(q.caughtUp, &st)
	case m.Joint && !st.Members.AutoLeave:
		return "the configuration is joint and waits for LeaveJoint"
	case m.Joint:
		return "the configuration is joint and waits to be left"
	}
	return "an earlier change, or the first entry of this leader, waits to be applied"
}

// lags tells in words how far a member is that has to catch up.
func (r *replica) lags(id wire.ReplicaID, st *group.Status) string {
	store := wire.StoreID(0)
	for _, m := range st.Members.Members {
		if m.Replica == id {
			store = m.Store
		}
	}
	who := fmt.Sprintf("replica %d, a learner on store %d, waits to catch up", id, store)
	for _, p := range st.Progress {
		if p.Replica != id {
			continue
		}
		problem := r.store.links.problem(store)
		switch {
		case p.Unheard && problem != "":
			return who + ": " + problem
		case p.Unheard:
			return who + ": its store does not run it, see Config.Join"
		case problem != "":
			who += ": " + problem
		}
		return fmt.Sprintf("%s: it has %d of %d entries, state %s", who, p.Match, st.Commit, p.State)
	}
	return who
}

// enqueueChange puts a request into the mailbox.
func (r *replica) enqueueChange(q *memberRequest) error {
	if err := r.mustLead(); err != nil {
		return err
	}
	r.mu.Lock()
	if r.box.closed {
		r.mu.Unlock()
		return r.refuseClosed()
	}
	at := &r.box.order().changes
	for *at != nil {
		at = &(*at).next
	}
	*at = q
	r.mu.Unlock()
	r.store.sched.Set(r.slot, flagControl)
	return nil
}

// mustLead returns why this replica takes no change, nil when it does.
func (r *replica) mustLead() error {
	if err := r.state(); err != nil {
		return err
	}
	if !r.isLeader() {
		leader := r.leader()
		return &NotLeaderError{Group: r.id, Leader: leader.Replica, Store: leader.Store}
	}
	return nil
}

// startChanges takes over the requests of a mailbox.
func (w *worker) startChanges(r *replica, list *memberRequest) {
	at := &r.changes
	for *at != nil {
		at = &(*at).next
	}
	*at = list
}

// isChanging tells whether a change waits or is under way. Who waits for a learner to
// catch up changes nothing yet, and that learner may have to be replaced first.
func (r *replica) isChanging() bool {
	for q := r.changes; q != nil; q = q.next {
		if q.caughtUp == 0 {
			return true
		}
	}
	return false
}

// runChanges has the core make the changes that wait, as far as it may.
func (w *worker) runChanges(r *replica, now uint64) {
	w.keepChanges(r, func(q *memberRequest) (wait bool, err error) {
		switch {
		case q.index != 0:
			return true, nil
		case q.dropped.Load():
			return false, context.Canceled // nobody listens
		case q.caughtUp != 0:
			return w.awaitCatchUp(r, q, now)
		case q.leave:
			q.index, _, err = r.core.LeaveJoint()
		default:
			q.index, _, err = r.core.ChangeMembers(q.change)
		}
		if err == nil {
			return true, nil
		}
		var refused *group.MembershipError
		if errors.As(err, &refused) {
			if q.patient && (refused.Reason == group.ReasonPending || refused.Reason == group.ReasonJoint) {
				return true, nil
			}
			return false, fmt.Errorf("group %d: %w", r.id, err)
		}
		return false, w.store.refusal(r, err)
	})
}

// settleChanges answers the requests that m, which is in force now, is the
// outcome of.
func (w *worker) settleChanges(r *replica, m *wire.Membership) {
	if r.changes == nil {
		return
	}
	joint := publicMembership(m).Joint
	w.keepChanges(r, func(q *memberRequest) (bool, error) {
		return q.index == 0 || q.index > m.Index || q.final && joint, nil
	})
}

// endChanges answers all requests with err.
func (w *worker) endChanges(r *replica, err error) {
	w.keepChanges(r, func(*memberRequest) (bool, error) { return false, err })
}

// keepChanges keeps the requests that shall wait and answers the others.
func (w *worker) keepChanges(r *replica, look func(*memberRequest) (wait bool, err error)) {
	at := &r.changes
	for q := *at; q != nil; q = *at {
		wait, err := look(q)
		if wait {
			at = &q.next
			continue
		}
		*at, q.next = q.next, nil
		w.answerChange(r, q, err)
	}
}

// answerChange tells the outcome by way of the applier, on whose goroutine
// callers are called.
func (w *worker) answerChange(r *replica, q *memberRequest, err error) {
	queue := &w.apply[r.applier.at]
	queue.tasks = append(queue.tasks, applyTask{kind: taskChanged, replica: r, change: q, membership: r.members.Load().wire, err: err})
}

// changed calls the one who asked for a change.
func (t *applyTask) changed() {
	if t.err != nil {
		t.change.done(Membership{}, t.err)
		return
	}
	t.change.done(publicMembership(t.membership), nil)
}

const (
	// catchUpEntries is how close to the leader a learner has to be to become a
	// voter: little enough for the group not to wait for it when its vote is
	// needed, and more than a busy group commits in a round trip.
	catchUpEntries = 4096
	// catchUpWords is how many ticks pass between two words on how far it is.
	catchUpWords = 100
)

// awaitCatchUp tells whether a request still waits for a member to catch up.
func (w *worker) awaitCatchUp(r *replica, q *memberRequest, now uint64) (wait bool, err error) {
	if r.core.Role() != group.Leader {
		return false, ErrLeadershipLost
	}
	var st group.Status
	r.core.Status(&st)
	for _, p := range st.Progress {
		if p.Replica != q.caughtUp {
			continue
		}
		if p.State == "replicate" && p.Match+catchUpEntries >= st.Commit {
			return false, nil
		}
		if now >= q.nextAt {
			q.nextAt = now + catchUpWords
			if word := w.store.cfg.Logger.Check(zap.InfoLevel, "replica is catching up"); word != nil {
				word.Write(zap.Uint64("group", uint64(r.id)), zap.Uint64("replica", uint64(p.Replica)),
					zap.Uint64("match", uint64(p.Match)), zap.Uint64("commit", uint64(st.Commit)), zap.String("state", p.State))
			}
		}
		return true, nil
	}
	return false, fmt.Errorf("group %d: %w", r.id,
		&group.MembershipError{Reason: group.ReasonUnknown, Replica: q.caughtUp, Index: st.Members.Index})
}
