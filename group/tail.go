package group

import (
	"multiraft/wire"
)

// blockRef stands for the entries [first, last] of the log, all of one term,
// within a block. The block may reach beyond them on both sides: in front when
// it overlapped what was there as it came, behind when it was truncated.
type blockRef struct {
	first, last wire.Index
	term        wire.Term
	block       wire.Block
}

// exact says that the block holds the entries of r and no others.
//
//mr:hotpath
func (r *blockRef) exact() bool {
	return r.block.First() == r.first && r.block.Last() == r.last
}

// tail is the log as its group sees it: the newest entries in memory, those
// before in storage.
//
//	          first        base              durable    handed       last
//	storage ────┼────────────┼──────────────────┼ ─ ─ ─ ─ ─ ┤
//	tail                     ├────────┬─────────┴┬──────────┼─────────┤
//	                          ref      ref        ref        ref
//
// Entries up to durable are acknowledged by storage, those up to handed are on
// their way, and the rest wait for the next Ready. Storage may still hold older
// versions of entries behind durable and is not asked for them.
type tail struct {
	storage Storage
	// refs[head:] are contiguous and cover (base, last]. Dropping from the front
	// moves head; the space is used again when the slice is full.
	refs []blockRef
	head uint32
	// The last open refs are proposals whose blocks are not sealed: there is no
	// telling what their headers say. All are of one term, and not handed out.
	open uint32
	// cut says that blocks in memory may hold more than their refs stand for.
	cut bool
	// base is the entry in front of those in memory, baseTerm its term. It is
	// durable.
	base     wire.Index
	baseTerm wire.Term
	handed   wire.Index
	durable  wire.Index
	// bytes of the blocks in memory.
	bytes int
	// An acknowledgement of seq overwrittenSeq or older was issued before a
	// truncation that replaced entries from overwritten on (G9). Zero: none is
	// outstanding.
	overwritten    wire.Index
	overwrittenSeq uint64
	// configs is nil when no entry that is not handed out is a membership.
	configs *configs
}

// restore sets the tail to what storage holds, with nothing in memory.
func (t *tail) restore(last wire.Index, lastTerm wire.Term) {
	t.refs, t.head, t.open, t.bytes, t.cut = nil, 0, 0, 0, false
	t.base, t.baseTerm = last, lastTerm
	t.handed, t.durable = last, last
}

// live returns what is in memory, oldest first.
//
//mr:hotpath
func (t *tail) live() []blockRef { return t.refs[t.head:] }

// last returns the last entry of the log.
//
//mr:hotpath
func (t *tail) last() wire.Index {
	if n := len(t.refs); n > int(t.head) {
		return t.refs[n-1].last
	}
	return t.base
}

// lastTerm returns the term of the last entry.
//
//mr:hotpath
func (t *tail) lastTerm() wire.Term {
	if n := len(t.refs); n > int(t.head) {
		return t.refs[n-1].term
	}
	return t.baseTerm
}

// term returns the term of entry i. Errors wrap wire.ErrCompacted and
// wire.ErrUnavailable.
//
//mr:hotpath
func (t *tail) term(i wire.Index) (wire.Term, error) {
	if n := len(t.refs); n > int(t.head) {
		// Mostly it is about the newest block.
		if newest := &t.refs[n-1]; i >= newest.first && i <= newest.last {
			return newest.term, nil
		}
	}
	switch {
	case i == t.base:
		return t.baseTerm, nil
	case i < t.base:
		return t.storage.Term(i)
	case i > t.last():
		return 0, wire.ErrUnavailable
	}
	return t.live()[t.locate(i)].term, nil
}

// locate returns the place in live of the ref that holds entry i.
//
// REQUIRES: base < i <= last.
//
//mr:hotpath
func (t *tail) locate(i wire.Index) int {
	if n := len(t.refs) - 1; i >= t.refs[n].first {
		return n - int(t.head) // mostly it is the newest
	}
	return t.search(i)
}

// search is locate for any entry.
//
//mr:hotpath
func (t *tail) search(i wire.Index) int {
	live := t.live()
	n := len(live)
	// A ref holds one entry at least, so that of i is as many places from either
	// end as there are entries, or fewer. Close to the ends, and among proposals
	// that came one by one, little or nothing is left to search.
	hi := int(min(i-live[0].first, wire.Index(n-1)))
	lo := n - 1 - int(min(live[n-1].last-i, wire.Index(n-1)))
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if live[mid].last < i {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// append adds the entries [first, block.Last()] of a block.
//
// REQUIRES: first == last()+1 and block.First() <= first <= block.Last(), and
// no block is open.
//
//mr:hotpath
func (t *tail) append(first wire.Index, block wire.Block) {
	t.cut = t.cut || first > block.First()
	t.add(blockRef{first: first, last: block.Last(), term: block.Term(), block: block})
	if block.Kind() == wire.EntryConfig {
		t.noteConfig(first)
	}
}

// propose adds a block of count commands that is not sealed, and leaves it open.
//
// REQUIRES: open blocks are of the same term.
//
//mr:hotpath
func (t *tail) propose(term wire.Term, block wire.Block, count int) {
	last := t.last()
	t.add(blockRef{first: last + 1, last: last + wire.Index(count), term: term, block: block})
	t.open++
}

//mr:hotpath
func (t *tail) add(r blockRef) {
	if len(t.refs) == cap(t.refs) && int(t.head) > cap(t.refs)/4 {
		n := copy(t.refs, t.refs[t.head:])
		clear(t.refs[n:])
		t.refs, t.head = t.refs[:n], 0
	}
	t.refs = append(t.refs, r)
	t.bytes += len(r.block)
}

// seal seals the blocks that are open. Neighbours that make a block of at most
// maxBytes become one, in memory of the arena: proposals that come one by one
// then cost one header, one sum and one ref, here and at each peer.
//
//mr:hotpath
func (t *tail) seal(group wire.GroupID, maxBytes int, arena *wire.Arena) {
	start := len(t.refs) - int(t.open)
	open, n := t.refs[start:], 0
	for i := 0; i < len(open); n++ {
		end, size := i+1, len(open[i].block)
		for end < len(open) && size+len(open[end].block)-wire.BlockHeaderBytes <= maxBytes {
			size += len(open[end].block) - wire.BlockHeaderBytes
			end++
		}
		ref := &open[n]
		if n < i {
			*ref = open[i]
		}
		if end > i+1 {
			ref.last = open[end-1].last
			joined := append(wire.NewBlock(arena.Alloc(size)), ref.block.Payloads()...)
			for k := i + 1; k < end; k++ {
				joined = append(joined, open[k].block.Payloads()...)
			}
			ref.block = joined
			t.bytes -= (end - i - 1) * wire.BlockHeaderBytes
		}
		ref.block.Seal(group, ref.first, ref.term, wire.EntryCommand, int(ref.last-ref.first)+1)
		i = end
	}
	clear(open[n:])
	t.refs, t.open = t.refs[:start+n], 0
}

// materialize returns the entries of r, a ref of t, as a block of their own.
//
//mr:hotpath
func (t *tail) materialize(r *blockRef, arena *wire.Arena) wire.Block {
	if t.cut && !r.exact() {
		t.bytes -= len(r.block)
		r.block = r.block.Cut(r.first, r.last+1, arena)
		t.bytes += len(r.block)
	}
	return r.block
}

// truncate drops the entries from index from on. seq is the newest sequence
// number handed out: acknowledgements up to it are about the old entries.
//
// The entries in front of from stay, but may count as durable only when what
// replaces the rest is: acknowledgements are not looked at that closely.
//
// REQUIRES: commit < from <= last(), no block is open, and an append follows. Everything above
// commit is in memory or in storage, so the term in front of from is known; an
// error is storage's.
func (t *tail) truncate(from wire.Index, seq uint64) error {
	if from <= t.base {
		term, err := t.storage.Term(from - 1)
		if err != nil {
			return err
		}
		clear(t.refs)
		t.refs, t.head, t.bytes = t.refs[:0], 0, 0
		t.base, t.baseTerm = from-1, term
	}
	for n := len(t.refs); n > int(t.head) && t.refs[n-1].first >= from; n-- {
		t.bytes -= len(t.refs[n-1].block)
		t.refs[n-1] = blockRef{}
		t.refs = t.refs[:n-1]
	}
	if n := len(t.refs); n > int(t.head) {
		t.refs[n-1].last = min(t.refs[n-1].last, from-1)
		t.cut = true
	}
	t.dropConfigs(from)
	if from <= t.handed {
		t.handed = min(t.handed, from-1)
		t.durable = min(t.durable, from-1)
		if t.overwritten == 0 || from < t.overwritten {
			t.overwritten = from
		}
		t.overwrittenSeq = seq
	}
	return nil
}

// persisted takes the acknowledgement of everything handed out up to seq, of
// which the last entry was index with the given term, and returns whether more
// is durable now.
//
//mr:hotpath
func (t *tail) persisted(seq uint64, index wire.Index, term wire.Term) bool {
	if t.overwritten != 0 {
		if seq > t.overwrittenSeq {
			t.overwritten, t.overwrittenSeq = 0, 0
		} else {
			// G9: the entries in front of the truncation are the ones that were
			// written; what is behind it has been replaced since.
			index = min(index, t.overwritten-1)
			return t.advance(index)
		}
	}
	if index <= t.durable || index > t.handed {
		return false
	}
	// A caller that acknowledges another term than was handed out is mistaken,
	// and must not make anything durable.
	if have, err := t.term(index); err != nil || have != term {
		return false
	}
	return t.advance(index)
}

//mr:hotpath
func (t *tail) advance(index wire.Index) bool {
	if index <= t.durable || index > t.handed {
		return false
	}
	t.durable = index
	return true
}

// release drops the blocks of memory that end at or below limit, oldest first,
// as long as more than keepBytes are in memory.
//
// REQUIRES: limit <= durable.
//
//mr:hotpath
func (t *tail) release(limit wire.Index, keepBytes int) {
	for int(t.head) < len(t.refs) && t.bytes > keepBytes {
		ref := &t.refs[t.head]
		if ref.last > limit {
			break
		}
		t.base, t.baseTerm = ref.last, ref.term
		t.bytes -= len(ref.block)
		*ref = blockRef{}
		t.head++
	}
	if int(t.head) == len(t.refs) {
		t.refs, t.head, t.cut = t.refs[:0], 0, false
	}
}

// shed lets go of the slice too when nothing is in memory.
func (t *tail) shed() {
	if len(t.refs) == 0 {
		t.refs = nil
	}
}

// entries returns blocks with the entries [lo, hi), of at most maxBytes unless
// the first entry alone is larger. A single block in memory is returned as it
// is, more are joined in memory of the arena.
//
// REQUIRES: lo <= last(), and no block is open.
//
//mr:hotpath
func (t *tail) entries(lo wire.Index, maxBytes int, arena *wire.Arena) (entries []byte, hi wire.Index, err error) {
	if lo <= t.base {
		return t.stored(lo, maxBytes)
	}
	live := t.live()
	start := t.locate(lo)
	head := t.materialize(&live[start], arena)
	if first := live[start].first; lo > first || len(head) > maxBytes {
		hi = fit(head, lo, maxBytes)
		if hi <= live[start].last {
			return head.Cut(lo, hi, arena), hi, nil
		}
		head = head.Cut(lo, hi, arena)
	}
	size, end := len(head), start+1
	for end < len(live) && size+len(live[end].block) <= maxBytes {
		size += len(t.materialize(&live[end], arena))
		end++
	}
	hi = live[end-1].last + 1
	if end == start+1 {
		return head, hi, nil
	}
	joined := append(arena.Alloc(size), head...)
	for i := start + 1; i < end; i++ {
		joined = append(joined, live[i].block...)
	}
	return joined, hi, nil
}

// stored reads entries that have left the tail.
func (t *tail) stored(lo wire.Index, maxBytes int) (entries []byte, hi wire.Index, err error) {
	entries, err = t.storage.Blocks(lo, t.base+1, maxBytes, nil)
	if err != nil {
		return nil, 0, err
	}
	hi = lo
	for rest := entries; len(rest) > 0; {
		size, err := wire.BlockSize(rest)
		if err != nil {
			return nil, 0, err
		}
		if size > len(rest) || wire.Block(rest).First() != hi || wire.Block(rest).Last() > t.base {
			return nil, 0, wire.ErrBadBlock
		}
		hi = wire.Block(rest).Last() + 1
		rest = rest[size:]
	}
	if hi == lo {
		return nil, 0, wire.ErrUnavailable
	}
	return entries, hi, nil
}

// fit returns the end of the longest run of entries of b that starts at lo and
// makes a block of at most maxBytes, one entry at least.
func fit(b wire.Block, lo wire.Index, maxBytes int) (hi wire.Index) {
	size := wire.BlockHeaderBytes
	i, payloads := b.First(), b.Payloads()
	for {
		command, rest, ok := wire.NextPayload(payloads)
		if !ok {
			return i
		}
		if i >= lo {
			size += wire.PayloadBytes(len(command))
			if size > maxBytes && i > lo {
				return i
			}
		}
		i, payloads = i+1, rest
	}
}

// conflictHint returns the last entry at or below index whose term is not above
// term, and its term. Terms in a log never fall, so the entry is found by
// halving. No term is known (zero) for entries that are compacted.
func (t *tail) conflictHint(index wire.Index, term wire.Term) (wire.Index, wire.Term) {
	lo, hi := t.storage.First()-1, index
	if hi <= lo {
		return hi, 0
	}
	for lo < hi {
		mid := hi - (hi-lo)/2
		have, err := t.term(mid)
		if err != nil {
			return index, 0
		}
		if have > term {
			hi = mid - 1
		} else {
			lo = mid
		}
	}
	have, err := t.term(lo)
	if err != nil {
		return lo, 0
	}
	return lo, have
}

// firstConflict returns the first entry of [lo, hi] that is not in the log with
// the given term; hi+1 when all are.
func (t *tail) firstConflict(lo, hi wire.Index, term wire.Term) (wire.Index, error) {
	hi = min(hi, t.last())
	if lo > hi {
		return lo, nil
	}
	have, err := t.term(lo)
	if err != nil || have != term {
		return lo, err
	}
	// From here on terms are at least the wanted one: find where they pass it.
	for lo < hi {
		mid := hi - (hi-lo)/2
		if have, err = t.term(mid); err != nil {
			return 0, err
		}
		if have > term {
			hi = mid - 1
		} else {
			lo = mid
		}
	}
	return lo + 1, nil
}
