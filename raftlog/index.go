package raftlog

import (
	"slices"
	"sort"

	"multiraft/wire"
)

// blockRef is what the index knows of a stored block: 24 bytes and no pointer,
// so that the collector never looks at an index.
//
// first is that of the stored block; count may be less than the block's, where
// its end was truncated. size is the stored record's, for reading it in one go
// and for the account of live bytes.
type blockRef struct {
	first   wire.Index
	segment uint32
	offset  uint32 // of the block itself, behind the header of a moved record
	size    uint32
	count   uint32
}

func (r blockRef) last() wire.Index { return r.first + wire.Index(r.count) - 1 }

// termRun says that entries from first on, up to the next run, have this term.
type termRun struct {
	first wire.Index
	term  wire.Term
}

// index is where the entries of one group are. Blocks are sorted by first and
// do not overlap. In a log that is open they follow each other without a hole
// (L5); while recovery scans a log whose oldest segments are gone, holes come
// and go: they are filled by the moved blocks found later.
//
// Methods that drop blocks tell the account what is not live any more.
type index struct {
	compacted     wire.Index // entries up to here are dropped
	compactedTerm wire.Term
	blocks        []blockRef
	runs          []termRun
}

// account is told about stored bytes that nothing refers to any more.
type account interface{ release(segment, size uint32) }

func (x *index) first() wire.Index { return x.compacted + 1 }

func (x *index) last() wire.Index {
	if n := len(x.blocks); n > 0 {
		return x.blocks[n-1].last()
	}
	return x.compacted
}

// find returns the position of the block that holds i, or of the first one
// behind i.
func (x *index) find(i wire.Index) int {
	return sort.Search(len(x.blocks), func(k int) bool { return x.blocks[k].last() >= i })
}

// term returns the term of entry i.
//
// REQUIRES: x.compacted <= i <= x.last(), and no hole at i.
func (x *index) term(i wire.Index) wire.Term {
	if i == x.compacted {
		return x.compactedTerm
	}
	k := sort.Search(len(x.runs), func(k int) bool { return x.runs[k].first > i })
	if k == 0 {
		return 0
	}
	return x.runs[k-1].term
}

// append adds a block of new entries and drops what it replaces: everything
// from its first entry on. It reports whether any entry of the block is live.
//
//mr:hotpath
func (x *index) append(ref blockRef, term wire.Term, acct account) bool {
	if ref.first <= x.last() {
		x.truncate(ref.first, acct)
	}
	if ref.last() <= x.compacted {
		return false
	}
	x.blocks = append(x.blocks, ref)
	if n := len(x.runs); n == 0 || x.runs[n-1].term != term {
		x.runs = append(x.runs, termRun{ref.first, term})
	}
	return true
}

// truncate drops the entries from i on. A block of which only compacted entries
// would remain goes as a whole.
func (x *index) truncate(i wire.Index, acct account) {
	n := len(x.blocks)
	for n > 0 && (x.blocks[n-1].first >= i || x.compacted+1 >= i) {
		n--
		acct.release(x.blocks[n].segment, x.blocks[n].size)
	}
	x.blocks = x.blocks[:n]
	if n > 0 && x.blocks[n-1].last() >= i {
		x.blocks[n-1].count = uint32(i - x.blocks[n-1].first)
	}
	r := len(x.runs)
	for r > 0 && (n == 0 || x.runs[r-1].first >= i) {
		r--
	}
	x.runs = x.runs[:r]
}

// compact drops the entries up to and including to, whose term is given.
//
// Entries behind it are dropped as well when their term is below: terms never
// fall along a log, so they belong to another history than the entry at to,
// which a snapshot brought. The rule looks at nothing that compaction may have
// dropped before, so that recovery comes to the same result from any later
// start (L4).
func (x *index) compact(to wire.Index, term wire.Term, acct account) {
	if to <= x.compacted {
		return
	}
	k := x.find(to + 1)
	for i := range x.blocks[:k] {
		acct.release(x.blocks[i].segment, x.blocks[i].size)
	}
	x.blocks = shrink(slices.Delete(x.blocks, 0, k))
	x.compacted, x.compactedTerm = to, term
	if n := len(x.blocks); n > 0 {
		lowest := max(x.blocks[0].first, to+1)
		if x.term(lowest) < term {
			x.dropBelow(term, acct)
		}
	}
	x.trimRuns()
}

// dropBelow drops the blocks of terms below the one given. Terms never fall, so
// these stand in front.
func (x *index) dropBelow(term wire.Term, acct account) {
	k := 0
	for k < len(x.blocks) && x.term(x.blocks[k].last()) < term {
		acct.release(x.blocks[k].segment, x.blocks[k].size)
		k++
	}
	x.blocks = slices.Delete(x.blocks, 0, k)
}

// trimRuns drops the runs in front of the first block.
func (x *index) trimRuns() {
	if len(x.blocks) == 0 {
		x.runs = x.runs[:0]
		return
	}
	lowest := max(x.blocks[0].first, x.compacted+1)
	k := sort.Search(len(x.runs), func(k int) bool { return x.runs[k].first > lowest })
	if k > 1 {
		x.runs = shrink(slices.Delete(x.runs, 0, k-1))
	}
}

// relocate points the block at from to a copy of it, made whole: the copy holds
// exactly its live entries. It reports false when the block is no longer there
// as it was when it was copied.
func (x *index) relocate(from, to blockRef, acct account) bool {
	k := x.find(from.first)
	if k == len(x.blocks) || x.blocks[k] != from {
		return false
	}
	acct.release(from.segment, from.size)
	x.blocks[k] = to
	return true
}

// place is relocate for recovery: it puts a moved block where its entries
// belong, over the copies that are still in the log, or into the hole that
// those in recycled segments left. At the place in the log where a moved record
// stands its entries were exactly those that were live.
func (x *index) place(ref blockRef, term wire.Term, acct account) {
	if ref.last() <= x.compacted {
		return
	}
	lo := x.find(ref.first)
	hi := lo
	for hi < len(x.blocks) && x.blocks[hi].first <= ref.last() {
		acct.release(x.blocks[hi].segment, x.blocks[hi].size)
		hi++
	}
	x.blocks = slices.Replace(x.blocks, lo, hi, ref)
	x.assign(ref.first, ref.last(), term)
}

// assign sets the term of the entries from first to last.
func (x *index) assign(first, last wire.Index, term wire.Term) {
	lo := sort.Search(len(x.runs), func(k int) bool { return x.runs[k].first >= first })
	hi := sort.Search(len(x.runs), func(k int) bool { return x.runs[k].first > last })
	runs := []termRun{{first, term}}
	if hi > 0 && last < x.last() && (hi == len(x.runs) || x.runs[hi].first != last+1) {
		// The run that covers last+1 began before it: it goes on behind.
		runs = append(runs, termRun{last + 1, x.runs[hi-1].term})
	}
	x.runs = slices.Replace(x.runs, lo, hi, runs...)
	x.runs = slices.CompactFunc(x.runs, func(a, b termRun) bool { return a.term == b.term })
}

// complete reports whether the entries follow each other without a hole.
func (x *index) complete() (missing wire.Index, ok bool) {
	next := x.compacted + 1
	for _, ref := range x.blocks {
		if ref.first > next {
			return next, false
		}
		next = ref.last() + 1
	}
	return 0, true
}

// shrink gives back memory when a slice has become much smaller than it once
// was. The slack keeps a log that is compacted at a steady pace from
// allocating.
func shrink[T any](s []T) []T {
	const slack, least = 8, 64
	if cap(s) > least && len(s) < cap(s)/slack {
		return append(make([]T, 0, max(2*len(s), least/2)), s...)
	}
	return s
}
