package group

import (
	"errors"
	"fmt"

	"multiraft/wire"
)

// A peer whose entries are compacted gets the state of the machine instead. The
// group says who needs it and who is offered it; the state itself is the host's.
//
//	leader                                        follower
//	Ready.SnapshotTo ─▶ host sends the state ──▶ Step(Snapshot) ─▶ Ready.SnapshotOffer
//	SnapshotSent ◀── it left, or did not                               │ host stores it, machine
//	                                                                   ▼ and log restart from it
//	replicate ◀───────── AppendResponse ─────────────────────────── Restore
//
// A peer is asked for with its heartbeats whether it has the last compacted entry.
// When it has not, although the state was sent, or because that failed, the state
// is asked for again, an election time-out after the last try at the earliest.

// SnapshotOffer is the state that the leader has for this replica. The host
// accepts it, and calls Restore when it has all of it; or forgets it.
type SnapshotOffer struct {
	From    wire.ReplicaID
	Term    wire.Term  // of the leader
	Index   wire.Index // the last entry the state holds
	LogTerm wire.Term  // its term
	Context uint64     // names the snapshot at its sender
	Data    []byte     // the host's, borrowed from the message
}

// SnapshotState is where a group goes on after a snapshot.
type SnapshotState struct {
	Index wire.Index // the last entry the state holds
	Term  wire.Term  // its term
	// Members is the membership at Index, with its own Index. It is kept.
	Members *wire.Membership
}

// snapshotNeeded asks the host for a snapshot for a peer, entries up to index
// being compacted.
func (ld *leading) snapshotNeeded(slot int, index wire.Index) {
	ld.pendingSnapshot[slot] = index
	ld.snapshotDue = ld.snapshotDue.with(slot)
	ld.snapshotSending = ld.snapshotSending.without(slot)
}

// takeSnapshots names the peers that a snapshot is to be sent to.
func (g *Group) takeSnapshots(rd *Ready) {
	ld := g.leading
	for slot := ld.snapshotDue.first(); slot < MaxReplicas; slot = ld.snapshotDue.next(slot) {
		rd.SnapshotTo = append(rd.SnapshotTo, g.replica(slot))
	}
	ld.snapshotSending |= ld.snapshotDue
	ld.snapshotDue = 0
}

// SnapshotSent reports what became of a snapshot that Ready.SnapshotTo asked for:
// with ok, all of one that ends at index left for the peer; otherwise sending it
// failed. Either way the peer is asked how far it is.
func (g *Group) SnapshotSent(r wire.ReplicaID, index wire.Index, ok bool) {
	if g.fault != nil || g.leading == nil {
		return
	}
	slot, member := g.slotOf(r)
	ld := g.leading
	if !member || ld.state[slot] != snapshot || !ld.snapshotSending.has(slot) {
		return
	}
	ld.snapshotSending = ld.snapshotSending.without(slot)
	ld.snapshotAt[slot] = g.now
	if ok {
		ld.pendingSnapshot[slot] = max(ld.pendingSnapshot[slot], index)
	}
}

// refusedSnapshot learns that a peer in snapshot has not got the state.
func (g *Group) refusedSnapshot(slot int) {
	ld := g.leading
	if (ld.snapshotSending | ld.snapshotDue).has(slot) || g.now < ld.snapshotAt[slot]+uint64(g.tuning.ElectionTicks) {
		return
	}
	ld.snapshotNeeded(slot, g.log.storage.First()-1)
}

// leaderSnapshotResponse learns what a peer made of a snapshot. How far it is
// counts only once it says so in an AppendResponse.
func (g *Group) leaderSnapshotResponse(m *wire.Message) error {
	if slot, ok := g.slotOf(m.From); ok {
		g.leading.recentActive = g.leading.recentActive.with(slot)
		g.SnapshotSent(m.From, m.Index, !m.Reject)
	}
	return nil
}

// followerSnapshot looks at a snapshot that the leader offers. One that holds
// nothing new here is answered at once.
func (g *Group) followerSnapshot(m *wire.Message) error {
	if err := g.follow(m); err != nil {
		return err
	}
	if m.Index == 0 || m.LogTerm == 0 || m.LogTerm > m.Term {
		return badMessage(m, "snapshot of entry %d, term %d", m.Index, m.LogTerm)
	}
	if g.isWounded() {
		g.woundedSnapshot(m)
		return nil
	}
	have := m.Index <= g.commit
	if !have && m.Index <= g.log.last() {
		// What a snapshot holds is committed, and so is an equal log up to there.
		if term, err := g.log.term(m.Index); err == nil && term == m.LogTerm {
			have = true
			g.setCommit(m.Index)
		}
	}
	if !have {
		g.mutable().offer = &SnapshotOffer{
			From: m.From, Term: m.Term, Index: m.Index, LogTerm: m.LogTerm, Context: m.Context, Data: m.Entries,
		}
		return nil
	}
	g.verified = max(g.verified, m.Index)
	g.owesAck = true
	answer := g.message(wire.SnapshotResponse, m.From)
	answer.Index, answer.Context = m.Index, m.Context
	g.send(answer)
	return nil
}

// candidateSnapshot follows the leader that won instead.
func (g *Group) candidateSnapshot(m *wire.Message) error {
	g.becomeFollower(g.term, m.From)
	return g.followerSnapshot(m)
}

// CanRestore says whether Restore may be called. ErrSnapshotOld refuses a
// snapshot that holds nothing new: meanwhile the entries came, and what was
// promised to the leader behind them must not be dropped. ErrBadSnapshot refuses
// one that cannot be.
func (g *Group) CanRestore(s SnapshotState) error {
	if err := g.mayRestore(&s); err != nil {
		return err
	}
	if g.isWounded() {
		return nil
	}
	if term, err := g.log.term(s.Index); err == nil && term == s.Term {
		return ErrSnapshotOld
	}
	return nil
}

// Restore goes on from a snapshot: the machine holds its state, and the log is
// empty behind it. On an error the group is as it was.
//
// REQUIRES: CanRestore returned nil, and nothing of the group was called since.
// The snapshot is durable, and so is in Storage that the log begins and ends
// there, First being Index+1 and Last Index; what Ready handed out before is
// written before that, or not at all.
func (g *Group) Restore(s SnapshotState) error {
	if err := g.mayRestore(&s); err != nil {
		return err
	}
	if first, last := g.log.storage.First(), g.log.storage.Last(); first != s.Index+1 || last != s.Index {
		return g.fail("G12", s.Index, "restored from a snapshot, storage holds entries [%d, %d]", first, last)
	}
	if g.role != Follower {
		g.becomeFollower(g.term, 0)
	}
	g.log.restore(s.Index, s.Term)
	g.log.configs = nil
	// A leader was heard when the host began; what came since was not looked at.
	g.hearLeader()
	// G9: acknowledgements on their way are about entries that are no more.
	g.log.overwritten, g.log.overwrittenSeq = s.Index+1, g.seq
	g.commit, g.applied, g.handed = s.Index, s.Index, handOut{last: s.Index}
	if old := g.seldom; old != nil {
		old.changing, old.offer, old.refusal = nil, nil, nil
		old.wounded, old.hurt, old.hurtAt = false, nil, 0
	}
	// Committed entries are those of every later leader.
	g.verified, g.answered = s.Index, s.Index
	g.owesAck = true
	if g.joining || g.mayEnter(s.Members.Index) {
		g.enter(s.Members)
	}
	return nil
}

func (g *Group) mayRestore(s *SnapshotState) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case g.fault != nil:
		return g.fault
	case g.leading != nil || s.Index < g.commit || s.Index == g.commit && !g.isWounded(),
		g.isWounded() && !g.upToDate(s.Index, s.Term):
		return ErrSnapshotOld
	case s.Term == 0 || s.Term > g.term:
		fault("Term: %d must be between 1 and %d", s.Term, g.term)
	}
	if s.Members == nil {
		fault("Members: must not be nil")
	} else {
		validateMembers(s.Members, fault)
		if !hasVoter(s.Members) {
			faults = append(faults, errNoVoter)
		}
		if s.Members.Index > s.Index {
			fault("Members: entry %d is behind %d", s.Members.Index, s.Index)
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %w", ErrBadSnapshot, errors.Join(faults...))
	}
	return nil
}
