package engine

import "multiraft/wire"

// A group that has lost its quorum is recovered by package recovery, on the disks of
// the stores that survived. Their replicas remember who was left behind:
//
//	left behind ── any message ──▶ survivor: dropped before its core sees it
//	     ◀───────── Bar ──────────┘
//	     └▶ barred, durable with the turn; stops with BarredError
//
// Terms say nothing here: those who were left behind may have a quorum of the old
// members among themselves, and go on in terms as high as they like. Nor may their
// leader have a survivor's replica superseded (Join). What keeps the two apart is
// the list that survivors have, and that no survivor is asked by its old membership
// any more (group G17).

// recordPrefix begins the names of what package recovery leaves in the directory of
// a store, for an operator to read.
const recordPrefix = "recovery-"

// floor is the membership entry that the recovery put behind the log, zero when
// there was none.
func (r *replica) floor() wire.Index {
	if r.recovery == nil {
		return 0
	}
	return r.recovery.Index
}

// generation is how often the group was recovered.
func (r *replica) generation() uint64 {
	if r.recovery == nil {
		return 0
	}
	return r.recovery.Generation
}

// bar drops a message of a replica that was left behind, and tells it so. A Bar is
// not answered: two groups of survivors, of recoveries that should not both have
// been, would go on for ever.
func (in *inbox) bar(s *Store, r *replica, from wire.StoreID, m *wire.Message) {
	s.metrics.barredMessages.Add(1)
	if m.Kind == wire.Bar || r.state() != nil {
		return
	}
	in.answer = wire.Message{Kind: wire.Bar, Group: r.id, From: r.self, To: m.From, Context: r.recovery.Generation}
	s.putTo(&in.answers, from, &in.answer)
}

// takeBar ends a replica that was left behind. That is durable with the round's
// batch, which everything that this turn promises waits for as well; a store that
// ends before is told again.
//
// REQUIRES: the message came from a store that has a member of the group, as far as
// this replica knows.
func (w *worker) takeBar(r *replica, m *wire.Message) {
	if r.barred || m.Context <= r.generation() {
		return // of a recovery that this replica survived
	}
	r.barred = true
	d := r.description(r.members.Load().wire)
	w.log.Meta(r.log, d.encode())
	barred := &BarredError{Group: r.id, Replica: r.self, Generation: m.Context}
	if set := r.members.Load(); set.place(m.From) >= 0 {
		barred.By = set.wire.Members[set.place(m.From)].Store
	}
	r.fail(barred)
}
