package group

import (
	"slices"

	"multiraft/wire"
)

// A membership change is an entry that holds the whole configuration it leads
// to. It takes effect on each replica when the replica has applied it:
//
//	ChangeMembers ─▶ entry ─▶ committed by the old voters ─▶ Ready.Membership
//	                                                             │ nothing more is handed out
//	              new voters, new peers ◀── Applied(its index) ◀─┘
//
// A leader appends no further one before (G15), so neighbouring configurations
// are all that can be in force together, and their quorums intersect: they
// differ by one voter, or one of them is joint and has both majorities.

// noSlot is the slot of a replica that is no member. No set has it.
const noSlot = MaxReplicas

// configs is where membership entries stand in the part of the log that is not
// handed out. It is there while that part may hold one.
type configs struct {
	at []wire.Index // those known, ascending
	// Entries [next, end] were stored when the group was made, and nobody has
	// looked at them yet.
	next, end wire.Index
}

// noteConfig notes that entry i is a membership.
func (t *tail) noteConfig(i wire.Index) {
	if t.configs == nil {
		t.configs = &configs{next: 1}
	}
	at, _ := slices.BinarySearch(t.configs.at, i)
	t.configs.at = slices.Insert(t.configs.at, at, i)
}

// dropConfigs forgets memberships from index from on, which are truncated.
func (t *tail) dropConfigs(from wire.Index) {
	if c := t.configs; c != nil {
		at, _ := slices.BinarySearch(c.at, from)
		c.at = c.at[:at]
		c.end = min(c.end, from-1)
	}
}

// passConfigs forgets memberships up to index to, which are handed out.
func (t *tail) passConfigs(to wire.Index) {
	if c := t.configs; c != nil {
		at, _ := slices.BinarySearch(c.at, to+1)
		c.at = slices.Delete(c.at, 0, at)
		c.next = max(c.next, to+1)
		if len(c.at) == 0 && c.next > c.end {
			t.configs = nil
		}
	}
}

// unread says whether entry i was stored before the group was made and has not
// been looked at.
func (t *tail) unread(i wire.Index) bool {
	return t.configs != nil && t.configs.next <= i && i <= t.configs.end
}

// readConfigs looks at the next entries that nobody has looked at, up to index
// hi, and returns their blocks.
//
// REQUIRES: unread(configs.next) and configs.next <= hi.
func (t *tail) readConfigs(hi wire.Index, maxBytes int) ([]wire.Block, error) {
	c := t.configs
	entries, err := t.storage.Blocks(c.next, min(hi, c.end)+1, maxBytes, nil)
	if err != nil {
		return nil, err
	}
	var blocks []wire.Block
	for len(entries) > 0 {
		size, err := wire.BlockSize(entries)
		if err != nil {
			return nil, err
		}
		if size > len(entries) || wire.Block(entries).First() != c.next || wire.Block(entries).Last() > c.end {
			return nil, wire.ErrBadBlock
		}
		block := wire.Block(entries[:size:size])
		entries = entries[size:]
		if block.Kind() == wire.EntryConfig {
			t.noteConfig(block.First())
		}
		c.next = block.Last() + 1
		blocks = append(blocks, block)
	}
	if blocks == nil {
		return nil, wire.ErrUnavailable
	}
	return blocks, nil
}

// scanBytes and scanReads bound what is read in one turn to look for memberships:
// a turn has the worker of many groups, and a log may be long.
const (
	scanBytes = 64 << 10
	scanReads = 16
)

// scanConfigs looks for memberships in what is left to be looked at, as far as one
// turn may, and says whether that was all.
func (t *tail) scanConfigs() (done bool, err error) {
	c := t.configs
	finder, _ := t.storage.(SingleFinder)
	for range scanReads {
		if finder != nil && c.next <= c.end {
			// A membership is alone in its block.
			c.next = finder.NextSingle(c.next, c.end+1)
		}
		if c.next > c.end {
			return true, nil
		}
		if _, err := t.readConfigs(c.end, scanBytes); err != nil {
			return false, err
		}
	}
	return c.next > c.end, nil
}

// scanning says whether entries are left that nobody has looked at.
func (t *tail) scanning() bool { return t.configs != nil && t.configs.next <= t.configs.end }

// awaitsChange says whether a membership is committed here and not applied. Such
// a replica must not campaign: the leader may have gone on to the next
// configuration, whose quorums need not meet those of the one in force here. It
// says so as well while it has not seen all of a log that it started with; each
// call looks at more of it.
func (g *Group) awaitsChange() bool {
	if g.isChanging() {
		return true
	}
	c := g.log.configs
	if c == nil {
		return false
	}
	if done, err := g.log.scanConfigs(); err != nil {
		_ = g.fail("G13", c.next, "look for membership changes: %w", err) // kept in g.fault
		return true
	} else if !done {
		return true
	}
	if n := len(c.at); n > 1 {
		g.setCommit(c.at[n-2]) // G15
	}
	for _, index := range c.at {
		if index > g.members.Index {
			return index <= g.commit
		}
	}
	return false
}

// ChangeMembers proposes another membership and returns its entry. A
// *MembershipError says why a change is refused; nothing was appended then.
// ErrNotLeader and ErrTransferring are those of Propose.
func (g *Group) ChangeMembers(c MembershipChange) (wire.Index, wire.Term, error) {
	if err := g.mayChange(); err != nil {
		return 0, 0, err
	}
	next, err := c.applyTo(g.members)
	if err != nil {
		return 0, 0, err
	}
	return g.appendConfig(next)
}

// LeaveJoint proposes to leave a joint configuration.
func (g *Group) LeaveJoint() (wire.Index, wire.Term, error) {
	if err := g.mayChange(); err != nil {
		return 0, 0, err
	}
	if !isJoint(g.members) {
		return 0, 0, &MembershipError{Reason: ReasonNotJoint, Index: g.members.Index}
	}
	return g.appendConfig(leaveJoint(g.members))
}

// mayChange says whether this replica may append a membership (G15).
func (g *Group) mayChange() error {
	switch {
	case g.fault != nil:
		return g.fault
	case g.leading == nil:
		return ErrNotLeader
	case g.leading.handover.target != 0:
		return ErrTransferring
	case g.applied < g.leading.pendingConfig:
		return &MembershipError{Reason: ReasonPending, Index: g.members.Index}
	}
	return nil
}

func (g *Group) appendConfig(m *wire.Membership) (wire.Index, wire.Term, error) {
	index := g.log.last() + 1
	b := wire.AppendPayload(wire.NewBlock(nil), m.AppendTo(nil))
	b.Seal(g.id, index, g.term, wire.EntryConfig, 1)
	g.log.seal(g.id, 0, nil)
	g.log.append(index, b)
	g.leading.pendingConfig = index
	g.quiet = 0
	return index, g.term, nil
}

// leaveByItself proposes to leave a joint configuration that asks for it.
func (g *Group) leaveByItself() {
	if g.outgoing != 0 && g.members.AutoLeave && g.mayChange() == nil {
		// It cannot be refused: mayChange has been asked, and the group is joint.
		_, _, _ = g.appendConfig(leaveJoint(g.members))
	}
}

// takeChange hands out the membership that the last entry handed out makes, if
// it makes one. The membership the group was made with may be newer.
func (g *Group) takeChange(rd *Ready) {
	index := rd.CommittedLast
	c := g.log.configs
	if len(c.at) == 0 || c.at[0] != index || !g.mayEnter(index) {
		return
	}
	block, err := g.log.block(index)
	if err != nil {
		_ = g.fail("G13", index, "membership: %w", err) // kept in g.fault
		return
	}
	m, err := decodeChange(block)
	if err != nil {
		_ = g.fail("G14", index, "membership: %w", err) // kept in g.fault
		return
	}
	rd.Membership, g.mutable().changing = m, m
}

// mayEnter says whether the membership of an entry may come into force: it is newer
// than the one that is, and no recovery of the group has passed it over (G17).
func (g *Group) mayEnter(index wire.Index) bool {
	return index > g.members.Index && (g.seldom == nil || index >= g.seldom.floor)
}

// block returns the block of a membership entry.
func (t *tail) block(i wire.Index) (wire.Block, error) {
	if i > t.base {
		return t.live()[t.locate(i)].block, nil
	}
	entries, err := t.storage.Blocks(i, i+1, 1, nil)
	if err != nil {
		return nil, err
	}
	block, _, err := wire.ParseBlock(entries)
	if err == nil && (block.First() != i || block.Kind() != wire.EntryConfig) {
		err = wire.ErrBadBlock
	}
	return block, err
}

// setMembers puts a membership in force.
func (g *Group) setMembers(m *wire.Membership) {
	g.members = m
	g.incoming, g.outgoing, g.others, g.slot = 0, 0, 0, noSlot
	for slot := range m.Members {
		if m.Members[slot].Role&wire.Voter != 0 {
			g.incoming = g.incoming.with(slot)
		}
		if m.Members[slot].Role&wire.Outgoing != 0 {
			g.outgoing = g.outgoing.with(slot)
		}
		if m.Members[slot].Replica == g.self {
			g.slot = uint8(slot)
		} else {
			g.others = g.others.with(slot)
		}
	}
}

// isMember says whether this replica is a member of the membership in force.
//
//mr:hotpath
func (g *Group) isMember() bool { return g.slot != noSlot }

// enter puts a membership in force that was applied.
func (g *Group) enter(m *wire.Membership) {
	old := g.members
	g.setMembers(m)
	if g.seldom != nil {
		g.seldom.floor = 0
	}
	if g.isMember() {
		g.joining = false
	} else if !g.joining { // what a joiner replays may be older than its own addition
		g.removed = true
	}
	switch g.role {
	case Leader:
		g.leadOn(old)
	case PreCandidate, Candidate:
		// Its votes are those of another configuration.
		g.becomeFollower(g.term, 0)
	case Follower:
		if g.ordered && g.lead != 0 && g.isVoter() && !g.awaitsChange() {
			g.campaign(true)
		}
	}
}

// leadOn goes on leading with other members, or steps down when this replica is
// no voter any more (thesis, section 4.2.2).
func (g *Group) leadOn(old *wire.Membership) {
	was := g.leading
	ld := new(leading)
	*ld = *was
	ld.progressTable, ld.beats, ld.nudges, ld.confirms, ld.slow, ld.owing = progressTable{}, 0, 0, 0, 0, 0
	g.leading = ld
	ld.flights = make([]inflights, len(g.members.Members))
	for slot := range g.members.Members {
		at := place(old, g.replica(slot))
		if at < 0 {
			ld.next[slot] = g.log.last() + 1
			ld.recentActive = ld.recentActive.with(slot) // until it had time to answer
			g.expectLearner(slot)
			ld.beats |= ld.unheard // so that it is told at once
			continue
		}
		ld.take(slot, &was.progressTable, at)
		ld.flights[slot] = was.flights[at]
		if was.beats.has(at) {
			ld.beats = ld.beats.with(slot)
		}
		if was.nudges.has(at) {
			ld.nudges = ld.nudges.with(slot)
		}
		if was.slow.has(at) {
			ld.slow = ld.slow.with(slot)
		}
		if was.owing.has(at) {
			ld.owing = ld.owing.with(slot)
		}
		if g.members.Members[slot].Role != wire.Learner {
			ld.unheard = ld.unheard.without(slot)
		} else if ld.match[slot] == 0 {
			g.expectLearner(slot) // it was a voter, which nobody tells to run
		}
	}
	g.askAgain() // the quorum of a round on its way may be another now
	for at, m := range old.Members {
		if _, stays := g.slotOf(m.Replica); !stays && m.Replica != g.self {
			// Before it hears that it is out, it learns that its removal is committed:
			// those who stay and do not know yet may ask it.
			g.refuseVote(g.message(wire.PreVoteResponse, m.Replica), min(was.match[at], g.commit))
			g.tellRemoved(m.Replica)
		}
	}
	if slot, ok := g.slotOf(ld.handover.target); ld.handover.target != 0 && (!ok || !g.incoming.has(slot)) {
		g.handOver(g.self)
	}
	if !g.isVoter() && !g.tuning.StayWhenRemoved {
		g.bowOut()
		return
	}
	g.advanceCommit()
	g.confirmReads()
}

// bowOut steps down as a leader without a vote. It tells the others what is
// committed, its removal included, and the voter that has most to campaign.
func (g *Group) bowOut() {
	ld := g.leading
	best := -1
	for slot := g.others.first(); slot < MaxReplicas; slot = g.others.next(slot) {
		m := g.message(wire.Heartbeat, g.replica(slot))
		m.Commit = min(ld.match[slot], g.commit)
		g.send(m)
		if g.incoming.has(slot) && (best < 0 || ld.match[slot] > ld.match[best]) {
			best = slot
		}
	}
	if best >= 0 {
		g.send(g.message(wire.TimeoutNow, g.replica(best)))
	}
	g.becomeFollower(g.term, 0)
}

// tellRemoved tells a replica that is no member which membership is without it.
// It may be a member that this replica does not know of yet, and then knows so.
func (g *Group) tellRemoved(r wire.ReplicaID) {
	if _, ok := g.slotOf(r); ok || g.members.Index == 0 {
		return
	}
	m := g.message(wire.Removed, r)
	m.Term = 0 // the kind has none
	m.Context = uint64(g.members.Index)
	g.send(m)
}

// TellRemoved has a replica told that it is no member, if it is none: it has asked
// the host for what only members get.
func (g *Group) TellRemoved(r wire.ReplicaID) {
	if g.fault == nil {
		g.tellRemoved(r)
	}
}

// handleRemoved learns that this replica is no member any more. That is so when
// the membership it is told of is newer than one that it was in, because ids are
// not used twice. Who joins does not know when it was added; but a leader that it
// follows has added it before.
func (g *Group) handleRemoved(m *wire.Message) error {
	if wire.Index(m.Context) <= g.members.Index || g.joining && m.From != g.lead {
		return nil
	}
	g.removed, g.slot = true, noSlot
	if g.role != Follower {
		g.becomeFollower(g.term, 0)
	}
	return nil
}

// Members returns the membership in force, the newest that was applied. It must
// not be changed.
func (g *Group) Members() *wire.Membership { return g.members }

// Removed says whether this replica is known to be a member no more. It does not
// campaign, and its host may remove what it has stored.
func (g *Group) Removed() bool { return g.removed }
