package scheduler

import (
	"sync"
	"sync/atomic"
)

// Slot is the dense number of a group in the arrays of a store.
type Slot uint32

// Flags say why a slot should run. Their meaning is the [Processor]'s.
type Flags uint32

// Work is one slot of a round.
type Work struct {
	Slot Slot
	// Flags are those set since the slot last ran.
	Flags Flags
	// Again is for Process to fill: flags that it did not answer, for instance
	// because the group had more to do than its share of a round. The slot is
	// put back at the tail with them. Zero if it is done.
	Again Flags
}

// Processor runs rounds.
type Processor interface {
	// Process runs every slot of round for the given worker. It may set Again;
	// it may not keep round, nor change Slot. Calls of one worker are serial.
	Process(worker int, round []Work)
}

// Scheduler hands slots with flags to workers in rounds. See the package
// comment for the rules.
type Scheduler struct {
	processor Processor
	roundSize int
	// crowd is the depth at which a queue is worth a second worker. Below it a
	// second one would only cut in two a round that shares one log batch.
	crowd int

	pages   pages
	queues  []queue
	workers []worker

	// parked is the number of parked workers, for pushers that look for one.
	parked atomic.Int32
	// recruiting is true while a recruit is on its way to the long queue.
	recruiting atomic.Bool

	tickMu sync.Mutex // guards due and seen
	due    []Slot     // slots found by a scan and not yet queued
	seen   []uint64   // per worker: its rounds at the last Tick

	lifeMu  sync.Mutex // guards started and closed
	started bool
	closed  bool
	closing atomic.Bool
	running sync.WaitGroup
}

// worker is what only the goroutine of that worker touches, but for the
// counters, which others read.
type worker struct {
	round []Work
	back  []Slot

	rounds, slots, stolen, recruits, parks atomic.Uint64
	_                                      [64]byte
}

// New returns a scheduler without slots and without goroutines.
func New(cfg Config) (*Scheduler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Scheduler{
		processor: cfg.Processor,
		roundSize: cfg.RoundSize,
		crowd:     max(cfg.RoundSize/4, 2),
		queues:    make([]queue, cfg.Workers),
		workers:   make([]worker, cfg.Workers),
		due:       make([]Slot, 0, window),
		seen:      make([]uint64, cfg.Workers),
	}
	for i := range s.queues {
		q := &s.queues[i]
		q.wake.L = &q.mu
		s.workers[i].round = make([]Work, 0, cfg.RoundSize)
		s.workers[i].back = make([]Slot, 0, cfg.RoundSize)
	}
	return s, nil
}

// Workers returns the number of workers.
func (s *Scheduler) Workers() int { return len(s.queues) }

// Grow makes room for slots in [0, slots). It never shrinks, and what it adds
// is idle and without a deadline. A million slots cost 16 MB.
func (s *Scheduler) Grow(slots int) { s.pages.grow(slots) }

// Set adds f to the flags of slot and sees to it that it runs.
//
// REQUIRES: Grow made room for slot. Set panics otherwise, as a slice does.
//
//mr:hotpath
func (s *Scheduler) Set(slot Slot, f Flags) {
	if s.pages.word(slot).set(f) {
		one := [1]Slot{slot}
		s.push(s.home(slot), one[:])
	}
}

// window is the number of slots that a batch sorts at a time, on its stack.
const window = 512

// SetBatch is Set for each of slots, with a queue's lock taken once per up to
// 128 of them. A slot may stand in slots more than once. REQUIRES as Set.
//
//mr:hotpath
func (s *Scheduler) SetBatch(slots []Slot, f Flags) {
	var claimed [window]Slot
	n := 0
	for _, slot := range slots {
		if !s.pages.word(slot).set(f) {
			continue
		}
		claimed[n] = slot
		if n++; n == window {
			s.scatter(claimed[:])
			n = 0
		}
	}
	if n > 0 {
		s.scatter(claimed[:n])
	}
}

// home returns the queue of a slot that was idle. Neighbours go to different
// workers, so that a store with a few groups uses all of them. It binds
// nothing: stealing moves slots, and the number of workers is nowhere stored.
func (s *Scheduler) home(slot Slot) int {
	return int(uint32(slot) % uint32(len(s.queues)))
}

// scatter queues slots, at most window of them, at their homes: a counting
// sort, then one push per queue, in the order of slots within each (S4).
func (s *Scheduler) scatter(slots []Slot) {
	if len(s.queues) == 1 {
		s.push(0, slots)
		return
	}
	var sorted [window]Slot
	var end [MaxWorkers]uint16
	for _, slot := range slots {
		end[s.home(slot)]++
	}
	sum := uint16(0)
	for i := range s.queues {
		// The count becomes the place of the queue's first slot, which the next
		// loop moves on to behind its last.
		end[i], sum = sum, sum+end[i]
	}
	for _, slot := range slots {
		h := s.home(slot)
		sorted[end[h]] = slot
		end[h]++
	}
	first := uint16(0)
	for i := range s.queues {
		if end[i] > first {
			s.push(i, sorted[first:end[i]])
		}
		first = end[i]
	}
}

// push appends slots, which the caller claimed, to a queue and wakes whom that
// is useful for: the queue's worker if it is parked, another one if the queue
// gets long under a worker that is busy.
func (s *Scheduler) push(to int, slots []Slot) {
	q := &s.queues[to]
	for len(slots) > 0 {
		n := min(len(slots), lockHold)
		depth, wake := q.push(slots[:n])
		slots = slots[n:]
		if wake {
			s.parked.Add(-1)
			q.wake.Signal()
		} else if depth >= s.crowd {
			s.recruit(to)
		}
	}
}

// Waiting returns how many slots stand in the queue of worker. Unlike Step it
// looks at no other queue.
func (s *Scheduler) Waiting(worker int) int { return int(s.queues[worker].depth.Load()) }

// Step runs one round of worker on the calling goroutine, without waiting for
// anything but the Processor, and says whether there was one. Equal calls in
// equal order make equal rounds.
//
// REQUIRES: one call per worker at a time, and none after Start.
func (s *Scheduler) Step(worker int) bool {
	w := &s.workers[worker]
	round := s.take(worker)
	if len(round) == 0 {
		return false
	}
	w.rounds.Add(1)
	w.slots.Add(uint64(len(round)))
	for i := range round {
		round[i].Flags = s.pages.word(round[i].Slot).take()
	}
	s.processor.Process(worker, round)
	back := w.back[:0]
	for i := range round {
		if s.pages.word(round[i].Slot).release(round[i].Again) {
			back = append(back, round[i].Slot)
		}
	}
	s.push(worker, back)
	return true
}

// take returns the next round of worker: from its own queue, or else half of
// the next queue that is not empty.
func (s *Scheduler) take(worker int) []Work {
	round, left := s.queues[worker].pop(s.workers[worker].round[:0], false)
	from := worker
	for i := 1; len(round) == 0 && i < len(s.queues); i++ {
		from = (worker + i) % len(s.queues)
		if round, left = s.queues[from].pop(round, true); len(round) > 0 {
			s.workers[worker].stolen.Add(uint64(len(round)))
		}
	}
	if left >= s.crowd {
		s.recruit(from)
	}
	return round
}

// Start runs the workers, each on a goroutine of its own that ends in Close.
func (s *Scheduler) Start() {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.started || s.closed {
		return
	}
	s.started = true
	for i := range s.workers {
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			for !s.closing.Load() {
				if !s.Step(i) {
					s.park(i)
				}
			}
		}()
	}
}

// Close stops the workers and waits until the rounds under way are over. Slots
// that are still queued do not run; Set after Close has no effect that anyone
// sees. It may be called again, and always returns nil.
//
// REQUIRES: not called from inside Process, which it would wait for.
func (s *Scheduler) Close() error {
	s.lifeMu.Lock()
	s.closed = true
	s.lifeMu.Unlock()
	s.closing.Store(true)
	for i := range s.queues {
		// A worker that has not parked yet sees closing when it wants to; one
		// that has is woken. The lock puts it on one side or the other.
		q := &s.queues[i]
		q.mu.Lock()
		wake := q.parked
		q.parked = false
		q.mu.Unlock()
		if wake {
			s.parked.Add(-1)
			q.wake.Signal()
		}
	}
	s.running.Wait()
	return nil
}

// Stats are counters since New, summed over the workers.
type Stats struct {
	Rounds   uint64 // calls of Process
	Slots    uint64 // slots in them
	Stolen   uint64 // of those, taken from another worker's queue
	Parks    uint64 // times that a worker ran out of work
	Recruits uint64 // times that a parked worker was woken to steal
	Queued   int    // slots on queues now
}

// Stats returns the counters. They are read one after the other, so they agree
// with each other only about.
func (s *Scheduler) Stats() Stats {
	var st Stats
	for i := range s.workers {
		w := &s.workers[i]
		st.Rounds += w.rounds.Load()
		st.Slots += w.slots.Load()
		st.Stolen += w.stolen.Load()
		st.Parks += w.parks.Load()
		st.Recruits += w.recruits.Load()
		st.Queued += int(s.queues[i].depth.Load())
	}
	return st
}
