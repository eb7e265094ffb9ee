package group

import "multiraft/wire"

// handover is the leadership on its way to another replica (thesis, section
// 3.10):
//
//	TransferLeader ─▶ no proposals, target catches up ─▶ TimeoutNow ─▶ it campaigns
//	                     └──────── an election time-out passes ──▶ leader as before
//
// A TimeoutNow that was lost is sent again with the heartbeats.
type handover struct {
	target wire.ReplicaID // zero: nobody is to lead instead
	endAt  uint64         // when it is given up
	due    bool           // TimeoutNow is to be sent once the target is caught up
	// ordered says that a TimeoutNow left in this leadership. It may arrive at
	// any time, and who obeys does not wait for the leader to be silent.
	ordered bool
	// preferAt is when a replica of higher priority is looked for again.
	preferAt uint64
}

// contextForwarded in a Transfer says that a follower has passed it on. It goes
// no further, so that replicas that take each other for the leader do not send
// it round for ever.
const contextForwarded = 1

// TransferLeader has another voter lead. The leader takes no proposals
// (ErrTransferring) until that voter is caught up and campaigns, or an election
// time-out has passed. A follower asks its leader, without hearing how that
// ends; it returns ErrNoLeader when it knows none. ErrUnknownReplica and
// ErrLearner refuse targets that cannot lead. Naming the leader calls a
// transfer off.
func (g *Group) TransferLeader(to wire.ReplicaID) error {
	if g.fault != nil {
		return g.fault
	}
	slot, ok := g.slotOf(to)
	switch {
	case g.lead == 0:
		return ErrNoLeader
	case !ok:
		return ErrUnknownReplica
	case !g.incoming.has(slot):
		return ErrLearner
	case g.leading == nil:
		if to != g.lead {
			g.forwardTransfer(g.message(wire.Transfer, g.lead), to)
		}
		return nil
	}
	g.handOver(to)
	return nil
}

// handOver begins a transfer, or calls it off when to is the leader itself.
func (g *Group) handOver(to wire.ReplicaID) {
	h := &g.leading.handover
	switch to {
	case g.self:
		g.endHandOver()
	case h.target: // on its way, and its time runs
	default:
		h.target, h.due = to, true
		h.endAt = g.now + uint64(g.tuning.ElectionTicks)
	}
}

// forwardTransfer passes a request to hand over on to the leader.
func (g *Group) forwardTransfer(m wire.Message, to wire.ReplicaID) {
	m.Term = 0 // the kind has none
	m.Hint, m.Context = wire.Index(to), contextForwarded
	g.send(m)
}

// leaderTransfer takes a request of another member. Nobody waits for an answer.
func (g *Group) leaderTransfer(m *wire.Message) error {
	to := wire.ReplicaID(m.Hint)
	slot, ok := g.slotOf(to)
	if _, member := g.slotOf(m.From); member && ok && g.incoming.has(slot) {
		g.handOver(to)
	}
	return nil
}

// followerTransfer passes on a request that was meant for the leader.
func (g *Group) followerTransfer(m *wire.Message) error {
	if g.lead != 0 && g.lead != m.From && m.Context != contextForwarded {
		g.forwardTransfer(g.message(wire.Transfer, g.lead), wire.ReplicaID(m.Hint))
	}
	return nil
}

// mayOrder says whether the target of the transfer, which is to be told to
// campaign once it is caught up, is so.
//
//mr:hotpath
func (g *Group) mayOrder() bool {
	slot, ok := g.slotOf(g.leading.handover.target)
	return ok && g.leading.match[slot] == g.log.last()
}

// takeOrder tells the target of the transfer to campaign.
func (g *Group) takeOrder(rd *Ready) {
	h := &g.leading.handover
	rd.Messages = append(rd.Messages, g.message(wire.TimeoutNow, h.target))
	h.due, h.ordered = false, true
}

// tickTransfer gives up a transfer that took too long.
//
//mr:hotpath
func (g *Group) tickTransfer() {
	h := &g.leading.handover
	if h.target != 0 && g.now >= h.endAt {
		g.endHandOver()
	}
}

// endHandOver goes on leading. A joint configuration that was applied meanwhile
// could not be left, and nothing else need ever happen that makes up for it.
func (g *Group) endHandOver() {
	h := &g.leading.handover
	h.target, h.due = 0, false
	g.leaveByItself()
}

// followerTimeoutNow campaigns because the leader hands over; at once, or when
// the membership that is committed is applied.
func (g *Group) followerTimeoutNow(m *wire.Message) error {
	switch {
	case !g.isVoter() || m.From != g.lead || g.fitness == Hung:
	case g.awaitsChange():
		g.ordered = true
	default:
		g.campaign(true)
	}
	return g.Err()
}

// ForgetLeader makes a follower take its leader for dead, so that it grants
// votes to others before its time-out, for instance because the host knows that
// the leader's store is gone. It follows again when it hears from the leader.
// Who follows nobody has nothing to forget. While the leader may hold a lease it
// returns ErrPromised and does nothing.
func (g *Group) ForgetLeader() error {
	switch {
	case g.fault != nil:
		return g.fault
	case g.role != Follower || g.lead == 0:
		return nil
	case g.isPromised():
		return ErrPromised
	}
	g.lead = 0
	g.owesAck, g.owesBeat = false, false
	g.dropRefusal()
	g.dropReads()
	return nil
}

// priorityOf returns the priority of a member, zero if none was given.
//
//mr:hotpath
func (g *Group) priorityOf(slot int) uint8 { return g.priority[g.replica(slot)] }

// rank returns how many voters have a higher priority than this replica.
func (g *Group) rank() (rank int) {
	if len(g.priority) == 0 {
		return 0
	}
	own := g.priority[g.self]
	for slot := g.incoming.first(); slot < MaxReplicas; slot = g.incoming.next(slot) {
		if g.priorityOf(slot) > own {
			rank++
		}
	}
	return rank
}

// preferTicks is for how many election time-outs a leader of lower priority
// leads on after it tried to hand over: a replica that is caught up and does not
// manage to be elected must not keep the group from taking proposals.
const preferTicks = 4

// preferOther hands over to a voter of higher priority, the highest that is
// alive and caught up with what is committed. A leader that has not committed
// an entry of its term has more urgent things to do.
//
//mr:hotpath
func (g *Group) preferOther() {
	ld := g.leading
	h := &ld.handover
	if len(g.priority) == 0 || h.target != 0 || g.now < h.preferAt || g.commit < ld.firstIndex {
		return
	}
	best, bestSlot := g.priority[g.self], -1
	peers := g.incoming & g.others & ld.recentActive &^ ld.slow
	for slot := peers.first(); slot < MaxReplicas; slot = peers.next(slot) {
		if p := g.priorityOf(slot); p > best && ld.state[slot] == replicate && ld.match[slot] >= g.commit {
			best, bestSlot = p, slot
		}
	}
	if bestSlot >= 0 {
		h.preferAt = g.now + preferTicks*uint64(g.tuning.ElectionTicks)
		g.handOver(g.replica(bestSlot))
	}
}
