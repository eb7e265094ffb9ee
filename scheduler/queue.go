package scheduler

import (
	"sync"
	"sync/atomic"
)

// lockHold is the largest number of slots pushed under one hold of a queue's
// lock, so that its worker and thieves never wait longer than about 0.2 µs.
const lockHold = 128

// queue is the run queue of one worker, and that worker's place to park.
//
// A worker parks on a sync.Cond of the queue's own lock: whether the queue is
// empty and whether its worker is parked are then decided under one lock, by
// the pusher and the worker alike, and a wake-up cannot fall between them. A
// channel would need the same lock and a second hand-over.
type queue struct {
	mu sync.Mutex // guards the fields below; depth is also read without
	// wake has one waiter, the worker, which waits while parked is true. Who
	// makes parked false signals.
	wake   sync.Cond
	parked bool
	// recruited says that parked became false because another queue is long.
	recruited bool

	slots []Slot // ring; a power of two long, or empty
	head  int    // of the first slot
	count int

	depth atomic.Int32 // count, for who only wants a guess
	_     [40]byte
}

// push appends slots at the tail and returns the new depth, and whether the
// worker was parked and must be signalled.
func (q *queue) push(slots []Slot) (depth int, wake bool) {
	q.mu.Lock()
	if q.count+len(slots) > len(q.slots) {
		q.growLocked(q.count + len(slots))
	}
	mask := len(q.slots) - 1
	tail := q.head + q.count
	for i, slot := range slots {
		q.slots[(tail+i)&mask] = slot
	}
	q.count += len(slots)
	depth = q.count
	q.depth.Store(int32(depth))
	// S3: the queue is not empty any more, so its worker may not stay parked.
	wake = q.parked
	q.parked = false
	q.mu.Unlock()
	return depth, wake
}

// growLocked makes the ring at least n long. S1 bounds it by the number of
// slots, and it never shrinks, so it stops allocating.
func (q *queue) growLocked(n int) {
	size := max(len(q.slots), lockHold)
	for size < n {
		size *= 2
	}
	slots := make([]Slot, size)
	for i := range q.count {
		slots[i] = q.slots[(q.head+i)&(len(q.slots)-1)]
	}
	q.slots, q.head = slots, 0
}

// pop moves slots from the head into round, which has length zero: up to its
// capacity, and only half of the queue, rounded up, for a thief. It returns
// the depth that is left.
func (q *queue) pop(round []Work, thief bool) ([]Work, int) {
	if q.depth.Load() == 0 {
		return round, 0
	}
	q.mu.Lock()
	n := q.count
	if thief {
		n -= n / 2
	}
	n = min(n, cap(round))
	mask := len(q.slots) - 1
	for i := range n {
		round = append(round, Work{Slot: q.slots[(q.head+i)&mask]})
	}
	if n > 0 {
		q.head = (q.head + n) & mask
		q.count -= n
		q.depth.Store(int32(q.count))
	}
	depth := q.count
	q.mu.Unlock()
	return round, depth
}
