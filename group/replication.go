package group

import (
	"errors"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// becomeLeader begins to lead the term it was elected in, with an empty entry:
// once that is committed so is all in front of it (thesis, sections 3.6.2, 6.4).
func (g *Group) becomeLeader() {
	ld := newLeading(len(g.members.Members), g.log.last())
	g.leave()
	g.role, g.lead, g.leading = Leader, g.self, ld

	self := int(g.slot)
	ld.state[self] = replicate
	ld.match[self] = g.log.durable
	ld.heartbeatAt = g.now + uint64(g.tuning.HeartbeatTicks)
	ld.quorumAt = g.now + uint64(g.tuning.ElectionTicks)
	ld.firstIndex = g.log.last() + 1
	for slot := range g.members.Members {
		g.expectLearner(slot)
	}
	// A membership of an earlier term may be anywhere in the log.
	ld.pendingConfig = ld.firstIndex

	empty := wire.AppendPayload(wire.NewBlock(nil), nil)
	empty.Seal(g.id, ld.firstIndex, g.term, wire.EntryEmpty, 1)
	g.log.append(ld.firstIndex, empty)
	g.quiet = 0
}

// tickLeader does what a leader does by itself.
//
//mr:hotpath
func (g *Group) tickLeader() {
	ld := g.leading
	if g.fitness != Fit && g.now >= ld.heartbeatAt {
		g.yield() // before the check of the quorum forgets who answers
	}
	if g.now >= ld.quorumAt && !g.checkQuorum() {
		return
	}
	g.tickTransfer()
	if g.now >= ld.heartbeatAt {
		ld.heartbeatAt = g.now + uint64(g.tuning.HeartbeatTicks)
		g.rest()
		if g.fitness == Fit {
			g.preferOther()
		}
		g.askAgain()
		ld.handover.due = ld.handover.target != 0
		ld.owing = 0
		for slot := g.others.first(); slot < MaxReplicas; slot = g.others.next(slot) {
			if ld.unanswered(slot) {
				ld.owing = ld.owing.with(slot)
			}
			// An append is as good as a heartbeat, except that it is answered only
			// once it is durable: who has not been heard from is asked.
			if g.sentLately(slot) && ld.recentActive.has(slot) && !g.tuning.LeaseReads {
				continue
			}
			ld.beats = ld.beats.with(slot)
		}
	}
	if g.now >= ld.commitAt {
		ld.commitAt = never
		ld.beats |= g.uninformed()
	}
}

// sentLately says whether an append went to a peer within a heartbeat interval.
//
//mr:hotpath
func (g *Group) sentLately(slot int) bool {
	return g.now < g.leading.lastSent[slot]+uint64(g.tuning.HeartbeatTicks)
}

// checkQuorum makes a leader step down that has not heard from a quorum since
// the last check, and says whether it still leads (thesis, section 6.2). A
// check that comes a whole period late proves nothing: this replica stood still,
// and has not asked.
func (g *Group) checkQuorum() bool {
	ld, period := g.leading, uint64(g.tuning.ElectionTicks)
	late := g.now-ld.quorumAt >= period
	ld.quorumAt = g.now + period
	if g.tuning.DisableCheckQuorum || late {
		return true
	}
	active := tally{granted: ld.recentActive.with(int(g.slot))}
	if active.result(g.incoming, g.outgoing) != voteWon {
		g.becomeFollower(g.term, 0)
		return false
	}
	ld.recentActive = 0
	return true
}

// uninformed returns the active peers that could know more of the commit index
// than they were told.
//
//mr:hotpath
func (g *Group) uninformed() (peers replicaSet) {
	ld := g.leading
	active := g.others & ld.recentActive
	for slot := active.first(); slot < MaxReplicas; slot = active.next(slot) {
		if ld.commitSent[slot] < min(ld.match[slot], g.commit) {
			peers = peers.with(slot)
		}
	}
	return peers
}

// informSoon has uninformed peers told by the next tick, unless an append does
// it before: one tick gathers the commits of many entries, of many groups.
//
//mr:hotpath
func (g *Group) informSoon() {
	if g.leading.commitAt == never && g.uninformed() != 0 {
		g.leading.commitAt = g.now + 1
	}
}

// hasAppends says whether takeAppends has anything to send.
//
//mr:hotpath
func (g *Group) hasAppends() bool {
	ld, last := g.leading, g.log.last()
	if ld.beats|ld.nudges|ld.confirms|ld.snapshotDue != 0 || ld.handover.due && g.mayOrder() {
		return true
	}
	for slot := g.others.first(); slot < MaxReplicas; slot = g.others.next(slot) {
		if ld.sendable(slot, last, g.tuning) {
			return true
		}
	}
	return false
}

// run is the last run of entries formed for an append. Peers that are equally
// far share it.
type run struct {
	lo, hi   wire.Index
	prevTerm wire.Term // of the entry in front
	entries  []byte
}

// takeAppends forms the appends and heartbeats of this Ready.
//
//mr:hotpath
func (g *Group) takeAppends(rd *Ready) {
	ld := g.leading
	var shared run
	for slot := g.others.first(); slot < MaxReplicas; slot = g.others.next(slot) {
		for ld.sendable(slot, g.log.last(), g.tuning) {
			if !g.takeAppend(rd, slot, &shared) {
				break
			}
		}
		if ld.nudges.has(slot) {
			g.takeNudge(rd, slot)
		}
		if ld.beats.has(slot) {
			g.takeHeartbeat(rd, slot)
		}
		if ld.confirms.has(slot) {
			g.put(&rd.Messages, wire.Confirm, g.replica(slot)).Context = ld.readRound
		}
	}
	ld.nudges, ld.beats, ld.confirms = 0, 0, 0
	if ld.handover.due && g.mayOrder() {
		g.takeOrder(rd)
	}
	if ld.snapshotDue != 0 {
		g.takeSnapshots(rd)
	}
	g.informSoon()
}

// takeAppend forms one append to a peer, and returns false when there is
// nothing to be had for it.
//
//mr:hotpath
func (g *Group) takeAppend(rd *Ready, slot int, shared *run) bool {
	ld := g.leading
	lo := ld.next[slot]
	if lo != shared.lo {
		if err := g.formRun(shared, lo, rd.Arena); err != nil {
			shared.lo = 0
			g.cannotSend(slot, lo, err)
			return false
		}
	}
	m := g.put(&rd.Messages, wire.Append, g.replica(slot))
	m.Index, m.LogTerm = lo-1, shared.prevTerm
	m.Commit = g.commit
	m.Entries = shared.entries
	ld.sent(slot, shared.hi, len(shared.entries))
	ld.lastSent[slot] = g.now
	ld.commitSent[slot] = max(ld.commitSent[slot], min(g.commit, shared.hi-1))
	return true
}

// formRun makes r the run of entries from lo on that fits an append; an empty one
// behind the last entry.
//
//mr:hotpath
func (g *Group) formRun(r *run, lo wire.Index, arena *wire.Arena) (err error) {
	if r.prevTerm, err = g.log.term(lo - 1); err != nil {
		return err
	}
	r.lo, r.hi, r.entries = lo, lo, nil
	if lo <= g.log.last() {
		r.entries, r.hi, err = g.log.entries(lo, g.tuning.MaxMessageBytes, arena)
	}
	return err
}

// cannotSend deals with entries that cannot be read: a peer whose entries are
// compacted, or damaged and applied, waits for a snapshot; anything else stops the
// group.
func (g *Group) cannotSend(slot int, lo wire.Index, err error) {
	if errors.Is(err, wire.ErrCompacted) {
		if g.leading.state[slot] == snapshot {
			return // compacted further just now
		}
		g.leading.becomeSnapshot(slot, g.log.storage.First()-1)
		return
	}
	if errors.Is(err, wire.ErrDamaged) && lo <= g.applied {
		// The machine has what they did.
		s := g.mutable()
		s.hurt, s.hurtAt = err, max(s.hurtAt, lo)
		g.leading.becomeSnapshot(slot, lo)
		return
	}
	_ = g.fail("G13", lo, "entries for replica %d: %w", g.replica(slot), err) // kept in g.fault
}

// takeNudge asks a peer how far it is, with an empty append.
//
// In replicate it has answered none of the last appends for a heartbeat
// interval, and is asked behind the last one. If it has them all, it answers how
// far it is durable; if one was lost, it refuses and is probed. Sending the
// entries again at once would cost up to a whole window for a peer whose disk is
// merely slow.
//
// In snapshot it is asked for the last compacted entry: it may have had that all
// along, and its answer was lost; or it has it by now.
//
//mr:hotpath
func (g *Group) takeNudge(rd *Ready, slot int) {
	ld := g.leading
	prev := ld.next[slot] - 1
	if ld.state[slot] == snapshot {
		prev = g.log.storage.First() - 1
	}
	prevTerm, err := g.log.term(prev)
	if err != nil {
		g.cannotSend(slot, prev, err)
		return
	}
	m := g.put(&rd.Messages, wire.Append, g.replica(slot))
	m.Index, m.LogTerm, m.Commit = prev, prevTerm, g.commit
	ld.lastSent[slot] = g.now
}

// takeHeartbeat forms a heartbeat. The commit index in it is one the peer is
// known to have the entries of, equal to the leader's.
//
//mr:hotpath
func (g *Group) takeHeartbeat(rd *Ready, slot int) {
	ld := g.leading
	m := g.put(&rd.Messages, wire.Heartbeat, g.replica(slot))
	m.Commit = min(ld.match[slot], g.commit)
	if planted.Is(planted.CommitBeyondMatch) {
		m.Commit = g.commit
	}
	m.Context = g.leaseContext()
	ld.commitSent[slot] = max(ld.commitSent[slot], m.Commit)
	if ld.unheard.has(slot) {
		g.takeJoin(&rd.Messages, slot)
	}
}

// takeJoin tells the store of a learner, which may not run it yet, that it was
// added there. Voters are not told: a store that has lost what one of them
// promised must not begin it anew.
//
// What a learner acknowledges is durable, and so is that it runs. A heartbeat
// that it answers proves less: it may forget it all in a crash.
func (g *Group) takeJoin(out *[]wire.Message, slot int) {
	ld := g.leading
	if ld.match[slot] > 0 {
		ld.unheard = ld.unheard.without(slot)
		return
	}
	if g.applied < ld.pendingConfig {
		return // it may be a voter by an entry that is committed and not applied here
	}
	m := g.put(out, wire.Join, g.replica(slot))
	m.Term = 0 // the kind has none
	m.Context = uint64(g.members.Index)
}

// expectLearner notes that a learner may not run yet.
func (g *Group) expectLearner(slot int) {
	if g.members.Members[slot].Role == wire.Learner && slot != int(g.slot) {
		g.leading.unheard = g.leading.unheard.with(slot)
	}
}

// leaderAppendResponse learns how far a peer is.
//
//mr:hotpath
func (g *Group) leaderAppendResponse(m *wire.Message) error {
	slot, ok := g.slotOf(m.From)
	if !ok {
		g.tellRemoved(m.From)
		return nil
	}
	ld := g.leading
	if m.Index > g.log.handed { // what is not handed out, no append holds
		return badMessage(m, "entry %d was not sent", m.Index)
	}
	ld.recentActive = ld.recentActive.with(slot)
	if m.Reject {
		if ld.state[slot] == snapshot {
			g.refusedSnapshot(slot)
			return nil
		}
		hint := min(m.Hint, g.log.last())
		if m.LogTerm > 0 {
			// Entries behind the hint have terms above LogTerm there; here, those
			// of terms above it cannot match either. Both sides so skip whole
			// terms, and the probing takes a round per term, not per entry.
			hint, _ = g.log.conflictHint(hint, m.LogTerm)
		}
		if planted.Is(planted.HintAsMatch) {
			ld.accepted(slot, hint)
			g.advanceCommit()
		}
		ld.refused(slot, m.Index, hint)
		return nil
	}
	ld.hears(slot, m)
	ld.accepted(slot, m.Index)
	if ld.state[slot] == snapshot && ld.match[slot]+1 >= g.log.storage.First() {
		// It has all that is compacted, be it from another snapshot, or because it
		// began anew in the middle of this one: entries will do.
		ld.becomeReplicate(slot)
	}
	if m.Index > g.commit {
		g.advanceCommit()
	}
	g.informSoon()
	return nil
}

// leaderHeartbeatResponse learns that a peer is alive and still follows, and with
// lease reads since when it must have promised to.
//
//mr:hotpath
func (g *Group) leaderHeartbeatResponse(m *wire.Message) error {
	slot, ok := g.slotOf(m.From)
	if !ok {
		g.tellRemoved(m.From)
		return nil
	}
	ld := g.leading
	if m.Context > g.now {
		return badMessage(m, "tick %d is to come", m.Context)
	}
	ld.recentActive = ld.recentActive.with(slot)
	ld.paused = ld.paused.without(slot)
	if ld.unanswered(slot) && !g.sentLately(slot) {
		ld.nudges = ld.nudges.with(slot)
	}
	if g.tuning.LeaseReads {
		g.extendLease(slot, m)
	}
	return nil
}

// followerAppend takes entries from the leader.
//
//mr:hotpath
func (g *Group) followerAppend(m *wire.Message) error {
	if err := g.follow(m); err != nil || g.isWounded() {
		return err
	}
	first, err := g.checkEntries(m)
	if err != nil {
		return err
	}
	last := g.log.last()
	if m.Index > last {
		g.refuse(m, last)
		return nil
	}
	have, err := g.log.term(m.Index)
	switch {
	case err != nil:
		if !errors.Is(err, wire.ErrCompacted) {
			return g.fail("G13", m.Index, "term of the entry before an append: %w", err)
		}
		// What is compacted is committed and so equal to the leader's.
	case planted.Is(planted.NoPreviousCheck):
	case have != m.LogTerm && m.Index <= g.commit:
		return g.fail("G7", m.Index, "committed in term %d, the leader has term %d", have, m.LogTerm)
	case have != m.LogTerm:
		g.refuse(m, m.Index)
		return nil
	}
	end, err := g.takeEntries(m, first)
	if err != nil {
		return err
	}
	g.verified = max(g.verified, end)
	g.owesAck = g.owesAck || end <= g.log.durable // else Persisted makes it owed
	g.dropRefusal()
	commit := m.Commit
	if g.reads != nil {
		commit = max(commit, g.reads.committed)
	}
	g.setCommit(min(commit, end))
	return nil
}

// follow notes that the leader is alive.
//
//mr:hotpath
func (g *Group) follow(m *wire.Message) error {
	if g.lead == 0 {
		g.lead = m.From
	}
	if g.lead != m.From {
		return g.fail("G10", m.Index, "replicas %d and %d lead", g.lead, m.From)
	}
	g.hearLeader()
	g.promise()
	return nil
}

// refusal is the answer to an append whose entry index does not match. It is
// rare, and so apart from the group.
type refusal struct {
	index wire.Index
	// The last entry that may match, and its term.
	hint wire.Index
	term wire.Term
}

// refuse owes the leader the answer that entry m.Index does not match, with the
// last entry at or below from that may (thesis, section 5.3, and the remark on
// skipping terms there).
func (g *Group) refuse(m *wire.Message, from wire.Index) {
	hint, term := g.log.conflictHint(from, m.LogTerm)
	g.mutable().refusal = &refusal{index: m.Index, hint: hint, term: term}
}

// checkEntries checks the blocks of an append before any of them is taken: sums
// and sizes, that they are contiguous from m.Index on, and that their terms fit
// (G13). Wrong ones are refused as if they had been lost. It returns the first
// block, nil if there is none.
//
//mr:hotpath
func (g *Group) checkEntries(m *wire.Message) (first wire.Block, err error) {
	prev, prevTerm := m.Index, m.LogTerm
	for rest := m.Entries; len(rest) > 0; {
		block, after, err := wire.ParseBlock(rest)
		if err != nil {
			return nil, badMessage(m, "entries behind %d: %w", prev, err)
		}
		if block.Group() != g.id || block.First() != prev+1 || block.Term() < prevTerm || block.Term() > m.Term {
			return nil, badMessage(m, "block of group %d, index %d, term %d behind index %d, term %d",
				block.Group(), block.First(), block.Term(), prev, prevTerm)
		}
		if block.Kind() == wire.EntryConfig {
			if _, err := decodeChange(block); err != nil {
				return nil, badMessage(m, "membership %d: %w", block.First(), err)
			}
		}
		if first == nil {
			first = block
		}
		prev, prevTerm, rest = block.Last(), block.Term(), after
	}
	return first, nil
}

// takeEntries appends what is new in m, whose entry at Index matches, and
// returns the last entry now known to equal the leader's. first is the first
// block of m: mostly there is no other.
//
//mr:hotpath
func (g *Group) takeEntries(m *wire.Message, first wire.Block) (end wire.Index, err error) {
	if first == nil {
		return m.Index, nil
	}
	if err := g.takeBlock(first); err != nil {
		return 0, err
	}
	end = first.Last()
	for rest := m.Entries[len(first):]; len(rest) > 0; {
		size, err := wire.BlockSize(rest) // checkEntries has seen the rest of it
		if err != nil {
			return 0, badMessage(m, "%w", err)
		}
		block := wire.Block(rest[:size:size])
		rest = rest[size:]
		if err := g.takeBlock(block); err != nil {
			return 0, err
		}
		end = block.Last()
	}
	return end, nil
}

// takeBlock appends what is new in a block. Entries that are there already are
// skipped, those in conflict with it are truncated, and a block that is there in
// part is cut.
//
//mr:hotpath
func (g *Group) takeBlock(block wire.Block) error {
	first, last := block.First(), g.log.last()
	if first <= last {
		if first <= g.commit {
			if err := g.checkCommitted(min(block.Last(), g.commit), block.Term()); err != nil {
				return err
			}
			if block.Last() <= g.commit {
				return nil
			}
		}
		var err error
		if first, err = g.log.firstConflict(max(first, g.commit+1), block.Last(), block.Term()); err != nil {
			return g.fail("G13", first, "term of a stored entry: %w", err)
		}
		if planted.Is(planted.TruncateMatching) {
			first = max(block.First(), g.commit+1)
		}
		if first > block.Last() {
			return nil
		}
		if first <= last {
			if err := g.truncate(first); err != nil {
				return err
			}
		}
	}
	g.quiet = 0
	g.log.append(first, block)
	return nil
}

// checkCommitted checks that a committed entry has the term the leader says (G7).
func (g *Group) checkCommitted(index wire.Index, term wire.Term) error {
	have, err := g.log.term(index)
	switch {
	case errors.Is(err, wire.ErrCompacted):
		return nil
	case err != nil:
		return g.fail("G13", index, "term of a committed entry: %w", err)
	case have != term:
		return g.fail("G7", index, "committed in term %d, the leader has term %d", have, term)
	}
	return nil
}

// truncate drops the entries from index from on, which are not the leader's.
func (g *Group) truncate(from wire.Index) error {
	switch {
	case from <= g.commit:
		return g.fail("G7", from, "the leader replaces a committed entry; commit is %d", g.commit)
	case from <= g.verified:
		return g.fail("G8", from, "the leader replaces an entry of its own; %d were the same", g.verified)
	}
	if err := g.log.truncate(from, g.seq); err != nil {
		return g.fail("G13", from, "truncate: %w", err)
	}
	return nil
}

// followerHeartbeat hears from the leader, and of commits.
//
//mr:hotpath
func (g *Group) followerHeartbeat(m *wire.Message) error {
	if err := g.follow(m); err != nil {
		return err
	}
	if m.Commit > g.log.last() && !g.isWounded() {
		// The leader says only what this replica has acknowledged.
		return g.fail("G5", m.Commit, "committed, and acknowledged here; the log ends at %d", g.log.last())
	}
	if !g.isWounded() {
		g.setCommit(m.Commit)
	}
	g.noteBeat(m)
	g.rest()
	return nil
}
