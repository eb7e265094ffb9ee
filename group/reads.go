package group

import "multiraft/wire"

// readQueue holds reads that wait for an index (thesis, section 6.4).
//
// The leader gathers requests, its own and those of followers, and at a Ready
// begins a *round* for all that have come: their read index is the commit index
// of that moment, and heartbeats that carry the number of the round go to the
// other voters. Whoever answers still followed this leader after the requests
// came. When a quorum has answered that round or a later one, no newer leader
// can have committed anything before it began, and the requests are answered.
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
	// many single reads puts more of them into a round instead of sending more
	// heartbeats. More than one, so that a read does not always wait for the
	// round in front of it.
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
	for i := range q.waiting[:q.begun] {
		if q.waiting[i].context != m.Context {
			continue
		}
		for _, r := range q.waiting[:i+1] {
			q.done = append(q.done, ReadState{Context: r.context, Index: m.Index, Dropped: m.Reject})
		}
		q.finish(i + 1)
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
			q.expireAt = g.now + uint64(g.tuning.ElectionTicks)
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
	g.newRound()
	for i := q.begun; i < len(q.waiting); i++ {
		q.waiting[i].round, q.waiting[i].index = ld.readRound, g.commit
	}
	q.begun = len(q.waiting)
	ld.beats |= (g.incoming | g.outgoing) & g.others
	g.confirmReads() // a single voter is a quorum
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
	q.waiting, q.begun, q.expireAt = q.waiting[:0], 0, never
}

// expireReads gives up on reads whose request or answer was lost.
//
//mr:hotpath
func (g *Group) expireReads() {
	if g.leading == nil && g.now >= g.reads.expireAt {
		g.dropReads()
	}
}
