package group

import (
	"math"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// maxTerm is a term that cannot be followed by another.
const maxTerm = wire.Term(math.MaxUint64)

// admit deals with a message whose term is not the current one, by the rules of
// its kind, and says whether it is still to be handled.
func (g *Group) admit(m *wire.Message) bool {
	higher, lower := termRuleOf(m.Kind)
	if m.Term < g.term {
		if planted.Is(planted.NoTermCheck) {
			return true
		}
		g.answerOld(m, lower)
		return false
	}
	if g.refusesToHear(m) {
		g.tellRemoved(m.From)
		return false
	}
	switch higher {
	case adopt:
		g.adoptTerm(m.Term)
	case adoptLeader:
		g.becomeFollower(m.Term, m.From)
	case keepUnlessRejected:
		if m.Reject {
			g.adoptTerm(m.Term)
		}
	case keepTerm:
		if planted.Is(planted.PreVoteAdopts) {
			g.becomeFollower(m.Term, 0)
		}
	}
	return true
}

// adoptTerm enters a higher term that a replica has which is not known to lead.
//
// Whoever waits for a leader waits on: only a leader, and a candidate that gets the
// vote, start the wait anew (thesis, figure 3.1). One that cannot win, but waits
// less than the others each time, as they are slow or of lower priority, would keep
// them from campaigning for ever.
func (g *Group) adoptTerm(term wire.Term) {
	led, timeout, electionAt := g.role == Leader, g.timeout, g.electionAt
	g.becomeFollower(term, 0)
	if !led {
		g.timeout, g.electionAt = timeout, electionAt
	}
}

// refusesToHear says whether m asks for a vote in a higher term while a leader
// is known to be alive (thesis, section 4.2.3). Such a message is dropped, term
// and all, so that a replica that was cut off or removed cannot disturb the
// group. A campaign that the leader ordered is heard.
func (g *Group) refusesToHear(m *wire.Message) bool {
	if m.Kind != wire.Vote && m.Kind != wire.PreVote || m.Context == contextTransfer {
		return false
	}
	return !g.tuning.DisableCheckQuorum && (g.hasLiveLeader() || g.isPromised())
}

// hasLiveLeader says whether the leader was heard from within the shortest
// election time-out. A leader hears itself: check-quorum makes it step down
// when the others do not.
func (g *Group) hasLiveLeader() bool {
	if g.role == Leader {
		return true
	}
	heardAt := g.electionAt - uint64(g.timeout)
	return g.lead != 0 && g.now < heardAt+uint64(g.tuning.ElectionTicks)
}

// answerOld tells the sender of a message of a past term what it needs to know.
func (g *Group) answerOld(m *wire.Message, rule lowTermRule) {
	switch rule {
	case answerOldLeader:
		// It may have been cut off while the others went on. With pre-vote it
		// would never hear of the newer term otherwise: this replica, if it is
		// the one that was cut off, cannot win and keeps its term to itself.
		g.send(g.message(wire.HeartbeatResponse, m.From))
	case refuseOld:
		// Without an answer, replicas that lost their leader in different terms
		// could ask each other for ever; and so could candidates of which only one
		// asks the other, as one knows of a newer membership, and is behind it.
		refusal := g.message(wire.PreVoteResponse, m.From)
		if m.Kind == wire.Vote {
			refusal.Kind = wire.VoteResponse
		}
		g.refuseVote(refusal, g.commit)
	case ignoreOld:
	}
	if m.Kind == wire.Vote || m.Kind == wire.PreVote {
		// A member that campaigns in old terms hears of the new ones from whom it
		// follows then. One that was removed follows nobody, and would go on behind
		// the terms of the others for as long as those have no leader either.
		g.tellRemoved(m.From)
	}
}
