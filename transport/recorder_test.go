package transport

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"multiraft/wire"
)

// patience ends a test that waits for what never comes. It is no measurement.
const patience = 30 * time.Second

type eventKind int

const (
	frameEvent eventKind = iota
	upEvent
	downEvent
)

type event struct {
	kind        eventKind
	peer        wire.StoreID
	payload     []byte
	incarnation uint64
	protocol    uint16
	err         error
}

// recorder is a Handler that keeps what it is told and checks T2: frames come
// only between PeerUp and PeerDown, which alternate, and one at a time per lane.
// The first byte of each payload names the lane.
type recorder struct {
	t      testing.TB
	events chan event
	up     [16]atomic.Bool
	busy   [16][Lanes]atomic.Bool
	gate   atomic.Pointer[chan struct{}] // when set, frames wait for it to close
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{t: t, events: make(chan event, 1<<16)}
}

func (r *recorder) HandleFrame(from wire.StoreID, payload []byte) {
	if !r.up[from].Load() {
		r.t.Errorf("T2: frame from store %d, which is not up", from)
	}
	lane := payload[0]
	if r.busy[from][lane].Swap(true) {
		r.t.Errorf("T2: two frames of a lane at a time")
	}
	if gate := r.gate.Load(); gate != nil {
		<-*gate
	}
	r.busy[from][lane].Store(false)
	r.events <- event{kind: frameEvent, peer: from, payload: payload}
}

func (r *recorder) PeerUp(peer wire.StoreID, incarnation uint64, protocol uint16) {
	if r.up[peer].Swap(true) {
		r.t.Errorf("PeerUp of store %d, which is up", peer)
	}
	r.events <- event{kind: upEvent, peer: peer, incarnation: incarnation, protocol: protocol}
}

func (r *recorder) PeerDown(peer wire.StoreID, err error) {
	if !r.up[peer].Swap(false) {
		r.t.Errorf("PeerDown of store %d, which is not up", peer)
	}
	if err == nil {
		r.t.Errorf("PeerDown of store %d without a reason", peer)
	}
	r.events <- event{kind: downEvent, peer: peer, err: err}
}

// hold makes frames wait until the function it returns is called.
func (r *recorder) hold() (release func()) {
	gate := make(chan struct{})
	r.gate.Store(&gate)
	return func() {
		r.gate.Store(nil)
		close(gate)
	}
}

// await returns the next event of a kind, skipping others.
func (r *recorder) await(kind eventKind) event {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e := <-r.events:
			if e.kind == kind {
				return e
			}
		case <-timeout:
			r.t.Fatalf("no event of kind %d", kind)
		}
	}
}

// awaitUp returns once the peer is up in a given life. Earlier lives may go up
// once more on the way: a lane can be connected just before its peer closes.
func (r *recorder) awaitUp(incarnation uint64) event {
	r.t.Helper()
	for {
		e := r.await(upEvent)
		if e.incarnation == incarnation {
			return e
		}
		if e.incarnation > incarnation {
			r.t.Fatalf("up as %d, want %d", e.incarnation, incarnation)
		}
	}
}

// none checks that no event of a kind is left. Use it after Close.
func (r *recorder) none(kind eventKind) {
	r.t.Helper()
	for {
		select {
		case e := <-r.events:
			if e.kind == kind {
				r.t.Errorf("unexpected event %+v", e)
			}
		default:
			return
		}
	}
}

// refusals gathers what HelloRefused is told.
type refusals chan *HelloError

func (r refusals) await(t testing.TB) *HelloError {
	t.Helper()
	select {
	case err := <-r:
		return err
	case <-time.After(patience):
		t.Fatal("no hello was refused")
		return nil
	}
}

func (r refusals) add(err *HelloError) {
	select {
	case r <- err:
	default: // a dialler comes back again and again; the first ones will do
	}
}

func mustClose(t testing.TB, transports ...Transport) {
	t.Helper()
	for _, tr := range transports {
		if err := tr.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

func mustStart(t testing.TB, tr Transport) *recorder {
	t.Helper()
	r := newRecorder(t)
	if err := tr.Start(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, tr) })
	return r
}

// noLeak checks at the end of a test that all goroutines it saw start are gone.
// Close waits for them, but one that has said so may need a moment to end.
func noLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(patience)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
			runtime.Gosched()
		}
	})
}
