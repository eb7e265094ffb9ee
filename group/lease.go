package group

import (
	"multiraft/internal/planted"
	"multiraft/wire"
)

// With leases a leader answers reads without asking first. It needs two promises:
//
//	a voter that hears from its leader grants no vote to others, and does not
//	campaign, for ElectionTicks by its own clock; a voter that starts again
//	waits as long as it may have promised before, because it has forgotten;
//
//	clocks of the stores do not differ in rate by more than MaxClockDrift percent.
//
// A heartbeat bears the tick in which it left, and so does its answer; the lease
// counts from the tick of heartbeats that a quorum has answered, not from that of
// the answers. A voter that starts again knows by its stored term that it may have
// promised: until the term of the leader is durable, answers bear no tick and so
// grant nothing (G16). Ticks are whole: what happened in tick t may have happened anywhere
// within it, which costs one tick on either side. Nothing but the answer to a
// heartbeat counts, because nothing else tells that a voter has promised.
//
// The answer says how long the promise lasts. So a voter without LeaseReads, which
// promises nothing, is not counted, and one with shorter time-outs or ticks than the
// leader's is counted for less: stores need not be switched together.
//
// An order to campaign does not wait for the silence of the leader, and may arrive
// at any time. So a leader that has sent one has no lease any more, and reads by
// ReadIndex until it is elected anew.
//
// REQUIRES: ticks are read from a clock that counts while the process stands
// still. The tick that Clock tells before Step was read after the message came, so
// that a voter's promise does not begin in the past.

// maxPromiseSpan bounds what is counted of a promise, some 26 days in nanoseconds,
// so that multiplying it by a percentage and by ticks stays far from overflow.
const maxPromiseSpan = 1 << 51

// tickSpan is how long a tick is: nanoseconds, or one where nobody told.
//
//mr:hotpath
func (t *Tuning) tickSpan() uint64 { return max(1, uint64(t.TickNanos)) }

// promiseSpan is how long a promise lasts at least, as the tick in which it begins
// may be nearly over.
//
//mr:hotpath
func (t *Tuning) promiseSpan() uint64 {
	return min(uint64(t.ElectionTicks-1), maxPromiseSpan/t.tickSpan()) * t.tickSpan()
}

// leaseTicks is how long a lease lasts that rests on a promise of span.
//
//mr:hotpath
func (t *Tuning) leaseTicks(span uint64) uint64 {
	span = min(span, maxPromiseSpan)
	if planted.Is(planted.LeaseWithoutMargin) {
		return span/t.tickSpan() + 1
	}
	ticks := span * uint64(100-t.MaxClockDrift) / 100 / t.tickSpan()
	return ticks - min(ticks, 1)
}

// promise notes that the leader was heard, and with that grants it a lease.
//
//mr:hotpath
func (g *Group) promise() {
	if g.tuning.LeaseReads {
		g.promisedTo = max(g.promisedTo, g.now+uint64(g.tuning.ElectionTicks))
	}
}

// isPromised says whether this replica owes a leader silence.
//
//mr:hotpath
func (g *Group) isPromised() bool {
	return g.now < g.promisedTo && !planted.Is(planted.LeaseWithoutPromise)
}

// noteBeat notes the tick in a heartbeat, which is to come back in the answer if
// this replica promises anything.
//
//mr:hotpath
func (g *Group) noteBeat(m *wire.Message) {
	g.owesBeat = true
	if g.tuning.LeaseReads || planted.Is(planted.LeaseFromTheSilent) {
		g.beatContext = max(g.beatContext, m.Context)
	}
}

// takeBeat answers the heartbeats that came since the last answer.
//
//mr:hotpath
func (g *Group) takeBeat(rd *Ready) {
	m := g.put(&rd.Messages, wire.HeartbeatResponse, g.lead)
	if g.beatContext > 0 && g.hardDurable() { // G16
		m.Context = g.beatContext
		m.Hint = wire.Index(g.tuning.promiseSpan())
	}
	g.owesBeat = false
}

// leaseContext is what a heartbeat carries: the tick in which it leaves. It comes
// back in the answer, so that nothing about heartbeats has to be remembered.
//
//mr:hotpath
func (g *Group) leaseContext() uint64 {
	if g.tuning.LeaseReads {
		return g.now
	}
	return 0
}

// Lost tells that of the ticks that Clock has told, the last few passed without
// this replica: the process stood still, or the clock jumped. Who was silent in that
// time is not known, so campaigns wait for as long again, and so do promises: by
// another clock less time may have passed. Leases do not, they end.
func (g *Group) Lost(ticks uint64) {
	if ld := g.leading; ld != nil {
		ld.quorumAt += ticks
	} else {
		g.electionAt += ticks
	}
	if g.promisedTo > g.now-min(g.now, ticks) {
		g.promisedTo += ticks
	}
}

// extendLease counts the promise that an answer tells of.
//
//mr:hotpath
func (g *Group) extendLease(slot int, m *wire.Message) {
	ld, since, span := g.leading, m.Context, uint64(m.Hint)
	if planted.Is(planted.LeaseFromAnswer) {
		since = g.now
	}
	if planted.Is(planted.LeaseBySelf) {
		span = g.tuning.promiseSpan()
	}
	if since == 0 || since < ld.leaseFrom {
		return
	}
	ld.leaseUntil[slot] = max(ld.leaseUntil[slot], since+g.tuning.leaseTicks(span))
}

// voidLease ends the lease. Heartbeats that left before tick from do not count.
func (ld *leading) voidLease(from uint64) {
	ld.leaseFrom = from
	clear(ld.leaseUntil[:])
}

// VoidLease ends what leases this replica holds, because the clock that they were
// measured with was wrong. They are earned anew.
func (g *Group) VoidLease() {
	if ld := g.leading; ld != nil {
		ld.voidLease(g.now + 1)
	}
}

// LeaseIndex returns an index at which reading is linearizable, and the first tick
// at which that is not known any more. now is the tick, read after the read came.
// A host that keeps ticks in a variable reads the machine, then the clock, and
// serves what it has read only if it is not until yet: the process may have stood
// still. When ok is false, ReadIndex is left.
//
//mr:hotpath
func (g *Group) LeaseIndex(now uint64) (index wire.Index, until uint64, ok bool) {
	ld := g.leading
	if g.fault != nil || ld == nil || !g.tuning.LeaseReads || !g.isVoter() ||
		(ld.handover.target != 0 || ld.handover.ordered) && !planted.Is(planted.LeaseOverTransfer) ||
		g.commit < ld.firstIndex && !planted.Is(planted.LeaseBeforeOwnEntry) || now < g.now {
		return 0, 0, false
	}
	var ends [MaxReplicas]wire.Index // the quorum arithmetic is that of indexes
	for slot := range ld.leaseUntil {
		ends[slot] = wire.Index(ld.leaseUntil[slot])
	}
	ends[g.slot] = wire.Index(now + g.tuning.leaseTicks(g.tuning.promiseSpan()))
	until = uint64(jointCommitIndex(&ends, g.incoming, g.outgoing))
	if now < ld.leaseFrom || now >= until {
		return 0, 0, false
	}
	return g.commit, until, true
}
