package transport

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"multiraft/wire"
)

// visitor is the accepted end of a connection from an address of the test's
// choice.
type visitor struct {
	net.Conn
	from   netip.Addr
	closed bool
}

func (v *visitor) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(v.from, 1))
}
func (v *visitor) Close() error { v.closed = true; return nil }

// testDoor is a door with a clock of its own.
type testDoor struct {
	*door
	at time.Time
}

func newTestDoor(limits Limits) *testDoor {
	d := &testDoor{at: time.Unix(0, 0)}
	d.door = newDoor(limits, func() time.Time { return d.at })
	return d
}

func (d *testDoor) visit(from string) (*visitor, *guest, verdict) {
	v := &visitor{from: netip.MustParseAddr(from)}
	g, verdict := d.enter(v)
	return v, g, verdict
}

// Each limit holds by itself, and says so.
func TestDoorRates(t *testing.T) {
	count := func(d *testDoor, from func(i int) string, visits int) (heard int) {
		for i := range visits {
			if _, g, _ := d.visit(from(i)); g != nil {
				heard++
				d.leave(g)
			}
		}
		return heard
	}
	same := func(int) string { return "192.0.2.1" }
	other := func(i int) string { return fmt.Sprintf("192.0.2.%d", 2+i%200) }
	d := newTestDoor(Limits{AcceptsPerSecond: 100, AcceptsPerSecondPerAddress: 10})
	if got := count(d, same, 1000); got != 10 {
		t.Errorf("%d of one address, want 10", got)
	}
	if got := count(d, other, 1000); got != 90 {
		t.Errorf("%d of all, want the 90 that the first address left", got)
	}
	d.at = d.at.Add(time.Second / 2)
	if got := count(d, same, 1000); got != 5 {
		t.Errorf("%d of one address after half a second, want 5", got)
	}
	d.at = d.at.Add(time.Hour)
	if got := count(d, other, 1000); got != 100 {
		t.Errorf("%d of all after an hour, want 100: what was not used is not saved", got)
	}
	// The loop itself.
	var waits time.Duration
	for range acceptsPerSecond/100 + 1 {
		waits += d.turn()
	}
	if waits != time.Second/acceptsPerSecond {
		t.Errorf("the loop waits %v", waits)
	}
}

func TestDoorDisplaces(t *testing.T) {
	d := newTestDoor(Limits{MaxGreeting: 5, MaxGreetingPerAddress: 3})
	var all []*visitor
	enter := func(from string, want verdict) *guest {
		t.Helper()
		v, g, got := d.visit(from)
		if got != want {
			t.Errorf("visitor %d from %s: verdict %d, want %d", len(all), from, got, want)
		}
		all = append(all, v)
		return g
	}
	check := func(closed ...bool) {
		t.Helper()
		for i, want := range closed {
			if all[i].closed != want {
				t.Errorf("visitor %d: closed is %v", i, all[i].closed)
			}
		}
	}
	enter("192.0.2.9", admitted)
	first := enter("192.0.2.1", admitted)
	enter("192.0.2.1", admitted)
	enter("192.0.2.1", admitted)
	enter("192.0.2.1", displaced) // the first of its address
	check(false, true, false, false, false)
	d.leave(first) // nothing to leave any more
	enter("192.0.2.2", admitted)
	enter("192.0.2.3", displaced) // the first of all
	check(true, true, false, false, false, false, false)
	if n := len(d.rooms[strangers].guests); n != 5 {
		t.Errorf("%d guests", n)
	}
	d.close()
	check(true, true, true, true, true, true, true)
	if _, g, got := d.visit("192.0.2.4"); g != nil || got != shut {
		t.Errorf("a closed door says %d", got)
	}
}

// Strangers, whatever they do, take nothing from the addresses of peers.
func TestDoorKeepsRoomForPeers(t *testing.T) {
	d := newTestDoor(Limits{})
	d.settle(1, false, literalAddress("198.51.100.1:7001"))
	d.settle(2, true, netip.MustParseAddr("198.51.100.2"))
	for i := range 10_000 {
		d.visit(fmt.Sprintf("192.0.%d.%d", i/250, 1+i%250))
	}
	for _, addr := range []string{"198.51.100.1", "198.51.100.2"} {
		v, g, got := d.visit(addr)
		if got != admitted {
			t.Fatalf("%s: verdict %d", addr, got)
		}
		if wait := d.charge(g, 1000); wait != 0 {
			t.Errorf("%s: waits %v", addr, wait)
		}
		for i := range 10_000 {
			d.visit(fmt.Sprintf("192.0.%d.%d", i/250, 1+i%250))
		}
		if v.closed {
			t.Errorf("%s: displaced by strangers", addr)
		}
	}
	// A peer that moves takes its place along; two at one address share it.
	d.settle(3, true, netip.MustParseAddr("198.51.100.2"))
	d.settle(2, true, netip.MustParseAddr("198.51.100.7"))
	d.settle(1, false, netip.Addr{})
	for addr, want := range map[string]int{"198.51.100.1": 0, "198.51.100.2": 1, "198.51.100.7": 1} {
		if got := d.familiar[netip.MustParseAddr(addr)]; got != want {
			t.Errorf("%s is home of %d, want %d", addr, got, want)
		}
	}
}

// The books of familiar addresses stay true whatever moves are made.
func TestDoorSettleModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	d := newTestDoor(Limits{})
	model := map[homeKey]netip.Addr{}
	for range 10_000 {
		key := homeKey{peer: wire.StoreID(1 + r.IntN(4)), proven: r.IntN(2) == 0}
		var addr netip.Addr
		if r.IntN(4) > 0 {
			addr = netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(3))})
		}
		d.settle(key.peer, key.proven, addr)
		model[key] = addr
		want := map[netip.Addr]int{}
		for _, addr := range model {
			if addr.IsValid() {
				want[addr]++
			}
		}
		if len(want) != len(d.familiar) {
			t.Fatalf("familiar %v, want %v", d.familiar, want)
		}
		for addr, n := range want {
			if d.familiar[addr] != n {
				t.Fatalf("familiar %v, want %v", d.familiar, want)
			}
		}
	}
}

func TestAddressesCount(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:7":             "192.0.2.1",
		"[::ffff:192.0.2.1]:7":    "192.0.2.1",
		"[2001:db8:1:2:3::4]:7":   "2001:db8:1:2::",
		"[fe80::1%eth0]:7":        "fe80::",
		"store.example:7":         "invalid IP",
		":7001":                   "invalid IP",
		"0.0.0.0:7":               "invalid IP",
		"no port":                 "invalid IP",
		"":                        "invalid IP",
		"[2001:db8:1:2:ffff::]:1": "2001:db8:1:2::",
	} {
		if got := literalAddress(in).String(); got != want {
			t.Errorf("%s counts as %s, want %s", in, got, want)
		}
	}
	if addressOf(&net.UnixAddr{Name: "x"}).IsValid() {
		t.Error("a socket in the file system has an IP address")
	}
}

// zeros is a connection that says zeros for ever.
type zeros struct{ net.Conn }

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What a guest sends is bounded, and so is how fast all guests send together.
func TestGuestReads(t *testing.T) {
	d := newTestDoor(Limits{GreetingBytes: 10_000, GreetingBytesPerSecond: 50_000})
	g := &guest{Conn: zeros{}, door: d.door, room: &d.rooms[strangers], left: d.limits.GreetingBytes}
	n, err := io.Copy(io.Discard, struct{ io.Reader }{g})
	if n != 10_000 || !errors.Is(err, errGreetingTooLong) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if wait := d.charge(g, 40_000); wait != 0 {
		t.Errorf("waits %v within the burst", wait)
	}
	if wait := d.charge(g, 5_000); wait != time.Second/10 {
		t.Errorf("waits %v for 5000 bytes too many", wait)
	}
	d.at = d.at.Add(time.Second)
	if wait := d.charge(g, 40_000); wait != 0 {
		t.Errorf("waits %v a second later", wait)
	}
	// A door that closes does not wait.
	d.close()
	d.wait(time.Hour)
	// An accepted hello ends it.
	if nc := g.admitted(g); nc != g.Conn {
		t.Errorf("goes on with %T", nc)
	}
	if n, err := g.Read(make([]byte, 100_000)); n != 100_000 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
