package group

import (
	"multiraft/internal/planted"
	"multiraft/wire"
)

// readQueue holds reads that wait for an index (thesis, section 6.4).
//
// The leader gathers requests, its own and those of followers, and at a Ready
// begins a *round* for all that have come: their read index is the commit index
// of that moment, and a Confirm with the number of the round goes to the other
// voters. Whoever answers was still in this leader's term after the requests came.
// When a quorum has answered that round or a later one, no newer leader can have
// committed anything before it began, and the requests are answered.
//
// The answer says nothing but the receiver's term, and promises nothing. A host
// that knows the term may give it without a turn of the group, as long as nothing
// that a replica says in a higher term has left. A Confirm or an answer may be
// lost; with the heartbeats, those who have not answered are asked again.
//
// Round numbers grow within a leadership and answers bear its term, so an answer
// that was delayed or repeated cannot confirm a round begun after it was sent.
//
// A follower sends the leader one request per Ready, bearing the context of the
// newest read; its answer serves all reads up to that one.
type readQueue struct {
	waiting []waitingRead // in order of arrival
	// begun of the waiting reads are on their way: in a round of the leader, or
	// sent by the follower.
	begun int
	done  []ReadState // answers for the next Ready
	// expireAt is when a follower gives up on what it has sent.
	expireAt uint64
	// committed is, on a follower, the last index that the leader has said is safe
	// to read at, and so is committed. The follower may not have the entries yet.
	committed wire.Index
}

// waitingRead is one read that waits.
type waitingRead struct {
	context uint64
	from    wire.ReplicaID // who asked, this replica or another
	round   uint64         // leader: the round that answers it, once begun
	index   wire.Index     // leader: the read index, once begun
}

const (
	// maxWaitingReads bounds the reads that wait in a group (G11); further ones
	// are refused with ErrBusy.
	maxWaitingReads = 1 << 14
	// maxReadRounds bounds the rounds on their way, so that a group with very
	// many single reads puts more of them into a round instead of asking more
	// often. More than one, so that a read does not always wait for the round in
	// front of it.
	maxReadRounds = 4
)

func (q *readQueue) empty() bool { return len(q.waiting) == 0 && len(q.done) == 0 }

// finish answers the first n waiting reads.
//
//mr:hotpath
func (q *readQueue) finish(n int) {
	rest := copy(q.waiting, q.waiting[n:])
	q.waiting = q.waiting[:rest]
	q.begun = max(0, q.begun-n)
}

// ReadIndex asks for an index at which reading is linearizable. The answer
// comes in Ready.Reads with the same context, which must not be used again by
// this replica, not even after a restart.
//
//mr:hotpath
func (g *Group) ReadIndex(context uint64) error {
	switch {
	case g.fault != nil:
		return g.fault
	case g.lead == 0:
		return ErrNoLeader
	}
	if !g.enqueueRead(context, g.self) {
		return ErrBusy
	}
	return nil
}

//mr:hotpath
func (g *Group) enqueueRead(context uint64, from wire.ReplicaID) bool {
	if g.reads == nil {
		g.reads = newReadQueue()
	}
	if len(g.reads.waiting) >= maxWaitingReads {
		return false
	}
	g.reads.waiting = append(g.reads.waiting, waitingRead{context: context, from: from})
	return true
}

// newReadQueue is apart from its only use so that the hot path shows no
// allocation: a group that is being read keeps its queue.
func newReadQueue() *readQueue { return &readQueue{expireAt: never} }

// leaderReadIndex takes a request of a follower.
//
//mr:hotpath
func (g *Group) leaderReadIndex(m *wire.Message) error {
	if _, ok := g.slotOf(m.From); !ok {
		return nil
	}
	if !g.enqueueRead(m.Context, m.From) {
		refusal := g.message(wire.ReadIndexResponse, m.From)
		refusal.Context, refusal.Reject = m.Context, true
		g.send(refusal)
	}
	return nil
}

// followerReadIndexResponse answers the reads that the request stood for.
//
//mr:hotpath
func (g *Group) followerReadIndexResponse(m *wire.Message) error {
	q := g.reads
	if q == nil || m.From != g.lead {
		return nil
	}
	if !m.Reject {
		// No Confirm tells of commits, and the reads shall not wait for a heartbeat.
		q.committed = max(q.committed, m.Index)
		g.setCommit(min(q.committed, g.verified))
	}
	for i := range q.waiting[:q.begun] {
		if q.waiting[i].context != m.Context {
			continue
		}
		for _, r := range q.waiting[:i+1] {
			q.done = append(q.done, ReadState{Context: r.context, Index: m.Index, Dropped: m.Reject})
		}
		q.finish(i + 1)
		q.expireAt = g.now + uint64(g.tuning.ElectionTicks) // the leader answers
		if q.begun == 0 {
			q.expireAt = never
		}
		return nil
	}
	return nil // answered or given up before
}

// mayBeginReads says whether reads wait that could be on their way. A leader
// first commits an entry of its term: before, its commit index may be behind
// that of the leader before it.
//
//mr:hotpath
func (g *Group) mayBeginReads() bool {
	q := g.reads
	if q == nil || q.begun == len(q.waiting) {
		return false
	}
	if ld := g.leading; ld != nil {
		return g.commit >= ld.firstIndex && ld.readRound-ld.readConfirmed < maxReadRounds
	}
	return g.role == Follower && g.lead != 0
}

//mr:hotpath
func (g *Group) readsReady() bool {
	return len(g.reads.done) > 0 || g.mayBeginReads()
}

// takeReads sends reads on their way and hands out answers.
//
// REQUIRES: g.reads is not nil.
//
//mr:hotpath
func (g *Group) takeReads(rd *Ready) {
	q := g.reads
	if g.mayBeginReads() {
		if g.leading != nil {
			g.beginRound()
		} else {
			m := g.message(wire.ReadIndex, g.lead)
			m.Term = 0 // the kind has none
			m.Context = q.waiting[len(q.waiting)-1].context
			rd.Messages = append(rd.Messages, m)
			if q.begun == 0 { // else the oldest has its time: others must not keep it waiting
				q.expireAt = g.now + uint64(g.tuning.ElectionTicks)
			}
			q.begun = len(q.waiting)
		}
	}
	rd.Reads = append(rd.Reads, q.done...)
	q.done = q.done[:0]
}

// beginRound begins a round for all reads that wait for one.
//
//mr:hotpath
func (g *Group) beginRound() {
	q, ld := g.reads, g.leading
	ld.readRound++
	if planted.Is(planted.ReadWithoutRound) {
		ld.readConfirmed = ld.readRound
	}
	for i := q.begun; i < len(q.waiting); i++ {
		q.waiting[i].round, q.waiting[i].index = ld.readRound, g.commit
	}
	q.begun = len(q.waiting)
	ld.confirms = (g.incoming | g.outgoing) & g.others
	g.confirmReads() // a single voter is a quorum
}

// askAgain asks the voters that have not confirmed the newest round once more.
//
//mr:hotpath
func (g *Group) askAgain() {
	ld := g.leading
	if ld.readRound == ld.readConfirmed {
		return
	}
	voters := (g.incoming | g.outgoing) & g.others
	for slot := voters.first(); slot < MaxReplicas; slot = voters.next(slot) {
		if ld.readAck[slot] < ld.readRound {
			ld.confirms = ld.confirms.with(slot)
		}
	}
}

// followerConfirm tells the leader that this replica is in its term.
//
//mr:hotpath
func (g *Group) followerConfirm(m *wire.Message) error {
	if err := g.follow(m); err != nil {
		return err
	}
	answer := g.message(wire.ConfirmResponse, m.From)
	answer.Context = m.Context
	g.send(answer)
	return nil
}

// candidateConfirm follows the leader that won instead.
func (g *Group) candidateConfirm(m *wire.Message) error {
	g.becomeFollower(g.term, m.From)
	return g.followerConfirm(m)
}

// leaderConfirmResponse counts who has confirmed a round.
//
//mr:hotpath
func (g *Group) leaderConfirmResponse(m *wire.Message) error {
	slot, ok := g.slotOf(m.From)
	if !ok {
		g.tellRemoved(m.From)
		return nil
	}
	ld := g.leading
	if m.Context > ld.readRound {
		return badMessage(m, "round %d has not begun", m.Context)
	}
	if m.Context > ld.readAck[slot] {
		ld.readAck[slot] = m.Context
		g.confirmReads()
	}
	return nil
}

// confirmReads answers the reads of rounds that a quorum has confirmed.
//
//mr:hotpath
func (g *Group) confirmReads() {
	q, ld := g.reads, g.leading
	ld.readConfirmed = max(ld.readConfirmed, ld.confirmedRound(int(g.slot), g.incoming, g.outgoing))
	if q == nil {
		return
	}
	n := 0
	for ; n < q.begun && q.waiting[n].round <= ld.readConfirmed; n++ {
		r := &q.waiting[n]
		if r.from == g.self {
			q.done = append(q.done, ReadState{Context: r.context, Index: r.index})
			continue
		}
		m := g.message(wire.ReadIndexResponse, r.from)
		m.Context, m.Index = r.context, r.index
		g.send(m)
	}
	if n > 0 {
		q.finish(n)
	}
}

// dropReads gives up on all reads, because leadership has changed. Followers
// that asked find out by themselves.
func (g *Group) dropReads() {
	q := g.reads
	if q == nil {
		return
	}
	for _, r := range q.waiting {
		if r.from == g.self {
			q.done = append(q.done, ReadState{Context: r.context, Dropped: true})
		}
	}
	q.waiting, q.begun, q.expireAt, q.committed = q.waiting[:0], 0, never, 0
}

// expireReads gives up on reads whose request or answer was lost.
//
//mr:hotpath
func (g *Group) expireReads() {
	if g.leading == nil && g.now >= g.reads.expireAt {
		g.dropReads()
	}
}
