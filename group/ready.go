package group

import (
	"multiraft/internal/planted"
	"multiraft/wire"
)

// Ready is what a group wants done, taken by [Group.Ready] into buffers of the
// caller, who uses one Ready for many groups. The slices are overwritten by the
// next call; the blocks they refer to stay valid for ever.
type Ready struct {
	// Messages may leave at once, in this order. Those that promise something
	// not durable yet are not among them: they come in a Ready after Persisted.
	Messages []wire.Message
	// HardState is what to persist with Blocks. SyncHardState says that term or
	// vote changed, so that it must be; otherwise only the commit index may have
	// moved, which a restart learns again.
	HardState     wire.HardState
	SyncHardState bool
	// Blocks are to be persisted, in order. A block whose first entry is not
	// behind the last stored one replaces what is stored from there on.
	Blocks []wire.Block
	// Seq is not zero when there is something to persist. The caller answers
	// with Persisted, in the order of Seq.
	Seq uint64
	// After are messages that leave once this Ready is durable, whatever the group
	// does meanwhile: what they say was true when it became so. Empty unless
	// DeferAnswers is set.
	After []wire.Message
	// Quiet says that nothing waits for Persisted: it may come together with the
	// next input, and needs no Ready of its own.
	Quiet bool
	// CommittedFirst and CommittedLast are the entries to apply; there are none
	// when the last is in front of the first. An entry is handed out once.
	CommittedFirst, CommittedLast wire.Index
	// Committed are these entries when all are in memory. The first and the last
	// block may reach beyond them. Empty means: read them from storage, where
	// they are durable.
	Committed []wire.Block
	// Membership is what entry CommittedLast makes the membership, nil when it does
	// not. The group switches to it when Applied tells that the entry is applied,
	// and hands out nothing behind it before. A host stores it to start from.
	Membership *wire.Membership
	// SnapshotTo are peers that need entries which are compacted here. The host
	// sends each the state of the machine, and reports with SnapshotSent; a peer
	// that stays behind is named again, some time after the report.
	SnapshotTo []wire.ReplicaID
	// SnapshotOffer is a snapshot that the leader offers, nil when it does not.
	SnapshotOffer *SnapshotOffer
	// Reads are answers to ReadIndex.
	Reads []ReadState
	// Arena is the caller's; blocks that must be cut or joined are made in it.
	Arena *wire.Arena
	// HoldCommitted is the caller's too: while it is true, committed entries stay
	// where they are, for a later Ready, because state machines are behind.
	HoldCommitted bool
	// DeferAnswers is the caller's: it sends the messages in After by itself when
	// the log says that the Ready is durable. A follower's acceptance then leaves
	// without another turn of the group. Without it, answers come in Messages of a
	// Ready after Persisted.
	DeferAnswers bool
}

// ReadState answers a ReadIndex: once the state machine has applied Index,
// reading it is linearizable. Dropped means there is no answer, because
// leadership changed or the leader did not answer in time.
type ReadState struct {
	Context uint64
	Index   wire.Index
	Dropped bool
}

// Ack says that the Ready with this Seq, and all before it, are durable. Term
// and Index are those of the last entry of its last block, zero if it had none.
type Ack struct {
	Seq   uint64
	Term  wire.Term
	Index wire.Index
}

// Ack returns what to pass to Persisted once rd is durable.
//
//mr:hotpath
func (rd *Ready) Ack() Ack {
	a := Ack{Seq: rd.Seq}
	if n := len(rd.Blocks); n > 0 {
		last := rd.Blocks[n-1]
		a.Term, a.Index = last.Term(), last.Last()
	}
	return a
}

//mr:hotpath
func (rd *Ready) reset() {
	rd.Messages = rd.Messages[:0]
	rd.HardState, rd.SyncHardState = wire.HardState{}, false
	rd.Blocks = rd.Blocks[:0]
	rd.Seq, rd.Quiet = 0, false
	rd.After = rd.After[:0]
	rd.CommittedFirst, rd.CommittedLast = 1, 0
	rd.Committed = rd.Committed[:0]
	rd.Membership = nil
	rd.SnapshotTo, rd.SnapshotOffer = rd.SnapshotTo[:0], nil
	rd.Reads = rd.Reads[:0]
	if rd.Arena == nil {
		rd.Arena = new(wire.Arena) //mr:alloc once per Ready of a caller that brings no arena
	}
}

//mr:hotpath
func (rd *Ready) empty() bool {
	return len(rd.Messages) == 0 && rd.Seq == 0 && rd.CommittedLast < rd.CommittedFirst && len(rd.Reads) == 0 &&
		len(rd.SnapshotTo) == 0 && rd.SnapshotOffer == nil
}

// HasReady says whether Ready would return true; it may err once when entries
// that a peer needs turn out to be compacted.
//
//mr:hotpath
func (g *Group) HasReady() bool {
	if g.fault != nil {
		return false
	}
	// Cheap tests of notes first: most groups have none.
	switch {
	case g.hardChanged, g.log.handed < g.log.last():
		return true
	case g.owesAnswer() && g.mayAnswer():
		return true
	case g.asksVotes && g.mayAskVotes():
		return true
	case g.handed.last < g.commit && g.toHandOut():
		return true
	case g.seldom != nil && g.seldom.hasReady():
		return true
	case g.reads != nil && g.readsReady():
		return true
	}
	return g.leading != nil && g.hasAppends()
}

// Ready takes everything that is pending into rd and says whether that is
// anything. What it hands out counts as on its way.
//
//mr:hotpath
func (g *Group) Ready(rd *Ready) bool {
	rd.reset()
	if g.fault != nil {
		return false
	}
	if g.hardChanged || g.log.handed != g.log.last() {
		g.takeUnstable(rd)
	}
	if g.reads != nil {
		g.takeReads(rd)
	}
	if g.leading != nil {
		g.takeAppends(rd)
	}
	if g.owesAnswer() || g.asksVotes {
		g.takeAnswers(rd)
	}
	if g.seldom != nil {
		g.seldom.take(rd)
	}
	if g.handed.last < g.commit {
		g.takeCommitted(rd)
	}
	if rd.Seq != 0 && rd.DeferAnswers {
		g.takeAfter(rd)
	}
	if g.fault != nil {
		// Storage failed while an append was formed: nothing of a faulted group
		// leaves, and what was to be persisted promises nothing to anybody.
		rd.reset()
		return false
	}
	g.release()
	return !rd.empty()
}

// takeUnstable hands out the hard state and the blocks that are to be persisted.
//
// REQUIRES: there is one or the other.
//
//mr:hotpath
func (g *Group) takeUnstable(rd *Ready) {
	g.seq++
	rd.Seq = g.seq
	// The commit index persisted is that of durable entries, so that no crash
	// leaves a hard state that is ahead of its log (G12).
	rd.HardState = wire.HardState{Term: g.term, Vote: g.vote, Commit: min(g.commit, g.log.durable)}
	if g.hardChanged {
		rd.SyncHardState = true
		g.hardChanged, g.hardSeq = false, g.seq
	}
	if g.log.handed == g.log.last() {
		return
	}
	g.sealProposals(rd.Arena)
	live := g.log.live()
	for i := g.log.locate(g.log.handed + 1); i < len(live); i++ {
		rd.Blocks = append(rd.Blocks, g.log.materialize(&live[i], rd.Arena))
	}
	g.log.handed = g.log.last()
}

// joinBytes bounds the blocks that proposals are joined to. Copying longer ones
// costs more than it saves, and an arena carves blocks up to here from chunks.
const joinBytes = 16 << 10

// sealProposals seals what was proposed since the last Ready. Blocks are joined
// up to what fits an append and a hand-out, neither of which takes them apart.
//
//mr:hotpath
func (g *Group) sealProposals(arena *wire.Arena) {
	if g.log.open > 0 {
		g.log.seal(g.id, min(joinBytes, g.tuning.MaxMessageBytes, g.tuning.MaxCommittedBytes), arena)
	}
}

// takeAfter has a follower's acceptance leave when the log says so, without
// coming back here. Log and hard state become durable in the order they were
// handed out, so at that moment the disk holds what is promised, in the term in
// which it is (G3): it is as if the message had been sent then, before anything
// that the group has learned since.
//
// REQUIRES: something is to be persisted, and the caller defers answers.
//
//mr:hotpath
func (g *Group) takeAfter(rd *Ready) {
	if g.role != Follower {
		return
	}
	if g.lead != 0 && g.verified > max(g.log.durable, g.answered) {
		g.putAccepted(&rd.After, g.verified)
		g.answered = g.verified
	}
	// With the hard state, answers wait that are owed by then: a vote, and what is
	// said in a new term about entries that are durable.
	rd.Quiet = !rd.SyncHardState && !g.HoldsCommitted() && g.verified <= max(g.log.durable, g.answered)
}

// Persisted takes the acknowledgement that a Ready is durable. Acknowledgements
// come in the order of Seq. Several may be merged into one, with the newest Seq
// and with Term and Index of the newest that had blocks.
//
//mr:hotpath
func (g *Group) Persisted(a Ack) {
	if g.fault != nil || a.Seq <= g.persisted || a.Seq > g.seq {
		return
	}
	g.persisted = a.Seq
	durable := g.log.durable
	if a.Index > 0 && g.log.persisted(a.Seq, a.Index, a.Term) {
		// G3: what was verified against the leader's log can be answered now, but
		// for what takeAfter has answered.
		g.owesAck = g.owesAck || min(g.verified, g.log.durable) > max(durable, g.answered)
		if g.leading != nil {
			// G4
			if g.isMember() {
				g.leading.match[g.slot] = g.log.durable
			}
			g.advanceCommit()
		}
	}
	if g.role == Candidate && !g.votedSelf && g.hardDurable() {
		g.voteSelf()
	}
}

// hardDurable says that the current term and vote are durable.
//
//mr:hotpath
func (g *Group) hardDurable() bool {
	return !g.hardChanged && g.persisted >= g.hardSeq
}

// mayLeave says whether a message of kind k may be sent now, as far as the hard
// state goes. Which entries an append response covers is up to its sender.
//
//mr:hotpath
func (g *Group) mayLeave(k wire.MessageKind) bool {
	return durabilityOf(k) == leavesAtOnce || g.hardDurable() || planted.Is(planted.VoteUnsynced)
}

// message returns a message to a member in the current term.
//
//mr:hotpath
func (g *Group) message(k wire.MessageKind, to wire.ReplicaID) wire.Message {
	return wire.Message{Kind: k, Group: g.id, From: g.self, To: to, Term: g.term}
}

// put adds a message to a member in the current term to out, and returns it, to
// be completed in place: messages are large, and one that is made elsewhere and
// copied takes twice as long.
//
//mr:hotpath
func (g *Group) put(out *[]wire.Message, k wire.MessageKind, to wire.ReplicaID) *wire.Message {
	*out = append(*out, wire.Message{})
	m := &(*out)[len(*out)-1]
	m.Kind, m.Group, m.From, m.To, m.Term = k, g.id, g.self, to, g.term
	return m
}

// putAccepted adds the answer to the leader that its log matches up to index.
//
//mr:hotpath
func (g *Group) putAccepted(out *[]wire.Message, index wire.Index) {
	m := g.put(out, wire.AppendResponse, g.lead)
	m.Index = index
	if g.fitness != Fit {
		m.Hint = hintSlow
	}
}

// owesAnswer says whether an answer is owed, be it that it may not leave yet.
//
//mr:hotpath
func (g *Group) owesAnswer() bool {
	return g.owesVote || g.owesAck || g.owesBeat || g.refuses()
}

// mayAnswer says whether an owed answer may leave.
//
//mr:hotpath
func (g *Group) mayAnswer() bool {
	if g.owesVote && g.mayLeave(wire.VoteResponse) {
		return true
	}
	if g.role != Follower || g.lead == 0 {
		return false
	}
	return g.owesBeat || (g.owesAck || g.refuses()) && g.mayLeave(wire.AppendResponse)
}

// takeAnswers sends what is owed and may leave.
//
//mr:hotpath
func (g *Group) takeAnswers(rd *Ready) {
	if g.role == Follower && g.lead != 0 {
		if g.owesBeat {
			g.takeBeat(rd)
		}
		if g.owesAck && g.mayLeave(wire.AppendResponse) {
			// G3: all that is durable and verified, however many appends it took.
			g.putAccepted(&rd.Messages, min(g.verified, g.log.durable))
			g.owesAck = false
		}
		if g.refuses() && g.mayLeave(wire.AppendResponse) {
			r := g.seldom.refusal
			m := g.put(&rd.Messages, wire.AppendResponse, g.lead)
			m.Reject, m.Index, m.Hint, m.LogTerm = true, r.index, r.hint, r.term
			g.seldom.refusal = nil
		}
	}
	if g.owesVote && g.mayLeave(wire.VoteResponse) {
		// G2
		g.put(&rd.Messages, wire.VoteResponse, g.vote)
		g.owesVote = false
	}
	if g.mayAskVotes() {
		g.takeVoteRequests(rd)
	}
}
