package transport

import (
	"errors"
	"io"
	"net"
	"time"
)

// maxGreeting bounds the connections that have not got through their hello (T4).
// Each costs a descriptor, a goroutine and at most HelloTimeout.
const maxGreeting = 64

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

// admit starts the greeting of an accepted connection, or closes it when too
// many are at it.
func (t *TCP) admit(nc net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.greeting) >= maxGreeting {
		t.counters.overflows.Add(1)
		closeConn(nc)
		return
	}
	t.greeting[nc] = struct{}{}
	t.goroutine.Add(1)
	go func() {
		defer t.goroutine.Done()
		t.greetDialler(nc)
		t.mu.Lock()
		delete(t.greeting, nc)
		t.mu.Unlock()
	}()
}

// greetDialler exchanges hellos on a connection we accepted and hands it to its
// peer.
func (t *TCP) greetDialler(nc net.Conn) {
	theirs, err := t.readHello(nc)
	if err != nil {
		closeConn(nc)
		return
	}
	own := t.own
	own.to, own.lane, own.nonce = theirs.from, theirs.lane, t.random()
	p, refusal := t.welcome(&theirs, &own)
	if p != nil {
		own.met = p.incarnation.Load()
	}
	if refusal != nil {
		own.verdict = refusal.Field
		t.refused(nc, refusal)
	}
	answer := own.encode()
	_, err = nc.Write(answer[:])
	if refusal != nil || err != nil {
		closeConn(nc)
		return
	}
	fromDialler, fromAcceptor := sessionKeys(theirs.nonce, own.nonce)
	c, err := newConn(p, nc, &theirs, fromAcceptor, fromDialler)
	if err != nil {
		closeConn(nc)
		return
	}
	select {
	case p.arrived <- c:
	case <-t.closing:
		c.abandon(ErrClosed)
	}
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
	return p, p.meet(theirs.incarnation)
}

// greetAcceptor exchanges hellos on a connection we dialled.
func (t *TCP) greetAcceptor(p *peer, lane Lane, nc net.Conn) (*conn, error) {
	own := t.own
	own.to, own.lane, own.nonce, own.met = p.id, lane, t.random(), p.incarnation.Load()
	ask := own.encode()
	if err := nc.SetDeadline(time.Now().Add(t.cfg.HelloTimeout)); err != nil {
		return nil, err
	}
	if _, err := nc.Write(ask[:]); err != nil {
		return nil, err
	}
	theirs, err := t.readHello(nc)
	if err != nil {
		return nil, err
	}
	refusal := theirs.checkAnswer(&own)
	if refusal == nil {
		refusal = p.meet(theirs.incarnation)
	}
	if refusal != nil {
		return nil, t.refused(nc, refusal)
	}
	fromDialler, fromAcceptor := sessionKeys(own.nonce, theirs.nonce)
	return newConn(p, nc, &theirs, fromDialler, fromAcceptor)
}

// readHello reads a hello against a deadline that covers the answer too (T4).
func (t *TCP) readHello(nc net.Conn) (theirs hello, err error) {
	if err := nc.SetDeadline(time.Now().Add(t.cfg.HelloTimeout)); err != nil {
		return theirs, err
	}
	var b [helloBytes]byte
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return theirs, err
	}
	if refusal := theirs.decode(&b); refusal != nil {
		return theirs, t.refused(nc, refusal)
	}
	return theirs, nil
}

// refused counts and reports a refusal.
func (t *TCP) refused(nc net.Conn, err *HelloError) error {
	err.Addr = nc.RemoteAddr().String()
	t.counters.hellosRefused.Add(1)
	if t.cfg.HelloRefused != nil {
		t.cfg.HelloRefused(err)
	}
	return err
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

// isHelloError tells a refusal from a failure of the network.
func isHelloError(err error) bool {
	var refusal *HelloError
	return errors.As(err, &refusal)
}
