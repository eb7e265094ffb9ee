package group

import (
	"multiraft/internal/planted"
	"multiraft/wire"
)

// advanceCommit commits what a quorum has. Entries of earlier terms are not
// committed by counting them: they follow the first of this term (G5; thesis,
// section 3.6.2).
//
//mr:hotpath
func (g *Group) advanceCommit() {
	ld := g.leading
	if planted.Is(planted.CountUnsynced) {
		ld.match[g.slot] = g.log.last()
	}
	index := jointCommitIndex(&ld.match, g.incoming, g.outgoing)
	if planted.Is(planted.IgnoreOutgoing) {
		index = jointCommitIndex(&ld.match, g.incoming, 0)
	}
	if planted.Is(planted.CommitMinority) {
		index = ld.match[g.slot]
	}
	if index <= g.commit || index < ld.firstIndex && !planted.Is(planted.CommitOldTerm) {
		return
	}
	from := max(g.commit+1, ld.firstIndex)
	g.setCommit(index)
	g.uncount(from)
	g.informSoon()
}

// setCommit raises the commit index; it never falls (G5).
//
//mr:hotpath
func (g *Group) setCommit(index wire.Index) {
	g.commit = max(g.commit, index)
}

// uncount takes what was committed from index from on off the bytes that count
// against MaxUncommittedBytes. Uncommitted blocks are in memory, and a block
// counts until all of it is committed.
//
//mr:hotpath
func (g *Group) uncount(from wire.Index) {
	live := g.log.live()
	for i := g.log.locate(from); i < len(live) && live[i].last <= g.commit; i++ {
		if live[i].block.Kind() == wire.EntryCommand {
			g.leading.uncommittedBytes -= len(live[i].block) - wire.BlockHeaderBytes
		}
	}
}

// handOut is how far entries were given to the state machine, and how many
// bytes it has yet to apply. Bytes are counted in two portions, so that handing
// out goes on while the first is being applied and no list of sizes is needed.
type handOut struct {
	last       wire.Index // the last entry handed out
	firstEnd   wire.Index // the last entry of the first portion
	firstBytes int
	restBytes  int // behind the first portion
}

// add notes entries up to last.
//
//mr:hotpath
func (h *handOut) add(last wire.Index, bytes int) {
	if h.firstBytes == 0 {
		h.firstEnd, h.firstBytes = last, bytes
	} else {
		h.restBytes += bytes
	}
	h.last = last
}

// applied notes that entries up to index are applied.
//
//mr:hotpath
func (h *handOut) applied(index wire.Index) {
	if index >= h.firstEnd {
		h.firstEnd, h.firstBytes, h.restBytes = h.last, h.restBytes, 0
	}
	if index >= h.last {
		h.firstBytes, h.restBytes = 0, 0
	}
}

// storedBatch bounds the entries handed out at once that must be read from
// storage; their bytes are not known, so they fill a whole hand-out.
const storedBatch = 1 << 14

// toHandOut says whether takeCommitted has anything to give.
//
//mr:hotpath
func (g *Group) toHandOut() bool {
	// G6. The commit index may be ahead of this replica's disk. What was applied
	// and then lost with the log would be ahead of it after a restart.
	return !g.isWounded() && !g.isChanging() && g.handed.last < min(g.commit, g.log.durable) &&
		g.handed.firstBytes+g.handed.restBytes < g.tuning.MaxCommittedBytes
}

// HoldsCommitted says whether entries that could be applied stay here until
// Applied has told of those handed out, or HoldCommitted is off.
//
//mr:hotpath
func (g *Group) HoldsCommitted() bool {
	return g.fault == nil && !g.isWounded() && g.handed.last < min(g.commit, g.log.durable)
}

// takeCommitted hands out entries to apply.
//
//mr:hotpath
func (g *Group) takeCommitted(rd *Ready) {
	if rd.HoldCommitted || !g.toHandOut() {
		return
	}
	first, last := g.handed.last+1, min(g.commit, g.log.durable)
	rd.CommittedFirst = first
	size := 0
	if g.log.unread(first) {
		size = g.takeUnread(rd, last)
	}
	if c := g.log.configs; c != nil {
		if len(c.at) > 0 {
			last = min(last, c.at[0])
		}
		if g.log.scanning() {
			last = min(last, c.next-1) // any behind it may be a membership
		}
	}
	switch {
	case len(rd.Committed) > 0:
		rd.CommittedLast = min(last, rd.Committed[len(rd.Committed)-1].Last())
		g.handed.add(rd.CommittedLast, size)
	case first <= g.log.base:
		rd.CommittedLast = min(last, g.log.base, first+storedBatch-1)
		g.handed.add(rd.CommittedLast, g.tuning.MaxCommittedBytes)
	default:
		g.takeLive(rd, first, last)
	}
	if g.log.configs != nil {
		g.takeChange(rd)
		g.log.passConfigs(rd.CommittedLast)
	}
}

// takeUnread hands out entries up to last that were stored when the group was
// made, and returns their bytes. They are read here, and not by the caller,
// because any of them may be a membership.
func (g *Group) takeUnread(rd *Ready, last wire.Index) (size int) {
	blocks, err := g.log.readConfigs(last, g.tuning.MaxCommittedBytes)
	if err != nil {
		_ = g.fail("G13", g.log.configs.next, "entries to apply: %w", err) // kept in g.fault
		return 0
	}
	rd.Committed = append(rd.Committed, blocks...)
	for _, b := range blocks {
		size += len(b)
	}
	return size
}

// takeLive hands out entries [first, last] as far as they may go at once.
//
// REQUIRES: all of them are in memory.
//
//mr:hotpath
func (g *Group) takeLive(rd *Ready, first, last wire.Index) {
	live, bytes := g.log.live(), 0
	for i := g.log.locate(first); i < len(live) && live[i].first <= last; i++ {
		size := len(live[i].block)
		if bytes > 0 && bytes+size > g.tuning.MaxCommittedBytes {
			break
		}
		rd.Committed = append(rd.Committed, g.log.materialize(&live[i], rd.Arena))
		rd.CommittedLast = min(last, live[i].last)
		bytes += size
	}
	g.handed.add(rd.CommittedLast, bytes)
}

// Applied notes that the state machine has applied entries up to index.
//
//mr:hotpath
func (g *Group) Applied(index wire.Index) {
	if g.fault != nil || index <= g.applied {
		return
	}
	g.applied = min(index, g.handed.last) // G6
	g.handed.applied(g.applied)
	if g.isChanging() {
		if m := g.seldom.changing; m.Index <= g.applied {
			g.seldom.changing = nil
			g.enter(m)
		}
	}
	if g.leading != nil && g.outgoing != 0 {
		g.leaveByItself()
	}
}

// release lets go of blocks in memory that are durable, committed, handed out,
// and not needed for peers (G11). What a peer has been sent and has not answered
// is kept up to MaxTailBytes, what it has not been sent is kept longer.
//
//mr:hotpath
func (g *Group) release() {
	if int(g.log.head) == len(g.log.refs) {
		return
	}
	// Mostly the oldest block has to stay, and with it all others.
	oldest, bytes := g.log.refs[g.log.head].last, g.log.bytes
	needed := min(g.log.durable, g.commit)
	handed := min(needed, g.handed.last)
	hoarded := g.tuning.MaxTailBytes + g.tuning.MaxInflightBytes
	if oldest > needed || oldest > handed && bytes <= hoarded {
		return
	}
	sent, matched := handed, handed
	if ld := g.leading; ld != nil {
		for slot := g.others.first(); slot < MaxReplicas; slot = g.others.next(slot) {
			// Peers in other states are behind anyway, and dead ones stay there.
			if ld.state[slot] == replicate {
				matched = min(matched, ld.match[slot])
				sent = min(sent, ld.next[slot]-1)
				if oldest > matched && bytes <= g.tuning.MaxTailBytes {
					return
				}
			}
		}
	}
	g.log.release(matched, 0)
	if g.log.bytes <= g.tuning.MaxTailBytes {
		return
	}
	g.log.release(sent, g.tuning.MaxTailBytes)
	g.log.release(needed, hoarded)
}
