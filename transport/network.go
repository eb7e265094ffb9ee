package transport

import (
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"multiraft/wire"
)

// NetworkConfig configures a [Network]. The zero value of every field selects
// its default.
type NetworkConfig struct {
	// Cluster names the cluster of transports made by [Network.Transport].
	Cluster uint64
	// MaxFrameBytes and MaxQueueBytes are as in [TCPConfig].
	MaxFrameBytes, MaxQueueBytes int
	// HelloRefused is as in [TCPConfig]. It must not call the network.
	HelloRefused func(err *HelloError)
}

// Network connects stores of one process without sockets, under the contract of
// [Transport]: bounded queues, hellos, and delivery on a goroutine per (pair,
// lane) and direction. Links can be cut and healed.
type Network struct {
	cfg NetworkConfig
	now func() time.Time

	mu        sync.Mutex // guards the fields below and the control state of endpoints
	endpoints map[wire.StoreID]*Endpoint
	lives     map[wire.StoreID]uint64 // highest incarnation that joined
	cut       map[pair]bool
	flows     map[[2]wire.StoreID]*flow // by (from, to); the latest, ended or not
}

// pair is two stores, the smaller id first.
type pair struct{ a, b wire.StoreID }

func pairOf(a, b wire.StoreID) pair { return pair{min(a, b), max(a, b)} }

// NewNetwork returns a network without stores.
func NewNetwork(cfg NetworkConfig) *Network {
	cfg.MaxFrameBytes = orDefault(cfg.MaxFrameBytes, defaultMaxFrameBytes)
	cfg.MaxQueueBytes = orDefault(cfg.MaxQueueBytes, 32<<20)
	return &Network{
		cfg:       cfg,
		now:       time.Now,
		endpoints: make(map[wire.StoreID]*Endpoint),
		lives:     make(map[wire.StoreID]uint64),
		cut:       make(map[pair]bool),
		flows:     make(map[[2]wire.StoreID]*flow),
	}
}

// Transport adds a store in the network's cluster, in its next incarnation. A
// transport made for the store before is disconnected.
func (n *Network) Transport(store wire.StoreID) *Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.joinLocked(n.cfg.Cluster, store, n.lives[store]+1)
}

// Join is Transport for a store that says of its cluster and incarnation what it
// likes. Others talk to it only if they would over TCP.
func (n *Network) Join(cluster uint64, store wire.StoreID, incarnation uint64) *Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.joinLocked(cluster, store, incarnation)
}

// Cut disconnects two stores until Heal.
func (n *Network) Cut(a, b wire.StoreID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[pairOf(a, b)] = true
	n.flows[[2]wire.StoreID{a, b}].end(ErrCut)
	n.flows[[2]wire.StoreID{b, a}].end(ErrCut)
}

// Heal undoes Cut.
func (n *Network) Heal(a, b wire.StoreID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, pairOf(a, b))
	n.connectLocked(n.endpoints[a], n.endpoints[b])
}

func (n *Network) joinLocked(cluster uint64, store wire.StoreID, incarnation uint64) *Endpoint {
	e := &Endpoint{
		n: n,
		own: hello{
			minProtocol: wire.MinProtocolVersion,
			maxProtocol: wire.ProtocolVersion,
			cluster:     cluster,
			from:        store,
			incarnation: incarnation,
			frameCap:    unsigned(n.cfg.MaxFrameBytes),
		},
	}
	e.links.Store(&map[wire.StoreID]*link{})
	for id, other := range n.endpoints {
		if id == store {
			n.isolateLocked(other, ErrReplaced)
			continue
		}
		e.introduceLocked(id)
		other.introduceLocked(store)
	}
	n.endpoints[store] = e
	n.lives[store] = max(n.lives[store], incarnation)
	return e
}

// isolateLocked ends the flows to and from an endpoint.
func (n *Network) isolateLocked(e *Endpoint, reason error) {
	for _, f := range n.flows {
		switch e {
		case f.to:
			f.end(reason)
		case f.from:
			f.end(io.EOF) // what a socket would tell
		}
	}
}

// connectLocked connects two stores when nothing speaks against it.
func (n *Network) connectLocked(a, b *Endpoint) {
	if a == nil || b == nil || !a.aliveLocked() || !b.aliveLocked() || n.cut[pairOf(a.own.from, b.own.from)] {
		return
	}
	if a.own.from > b.own.from {
		a, b = b, a // as over TCP, the smaller id says hello first
	}
	for _, e := range []*HelloError{n.checkLocked(a, b), n.checkLocked(b, a)} {
		if e == nil {
			continue
		}
		a.counters.hellosRefused.Add(1)
		b.counters.hellosRefused.Add(1)
		if n.cfg.HelloRefused != nil {
			n.cfg.HelloRefused(e)
		}
		return
	}
	if n.endpoints[a.own.from] != a || n.endpoints[b.own.from] != b {
		return // T6: the newer transport of a store has its links
	}
	n.flowLocked(a, b)
	n.flowLocked(b, a)
}

// checkLocked is what the dialled store does with the hello of another.
func (n *Network) checkLocked(from, to *Endpoint) *HelloError {
	theirs := from.own
	theirs.to, theirs.met = to.own.from, n.lives[to.own.from]
	err := theirs.check(&to.own)
	if newest := n.lives[theirs.from]; err == nil && theirs.incarnation < newest {
		err = &HelloError{Field: HelloIncarnation, Peer: theirs.from, Got: theirs.incarnation, Want: newest}
	}
	if err != nil {
		err.Addr = "in process"
	}
	return err
}

func (n *Network) flowLocked(from, to *Endpoint) {
	key := [2]wire.StoreID{from.own.from, to.own.from}
	previous := n.flows[key]
	if previous.active() {
		return
	}
	l := (*from.links.Load())[to.own.from]
	l.frameCap.Store(min(from.own.frameCap, to.own.frameCap))
	protocol := from.own.protocol(&to.own)
	if l.protocol > protocol {
		for _, q := range l.queues {
			q.clear() // T9
		}
	}
	l.protocol = protocol
	f := &flow{from: from, to: to, link: l, protocol: protocol, previous: previous, stop: make(chan struct{}), done: make(chan struct{})}
	n.flows[key] = f
	to.counters.connects.Add(Lanes)
	to.goroutine.Add(1)
	go f.run()
}

// Endpoint is the [Transport] of one store on a [Network].
//
// Goroutines: one per connected peer, and one per lane of it, for what comes
// from there. All end in Close, which waits for them.
type Endpoint struct {
	n        *Network
	own      hello
	pool     bufferPool
	counters counters
	handler  Handler // set once, before the first flow

	// links is replaced as a whole, so that Send finds a link without a lock.
	links     atomic.Pointer[map[wire.StoreID]*link]
	goroutine sync.WaitGroup

	// Guarded by n.mu.
	started, closed bool
}

var _ Transport = (*Endpoint)(nil)

// link is what an endpoint keeps for a peer, connected or not.
type link struct {
	frameCap atomic.Uint64
	protocol uint16 // spoken when last connected, zero: never; guarded by Network.mu
	queues   [Lanes]*frameQueue
}

// introduceLocked makes a store known.
func (e *Endpoint) introduceLocked(id wire.StoreID) {
	known := *e.links.Load()
	if known[id] != nil {
		return
	}
	l := &link{}
	l.frameCap.Store(e.own.frameCap)
	for lane := range l.queues {
		l.queues[lane] = newFrameQueue(e.n.cfg.MaxQueueBytes, &e.pool, &e.counters.lanes[lane], e.n.now)
		if e.closed {
			l.queues[lane].close()
		}
	}
	links := maps.Clone(known)
	links[id] = l
	e.links.Store(&links)
}

func (e *Endpoint) aliveLocked() bool { return e.started && !e.closed }

// Incarnation returns which life of its store the endpoint is.
func (e *Endpoint) Incarnation() uint64 { return e.own.incarnation }

// LimitProtocol is TCPConfig.MaxProtocol. It must be called before Start.
func (e *Endpoint) LimitProtocol(newest uint16) error {
	if err := checkMaxProtocol(newest); err != nil {
		return err
	}
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if e.started {
		return ErrStarted
	}
	e.own.maxProtocol = orDefault(newest, wire.ProtocolVersion)
	return nil
}

// Start implements Transport.
func (e *Endpoint) Start(h Handler) error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	if e.started {
		return ErrStarted
	}
	if e.own.from == 0 {
		return fmt.Errorf("%w: store 0 does not exist", ErrUnknownPeer)
	}
	e.started = true
	e.handler = h
	for id, other := range e.n.endpoints {
		if id != e.own.from {
			e.n.connectLocked(e, other)
		}
	}
	return nil
}

// Buffer implements Transport.
//
//mr:hotpath
func (e *Endpoint) Buffer() []byte { return e.pool.get() }

// Send implements Transport, with the errors of [TCP.Send].
//
//mr:hotpath
func (e *Endpoint) Send(to wire.StoreID, lane Lane, payload []byte) error {
	l := (*e.links.Load())[to]
	if l == nil || lane >= Lanes {
		e.pool.put(payload)
		return ErrUnknownPeer
	}
	if uint64(len(payload)) > l.frameCap.Load() {
		l.queues[lane].drop(payload)
		return ErrFrameTooLarge
	}
	return l.queues[lane].push(payload)
}

// Stats implements Transport.
func (e *Endpoint) Stats() Stats { return e.counters.stats() }

// Close implements Transport.
func (e *Endpoint) Close() error {
	e.n.mu.Lock()
	if !e.closed {
		e.closed = true
		e.n.isolateLocked(e, ErrClosed)
		for _, l := range *e.links.Load() {
			for _, q := range l.queues {
				q.close()
			}
		}
	}
	e.n.mu.Unlock()
	e.goroutine.Wait()
	return nil
}

// flow carries frames one way between two connected endpoints. It lives on
// goroutines of the receiver.
type flow struct {
	from, to *Endpoint
	link     *link // the sender's
	protocol uint16
	previous *flow // the one it replaces; nil once that has ended

	stop   chan struct{} // closed by end
	reason error         // set before stop is closed
	done   chan struct{} // closed when PeerDown was delivered
}

// active tells whether a flow delivers or is about to.
//
// REQUIRES: Network.mu is held.
func (f *flow) active() bool { return f != nil && f.reason == nil }

// end stops a flow, if there is one. The first reason counts.
//
// REQUIRES: Network.mu is held.
func (f *flow) end(reason error) {
	if f.active() {
		f.reason = reason
		close(f.stop)
	}
}

func (f *flow) stopped() bool {
	select {
	case <-f.stop:
		return true
	default:
		return false
	}
}

func (f *flow) run() {
	defer f.to.goroutine.Done()
	defer close(f.done)
	if f.previous != nil {
		<-f.previous.done // T6
		f.previous = nil
	}
	if f.stopped() {
		return
	}
	f.to.handler.PeerUp(f.from.own.from, f.from.own.incarnation, f.protocol)
	var lanes sync.WaitGroup
	for lane := range Lane(Lanes) {
		q := f.link.queues[lane]
		q.connect()
		lanes.Go(func() { f.deliver(lane, q) })
	}
	lanes.Wait()
	for _, q := range f.link.queues {
		q.disconnect()
	}
	f.to.handler.PeerDown(f.from.own.from, f.reason)
}

// deliver is writer and reader in one: it copies each frame to memory that is
// the receiver's for ever, so that the sender's buffer can be recycled.
func (f *flow) deliver(lane Lane, q *frameQueue) {
	sent, received := &f.from.counters.lanes[lane], &f.to.counters.lanes[lane]
	var arena wire.Arena
	var frames [][]byte
	for {
		frames = q.take(frames, f.stop)
		if frames == nil {
			return
		}
		delivered := 0
		for _, payload := range frames {
			if f.stopped() {
				break
			}
			delivered++
			received.framesReceived.Add(1)
			received.bytesReceived.Add(unsigned(frameHeaderBytes + len(payload)))
			f.to.handler.HandleFrame(f.from.own.from, append(arena.Alloc(len(payload)), payload...))
		}
		sent.framesSent.Add(unsigned(delivered))
		sent.bytesSent.Add(unsigned(framesBytes(frames[:delivered])))
		sent.framesDropped.Add(unsigned(len(frames) - delivered))
		q.release(frames)
	}
}
