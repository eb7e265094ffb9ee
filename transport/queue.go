package transport

import (
	"sync"
	"time"
)

// staleAfter is how long frames may wait for a connection. Votes and heartbeats
// of long ago only disturb a peer that just came back.
const staleAfter = 2 * time.Second

// frameQueue holds the payloads of one link that are not written yet. Many
// goroutines push, one takes everything there is. A mutex and two slices that
// swap places beat a channel: one lock per push, one lock per batch taken, and
// bytes can be counted.
type frameQueue struct {
	limit    int
	pool     *bufferPool
	counters *laneCounters
	now      func() time.Time
	wake     chan struct{} // capacity 1; a token left over costs one empty look

	mu        sync.Mutex // guards the fields below
	frames    [][]byte
	size      int // bytes queued, or taken and not released yet
	connected bool
	waiting   bool      // the taker sleeps, or is about to
	closed    bool      // push refuses, for good
	oldest    time.Time // when the queue last went from empty to not, unconnected
}

func newFrameQueue(limit int, pool *bufferPool, c *laneCounters, now func() time.Time) *frameQueue {
	return &frameQueue{limit: limit, pool: pool, counters: c, now: now, wake: make(chan struct{}, 1)}
}

// push queues a payload. T3: it drops the payload and returns ErrBusy rather
// than wait or exceed the limit, which a single frame alone may.
//
//mr:hotpath
func (q *frameQueue) push(payload []byte) error {
	size := frameHeaderBytes + len(payload)
	q.mu.Lock()
	if !q.connected {
		q.agedLocked()
	}
	if q.closed || q.size > 0 && q.size+size > q.limit {
		closed := q.closed
		q.mu.Unlock()
		q.drop(payload)
		if closed {
			return ErrClosed
		}
		return ErrBusy
	}
	q.frames = append(q.frames, payload)
	q.size += size
	wake := q.waiting
	q.waiting = false
	q.mu.Unlock()
	if wake {
		q.signal()
	}
	return nil
}

// take waits for frames and returns all of them, oldest first. It leaves the
// spare slice in their place, and returns nil once stop is closed. Their bytes
// count until released.
//
//mr:hotpath
func (q *frameQueue) take(spare [][]byte, stop <-chan struct{}) [][]byte {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		q.mu.Lock()
		if len(q.frames) > 0 {
			frames := q.frames
			q.frames = spare[:0]
			q.mu.Unlock()
			return frames
		}
		q.waiting = true
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-stop:
			return nil
		}
	}
}

// release recycles frames that were taken and gives their bytes back.
//
//mr:hotpath
func (q *frameQueue) release(frames [][]byte) {
	size := framesBytes(frames)
	q.pool.putAll(frames)
	q.mu.Lock()
	q.size -= size
	q.mu.Unlock()
}

// connect and disconnect tell whether somebody takes. Frames too old are dropped
// on the way.
func (q *frameQueue) connect() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.frames) > 0 {
		q.agedLocked()
	}
	q.connected = true
}

func (q *frameQueue) disconnect() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.connected = false
	q.oldest = q.now()
}

// clear drops what is queued.
func (q *frameQueue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.clearLocked()
}

// close drops what is queued and makes every push from now on fail.
func (q *frameQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.clearLocked()
}

// agedLocked keeps what waits for a connection younger than twice staleAfter:
// all of it goes when the oldest is older than staleAfter.
func (q *frameQueue) agedLocked() {
	now := q.now()
	if len(q.frames) == 0 {
		q.oldest = now
		return
	}
	if now.Sub(q.oldest) > staleAfter {
		q.clearLocked()
		q.oldest = now
	}
}

func (q *frameQueue) clearLocked() {
	q.size -= framesBytes(q.frames)
	q.counters.framesDropped.Add(uint64(len(q.frames)))
	q.pool.putAll(q.frames)
	q.frames = q.frames[:0]
}

func (q *frameQueue) drop(payload []byte) {
	q.counters.framesDropped.Add(1)
	q.pool.put(payload)
}

func (q *frameQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func framesBytes(frames [][]byte) int {
	n := frameHeaderBytes * len(frames)
	for _, f := range frames {
		n += len(f)
	}
	return n
}
