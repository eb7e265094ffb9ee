package scheduler

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Random deadlines and ticks beside a plain map that does what Tick says.
func TestDeadlinesMatchOracle(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 1))
		slots := 1 + rng.IntN(2*pageSlots+100)
		ran := map[Slot]bool{}
		s := newScheduler(t, 1+rng.IntN(3), 1000, slots, func(_ int, round []Work) {
			for _, w := range round {
				if w.Flags != 4 || ran[w.Slot] {
					t.Fatalf("seed %d: slot %d ran with flags %d, again: %v", seed, w.Slot, w.Flags, ran[w.Slot])
				}
				ran[w.Slot] = true
			}
		})
		oracle := map[Slot]uint64{}
		now := uint64(0)
		for range 300 {
			for range rng.IntN(30) {
				slot := Slot(rng.IntN(slots))
				switch rng.IntN(8) {
				case 0:
					s.SetDeadline(slot, math.MaxUint64)
					delete(oracle, slot)
				case 1:
					past := now - min(now, uint64(rng.IntN(5)))
					s.SetDeadline(slot, past)
					oracle[slot] = past
				default:
					tick := now + uint64(rng.IntN(40))
					s.SetDeadline(slot, tick)
					oracle[slot] = tick
				}
			}
			now += uint64(rng.IntN(4))
			s.Tick(now, 4)
			for w := range s.Workers() {
				for s.Step(w) {
				}
			}
			for slot, tick := range oracle {
				if (tick <= now) != ran[slot] {
					t.Fatalf("seed %d tick %d: slot %d with deadline %d ran: %v", seed, now, slot, tick, ran[slot])
				}
				if tick <= now {
					delete(oracle, slot)
					delete(ran, slot)
				}
			}
			if len(ran) != 0 {
				t.Fatalf("seed %d tick %d: slots without a deadline ran: %v", seed, now, ran)
			}
			checkLowBound(t, s)
		}
	}
}

// checkLowBound is S5.
func checkLowBound(t *testing.T, s *Scheduler) {
	t.Helper()
	for i, pg := range s.pages.load() {
		low := pg.low.Load()
		for j := range pg.deadlines {
			if d := pg.deadlines[j].Load(); d < low {
				t.Fatalf("S5: page %d has low bound %d and deadline %d", i, low, d)
			}
		}
	}
}

// Deadlines set by workers while Tick scans: each must be answered, and by no
// later a tick than the one after it was set.
func TestDeadlinesSetDuringTick(t *testing.T) {
	const slots, setters = 2 * pageSlots, 3
	rounds := 3_000
	if testing.Short() {
		rounds = 500
	}
	var answered atomic.Int64
	s := newScheduler(t, 1, 512, slots, func(_ int, round []Work) {
		answered.Add(int64(len(round)))
	})
	var now atomic.Uint64
	var stop atomic.Bool
	var clock sync.WaitGroup
	clock.Go(func() {
		for !stop.Load() {
			s.Tick(now.Add(1), 1)
			for s.Step(0) {
			}
		}
	})
	var setting sync.WaitGroup
	for k := range setters {
		setting.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 2))
			for range rounds {
				// Each setter owns the slots ≡ k, so a deadline is not replaced
				// by another setter; far ones are pulled near by the second call.
				slot := Slot(rng.IntN(slots/setters-1)*setters + k)
				s.SetDeadline(slot, now.Load()+1000+uint64(rng.IntN(1000)))
				s.SetDeadline(slot, now.Load()+uint64(rng.IntN(3)))
			}
		})
	}
	setting.Wait()
	stop.Store(true)
	clock.Wait()
	// Nothing is set any more: two more ticks answer all that is near.
	s.Tick(now.Add(3), 1)
	for s.Step(0) {
	}
	checkLowBound(t, s)
	for _, pg := range s.pages.load() {
		for j := range pg.deadlines {
			if d := pg.deadlines[j].Load(); d != noDeadline {
				t.Fatalf("deadline %d is left at tick %d", d, now.Load())
			}
		}
	}
	if answered.Load() == 0 {
		t.Fatal("nothing was answered")
	}
}

// One deadline at a time, set twice while Tick runs without a pause: nothing
// else lowers the bound of the page, so one that is lost is lost for good.
func TestNoDeadlineIsLost(t *testing.T) {
	sets := 4_000
	if testing.Short() {
		sets = 1_000
	}
	var now, ran atomic.Uint64
	s := newScheduler(t, 1, 1, pageSlots, func(int, []Work) { ran.Store(now.Load()) })
	var stop atomic.Bool
	var clock sync.WaitGroup
	defer func() {
		stop.Store(true)
		clock.Wait()
	}()
	clock.Go(func() {
		for !stop.Load() {
			s.Tick(now.Add(1), 1)
			s.Step(0)
		}
	})
	for i := range sets {
		slot := Slot(i * 61 % pageSlots)
		s.SetDeadline(slot, now.Load())
		spin(i % 8)
		last := now.Load() + 2
		s.SetDeadline(slot, last)
		eventually(t, "the deadline is answered", func() bool { return ran.Load() >= last })
	}
}

// A page where nothing is due is not read: its low bound stays as it is.
func TestQuietPagesAreSkipped(t *testing.T) {
	var r recorder
	s := newScheduler(t, 1, 8, 3*pageSlots, r.process)
	s.SetDeadline(5, 100)
	s.SetDeadline(5, 200) // leaves the bound of page 0 at 100
	s.SetDeadline(pageSlots+5, 50)
	low := func() (bounds []uint64) {
		for _, pg := range s.pages.load() {
			bounds = append(bounds, pg.low.Load())
		}
		return bounds
	}
	for _, step := range []struct {
		now  uint64
		want []uint64
	}{
		{49, []uint64{100, 50, noDeadline}},
		{50, []uint64{100, noDeadline, noDeadline}},
		{100, []uint64{200, noDeadline, noDeadline}},
		{math.MaxUint64, []uint64{noDeadline, noDeadline, noDeadline}},
	} {
		s.Tick(step.now, 1)
		if got := low(); !slices.Equal(got, step.want) {
			t.Fatalf("after tick %d: bounds %d, want %d", step.now, got, step.want)
		}
	}
	for s.Step(0) {
	}
	if st := s.Stats(); st.Slots != 2 {
		t.Fatalf("%d slots ran, want 2: the last tick there is must not take \"none\" for a deadline", st.Slots)
	}
}
