package group

import (
	"math"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// Role is what a replica is in its term.
type Role uint8

const (
	// Follower takes entries from a leader, or waits for one.
	Follower Role = iota
	// PreCandidate asks whether it could win an election, in its old term.
	PreCandidate
	// Candidate asks for votes in a new term.
	Candidate
	// Leader takes proposals.
	Leader
)

var roleNames = [...]string{"follower", "pre-candidate", "candidate", "leader"}

// String returns the name of r.
func (r Role) String() string {
	if int(r) >= len(roleNames) {
		return "unknown role"
	}
	return roleNames[r]
}

// never is a tick that does not come.
const never = math.MaxUint64

// Group is one replica of one raft group. Very many of them exist in a process
// and most are idle followers, so what only a leader or a reader needs is apart
// and made on demand.
type Group struct {
	id      wire.GroupID
	self    wire.ReplicaID
	members *wire.Membership
	tuning  *Tuning
	rand    Rand
	// priority is Config.Priority.
	priority map[wire.ReplicaID]uint8

	// Hard state, as it is to be; see hardDurable for whether it is.
	term   wire.Term
	vote   wire.ReplicaID
	commit wire.Index

	// Soft state.
	lead wire.ReplicaID // zero: none known
	role Role
	slot uint8 // of this replica; noSlot when it is no member
	// joining: it is in no membership that it knows of; removed: no more.
	joining, removed bool

	incoming, outgoing replicaSet // the voters, of both halves
	others             replicaSet // all members but this one

	// Notes for the next Ready. The owes are answers that leave when what they
	// say is durable; they are about the current term.
	hardChanged bool    // term or vote changed since the last Ready
	owesVote    bool    // the vote, to its candidate
	owesAck     bool    // how far the log is verified and durable, to the leader
	owesBeat    bool    // that the heartbeat beatContext came, to the leader
	asksVotes   bool    // vote or pre-vote requests
	votedSelf   bool    // the candidate has counted its own vote
	transfer    bool    // the campaign was ordered by the leader
	ordered     bool    // in this term, by the leader: a campaign that had to wait for changing
	quiet       uint8   // heartbeats since the last new entry, up to quietBeats
	fitness     Fitness // as the host told

	timeout    uint32 // drawn from [ElectionTicks, 2*ElectionTicks), and longer when not fit
	now        uint64 // the current tick
	promisedTo uint64 // no vote is granted before, but by order of the leader; without leases what Config.Promised said
	electionAt uint64 // when to campaign; timeout ticks after last hearing of a leader

	seq       uint64 // of the last Ready with something to persist
	persisted uint64 // the last acknowledged one
	hardSeq   uint64 // the one that holds the current term and vote

	log tail

	// What of the log is known to equal that of the leader of this term.
	verified    wire.Index
	answered    wire.Index // of that, what messages in Ready.After answer
	beatContext uint64

	applied wire.Index // acknowledged by the machine
	handed  handOut    // given to the machine

	votes   tally
	seldom  *seldom    // nil without what is in it
	leading *leading   // nil unless Leader
	reads   *readQueue // nil without reads
	fault   *FaultError
}

// New makes a group from what Storage holds of it. Errors name every fault of
// the configuration; a *FaultError says that what is stored does not agree with
// itself (G12).
func New(cfg Config) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Group{
		id:       cfg.Group,
		self:     cfg.Replica,
		tuning:   tuningOrDefault(cfg.Tuning),
		rand:     cfg.Rand,
		priority: cfg.Priority,
		now:      cfg.Now,
		log:      tail{storage: cfg.Storage},
	}
	g.setMembers(cfg.Members)
	g.joining = cfg.Join
	if cfg.Floor > cfg.Members.Index {
		g.mutable().floor = cfg.Floor
	}
	if cfg.Wounded {
		g.mutable().wounded = true
	}
	if err := g.restore(cfg.Applied); err != nil {
		return nil, err
	}
	if g.term > 0 && !planted.Is(planted.LeaseForgottenAtStart) {
		// What was promised to a leader before is forgotten.
		g.promisedTo = g.now + cfg.Promised
		g.promise()
	}
	g.drawTimeout()
	g.electionAt = g.now + uint64(g.timeout)
	return g, nil
}

// tuningOrDefault returns t when no default has to be filled in, so that groups
// made with complete settings share them.
func tuningOrDefault(t *Tuning) *Tuning {
	if t == nil {
		t = new(Tuning)
	}
	if filled := t.WithDefaults(); filled != *t {
		return &filled
	}
	return t
}

// restore takes over what storage holds (G12).
func (g *Group) restore(applied wire.Index) error {
	storage := g.log.storage
	hs, first, last := storage.HardState(), storage.First(), storage.Last()
	g.term, g.vote, g.commit = hs.Term, hs.Vote, hs.Commit
	lastTerm, err := storage.Term(last)
	switch compacted := first - 1; {
	case err != nil:
		return g.fail("G12", last, "term of the last stored entry: %w", err)
	case first == 0 || last < compacted:
		return g.fail("G12", last, "storage holds entries [%d, %d]", first, last)
	case lastTerm > hs.Term:
		return g.fail("G12", last, "last entry is of term %d, hard state of term %d", lastTerm, hs.Term)
	case hs.Commit > last:
		return g.fail("G12", last, "commit %d is behind the last stored entry", hs.Commit)
	case applied > last:
		return g.fail("G12", last, "state machine applied %d, behind the last stored entry", applied)
	case applied < compacted && !g.isWounded():
		return g.fail("G12", compacted, "state machine applied %d, entries up to %d are compacted", applied, compacted)
	case g.members.Index > last:
		return g.fail("G12", last, "membership of entry %d, behind the last stored entry", g.members.Index)
	}
	g.commit = max(g.commit, applied, g.members.Index)
	g.log.restore(last, lastTerm)
	g.applied = applied
	g.handed.last = applied
	if applied < last && !g.isWounded() {
		g.log.configs = &configs{next: applied + 1, end: last}
	}
	return nil
}

// Clock tells the group the current tick without doing what is due, so that
// messages that waited while the process stood still are heard first. Ticks
// never go back.
//
//mr:hotpath
func (g *Group) Clock(now uint64) {
	if ld := g.leading; ld != nil && now > g.now && now-g.now >= uint64(g.tuning.ElectionTicks) {
		// This replica stood still, or its clock jumped: rounds before prove nothing
		// about the ticks since.
		ld.voidLease(now)
	}
	g.now = max(g.now, now)
}

// Tick tells the group the current tick and does what is due. It may come as
// late as it likes: what should have happened several times happens once.
//
//mr:hotpath
func (g *Group) Tick(now uint64) {
	g.Clock(now)
	if g.fault != nil {
		return
	}
	if g.reads != nil {
		g.expireReads()
	}
	if g.leading != nil {
		g.tickLeader()
	} else if g.now >= g.electionAt && g.isVoter() {
		if g.isPromised() {
			// Before it started it promised for longer than it waits now.
			g.electionAt = g.promisedTo
			return
		}
		if g.fitness == Hung {
			g.electionAt = g.now + uint64(g.timeout)
			return
		}
		if g.awaitsChange() {
			g.becomeFollower(g.term, 0)
			if g.log.scanning() {
				g.electionAt = g.now + 1 // to look at more of the log
			}
			return
		}
		g.campaign(false)
	}
}

// Deadline returns the next tick at which Tick has something to do,
// math.MaxUint64 if there is none.
//
//mr:hotpath
func (g *Group) Deadline() uint64 {
	if g.fault != nil {
		return never
	}
	deadline := uint64(never)
	if g.leading != nil {
		deadline = g.leading.deadline(g.others)
		if h := &g.leading.handover; h.target != 0 {
			deadline = min(deadline, h.endAt)
		}
	} else if g.isVoter() {
		deadline = g.electionAt
	}
	if g.reads != nil {
		deadline = min(deadline, g.reads.expireAt)
	}
	return deadline
}

// isVoter says whether this replica votes in either configuration, and could win.
//
//mr:hotpath
func (g *Group) isVoter() bool {
	return (g.incoming | g.outgoing).has(int(g.slot)) && (!g.isWounded() || planted.Is(planted.CampaignWounded))
}

// slotOf returns the slot of a member.
//
//mr:hotpath
func (g *Group) slotOf(r wire.ReplicaID) (slot int, ok bool) {
	slot = place(g.members, r)
	return slot, slot >= 0
}

// replica returns the member in a slot.
//
//mr:hotpath
func (g *Group) replica(slot int) wire.ReplicaID { return g.members.Members[slot].Replica }

// Propose appends count commands to the log of the leader and returns the index
// of the first and their term. b comes from wire.NewBlock and count calls of
// wire.AppendPayload; it belongs to the group, which seals it, or joins it with
// its neighbours, when Ready is taken. Nothing is sent before. On an error nothing was appended and b is the caller's.
//
//mr:hotpath
func (g *Group) Propose(b wire.Block, count int) (first wire.Index, term wire.Term, err error) {
	switch {
	case g.fault != nil:
		return 0, 0, g.fault
	case g.leading == nil:
		return 0, 0, ErrNotLeader
	case len(b) > wire.MaxBlockBytes || !hasPayloads(b, count):
		return 0, 0, ErrBadProposal
	}
	ld, size := g.leading, len(b)-wire.BlockHeaderBytes
	if ld.handover.target != 0 {
		return 0, 0, ErrTransferring
	}
	if ld.uncommittedBytes > 0 && ld.uncommittedBytes+size > g.tuning.MaxUncommittedBytes {
		return 0, 0, ErrBusy
	}
	ld.uncommittedBytes += size
	g.quiet = 0
	first = g.log.last() + 1
	g.log.propose(g.term, b, count)
	return first, g.term, nil
}

// hasPayloads says whether b has room for a header and then count payloads.
// A count that is wrong would be found by every follower, and by this replica
// after its next start.
//
//mr:hotpath
func hasPayloads(b wire.Block, count int) bool {
	return len(b) >= wire.BlockHeaderBytes && wire.HasPayloads(b.Payloads(), count)
}

// Step takes a message from another replica, in the tick that Clock or Tick told
// last. It returns an error that wraps wire.ErrBadMessage for a message that no
// correct replica sends, and leaves log and commit index as they are; and the
// fault of a group that has stopped.
//
//mr:hotpath
func (g *Group) Step(m *wire.Message) error {
	switch {
	case g.fault != nil:
		return g.fault
	case m.Group != g.id || m.To != g.self:
		return badMessage(m, "this is replica %d of group %d", g.self, g.id)
	case m.From == 0 || m.From == g.self:
		return badMessage(m, "it cannot be from there")
	}
	if m.Term != g.term || m.Term == 0 {
		switch {
		case isTermless(m.Kind):
		case m.Term == 0 || m.Term == maxTerm:
			return badMessage(m, "term %d is none", m.Term)
		case !g.admit(m):
			return nil
		}
	}
	return g.step(m)
}

// ignored drops a message that the current role has no use for.
//
//mr:hotpath
func (g *Group) ignored(*wire.Message) error { return nil }

// Unreachable reports that a message to a member was not delivered, so that the
// leader stops sending ahead of its answers.
func (g *Group) Unreachable(r wire.ReplicaID) {
	if g.fault != nil || g.leading == nil {
		return
	}
	if slot, ok := g.slotOf(r); ok && g.others.has(slot) && g.leading.state[slot] == replicate {
		g.leading.becomeProbe(slot)
	}
}

// shed lets go of buffers.
func (g *Group) shed() {
	if g.seldom != nil && g.seldom.empty() {
		g.seldom = nil
	}
	g.log.shed()
	if g.reads != nil && g.reads.empty() {
		g.reads = nil
	}
	if g.leading != nil {
		for i := range g.leading.flights {
			g.leading.flights[i].shed()
		}
	}
}

// quietBeats is after how many heartbeats without a new entry a group lets go
// of its buffers. A few, so that slow but steady traffic does not make them
// anew each time.
const quietBeats = 8

// rest is called by each heartbeat.
//
//mr:hotpath
func (g *Group) rest() {
	if g.quiet < quietBeats {
		g.quiet++
		return
	}
	g.shed()
}

// ID returns the group's id.
func (g *Group) ID() wire.GroupID { return g.id }

// Replica returns the id of this replica.
func (g *Group) Replica() wire.ReplicaID { return g.self }

// Term returns the current term.
func (g *Group) Term() wire.Term { return g.term }

// Role returns what this replica is in its term.
func (g *Group) Role() Role { return g.role }

// Leader returns the leader of the term, zero when none is known.
func (g *Group) Leader() wire.ReplicaID { return g.lead }

// Commit returns the last entry known to be committed.
func (g *Group) Commit() wire.Index { return g.commit }

// LastIndex returns the last entry of the log, durable or not.
func (g *Group) LastIndex() wire.Index { return g.log.last() }

// Err returns why the group has stopped, a *FaultError, or nil.
func (g *Group) Err() error {
	if g.fault == nil {
		return nil
	}
	return g.fault
}
