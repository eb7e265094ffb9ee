package engine

import (
	"sync"

	"multiraft/group"
	"multiraft/wire"
)

// Events are functions that a store calls when something happens that an
// embedder may want to act on; each may be nil. They are called one after the
// other on a goroutine of the store's own. They must not block for long, which
// holds up later events, and must not call Store.Close. What they are told is
// how things stand when they are called: of several changes of one group in
// quick succession they see the last.
type Events struct {
	// ReplicaRemoved: a replica of this store was removed from its group, and the
	// store has let go of it. The state machine is not called any more, and the
	// log holds nothing but a tombstone.
	ReplicaRemoved func(*ReplicaRemovedError)
	// GroupFailed: a replica of this store stopped by itself.
	GroupFailed func(*GroupFailedError)
	// ReplicasDiffer: the state machines of a group have made different things of the
	// same entries, and there is no majority of which that would be right. All go on,
	// with states that differ. It is told on stores that led the group, and may come
	// again with every range of entries.
	ReplicasDiffer func(group wire.GroupID)
	// GroupDamaged: a replica of this store has lost a part of what it had.
	GroupDamaged func(Damage)
	// GroupRepaired: a replica that was damaged has all of it again, or replica has
	// taken the place of one that was lost.
	GroupRepaired func(group wire.GroupID, replica wire.ReplicaID)
	// Outlived: a peer has met a later life of this store and refuses it. With Blank it
	// is told again from time to time; otherwise the store fails.
	Outlived func(*OutlivedError)
	// StoreFailed: the whole store stopped.
	StoreFailed func(*StoreFailedError)
	// FitnessChanged: the disk of the log answers faster or slower than before, see
	// Config.SlowDisk.
	FitnessChanged func(group.Fitness)
	// LeaderChanged: this store knows another leader of a group, or none: then
	// leader is zero.
	LeaderChanged func(group wire.GroupID, leader Member)
	// MembershipChanged: another membership is in force on this store.
	MembershipChanged func(group wire.GroupID, membership Membership)
	// SnapshotInstalled: a replica of this store goes on from a snapshot that
	// holds all entries up to index.
	SnapshotInstalled func(group wire.GroupID, index wire.Index)
	// SnapshotSent: a replica has got a snapshot from this store.
	SnapshotSent func(group wire.GroupID, to wire.ReplicaID, index wire.Index)
}

// Damage is what a replica has lost.
type Damage struct {
	Group   wire.GroupID
	Replica wire.ReplicaID // zero: not known
	// InPlace: only entries or state are lost. The replica stays what it is in its
	// group, votes as ever, and gets the state of the leader. Otherwise what it
	// promised may be lost, and it is replaced by another one.
	InPlace bool
	Err     error
}

// notice is something that the event loop looks into for one replica.
type notice uint8

const (
	noticeLeader notice = 1 << iota
	noticeMembers
	noticeFailed
	noticeDiffer
	noticeEnded // a part of a removed replica has come to its end
)

// eventQueue is what waits for the event loop. A replica stands in it once,
// whatever happens to it, so it is bounded by the replicas and by what the
// makers of calls have under way.
type eventQueue struct {
	mu    sync.Mutex // guards the fields below, and replica.notices; a leaf lock
	noted []*replica
	calls []func()
	wake  chan struct{} // holds one signal
}

// note has the event loop look at r.
func (q *eventQueue) note(r *replica, what notice) {
	q.mu.Lock()
	if r.notices == 0 {
		q.noted = append(q.noted, r)
	}
	r.notices |= what
	q.mu.Unlock()
	q.signal()
}

// call has the event loop call f. Who calls it bounds how often.
func (q *eventQueue) call(f func()) {
	q.mu.Lock()
	q.calls = append(q.calls, f)
	q.mu.Unlock()
	q.signal()
}

func (q *eventQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// eventStep does everything that waits for the event loop. It tells whether
// there was anything.
func (s *Store) eventStep() bool {
	q := &s.events
	q.mu.Lock()
	noted, calls := q.noted, q.calls
	q.noted, q.calls = nil, nil
	q.mu.Unlock()
	for _, r := range noted {
		q.mu.Lock()
		what := r.notices
		r.notices = 0
		q.mu.Unlock()
		s.tell(r, what)
	}
	for _, f := range calls {
		f()
	}
	return len(noted)+len(calls) > 0
}

// tell calls what an embedder has asked for.
func (s *Store) tell(r *replica, what notice) {
	e := &s.cfg.Events
	if what&noticeMembers != 0 && e.MembershipChanged != nil {
		e.MembershipChanged(r.id, publicMembership(r.members.Load().wire))
	}
	if what&noticeLeader != 0 && e.LeaderChanged != nil {
		e.LeaderChanged(r.id, r.leader())
	}
	if what&noticeFailed != 0 && e.GroupFailed != nil {
		e.GroupFailed(r.failed.Load())
	}
	if what&noticeDiffer != 0 && e.ReplicasDiffer != nil {
		e.ReplicasDiffer(r.id)
	}
	if what&noticeEnded != 0 && s.forget(r) && e.ReplicaRemoved != nil {
		e.ReplicaRemoved(r.removed.Load())
	}
}

// eventLoop ends when stopped is closed and nothing is queued.
func (s *Store) eventLoop() {
	defer s.loops.Done()
	for {
		for s.eventStep() {
		}
		select {
		case <-s.events.wake:
		case <-s.stopped:
			for s.eventStep() {
			}
			return
		}
	}
}
