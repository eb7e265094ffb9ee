package raftlog

import (
	"multiraft/internal/invariants"
	"multiraft/wire"
)

// Batch is a list of changes that one caller wants durable together, in order.
// It is filled by one goroutine, given to [Log.Submit], and the caller's again
// when [Sink.Durable] has named it; then Reset makes it ready for the next use.
//
// Blocks and blobs are referenced, not copied, until then. A crash before then
// may leave any number of the changes, but always the first ones, and of changes
// of one group that stand side by side and are no blocks all or none (L1).
type Batch struct {
	// Owner is the caller's, to find its own state in Durable.
	Owner any

	items []item
	bytes int
}

// item is one change. It is one flat struct for all kinds, as batches are
// walked twice per sync and must not allocate.
type item struct {
	group *Group
	data  []byte // block or blob
	a, b  uint64 // as in the record
	c     uint64 // commit index of a hard state
	kind  byte   // as in the record; 0 for blocks
}

const (
	kindBlock = 0 // in item.kind: the kind on disk is the block's own
	kindNone  = 1 // a rewrite that came too late: what it copied is not live any more
)

// movedItem is the rewrite of the block at from, of which copied has what is
// live.
func movedItem(g *Group, from blockRef, copied wire.Block) item {
	return item{
		group: g, kind: kindMoved, data: copied,
		a: uint64(from.segment)<<32 | uint64(from.offset),
		b: uint64(from.size)<<32 | uint64(from.count),
	}
}

// source returns what the index must still say for the rewrite to be valid.
func (it *item) source(first wire.Index) blockRef {
	return blockRef{first, uint32(it.a >> 32), uint32(it.a), uint32(it.b >> 32), uint32(it.b)}
}

// Reset empties the batch and lets go of what it referenced.
//
//mr:hotpath
func (b *Batch) Reset() {
	clear(b.items)
	b.items = b.items[:0]
	b.bytes = 0
}

// Len returns the number of changes.
func (b *Batch) Len() int { return len(b.items) }

// Bytes returns what the changes take in the log.
func (b *Batch) Bytes() int { return b.bytes }

// Append adds a block of entries. Stored entries from its first one on are
// replaced.
//
// REQUIRES: the block is sealed, belongs to g, and begins at most one behind the
// last entry that is stored or submitted.
//
//mr:hotpath
func (b *Batch) Append(g *Group, block wire.Block) {
	b.add(item{group: g, kind: kindBlock, data: block}, len(block))
}

// HardState replaces the hard state of the group.
//
//mr:hotpath
func (b *Batch) HardState(g *Group, hs wire.HardState) {
	b.add(item{group: g, kind: kindHardState, a: uint64(hs.Term), b: uint64(hs.Vote), c: uint64(hs.Commit)}, hardStateBytes)
}

// Meta replaces the group's blob, of at most [wire.MaxBlockBytes].
func (b *Batch) Meta(g *Group, blob []byte) {
	b.add(item{group: g, kind: kindMeta, data: blob}, recordHeaderBytes+len(blob))
}

// Compact drops the entries up to and including to, whose term is given. Behind
// the last entry it stands for a snapshot: the log goes on behind to. Entries
// behind to of terms below term are dropped as well, as they contradict it.
func (b *Batch) Compact(g *Group, to wire.Index, term wire.Term) {
	b.add(item{group: g, kind: kindCompact, a: uint64(to), b: uint64(term)}, plainRecordBytes)
}

// Restart drops all entries and has the log go on behind to, whose term is
// given. Unlike [Batch.Compact] it leaves no entry behind to: a snapshot took the
// place of the log, and what the log held is not known to agree with it. It must
// not be in front of what is compacted.
func (b *Batch) Restart(g *Group, to wire.Index, term wire.Term) {
	b.add(item{group: g, kind: kindRestart, a: uint64(to), b: uint64(term)}, plainRecordBytes)
}

// Remove drops everything of the group and leaves a tombstone, which [Group.Removed]
// reports until the group is written to again.
func (b *Batch) Remove(g *Group) {
	b.add(item{group: g, kind: kindRemove}, plainRecordBytes)
}

// Wound marks a group some of whose entries cannot be read any more, and drops
// them all. last is the last entry that was submitted, term its term: the group
// answers for it as long as it has nothing better. See [Group.Wound].
//
// REQUIRES: at is not nil, and nothing is lost of the group but entries.
func (b *Batch) Wound(g *Group, last wire.Index, term wire.Term, at *CorruptionError) {
	payload := le.AppendUint64(le.AppendUint64(nil, uint64(last)), uint64(term))
	g.log.setDamage(g.id, at)
	b.add(item{group: g, kind: kindDamaged, a: at.Segment, b: uint64(at.Offset), data: payload}, woundBytes)
}

//mr:hotpath
func (b *Batch) add(it item, bytes int) {
	b.items = append(b.items, it)
	b.bytes += bytes
}

// unit returns the end of the items from at on that a crash must not part, and
// what their records take: neighbouring control records of one group, as far as
// limit goes. A restart of the log with the members that go with it, or a
// tombstone with what it says, is worth nothing by halves.
//
//mr:hotpath
func (b *Batch) unit(at, limit int) (end, bytes int) {
	first := &b.items[at]
	bytes, end = first.size(), at+1
	if first.kind == kindBlock {
		return end, bytes
	}
	for ; end < len(b.items); end++ {
		it := &b.items[end]
		if it.kind == kindBlock || it.group != first.group || bytes+it.size() > limit {
			break
		}
		bytes += it.size()
	}
	return end, bytes
}

// size returns the bytes of the item's record.
//
//mr:hotpath
func (it *item) size() int {
	switch it.kind {
	case kindBlock:
		return len(it.data)
	case kindHardState:
		return hardStateBytes
	case kindMeta, kindMoved, kindDamaged:
		return recordHeaderBytes + len(it.data)
	}
	return plainRecordBytes
}

// appendTo appends the item's record.
//
//mr:hotpath
func (it *item) appendTo(dst []byte) []byte {
	if it.kind == kindBlock {
		return append(dst, it.data...)
	}
	start := len(dst)
	switch it.kind {
	case kindHardState:
		dst = appendControl(dst, it.kind, it.group.id, it.a, it.b, 8)
		dst = le.AppendUint64(dst, it.c)
	default:
		dst = appendControl(dst, it.kind, it.group.id, it.a, it.b, len(it.data))
		dst = append(dst, it.data...)
	}
	sealControl(dst[start:])
	return dst
}

// apply changes the index of the item's group after its record, at offset of
// segment, became durable. It returns how many bytes became live.
//
//mr:hotpath
func (it *item) apply(segment, offset uint32, acct account) uint32 {
	g := it.group
	g.mu.Lock()
	defer g.mu.Unlock()
	switch it.kind {
	case kindBlock:
		block := wire.Block(it.data)
		ref := blockRef{block.First(), segment, offset, uint32(len(block)), uint32(block.Count())}
		if last := g.last(); ref.first > last+1 && !g.damaged {
			failHole(g.id, ref.first, last) // in all builds: the next recovery would find it
		}
		return g.applyBlock(ref, block.Term(), acct)
	case kindHardState:
		hs := wire.HardState{Term: wire.Term(it.a), Vote: wire.ReplicaID(it.b), Commit: wire.Index(it.c)}
		return g.applyHardState(hs, segment, acct)
	case kindMeta:
		return g.applyMeta(string(it.data), segment, acct) // allocates: descriptors change rarely
	case kindCompact:
		return g.applyCompact(wire.Index(it.a), wire.Term(it.b), segment, acct)
	case kindRestart:
		return g.applyRestart(wire.Index(it.a), wire.Term(it.b), segment, acct)
	case kindRemove:
		return g.applyRemove(segment, acct)
	case kindDamaged:
		if len(it.data) > 0 {
			return g.applyWound(wire.Index(le.Uint64(it.data)), wire.Term(le.Uint64(it.data[8:])), segment, acct)
		}
		return g.applyDamaged(segment, acct)
	case kindMoved:
		block := wire.Block(it.data)
		ref := blockRef{block.First(), segment, offset + recordHeaderBytes, uint32(len(block)), uint32(block.Count())}
		if g.relocate(it.source(ref.first), ref, acct) {
			return ref.size
		}
	}
	return 0
}

func failHole(id wire.GroupID, first, last wire.Index) {
	invariants.Fail("L5", "group %d: block at %d behind last entry %d", id, first, last)
}
