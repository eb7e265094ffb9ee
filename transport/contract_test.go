package transport

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"multiraft/internal/testca"
	"multiraft/wire"
)

// world makes transports of one implementation that know each other.
type world interface {
	// speak limits the protocol versions of stores that join from now on.
	speak(newest uint16)
	join(t *testing.T, cluster uint64, store wire.StoreID, incarnation uint64) Transport
}

// contract runs a test against both implementations, and TCP with TLS.
func contract(t *testing.T, test func(t *testing.T, w world, refused refusals)) {
	run := func(name string, make func(refused refusals) world) {
		t.Run("impl="+name, func(t *testing.T) {
			noLeak(t)
			refused := refusals(makeRefusals())
			test(t, make(refused), refused)
		})
	}
	run("tcp", func(refused refusals) world {
		return &tcpWorld{refused: refused, stores: map[wire.StoreID]*TCP{}}
	})
	run("tls", func(refused refusals) world {
		return &tcpWorld{refused: refused, stores: map[wire.StoreID]*TCP{}, ca: testca.New(t)}
	})
	run("network", func(refused refusals) world {
		return &networkWorld{n: NewNetwork(NetworkConfig{
			MaxFrameBytes: contractFrameBytes,
			MaxQueueBytes: contractQueueBytes,
			HelloRefused:  refused.add,
		})}
	})
}

func makeRefusals() refusals { return make(refusals, 64) }

const (
	contractFrameBytes = 4 << 20
	contractQueueBytes = 256 << 10
)

type tcpWorld struct {
	newest  uint16
	refused refusals
	stores  map[wire.StoreID]*TCP
	ca      *testca.Authority // nil: plain TCP
}

func (w *tcpWorld) speak(newest uint16) { w.newest = newest }

func (w *tcpWorld) join(t *testing.T, cluster uint64, store wire.StoreID, incarnation uint64) Transport {
	t.Helper()
	cfg := TCPConfig{
		Cluster:       cluster,
		Store:         store,
		Incarnation:   incarnation,
		MaxProtocol:   w.newest,
		MaxFrameBytes: contractFrameBytes,
		MaxQueueBytes: contractQueueBytes,
		HelloRefused:  w.refused.add,
	}
	if w.ca != nil {
		cfg.TLS = w.ca.Provider(StoreURI(cluster, store))
	}
	tr := newTestTCP(t, cfg)
	for id, other := range w.stores {
		if id == store {
			continue
		}
		if err := tr.SetPeer(id, other.Addr()); err != nil {
			t.Fatal(err)
		}
		if err := other.SetPeer(store, tr.Addr()); err != nil && !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	}
	w.stores[store] = tr
	return tr
}

// newTestTCP is NewTCP with pauses fit for loopback, closed with the test.
func newTestTCP(t testing.TB, cfg TCPConfig) *TCP {
	t.Helper()
	if cfg.DialBackoffMin == 0 {
		cfg.DialBackoffMin, cfg.DialBackoffMax = time.Millisecond, 10*time.Millisecond
	}
	tr, err := NewTCP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, tr) })
	return tr
}

type networkWorld struct {
	newest uint16
	n      *Network
}

func (w *networkWorld) speak(newest uint16) { w.newest = newest }

func (w *networkWorld) join(t *testing.T, cluster uint64, store wire.StoreID, incarnation uint64) Transport {
	t.Helper()
	e := w.n.Join(cluster, store, incarnation)
	if err := e.LimitProtocol(w.newest); err != nil {
		t.Fatal(err)
	}
	return e
}

const testCluster = 0xc1

func TestContractUpFramesDown(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a, b := w.join(t, testCluster, 1, 11), w.join(t, testCluster, 2, 22)
		ra, rb := mustStart(t, a), mustStart(t, b)
		if e := ra.await(upEvent); e.peer != 2 || e.incarnation != 22 {
			t.Fatalf("store 1 sees %+v", e)
		}
		if e := rb.await(upEvent); e.peer != 1 || e.incarnation != 11 {
			t.Fatalf("store 2 sees %+v", e)
		}
		send := func(from Transport, to wire.StoreID, at *recorder, source wire.StoreID) {
			t.Helper()
			for lane := range Lane(Lanes) {
				payload := append(from.Buffer(), byte(lane), 'x', byte(to))
				if err := from.Send(to, lane, payload); err != nil {
					t.Fatal(err)
				}
				e := at.await(frameEvent)
				if e.peer != source || !bytes.Equal(e.payload, []byte{byte(lane), 'x', byte(to)}) {
					t.Fatalf("got %+v", e)
				}
			}
		}
		send(a, 2, rb, 1)
		send(b, 1, ra, 2)
		mustClose(t, a)
		if e := ra.await(downEvent); e.peer != 2 || !errors.Is(e.err, ErrClosed) {
			t.Fatalf("the closed store sees %+v", e)
		}
		if e := rb.await(downEvent); e.peer != 1 {
			t.Fatalf("the other store sees %+v", e)
		}
		for lane := range Lanes {
			as, bs := a.Stats().Lanes[lane], b.Stats().Lanes[lane]
			if as.FramesSent != 1 || bs.FramesReceived != 1 || as.FramesReceived != 1 || bs.FramesSent != 1 {
				t.Errorf("lane %d: stats %+v and %+v", lane, as, bs)
			}
			if as.BytesSent != frameHeaderBytes+3 || bs.BytesReceived != frameHeaderBytes+3 {
				t.Errorf("lane %d: bytes %+v and %+v", lane, as, bs)
			}
		}
	})
}

// testPattern has no period that a chunk or a page has.
var testPattern = func() []byte {
	p := make([]byte, 251*257)
	for i := range p {
		p[i] = byte(i%251 + i/251)
	}
	return p
}()

// testPayload is a frame that tells its lane and number and whose other bytes
// follow from these.
func testPayload(dst []byte, lane Lane, number, size int) []byte {
	dst = append(dst, byte(lane), byte(number), byte(number>>8))
	for len(dst) < size {
		pattern := testPattern[number%1000:]
		dst = append(dst, pattern[:min(len(pattern), size-len(dst))]...)
	}
	return dst
}

// T1, and that payloads belong to the handler: frames of all sizes, both ways
// and on both lanes at a time, arrive in order; and all of them still hold what
// was sent after the last has arrived, although the sender built them in
// recycled buffers.
func TestContractOrder(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a, b := w.join(t, testCluster, 1, 1), w.join(t, testCluster, 2, 1)
		ra, rb := mustStart(t, a), mustStart(t, b)
		ra.await(upEvent)
		rb.await(upEvent)
		const frames = 700
		sizes := func(lane Lane) func() int {
			r := rand.New(rand.NewPCG(7, uint64(lane)))
			return func() int {
				switch n := r.IntN(300); {
				case n == 0:
					return 3<<20 + r.IntN(1000)
				case n < 10:
					return 60<<10 + r.IntN(200<<10)
				case n < 40:
					return 10<<10 + r.IntN(10<<10)
				}
				return 3 + r.IntN(500)
			}
		}
		send := func(from Transport, to wire.StoreID, lane Lane) {
			size := sizes(lane)
			for i := range frames {
				n := size()
				for {
					err := from.Send(to, lane, testPayload(from.Buffer(), lane, i, n))
					if err == nil {
						break
					}
					if err != ErrBusy {
						t.Errorf("send: %v", err)
						return
					}
					runtime.Gosched() // the queue is full, as it may be
				}
			}
		}
		var sending sync.WaitGroup
		for lane := range Lane(Lanes) {
			sending.Go(func() { send(a, 2, lane) })
			sending.Go(func() { send(b, 1, lane) })
		}
		for _, r := range []*recorder{ra, rb} {
			var got [Lanes][][]byte
			for range Lanes * frames {
				e := r.await(frameEvent)
				got[e.payload[0]] = append(got[e.payload[0]], e.payload)
			}
			for lane := range Lane(Lanes) {
				size := sizes(lane)
				for i, payload := range got[lane] {
					if !bytes.Equal(payload, testPayload(nil, lane, i, size())) {
						t.Fatalf("T1: frame %d of lane %d: got %d bytes %v…", i, lane, len(payload), payload[:3])
					}
				}
			}
		}
		sending.Wait()
	})
}

// T3: a reader that does not read costs the sender an error and a bounded queue;
// what was accepted arrives once it reads again, and the other lane is not held
// up.
func TestContractSlowReader(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a, b := w.join(t, testCluster, 1, 1), w.join(t, testCluster, 2, 1)
		ra, rb := mustStart(t, a), mustStart(t, b)
		ra.await(upEvent)
		rb.await(upEvent)
		release := rb.hold()
		accepted := 0
		for {
			err := a.Send(2, wire.Bulk, testPayload(a.Buffer(), wire.Bulk, accepted, 8<<10))
			if err == ErrBusy {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			accepted++
			if accepted > 1<<16 {
				t.Fatal("T3: 512 MiB were accepted by a queue of 256 KiB")
			}
		}
		if err := a.Send(2, wire.Urgent, testPayload(a.Buffer(), wire.Urgent, 0, 10)); err != nil {
			t.Errorf("the other lane is held up: %v", err)
		}
		release()
		next := 0
		for range accepted + 1 {
			e := rb.await(frameEvent)
			if Lane(e.payload[0]) == wire.Urgent {
				continue
			}
			if !bytes.Equal(e.payload, testPayload(nil, wire.Bulk, next, 8<<10)) {
				t.Fatalf("frame %d is another", next)
			}
			next++
		}
		if dropped := a.Stats().Lanes[wire.Bulk].FramesDropped; dropped != 1 {
			t.Errorf("%d frames dropped, want 1", dropped)
		}
	})
}

// Frames sent before the peer is there wait for it, within the bound.
func TestContractQueueBeforeConnect(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a, b := w.join(t, testCluster, 1, 1), w.join(t, testCluster, 2, 1)
		mustStart(t, a)
		const size = 1 << 10
		accepted := 0
		for {
			err := a.Send(2, wire.Urgent, testPayload(a.Buffer(), wire.Urgent, accepted, size))
			if err == ErrBusy {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			accepted++
		}
		if want := contractQueueBytes / (size + frameHeaderBytes); accepted != want {
			t.Errorf("%d frames queued, want %d", accepted, want)
		}
		rb := mustStart(t, b)
		for i := range accepted {
			if e := rb.await(frameEvent); !bytes.Equal(e.payload, testPayload(nil, wire.Urgent, i, size)) {
				t.Fatalf("frame %d is another", i)
			}
		}
	})
}

func TestContractErrors(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a := w.join(t, testCluster, 1, 1)
		w.join(t, testCluster, 2, 1)
		ra := mustStart(t, a)
		check := func(what string, got, want error) {
			t.Helper()
			if !errors.Is(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		check("unknown peer", a.Send(9, wire.Urgent, []byte{0}), ErrUnknownPeer)
		check("self", a.Send(1, wire.Urgent, []byte{0}), ErrUnknownPeer)
		check("too large", a.Send(2, wire.Bulk, make([]byte, contractFrameBytes+1)), ErrFrameTooLarge)
		check("second start", a.Start(ra), ErrStarted)
		mustClose(t, a, a)
		check("send after close", a.Send(2, wire.Urgent, []byte{0}), ErrClosed)
		check("start after close", a.Start(ra), ErrClosed)
		ra.none(upEvent)

		unstarted := w.join(t, testCluster, 3, 1)
		mustClose(t, unstarted)
		check("start after close", unstarted.Start(ra), ErrClosed)
	})
}

func TestContractOtherCluster(t *testing.T) {
	contract(t, func(t *testing.T, w world, refused refusals) {
		if tw, ok := w.(*tcpWorld); ok && tw.ca != nil {
			return // decided before the hello: see TestHandshakesRefused
		}
		a, b := w.join(t, testCluster, 1, 1), w.join(t, testCluster+1, 2, 1)
		ra, rb := mustStart(t, a), mustStart(t, b)
		err := refused.await(t)
		if err.Field != HelloCluster || err.Got+err.Want != 2*testCluster+1 {
			t.Errorf("refused with %+v", err)
		}
		mustClose(t, a, b)
		ra.none(upEvent)
		rb.none(upEvent)
		if n := a.Stats().HellosRefused + b.Stats().HellosRefused; n == 0 {
			t.Error("the refusal was not counted")
		}
	})
}

// T7: a peer that comes back is down and up again under its new incarnation; one
// from an earlier life is refused.
func TestContractRestart(t *testing.T) {
	contract(t, func(t *testing.T, w world, refused refusals) {
		a := w.join(t, testCluster, 1, 1)
		ra := mustStart(t, a)
		for incarnation := uint64(5); incarnation < 8; incarnation++ {
			b := w.join(t, testCluster, 2, incarnation)
			rb := mustStart(t, b)
			ra.awaitUp(incarnation)
			rb.await(upEvent)
			if err := a.Send(2, wire.Urgent, append(a.Buffer(), byte(wire.Urgent), byte(incarnation))); err != nil {
				t.Fatal(err)
			}
			if e := rb.await(frameEvent); e.payload[1] != byte(incarnation) {
				t.Fatalf("life %d got the frame of life %d", incarnation, e.payload[1])
			}
			mustClose(t, b)
			ra.await(downEvent)
		}
		old := w.join(t, testCluster, 2, 6)
		ro := mustStart(t, old)
		if err := refused.await(t); err.Field != HelloOwnIncarnation || err.Got != 7 || err.Want != 6 {
			t.Errorf("refused with %+v", err)
		}
		mustClose(t, old, a)
		ro.none(upEvent)
	})
}

// A transport that was not closed gives way to the next life of its store.
func TestContractNewerLifeWins(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a, b := w.join(t, testCluster, 1, 1), w.join(t, testCluster, 2, 1)
		mustStart(t, a)
		rb := mustStart(t, b)
		rb.await(upEvent)
		next := w.join(t, testCluster, 1, 2)
		rn := mustStart(t, next)
		rn.await(upEvent)
		if e := rb.await(downEvent); e.peer != 1 {
			t.Fatalf("down: %+v", e)
		}
		rb.awaitUp(2)
		if err := b.Send(1, wire.Bulk, []byte{byte(wire.Bulk), 'n'}); err != nil {
			t.Fatal(err)
		}
		if e := rn.await(frameEvent); e.payload[1] != 'n' {
			t.Fatalf("frame: %+v", e)
		}
	})
}

// T9: a connection speaks the newest version that both sides know, and a frame that
// was queued when they spoke a newer one is lost.
func TestContractProtocolVersions(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a := w.join(t, testCluster, 1, 1)
		ra := mustStart(t, a)
		for incarnation, speaks := range []uint16{0, 1, 2, 1} {
			w.speak(speaks)
			b := w.join(t, testCluster, 2, uint64(incarnation+1))
			rb := mustStart(t, b)
			want := speaks
			if want == 0 {
				want = wire.ProtocolVersion
			}
			if up := ra.awaitUp(uint64(incarnation + 1)); up.protocol != want {
				t.Errorf("life %d: up with version %d, want %d", incarnation+1, up.protocol, want)
			}
			if up := rb.await(upEvent); up.protocol != want {
				t.Errorf("life %d: the peer is up with version %d, want %d", incarnation+1, up.protocol, want)
			}
			mark := byte('0' + incarnation)
			if err := a.Send(2, wire.Bulk, []byte{byte(wire.Bulk), mark}); err != nil {
				t.Fatal(err)
			}
			if incarnation == 2 { // what was queued for the older version is understood
				if e := rb.await(frameEvent); e.payload[1] != 'x' {
					t.Errorf("life %d: frame %q, want x", incarnation+1, e.payload[1:])
				}
			}
			if e := rb.await(frameEvent); e.payload[1] != mark {
				t.Errorf("life %d: frame %q, want %q", incarnation+1, e.payload[1:], mark)
			}
			mustClose(t, b)
			ra.await(downEvent)
			if err := a.Send(2, wire.Bulk, []byte{byte(wire.Bulk), 'x'}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Three stores, all talking to all from many goroutines, while one of them comes
// and goes.
func TestContractConcurrent(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a, b := w.join(t, testCluster, 1, 1), w.join(t, testCluster, 2, 1)
		ra, rb := mustStart(t, a), mustStart(t, b)
		ra.await(upEvent)
		rb.await(upEvent)
		var sending sync.WaitGroup
		stop := make(chan struct{})
		for _, from := range []Transport{a, b} {
			for g := range 4 {
				sending.Go(func() {
					lane := Lane(g % Lanes)
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						for to := range wire.StoreID(4) {
							_ = from.Send(to, lane, testPayload(from.Buffer(), lane, i, 50)) // any error will do: it is about to be closed
						}
						runtime.Gosched() // leave the cores to others
					}
				})
			}
		}
		for incarnation := range uint64(5) {
			c := w.join(t, testCluster, 3, incarnation+1)
			rc := mustStart(t, c)
			rc.await(upEvent)
			rc.await(frameEvent)
			mustClose(t, c)
		}
		mustClose(t, a)
		close(stop)
		sending.Wait()
		mustClose(t, b)
	})
}

// The path of a frame, copied or written from where it is, allocates nothing in
// steady state, but for the memory that received frames stay in: a chunk for
// many.
func TestContractAllocs(t *testing.T) {
	contract(t, func(t *testing.T, w world, _ refusals) {
		a, b := w.join(t, testCluster, 1, 1), w.join(t, testCluster, 2, 1)
		h := &echo{up: make(chan struct{}, 2), got: make(chan int, 1)}
		for _, tr := range []Transport{a, b} {
			if err := tr.Start(h); err != nil {
				t.Fatal(err)
			}
			defer mustClose(t, tr)
		}
		<-h.up
		<-h.up
		for _, size := range []int{200, smallFrameBytes - 1000, smallFrameBytes + 1000} {
			content := make([]byte, size)
			roundTrip := func() {
				if err := a.Send(2, wire.Urgent, append(a.Buffer(), content...)); err != nil {
					t.Fatal(err)
				}
				if n := <-h.got; n != len(content) {
					t.Fatalf("got %d bytes", n)
				}
			}
			for range 100 {
				roundTrip()
			}
			allowed := 0.0
			if _, inProcess := a.(*Endpoint); inProcess && size > 16<<10 {
				allowed = 1 // its arena gives a frame of this size memory of its own
			}
			if tw, tcp := w.(*tcpWorld); tcp && tw.ca != nil {
				allowed = 4 // crypto/tls makes one per read, of which a record takes one or two
			}
			if allocs := testing.AllocsPerRun(1000, roundTrip); allocs > allowed {
				t.Errorf("size %d: %v allocations per frame", size, allocs)
			}
		}
	})
}

// echo tells the size of each frame, and nothing else.
type echo struct {
	up  chan struct{}
	got chan int
}

func (e *echo) HandleFrame(_ wire.StoreID, payload []byte) { e.got <- len(payload) }
func (e *echo) PeerUp(wire.StoreID, uint64, uint16)        { e.up <- struct{}{} }
func (e *echo) PeerDown(wire.StoreID, error)               {}

func ExampleNetwork() {
	n := NewNetwork(NetworkConfig{Cluster: 7})
	one, two := n.Transport(1), n.Transport(2)
	done := make(chan struct{})
	err := errors.Join(
		one.Start(printer{nil}),
		two.Start(printer{done}),
		one.Send(2, wire.Urgent, append(one.Buffer(), "hello"...)),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	<-done
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		fmt.Println(err)
	}
	// Output: store 1 says hello
}

type printer struct{ done chan struct{} }

func (p printer) HandleFrame(from wire.StoreID, payload []byte) {
	fmt.Printf("store %d says %s\n", from, payload)
	close(p.done)
}
func (p printer) PeerUp(wire.StoreID, uint64, uint16) {}
func (p printer) PeerDown(wire.StoreID, error)        {}
