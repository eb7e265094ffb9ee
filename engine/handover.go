package engine

import (
	"time"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/scheduler"
	"multiraft/wire"
)

// A store that is closed hands its leaderships over first, so that its groups are
// without a leader for a round trip and not for an election time-out. To its cores
// it is a store with a slow disk: leaders hand over to voters that are caught up and
// not about to leave themselves, a limited number in each tick, and nobody here
// campaigns before others.

// handOverPause is for how many heartbeats, or ticks if that is longer, handing over
// may stand still: those who are left have nobody to hand over to.
const handOverPause, handOverPauseTicks = 4, 10

// told returns what cores are told: a store that is about to leave is not fit.
//
//mr:hotpath
func (h *health) told() group.Fitness {
	f := h.now()
	if f == group.Fit && h.leaving.Load() {
		return group.Slow
	}
	return f
}

// beginHandOver has all leaders here hand over from now on.
func (s *Store) beginHandOver() {
	s.health.leaving.Store(true)
	s.sched.SetBatch(s.movable(), flagControl)
}

// movable returns the slots of the groups that are led here and have another voter.
func (s *Store) movable() (slots []scheduler.Slot) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.running() {
		if !r.isLeader() || r.failed.Load() != nil {
			continue
		}
		for _, m := range r.members.Load().wire.Members {
			if m.Replica != r.self && m.Role != wire.Learner {
				slots = append(slots, r.slot)
				break
			}
		}
	}
	return slots
}

// handOver hands over all leaderships, and waits for that up to
// Config.HandOverTimeout, as long as it gets on.
func (s *Store) handOver() {
	if s.cfg.HandOverTimeout < 0 || s.state() != nil || s.health.now() == group.Hung || !s.links.anyUp() {
		return
	}
	s.beginHandOver()
	left := len(s.movable())
	if left == 0 {
		return
	}
	began := left
	tick := time.NewTicker(s.cfg.TickInterval)
	defer tick.Stop()
	patience := max(handOverPauseTicks, handOverPause*s.cfg.Tuning.HeartbeatTicks)
	for ticks, still := time.Duration(0), 0; left > 0 && still < patience && ticks < s.cfg.HandOverTimeout/s.cfg.TickInterval; ticks++ {
		<-tick.C
		if now := len(s.movable()); now < left {
			left, still = now, 0
		} else {
			still++
		}
	}
	s.cfg.Logger.Info("handed over leaderships", zap.Uint64("store", uint64(s.cfg.ID)), zap.Int("led", began), zap.Int("left", left))
}

// anyUp tells whether any peer is connected.
func (l *links) anyUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, state := range l.list {
		if state.up {
			return true
		}
	}
	return false
}
