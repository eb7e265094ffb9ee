package transport

import (
	"fmt"
	"testing"

	"multiraft/wire"
)

// benchmarkPair is two connected stores of each implementation.
func benchmarkPair(b *testing.B, impl string) (from, to Transport) {
	if impl == "network" {
		n := NewNetwork(NetworkConfig{})
		return n.Transport(1), n.Transport(2)
	}
	x := newTestTCP(b, TCPConfig{Store: 1})
	y := newTestTCP(b, TCPConfig{Store: 2, Peers: map[wire.StoreID]string{1: ""}})
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
func (c *counter) PeerUp(wire.StoreID, uint64)  { c.up <- struct{}{} }
func (c *counter) PeerDown(wire.StoreID, error) {}

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
	for _, impl := range []string{"tcp", "network"} {
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
func (p *pong) PeerUp(wire.StoreID, uint64)  { p.up <- struct{}{} }
func (p *pong) PeerDown(wire.StoreID, error) {}

// BenchmarkPingPong is one frame at a time, there and back.
func BenchmarkPingPong(b *testing.B) {
	for _, impl := range []string{"tcp", "network"} {
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
