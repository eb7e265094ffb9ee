package transport

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel is told to give up on a vanished peer after PeerTimeout, whether
// something is on its way to it or not.
func TestTuneSetsKernelTimeouts(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeListener(t, listener)
	nc := dialRaw(t, listener.Addr().String())
	if err := tune(nc, 8*time.Second); err != nil {
		t.Fatal(err)
	}
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	options := map[string]struct{ level, option, want int }{
		"keep-alive":   {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"idle":         {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 2},
		"interval":     {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 2},
		"probes":       {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes},
		"user timeout": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 8000},
		"no delay":     {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	}
	err = raw.Control(func(fd uintptr) {
		for name, o := range options {
			got, err := unix.GetsockoptInt(int(fd), o.level, o.option)
			if err != nil || got != o.want {
				t.Errorf("%s: %d, %v; want %d", name, got, err, o.want)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
