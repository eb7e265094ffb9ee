package raftlog

import (
	"errors"
	"fmt"

	"multiraft/wire"
)

// Segments are recycled oldest first and in no other order (L4). So one live
// record in the oldest segment would keep all that came after it, however dead:
// the hard state of a group that never changes, the few entries of one that is
// not compacted. Such records are written again at the end of the log.
//
//	Maintain: pick the oldest segment ─▶ for each group: copy what is live in it
//	                                              │ ≤ rewriteBytes at a time
//	Step:     what is still live and unchanged goes first into the next batch
//	                                              │ durable
//	Maintain: … ─▶ nothing is live in it ─▶ recycle
//
// Step looks at each copy again before it writes it, as the group may have moved
// on. So at the place where a moved record stands, its entries are exactly those
// that are live, which is what recovery relies on.
type stragglerJob struct {
	target uint32 // segment, 0 when there is no job
	groups []*Group
	next   int // of groups
	batch  rewriteBatch
	buf    []byte // blocks in the batch
}

// rewriteBatch is what Maintain hands to Step. It belongs to Step until done.
type rewriteBatch struct {
	target uint32
	items  []item
	done   bool // guarded by Log.queueMu
	busy   bool // Maintain's: handed over, and not seen to be done
}

const (
	// rewriteBytes is how much is rewritten at a time: little enough to add no
	// noticeable time to the batch of a caller.
	rewriteBytes = 128 << 10
	// A segment is a straggler when at most 1/stragglerPart of it is live.
	stragglerPart = 4
	// garbageSegments is how much dead data is worth any rewriting.
	garbageSegments = 2
)

// findStraggler returns the oldest segment if rewriting it is worth its price:
// it is nearly dead, or at least half of the log is, and it stands in the way.
func (l *Log) findStraggler() (target uint32, ok bool) {
	segments := l.table.Load().segments
	sealed := segments[:len(segments)-1]
	if len(sealed) == 0 || sealed[0].live.Load() <= 0 {
		return 0, false
	}
	var live, garbage int64
	for _, s := range sealed {
		n := s.live.Load()
		live += n
		garbage += max(s.size-n, 0)
	}
	switch first := sealed[0]; {
	case garbage < garbageSegments*l.o.SegmentBytes:
		return 0, false
	case first.live.Load() <= first.size/stragglerPart:
		return first.number, true
	case garbage >= live && (!l.DiskFull() || l.room() >= first.live.Load()+l.o.SegmentBytes/2):
		return first.number, true
	}
	return 0, false
}

// room is what can be written without any new space on the disk.
func (l *Log) room() int64 {
	segments := l.table.Load().segments
	active := segments[len(segments)-1]
	return max(active.size-active.used.Load(), 0) + int64(l.spares.count())*l.o.SegmentBytes
}

func rewriteStraggler(l *Log) (bool, error) {
	j := &l.upkeep.straggler
	if j.batch.busy {
		l.queueMu.Lock()
		done := j.batch.done
		l.queueMu.Unlock()
		if !done {
			return false, nil
		}
		j.batch.busy = false
	}
	if j.target == 0 {
		target, ok := l.findStraggler()
		if !ok {
			return false, nil
		}
		j.target, j.groups, j.next = target, l.handles(), 0
	}
	if err := j.collect(l); err != nil {
		j.target = 0
		return false, fmt.Errorf("rewrite segment %d: %w", j.batch.target, err)
	}
	if len(j.batch.items) == 0 {
		j.target, j.groups = 0, nil
		return false, nil
	}
	j.batch.busy, j.batch.done = true, false
	l.queueMu.Lock()
	l.rewrite = &j.batch
	l.queueMu.Unlock()
	l.wakeWriter()
	return true, nil
}

// collect fills the batch with copies of what is live in the target.
func (j *stragglerJob) collect(l *Log) error {
	clear(j.batch.items)
	j.batch.items, j.batch.target = j.batch.items[:0], j.target
	if j.buf = j.buf[:0]; cap(j.buf) > 4*rewriteBytes {
		j.buf = nil // it held a large block
	}
	for bytes := 0; j.next < len(j.groups); j.next++ {
		g := j.groups[j.next]
		refs, terms, size := g.liveIn(j.target, rewriteBytes-bytes, &j.batch)
		bytes += size
		for i, ref := range refs {
			copied, err := j.copy(g, ref, terms[i])
			var damage *CorruptionError
			switch {
			case errors.Is(err, errMoved):
			case errors.As(err, &damage):
				l.damagedAtRest(g, damage)
			case err != nil:
				return fmt.Errorf("group %d: %w", g.id, err)
			default:
				j.batch.items = append(j.batch.items, movedItem(g, ref, copied))
			}
		}
		if bytes >= rewriteBytes {
			return nil // the rest of this group comes next time
		}
	}
	return nil
}

// liveIn returns blocks of the group in a segment, up to about maxBytes, and
// adds its control records there to the batch. Their content is filled in when
// they are written.
func (g *Group) liveIn(segment uint32, maxBytes int, batch *rewriteBatch) (refs []blockRef, terms []wire.Term, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, at := range g.at {
		if at == segment {
			batch.items = append(batch.items, item{group: g, kind: g.controlKind(k)})
			bytes += int(g.controlBytes(k))
		}
	}
	for _, ref := range g.blocks {
		if bytes >= maxBytes {
			break
		}
		if ref.segment == segment {
			refs, terms = append(refs, ref), append(terms, g.term(ref.last()))
			bytes += int(ref.size)
		}
	}
	return refs, terms, bytes
}

// controlKind returns the kind of the record that holds control k.
func (g *Group) controlKind(k int) byte {
	switch {
	case k == controlHard:
		return kindHardState
	case k == controlMeta:
		return kindMeta
	case k == controlCompact:
		return kindCompact
	case g.damaged:
		return kindDamaged
	}
	return kindRemove
}

// copy reads a block and cuts off what was truncated.
func (j *stragglerJob) copy(g *Group, ref blockRef, term wire.Term) (wire.Block, error) {
	start := len(j.buf)
	j.buf = grow(j.buf, int(ref.size)) // copies made before keep the old memory alive
	b := j.buf[start : start+int(ref.size)]
	err := g.log.readSegment(ref.segment, int64(ref.offset), b)
	var block wire.Block
	if err == nil {
		block, err = checkBlock(g.id, ref, term, b)
	}
	if err != nil {
		if g.moved(ref) {
			err = errMoved
		}
		return nil, err
	}
	j.buf = appendCut(j.buf, block, ref.first, ref.last()+1)
	return wire.Block(j.buf[start:len(j.buf):len(j.buf)]), nil
}

// damagedAtRest reports, once, a group of which a block cannot be copied any more.
// The block pins its segment until the caller has compacted behind it, or has
// marked the group with [Batch.Wound]: who leads the group may want to hand over
// first, and only its caller knows what may be acknowledged of it.
func (l *Log) damagedAtRest(g *Group, at *CorruptionError) {
	g.mu.Lock()
	known := g.hurt != nil
	g.hurt = at
	g.mu.Unlock()
	if !known {
		l.o.Events.Damaged(at, []wire.GroupID{g.id})
	}
}

// encodeRewrite appends what Maintain has handed over, as far as it is still
// live where it was copied from.
func (w *writer) encodeRewrite(h *header) {
	if w.taken == nil {
		return
	}
	for i := range w.taken.items {
		it := &w.taken.items[i]
		if !it.refresh(w.taken.target) {
			it.kind = kindNone
			continue
		}
		at := len(w.buf)
		w.buf = it.appendTo(w.buf)
		h.add(w.buf[at:], it.group.id)
	}
}

// refresh brings a rewrite up to date and reports whether it is still wanted.
// Step puts it into the index before anything else can change the group.
func (it *item) refresh(target uint32) bool {
	g := it.group
	g.mu.Lock()
	defer g.mu.Unlock()
	switch it.kind {
	case kindMoved:
		from := it.source(wire.Block(it.data).First())
		k := g.find(from.first)
		return k < len(g.blocks) && g.blocks[k] == from
	case kindHardState:
		it.a, it.b, it.c = uint64(g.hard.Term), uint64(g.hard.Vote), uint64(g.hard.Commit)
		return g.at[controlHard] == target
	case kindMeta:
		it.data = []byte(g.meta)
		return g.at[controlMeta] == target
	case kindCompact:
		it.a, it.b = uint64(g.compacted), uint64(g.compactedTerm)
		return g.at[controlCompact] == target
	case kindRemove:
		return g.removed && g.at[controlFlag] == target
	case kindDamaged:
		at := g.log.damageOf(g.id)
		it.a, it.b, it.data = at.Segment, uint64(at.Offset), nil
		if g.wounded {
			it.data = le.AppendUint64(le.AppendUint64(nil, uint64(g.compacted)), uint64(g.compactedTerm))
		}
		return g.damaged && g.at[controlFlag] == target
	}
	return false
}

// finishRewrite gives the batch back to Maintain.
func (l *Log) finishRewrite(failed bool) {
	w := &l.writer
	if !failed {
		for i := range w.taken.items {
			if it := &w.taken.items[i]; it.kind != kindNone {
				l.counts.moved.Add(uint64(it.size()))
			}
		}
	}
	l.queueMu.Lock()
	w.taken.done = true
	l.queueMu.Unlock()
	w.taken = nil
	l.wakeMaintainer()
}
