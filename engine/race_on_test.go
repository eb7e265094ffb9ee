//go:build race

package engine_test

// raceEnabled: sync.Pool forgets at random under the race detector, so
// allocations are not counted there.
const raceEnabled = true
