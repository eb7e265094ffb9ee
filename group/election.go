package group

import (
	"multiraft/internal/planted"
	"multiraft/wire"
)

// contextTransfer in a vote request marks a campaign that the leader ordered.
const contextTransfer = 1

// drawTimeout draws how long to wait for a leader. Different waits keep
// replicas from campaigning together again and again (thesis, section 3.4).
// With priorities, the range is cut into slices and higher ones draw from
// earlier slices.
func (g *Group) drawTimeout() {
	e := uint64(g.tuning.ElectionTicks)
	start, width := uint64(0), e
	if len(g.priority) > 0 {
		width = max(1, e/prioritySlices)
		start = width * uint64(min(g.rank(), prioritySlices-1))
	}
	if g.fitness != Fit {
		start += slowPatience * e
	}
	g.timeout = uint32(e + start + g.rand.Uint64()%width)
}

// prioritySlices is into how many slices priorities cut the election time-out.
const prioritySlices = 4

// hearLeader starts the wait for the leader anew.
//
//mr:hotpath
func (g *Group) hearLeader() { g.electionAt = g.now + uint64(g.timeout) }

// leave ends what the replica was doing in its role.
func (g *Group) leave() {
	// Proposals stay in the log, for the next leader to keep or to replace.
	g.log.seal(g.id, 0, nil)
	g.lead = 0
	g.leading = nil
	g.votes = tally{}
	g.dropOffer()
	g.asksVotes, g.votedSelf, g.transfer = false, false, false
	g.dropReads()
	g.drawTimeout()
	g.hearLeader()
}

// enterTerm moves to a higher term (G1). What was owed to the leader or a
// candidate of the old one is void.
func (g *Group) enterTerm(term wire.Term) {
	g.term, g.vote = term, 0
	g.hardChanged = true
	g.owesVote, g.owesAck, g.owesBeat = false, false, false
	g.dropRefusal()
	g.ordered = false
	g.verified, g.answered, g.beatContext = 0, 0, 0
}

// becomeFollower follows lead, zero if unknown, in a term that is the current
// one or higher.
func (g *Group) becomeFollower(term wire.Term, lead wire.ReplicaID) {
	if term > g.term {
		g.enterTerm(term)
	}
	g.leave()
	g.role, g.lead = Follower, lead
}

// Campaign starts an election at once. A group that never had a term goes
// straight to the votes: there is no leader whom it could disturb.
func (g *Group) Campaign() error {
	switch {
	case g.fault != nil:
		return g.fault
	case g.isWounded() && !planted.Is(planted.CampaignWounded):
		return ErrWounded
	case !g.isVoter():
		return ErrNotVoter
	case g.role == Leader:
		return nil
	case g.isPromised():
		return ErrPromised
	case g.fitness == Hung:
		return ErrHung
	case g.awaitsChange():
		if g.fault != nil {
			return g.fault
		}
		return ErrAwaitsChange
	case g.term == 0:
		g.becomeCandidate(false)
	default:
		g.campaign(false)
	}
	return g.Err()
}

// campaign asks for pre-votes, or for votes where those are switched off or the
// leader ordered the campaign.
func (g *Group) campaign(transfer bool) {
	if transfer || g.tuning.DisablePreVote {
		g.becomeCandidate(transfer)
		return
	}
	// Neither term nor vote change: a campaign that cannot win leaves no trace
	// (thesis, section 9.6).
	g.leave()
	g.role = PreCandidate
	g.asksVotes = true
	g.votes.record(int(g.slot), true)
	g.countPreVotes()
}

// becomeCandidate votes for itself in a new term. Neither this vote nor the
// requests for others' count before it is durable (G2).
func (g *Group) becomeCandidate(transfer bool) {
	if g.term >= maxTerm-1 {
		_ = g.fail("G1", 0, "no term is left behind %d", g.term) // kept in g.fault
		return
	}
	g.enterTerm(g.term + 1)
	g.leave()
	g.role = Candidate
	g.vote = g.self
	g.transfer = transfer
}

// voteSelf counts the candidate's own vote, which is durable, and asks for the
// others'.
func (g *Group) voteSelf() {
	g.votedSelf = true
	g.asksVotes = true
	g.votes.record(int(g.slot), true)
	g.countVotes()
}

//mr:hotpath
func (g *Group) mayAskVotes() bool {
	return g.asksVotes && (g.role == PreCandidate || g.mayLeave(wire.Vote))
}

// takeVoteRequests asks all other voters, once per campaign: a lost request is
// made good by the next campaign.
func (g *Group) takeVoteRequests(rd *Ready) {
	g.asksVotes = false
	request := g.message(wire.Vote, 0)
	if g.role == PreCandidate {
		request.Kind = wire.PreVote
		request.Term++
	}
	request.Index, request.LogTerm = g.log.last(), g.log.lastTerm()
	if g.transfer {
		request.Context = contextTransfer
	}
	voters := (g.incoming | g.outgoing) & g.others
	for slot := voters.first(); slot < MaxReplicas; slot = voters.next(slot) {
		request.To = g.replica(slot)
		rd.Messages = append(rd.Messages, request)
	}
}

// handleVote answers a Vote or PreVote in any role. Whether this replica is a
// voter does not matter: a candidate asks whom it takes for one, and may know
// of a newer membership.
func (g *Group) handleVote(m *wire.Message) error {
	g.tellRemoved(m.From)
	if g.isPromised() && m.Context != contextTransfer {
		return nil // the term may be that of the candidate by another message
	}
	// A pre-vote for a higher term does not depend on the vote of this one.
	free := m.Kind == wire.PreVote && m.Term > g.term ||
		g.vote == m.From || g.vote == 0 && g.lead == 0 || planted.Is(planted.VoteTwice)
	hung := m.Kind == wire.PreVote && g.fitness == Hung
	if !free || hung || !g.upToDate(m.Index, m.LogTerm) {
		refusal := g.message(wire.VoteResponse, m.From)
		if m.Kind == wire.PreVote {
			refusal.Kind = wire.PreVoteResponse
		}
		g.refuseVote(refusal, g.commit)
		return nil
	}
	if m.Kind == wire.PreVote {
		grant := g.message(wire.PreVoteResponse, m.From)
		grant.Term = m.Term
		g.send(grant)
		return nil
	}
	if g.vote != m.From {
		g.vote = m.From
		g.hardChanged = true
	}
	g.owesVote = true
	g.hearLeader() // it gets its chance before this replica campaigns itself
	return nil
}

// refuseVote sends a refusal, with an entry that is committed here. A candidate that
// has it too learns so, and may so find out that the membership it campaigns in is
// past: the leader it cannot win against may have been removed and be silent.
func (g *Group) refuseVote(refusal wire.Message, committed wire.Index) {
	refusal.Reject = true
	if term, err := g.log.term(committed); err == nil && term > 0 {
		refusal.Commit, refusal.LogTerm = committed, term
	}
	g.send(refusal)
}

// learnCommit learns from a refusal what is committed. It ends a campaign in a
// membership that is past then (G15).
func (g *Group) learnCommit(m *wire.Message) {
	if !m.Reject || m.LogTerm == 0 || m.Commit <= g.commit || m.Commit > g.log.last() {
		return
	}
	if term, err := g.log.term(m.Commit); err != nil || term != m.LogTerm {
		return
	}
	g.setCommit(m.Commit)
	if g.role != Follower && g.awaitsChange() {
		g.becomeFollower(g.term, 0)
	}
}

// followerVoteResponse is too late for the campaign it answers.
func (g *Group) followerVoteResponse(m *wire.Message) error {
	g.learnCommit(m)
	return nil
}

// upToDate says whether a log that ends at the given entry holds all committed
// entries as far as this replica can tell (thesis, section 3.6.1).
func (g *Group) upToDate(index wire.Index, term wire.Term) bool {
	lastTerm := g.log.lastTerm()
	if planted.Is(planted.VoteForAnyLog) {
		return true
	}
	return term > lastTerm || term == lastTerm && index >= g.log.last()
}

// preCandidateResponse counts a pre-vote. A grant bears the term that was asked
// for; one from an earlier campaign bears a lower one. Logs only grow within a
// term, so whoever granted the same term before would do so again.
func (g *Group) preCandidateResponse(m *wire.Message) error {
	g.learnCommit(m)
	slot, ok := g.slotOf(m.From)
	if g.role != PreCandidate || !ok || !m.Reject && m.Term != g.term+1 {
		return nil
	}
	g.votes.record(slot, !m.Reject)
	g.countPreVotes()
	return nil
}

func (g *Group) countPreVotes() {
	switch g.votes.result(g.incoming, g.outgoing) {
	case voteWon:
		g.becomeCandidate(false)
	case voteLost:
		g.becomeFollower(g.term, 0)
	case votePending:
	}
}

// candidateResponse counts a vote.
func (g *Group) candidateResponse(m *wire.Message) error {
	g.learnCommit(m)
	slot, ok := g.slotOf(m.From)
	if g.role != Candidate || !ok {
		return nil
	}
	g.votes.record(slot, !m.Reject)
	g.countVotes()
	return nil
}

func (g *Group) countVotes() {
	outgoing := g.outgoing
	if planted.Is(planted.IgnoreOutgoing) {
		outgoing = 0
	}
	switch g.votes.result(g.incoming, outgoing) {
	case voteWon:
		if g.mustYield() {
			g.becomeFollower(g.term, 0)
			return
		}
		g.becomeLeader()
	case voteLost:
		g.becomeFollower(g.term, 0)
	case votePending:
	}
}

// candidateAppend follows the leader that won instead.
func (g *Group) candidateAppend(m *wire.Message) error {
	g.becomeFollower(g.term, m.From)
	return g.followerAppend(m)
}

// candidateHeartbeat follows the leader that won instead.
func (g *Group) candidateHeartbeat(m *wire.Message) error {
	g.becomeFollower(g.term, m.From)
	return g.followerHeartbeat(m)
}

// secondLeader is two leaders in one term (G10): one of them, or a voter, has
// forgotten what it promised.
func (g *Group) secondLeader(m *wire.Message) error {
	return g.fail("G10", m.Index, "replica %d leads too", m.From)
}
