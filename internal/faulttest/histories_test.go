//go:build linux

package faulttest

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiraft/wire"
)

// nemesis is what happens to a cluster of processes in one round. Each function
// begins a fault, lets clients go on, and ends it.
var nemesis = []struct {
	name string
	do   func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand)
}{
	{"kill one store", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		id := anyStore(c, rng)
		c.Kill(id)
		l.Attempts(500)
		must(t, c.Start(id))
	}},
	{"kill all stores", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		c.KillAll()
		must(t, c.StartAll())
	}},
	{"one store is away until it needs a snapshot", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		id := anyStore(c, rng)
		c.Kill(id)
		// Half are writes, and each group has its share.
		answers(t, l, 3*int(c.cfg.SnapshotEntries)*c.cfg.Groups)
		must(t, c.Start(id))
		ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
		defer cancel()
		for {
			h, err := c.Health(ctx, id)
			must(t, err)
			if h.Health.Installed > 0 {
				return
			}
			must(t, pause(ctx, retryInterval))
		}
	}},
	{"stop one store", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		id := anyStore(c, rng)
		c.Stop(id)
		l.Attempts(500)
		must(t, c.Start(id))
	}},
	{"freeze one process", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		p := c.Process(anyStore(c, rng))
		must(t, p.Signal(unix.SIGSTOP))
		l.Attempts(150)
		must(t, p.Signal(unix.SIGCONT))
	}},
	{"cut all connections", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		for range 5 {
			for _, p := range c.proxies {
				p.Cut()
			}
			l.Attempts(50)
		}
	}},
	{"cut off one store", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		id := anyStore(c, rng)
		weather(c, func(from, to wire.StoreID) Weather { return Weather{Swallow: from == id || to == id} })
		l.Attempts(150)
	}},
	{"one store hears and is not heard", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		id := anyStore(c, rng)
		weather(c, func(from, to wire.StoreID) Weather { return Weather{Swallow: from == id} })
		l.Attempts(150)
	}},
	{"one store is heard and does not hear", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		id := anyStore(c, rng)
		weather(c, func(from, to wire.StoreID) Weather { return Weather{Swallow: to == id} })
		l.Attempts(150)
	}},
	{"one link is cut", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		a := anyStore(c, rng)
		b := a%wire.StoreID(len(c.procs)) + 1
		weather(c, func(from, to wire.StoreID) Weather {
			return Weather{Swallow: from == a && to == b || from == b && to == a}
		})
		l.Attempts(150)
	}},
	{"one direction is blocked", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		a := anyStore(c, rng)
		weather(c, func(from, to wire.StoreID) Weather { return Weather{Blocked: from == a} })
		l.Attempts(150)
	}},
	{"delay", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		weather(c, func(from, to wire.StoreID) Weather {
			return Weather{Delay: time.Duration(1 + rng.IntN(int(40*time.Millisecond)))}
		})
		l.Attempts(1000)
	}},
	{"spoilt bytes", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		weather(c, func(from, to wire.StoreID) Weather { return Weather{Spoil: 64 << 10} })
		l.Attempts(1000)
	}},
	{"bytes out of order", func(t *testing.T, c *Cluster, l *Load, rng *rand.Rand) {
		weather(c, func(from, to wire.StoreID) Weather { return Weather{Swap: 64} })
		l.Attempts(1000)
	}},
}

func anyStore(c *Cluster, rng *rand.Rand) wire.StoreID { return storeAt(rng.IntN(len(c.procs))) }

// weather sets what every store sends to every other.
func weather(c *Cluster, w func(from, to wire.StoreID) Weather) {
	for pair := range c.proxies {
		c.Set(pair[0], pair[1], w(pair[0], pair[1]))
		c.Set(pair[1], pair[0], w(pair[1], pair[0]))
	}
}

// TestProcessHistories has three processes, and clients that write and read
// registers while processes die and stand still and the network does what it
// can. Afterwards each register's history must be linearizable (F1), and the
// replicas equal (F2).
func TestProcessHistories(t *testing.T) {
	t.Parallel()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3)}, 48)
	must(t, c.StartAll())
	l.Retries = true
	goal := pick(10_000, 40_000, 2_000_000)
	rng := rand.New(rand.NewPCG(uint64(goal), 0))
	l.Begin()
	t.Cleanup(l.End)
	answers(t, l, 500)
	rounds := 0
	for ; l.Done() < goal || rounds < len(nemesis); rounds++ {
		n := nemesis[rounds%len(nemesis)]
		n.do(t, c, l, rng)
		must(t, c.Heal())
		answers(t, l, 3000)
	}
	l.End()
	verify(t, c, l)
	spoilt, swapped, cuts := int64(0), int64(0), int64(0)
	for _, p := range c.proxies {
		spoilt, swapped, cuts = spoilt+p.Spoilt.Load(), swapped+p.Swapped.Load(), cuts+p.Cuts.Load()
	}
	if spoilt == 0 || swapped == 0 || cuts == 0 {
		t.Errorf("%d bits were flipped, %d chunks swapped, %d connections cut: some fault did not happen", spoilt, swapped, cuts)
	}
	again := uint64(0)
	for g := wire.GroupID(1); int(g) <= c.cfg.Groups; g++ {
		a, err := c.ask(t.Context(), 1, Request{Op: opState, Group: g, Timeout: settleTimeout})
		must(t, err)
		again += a.State.Again
	}
	if again == 0 {
		t.Error("no write came twice to a state machine")
	}
	t.Logf("%d writes came again to their state machines", again)
	t.Logf("%d rounds, %d operations in the history of %d keys; %d bits flipped, %d chunks swapped, %d connections cut",
		rounds, l.History.Len(), l.lastKey, spoilt, swapped, cuts)
}
