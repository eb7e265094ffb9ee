package transport

import (
	"errors"
	"testing"
	"time"
)

// testQueue is a queue whose clock the test moves.
func testQueue(limit int) (q *frameQueue, pool *bufferPool, now *time.Time) {
	pool, now = &bufferPool{}, new(time.Time)
	*now = time.Unix(1000, 0)
	return newFrameQueue(limit, pool, &laneCounters{}, func() time.Time { return *now }), pool, now
}

func mustPush(t *testing.T, q *frameQueue, payload string) {
	t.Helper()
	if err := q.push([]byte(payload)); err != nil {
		t.Fatal(err)
	}
}

func TestQueueBound(t *testing.T) {
	const size = 100
	q, _, _ := testQueue(3 * (size + frameHeaderBytes))
	q.connect()
	payload := func() []byte { return make([]byte, size) }
	for range 3 {
		mustPush(t, q, string(payload()))
	}
	if err := q.push(payload()); err != ErrBusy {
		t.Fatalf("push beyond the limit: %v", err)
	}
	frames := q.take(nil, nil)
	if len(frames) != 3 {
		t.Fatalf("took %d frames", len(frames))
	}
	// What is being written still counts.
	if err := q.push(payload()); err != ErrBusy {
		t.Fatalf("push while the limit is being written: %v", err)
	}
	q.release(frames)
	mustPush(t, q, string(payload()))
	if dropped := q.counters.framesDropped.Load(); dropped != 2 {
		t.Errorf("%d frames dropped, want 2", dropped)
	}
}

// A frame larger than the limit must have a way through, alone.
func TestQueueLargerThanLimit(t *testing.T) {
	q, _, _ := testQueue(10)
	q.connect()
	mustPush(t, q, string(make([]byte, 1000)))
	if err := q.push([]byte{1}); err != ErrBusy {
		t.Fatalf("second frame: %v", err)
	}
}

// T3: frames for an absent peer are younger than twice staleAfter.
func TestQueueDropsStaleFrames(t *testing.T) {
	q, _, now := testQueue(1 << 20)
	mustPush(t, q, "old")
	*now = now.Add(staleAfter)
	mustPush(t, q, "younger")
	if len(q.frames) != 2 {
		t.Fatalf("%d frames, want 2: none is stale yet", len(q.frames))
	}
	*now = now.Add(1)
	mustPush(t, q, "new")
	if len(q.frames) != 1 || string(q.frames[0]) != "new" || q.size != frameHeaderBytes+3 {
		t.Fatalf("queue holds %q, %d bytes; want the new frame alone", q.frames, q.size)
	}
	*now = now.Add(staleAfter + 1)
	q.connect()
	if len(q.frames) != 0 || q.size != 0 {
		t.Fatalf("connected with %q, %d bytes", q.frames, q.size)
	}
	if dropped := q.counters.framesDropped.Load(); dropped != 3 {
		t.Errorf("%d frames dropped, want 3", dropped)
	}
	// While connected, age does not matter: a slow peer is still a peer.
	mustPush(t, q, "slow")
	*now = now.Add(10 * staleAfter)
	mustPush(t, q, "slower")
	if len(q.frames) != 2 {
		t.Fatalf("%d frames, want 2", len(q.frames))
	}
	q.disconnect()
	mustPush(t, q, "after")
	if len(q.frames) != 3 {
		t.Fatalf("%d frames after a disconnect, want 3: their age counts from there", len(q.frames))
	}
}

func TestQueueClose(t *testing.T) {
	q, pool, _ := testQueue(1 << 20)
	mustPush(t, q, "one")
	q.close()
	if err := q.push([]byte("two")); !errors.Is(err, ErrClosed) {
		t.Fatalf("push after close: %v", err)
	}
	if len(q.frames) != 0 || q.size != 0 || len(pool.free) != 2 {
		t.Fatalf("%d frames, %d bytes, %d buffers recycled; want 0, 0, 2", len(q.frames), q.size, len(pool.free))
	}
}

// take must see a frame pushed between its look and its sleep, and end on stop
// even when frames are left.
func TestQueueTakeWakesAndStops(t *testing.T) {
	q, _, _ := testQueue(1 << 20)
	q.connect()
	stop := make(chan struct{})
	const frames = 10000
	taken := make(chan int)
	go func() {
		total := 0
		for total < frames {
			got := q.take(nil, stop)
			total += len(got)
			q.release(got)
		}
		taken <- total
	}()
	for range frames {
		mustPush(t, q, "x")
	}
	if got := <-taken; got != frames {
		t.Fatalf("took %d of %d", got, frames)
	}
	mustPush(t, q, "left")
	close(stop)
	if got := q.take(nil, stop); got != nil {
		t.Fatalf("took %q after stop", got)
	}
}

func TestBufferPool(t *testing.T) {
	var p bufferPool
	if b := p.get(); len(b) != 0 {
		t.Fatalf("an empty pool gave %q", b)
	}
	p.put(append(make([]byte, 0, 64), "content"...))
	if b := p.get(); len(b) != 0 || cap(b) != 64 {
		t.Fatalf("got length %d, capacity %d; want 0, 64", len(b), cap(b))
	}
	p.put(make([]byte, maxPooledBufferBytes+1))
	if len(p.free) != 0 {
		t.Error("kept a buffer that is too large")
	}
	for range 2 * maxPooledBuffers {
		p.put(make([]byte, 1))
	}
	if len(p.free) != maxPooledBuffers || p.size != maxPooledBuffers {
		t.Errorf("%d buffers of %d bytes kept", len(p.free), p.size)
	}
	for range maxPooledBuffers {
		p.get()
	}
	for range 2 * maxPooledBytes / maxPooledBufferBytes {
		p.put(make([]byte, maxPooledBufferBytes))
	}
	if p.size != maxPooledBytes {
		t.Errorf("%d bytes kept, want %d", p.size, maxPooledBytes)
	}
}

func TestBackoff(t *testing.T) {
	value := uint64(0)
	b := backoff{min: 20, max: 100, rand: func() uint64 { return value }}
	for _, want := range []time.Duration{20, 40, 80, 100, 100} {
		if got := b.next(); got != want {
			t.Fatalf("pause %d, want %d", got, want)
		}
	}
	value = 50 // the most that half of 100 allows
	if got := b.next(); got != 50 {
		t.Fatalf("with jitter %d, want 50", got)
	}
	b.reset()
	value = 0
	if got := b.next(); got != 20 {
		t.Fatalf("after reset %d, want 20", got)
	}
}
