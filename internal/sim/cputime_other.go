//go:build !unix

package sim

import "time"

// cpuTime is zero: the system does not tell.
func cpuTime() time.Duration { return 0 }
