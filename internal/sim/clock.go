package sim

import "time"

// siteClock is the clock of a site. It runs while the store is paused or down, a
// little faster or slower than virtual time, and jumps when nemesis has it.
type siteClock struct {
	c    *cluster
	at   time.Duration // virtual time of the last change
	base time.Duration // what it showed then
	rate float64
}

// Now returns what the clock shows.
func (k *siteClock) Now() time.Duration {
	return k.base + time.Duration(float64(k.c.now-k.at)*k.rate)
}

// drift changes the rate, within what any two clocks may differ.
func (k *siteClock) drift(r random) {
	k.base, k.at = k.Now(), k.c.now
	half := float64(k.c.shape.tuning.WithDefaults().MaxClockDrift) / 100 / 2
	k.rate = 1 + 0.95*half*(2*r.Float64()-1)
	if r.chance(0.5) { // the ends are where margins are needed
		k.rate = 1 + 0.95*half*float64(1-2*r.IntN(2))
	}
}

// extreme makes the clock as fast or as slow as it may be.
func (k *siteClock) extreme(fast bool) {
	k.base, k.at = k.Now(), k.c.now
	half := float64(k.c.shape.tuning.WithDefaults().MaxClockDrift) / 100 / 2
	if k.rate = 1 - 0.95*half; fast {
		k.rate = 1 + 0.95*half
	}
}

// jump moves the clock. Back it goes further than any pause, so that a store that
// paused cannot take it for a slow clock, which is beyond what it promises.
func (k *siteClock) jump(r random) {
	k.base, k.at = k.Now(), k.c.now
	if r.chance(0.5) {
		k.base += r.between(0, 30*time.Second)
	} else {
		k.base -= r.between(time.Minute, time.Hour)
	}
}

// tolerated is how much older, in virtual time, a state may be than a clock says
// that measured its age: the clock's own rate, and a tick on either side.
func (s *site) tolerated(age time.Duration) time.Duration {
	drift := s.c.shape.tuning.WithDefaults().MaxClockDrift
	return age + age*time.Duration(drift)/100 + 2*s.tick
}
