package scheduler

// Parking and waking
//
// Three things can end a park: a push to the worker's own queue, a recruit for
// somebody else's, and Close. Each makes parked false under the queue's lock
// and then signals; the worker makes it true under the same lock, after
// looking at all three. So:
//
//   - A push is before the worker's look, and is seen, or after it, and finds
//     parked true. No wake-up is lost, and S3 holds.
//   - One push makes parked false, so of many that follow before the worker
//     runs, one signals.
//   - Work is never stranded for want of a recruit: the slots of a queue have a
//     worker that is awake (S3) and will come to them. A recruit only makes it
//     sooner. It is called for where that pays:
//     a queue holds crowd slots while its worker is busy (push),
//     a worker leaves that many behind as it starts a round (take),
//     or it has not started a round since the last Tick although its queue
//     is not empty, so one of its groups holds up the others (rescue).
//   - One recruit is under way at a time; having taken its share it calls the
//     next if there is still a crowd. So the number of workers awake follows
//     the work, not the number of pushes.

// park waits until there is something for worker to look at.
func (s *Scheduler) park(worker int) {
	q := &s.queues[worker]
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count > 0 || s.closing.Load() {
		return
	}
	q.parked = true
	s.parked.Add(1)
	// A queue that got long between the look in take and here found nobody to
	// recruit. Its pusher stores the depth and then loads parked; this side
	// stores parked and then loads the depths: one of them sees the other.
	if s.crowded() {
		q.parked = false
		s.parked.Add(-1)
		return
	}
	s.workers[worker].parks.Add(1)
	for q.parked {
		q.wake.Wait()
	}
	if q.recruited {
		q.recruited = false
		s.workers[worker].recruits.Add(1)
		// Before it takes, not after: a crowd that forms in between may call
		// one more than is useful, never one less.
		s.recruiting.Store(false)
	}
}

// crowded says whether some queue is worth another worker.
func (s *Scheduler) crowded() bool {
	for i := range s.queues {
		if int(s.queues[i].depth.Load()) >= s.crowd {
			return true
		}
	}
	return false
}

// recruit wakes a parked worker, if there is one, to steal from a queue.
func (s *Scheduler) recruit(from int) {
	if s.parked.Load() == 0 || !s.recruiting.CompareAndSwap(false, true) {
		return
	}
	for i := 1; i < len(s.queues); i++ {
		q := &s.queues[(from+i)%len(s.queues)]
		q.mu.Lock()
		wake := q.parked
		if wake {
			q.parked = false
			q.recruited = true
		}
		q.mu.Unlock()
		if wake {
			s.parked.Add(-1)
			q.wake.Signal()
			return
		}
	}
	s.recruiting.Store(false)
}

// rescue recruits for queues whose worker has been in one round since the last
// call. Called by Tick, with tickMu held.
func (s *Scheduler) rescue() {
	for i := range s.queues {
		rounds := s.workers[i].rounds.Load()
		if rounds == s.seen[i] && s.queues[i].depth.Load() > 0 {
			s.recruit(i)
		}
		s.seen[i] = rounds
	}
}
