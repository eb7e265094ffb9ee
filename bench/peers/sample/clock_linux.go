package sample

import (
	"time"

	"golang.org/x/sys/unix"
)

// clock returns the processor time of this thread, or the time of day where the
// kernel hides it.
func clock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return time.Since(began)
	}
	return time.Duration(ts.Nano())
}
