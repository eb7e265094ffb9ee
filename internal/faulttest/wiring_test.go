//go:build linux

package faulttest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"multiraft/wire"
)

// TestWrongWiring leads the connections of stores to a store of another cluster that
// has the same id, and to another store of the same cluster. They are refused, nobody
// serves anything of the other, and with the right wiring all is well again.
func TestWrongWiring(t *testing.T) {
	t.Parallel()
	var clusters [2]*Cluster
	var loads [2]*Load
	for at := range clusters {
		c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), Cluster: uint64(100 + at)}, 12)
		must(t, c.StartAll())
		l.Begin()
		t.Cleanup(l.End)
		clusters[at], loads[at] = c, l
	}
	addr := func(at int, id wire.StoreID) string { return clusters[at].Process(id).hello.Text }
	both := func(n int) {
		for _, l := range loads {
			answers(t, l, n)
		}
	}
	wired := func(f func(at int)) {
		for at, c := range clusters {
			before := refused(t, c)
			f(at)
			for _, p := range c.proxies {
				p.Cut()
			}
			refusedMore(t, c, before)
		}
		both(100)
	}
	rounds := pick(1, 1, 50)
	for range rounds {
		both(100)
		// Stores 1 and 2 of each dial store 3 of the other.
		wired(func(at int) {
			for _, id := range []wire.StoreID{1, 2} {
				clusters[at].Proxy(id, 3).SetTarget(addr(1-at, 3))
			}
		})
		// Store 1 dials store 3 where store 2 should be, and the other way round.
		wired(func(at int) {
			clusters[at].Proxy(2, 3).SetTarget(addr(at, 3))
			clusters[at].Proxy(1, 2).SetTarget(addr(at, 3))
			clusters[at].Proxy(1, 3).SetTarget(addr(at, 2))
		})
		for at, c := range clusters {
			c.Proxy(1, 2).SetTarget(addr(at, 2))
			c.Proxy(1, 3).SetTarget(addr(at, 3))
			for _, p := range c.proxies {
				p.Cut()
			}
			for _, id := range c.Stores() {
				readable(t, c, id)
			}
		}
	}
	for at, l := range loads {
		l.End()
		verify(t, clusters[at], l)
		t.Logf("%d operations, %d connections refused", l.History.Len(), refused(t, clusters[at]))
	}
}

// TestClockJumps has the clocks that stores measure leases with jump, forwards and
// backwards, from one life of a store to the next, and stores stand still with leases
// in force. The date cannot be changed for a process alone; no store asks for it.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	needRoot(t)
	need(t, "unshare")
	if out, err := exec.Command("unshare", "-T", "--boottime", "10", "--monotonic", "10", "--fork", "true").CombinedOutput(); err != nil {
		t.Skipf("needs namespaces for time: %v: %s", err, out)
	}
	up := uptime(t)
	offset := int64(0)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), Leases: true, Wrap: func(wire.StoreID) []string {
		seconds := fmt.Sprint(offset)
		return []string{"unshare", "-T", "--boottime", seconds, "--monotonic", seconds, "--fork"}
	}}, 24)
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	offsets := []int64{365 * 24 * 3600, -up / 2, 1, 1 << 30, 0, -up / 3}
	rounds := pick(3, 6, 200)
	for round := range rounds {
		answers(t, l, 500)
		offset = offsets[round%len(offsets)]
		id := storeAt(round % 3)
		c.Kill(id)
		must(t, c.Start(id))
		answers(t, l, 300)
		p := c.Process(storeAt((round + 1) % 3))
		must(t, p.Signal(unix.SIGSTOP))
		l.Attempts(100)
		must(t, p.Signal(unix.SIGCONT))
	}
	answers(t, l, 500)
	l.End()
	leased := int64(0)
	for _, id := range c.Stores() {
		h, err := c.Health(t.Context(), id)
		must(t, err)
		leased += h.Health.LeaseReads
	}
	if leased == 0 {
		t.Error("no read was served by lease")
	}
	verify(t, c, l)
	t.Logf("%d operations around %d jumps, %d reads by lease since the last one", l.History.Len(), rounds, leased)
}

// uptime returns for how many seconds the machine has run.
func uptime(t *testing.T) (seconds int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/uptime")
	must(t, err)
	_, err = fmt.Sscan(strings.SplitN(string(text), ".", 2)[0], &seconds)
	must(t, err)
	return seconds
}
