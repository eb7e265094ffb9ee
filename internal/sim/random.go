package sim

import (
	"math/rand/v2"
	"time"
)

// random is one stream of chance. Each part of the simulator has its own, so
// that a change in how one part draws leaves the others as they were.
type random struct{ *rand.Rand }

// The streams of a run.
const (
	streamShape = iota + 1
	streamNetwork
	streamSteps
	streamFaults
	streamClients
	streamDisks
	streamMachines
	streamPlants
	streamOperator
	streamRepairs
)

func newRandom(seed, stream uint64) random {
	return random{rand.New(rand.NewPCG(seed, stream))} //gosec:disable G404 -- a seed is a run
}

// chance is true with probability p.
func (r random) chance(p float64) bool { return p > 0 && r.Float64() < p }

// between returns a duration within [lo, hi], evenly.
func (r random) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(r.Int64N(int64(hi-lo)+1))
}

// around returns a duration whose mean is mean: exponential, cut at ten times
// the mean.
func (r random) around(mean time.Duration) time.Duration {
	return time.Duration(min(r.ExpFloat64(), 10) * float64(mean))
}

// pick returns one of the choices.
func pick[T any](r random, choices ...T) T { return choices[r.IntN(len(choices))] }
