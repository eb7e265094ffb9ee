package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"multiraft/wire"
)

// TCPConfig configures a [TCP] transport. Cluster, Store and Incarnation have no
// default; the zero value of each other field selects one.
type TCPConfig struct {
	// Cluster names the cluster. Stores of different clusters refuse each other.
	Cluster uint64
	// Store is the id of this store, not zero.
	Store wire.StoreID
	// Incarnation counts the lives of this store, each of which is one TCP. Peers
	// refuse to talk to an earlier life than the latest they met, and to that one in
	// another TCP.
	Incarnation uint64
	// Listen is the address to listen on. Empty means a free port on loopback.
	Listen string
	// Peers are the stores to talk to and their addresses. A peer with a smaller
	// id dials us, so that its address may be empty. An entry for the store itself
	// is ignored.
	Peers map[wire.StoreID]string

	// MaxProtocol is the newest protocol version to speak. Zero means the newest there
	// is, [wire.ProtocolVersion].
	MaxProtocol uint16
	// MaxFrameBytes is the largest payload accepted from peers and by Send. Zero
	// means a block of the largest size and 64 KiB. At least 4 KiB.
	MaxFrameBytes int
	// MaxQueueBytes bounds what waits to be sent to one peer on one lane. A single
	// frame may exceed it. Zero means 32 MiB.
	MaxQueueBytes int
	// DialBackoffMin and DialBackoffMax bound the pauses between attempts to
	// connect. Zero means 20 ms and 2 s.
	DialBackoffMin, DialBackoffMax time.Duration
	// HelloTimeout bounds dialling, and what comes next until the hellos are
	// exchanged. Zero means 5 s.
	HelloTimeout time.Duration
	// PeerTimeout is how long a peer may be out of reach before its connections
	// are given up; see the package comment. Zero means 10 s.
	PeerTimeout time.Duration

	// TLS is asked, for each new connection and from many goroutines, what to
	// secure it with. Nil means that connections are neither encrypted nor
	// authenticated.
	//
	// The configuration needs this store's certificate, which names it as StoreURI
	// does, RootCAs, and ClientCAs if they differ. Both sides prove who they are,
	// in TLS 1.3. A VerifyConnection in it is called last and may refuse more, as
	// by a list of what was revoked; its other settings hold as far as they do not
	// weaken this. It must not be changed once it was returned: to replace a
	// certificate or an authority, return another one. [TLSFiles] does so.
	TLS func() (*tls.Config, error)
	// Limits bounds what connections cost before their hello is accepted.
	Limits Limits

	// DialFunc and ListenFunc replace net.Dialer and net.Listen, for connections
	// made by other means. Nil means plain TCP. TLS is added to what they return.
	DialFunc   func(ctx context.Context, addr string) (net.Conn, error)
	ListenFunc func(addr string) (net.Listener, error)
	// Rand is the source of jitter and of the nonces in hellos. Calls are
	// serialised. Nil means the runtime's generator.
	Rand func() uint64
	// HelloRefused, when not nil, is told of each refused hello, from many
	// goroutines. A mistake in the configuration of a cluster shows here.
	HelloRefused func(err *HelloError)
	// Outlived, when not nil, is asked when a peer has met a later life of this store
	// than Incarnation, or that one in another process, and therefore refuses it: the
	// disk that counted the lives was lost, or is an older copy. It returns the incarnation that the store has from
	// then on; unless that is above met, the peer goes on refusing. It is called from
	// many goroutines.
	Outlived func(peer wire.StoreID, met uint64) (incarnation uint64)
	// HandshakeFailed, when not nil, is told of each connection that could not be
	// secured, from many goroutines. Like HelloRefused, it may be called as often
	// as Limits allow connections.
	HandshakeFailed func(err *HandshakeError)
}

// Validate reports all faults at once.
func (c *TCPConfig) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("transport: "+format, args...)) }
	if c.Store == 0 {
		fault("Store: must not be 0")
	}
	if c.MaxFrameBytes != 0 && (c.MaxFrameBytes < minFrameCap || c.MaxFrameBytes > maxFrameCap) {
		fault("MaxFrameBytes: %d must be within [%d, %d]", c.MaxFrameBytes, minFrameCap, maxFrameCap)
	}
	if err := checkMaxProtocol(c.MaxProtocol); err != nil {
		faults = append(faults, err)
	}
	if c.MaxQueueBytes < 0 {
		fault("MaxQueueBytes: %d must not be negative", c.MaxQueueBytes)
	}
	if c.DialBackoffMin < 0 || c.DialBackoffMax < 0 || c.HelloTimeout < 0 || c.PeerTimeout < 0 {
		fault("DialBackoffMin, DialBackoffMax, HelloTimeout, PeerTimeout: must not be negative")
	}
	if d := c.withDefaults(); d.DialBackoffMin > d.DialBackoffMax {
		fault("DialBackoffMin: %v must not exceed DialBackoffMax (%v)", d.DialBackoffMin, d.DialBackoffMax)
	}
	if _, ok := c.Peers[0]; ok {
		fault("Peers: store 0 does not exist")
	}
	if err := c.Limits.Validate(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// maxFrameCap keeps lengths within 32 bits with room for headers.
const maxFrameCap = 1 << 30

const defaultMaxFrameBytes = wire.MaxBlockBytes + 64<<10

func (c *TCPConfig) withDefaults() TCPConfig {
	d := *c
	if d.Listen == "" {
		d.Listen = "127.0.0.1:0"
	}
	d.MaxProtocol = orDefault(d.MaxProtocol, wire.ProtocolVersion)
	d.MaxFrameBytes = orDefault(d.MaxFrameBytes, defaultMaxFrameBytes)
	d.MaxQueueBytes = orDefault(d.MaxQueueBytes, 32<<20)
	d.DialBackoffMin = orDefault(d.DialBackoffMin, 20*time.Millisecond)
	d.DialBackoffMax = orDefault(d.DialBackoffMax, 2*time.Second)
	d.HelloTimeout = orDefault(d.HelloTimeout, 5*time.Second)
	d.PeerTimeout = orDefault(d.PeerTimeout, 10*time.Second)
	if d.DialFunc == nil {
		var dialer net.Dialer
		d.DialFunc = func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }
	}
	if d.ListenFunc == nil {
		d.ListenFunc = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	if d.Rand == nil {
		d.Rand = rand.Uint64
	}
	return d
}

// checkMaxProtocol returns what is wrong with a version to be the newest spoken.
func checkMaxProtocol(version uint16) error {
	if version != 0 && (version < wire.MinProtocolVersion || version > wire.ProtocolVersion) {
		return fmt.Errorf("transport: MaxProtocol: %d must be within [%d, %d]", version, wire.MinProtocolVersion, wire.ProtocolVersion)
	}
	return nil
}

func orDefault[T int | uint16 | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// TCP is a [Transport] with one TCP connection per lane and pair of stores. The
// store with the smaller id dials; the connection is used in both directions.
//
// Goroutines: one that accepts; one per connection without a hello; per peer one
// that owns its connections, and one per lane that dials; two per connection.
// All end in Close, which waits for them.
type TCP struct {
	cfg      TCPConfig
	listener net.Listener
	own      hello         // what this store says of itself; the rest is filled in by greet
	life     atomic.Uint64 // the incarnation, which only grows
	handler  Handler
	secure   *security // nil: plain TCP
	door     *door
	pool     bufferPool
	counters counters
	now      func() time.Time // ages what waits for a connection; tests replace it

	// peers is replaced as a whole, so that Send finds a peer without a lock.
	peers atomic.Pointer[map[wire.StoreID]*peer]

	// closing is closed when Close begins; ctx ends with it.
	closing   chan struct{}
	ctx       context.Context
	cancel    context.CancelFunc
	goroutine sync.WaitGroup

	mu       sync.Mutex // guards the fields below and writes of peers
	started  bool
	closed   bool
	closeErr error

	randMu sync.Mutex // held around cfg.Rand
}

var _ Transport = (*TCP)(nil)

// NewTCP returns a transport that listens, so that Addr is known, but neither
// accepts nor dials before Start.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	var secure *security
	if cfg.TLS != nil {
		secure = &security{provide: cfg.TLS, own: identity{cfg.Cluster, cfg.Store}}
		if _, err := secure.config(); err != nil {
			return nil, err // rather now than on each connection
		}
	}
	listener, err := cfg.ListenFunc(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	t := &TCP{
		cfg:      cfg,
		listener: listener,
		secure:   secure,
		own: hello{
			minProtocol: wire.MinProtocolVersion,
			maxProtocol: cfg.MaxProtocol,
			cluster:     cfg.Cluster,
			from:        cfg.Store,
			frameCap:    unsigned(cfg.MaxFrameBytes),
		},
		door:    newDoor(cfg.Limits, time.Now),
		now:     time.Now,
		closing: make(chan struct{}),
	}
	t.life.Store(cfg.Incarnation)
	t.own.tag = uint16(1 + cfg.Rand()%math.MaxUint16)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.peers.Store(&map[wire.StoreID]*peer{})
	for id, addr := range cfg.Peers {
		if id == cfg.Store {
			continue
		}
		if err := t.SetPeer(id, addr); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	return t, nil
}

// Addr returns the address peers can dial.
func (t *TCP) Addr() string { return t.listener.Addr().String() }

// SetPeer introduces a store or changes its address. Connections we dialled at
// another address are closed; an empty address is not dialled.
func (t *TCP) SetPeer(id wire.StoreID, addr string) error {
	if id == 0 || id == t.cfg.Store {
		return fmt.Errorf("%w: store %d", ErrUnknownPeer, id)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	t.door.settle(id, false, literalAddress(addr))
	known := *t.peers.Load()
	if p := known[id]; p != nil {
		p.setAddr(addr)
		return nil
	}
	p := newPeer(t, id, addr)
	peers := maps.Clone(known)
	peers[id] = p
	t.peers.Store(&peers)
	if t.started {
		p.start()
	}
	return nil
}

// Start implements Transport.
func (t *TCP) Start(h Handler) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	if t.started {
		return ErrStarted
	}
	t.started = true
	t.handler = h
	for _, p := range *t.peers.Load() {
		p.start()
	}
	t.goroutine.Add(1)
	go t.accept()
	return nil
}

// Buffer implements Transport.
//
//mr:hotpath
func (t *TCP) Buffer() []byte { return t.pool.get() }

// Send implements Transport. The errors are ErrBusy, ErrUnknownPeer,
// ErrFrameTooLarge and ErrClosed.
//
//mr:hotpath
func (t *TCP) Send(to wire.StoreID, lane Lane, payload []byte) error {
	p := (*t.peers.Load())[to]
	if p == nil || lane >= Lanes {
		t.pool.put(payload)
		return ErrUnknownPeer
	}
	if uint64(len(payload)) > p.frameCap.Load() {
		p.queues[lane].drop(payload)
		return ErrFrameTooLarge
	}
	return p.queues[lane].push(payload)
}

// Stats implements Transport.
func (t *TCP) Stats() Stats { return t.counters.stats() }

// Close implements Transport.
func (t *TCP) Close() error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.closing)
		t.cancel()
		t.closeErr = t.listener.Close()
		t.door.close()
		for _, p := range *t.peers.Load() {
			p.closeQueues()
		}
	}
	t.mu.Unlock()
	t.goroutine.Wait()
	return t.closeErr
}

// random serialises the source.
func (t *TCP) random() uint64 {
	t.randMu.Lock()
	defer t.randMu.Unlock()
	return t.cfg.Rand()
}

// closeConn closes a connection whose fate is sealed: an error tells nothing
// that matters any more.
//
// It closes the socket: TLS would first say goodbye, which waits for a peer that
// reads nothing.
func closeConn(nc net.Conn) { _ = socket(nc).Close() }
