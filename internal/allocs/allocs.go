package allocs

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

// slack is by how much the cheap counter may be behind. The runtime counts small
// objects when the span of their size is full: 68 sizes, with and without pointers,
// of spans of 8 to 32 KiB, of which a call fills few.
const slack = 256 << 10

// attempts is how often a call is measured before it counts as above the ceiling.
const attempts = 3

// AtMost runs f and ends the test if it allocated more than limit bytes.
//
// Most calls are measured by a counter that is cheap to read, as a fuzz target is
// called ten thousand times a second. One that seems to be above the limit is
// repeated under an exact measurement, which stops the world.
//
// REQUIRES: f may run again, and does the same.
func AtMost(t testing.TB, limit uint64, f func()) {
	t.Helper()
	counter := [1]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(counter[:])
	before := counter[0].Value.Uint64()
	f()
	metrics.Read(counter[:])
	if counter[0].Value.Uint64()-before <= limit {
		return
	}
	least := ^uint64(0)
	for range attempts {
		if least = min(least, measure(f)); least <= limit {
			return
		}
	}
	t.Fatalf("allocates %d bytes, at most %d are allowed", least, limit)
}

// measure returns how many bytes were allocated while f ran.
func measure(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
