package group

import "multiraft/wire"

// Status is a view of a group at one moment. Progress is used again when a
// Status is filled twice.
type Status struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
	Role    Role
	Term    wire.Term
	Vote    wire.ReplicaID
	Leader  wire.ReplicaID // zero: none known

	Commit  wire.Index
	Applied wire.Index // acknowledged by the state machine
	Durable wire.Index // the last durable entry that is still in the log
	Last    wire.Index // the last entry, durable or not

	LastTerm wire.Term // of the last entry
	Fitness  Fitness
	// Transferee is the replica the leader hands over to, zero for none.
	Transferee wire.ReplicaID

	// Joining: the replica is in no membership that it knows of. Removed: it is a
	// member no more.
	Joining, Removed bool

	// Pending: the replica leads, and a later membership than Members may be
	// committed, by a leader of before or by this one.
	Pending bool

	// Members is shared with the group and must not be changed.
	Members *wire.Membership
	// Progress has all members but this one, in the order of Members. It is
	// empty unless the replica leads.
	Progress []Progress
	// UncommittedBytes are payloads proposed to this leader and not committed.
	UncommittedBytes int
	// TailBytes are the bytes of the blocks kept in memory.
	TailBytes int
	// Err is why the group has stopped, a *FaultError, or nil.
	Err error
}

// Progress is what a leader knows about another member.
type Progress struct {
	Replica wire.ReplicaID
	State   string     // probe, replicate or snapshot
	Match   wire.Index // the last entry known to be durable there
	Next    wire.Index // the next entry to send
	// Inflight appends are sent and not answered; InflightBytes are their entries.
	Inflight, InflightBytes int
	Paused                  bool // in probe: an answer must come before more is sent
	Slow                    bool // said that it is not fit to lead
	RecentActive            bool // heard from since the last check of the quorum
	// Unheard: a learner that has not answered since this replica leads, and so may
	// not have been started yet.
	Unheard bool
	// NeedsSnapshot says that entries it needs are compacted.
	NeedsSnapshot bool
	// SendingSnapshot says that the host was asked for a snapshot for it and has
	// not reported yet.
	SendingSnapshot bool
}

// Status fills s.
func (g *Group) Status(s *Status) {
	*s = Status{
		Group: g.id, Replica: g.self, Role: g.role, Term: g.term, Vote: g.vote, Leader: g.lead,
		Commit: g.commit, Applied: g.applied, Durable: g.log.durable, Last: g.log.last(), LastTerm: g.log.lastTerm(),
		Members: g.members, Progress: s.Progress[:0], TailBytes: g.log.bytes, Err: g.Err(),
	}
	s.Fitness = g.fitness
	s.Joining, s.Removed = g.joining, g.removed
	ld := g.leading
	if ld == nil {
		return
	}
	s.UncommittedBytes = ld.uncommittedBytes
	s.Transferee = ld.handover.target
	s.Pending = g.applied < ld.pendingConfig
	for slot := g.others.first(); slot < MaxReplicas; slot = g.others.next(slot) {
		s.Progress = append(s.Progress, Progress{
			Replica: g.replica(slot), State: ld.state[slot].String(),
			Match: ld.match[slot], Next: ld.next[slot],
			Inflight: int(ld.flights[slot].count), InflightBytes: ld.flights[slot].bytes,
			Paused:          ld.paused.has(slot),
			Slow:            ld.slow.has(slot),
			RecentActive:    ld.recentActive.has(slot),
			Unheard:         ld.unheard.has(slot),
			NeedsSnapshot:   ld.state[slot] == snapshot,
			SendingSnapshot: ld.snapshotSending.has(slot),
		})
	}
}
