//go:build !linux

package engine

import "time"

// systemClock counts while the process stands still; whether also while the
// machine is suspended depends on the system.
type systemClock struct{ start time.Time }

func newSystemClock() Clock { return &systemClock{start: time.Now()} }

// Now returns the time since the clock was made.
func (c *systemClock) Now() time.Duration { return time.Since(c.start) }
