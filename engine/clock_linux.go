package engine

import (
	"time"

	"golang.org/x/sys/unix"
)

// systemClock counts while the machine is suspended, too.
type systemClock struct {
	start   time.Time
	without bool // the kernel has no such clock
}

func newSystemClock() Clock {
	var ts unix.Timespec
	return &systemClock{start: time.Now(), without: unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil}
}

// Now reads CLOCK_BOOTTIME, or what comes next to it: a clock that differs only
// while the machine is suspended.
func (c *systemClock) Now() time.Duration {
	var ts unix.Timespec
	if c.without || unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return time.Since(c.start)
	}
	return time.Duration(ts.Nano())
}
