package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"multiraft/wire"
)

func TestTCPConfigValidate(t *testing.T) {
	bad := TCPConfig{
		MaxFrameBytes:  1,
		MaxQueueBytes:  -1,
		PeerTimeout:    -1,
		Limits:         Limits{MaxGreeting: -1, GreetingBytes: 1},
		DialBackoffMin: time.Minute,
		Peers:          map[wire.StoreID]string{0: ""},
	}
	_, err := NewTCP(bad)
	if err == nil {
		t.Fatal("a bad config was accepted")
	}
	for _, field := range []string{"Store", "MaxFrameBytes", "MaxQueueBytes", "PeerTimeout", "DialBackoffMin", "Peers", "MaxGreeting", "GreetingBytes"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("no word of %s in %q", field, err)
		}
	}
	if err := (&TCPConfig{Store: 1}).Validate(); err != nil {
		t.Errorf("the zero value with a store: %v", err)
	}
}

// server is store 2, which store 1 dials; the test plays store 1 on raw sockets.
type server struct {
	*TCP
	*recorder
	refused refusals
}

func newServer(t *testing.T, change func(cfg *TCPConfig)) *server {
	t.Helper()
	noLeak(t)
	refused := makeRefusals()
	cfg := TCPConfig{
		Cluster: testCluster, Store: 2, Incarnation: 7, MaxFrameBytes: 1 << 20,
		Peers:        map[wire.StoreID]string{1: "", 3: ""},
		HelloRefused: refused.add,
	}
	if change != nil {
		change(&cfg)
	}
	tr := newTestTCP(t, cfg)
	return &server{tr, mustStart(t, tr), refused}
}

// rawHello is a good hello of store 1 to store 2.
func rawHello() hello {
	return hello{
		minProtocol: wire.ProtocolVersion, maxProtocol: wire.ProtocolVersion,
		cluster: testCluster, from: 1, to: 2, incarnation: 1, frameCap: 1 << 20, nonce: 42,
	}
}

func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(nc) })
	if err := nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// greetRaw says hello and returns the answer.
func greetRaw(t *testing.T, addr string, h hello) (net.Conn, hello) {
	t.Helper()
	nc := dialRaw(t, addr)
	b := h.encode()
	if _, err := nc.Write(b[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		t.Fatalf("no answer to the hello: %v", err)
	}
	var answer hello
	if err := answer.decode(&b); err != nil {
		t.Fatal(err)
	}
	return nc, answer
}

// connectRaw is greetRaw for a hello that is welcome. It returns the key of
// frames to the server.
func connectRaw(t *testing.T, addr string, h hello) (net.Conn, uint64) {
	t.Helper()
	nc, answer := greetRaw(t, addr, h)
	if answer.verdict != 0 {
		t.Fatalf("refused for %v", answer.verdict)
	}
	key, _ := sessionKeys(h.nonce, answer.nonce)
	return nc, key
}

// expectClosed checks that the other end closes the connection without a word.
func expectClosed(t *testing.T, nc net.Conn) {
	t.Helper()
	n, err := nc.Read(make([]byte, 1))
	if n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want a closed connection", n, err)
	}
}

// T4: a hello that is not welcome is answered with the reason, reported and
// counted, and the connection is closed.
func TestHellosRefused(t *testing.T) {
	cases := map[string]struct {
		change func(h *hello)
		field  HelloField
	}{
		"cluster":         {func(h *hello) { h.cluster++ }, HelloCluster},
		"store":           {func(h *hello) { h.to = 9 }, HelloStore},
		"self":            {func(h *hello) { h.from = 2 }, HelloSelf},
		"unknown peer":    {func(h *hello) { h.from = 9 }, HelloPeer},
		"no peer":         {func(h *hello) { h.from = 0 }, HelloPeer},
		"direction":       {func(h *hello) { h.from = 3 }, HelloDirection},
		"protocol":        {func(h *hello) { h.minProtocol, h.maxProtocol = 900, 901 }, HelloProtocol},
		"lane":            {func(h *hello) { h.lane = 9 }, HelloLane},
		"frame cap":       {func(h *hello) { h.frameCap = 0 }, HelloFrameCap},
		"own incarnation": {func(h *hello) { h.met = 8 }, HelloOwnIncarnation},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil)
			h := rawHello()
			c.change(&h)
			nc, answer := greetRaw(t, s.Addr(), h)
			if answer.verdict != c.field {
				t.Errorf("verdict %v, want %v", answer.verdict, c.field)
			}
			expectClosed(t, nc)
			if err := s.refused.await(t); err.Field != c.field || err.Remote || err.Addr != nc.LocalAddr().String() {
				t.Errorf("reported %+v", err)
			}
			mustClose(t, s)
			s.none(upEvent)
			if got := s.Stats(); got.HellosRefused != 1 || got.Connects != 0 {
				t.Errorf("stats %+v", got)
			}
		})
	}
}

// T4: what is no hello at all is not answered.
func TestGarbageInsteadOfHello(t *testing.T) {
	h := rawHello()
	damaged := h.encode()
	damaged[30]++
	cases := map[string]struct {
		bytes []byte
		field HelloField // 0: not refused, but ended early
	}{
		"text":      {bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 20), HelloMagic},
		"zeros":     {make([]byte, helloBytes), HelloMagic},
		"ones":      {bytes.Repeat([]byte{0xff}, 1<<16), HelloMagic},
		"damaged":   {damaged[:], HelloChecksum},
		"truncated": {damaged[:40], 0},
		"nothing":   {nil, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil)
			nc := dialRaw(t, s.Addr())
			// The server may close before it has taken all of it.
			_, _ = nc.Write(c.bytes)
			if c.field == 0 {
				if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			} else if err := s.refused.await(t); err.Field != c.field {
				t.Errorf("refused with %+v, want %v", err, c.field)
			}
			expectClosed(t, nc)
			// It serves others all the same.
			connectRaw(t, s.Addr(), rawHello())
			s.await(upEvent)
		})
	}
}

// T4: a connection that says nothing is not kept.
func TestHelloTimeout(t *testing.T) {
	s := newServer(t, func(cfg *TCPConfig) { cfg.HelloTimeout = 20 * time.Millisecond })
	expectClosed(t, dialRaw(t, s.Addr()))
}

// T4: nor are too many of them: who comes last is heard, who came first must go.
func TestTooManyWithoutHello(t *testing.T) {
	const most = 4
	s := newServer(t, func(cfg *TCPConfig) {
		cfg.HelloTimeout = time.Hour
		cfg.Limits.MaxGreetingPerAddress = most
	})
	var silent []net.Conn
	for range most {
		silent = append(silent, dialRaw(t, s.Addr()))
	}
	connectRaw(t, s.Addr(), rawHello())
	expectClosed(t, silent[0])
	s.await(upEvent)
	if got := s.Stats().Overflows; got != 1 {
		t.Errorf("%d overflows, want 1", got)
	}
	mustClose(t, s)
	for _, nc := range silent[1:] {
		expectClosed(t, nc)
	}
}

// T4: who comes too often is not heard.
func TestTooManyAccepts(t *testing.T) {
	noLeak(t)
	tr := newTestTCP(t, TCPConfig{
		Cluster: testCluster, Store: 2, Peers: map[wire.StoreID]string{1: ""}, Limits: Limits{AcceptsPerSecond: 1},
	})
	began := tr.door.began
	tr.door.now = func() time.Time { return began }
	r := mustStart(t, tr)
	connectRaw(t, tr.Addr(), rawHello())
	r.await(upEvent)
	// The refusal may come before the test's end of the connection is complete.
	if nc, err := net.Dial("tcp", tr.Addr()); err == nil {
		expectClosed(t, nc)
		closeConn(nc)
	}
	if got := tr.Stats(); got.AcceptsRefused != 1 || got.Connects != 1 {
		t.Errorf("stats %+v", got)
	}
}

// A frame that is not right costs its connection, whose end names the fault.
func TestBadFrames(t *testing.T) {
	// The second frame of a connection whose first is fine.
	first := []byte{0, 'a'}
	behindFirst := func(lane Lane, key uint64) []byte {
		return encodeFrames(t, lane, key, first, []byte{0, 'b'})[frameHeaderBytes+len(first):]
	}
	good := func(key uint64) []byte { return behindFirst(0, key) }
	cases := map[string]struct {
		stream func(key uint64) []byte
		want   error
		bad    uint64
	}{
		"garbage":   {func(uint64) []byte { return bytes.Repeat([]byte("x"), 100) }, ErrBadFrame, 1},
		"oversized": {func(key uint64) []byte { b := good(key); b[3] = 1; return b }, ErrBadFrame, 1},
		"checksum":  {func(key uint64) []byte { b := good(key); b[8]++; return b }, ErrBadFrame, 1},
		"lane":      {func(key uint64) []byte { return behindFirst(1, key) }, ErrBadFrame, 1},
		"key":       {func(key uint64) []byte { return good(key + 1) }, ErrBadFrame, 1},
		"truncated": {func(key uint64) []byte { return good(key)[:17] }, io.ErrUnexpectedEOF, 0},
		"end":       {func(uint64) []byte { return nil }, io.EOF, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil)
			nc, key := connectRaw(t, s.Addr(), rawHello())
			s.await(upEvent)
			if _, err := nc.Write(encodeFrames(t, 0, key, first)); err != nil {
				t.Fatal(err)
			}
			if e := s.await(frameEvent); !bytes.Equal(e.payload, first) {
				t.Fatalf("got %q", e.payload)
			}
			if _, err := nc.Write(c.stream(key)); err != nil {
				t.Fatal(err)
			}
			if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if e := s.await(downEvent); !errors.Is(e.err, c.want) {
				t.Errorf("down with %v, want %v", e.err, c.want)
			}
			if got := s.Stats().BadFrames; got != c.bad {
				t.Errorf("%d bad frames, want %d", got, c.bad)
			}
		})
	}
}

// T6: the newest connection of a lane wins.
func TestNewestConnectionWins(t *testing.T) {
	s := newServer(t, nil)
	first, _ := connectRaw(t, s.Addr(), rawHello())
	s.await(upEvent)
	second, key := connectRaw(t, s.Addr(), rawHello())
	expectClosed(t, first)
	if e := s.await(downEvent); !errors.Is(e.err, ErrReplaced) {
		t.Errorf("down with %v", e.err)
	}
	s.await(upEvent)
	if _, err := second.Write(encodeFrames(t, 0, key, []byte{0, 'b'})); err != nil {
		t.Fatal(err)
	}
	if e := s.await(frameEvent); string(e.payload) != "\x00b" {
		t.Fatalf("got %q", e.payload)
	}
}

// The second lane keeps the peer up when the first one goes.
func TestPeerIsUpWhileOneLaneIs(t *testing.T) {
	s := newServer(t, nil)
	urgent, _ := connectRaw(t, s.Addr(), rawHello())
	s.await(upEvent)
	h := rawHello()
	h.lane = wire.Bulk
	bulk, key := connectRaw(t, s.Addr(), h)
	frames := encodeFrames(t, wire.Bulk, key, []byte{1, 'a'}, []byte{1, 'b'})
	const size = frameHeaderBytes + 2
	if _, err := bulk.Write(frames[:size]); err != nil {
		t.Fatal(err)
	}
	s.await(frameEvent) // both lanes are in service
	closeConn(urgent)
	if _, err := bulk.Write(frames[size:]); err != nil {
		t.Fatal(err)
	}
	s.await(frameEvent)
	closeConn(bulk)
	s.await(downEvent)
	mustClose(t, s)
	s.none(upEvent)
}

// T7: a hello of a newer life ends both lanes of the older; then the older is
// refused.
func TestNewerIncarnationEvicts(t *testing.T) {
	s := newServer(t, nil)
	h := rawHello()
	urgent, _ := connectRaw(t, s.Addr(), h)
	h.lane = wire.Bulk
	bulk, _ := connectRaw(t, s.Addr(), h)
	if e := s.await(upEvent); e.incarnation != 1 {
		t.Fatalf("up as %d", e.incarnation)
	}
	h.incarnation = 2
	connectRaw(t, s.Addr(), h)
	expectClosed(t, urgent)
	expectClosed(t, bulk)
	s.await(downEvent)
	s.awaitUp(2)
	h.incarnation = 1
	if _, answer := greetRaw(t, s.Addr(), h); answer.verdict != HelloIncarnation || answer.met != 2 {
		t.Fatalf("an older life got %+v", answer)
	}
}

// A store that answers our hello is checked as strictly as one that dials.
func TestDiallerChecksAnswer(t *testing.T) {
	cases := map[string]struct {
		change func(h *hello)
		field  HelloField
		remote bool
	}{
		"refused":     {func(h *hello) { h.verdict = HelloPeer }, HelloPeer, true},
		"cluster":     {func(h *hello) { h.cluster++ }, HelloCluster, false},
		"other store": {func(h *hello) { h.from = 3 }, HelloStore, false},
		"other lane":  {func(h *hello) { h.lane ^= 1 }, HelloLane, false},
		"not for us":  {func(h *hello) { h.to = 9 }, HelloStore, false},
		"frame cap":   {func(h *hello) { h.frameCap = 1 }, HelloFrameCap, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			serving := make(chan struct{})
			t.Cleanup(func() { closeListener(t, listener); <-serving })
			go func() {
				defer close(serving)
				for {
					nc, err := listener.Accept()
					if err != nil {
						return
					}
					var b [helloBytes]byte
					var h hello
					if _, err := io.ReadFull(nc, b[:]); err == nil && h.decode(&b) == nil {
						answer := rawHello()
						answer.from, answer.to, answer.lane = 2, 1, h.lane
						c.change(&answer)
						b = answer.encode()
						_, _ = nc.Write(b[:]) // the caller may have hung up, which is what is tested
					}
					closeConn(nc)
				}
			}()
			refused := makeRefusals()
			tr := newTestTCP(t, TCPConfig{
				Cluster: testCluster, Store: 1, HelloRefused: refused.add,
				Peers: map[wire.StoreID]string{2: listener.Addr().String()},
			})
			r := mustStart(t, tr)
			got := refused.await(t)
			if got.Field != c.field || got.Remote != c.remote || got.Addr != listener.Addr().String() {
				t.Errorf("refused with %+v", got)
			}
			if !strings.Contains(got.Error(), c.field.String()) {
				t.Errorf("no word of %v in %q", c.field, got)
			}
			mustClose(t, tr)
			r.none(upEvent)
		})
	}
}

func closeListener(t *testing.T, l net.Listener) {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// A half-open connection: the peer is there but takes nothing any more. The
// write deadline finds it.
func TestStuckPeerIsGivenUp(t *testing.T) {
	s := newServer(t, func(cfg *TCPConfig) { cfg.PeerTimeout = 50 * time.Millisecond })
	connectRaw(t, s.Addr(), rawHello()) // reads no more
	s.await(upEvent)
	for {
		select {
		case e := <-s.events:
			// The kernel may notice first.
			if !errors.Is(e.err, os.ErrDeadlineExceeded) && !errors.Is(e.err, syscall.ETIMEDOUT) {
				t.Errorf("got %+v, want a time-out", e)
			}
			return
		default:
			if err := s.Send(1, wire.Urgent, make([]byte, 64<<10)); err != nil && err != ErrBusy {
				t.Fatal(err)
			}
		}
	}
}

// The dialler comes back to the same address after its peer restarted there, and
// to a new one when told.
func TestReconnect(t *testing.T) {
	noLeak(t)
	second := func(addr string, incarnation uint64) (*TCP, *recorder) {
		tr := newTestTCP(t, TCPConfig{
			Cluster: testCluster, Store: 2, Incarnation: incarnation, Listen: addr,
			Peers: map[wire.StoreID]string{1: ""},
		})
		return tr, mustStart(t, tr)
	}
	b, rb := second("", 1)
	addr := b.Addr()
	a := newTestTCP(t, TCPConfig{Cluster: testCluster, Store: 1, Peers: map[wire.StoreID]string{2: addr}})
	ra := mustStart(t, a)
	ra.await(upEvent)
	rb.await(upEvent)
	mustClose(t, b)
	ra.await(downEvent)

	b, _ = second(addr, 2)
	ra.awaitUp(2)
	moved, _ := second("", 3)
	if err := a.SetPeer(2, moved.Addr()); err != nil {
		t.Fatal(err)
	}
	if e := ra.await(downEvent); !errors.Is(e.err, ErrAddressChanged) && !errors.Is(e.err, ErrReplaced) {
		t.Errorf("down with %v", e.err)
	}
	ra.awaitUp(3)
	mustClose(t, b)
	if err := a.SetPeer(2, ""); err != nil {
		t.Fatal(err)
	}
	if e := ra.await(downEvent); !errors.Is(e.err, ErrAddressChanged) {
		t.Errorf("down with %v", e.err)
	}
	for _, id := range []wire.StoreID{0, 1} {
		if err := a.SetPeer(id, addr); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("SetPeer(%d): %v", id, err)
		}
	}
	mustClose(t, a)
	if err := a.SetPeer(3, addr); !errors.Is(err, ErrClosed) {
		t.Errorf("SetPeer after Close: %v", err)
	}
}

// flakyListener fails some Accepts, as when descriptors run out.
type flakyListener struct {
	net.Listener
	failures atomic.Int32
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, errors.New("no descriptor left")
	}
	return l.Listener.Accept()
}

func TestListenerSurvivesErrors(t *testing.T) {
	s := newServer(t, func(cfg *TCPConfig) {
		cfg.ListenFunc = func(addr string) (net.Listener, error) {
			l, err := net.Listen("tcp", addr)
			flaky := &flakyListener{Listener: l}
			flaky.failures.Store(3)
			return flaky, err
		}
	})
	connectRaw(t, s.Addr(), rawHello())
	s.await(upEvent)
	if got := s.Stats().AcceptFailures; got != 3 {
		t.Errorf("%d accept failures, want 3", got)
	}
}

// Close must not wait for a dial or a hello that hangs.
func TestCloseInterruptsGreetings(t *testing.T) {
	noLeak(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer closeListener(t, silent)
	dialling := make(chan struct{}, 8)
	tr := newTestTCP(t, TCPConfig{
		Cluster: testCluster, Store: 1, HelloTimeout: time.Hour,
		Peers: map[wire.StoreID]string{2: silent.Addr().String(), 3: "hangs"},
		DialFunc: func(ctx context.Context, addr string) (net.Conn, error) {
			dialling <- struct{}{}
			if addr == "hangs" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
	})
	mustStart(t, tr)
	accepted := dialRaw(t, tr.Addr())
	for range 2 * Lanes {
		<-dialling
	}
	mustClose(t, tr)
	expectClosed(t, accepted)
}

// A connection that a hook made need not be TCP.
func TestHooks(t *testing.T) {
	noLeak(t)
	conns := make(chan net.Conn)
	listen := func(string) (net.Listener, error) {
		return &pipeListener{conns: conns, closed: make(chan struct{})}, nil
	}
	b := newTestTCP(t, TCPConfig{Cluster: testCluster, Store: 2, ListenFunc: listen, Peers: map[wire.StoreID]string{1: ""}})
	a := newTestTCP(t, TCPConfig{
		Cluster: testCluster, Store: 1, Peers: map[wire.StoreID]string{2: "pipe"},
		DialFunc: func(ctx context.Context, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case conns <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	rb := mustStart(t, b)
	mustStart(t, a)
	large := testPayload(nil, wire.Bulk, 1, 100<<10) // more than one piece
	if err := a.Send(2, wire.Bulk, bytes.Clone(large)); err != nil {
		t.Fatal(err)
	}
	if e := rb.await(frameEvent); !bytes.Equal(e.payload, large) {
		t.Fatalf("got %d bytes", len(e.payload))
	}
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// A frame that this store accepts but the peer does not is refused by Send.
func TestFrameCapOfPeer(t *testing.T) {
	s := newServer(t, nil)
	h := rawHello()
	h.frameCap = minFrameCap
	connectRaw(t, s.Addr(), h)
	s.await(upEvent)
	if err := s.Send(1, wire.Urgent, make([]byte, minFrameCap+1)); !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("above the cap of the peer: %v", err)
	}
	if err := s.Send(1, wire.Urgent, make([]byte, minFrameCap)); err != nil {
		t.Errorf("at the cap of the peer: %v", err)
	}
	// A peer's cap cannot raise ours.
	h.frameCap, h.incarnation = math.MaxUint64, 2
	connectRaw(t, s.Addr(), h)
	s.await(upEvent)
	if err := s.Send(1, wire.Urgent, make([]byte, 1<<20+1)); !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("above our own cap: %v", err)
	}
}

// A store that its peers have met in a later life, because it has lost its disk,
// is refused until it takes an incarnation behind that one, whoever dials. The
// lives before stay refused (T7).
func TestOutlived(t *testing.T) {
	for _, of := range []struct {
		name string
		lost wire.StoreID
		life uint64
	}{{"dialler", 1, 1}, {"acceptor", 2, 1}, {"dialler in the same life", 1, 7}, {"acceptor in the same life", 2, 7}} {
		t.Run(of.name, func(t *testing.T) {
			lost, want := of.lost, uint64(7)
			if of.life == 7 {
				want = 8
			}
			noLeak(t)
			w := &tcpWorld{refused: makeRefusals(), stores: map[wire.StoreID]*TCP{}}
			other := 3 - lost
			peer := w.join(t, testCluster, other, 1)
			rp := mustStart(t, peer)
			first := w.join(t, testCluster, lost, 7)
			mustStart(t, first)
			rp.awaitUp(7)
			mustClose(t, first)
			rp.await(downEvent)

			asked := make(chan uint64, 100)
			next := atomic.Uint64{}
			next.Store(of.life)
			again := newTestTCP(t, TCPConfig{
				Cluster: testCluster, Store: lost, Incarnation: of.life, MaxFrameBytes: contractFrameBytes,
				Peers: map[wire.StoreID]string{other: peer.(*TCP).Addr()},
				Outlived: func(from wire.StoreID, met uint64) uint64 {
					if from != other {
						t.Errorf("store %d has met it, want store %d", from, other)
					}
					select {
					case asked <- met:
					default:
					}
					return next.Load()
				},
			})
			if err := peer.(*TCP).SetPeer(lost, again.Addr()); err != nil {
				t.Fatal(err)
			}
			ra := mustStart(t, again)
			for range 3 { // it may be asked as often as it is refused
				if met := <-asked; met != want {
					t.Fatalf("a peer has met life %d, want %d", met, want)
				}
			}
			next.Store(20)
			// A lane of the first life may have come up late; this life is met as 20 only.
			e := rp.await(upEvent)
			for ; e.incarnation == 7; e = rp.await(upEvent) {
			}
			if e.incarnation != 20 {
				t.Fatalf("up as %d", e.incarnation)
			}
			ra.await(upEvent)
			mustClose(t, again)
			old := w.join(t, testCluster, lost, 8)
			ro := mustStart(t, old)
			for err := w.refused.await(t); err.Got != 20 && err.Want != 20; err = w.refused.await(t) {
			}
			mustClose(t, old, peer)
			ro.none(upEvent)
		})
	}
}
