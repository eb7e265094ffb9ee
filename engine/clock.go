package engine

import (
	"sync"
	"time"
)

// Clock is what leases and the age of stale reads are measured with. It is safe
// for concurrent use.
type Clock interface {
	// Now returns the time since some moment. It goes on while the process, or the
	// whole machine, stands still. The clocks of any two stores differ in rate by at
	// most Tuning.MaxClockDrift percent; where they start does not matter.
	Now() time.Duration
}

// storeClock turns readings of a Clock into time that never goes back, and for
// stores with leases into ticks.
//
// The ticks of a store without leases are those that its ticker delivered: time
// stands still with the process, and a store that was paused does not believe that
// its leaders were silent. A lease must not stand still. So with leases ticks follow
// the Clock, and what the ticker has not seen of them is told to the groups as lost
// (group.Lost): campaigns and promises wait for as long again, only leases end.
//
//	              leader's lease        voter's promise, campaigns
//	runs on       ticks of the Clock    these, less those that are lost
//	after a pause has ended             go on where they were
//
// A voter so keeps its promise by the slower of two clocks. A Clock that goes back,
// or falls behind the ticker by more than the drift that is allowed, is not to be
// trusted: what was measured with it before is void, which epoch tells.
type storeClock struct {
	clock    Clock
	interval time.Duration
	drift    int    // percent
	window   uint64 // firings of the ticker between two looks at the rate

	mu       sync.Mutex    // guards the fields below; a leaf lock
	base     time.Duration // added to readings
	last     time.Duration // the latest time told
	epoch    uint64        // changes when the Clock turned out to be wrong
	firedAt  uint64        // tick of the last firing
	balance  int64         // ticks of the Clock less firings
	lost     uint64        // of balance, the most so far
	firings  uint64        // since the rate was looked at
	windowAt uint64        // tick when it was
}

func newStoreClock(cfg *Config) *storeClock {
	tuning := &cfg.Tuning
	c := &storeClock{clock: cfg.Clock, interval: cfg.TickInterval, drift: tuning.MaxClockDrift, window: uint64(tuning.ElectionTicks)}
	c.base = -c.clock.Now()
	return c
}

// clockReading is the time as a storeClock tells it.
type clockReading struct {
	time  time.Duration // since the store was opened
	tick  uint64
	lost  uint64
	epoch uint64
}

// read returns the time.
func (c *storeClock) read() clockReading {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	r := clockReading{time: c.last, tick: c.tick(), lost: c.lost, epoch: c.epoch}
	if missed := c.balance + int64(r.tick-c.firedAt) - 1; missed > int64(c.lost) {
		r.lost = uint64(missed)
	}
	return r
}

// look reads the Clock.
//
// REQUIRES: c.mu is held.
func (c *storeClock) look() {
	now := c.clock.Now() + c.base
	if now < c.last {
		// Nobody knows how much time has passed. Ticks go on from the last.
		c.base += c.last - now
		now = c.last
		c.epoch++
	}
	c.last = now
}

func (c *storeClock) tick() uint64 { return uint64(c.last / c.interval) }

// fire is called by the ticker and returns the tick.
func (c *storeClock) fire() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	now := c.tick()
	c.balance += int64(now-c.firedAt) - 1
	c.firedAt = now
	c.lost = max(c.lost, uint64(max(0, c.balance)))
	// The ticker wavers around the Clock, and may be faster within the drift. That
	// must not make up for what is lost at another time.
	c.balance = max(c.balance, int64(c.lost)-maxWaver)
	if c.firings++; c.firings == c.window {
		if int64(now-c.windowAt) < int64(c.window)*int64(100-c.drift)/100-maxWaver {
			c.epoch++
		}
		c.firings, c.windowAt = 0, now
	}
	return now
}

// maxWaver is by how many ticks the ticker may be early: one is kept for a slow
// receiver, and one is begun.
const maxWaver = 3

// before says whether the tick until has not come yet, by a clock that is still
// that of epoch.
func (c *storeClock) before(until, epoch uint64) bool {
	now := c.read()
	return now.epoch == epoch && now.tick < until
}

// steppedClock is the clock of a stepped store. It moves with Stepper.Tick.
type steppedClock struct {
	mu  sync.Mutex // guards the field below; a leaf lock
	now time.Duration
}

// Now returns the virtual time.
func (c *steppedClock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *steppedClock) advance(d time.Duration) {
	c.mu.Lock()
	c.now += d
	c.mu.Unlock()
}
