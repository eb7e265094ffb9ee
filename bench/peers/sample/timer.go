package sample

import (
	"errors"
	"runtime"
	"time"
)

// Timer measures the turns of a loop:
//
//	prepare
//	for t.Loop() {
//		one operation
//	}
//
// Time is that of the processor spent by the thread of the loop, where the
// system can tell. Then neither other programs nor the threads of the garbage
// collector are in it, as on a machine with processors to spare; assisting the
// collector is. Elsewhere it is the time of day.
//
// The first tenth of the time is for warming up and does not count.
type Timer struct {
	target  time.Duration // 0 once the loop has ended
	elapsed time.Duration // up to startedAt
	warm    bool

	turns int // all that count
	run   int // turns until the clock is read again
	left  int // of those

	startedAt time.Duration // what the clock showed
	mallocs   uint64
	bytes     uint64
}

// began is where the time of day is counted from.
var began = time.Now()

// maxTurns bounds the turns between two looks at the clock, maxGrowth how fast
// they grow.
const (
	maxTurns  = 1 << 20
	maxGrowth = 8
)

func newTimer(target time.Duration) *Timer {
	runtime.LockOSThread()
	return &Timer{target: max(target, time.Microsecond)}
}

func (t *Timer) unlock() { runtime.UnlockOSThread() }

// Loop says whether there is another turn.
func (t *Timer) Loop() bool {
	if t.left > 0 {
		t.left--
		return true
	}
	return t.look()
}

// look reads the clock and decides how many turns to do before it is read again.
func (t *Timer) look() bool {
	if t.run == 0 {
		t.next(1)
		t.Start()
		return true
	}
	t.Stop()
	t.turns += t.run
	target := t.target
	if !t.warm {
		target /= 10
	}
	if t.elapsed >= target {
		if t.warm {
			t.target = 0
			return false
		}
		t.warm = true
		t.turns, t.elapsed, t.mallocs, t.bytes = 0, 0, 0, 0
		t.next(t.run)
	} else {
		t.next(t.run * maxGrowth)
		if perTurn := t.elapsed / time.Duration(t.turns); perTurn > 0 {
			t.next(min(t.run, int((target-t.elapsed)/perTurn)+1))
		}
	}
	t.Start()
	return true
}

// next begins a run of turns, the first of which is about to start.
func (t *Timer) next(turns int) {
	t.run = min(turns, maxTurns)
	t.left = t.run - 1
}

// Stop excludes what follows, up to Start.
func (t *Timer) Stop() {
	t.elapsed += clock() - t.startedAt
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	t.mallocs += stats.Mallocs
	t.bytes += stats.TotalAlloc
}

// Start ends what Stop began.
func (t *Timer) Start() {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	t.mallocs -= stats.Mallocs
	t.bytes -= stats.TotalAlloc
	t.startedAt = clock()
}

// result returns what was found per entry.
func (t *Timer) result(perTurn int) (Result, error) {
	if t.target != 0 || t.turns == 0 {
		return Result{}, errors.New("the loop ended early")
	}
	n := float64(t.turns) * float64(perTurn)
	return Result{
		Value:  float64(t.elapsed) / n,
		Allocs: float64(t.mallocs) / n,
		Bytes:  float64(t.bytes) / n,
	}, nil
}
