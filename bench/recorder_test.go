package bench

import (
	"math/rand/v2"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Merged histograms are the histogram of all values.
func TestTotalsMerge(t *testing.T) {
	cfg := Config{Workload: WorkloadMixed, Mode: ModeSync}.WithDefaults()
	rng := rand.New(rand.NewPCG(3, 4))
	want := [opKinds]*hdr.Histogram{newHistogram(), newHistogram()}
	var recorders []*recorder
	var count [opKinds]uint64
	for range 5 {
		r := newRecorder(&cfg)
		r.openWindow()
		for range 1000 {
			kind := opKind(rng.IntN(int(opKinds)))
			v := rng.Int64N(int64(time.Duration(1) << (10 + rng.IntN(24))))
			r.okLocked(kind, v)
			if err := want[kind].RecordValue(v); err != nil {
				t.Fatal(err)
			}
			count[kind]++
		}
		recorders = append(recorders, r)
	}
	got := newTotals()
	got.merge(recorders)
	got.merge(recorders) // merging replaces
	for kind := range want {
		if !got.latency[kind].Equals(want[kind]) {
			t.Errorf("kind %d: histograms differ", kind)
		}
		if got.ops[kind] != count[kind] {
			t.Errorf("kind %d: %d ops, want %d", kind, got.ops[kind], count[kind])
		}
	}
	if got.windowOps() != 5000 || got.total != 5000 {
		t.Errorf("%d ops, %d in total", got.windowOps(), got.total)
	}
	all := got.all()
	if all.TotalCount() != 5000 || all.Max() != max(want[0].Max(), want[1].Max()) {
		t.Errorf("all: %d values to %d", all.TotalCount(), all.Max())
	}
}

// Only what completes while the window is open is in the figures; what is
// acknowledged before and after is verified all the same.
func TestRecorderWindow(t *testing.T) {
	cfg := Config{Verify: true, Groups: 1}.WithDefaults()
	r := newRecorder(&cfg)
	write := func(sequence uint64) {
		r.okLocked(opWrite, 5000)
		r.ackedLocked(0, sequence)
	}
	write(0)
	r.openWindow()
	write(1)
	write(2)
	r.closeWindow()
	write(3)
	if r.ops[opWrite] != 2 || r.latency[opWrite].TotalCount() != 2 || r.total != 4 || r.acked[0].count() != 4 {
		t.Errorf("ops %d, histogram %d, total %d, acked %d", r.ops[opWrite], r.latency[opWrite].TotalCount(), r.total, r.acked[0].count())
	}
}

// No latency is lost for being out of range.
func TestRecorderClampsLatency(t *testing.T) {
	cfg := Config{}.WithDefaults()
	r := newRecorder(&cfg)
	r.openWindow()
	for _, v := range []int64{-1, 0, 1, maxLatency, maxLatency + 1, 1 << 62} {
		r.okLocked(opWrite, v)
	}
	if n := r.latency[opWrite].TotalCount(); n != 6 {
		t.Errorf("%d values of 6", n)
	}
}

func TestMergeDoesNotAllocate(t *testing.T) {
	cfg := Config{}.WithDefaults()
	r := newRecorder(&cfg)
	r.openWindow()
	r.okLocked(opWrite, 12345)
	totals := newTotals()
	recorders := []*recorder{r}
	// The library's iterator is the one allocation per histogram.
	if n := testing.AllocsPerRun(10, func() { totals.merge(recorders) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
