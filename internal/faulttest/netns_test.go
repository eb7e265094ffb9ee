//go:build linux

package faulttest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiraft/wire"
)

// namespaces are networks of their own for stores, on one bridge.
type namespaces struct {
	t     *testing.T
	names []string
}

func newNamespaces(t *testing.T, n int) *namespaces {
	t.Helper()
	needRoot(t)
	need(t, "ip")
	ns := &namespaces{t: t}
	bridge := ns.add("br")
	run(t, "ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
	run(t, "ip", "-n", bridge, "link", "set", "br0", "up")
	for at := range n {
		name := ns.add(fmt.Sprint(at + 1))
		port := fmt.Sprintf("p%d", at+1)
		run(t, "ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", port, "netns", bridge)
		run(t, "ip", "-n", bridge, "link", "set", port, "master", "br0", "up")
		run(t, "ip", "-n", name, "addr", "add", ns.host(storeAt(at))+"/24", "dev", "eth0")
		run(t, "ip", "-n", name, "link", "set", "eth0", "up")
		run(t, "ip", "-n", name, "link", "set", "lo", "up")
		// Rules are asked for what comes in only behind the table of local
		// addresses, and not at all for connections that are known.
		run(t, "ip", "-n", name, "rule", "add", "pref", "100", "lookup", "local")
		run(t, "ip", "-n", name, "rule", "del", "pref", "0")
		run(t, "ip", "netns", "exec", name, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_early_demux; echo 0 > /proc/sys/net/ipv4/tcp_early_demux")
	}
	ns.names = ns.names[1:]
	return ns
}

// add makes a namespace that ends with the test.
func (ns *namespaces) add(suffix string) string {
	ns.t.Helper()
	name := named(suffix)
	run(ns.t, "ip", "netns", "add", name)
	ns.t.Cleanup(func() { run(ns.t, "ip", "netns", "delete", name) })
	ns.names = append(ns.names, name)
	return name
}

// host is the address of a store. No namespace has a way out, so no other network
// is in its way.
func (ns *namespaces) host(id wire.StoreID) string { return fmt.Sprintf("10.97.0.%d", id) }

// deaf has packets from one store to another vanish, or pass again.
func (ns *namespaces) deaf(from, to wire.StoreID, on bool) {
	ns.t.Helper()
	verb := "del"
	if on {
		verb = "add"
	}
	run(ns.t, "ip", "-n", ns.names[to-1], "rule", verb, "pref", fmt.Sprint(10+from), "from", ns.host(from), "iif", "eth0", "blackhole")
}

// TestOneWayDrops has packets vanish in the kernel, in one direction or both, so
// that TCP meets what it meets on a broken network: acknowledgements that never
// come, and connections that each side takes for something else.
func TestOneWayDrops(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, 3)
	var listen []string
	for at := range 3 {
		listen = append(listen, ns.host(storeAt(at))+":7001")
	}
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), Listen: listen, Wrap: func(id wire.StoreID) []string {
		return []string{"ip", "netns", "exec", ns.names[id-1]}
	}}, 24)
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	rng := rand.New(rand.NewPCG(4, 4))
	rounds := pick(2, 6, 200)
	for round := range rounds {
		answers(t, l, 500)
		a := anyStore(c, rng)
		b, other := a%3+1, (a+1)%3+1
		var cut [][2]wire.StoreID
		switch round % 3 {
		case 0: // one link, one direction
			cut = [][2]wire.StoreID{{a, b}}
		case 1: // one store is heard by nobody
			cut = [][2]wire.StoreID{{a, b}, {a, other}}
		case 2: // one store is cut off
			cut = [][2]wire.StoreID{{a, b}, {a, other}, {b, a}, {other, a}}
		}
		for _, pair := range cut {
			ns.deaf(pair[0], pair[1], true)
		}
		l.Attempts(200)
		for _, pair := range cut {
			ns.deaf(pair[0], pair[1], false)
		}
	}
	answers(t, l, 500)
	l.End()
	verify(t, c, l)
	t.Logf("%d operations around %d cuts", l.History.Len(), rounds)
	c.KillAll()
}

// TestDropsAreOneWay shows on a connection that is open what deaf does: one side
// is not heard any more, the other is, and what was lost is sent again later.
func TestDropsAreOneWay(t *testing.T) {
	ns := newNamespaces(t, 2)
	var listener net.Listener
	must(t, inNamespace(ns.names[1], func() (err error) {
		listener, err = net.Listen("tcp", ns.host(2)+":0")
		return err
	}))
	t.Cleanup(func() { must(t, listener.Close()) })
	var one net.Conn
	must(t, inNamespace(ns.names[0], func() (err error) {
		one, err = net.DialTimeout("tcp", listener.Addr().String(), shortly)
		return err
	}))
	t.Cleanup(func() { must(t, one.Close()) })
	two, err := listener.Accept()
	must(t, err)
	t.Cleanup(func() { must(t, two.Close()) })

	say := func(from, to net.Conn, wait time.Duration) error {
		if from != nil {
			if _, err := from.Write([]byte{1}); err != nil {
				return err
			}
		}
		must(t, to.SetReadDeadline(time.Now().Add(wait)))
		_, err := io.ReadFull(to, make([]byte, 1))
		return err
	}
	must(t, say(one, two, shortly))
	must(t, say(two, one, shortly))
	ns.deaf(1, 2, true)
	if err := say(one, two, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("what is dropped arrives: %v", err)
	}
	must(t, say(two, one, shortly))
	ns.deaf(1, 2, false)
	must(t, say(nil, two, shortly))
}

// inNamespace calls f on a thread that is in a network namespace. The thread ends
// with the call, as it is never unlocked.
func inNamespace(name string, f func() error) error {
	result := make(chan error, 1)
	go func() { // ends with f
		runtime.LockOSThread()
		fd, err := os.Open(filepath.Join("/run/netns", name))
		if err == nil {
			err = errors.Join(unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET), fd.Close())
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}
