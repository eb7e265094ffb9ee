package transport

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"multiraft/wire"
)

// peer is another store as a TCP transport sees it. The goroutine in run owns its
// connections and makes all PeerUp and PeerDown calls; others hand it connections
// through arrived and report their end through ended.
//
//	dialler of each lane ─┐                       ┌▶ reader ─▶ HandleFrame
//	                      ├─arrived─▶ run ─start─▶┤
//	accepted connections ─┘            ▲          └▶ writer ◀─ queue of the lane
//	                                   └──ended───────┘
type peer struct {
	t      *TCP
	id     wire.StoreID
	queues [Lanes]*frameQueue

	// frameCap is the largest payload the peer and we both take.
	frameCap atomic.Uint64
	// incarnation is the highest one met so far (T7).
	incarnation atomic.Uint64

	arrived chan *conn // hello accepted on both sides
	ended   chan *conn // reader and writer have returned

	mu      sync.Mutex // guards the fields below, and writing incarnation
	addr    string
	changed chan struct{} // closed and replaced when addr changes
	tag     uint16        // of incarnation, zero when it is not known
	copied  bool          // who was met last has a copy of the disk, and is to hear so

	// The rest belongs to run.
	conns    [Lanes]*conn
	live     int    // non-nil entries in conns
	protocol uint16 // spoken with the peer when it was last connected; zero: never
}

func newPeer(t *TCP, id wire.StoreID, addr string) *peer {
	p := &peer{
		t:       t,
		id:      id,
		arrived: make(chan *conn),
		ended:   make(chan *conn),
		addr:    addr,
		changed: make(chan struct{}),
	}
	p.frameCap.Store(t.own.frameCap)
	for lane := range p.queues {
		p.queues[lane] = newFrameQueue(t.cfg.MaxQueueBytes, &t.pool, &t.counters.lanes[lane], t.now)
	}
	return p
}

// start runs the peer's goroutines.
//
// REQUIRES: t.mu is held, so that Close does not wait before they are counted.
func (p *peer) start() {
	p.t.goroutine.Add(1)
	go p.run()
	if p.t.cfg.Store > p.id {
		return // the peer dials
	}
	for lane := range Lane(Lanes) {
		p.t.goroutine.Add(1)
		go p.dial(lane)
	}
}

func (p *peer) setAddr(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr == p.addr {
		return
	}
	p.addr = addr
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *peer) address() (addr string, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr, p.changed
}

func (p *peer) closeQueues() {
	for _, q := range p.queues {
		q.close()
	}
}

// meet notes the life in a hello and refuses one that is older than another seen
// before (T7), or is the same in another process: a life has one.
func (p *peer) meet(theirs *hello) *HelloError {
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := p.incarnation.Load()
	p.copied = theirs.incarnation == newest && p.tag != 0 && theirs.tag != 0 && theirs.tag != p.tag
	if theirs.incarnation < newest || p.copied {
		return &HelloError{Field: HelloIncarnation, Peer: p.id, Got: theirs.incarnation, Want: p.metLocked()}
	}
	if theirs.incarnation > newest || theirs.tag != 0 {
		p.incarnation.Store(theirs.incarnation)
		p.tag = theirs.tag
	}
	return nil
}

// met returns the latest life of the peer as the next hello to it has it. Who has a
// copy of the disk of that life hears of the one behind it, once: the true one may
// be the next to listen there.
func (p *peer) met() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	met := p.metLocked()
	p.copied = false
	return met
}

// metLocked is met.
//
// REQUIRES: p.mu is held.
func (p *peer) metLocked() uint64 {
	met := p.incarnation.Load()
	if p.copied {
		met++
	}
	return met
}

// run owns the connections to the peer until the transport closes.
func (p *peer) run() {
	defer p.t.goroutine.Done()
	for {
		select {
		case c := <-p.arrived:
			p.install(c)
		case c := <-p.ended:
			p.remove(c)
		case <-p.t.closing:
			for lane := range p.conns {
				p.evict(lane, ErrClosed)
			}
			return
		}
	}
}

// install puts a connection into service, in the place of what it replaces.
func (p *peer) install(c *conn) {
	if c.incarnation < p.incarnation.Load() {
		c.abandon(ErrReplaced) // a newer life of the peer said hello meanwhile
		return
	}
	// T6: the old connection of the lane has ended before the new one starts.
	// T7: so have those of an earlier incarnation.
	// T9: and those that spoke another protocol version.
	for lane, old := range p.conns {
		if old != nil && (lane == int(c.lane) || old.incarnation != c.incarnation || old.protocol != c.protocol) {
			p.evict(lane, ErrReplaced)
		}
	}
	p.conns[c.lane] = c
	p.live++
	p.frameCap.Store(min(p.t.own.frameCap, c.frameCap))
	p.t.counters.connects.Add(1)
	if p.protocol > c.protocol {
		for _, q := range p.queues {
			q.clear() // T9
		}
	}
	p.protocol = c.protocol
	if p.live == 1 {
		p.t.handler.PeerUp(p.id, c.incarnation, c.protocol)
	}
	p.queues[c.lane].connect()
	c.start()
}

// evict closes the connection of a lane and waits for its end.
func (p *peer) evict(lane int, reason error) {
	c := p.conns[lane]
	if c == nil {
		return
	}
	c.close(reason)
	for p.conns[lane] != nil {
		p.remove(<-p.ended)
	}
}

// remove takes an ended connection out of service.
func (p *peer) remove(c *conn) {
	p.queues[c.lane].disconnect()
	p.conns[c.lane] = nil
	p.live--
	if p.live == 0 {
		p.t.handler.PeerDown(p.id, c.err)
	}
}

// dial keeps one lane connected until the transport closes.
func (p *peer) dial(lane Lane) {
	defer p.t.goroutine.Done()
	pause := backoff{min: p.t.cfg.DialBackoffMin, max: p.t.cfg.DialBackoffMax, rand: p.t.random}
	for {
		addr, changed := p.address()
		if addr == "" {
			select {
			case <-changed:
				continue
			case <-p.t.closing:
				return
			}
		}
		lasted := p.attempt(lane, addr, changed)
		if lasted > p.t.cfg.DialBackoffMax {
			pause.reset() // a connection that fails at once is no reason to hurry
		}
		timer := time.NewTimer(pause.next())
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
			pause.reset()
		case <-p.t.closing:
			timer.Stop()
			return
		}
	}
}

// attempt dials once, and stays for as long as the connection is in service. It
// returns how long that was.
func (p *peer) attempt(lane Lane, addr string, changed <-chan struct{}) time.Duration {
	c, err := p.connect(lane, addr)
	if err != nil {
		if !isRefusal(err) {
			p.t.counters.dialFailures.Add(1)
		}
		return 0
	}
	select {
	case p.arrived <- c:
	case <-p.t.closing:
		c.abandon(ErrClosed)
		return 0
	}
	began := p.t.now()
	select {
	case <-c.done:
	case <-changed:
		c.close(ErrAddressChanged)
		<-c.done
	}
	return p.t.now().Sub(began)
}

// connect dials and exchanges hellos. Close interrupts both.
func (p *peer) connect(lane Lane, addr string) (*conn, error) {
	ctx, cancel := context.WithTimeout(p.t.ctx, p.t.cfg.HelloTimeout)
	defer cancel()
	nc, err := p.t.cfg.DialFunc(ctx, addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(p.t.ctx, func() { closeConn(nc) })
	c, err := p.t.greetAcceptor(p, lane, nc)
	if err != nil {
		stop()
		closeConn(nc)
		return nil, err
	}
	// From here on the connection ends through its peer.
	if !stop() {
		return nil, ErrClosed
	}
	return c, nil
}
