package allocs

import (
	"fmt"
	"runtime/metrics"
	"strings"
	"testing"
)

// sink keeps the compiler from leaving allocations out.
var sink []byte

// recorder is a test that fails for a while.
type recorder struct {
	testing.TB
	text string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) { r.text = fmt.Sprintf(format, args...) }

// K2, for a large object and for many small ones.
func TestAtMostFinds(t *testing.T) {
	const limit = 64 << 10
	for name, f := range map[string]func(){
		"one":  func() { sink = make([]byte, limit+1) },
		"many": func() { allocate(2*(limit+slack)/64, 64) },
		"tiny": func() { allocate(2*(limit+slack)/16, 5) },
		"held": func() {
			var all [][]byte
			for range 2 * (limit + slack) / 1024 {
				all = append(all, make([]byte, 1024))
			}
			sink = all[0]
		},
	} {
		r := &recorder{TB: t}
		AtMost(r, limit, f)
		if !strings.HasPrefix(r.text, "allocates ") {
			t.Errorf("%s: %q", name, r.text)
		}
	}
}

func TestAtMostLetsPass(t *testing.T) {
	const limit = 256 << 10
	for name, f := range map[string]func(){
		"nothing": func() {},
		"one":     func() { sink = make([]byte, limit/2) },
		"many":    func() { allocate(limit/2/64, 64) },
	} {
		runs := 0
		AtMost(t, limit, func() {
			runs++
			f()
		})
		if runs > 1+attempts {
			t.Errorf("%s: %d runs", name, runs)
		}
	}
}

// K1: what others allocate meanwhile is not held against f.
func TestAtMostBearsNoise(t *testing.T) {
	noisy := true
	AtMost(t, 64<<10, func() {
		if noisy {
			sink = make([]byte, 1<<20)
			noisy = false
		}
	})
}

// The counter is one that this version of Go has.
func TestCounterExists(t *testing.T) {
	counter := [1]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(counter[:])
	if counter[0].Value.Kind() != metrics.KindUint64 || counter[0].Value.Uint64() == 0 {
		t.Fatalf("%+v", counter[0])
	}
}

func BenchmarkAtMost(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		AtMost(b, 1<<20, func() {})
	}
}

func allocate(count, size int) {
	for range count {
		sink = make([]byte, size)
	}
}
