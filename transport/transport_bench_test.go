package transport

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"

	"multiraft/internal/testca"
	"multiraft/wire"
)

// implementations to compare: TCP plain and with TLS, and without sockets.
var implementations = []string{"tcp", "tls", "network"}

// benchmarkPair is two connected stores of an implementation.
func benchmarkPair(b *testing.B, impl string) (from, to Transport) {
	if impl == "network" {
		n := NewNetwork(NetworkConfig{})
		return n.Transport(1), n.Transport(2)
	}
	one := TCPConfig{Store: 1}
	two := TCPConfig{Store: 2, Peers: map[wire.StoreID]string{1: ""}}
	if impl == "tls" {
		ca := testca.New(b)
		one.TLS, two.TLS = ca.Provider(StoreURI(0, 1)), ca.Provider(StoreURI(0, 2))
	}
	x, y := newTestTCP(b, one), newTestTCP(b, two)
	if err := x.SetPeer(2, y.Addr()); err != nil {
		b.Fatal(err)
	}
	return x, y
}

// counter tells when a number of frames has arrived, and its peer is up.
type counter struct {
	up   chan struct{}
	want int
	done chan struct{}
}

func (c *counter) HandleFrame(wire.StoreID, []byte) {
	c.want--
	if c.want == 0 {
		c.done <- struct{}{}
	}
}
func (c *counter) PeerUp(wire.StoreID, uint64, uint16) { c.up <- struct{}{} }
func (c *counter) PeerDown(wire.StoreID, error)        {}

func startPair(b *testing.B, impl string) (from, to Transport, c *counter) {
	from, to = benchmarkPair(b, impl)
	c = &counter{up: make(chan struct{}, 4), done: make(chan struct{})}
	for _, tr := range []Transport{to, from} {
		if err := tr.Start(c); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { mustClose(b, tr) })
	}
	<-c.up
	<-c.up
	return from, to, c
}

// BenchmarkStream is one lane one way, with up to 4 MiB on the way.
func BenchmarkStream(b *testing.B) {
	for _, impl := range implementations {
		for _, size := range []int{64, 1 << 10, 16 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("impl=%s/frame=%dB", impl, size), func(b *testing.B) {
				from, _, c := startPair(b, impl)
				content := make([]byte, size)
				window := min(4<<20/size, 8192)
				b.SetBytes(int64(window) * int64(size))
				b.ReportAllocs()
				for b.Loop() {
					c.want = window
					for range window {
						if err := from.Send(2, wire.Bulk, append(from.Buffer(), content...)); err != nil {
							b.Fatal(err)
						}
					}
					<-c.done
				}
				frames := float64(b.N) * float64(window)
				b.ReportMetric(frames/b.Elapsed().Seconds(), "frames/s")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/frames, "ns/frame")
			})
		}
	}
}

// pong sends back what it gets.
type pong struct {
	up chan struct{}
	tr Transport
	b  *testing.B
}

func (p *pong) HandleFrame(from wire.StoreID, payload []byte) {
	if err := p.tr.Send(from, wire.Urgent, append(p.tr.Buffer(), payload...)); err != nil {
		p.b.Errorf("send: %v", err)
	}
}
func (p *pong) PeerUp(wire.StoreID, uint64, uint16) { p.up <- struct{}{} }
func (p *pong) PeerDown(wire.StoreID, error)        {}

// BenchmarkPingPong is one frame at a time, there and back.
func BenchmarkPingPong(b *testing.B) {
	for _, impl := range implementations {
		for _, size := range []int{64, 4 << 10} {
			b.Run(fmt.Sprintf("impl=%s/frame=%dB", impl, size), func(b *testing.B) {
				from, to := benchmarkPair(b, impl)
				c := &counter{up: make(chan struct{}, 4), done: make(chan struct{})}
				p := &pong{up: c.up, tr: to, b: b}
				if err := to.Start(p); err != nil {
					b.Fatal(err)
				}
				if err := from.Start(c); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { mustClose(b, from, to) })
				<-c.up
				<-c.up
				content := make([]byte, size)
				b.ReportAllocs()
				for b.Loop() {
					c.want = 1
					if err := from.Send(2, wire.Urgent, append(from.Buffer(), content...)); err != nil {
						b.Fatal(err)
					}
					<-c.done
				}
			})
		}
	}
}

// BenchmarkConnect is the way from a dialled socket to an accepted hello, on both
// sides: what a reconnect costs, and what a stranger can make a store spend.
func BenchmarkConnect(b *testing.B) {
	for _, impl := range []string{"tcp", "tls"} {
		b.Run("impl="+impl, func(b *testing.B) {
			most := Limits{AcceptsPerSecond: 1 << 20, AcceptsPerSecondPerAddress: 1 << 20, GreetingBytesPerSecond: 1 << 30}
			cfg := TCPConfig{Store: 2, Peers: map[wire.StoreID]string{1: ""}, Limits: most}
			var config *tls.Config
			if impl == "tls" {
				ca := testca.New(b)
				cfg.TLS = ca.Provider(StoreURI(0, 2))
				config = ca.Config(StoreURI(0, 1))
				config.NextProtos = []string{nextProtocol}
				config.InsecureSkipVerify = true // only the store's side is of interest
			}
			tr := newTestTCP(b, cfg)
			if err := tr.Start(&counter{up: make(chan struct{}, 1<<20)}); err != nil {
				b.Fatal(err)
			}
			h := rawHello()
			h.cluster, h.incarnation = 0, 1
			hello := h.encode()
			answer := make([]byte, helloBytes)
			b.ReportAllocs()
			for b.Loop() {
				nc, err := net.Dial("tcp", tr.Addr())
				if err != nil {
					b.Fatal(err)
				}
				if config != nil {
					nc = tls.Client(nc, config)
				}
				if _, err := nc.Write(hello[:]); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(nc, answer); err != nil {
					b.Fatal(err)
				}
				reset(nc)
			}
		})
	}
}
