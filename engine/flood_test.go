package engine_test

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"multiraft/engine"
	"multiraft/internal/testca"
	"multiraft/transport"
)

var floodConnections = flag.Int("flood.connections", 3000, "hostile connections per run of TestFlood")

// newSecureCluster is newCluster over TCP on loopback with certificates of ca.
func newSecureCluster(t *testing.T, ca *testca.Authority, change func(*engine.Config)) *cluster {
	c := newCluster(t, func(cfg *engine.Config) {
		cfg.Transport = nil
		cfg.Listen = "127.0.0.1:0"
		cfg.TLS = ca.Provider(transport.StoreURI(cfg.Cluster, cfg.ID))
		change(cfg)
	})
	for id, store := range c.stores {
		for peer, other := range c.stores {
			if peer == id {
				continue
			}
			if err := store.SetPeer(peer, other.Addr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return c
}

// Stores serve over TLS; one whose certificate is for another cluster does not
// get in, and its operator is told.
func TestEngineOverTLS(t *testing.T) {
	ca := testca.New(t)
	core, logs := observer.New(zapcore.WarnLevel)
	c := newSecureCluster(t, ca, func(cfg *engine.Config) {
		if cfg.ID == 3 {
			other := testca.New(t)
			cfg.TLS = other.Provider(transport.StoreURI(cfg.Cluster, cfg.ID))
			cfg.Logger = zap.New(core)
		}
	})
	c.startAll(1)
	c.propose(1, "one")
	c.until("a warning", func() bool { return logs.FilterMessage("connection could not be secured").Len() > 0 })
	c.close(3)
	c.propose(1, "two")
	c.converge(1, 2)
}

// A configuration that cannot work is refused at the start.
func TestTLSConfiguration(t *testing.T) {
	cfg := engine.Config{Cluster: 7, ID: 1, Dir: t.TempDir(), Listen: "127.0.0.1:0", Limits: transport.Limits{MaxGreeting: -1}}
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "MaxGreeting") {
		t.Errorf("a bad limit: %v", err)
	}
	ca := testca.New(t)
	cfg.Limits = transport.Limits{}
	cfg.TLS = ca.Provider(transport.StoreURI(8, 1))
	if _, err := engine.Open(cfg); !errors.Is(err, transport.ErrTLSConfig) {
		t.Errorf("a certificate of another cluster: %v", err)
	}
}

// hostile is one way to use a connection that leads nowhere. It returns whether
// the connection is to be kept open.
type hostile func(nc net.Conn) (keep bool)

func hostiles(t *testing.T) []hostile {
	stranger := testca.New(t).Config(transport.StoreURI(7, 1))
	stranger.NextProtos = []string{"multiraft"}
	stranger.InsecureSkipVerify = true // of the flood, which trusts everybody
	garbage := make([]byte, 64<<10)
	for i := range garbage {
		garbage[i] = byte(i * 7)
	}
	// A record of a handshake message of 16 MiB that never gets done.
	endless := append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0xff, 0xff, 0xff}, garbage[:1<<12]...)
	// A frame of the largest length, where a hello is expected.
	frame := append([]byte{0xff, 0xff, 0xff, 0xff}, make([]byte, 76)...)
	// A handshake message that comes a byte at a time, see drip.
	slow := []byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3}
	write := func(b []byte) hostile {
		return func(nc net.Conn) bool {
			_, _ = nc.Write(b) // the store may have hung up already, which is well
			return true
		}
	}
	return []hostile{
		func(net.Conn) bool { return true },
		func(net.Conn) bool { return false },
		write(garbage), write(endless), write(frame), write([]byte{22}), write(slow),
		func(nc net.Conn) bool {
			// An honest handshake with a certificate of somebody else: the most work
			// that a connection makes.
			_ = tls.Client(nc, stranger).Handshake() // refused here or later
			return true
		},
	}
}

// drip sends one byte more on a connection that is kept, so that it is never idle for
// long (slow loris).
func drip(nc net.Conn) {
	if nc != nil {
		_, _ = nc.Write([]byte{3}) // the store may have hung up already, which is well
	}
}

// hangUp ends a hostile connection, if there is one.
func hangUp(nc net.Conn) {
	if nc != nil {
		_ = nc.Close() // the store may have done so first
	}
}

// Thousands of hostile connections to all stores, from the address of the peers
// and from others, do not end a connection between stores, cause no election and
// cost little memory. Writes go on meanwhile.
func TestFlood(t *testing.T) {
	ca := testca.New(t)
	core, logs := observer.New(zapcore.InfoLevel)
	c := newSecureCluster(t, ca, func(cfg *engine.Config) {
		cfg.TickInterval = 50 * time.Millisecond
		cfg.Tuning.ElectionTicks = 60 // 3 to 6 s, for machines that do other things too
		cfg.Logger = zap.New(core)
	})
	const group = 1
	c.startAll(group)
	c.propose(group, "before")
	c.converge(group, 1)
	linked := func() int { return logs.FilterMessage("peer store is connected").Len() }
	c.until("all links", func() bool { return linked() >= 6 })
	term := c.leader(group).Status().Term
	links := linked()

	total := *floodConnections
	if testing.Short() {
		total /= 10
	}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var next, opened atomic.Int64
	var flood sync.WaitGroup
	addrs := []string{c.stores[1].Addr(), c.stores[2].Addr(), c.stores[3].Addr()}
	ways := hostiles(t)
	const workers, kept = 4, 250
	for w := range uint64(workers) {
		flood.Go(func() {
			r := rand.New(rand.NewPCG(w, 1))
			var held [kept]net.Conn // the oldest makes room
			for n := next.Add(1); n <= int64(total); n = next.Add(1) {
				var d net.Dialer
				if runtime.GOOS == "linux" && r.IntN(4) > 0 {
					// All of 127.0.0.0/8 is loopback there.
					d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 1, byte(r.IntN(4)), byte(1+r.IntN(200)))}
				}
				d.Timeout = time.Minute
				nc, err := d.Dial("tcp", addrs[n%3])
				if err != nil {
					continue // refused, which is an answer too
				}
				opened.Add(1)
				if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil || !ways[r.IntN(len(ways))](nc) {
					hangUp(nc)
					continue
				}
				for range 16 {
					drip(held[r.IntN(kept)])
				}
				at := r.IntN(kept)
				hangUp(held[at])
				held[at] = nc
			}
			for _, nc := range held {
				hangUp(nc)
			}
		})
	}
	done := make(chan struct{})
	go func() { flood.Wait(); close(done) }()
	var peak uint64
	writes := 1
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		c.propose(group, fmt.Sprint("during ", writes))
		writes++
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapAlloc+now.StackInuse)
	}
	c.converge(group, writes)
	grown := int64(peak) - int64(before.HeapAlloc+before.StackInuse)
	t.Logf("%d hostile connections, %d opened, %d writes meanwhile, memory grew by %.1f MiB",
		total, opened.Load(), writes-1, float64(grown)/(1<<20))
	if grown > 64<<20 {
		t.Errorf("memory grew by %d MiB, at most 64 are allowed", grown>>20)
	}
	if opened.Load() < int64(total)/4 {
		t.Errorf("only %d of %d connections were opened", opened.Load(), total)
	}
	if got := c.leader(group).Status().Term; got != term {
		t.Errorf("term %d, was %d: there was an election", got, term)
	}
	if got := linked(); got != links {
		t.Errorf("%d connections between stores were made anew", got-links)
	}
	for id, store := range c.stores {
		if store.Metrics().RefusedConnections == 0 {
			t.Errorf("store %d refused no connection", id)
		}
	}
	if logs.FilterMessage("connection could not be secured").Len() == 0 {
		t.Error("nobody was told of the flood")
	}
}
