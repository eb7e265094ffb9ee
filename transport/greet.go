package transport

import (
	"errors"
	"io"
	"net"
	"time"

	"multiraft/wire"
)

// Pauses after a failed Accept, as when descriptors run out.
const (
	acceptBackoffMin = 5 * time.Millisecond
	acceptBackoffMax = time.Second
)

// accept serves the listener until Close.
func (t *TCP) accept() {
	defer t.goroutine.Done()
	pause := backoff{min: acceptBackoffMin, max: acceptBackoffMax, rand: t.random}
	for {
		if pause := t.door.turn(); pause > 0 && !t.wait(pause) {
			return
		}
		nc, err := t.listener.Accept()
		if err == nil {
			pause.reset()
			t.admit(nc)
			continue
		}
		select {
		case <-t.closing:
			return
		default:
		}
		t.counters.acceptFailures.Add(1)
		if !t.wait(pause.next()) {
			return
		}
	}
}

// admit starts the greeting of an accepted connection, or closes it when a limit
// says so.
func (t *TCP) admit(nc net.Conn) {
	g, verdict := t.door.enter(nc)
	switch verdict {
	case tooFast:
		t.counters.acceptsRefused.Add(1)
		reset(nc)
		return
	case shut:
		closeConn(nc)
		return
	case displaced:
		t.counters.overflows.Add(1)
	}
	t.goroutine.Add(1) // accept is counted, so that Close still waits
	go func() {
		defer t.goroutine.Done()
		t.greetDialler(g)
		t.door.leave(g)
	}()
}

// greetDialler secures a connection we accepted, exchanges hellos on it and hands
// it to its peer.
func (t *TCP) greetDialler(g *guest) {
	c, err := t.hear(g)
	if err != nil {
		closeConn(g) // whoever needs to know was told
		return
	}
	select {
	case c.p.arrived <- c:
	case <-t.closing:
		c.abandon(ErrClosed)
	}
}

// hear makes a connection of one we accepted, when the dialler's hello is
// welcome.
func (t *TCP) hear(g *guest) (*conn, error) {
	if err := g.SetDeadline(time.Now().Add(t.cfg.HelloTimeout)); err != nil {
		return nil, err
	}
	var nc net.Conn = g
	var proven identity
	if t.secure != nil {
		secured, id, err := t.secure.server(g)
		if err != nil {
			return nil, t.handshakeFailed(g, 0, err)
		}
		nc, proven = secured, id
	}
	theirs, err := t.readHello(nc)
	if err != nil {
		return nil, err
	}
	own := t.greet(theirs.from, theirs.lane)
	var p *peer
	var refusal *HelloError
	if t.secure != nil && theirs.from != proven.store {
		refusal = &HelloError{Field: HelloIdentity, Peer: proven.store, Got: uint64(theirs.from), Want: uint64(proven.store)}
	} else if p, refusal = t.welcome(&theirs, &own); p != nil {
		own.met = p.met()
	}
	if refusal != nil {
		own.verdict = refusal.Field
		t.report(nc, refusal)
		if refusal.Field == HelloOwnIncarnation && (*t.peers.Load())[theirs.from] != nil {
			t.outlived(theirs.from, theirs.met) // for the next attempt
		}
	}
	answer := own.encode()
	_, err = nc.Write(answer[:])
	if refusal != nil {
		return nil, refusal
	}
	if err != nil {
		return nil, err
	}
	if t.secure != nil {
		t.door.settle(p.id, true, g.addr)
	}
	fromDialler, fromAcceptor := sessionKeys(theirs.nonce, own.nonce)
	return newConn(p, g.admitted(nc), &theirs, &own, fromAcceptor, fromDialler)
}

// welcome decides on the hello of a dialler. The peer is nil when nobody
// introduced it.
func (t *TCP) welcome(theirs, own *hello) (*peer, *HelloError) {
	if err := theirs.check(own); err != nil {
		return nil, err
	}
	p := (*t.peers.Load())[theirs.from]
	switch {
	case p == nil:
		return nil, &HelloError{Field: HelloPeer, Peer: theirs.from, Got: uint64(theirs.from), Want: uint64(own.from)}
	case theirs.from > own.from:
		return p, &HelloError{Field: HelloDirection, Peer: theirs.from, Got: uint64(theirs.from), Want: uint64(own.from)}
	}
	return p, p.meet(theirs)
}

// greetAcceptor secures a connection we dialled and exchanges hellos on it.
func (t *TCP) greetAcceptor(p *peer, lane Lane, socket net.Conn) (*conn, error) {
	g := &guest{Conn: socket, left: t.door.limits.GreetingBytes}
	if err := g.SetDeadline(time.Now().Add(t.cfg.HelloTimeout)); err != nil {
		return nil, err
	}
	var nc net.Conn = g
	if t.secure != nil {
		secured, err := t.secure.client(g, p.id)
		if err != nil {
			return nil, t.handshakeFailed(g, p.id, err)
		}
		nc = secured
	}
	own := t.greet(p.id, lane)
	own.met = p.met()
	ask := own.encode()
	if _, err := nc.Write(ask[:]); err != nil {
		return nil, err
	}
	theirs, err := t.readHello(nc)
	if isAlert(err) {
		return nil, t.handshakeFailed(g, p.id, err)
	}
	if err != nil {
		return nil, err
	}
	refusal := theirs.checkAnswer(&own)
	if refusal == nil {
		refusal = p.meet(&theirs)
	}
	if refusal != nil {
		t.report(nc, refusal)
		if refusal.Field == HelloIncarnation && refusal.Remote && theirs.from == own.to && theirs.cluster == own.cluster {
			t.outlived(p.id, theirs.met) // for the next attempt
		}
		return nil, refusal
	}
	if t.secure != nil {
		t.door.settle(p.id, true, addressOf(socket.RemoteAddr()))
	}
	fromDialler, fromAcceptor := sessionKeys(own.nonce, theirs.nonce)
	return newConn(p, g.admitted(nc), &theirs, &own, fromDialler, fromAcceptor)
}

// greet returns what this store says of itself to another one.
func (t *TCP) greet(to wire.StoreID, lane Lane) hello {
	own := t.own
	own.to, own.lane, own.nonce, own.incarnation = to, lane, t.random(), t.life.Load()
	return own
}

// outlived learns that a peer has met a later life of this store.
func (t *TCP) outlived(peer wire.StoreID, met uint64) {
	if t.cfg.Outlived == nil || met <= t.life.Load() {
		return
	}
	for next := t.cfg.Outlived(peer, met); ; {
		now := t.life.Load()
		if next <= now || t.life.CompareAndSwap(now, next) {
			return
		}
	}
}

// readHello reads a hello against the deadline of the greeting (T4).
func (t *TCP) readHello(nc net.Conn) (theirs hello, err error) {
	var b [helloBytes]byte
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return theirs, err
	}
	if refusal := theirs.decode(&b); refusal != nil {
		t.report(nc, refusal)
		return theirs, refusal
	}
	return theirs, nil
}

// report counts a refusal and tells who wants to know.
func (t *TCP) report(nc net.Conn, err *HelloError) {
	err.Addr = nc.RemoteAddr().String()
	t.counters.hellosRefused.Add(1)
	if t.cfg.HelloRefused != nil {
		t.cfg.HelloRefused(err)
	}
}

// wait pauses. It returns false when the transport closes meanwhile.
func (t *TCP) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.closing:
		return false
	}
}

// isRefusal tells a refusal, which was counted, from a failure of the network.
func isRefusal(err error) bool {
	var refusal *HelloError
	var failure *HandshakeError
	return errors.As(err, &refusal) || errors.As(err, &failure)
}
