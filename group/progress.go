package group

import "multiraft/wire"

// leading is what only a leader needs. It lives from the election to the end of
// the leadership.
//
// Progress of a peer moves between three states:
//
//	          accepted                 refused, Unreachable
//	probe ───────────────▶ replicate ──────────────────────▶ probe
//	  │                        │
//	  └── entries it needs ────┴──▶ snapshot ── it has them ──▶ probe
//	      are compacted
//
// In probe, one append is on its way at a time and next stays where it is until
// the answer: the peer is paused. In replicate, next moves as appends are sent,
// and the inflight window bounds how far. In snapshot, no entries are sent.
type leading struct {
	progressTable
	flights []inflights // by slot; used in replicate

	beats    replicaSet // to be sent a heartbeat by the next Ready
	nudges   replicaSet // to be sent an empty append by the next Ready
	confirms replicaSet // to be asked by the next Ready to confirm the newest read round
	slow     replicaSet // said in their last answers that they are not fit to lead
	owing    replicaSet // owed an answer to an append when heartbeats were due last, and have accepted none since

	heartbeatAt uint64 // when heartbeats are due
	quorumAt    uint64 // when the quorum is checked
	commitAt    uint64 // when active peers are told of a commit index; never if all know

	handover handover

	firstIndex       wire.Index // the empty entry of this leader; all behind it are of its term
	pendingConfig    wire.Index // no membership is appended before this entry is applied (G15)
	uncommittedBytes int        // payloads proposed in this term and not committed

	leaseFrom uint64 // heartbeats that left before do not count for a lease

	readRound     uint64 // the newest round of reads begun
	readConfirmed uint64 // the newest round a quorum has confirmed
}

// newLeading returns the tables of a leader whose log ends at last.
func newLeading(slots int, last wire.Index) *leading {
	ld := &leading{flights: make([]inflights, slots), commitAt: never}
	for slot := range slots {
		ld.next[slot] = last + 1
	}
	return ld
}

// becomeProbe starts over from the last entry known to match.
func (ld *leading) becomeProbe(slot int) {
	ld.state[slot] = probe
	ld.next[slot] = ld.match[slot] + 1
	ld.flights[slot].reset()
	ld.paused = ld.paused.without(slot)
	ld.nudges = ld.nudges.without(slot)
	ld.snapshotDue = ld.snapshotDue.without(slot)
	ld.snapshotSending = ld.snapshotSending.without(slot)
}

// becomeReplicate sends ahead of answers from the last matching entry on.
func (ld *leading) becomeReplicate(slot int) {
	ld.becomeProbe(slot)
	ld.state[slot] = replicate
}

// becomeSnapshot stops sending entries until the peer has at least entry index,
// and has a snapshot sent to it.
func (ld *leading) becomeSnapshot(slot int, index wire.Index) {
	ld.becomeProbe(slot)
	ld.state[slot] = snapshot
	ld.snapshotNeeded(slot, index)
}

// sendable says whether an append may go to a peer, log being the last entry.
//
//mr:hotpath
func (ld *leading) sendable(slot int, last wire.Index, t *Tuning) bool {
	switch ld.state[slot] {
	case probe:
		return !ld.paused.has(slot)
	case replicate:
		return ld.next[slot] <= last && !ld.flights[slot].full(t)
	}
	return false
}

// unanswered says whether a peer that is alive owes an answer, or could give one,
// without which nothing more is sent to it.
//
//mr:hotpath
func (ld *leading) unanswered(slot int) bool {
	return ld.state[slot] == snapshot ||
		ld.state[slot] == replicate && ld.match[slot]+1 < ld.next[slot]
}

// sent notes an append with entries [next, hi) to a peer.
//
//mr:hotpath
func (ld *leading) sent(slot int, hi wire.Index, bytes int) {
	if ld.state[slot] == probe {
		ld.paused = ld.paused.with(slot)
		return
	}
	if hi > ld.next[slot] {
		ld.next[slot] = hi
		ld.flights[slot].add(hi-1, bytes)
	}
}

// accepted notes that a peer's durable log matches up to index.
//
//mr:hotpath
func (ld *leading) accepted(slot int, index wire.Index) {
	ld.match[slot] = max(ld.match[slot], index) // G8
	ld.next[slot] = max(ld.next[slot], ld.match[slot]+1)
	switch ld.state[slot] {
	case probe:
		// An old answer below match says nothing about what was probed.
		if index == ld.match[slot] {
			ld.becomeReplicate(slot)
		}
	case replicate:
		ld.flights[slot].freeTo(index)
	case snapshot:
		if ld.match[slot] >= ld.pendingSnapshot[slot] {
			ld.becomeReplicate(slot)
		}
	}
}

// refused notes that the entry index of a peer's log does not match, and that
// no entry behind hint can. It returns false for an answer that is out of date.
func (ld *leading) refused(slot int, index, hint wire.Index) bool {
	switch ld.state[slot] {
	case replicate:
		if index <= ld.match[slot] || index >= ld.next[slot] {
			return false
		}
		ld.becomeProbe(slot)
	case probe:
		if index != ld.next[slot]-1 {
			return false
		}
		ld.next[slot] = max(min(index, hint+1), ld.match[slot]+1)
		ld.paused = ld.paused.without(slot)
	default:
		return false
	}
	return true
}

// deadline returns when the leader has something to do by itself.
//
//mr:hotpath
func (ld *leading) deadline(others replicaSet) uint64 {
	if others == 0 {
		return never
	}
	return min(ld.heartbeatAt, ld.quorumAt, ld.commitAt)
}

// confirmedRound returns the newest round of reads that a quorum has answered.
func (ld *leading) confirmedRound(self int, incoming, outgoing replicaSet) uint64 {
	var rounds [MaxReplicas]wire.Index // the quorum arithmetic is that of indexes
	for slot := range ld.readAck {
		rounds[slot] = wire.Index(ld.readAck[slot])
	}
	if self != noSlot {
		rounds[self] = wire.Index(ld.readRound)
	}
	return uint64(jointCommitIndex(&rounds, incoming, outgoing))
}
