package bench

import (
	"sync/atomic"
	"time"
)

// schedule gives out the operations of an open loop: operation k is meant to
// start k intervals after the load began, however long earlier ones take. An
// operation that starts late still counts its latency from then, so a stall
// shows in every operation that it held up (no coordinated omission).
//
// A nil schedule is a closed loop.
type schedule struct {
	interval float64 // nanoseconds
	claimed  atomic.Int64
}

// newSchedule returns the schedule of a rate in operations per second, nil for
// rate 0.
func newSchedule(rate float64) *schedule {
	if rate == 0 {
		return nil
	}
	return &schedule{interval: float64(time.Second) / rate}
}

// at returns when operation k is meant to start.
//
//mr:hotpath
func (s *schedule) at(k int64) int64 { return int64(float64(k) * s.interval) }

// due returns how many operations are meant to have started by now.
func (s *schedule) due(now int64) int64 { return int64(float64(now)/s.interval) + 1 }

// claim takes at most n operations that are due, returning the first and their
// number, 0 when none is due.
func (s *schedule) claim(now int64, n int) (first int64, count int) {
	for {
		claimed := s.claimed.Load()
		count := min(s.due(now)-claimed, int64(n))
		if count <= 0 {
			return claimed, 0
		}
		if s.claimed.CompareAndSwap(claimed, claimed+count) {
			return claimed, int(count)
		}
	}
}

// take takes the next n operations, due or not, for a caller that waits until it
// may start them.
func (s *schedule) take(n int) (first int64) { return s.claimed.Add(int64(n)) - int64(n) }

// backlog returns how many operations were due and not started.
func (s *schedule) backlog(now int64) int64 {
	if s == nil {
		return 0
	}
	return max(0, s.due(now)-s.claimed.Load())
}

// Bounds of one wait for the schedule. Waking up costs tens of microseconds of
// processor time on an idle machine, so operations closer together than minPace
// start together, up to that late; and a wait must end when the load does.
const (
	minPace = 200 * time.Microsecond
	maxPace = 10 * time.Millisecond
)
