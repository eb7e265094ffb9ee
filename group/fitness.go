package group

import "multiraft/wire"

// Fitness is how well the host of a replica makes things durable. It changes who
// leads, and never what is safe: a promise leaves when it is durable, however long
// that takes.
type Fitness uint8

const (
	// Fit is the normal case.
	Fit Fitness = iota
	// Slow: others should lead. A leader hands over to a voter that is caught up and
	// not known to be slow itself, and goes on when there is none. A follower waits
	// for two election time-outs longer before it campaigns, so that any other goes
	// first; followers tell their leader.
	Slow
	// Hung: nothing becomes durable any more. A leader steps down, if there are other
	// voters, so that its silence lets them campaign, and the replica neither campaigns nor grants
	// pre-votes: neither its own vote nor one for others would ever count.
	Hung
)

var fitnessNames = [...]string{"fit", "slow", "hung"}

// String returns the name of f.
func (f Fitness) String() string {
	if int(f) >= len(fitnessNames) {
		return "unknown fitness"
	}
	return fitnessNames[f]
}

// hintSlow in the answer that accepts an append says that the sender is not fit.
const hintSlow = 1

// slowPatience is for how many election time-outs a replica that is not fit lets
// others campaign first. The longest wait of a fit one is two.
const slowPatience = 2

// Fitness returns what SetFitness told last.
func (g *Group) Fitness() Fitness { return g.fitness }

// SetFitness tells the group how its host fares. It may come at any time and is
// cheap; what follows from it happens in the next Tick and Ready.
func (g *Group) SetFitness(f Fitness) {
	if g.fault != nil || f == g.fitness {
		return
	}
	was := g.fitness
	g.fitness = f
	switch {
	case was == Fit:
		// The longer wait counts from when the leader was heard last.
		more := slowPatience * uint64(g.tuning.ElectionTicks)
		g.timeout += uint32(more)
		g.electionAt += more
	case f == Fit:
		g.drawTimeout()
		g.electionAt = min(g.electionAt, g.now+uint64(g.timeout))
	}
	if g.leading != nil {
		if g.mustYield() {
			g.becomeFollower(g.term, 0)
		} else if f != Fit {
			g.leading.heartbeatAt = g.now // when it yields
		}
		return
	}
	if (was == Fit) != (f == Fit) && g.role == Follower && g.lead != 0 && g.verified > 0 {
		g.owesAck = true // which tells the leader
	}
}

// mustYield says whether this replica must not lead: nothing becomes durable here,
// and there are others who could. A group that has no other voter gains nothing.
func (g *Group) mustYield() bool {
	return g.fitness == Hung && (g.incoming|g.outgoing)&g.others != 0
}

// hears notes what an answer that accepts an append says of its sender.
//
//mr:hotpath
func (ld *leading) hears(slot int, m *wire.Message) {
	ld.owing = ld.owing.without(slot)
	if slow := m.Hint == hintSlow; slow != ld.slow.has(slot) {
		if slow {
			ld.slow = ld.slow.with(slot)
		} else {
			ld.slow = ld.slow.without(slot)
		}
	}
}

// yield hands over because this replica is not fit, to the voter that is: the one
// of the highest priority, and of these the one with the longest log. A voter whose disk
// hangs cannot say so, as nothing that it accepts becomes durable, and would ignore the
// order; so those that owe an answer for longer come last. They are not ruled out: all
// of them may owe one, if what slows this replica down slows the network.
// A leader that has not committed an entry of its term has no log yet that others could
// be caught up with.
func (g *Group) yield() {
	ld := g.leading
	h := &ld.handover
	if h.target != 0 || g.now < h.preferAt || g.commit < ld.firstIndex {
		return
	}
	best := -1
	peers := g.incoming & g.others & ld.recentActive &^ ld.slow
	for slot := peers.first(); slot < MaxReplicas; slot = peers.next(slot) {
		if ld.state[slot] != replicate || ld.match[slot] < g.commit {
			continue
		}
		if best < 0 || g.yieldsRather(slot, best) {
			best = slot
		}
	}
	if best >= 0 {
		h.preferAt = g.now + preferTicks*uint64(g.tuning.ElectionTicks)
		g.handOver(g.replica(best))
	}
}

// yieldsRather says whether a voter is to lead rather than another one.
func (g *Group) yieldsRather(slot, than int) bool {
	ld := g.leading
	if owes := ld.owing.has(slot); owes != ld.owing.has(than) {
		return !owes
	}
	if a, b := g.priorityOf(slot), g.priorityOf(than); a != b {
		return a > b
	}
	return ld.match[slot] > ld.match[than]
}
