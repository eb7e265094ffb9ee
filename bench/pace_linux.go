package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pacer waits for moments of a schedule, finer than Go's timers: when nothing
// runs, Go waits for its next timer in epoll, whole milliseconds long, which
// would add half a millisecond to every latency that counts from an intended
// start. A timer of the kernel that is read through the same epoll is exact to
// some 50 µs.
//
// A pacer belongs to one goroutine.
type pacer struct{ timer *os.File }

// newPacer returns a pacer. When the kernel has no timer for it, it waits as
// coarsely as Go does.
func newPacer() *pacer {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return &pacer{}
	}
	return &pacer{timer: os.NewFile(uintptr(fd), "timer")}
}

// wait waits at least minPace and at most maxPace.
func (p *pacer) wait(d time.Duration) {
	d = min(max(d, minPace), maxPace)
	if p.timer == nil {
		time.Sleep(d)
		return
	}
	// SyscallConn and not Fd, which would make the descriptor block.
	conn, err := p.timer.SyscallConn()
	if err == nil {
		var set error
		err = conn.Control(func(fd uintptr) {
			set = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
		})
		if err == nil {
			err = set // or the timer would never fire, and the read never return
		}
	}
	var expirations [8]byte
	if err == nil {
		_, err = p.timer.Read(expirations[:])
	}
	if err != nil {
		time.Sleep(d)
	}
}

func (p *pacer) close() {
	if p.timer != nil {
		_ = p.timer.Close() // nothing was written to it
	}
}
