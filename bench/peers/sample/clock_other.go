//go:build !linux

package sample

import "time"

// clock returns the time of day.
func clock() time.Duration { return time.Since(began) }
