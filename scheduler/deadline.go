package scheduler

import "sync/atomic"

// Deadlines
//
// One word per slot, in the pages, so that a tick costs a walk through dense
// memory and a deadline that moves costs one store. A wheel would cost a list
// operation per move, and active groups move theirs with each message.
//
// Most deadlines lie far ahead, and each page keeps a low bound of its own, so
// a tick reads only pages where something may be due. S5, step by step:
//
//	SetDeadline: 1. store the deadline   2. lower low to it, if it is less
//	Tick:        a. low = none           b. read all deadlines, take those due
//	             c. lower low to the least of the rest
//
// If 2 comes after a, low ends at or below the new deadline, as after a it is
// only ever lowered. If 2 comes before a, so does 1, and b reads the new
// deadline: it is taken, or c counts it. Moving a deadline further leaves low
// as it is: still a low bound, at the price of one scan that finds nothing
// and raises it. A scan per page and tick is the most there can be.

// SetDeadline makes slot run, with the flags of that Tick, at the first Tick
// whose now is at least tick, unless it is changed before. The maximum of
// uint64 means none. The new deadline replaces the old one.
//
// REQUIRES: Grow made room for slot.
//
//mr:hotpath
func (s *Scheduler) SetDeadline(slot Slot, tick uint64) {
	pg, i := s.pages.of(slot)
	d := &pg.deadlines[i]
	if d.Load() == tick {
		return
	}
	d.Store(tick)
	pg.lower(tick)
}

// lower makes low at most tick.
func (pg *page) lower(tick uint64) {
	for {
		low := pg.low.Load()
		if low <= tick || pg.low.CompareAndSwap(low, tick) {
			return
		}
	}
}

// Tick sets f on every slot whose deadline is at most now, and clears those
// deadlines. Slots are found in the order of their numbers. A deadline set
// while a Tick is under way is answered by this one or the next.
//
//mr:hotpath
func (s *Scheduler) Tick(now uint64, f Flags) {
	now = min(now, noDeadline-1)
	s.tickMu.Lock()
	s.rescue()
	for i, pg := range s.pages.load() {
		if pg.low.Load() <= now {
			s.scan(pg, Slot(i)<<pageBits, now, f)
		}
	}
	s.flushDue(f)
	s.tickMu.Unlock()
}

// scanStride deadlines are read at a time, into two minima that do not wait
// for each other: nearly all of a page is not due, and this reads it as fast as
// memory gives it.
const scanStride = 8

// scan is steps a, b and c for the page whose first slot is given.
func (s *Scheduler) scan(pg *page, first Slot, now uint64, f Flags) {
	pg.low.Store(noDeadline)
	low := uint64(noDeadline)
	for i := 0; i < pageSlots; i += scanStride {
		d := (*[scanStride]atomic.Uint64)(pg.deadlines[i:])
		a := min(d[0].Load(), d[1].Load(), d[2].Load(), d[3].Load())
		b := min(d[4].Load(), d[5].Load(), d[6].Load(), d[7].Load())
		if a = min(a, b); a > now {
			low = min(low, a)
			continue
		}
		for j := range d {
			low = min(low, s.takeDue(pg, first, i+j, now, f))
		}
	}
	pg.lower(low)
}

// takeDue clears deadline i of a page and notes its slot, if it is due. It
// returns the deadline that stands there then.
func (s *Scheduler) takeDue(pg *page, first Slot, i int, now uint64, f Flags) uint64 {
	d := &pg.deadlines[i]
	for {
		tick := d.Load()
		if tick > now {
			return tick
		}
		if d.CompareAndSwap(tick, noDeadline) {
			if s.due = append(s.due, first+Slot(i)); len(s.due) == window {
				s.flushDue(f)
			}
			return noDeadline
		}
	}
}

// flushDue queues the slots that scans have noted.
func (s *Scheduler) flushDue(f Flags) {
	s.SetBatch(s.due, f)
	s.due = s.due[:0]
}
