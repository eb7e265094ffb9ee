package engine

import (
	"context"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/raftlog"
	"multiraft/wire"
)

// A replica that was removed from its group takes nothing from clients any more,
// and lingers for a while with its core alive:
//
//	core.Removed ─▶ clients get ReplicaRemovedError ─▶ lingers: votes, answers
//	                                                      │ lingerElections later
//	                     forgotten ◀── tombstone durable ◀┘
//
// The members that stay may not know yet that the entry which removes it is
// committed. Should their leader end just now, they need its vote, or its word
// about the commit index, under the membership that they still have. The vote ends
// with the replica; the word stays on the tombstone, for as long as they may take
// to ask.

// lingerElections is how many election time-outs a removed replica lingers: room
// for an election or two, and for whoever wins to tell the others.
const lingerElections = 4

// noteRemoved begins the end of a replica that is no member any more.
func (w *worker) noteRemoved(r *replica, now uint64) {
	s := w.store
	removed := &ReplicaRemovedError{Group: r.id, Replica: r.self}
	r.removed.Store(removed)
	r.leaveAt = now + uint64(lingerElections*s.electionTicks())
	w.endTransfers(r, now)
	w.endWaiting(r, removed)
	r.setLeader(wire.ReplicaID(r.lead.Load()), true) // who waits for a leader waits in vain
	q := &w.apply[r.applier.at]
	q.tasks = append(q.tasks, applyTask{kind: taskLost, replica: r, err: removed})
	if word := s.cfg.Logger.Check(zap.InfoLevel, "replica was removed from its group"); word != nil {
		word.Write(zap.Uint64("group", uint64(r.id)), zap.Uint64("replica", uint64(r.self)))
	}
}

// isRemoved tells whether the core knows that this replica is no member any
// more. A leader that was told to stay leads on.
//
//mr:hotpath
func (r *replica) isRemoved() bool {
	return r.core.Removed() && r.core.Role() != group.Leader
}

// lingers tells whether a replica that takes no work still takes messages.
func (r *replica) lingers(now uint64) bool {
	return r.core != nil && r.removed.Load() != nil && r.failed.Load() == nil && r.store.state() == nil &&
		!r.stopping.Load() && !r.superseded.Load() && now < r.leaveAt
}

// bury replaces everything the log has of a removed replica by a tombstone. The
// entry at committed, zero for none, is the last that is known to be committed.
func bury(b *raftlog.Batch, log *raftlog.Group, replica wire.ReplicaID, committed wire.Index) {
	proof := proofOf(log, committed)
	b.Remove(log)
	b.Meta(log, tombstone(replica, proof))
}

// buryStored is bury for a replica that does not run, with its snapshots. It tells that
// the group has none of it here any more; gone is the highest id that is not used again.
//
// REQUIRES: the group is reserved.
func (s *Store) buryStored(id wire.GroupID, told, gone wire.ReplicaID, committed wire.Index) error {
	log := s.log.Group(id)
	if err := s.persist(context.Background(), func(b *raftlog.Batch) { bury(b, log, gone, committed) }); err != nil {
		return err
	}
	s.snaps.forgetFiles(id)
	s.metrics.removed.Add(1)
	if tell := s.cfg.Events.ReplicaRemoved; tell != nil {
		s.events.call(func() { tell(&ReplicaRemovedError{Group: id, Replica: told}) })
	}
	return nil
}

// proofOf returns what shows others that an entry is committed, the zero value when
// the log does not have it.
func proofOf(log *raftlog.Group, committed wire.Index) wire.Proof {
	term, err := log.Term(committed)
	if err != nil || committed == 0 {
		return wire.Proof{}
	}
	return wire.Proof{Index: committed, Term: term}
}

func asksForVote(k wire.MessageKind) bool { return k == wire.Vote || k == wire.PreVote }

// speakForGone answers a candidate that asks a removed replica of this store for its
// vote: there is none, and this is committed. A candidate that has the entry learns so,
// and with it that the membership it campaigns in is past.
//
// REQUIRES: s.mu is held, for reading at least. r is the replica of the group that
// runs here, nil for none.
func (in *inbox) speakForGone(s *Store, r *replica, from wire.StoreID, m *wire.Message) {
	in.answer = wire.Message{Kind: wire.VoteResponse, Group: m.Group, From: m.To, To: m.From, Term: m.Term, Reject: true}
	if m.Kind == wire.PreVote {
		in.answer.Kind = wire.PreVoteResponse
		in.answer.Term-- // that of the candidate
	}
	var proof wire.Proof
	if r != nil {
		proof = proofOf(r.log, wire.Index(r.applied.Load()))
	} else if log := s.log.Find(m.Group); log != nil {
		if d, err := decodeDescriptor(log.Meta()); err == nil && d.gone() && m.To <= d.Replica {
			proof = d.proof
		}
	}
	if proof.Index == 0 || m.To == 0 || m.Term == 0 || s.state() != nil {
		s.metrics.strayMessages.Add(1)
		return
	}
	in.answer.Commit, in.answer.LogTerm = proof.Index, proof.Term
	s.putTo(&in.answers, from, &in.answer)
}

// noteEnded has the event loop look whether all of a removed replica has ended.
func (r *replica) noteEnded() {
	if r.removed.Load() != nil {
		r.store.events.note(r, noticeEnded)
	}
}

// supersede ends a replica because its store was given another one of the group.
// A store has one at most, so this one was removed, whatever it knows.
func (r *replica) supersede() {
	r.superseded.Store(true)
	r.removed.CompareAndSwap(nil, &ReplicaRemovedError{Group: r.id, Replica: r.self})
	r.store.sched.Set(r.slot, flagControl)
	r.noteEnded() // it may have failed before
}

// forget lets go of a removed replica that has ended, and of its snapshots. It
// tells whether it did.
func (s *Store) forget(r *replica) bool {
	s.forgetMu.Lock()
	defer s.forgetMu.Unlock()
	return s.forgetLocked(r)
}

// letGo takes a replica that has ended off the list, with all that it has if it
// was removed.
func (s *Store) letGo(r *replica) {
	s.forgetMu.Lock()
	defer s.forgetMu.Unlock()
	if s.forgetLocked(r) {
		if told := s.cfg.Events.ReplicaRemoved; told != nil {
			s.events.call(func() { told(r.removed.Load()) })
		}
		return
	}
	s.release(r) // false when somebody else was faster
}

// forgetLocked is forget. While r is listed there is no successor whose snapshots
// these could be, and it stays listed: nobody else may release it.
//
// One that had stopped or failed when it was removed has left no tombstone. It makes
// room for its successor, and what it has stored goes when that comes (buryOlder): a
// crash until then finds it as it was.
//
// REQUIRES: s.forgetMu is held.
func (s *Store) forgetLocked(r *replica) bool {
	if r.removed.Load() == nil || s.failure.Load() != nil || !s.isListed(r) {
		return false
	}
	for _, end := range []chan struct{}{r.apply.ended, r.logged} {
		select {
		case <-end:
		default:
			return false
		}
	}
	if !r.buried {
		s.release(r)
		return false
	}
	s.snaps.forget(r)
	s.release(r)
	s.metrics.removed.Add(1)
	return true
}

// isListed tells whether r is the replica of its group on this store.
func (s *Store) isListed(r *replica) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.groups[r.id] == r
}

// release takes a replica that has ended off the list and gives back its slot.
// It tells whether it was there.
//
// REQUIRES: s.forgetMu is held.
func (s *Store) release(r *replica) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[r.id] != r {
		return false
	}
	delete(s.groups, r.id)
	(*s.replicas.Load())[r.slot].Store(nil)
	s.sched.SetDeadline(r.slot, never)
	s.freeSlots = append(s.freeSlots, r.slot)
	return true
}
