package scheduler

import (
	"errors"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// processorFunc is a Processor of one function.
type processorFunc func(worker int, round []Work)

func (f processorFunc) Process(worker int, round []Work) { f(worker, round) }

func newScheduler(t testing.TB, workers, round, slots int, f processorFunc) *Scheduler {
	t.Helper()
	s, err := New(Config{Workers: workers, RoundSize: round, Processor: f})
	if err != nil {
		t.Fatal(err)
	}
	s.Grow(slots)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// eventually yields to the workers until done says so. The deadline only turns
// a hang into a message.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so", what)
		}
	}
}

// recorder keeps the rounds it is given.
type recorder struct {
	rounds [][]Work
	again  func(w Work) Flags
}

func (r *recorder) process(_ int, round []Work) {
	r.rounds = append(r.rounds, slices.Clone(round))
	if r.again != nil {
		for i := range round {
			round[i].Again = r.again(round[i])
		}
	}
}

// take returns the rounds so far and forgets them.
func (r *recorder) take() [][]Work {
	rounds := r.rounds
	r.rounds = nil
	return rounds
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	_, err := New(Config{Workers: MaxWorkers + 1, RoundSize: -1})
	var fault *ConfigError
	if !errors.As(err, &fault) || fault.Field != "Workers" {
		t.Fatalf("got %v", err)
	}
	want := "Workers: 129 must be in [0, 128]\nRoundSize: -1 must be in [0, 65536]\nProcessor: <nil> must be given"
	if err.Error() != want {
		t.Fatalf("got  %q\nwant %q", err, want)
	}
	s, err := New(Config{Processor: processorFunc(func(int, []Work) {})})
	if err != nil || s.Workers() != runtime.GOMAXPROCS(0) || s.roundSize != defaultRoundSize {
		t.Fatalf("defaults: %v, %d workers, rounds of %d", err, s.Workers(), s.roundSize)
	}
}

// The states of a word and what each call makes of them, all of it.
func TestWordTransitions(t *testing.T) {
	const f, g = 1, 4
	for _, c := range []struct {
		name   string
		before uint64
		call   func(w *word) bool
		queue  bool
		after  uint64
	}{
		{"set idle", 0, func(w *word) bool { return w.set(f) }, true, queued | f},
		{"set idle to no flags", 0, func(w *word) bool { return w.set(0) }, true, queued},
		{"set queued", queued | g, func(w *word) bool { return w.set(f) }, false, queued | f | g},
		{"set running", running, func(w *word) bool { return w.set(f) }, false, running | queued | f},
		{"set again", running | queued | g, func(w *word) bool { return w.set(f) }, false, running | queued | f | g},
		{"take", queued | f | g, func(w *word) bool { return w.take() == f|g }, true, running},
		{"release", running, func(w *word) bool { return w.release(0) }, false, 0},
		{"release with a rest", running, func(w *word) bool { return w.release(g) }, true, queued | g},
		{"release set again", running | queued | f, func(w *word) bool { return w.release(0) }, true, queued | f},
		{"release set again to no flags", running | queued, func(w *word) bool { return w.release(0) }, true, queued},
		{"release both", running | queued | f, func(w *word) bool { return w.release(g) }, true, queued | f | g},
	} {
		var w word
		w.bits.Store(c.before)
		if got := c.call(&w); got != c.queue || w.bits.Load() != c.after {
			t.Errorf("%s: got %v, %#x, want %v, %#x", c.name, got, w.bits.Load(), c.queue, c.after)
		}
	}
}

func TestFlagsMergeUntilTaken(t *testing.T) {
	var r recorder
	s := newScheduler(t, 1, 8, 10, r.process)
	s.Set(3, 1)
	s.Set(7, 1)
	s.Set(3, 4)
	if !s.Step(0) || s.Step(0) {
		t.Fatal("want one round")
	}
	want := [][]Work{{{Slot: 3, Flags: 5}, {Slot: 7, Flags: 1}}}
	if got := r.take(); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	s.Set(3, 2)
	s.Step(0)
	if got, want := r.take(), [][]Work{{{Slot: 3, Flags: 2}}}; !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// S4, and that a slot that is not done goes behind those that wait.
func TestQueueIsFirstInFirstOut(t *testing.T) {
	r := recorder{again: func(w Work) Flags {
		if w.Slot == 0 && w.Flags != 8 {
			return 8
		}
		return 0
	}}
	s := newScheduler(t, 1, 2, 5, r.process)
	s.SetBatch([]Slot{0, 1, 2, 3, 4, 1, 0}, 1)
	for s.Step(0) {
	}
	want := [][]Work{
		{{Slot: 0, Flags: 1}, {Slot: 1, Flags: 1}},
		{{Slot: 2, Flags: 1}, {Slot: 3, Flags: 1}},
		{{Slot: 4, Flags: 1}, {Slot: 0, Flags: 8}},
	}
	if got := r.take(); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// S2, on one goroutine: set while running, once or often, is one more run.
func TestSetWhileRunningRunsOnceMore(t *testing.T) {
	var s *Scheduler
	var runs []Flags
	s = newScheduler(t, 2, 4, 1, func(_ int, round []Work) {
		runs = append(runs, round[0].Flags)
		if len(runs) == 1 {
			s.Set(0, 2)
			s.Set(0, 4)
		}
	})
	s.Set(0, 1)
	for s.Step(0) || s.Step(1) {
	}
	if want := []Flags{1, 6}; !slices.Equal(runs, want) {
		t.Fatalf("got %v, want %v", runs, want)
	}
}

func TestBatchGoesHomeInOrder(t *testing.T) {
	for _, workers := range []int{1, 2, 3, 7, MaxWorkers} {
		const slots = 3*window + 17
		var r recorder
		s := newScheduler(t, workers, slots, slots, r.process)
		batch := make([]Slot, slots)
		for i := range batch {
			batch[i] = Slot(slots - 1 - i)
		}
		s.SetBatch(batch, 1)
		for w := range workers {
			var want []Slot
			for _, slot := range batch {
				if int(slot)%workers == w {
					want = append(want, slot)
				}
			}
			if !s.Step(w) {
				t.Fatalf("workers=%d: no round for worker %d", workers, w)
			}
			var got []Slot
			for _, work := range r.take()[0] {
				got = append(got, work.Slot)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("workers=%d worker=%d:\ngot  %v\nwant %v", workers, w, got, want)
			}
		}
	}
}

// A worker with nothing of its own takes the older half of the next queue that
// is not empty, and single slots too.
func TestStealHalf(t *testing.T) {
	var r recorder
	s := newScheduler(t, 4, 16, 64, r.process)
	s.SetBatch([]Slot{2, 6, 10, 14, 18}, 1) // all at home with worker 2
	var got [][]Slot
	for _, worker := range []int{0, 3, 1, 1, 0} {
		if !s.Step(worker) {
			got = append(got, nil)
			continue
		}
		var slots []Slot
		for _, w := range r.take()[0] {
			slots = append(slots, w.Slot)
		}
		got = append(got, slots)
	}
	want := [][]Slot{{2, 6, 10}, {14}, {18}, nil, nil}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if st := s.Stats(); st.Stolen != 5 || st.Slots != 5 || st.Rounds != 3 || st.Queued != 0 {
		t.Fatalf("got %+v", st)
	}
}

func TestStealNoMoreThanARound(t *testing.T) {
	var r recorder
	s := newScheduler(t, 2, 4, 200, r.process)
	for slot := Slot(0); slot < 200; slot += 2 {
		s.Set(slot, 1)
	}
	s.Step(1)
	if got := r.take(); len(got[0]) != 4 || got[0][3].Slot != 6 {
		t.Fatalf("got %v", got)
	}
}

// Equal calls make equal rounds: what the simulator builds on.
func TestStepIsDeterministic(t *testing.T) {
	run := func() [][]Work {
		r := recorder{again: func(w Work) Flags { return w.Flags &^ 1 & Flags(w.Slot) }}
		s := newScheduler(t, 3, 5, 200, r.process)
		for i := range 2_000 {
			switch i % 5 {
			case 0:
				s.SetBatch([]Slot{Slot(i * 7 % 200), Slot(i * 11 % 200), Slot(i * 13 % 200)}, Flags(i))
			case 1:
				s.SetDeadline(Slot(i%200), uint64(i+i%17))
			case 2:
				s.Tick(uint64(i), 8)
			default:
				s.Step(i % 3)
			}
		}
		return r.take()
	}
	if a, b := run(), run(); !reflect.DeepEqual(a, b) || len(a) < 100 {
		t.Fatalf("two runs of equal calls differ (%d and %d rounds)", len(a), len(b))
	}
}

// S1 and S2 under fire: producers set flags, workers run, slots keep growing.
// Counters in the slots are plain where S1 makes them private to a run, so the
// race detector checks S1 as well.
func TestStress(t *testing.T) {
	const (
		producers = 4
		maxSlots  = 3 * pageSlots
	)
	perProducer := 60_000
	if testing.Short() {
		perProducer = 10_000
	}
	type slotState struct {
		want [producers]atomic.Uint64 // raised by its producer before Set
		busy atomic.Bool              // S1
		seen [producers]uint64        // by the run
		done atomic.Uint64            // sum of seen
		_    [32]byte
	}
	states := make([]slotState, maxSlots)
	s := newScheduler(t, 3, 64, 0, func(_ int, round []Work) {
		for i := range round {
			st := &states[round[i].Slot]
			if !st.busy.CompareAndSwap(false, true) {
				t.Errorf("S1: slot %d is run twice at once", round[i].Slot)
			}
			// Only producers whose flag is there are looked at: a flag that
			// gets lost shows as a count that is never seen.
			sum := uint64(0)
			for p := range producers {
				if round[i].Flags&(1<<p) != 0 {
					st.seen[p] = st.want[p].Load()
				}
				sum += st.seen[p]
			}
			st.done.Store(sum)
			if round[i].Flags&(1<<producers) != 0 {
				round[i].Again = 1 << (producers + 1)
			}
			st.busy.Store(false)
		}
	})
	var slots atomic.Int64
	grow := func(n int) {
		s.Grow(n)
		slots.Store(int64(n))
	}
	grow(10)
	s.Start()

	var group sync.WaitGroup
	for p := range producers {
		group.Go(func() {
			seed := uint64(p + 1)
			next := func(n int64) Slot {
				seed = seed*6364136223846793005 + 1442695040888963407
				return Slot(int64(seed>>33) % n)
			}
			batch := make([]Slot, 0, 700)
			for i := 0; i < perProducer; {
				n := slots.Load()
				if i%3 == 0 {
					batch = batch[:0]
					for range i % 700 {
						slot := next(n)
						states[slot].want[p].Add(1)
						batch = append(batch, slot)
					}
					s.SetBatch(batch, 1<<p)
					i += len(batch)
				}
				slot := next(n)
				states[slot].want[p].Add(1)
				s.Set(slot, 1<<p|1<<producers)
				i++
			}
		})
	}
	group.Go(func() {
		for n := 11; n <= maxSlots; n += n/3 + 1 {
			grow(n)
			runtime.Gosched()
		}
	})
	group.Wait()
	for i := range states {
		want := uint64(0)
		for p := range producers {
			want += states[i].want[p].Load()
		}
		eventually(t, "S2: all flags lead to a run", func() bool { return states[i].done.Load() == want })
	}
	t.Logf("%+v", s.Stats())
}

// spin passes a little time that differs from call to call, so that what
// follows falls into every gap of another goroutine.
func spin(i int) {
	for n := i * 7919 % 1500; n > 0; n-- {
		spinSink.Add(1)
	}
}

var spinSink atomic.Uint64

// A wake-up lost anywhere hangs this: each Set waits for its run, so workers
// park all the time. The plain variable checks that Set publishes (S2).
func TestNoWakeupIsLost(t *testing.T) {
	for _, workers := range []int{1, 2} {
		letter, answers := 0, make(chan int, 1)
		s := newScheduler(t, workers, 4, 2, func(int, []Work) { answers <- letter })
		s.Start()
		for i := range 30_000 {
			letter = i
			s.Set(Slot(i%2), 1)
			if got := <-answers; got != i {
				t.Fatalf("run %d read %d", i, got)
			}
			spin(i)
		}
	}
}

// A worker that is busy and has a crowd behind it gets help; the crowd is run
// though its own worker does not come back to it. Again and again: a recruit
// makes room for the next.
func TestCrowdRecruits(t *testing.T) {
	const slots = 64
	var left atomic.Int64
	entered, leave := make(chan struct{}), make(chan struct{})
	s := newScheduler(t, 4, 16, 4*slots, func(_ int, round []Work) {
		for _, w := range round {
			if w.Flags == 2 {
				entered <- struct{}{}
				<-leave
			}
		}
		left.Add(-int64(len(round)))
	})
	s.Start()
	for range 5 {
		// All parked, so that it is worker 0 that gets stuck. Then its queue is
		// run by recruits to the end: a thief goes on while it finds some.
		eventually(t, "all are parked", func() bool { return s.parked.Load() == 4 })
		before := s.Stats()
		left.Store(slots)
		s.Set(0, 2)
		<-entered
		for slot := Slot(4); slot < 4*slots; slot += 4 {
			s.Set(slot, 1)
		}
		eventually(t, "the crowd is gone", func() bool { return left.Load() == 1 })
		leave <- struct{}{}
		eventually(t, "the stuck round is over", func() bool { return left.Load() == 0 })
		if st := s.Stats(); st.Recruits == before.Recruits || st.Stolen == before.Stolen {
			t.Fatalf("nobody was recruited: %+v", st)
		}
	}
}

// A worker that starts a round and leaves a crowd behind calls for help, as no
// push will: all slots were there before it woke up.
func TestLeftBehindRecruits(t *testing.T) {
	const slots = 60
	var others atomic.Int64
	leave := make(chan struct{})
	s := newScheduler(t, 2, 16, 2*slots, func(_ int, round []Work) {
		if round[0].Slot == 0 {
			<-leave
			return
		}
		others.Add(int64(len(round)))
	})
	s.Start()
	eventually(t, "all are parked", func() bool { return s.parked.Load() == 2 })
	var batch []Slot
	for slot := Slot(0); slot < 2*slots; slot += 2 { // one push, as it is less than lockHold
		batch = append(batch, slot)
	}
	s.SetBatch(batch, 1)
	eventually(t, "what worker 0 left is run", func() bool { return others.Load() == slots-16 })
	close(leave)
}

// What came while a worker was on its way to park keeps it from parking: a slot
// of its own (S3), a crowd elsewhere, or the end.
func TestParkLooksFirst(t *testing.T) {
	for name, come := range map[string]func(s *Scheduler){
		"a slot of its own":  func(s *Scheduler) { s.Set(1, 1) },
		"a crowd elsewhere":  func(s *Scheduler) { s.SetBatch([]Slot{0, 2}, 1) }, // for rounds of 8
		"the scheduler ends": func(s *Scheduler) { s.closing.Store(true) },
	} {
		s := newScheduler(t, 2, 8, 16, func(int, []Work) {})
		come(s)
		var returned atomic.Bool
		go func() {
			s.park(1)
			returned.Store(true)
		}()
		eventually(t, name+" keeps from parking", returned.Load)
		if s.parked.Load() != 0 || s.Stats().Parks != 0 {
			t.Errorf("%s: parked all the same", name)
		}
	}
}

// A few slots behind a group that takes long are no crowd, but are rescued by
// the second Tick.
func TestTickRescuesStuckQueue(t *testing.T) {
	var ran atomic.Int64
	entered, leave := make(chan struct{}), make(chan struct{})
	s := newScheduler(t, 2, 512, 8, func(_ int, round []Work) {
		if round[0].Flags == 2 {
			entered <- struct{}{}
			<-leave
			return
		}
		ran.Add(int64(len(round)))
	})
	s.Start()
	eventually(t, "all are parked", func() bool { return s.parked.Load() == 2 })
	s.Set(0, 2)
	<-entered
	s.SetBatch([]Slot{2, 4}, 1)
	s.Tick(1, 1)
	if st := s.Stats(); st.Recruits != 0 || st.Queued != 2 {
		t.Fatalf("two slots behind a round that has just begun are no reason to wake anyone: %+v", st)
	}
	s.Tick(2, 1)
	eventually(t, "the queue is rescued", func() bool { return ran.Load() == 2 })
	close(leave)
}

// One slot wakes one worker.
func TestOneSetWakesOneWorker(t *testing.T) {
	done := make(chan struct{})
	s := newScheduler(t, 8, 0, 8, func(int, []Work) { done <- struct{}{} })
	s.Start()
	parked := func() bool { return s.parked.Load() == 8 }
	eventually(t, "all are parked", parked)
	parks := s.Stats().Parks
	const runs = 100
	for range runs {
		s.Set(5, 1)
		<-done
		eventually(t, "all are parked again", parked)
	}
	if st := s.Stats(); st.Parks != parks+runs || st.Recruits != 0 {
		t.Fatalf("%d runs took %d wake-ups, %d recruits", runs, st.Parks-parks, st.Recruits)
	}
}

func TestCloseWaitsForRound(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	var over atomic.Bool
	s := newScheduler(t, 2, 4, 4, func(int, []Work) {
		close(entered)
		<-leave
		over.Store(true)
	})
	s.Start()
	s.Set(0, 1)
	<-entered
	go func() {
		// Close is under way once closing is true; then let the round end.
		for !s.closing.Load() {
			runtime.Gosched()
		}
		s.Set(1, 1) // does no harm, and does not run
		close(leave)
	}()
	for range 2 {
		if err := s.Close(); err != nil || !over.Load() {
			t.Fatalf("closed with a round under way (err %v)", err)
		}
	}
	s.Start()
	if st := s.Stats(); st.Rounds != 1 {
		t.Fatalf("a round after Close: %+v", st)
	}
}

// Close while workers take, run and park.
func TestCloseAtAnyTime(t *testing.T) {
	for i := range 1000 {
		s := newScheduler(t, 2, 4, 8, func(int, []Work) {})
		s.Start()
		s.Set(Slot(i%8), 1)
		spin(i)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloseBeforeStart(t *testing.T) {
	s := newScheduler(t, 2, 4, 4, func(int, []Work) { t.Error("a run after Close") })
	s.Set(0, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSlotOutOfRangePanics(t *testing.T) {
	s := newScheduler(t, 1, 1, 1, func(int, []Work) {})
	defer func() {
		if recover() == nil {
			t.Fatal("Set of a slot without a page went through")
		}
	}()
	s.Set(pageSlots, 1)
}

func TestHotPathAllocatesNothing(t *testing.T) {
	s := newScheduler(t, 3, 128, pageSlots, func(_ int, round []Work) {
		for i := range round {
			round[i].Again = round[i].Flags >> 1
		}
	})
	batch := make([]Slot, 1024)
	for i := range batch {
		batch[i] = Slot(i * 3 % pageSlots)
	}
	now := uint64(0)
	cycle := func() {
		now++
		for slot := Slot(0); slot < 100; slot++ {
			s.Set(slot, 2)
			s.SetDeadline(slot, now+uint64(slot%3))
		}
		s.SetBatch(batch, 1)
		s.Tick(now, 1)
		for s.Step(0) || s.Step(1) || s.Step(2) {
		}
	}
	cycle()
	if n := testing.AllocsPerRun(100, cycle); n != 0 {
		t.Fatalf("%v allocations per cycle", n)
	}
}
