package raftlog

import (
	"errors"
	"math"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// writer is the state of Step.
//
//	Submit ─▶ queue ─▶ pending ─encode─▶ buf ─WriteAt─▶ segment ─Sync─▶ index ─▶ Sink
//	Maintain ─▶ rewrite ───┘
//
// A cycle takes as many changes as fit in one batch, makes them durable with one
// write and one sync, puts them into the index and tells the sink which batches
// are complete. A batch larger than that takes several cycles.
type writer struct {
	active  *segment
	offset  int64 // of the next batch in active
	hash    *hasher
	buf     []byte
	pending []*Batch // taken from the queue, not complete
	next    int      // the first item of pending[0] that is not written
	taken   *rewriteBatch
	begun   bool // Begin was called for the next Step

	// What the next header says about the batches before it.
	sequence uint64 // of the last batch
	durable  uint64 // the last batch that was synced
	prevSum  uint64
	prevLen  uint32
	oldest   uint32 // what the last header says about where the log begins
	sealed   bool   // the last batch was empty
	mark     bool   // write an empty batch when there is nothing else to write
}

// Step makes one cycle and reports whether there was anything to do. It is not
// safe for concurrent use.
//
//mr:hotpath
func (l *Log) Step() bool {
	w := &l.writer
	if !w.begun || len(w.pending) == 0 {
		l.takeQueued()
	}
	w.begun = false
	if l.failure.Load() != nil {
		return l.rejectPending()
	}
	if w.sealed && w.oldest == l.upkeep.reclaimable.Load() {
		w.mark = false // it would say nothing new
	}
	if len(w.pending) == 0 && w.taken == nil && !w.mark {
		return false
	}
	l.counts.busy.Store(true)

	var h header
	w.begin(l.o.MaxBatchBytes)
	w.encodeRewrite(&h)
	batches, items := w.encodePending(&h, l.o.MaxBatchBytes)
	if h.records == 0 {
		h.flags = flagSeal
	}
	// A rewrite may have come too late in all its parts, and a batch may be
	// empty: then there is nothing to write.
	if (h.records > 0 || w.mark) && !l.write(&h) {
		return l.rejectPending()
	}
	l.index(&h, batches, items)
	if w.taken != nil {
		l.finishRewrite(false)
	}
	if batches > 0 && l.sink != nil {
		l.sink.Durable(w.pending[:batches], nil)
	}
	w.drop(batches, items)
	l.cycleEnded()
	return true
}

// cycleEnded notes progress.
//
//mr:hotpath
func (l *Log) cycleEnded() {
	l.counts.cycles.Add(1)
	l.counts.busy.Store(len(l.writer.pending) > 0)
}

// Begin takes what was submitted for the next Step, which then takes nothing
// else. It is for who runs Step without a goroutine and wants it to last: what is
// submitted until that Step has to wait for the one behind it, as it has to wait
// for a sync in flight.
func (l *Log) Begin() {
	l.takeQueued()
	l.writer.begun = true
	l.counts.busy.Store(len(l.writer.pending) > 0)
}

// takeQueued moves what was submitted to pending.
//
//mr:hotpath
func (l *Log) takeQueued() {
	w := &l.writer
	l.queueMu.Lock()
	w.pending = append(w.pending, l.queue...)
	clear(l.queue)
	l.queue = l.queue[:0]
	if w.taken == nil {
		w.taken, l.rewrite = l.rewrite, nil
	}
	w.mark = w.mark || l.wantMark
	l.wantMark = false
	l.queueMu.Unlock()
}

// begin makes the buffer ready for a batch. One that grew for a large record is
// let go, so that it is not kept for ever.
//
//mr:hotpath
func (w *writer) begin(maxBytes int) {
	if cap(w.buf) > 2*maxBytes+batchHeaderBytes {
		w.buf = nil
	}
	var space [batchHeaderBytes]byte
	w.buf = append(w.buf[:0], space[:]...)
}

// encodePending appends changes until the batch is full, units as a whole (L1). It
// returns how many of the pending batches are complete with that, and how many
// items of the one behind are in.
//
//mr:hotpath
func (w *writer) encodePending(h *header, maxBytes int) (batches, items int) {
	items = w.next
	for batches < len(w.pending) {
		b := w.pending[batches]
		for items < len(b.items) {
			end, size := b.unit(items, maxBytes-batchHeaderBytes)
			if h.records > 0 && len(w.buf)+size > maxBytes {
				return batches, items
			}
			for ; items < end; items++ {
				it, at := &b.items[items], len(w.buf)
				w.buf = it.appendTo(w.buf)
				h.add(w.buf[at:], it.group.id)
			}
		}
		batches++
		items = 0
	}
	return batches, 0
}

// write puts the batch in the buffer into the log, durably. It reports false
// when the log has failed.
//
//mr:hotpath
func (l *Log) write(h *header) bool {
	w := &l.writer
	var zeros [batchAlign]byte
	w.buf = append(w.buf, zeros[:padding(len(w.buf))]...)
	if w.offset > 0 && w.offset+int64(len(w.buf)) > w.active.size {
		if !l.rotate() {
			return false
		}
	}
	h.segment, h.offset = uint64(w.active.number), uint32(w.offset)
	h.sequence, h.durable = w.sequence+1, w.durable
	h.prevSum, h.prevLen = w.prevSum, w.prevLen
	h.oldest = uint64(l.oldestLive())
	h.finish(w.buf, w.hash)

	if _, err := w.active.file.WriteAt(w.buf, w.offset); err != nil {
		l.fail("write", w.active.number, w.offset, err)
		return false
	}
	if !l.o.NoSync && !planted.Is(planted.SkipSync) {
		err := w.active.file.Sync()
		if err != nil && planted.Is(planted.RetrySync) {
			err = w.active.file.Sync()
		}
		if err != nil {
			w.disown()
			l.fail("sync", w.active.number, w.offset, err)
			return false
		}
		w.durable = h.sequence
		l.counts.syncs.Add(1)
	}
	w.sequence, w.prevSum, w.prevLen = h.sequence, h.bodySum, h.length
	w.sealed = h.flags&flagSeal != 0
	w.offset += int64(h.length)
	w.active.used.Store(w.offset)
	w.active.batches.Add(1)
	l.upkeep.uncovered.Add(int64(h.length))
	// Two headers must say that a segment is not needed before it goes: the log
	// does not open without a segment that the newest header left names.
	said := w.oldest
	w.oldest = uint32(h.oldest)
	if old := l.upkeep.reclaimable.Swap(said); old != said || said != w.oldest {
		l.wakeMaintainer()
	}
	l.counts.batches.Add(1)
	l.counts.bytes.Add(uint64(h.length))
	l.counts.records.Add(uint64(h.records))
	return true
}

// disown makes the batch whose sync failed unreadable. Its bytes may be in the
// system's cache only, and be taken for clean there: the next start would find
// the batch, sync it in vain, promise what is in it, and lose it with the next
// power cut. Nothing waits for this write: it is dirty, so the sync of the next
// start brings it to the disk, or fails. If it fails itself there is no more to
// be done, and the log has failed anyway.
func (w *writer) disown() {
	var zeros [batchAlign]byte
	_, _ = w.active.file.WriteAt(zeros[:], w.offset) // see above
}

// oldestLive returns the first segment with live data, which the header says
// so that recovery knows where the log begins. Segments before it may go once
// the header is durable.
//
//mr:hotpath
func (l *Log) oldestLive() uint32 {
	if planted.Is(planted.RecycleLive) {
		return l.writer.active.number
	}
	for _, s := range l.table.Load().segments {
		if s.live.Load() > 0 || s == l.writer.active {
			return s.number
		}
	}
	return l.writer.active.number
}

// rotate begins the next segment, unless there is no descriptor for it.
func (l *Log) rotate() bool {
	w := &l.writer
	grown := l.spares.count() == 0
	if w.active.number == math.MaxUint32 {
		l.fail("rotate", w.active.number, w.offset, errNumbersUsedUp)
		return false
	}
	seg := l.spares.newSegment(w.active.number + 1)
	if err := l.spares.activate(seg); err != nil {
		var none *noFileError
		if errors.As(err, &none) && w.offset+int64(len(w.buf)) <= maxSegmentFileBytes {
			return true // it goes on where it is
		}
		l.fail("rotate", seg.number, 0, err)
		return false
	}
	l.addSegment(seg)
	w.active, w.offset = seg, 0
	l.counts.rotations.Add(1)
	if grown {
		l.counts.grown.Add(1)
	}
	l.wakeMaintainer()
	return true
}

func (l *Log) addSegment(seg *segment) {
	l.tableMu.Lock()
	defer l.tableMu.Unlock()
	l.table.Store(l.table.Load().with(seg))
}

// index puts a durable batch into the index: the rewritten records, then the
// pending ones in the order they were encoded.
//
//mr:hotpath
func (l *Log) index(h *header, batches, items int) {
	w := &l.writer
	segment, offset := w.active.number, h.offset+batchHeaderBytes
	live, entries := int64(0), 0
	l.applyMu.Lock()
	if w.taken != nil {
		for i := range w.taken.items {
			it := &w.taken.items[i]
			if it.kind == kindNone {
				continue
			}
			live += int64(it.apply(segment, offset, l))
			offset += uint32(it.size())
		}
	}
	from := w.next
	for k := 0; k <= batches && k < len(w.pending); k++ {
		list := w.pending[k].items
		if k == batches {
			list = list[:items]
		}
		for i := from; i < len(list); i++ {
			it := &list[i]
			if it.kind == kindBlock {
				entries += wire.Block(it.data).Count()
			}
			live += int64(it.apply(segment, offset, l))
			offset += uint32(it.size())
		}
		from = 0
	}
	l.applied = position{w.sequence, w.prevSum, w.prevLen, w.active.number, w.offset}
	l.applyMu.Unlock()
	w.active.live.Add(live)
	l.counts.entries.Add(uint64(entries))
	if l.oldestLive() != l.upkeep.reclaimable.Load() {
		l.wakeMaintainer()
	}
}

// drop forgets the batches that are complete.
//
//mr:hotpath
func (w *writer) drop(batches, items int) {
	n := copy(w.pending, w.pending[batches:])
	clear(w.pending[n:])
	w.pending = w.pending[:n]
	w.next = items
}

// rejectPending answers everything with the failure of the log.
func (l *Log) rejectPending() bool {
	w := &l.writer
	if w.taken != nil {
		l.finishRewrite(true)
	}
	if len(w.pending) == 0 {
		return false
	}
	if l.sink != nil {
		l.sink.Durable(w.pending, l.Err())
	}
	w.drop(len(w.pending), 0)
	l.cycleEnded()
	return true
}
