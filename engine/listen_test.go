package engine

import (
	"testing"
	"time"
)

func TestIsLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:0": true, "127.9.9.9:1": true, "localhost:0": true, "[::1]:0": true,
		":0": false, "0.0.0.0:0": false, "[::]:0": false, "192.0.2.1:1": false, "store.example:1": false, "nonsense": false,
	} {
		if got := isLoopback(listen); got != want {
			t.Errorf("%q: %v", listen, got)
		}
	}
}

// However many events come, one per interval passes, and none is forgotten.
func TestThrottle(t *testing.T) {
	throttle := throttle{every: time.Second}
	at := time.Unix(1, 0)
	var passed, missed uint64
	for range 10_000 {
		if ok, n := throttle.allow(at); ok {
			passed++
			missed += n
		}
		at = at.Add(time.Millisecond)
	}
	ok, last := throttle.allow(at.Add(time.Second))
	if !ok || passed != 10 || passed+missed+last != 10_000 {
		t.Errorf("%d passed, %d were counted as missed, then %v, %d", passed, missed, ok, last)
	}
}
