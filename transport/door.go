package transport

import (
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"multiraft/wire"
)

const (
	// acceptsPerSecond bounds how fast the accept loop goes round, whatever it
	// does with the connections: accepting and closing one takes some 15 µs. What
	// comes faster waits in the kernel, which drops it when its queue is full.
	acceptsPerSecond = 10_000
	// addressBuckets is how many buckets hold the rates of addresses. Addresses
	// that fall into one share it, so that memory is bounded whoever comes.
	addressBuckets = 1024
	// guestReadBytes cuts reads before the hello is accepted, so that connections
	// take turns when they wait for GreetingBytesPerSecond.
	guestReadBytes = 4 << 10
)

// door decides which accepted connections may say hello, and bounds what they
// cost meanwhile (T4).
//
//	accept ─▶ enter ─┬─ too fast ──────────▶ closed unread
//	                 └─ guest of a room ─▶ handshake, hello ─▶ leave
//	                      ▲ one too many closes the first that came
//
// There are two rooms with the same limits, so that strangers do not take the
// places of addresses at which peers live.
type door struct {
	limits Limits
	now    func() time.Time
	began  time.Time
	seed   maphash.Seed
	stop   chan struct{} // closed by close

	mu       sync.Mutex // guards the fields below; taken after TCP.mu
	closed   bool
	turns    bucket // of the accept loop
	rooms    [2]room
	homes    map[homeKey]netip.Addr // where peers live
	familiar map[netip.Addr]int     // how many homes there are at an address
}

// room holds the guests of one kind, and how much of their rates is used up.
type room struct {
	guests    []*guest // in the order they came
	accepts   bucket
	bytes     bucket
	addresses [addressBuckets]bucket
}

const (
	strangers = iota
	acquaintances
)

// homeKey tells a home of a peer that was configured from one that it proved.
type homeKey struct {
	peer   wire.StoreID
	proven bool
}

func newDoor(limits Limits, now func() time.Time) *door {
	return &door{
		limits:   limits.withDefaults(),
		now:      now,
		began:    now(),
		seed:     maphash.MakeSeed(),
		stop:     make(chan struct{}),
		homes:    make(map[homeKey]netip.Addr),
		familiar: make(map[netip.Addr]int),
	}
}

// verdict of enter.
type verdict uint8

const (
	admitted  verdict = iota
	tooFast           // above a rate
	shut              // the door is closed
	displaced         // admitted, in the place of another
)

// enter makes a guest of an accepted connection, if it may say hello. When it
// takes the place of another, that one is closed.
func (d *door) enter(nc net.Conn) (*guest, verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, shut
	}
	addr := addressOf(nc.RemoteAddr())
	r := &d.rooms[strangers]
	if d.familiar[addr] > 0 {
		r = &d.rooms[acquaintances]
	}
	now := d.elapsed()
	all, own := float64(d.limits.AcceptsPerSecond), float64(d.limits.AcceptsPerSecondPerAddress)
	byAddress := &r.addresses[maphash.Comparable(d.seed, addr)%addressBuckets]
	// The address first, so that one that is too fast takes nothing from others.
	if !byAddress.take(1, own, own, now) || !r.accepts.take(1, all, all, now) {
		return nil, tooFast
	}
	g := &guest{Conn: nc, door: d, room: r, addr: addr, left: d.limits.GreetingBytes}
	result := admitted
	if old := r.displaceLocked(&d.limits, addr); old != nil {
		reset(old)
		result = displaced
	}
	r.guests = append(r.guests, g)
	return g, result
}

// displaceLocked removes the guest whose place a new one at addr takes, nil when
// there is room.
func (r *room) displaceLocked(limits *Limits, addr netip.Addr) *guest {
	same, first := 0, -1
	for i, g := range r.guests {
		if g.addr != addr {
			continue
		}
		if same++; same == 1 {
			first = i
		}
	}
	switch {
	case same >= limits.MaxGreetingPerAddress:
	case len(r.guests) >= limits.MaxGreeting:
		first = 0
	default:
		return nil
	}
	g := r.guests[first]
	r.guests = slices.Delete(r.guests, first, first+1)
	return g
}

// leave ends a visit, whether or not the guest was displaced meanwhile.
func (d *door) leave(g *guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(g.room.guests, g); i >= 0 {
		g.room.guests = slices.Delete(g.room.guests, i, i+1)
	}
}

// turn returns how long the accept loop must wait before it goes round again.
func (d *door) turn() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.turns.charge(1, acceptsPerSecond, acceptsPerSecond/100, d.elapsed())
}

// charge counts bytes that a guest sent and returns how long it must wait before
// it gets them.
func (d *door) charge(g *guest, n int) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	rate := float64(d.limits.GreetingBytesPerSecond)
	return g.room.bytes.charge(float64(n), rate, rate, d.elapsed())
}

// wait pauses a guest, until the door closes.
func (d *door) wait(pause time.Duration) {
	if pause <= 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.stop:
	}
}

// settle notes where a peer lives: as configured, or as it has proven. An empty
// address makes it forgotten.
func (d *door) settle(peer wire.StoreID, proven bool, addr netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := homeKey{peer, proven}
	old, known := d.homes[key]
	if known && old == addr {
		return
	}
	if known {
		if d.familiar[old]--; d.familiar[old] == 0 {
			delete(d.familiar, old)
		}
		delete(d.homes, key)
	}
	if addr.IsValid() {
		d.homes[key] = addr
		d.familiar[addr]++
	}
}

// close closes all guests and admits no more.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	close(d.stop)
	for i := range d.rooms {
		for _, g := range d.rooms[i].guests {
			closeConn(g)
		}
	}
}

func (d *door) elapsed() float64 { return d.now().Sub(d.began).Seconds() }

// bucket measures a rate: what was taken drains at the rate, and no more than
// the burst may be in it. The zero value is empty.
type bucket struct {
	level float64
	at    float64 // seconds; when level was right
}

// take adds n when there is room for it.
func (b *bucket) take(n, rate, burst, now float64) bool {
	b.drain(rate, now)
	if b.level+n > burst {
		return false
	}
	b.level += n
	return true
}

// charge adds n and returns how long it takes until what is above the burst has
// drained.
func (b *bucket) charge(n, rate, burst, now float64) time.Duration {
	b.drain(rate, now)
	b.level += n
	return time.Duration(max(0, b.level-burst) / rate * float64(time.Second))
}

func (b *bucket) drain(rate, now float64) {
	b.level = max(0, b.level-(now-b.at)*rate)
	b.at = now
}

// addressOf returns what limits count a remote address by. All that are not IP
// addresses count as one.
func addressOf(addr net.Addr) netip.Addr {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return countedAs(tcp.AddrPort().Addr())
}

// literalAddress is addressOf for a "host:port" whose host is a number. A name
// has no address before it is dialled.
func literalAddress(hostport string) netip.Addr {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.IsUnspecified() {
		return netip.Addr{}
	}
	return countedAs(addr)
}

func countedAs(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return addr
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr // never: 64 bits are within 128
	}
	return prefix.Addr()
}

// errGreetingTooLong ends a connection that sent too much before its hello was
// accepted.
var errGreetingTooLong = errors.New("transport: too many bytes before the hello")

// guest is a connection whose hello is not accepted yet. It bounds what is read
// from it; everything else is the connection's.
type guest struct {
	net.Conn
	door *door // nil once the hello is accepted, or on connections we dialled
	room *room
	addr netip.Addr
	left int // bytes that may still be read, -1 when there is no bound
}

// Read implements net.Conn. Only one goroutine reads: the one that greets, then
// the one the connection is handed to.
func (g *guest) Read(p []byte) (int, error) {
	if g.left < 0 {
		return g.Conn.Read(p)
	}
	if g.left == 0 {
		return 0, errGreetingTooLong
	}
	n, err := g.Conn.Read(p[:min(len(p), g.left, guestReadBytes)])
	g.left -= n
	if g.door != nil {
		g.door.wait(g.door.charge(g, n))
	}
	return n, err
}

// admitted lifts the bounds and returns the connection to use from here on, of
// which nc is what the hello came on: that, when it is secured, else the socket
// itself, for the sake of vectored writes.
func (g *guest) admitted(nc net.Conn) net.Conn {
	g.left = -1
	if nc == net.Conn(g) {
		return g.Conn
	}
	return nc
}

// reset closes a connection without a trace in the kernel, which would otherwise
// remember each for a minute.
func reset(nc net.Conn) {
	if tcp, ok := socket(nc).(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // then it closes in the usual way
	}
	closeConn(nc)
}
