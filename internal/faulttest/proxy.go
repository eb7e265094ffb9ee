//go:build linux

package faulttest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Weather is what a Proxy does to the bytes of one direction.
type Weather struct {
	Delay   time.Duration // each chunk waits for a random time below it
	Blocked bool          // nothing is read: the sender's buffers fill up
	Swallow bool          // what is read goes nowhere, and the connections stay
	Spoil   int           // one bit of every so many bytes is flipped
	Swap    int           // one of so many chunks changes places with the next
}

// Proxy passes connections on to a target, byte by byte, in the weather of the
// day. Unlike rules of the kernel it needs no rights, and it spoils what the
// checksums of TCP would not let through.
type Proxy struct {
	listener net.Listener
	target   atomic.Pointer[string]
	weather  [2]atomic.Pointer[Weather] // of bytes to the target, and from it

	mu     sync.Mutex // guards the fields below
	conns  map[net.Conn]bool
	rng    *rand.Rand
	change chan struct{} // closed and replaced when the weather changes
	closed bool

	pumps sync.WaitGroup

	// Spoilt counts bits that were flipped, Swapped chunks that changed places,
	// Cut connections that were cut.
	Spoilt, Swapped, Cuts atomic.Int64
}

// NewProxy listens on a loopback address.
func NewProxy(seed uint64) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(seed, 1)) //gosec:disable G404 -- weather, not a secret
	p := &Proxy{listener: l, conns: make(map[net.Conn]bool), rng: rng, change: make(chan struct{})}
	p.weather[0].Store(&Weather{})
	p.weather[1].Store(&Weather{})
	p.pumps.Add(1)
	go p.accept()
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// SetTarget changes where new connections go.
func (p *Proxy) SetTarget(addr string) { p.target.Store(&addr) }

// Set changes the weather of bytes to the target and of those from it.
func (p *Proxy) Set(to, from Weather) {
	p.weather[0].Store(&to)
	p.weather[1].Store(&from)
	p.mu.Lock()
	close(p.change)
	p.change = make(chan struct{})
	p.mu.Unlock()
}

// Cut resets all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.Cuts.Add(1)
		// Both are what a cut is; a connection that has ended is cut already.
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

// Close ends all connections and waits for all goroutines.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	close(p.change)
	p.change = make(chan struct{})
	p.mu.Unlock()
	err := p.listener.Close()
	p.Cut()
	p.pumps.Wait()
	return err
}

// accept ends when the listener is closed.
func (p *Proxy) accept() {
	defer p.pumps.Done()
	for {
		in, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.pumps.Add(1)
		go func() { // ends when both directions have
			defer p.pumps.Done()
			p.pass(in)
		}()
	}
}

// pass connects one connection with the target.
func (p *Proxy) pass(in net.Conn) {
	defer p.forget(in)
	target := p.target.Load()
	if !p.keep(in) || target == nil {
		return
	}
	out, err := net.DialTimeout("tcp", *target, 5*time.Second)
	if err != nil {
		return
	}
	defer p.forget(out)
	if !p.keep(out) {
		return
	}
	var other sync.WaitGroup
	other.Add(1)
	go func() { // ends when out does
		defer other.Done()
		p.pump(out, in, 1)
	}()
	p.pump(in, out, 0)
	other.Wait()
}

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close() // the other side sees the end in either case
}

const chunkBytes = 4 << 10

// pump passes on what comes from one connection until either ends. Both are
// closed then: a half of a connection is of no use to a store.
func (p *Proxy) pump(from, to net.Conn, direction int) {
	defer func() {
		_ = from.Close() // may be cut already
		_ = to.Close()
	}()
	buf := make([]byte, chunkBytes)
	var held []byte // that changes places with the next chunk
	for {
		w, ok := p.wait(direction)
		if !ok {
			return
		}
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		chunk := buf[:n]
		if w.Swallow {
			continue
		}
		p.spoil(w, chunk)
		if held == nil && p.oneOf(w.Swap) {
			held = append([]byte(nil), chunk...)
			continue
		}
		if !p.delay(w) {
			return
		}
		if held != nil {
			p.Swapped.Add(1)
			chunk, held = append(append([]byte(nil), chunk...), held...), nil
		}
		if _, err := to.Write(chunk); err != nil {
			return
		}
	}
}

// wait returns the weather once it lets bytes pass.
func (p *Proxy) wait(direction int) (Weather, bool) {
	for {
		p.mu.Lock()
		change, closed := p.change, p.closed
		p.mu.Unlock()
		if closed {
			return Weather{}, false
		}
		if w := p.weather[direction].Load(); !w.Blocked {
			return *w, true
		}
		<-change
	}
}

// delay returns false when the proxy is closed meanwhile.
func (p *Proxy) delay(w Weather) bool {
	if w.Delay == 0 {
		return true
	}
	p.mu.Lock()
	wait, change, closed := time.Duration(p.rng.Int64N(int64(w.Delay))), p.change, p.closed
	p.mu.Unlock()
	if closed {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-change: // bad weather is over, or everything is
	}
	return true
}

func (p *Proxy) spoil(w Weather, chunk []byte) {
	if w.Spoil == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rng.IntN(w.Spoil) < len(chunk) {
		chunk[p.rng.IntN(len(chunk))] ^= 1 << p.rng.IntN(8)
		p.Spoilt.Add(1)
	}
}

func (p *Proxy) oneOf(n int) bool {
	if n == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rng.IntN(n) == 0
}

var _ io.Closer = (*Proxy)(nil)
