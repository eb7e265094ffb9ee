package raftlog

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"multiraft/internal/planted"
	"multiraft/wire"
)

const (
	// readWindowBytes is the most that is read at a time.
	readWindowBytes = 256 << 10
	// readGapBytes is how much of other groups is read along to spare a system
	// call: copying that much out of the page cache costs as long as one.
	readGapBytes = 8 << 10
	// readRefs is how many blocks are looked up at a time.
	readRefs = 64
)

// readBuffers hold windows that have other groups' bytes in them.
var readBuffers = sync.Pool{New: func() any { return new([readWindowBytes]byte) }}

// errMoved says that a block was moved or dropped while it was read.
var errMoved = errors.New("block is not there any more")

// Blocks appends the stored blocks that hold the entries [lo, hi) to dst and
// returns it. Blocks that reach out of the range are cut. It stops in front of
// the block with which more than maxBytes would be appended, but not before the
// first. The blocks of a group are read together where they lie near each other.
//
// Every block is checked: what does not pass is a [*CorruptionError], and
// nothing of it is returned.
func (g *Group) Blocks(lo, hi wire.Index, maxBytes int, dst []byte) ([]byte, error) {
	start := len(dst)
	for lo < hi {
		var plan readPlan
		if err := g.plan(&plan, lo, hi, maxBytes-(len(dst)-start), len(dst) > start); err != nil {
			return dst[:start], err
		}
		if plan.n == 0 {
			break
		}
		var err error
		dst, lo, err = g.read(&plan, lo, hi, dst)
		if errors.Is(err, errMoved) {
			continue // each time round something else was moved: this ends
		}
		if err != nil {
			return dst[:start], err
		}
	}
	return dst, nil
}

// readPlan is what to read next.
type readPlan struct {
	refs  [readRefs]blockRef
	terms [readRefs]wire.Term
	n     int // how many there are
}

// plan looks up blocks from lo on, up to maxBytes of them, one at least unless
// others were read before.
func (g *Group) plan(p *readPlan, lo, hi wire.Index, maxBytes int, more bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.damaged:
		return g.errLocked()
	case lo <= g.compacted:
		return fmt.Errorf("group %d: entry %d: %w", g.id, lo, wire.ErrCompacted)
	case hi > g.last()+1:
		return fmt.Errorf("group %d: entry %d: %w", g.id, hi-1, wire.ErrUnavailable)
	}
	p.n = 0
	for _, ref := range g.blocks[g.find(lo):] {
		if ref.first >= hi || p.n == readRefs || (more || p.n > 0) && int(ref.size) > maxBytes {
			break
		}
		maxBytes -= int(ref.size)
		p.refs[p.n], p.terms[p.n] = ref, g.term(max(ref.first, g.compacted+1))
		p.n++
	}
	return nil
}

// read reads the blocks of the plan and appends what is wanted of them. It
// returns the entry to go on with.
func (g *Group) read(p *readPlan, lo, hi wire.Index, dst []byte) ([]byte, wire.Index, error) {
	for n := 0; n < p.n; {
		first := p.refs[n]
		end, k, dense := int64(first.offset)+int64(first.size), n+1, true
		for ; k < p.n; k++ {
			ref := p.refs[k]
			gap := int64(ref.offset) - end
			if ref.segment != first.segment || gap < 0 || gap > readGapBytes ||
				int64(ref.offset)+int64(ref.size)-int64(first.offset) > readWindowBytes {
				break
			}
			dense = dense && gap == 0
			end = int64(ref.offset) + int64(ref.size)
		}
		var err error
		dst, lo, err = g.readWindow(p, n, k, end, dense, lo, hi, dst)
		if err != nil {
			return dst, lo, err
		}
		n = k
	}
	return dst, lo, nil
}

// readWindow reads the blocks [from, to) of the plan, which end at end in their
// segment. Dense ones lie back to back and are read into place.
func (g *Group) readWindow(p *readPlan, from, to int, end int64, dense bool, lo, hi wire.Index, dst []byte) ([]byte, wire.Index, error) {
	start := int64(p.refs[from].offset)
	size := int(end - start)
	var window []byte
	if dense {
		dst = grow(dst, size)
		window = dst[len(dst) : len(dst)+size]
	} else {
		buffer := readBuffers.Get().(*[readWindowBytes]byte)
		defer readBuffers.Put(buffer)
		window = buffer[:size]
	}
	readErr := g.log.readSegment(p.refs[from].segment, start, window)
	for n := from; n < to; n++ {
		ref := p.refs[n]
		var block wire.Block
		err := readErr
		if err == nil {
			block, err = checkBlock(g.id, ref, p.terms[n], window[int64(ref.offset)-start:])
		}
		if err != nil {
			// A segment that is recycled while it is read has other bytes or is
			// closed. That is no damage: the index has changed then.
			if g.moved(ref) {
				return dst, lo, errMoved
			}
			return dst, lo, fmt.Errorf("group %d: entry %d: %w", g.id, ref.first, err)
		}
		cutLo, cutHi := max(lo, ref.first), min(hi, ref.last()+1)
		dst = appendCut(dst, block, cutLo, cutHi)
		lo = cutHi
	}
	return dst, lo, nil
}

// readSegment fills b from an offset of a segment.
func (l *Log) readSegment(number uint32, offset int64, b []byte) error {
	seg := l.table.Load().get(number)
	if seg == nil {
		return &CorruptionError{uint64(number), offset, ErrMissing}
	}
	_, err := seg.file.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		return &CorruptionError{uint64(number), offset, io.ErrUnexpectedEOF}
	}
	return err
}

// checkBlock finds out whether b begins with the block that the index says.
func checkBlock(id wire.GroupID, ref blockRef, term wire.Term, b []byte) (wire.Block, error) {
	if planted.Is(planted.ServeUnchecked) {
		return wire.Block(b[:ref.size]), nil
	}
	block, _, err := wire.ParseBlock(b[:ref.size])
	switch {
	case err != nil:
	case len(block) != int(ref.size):
		err = fmt.Errorf("block has %d bytes, not %d", len(block), ref.size)
	case block.Group() != id || block.First() != ref.first || block.Term() != term || block.Count() < int(ref.count):
		err = fmt.Errorf("block of group %d, first entry %d, term %d, %d entries", block.Group(), block.First(), block.Term(), block.Count())
	}
	if err != nil {
		return nil, &CorruptionError{uint64(ref.segment), int64(ref.offset), err}
	}
	return block, nil
}

// moved reports whether the index no longer has the block where it was.
func (g *Group) moved(ref blockRef) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.find(ref.first)
	if k == len(g.blocks) {
		return true
	}
	now := g.blocks[k]
	return now.first != ref.first || now.segment != ref.segment || now.offset != ref.offset
}

// appendCut appends the entries [lo, hi) of a block as a block. Where nothing is
// cut and the block was read into place, that moves nothing.
func appendCut(dst []byte, block wire.Block, lo, hi wire.Index) []byte {
	if lo == block.First() && hi == block.Last()+1 {
		return append(dst, block...)
	}
	payloads := block.Payloads()
	for i := block.First(); i < lo; i++ {
		_, payloads, _ = wire.NextPayload(payloads) // ParseBlock has walked them
	}
	rest := payloads
	for i := lo; i < hi; i++ {
		_, rest, _ = wire.NextPayload(rest)
	}
	payloads = payloads[:len(payloads)-len(rest)]
	// The block may be read into the same memory, right behind dst: the payloads
	// are moved down over it before the header is written.
	head := [wire.BlockHeaderBytes]byte(block)
	start := len(dst)
	dst = grow(dst, wire.BlockHeaderBytes+len(payloads))[:start+wire.BlockHeaderBytes+len(payloads)]
	cut := wire.Block(dst[start:])
	copy(cut[wire.BlockHeaderBytes:], payloads)
	from := wire.Block(head[:])
	cut.Seal(from.Group(), lo, from.Term(), from.Kind(), int(hi-lo))
	return dst
}

// grow makes room for n more bytes.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst
	}
	return append(make([]byte, 0, max(2*cap(dst), len(dst)+n)), dst...)
}
