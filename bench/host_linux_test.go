package bench

import (
	"testing"
	"time"
)

func TestParseHostCPU(t *testing.T) {
	for _, tc := range []struct {
		line string
		want time.Duration
		ok   bool
	}{
		{"cpu  100 1 10 5000 300 2 3 4 50 0", 1200 * time.Millisecond, true},
		{"cpu  100 1 10 5000 300 2 3 4", 1200 * time.Millisecond, true},
		{"cpu  100 1 10 5000", 0, false},
		{"cpu  100 1 10 5000 300 x 3 4 50 0", 0, false},
		{"intr 1 2 3 4 5 6 7 8 9", 0, false},
		{"", 0, false},
	} {
		if got, ok := parseHostCPU(tc.line); got != tc.want || ok != tc.ok {
			t.Errorf("%q: got %v, %v", tc.line, got, ok)
		}
	}
	if used, ok := hostCPUTime(); !ok || used <= 0 {
		t.Errorf("this machine: %v, %v", used, ok)
	}
}
