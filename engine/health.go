package engine

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/internal/planted"
)

// health watches how the log's disk answers, and tells the groups of the store, so
// that leaderships are not where writes wait.
//
//	tick ──▶ cycles of the log that ended, one under way ──▶ fitness ──turns──▶ cores
//	                                                            ├──▶ gate: held proposals hear that nobody leads here
//	                                                            └──▶ Events.FitnessChanged, Metrics, log line
//
// Nothing is timed on the path of a write. What is under way when the ticker looks
// is counted: of n looks, as many find a cycle under way as cycles take part in the
// time, so looks that did, times the interval, by cycles that ended in between, is
// how long a cycle took on average, whatever the load. A look that finds the same
// cycle as the one before it tells how long it has been under way at least. Ticks
// stand still with the process, so one that was paused does not blame its disk.
//
//	fit   the normal case
//	slow  cycles took longer than Config.SlowDisk on average, two windows in a row; or
//	      one has been under way for two thirds of Config.HungDisk; or the disk was
//	      hung and has answered
//	hung  one cycle has been under way for Config.HungDisk
//
// Slow ends after some windows in a row that took less than half of SlowDisk, so
// that leaderships do not come and go with each window. What a core does with it is
// told in [group.Fitness].
type health struct {
	fitness atomic.Uint32 // group.Fitness
	// yields are how many groups may still hear before the next tick that the disk is
	// slow, of those that lead.
	yields atomic.Int64
	// leaving: the store is about to be closed.
	leaving atomic.Bool

	// The fields below belong to tick.
	slowDisk       time.Duration // zero: nothing is slow
	interval       time.Duration
	stall, hung    uint64 // ticks; zero: nothing is hung
	window         uint64 // ticks
	cycles         uint64 // of the log, at the last look
	stalled        uint64 // looks since that found the same cycle under way
	looks, busy    uint64 // in this window, and those that found one under way
	windowCycles   uint64 // of the log, when the window began
	slowRow, goods int    // windows in a row
}

const (
	// healthWindow is how many election time-outs make a window.
	healthWindow = 4
	// slowWindows in a row make a disk slow, goodWindows make it fit again.
	slowWindows, goodWindows = 2, 4
	// minBusyLooks is how many looks of a window have to find a cycle under way for it
	// to count as slow: an average of fewer is chance.
	minBusyLooks = 4
	// yieldsPerTick paces leaderships that leave a slow disk: each costs an election
	// on two other stores. What has not left when the disk counts as hung steps down.
	yieldsPerTick = 256
)

// hungTicks is the default of Config.HungDisk: three quarters of an election
// time-out, and a heartbeat less than that at most, as that is when a leader's core
// hears of it.
func hungTicks(t *group.Tuning) int {
	return max(1, min(t.ElectionTicks*3/4, t.ElectionTicks-t.HeartbeatTicks-1))
}

// REQUIRES: cfg has its defaults.
func (h *health) init(cfg *Config) {
	h.interval = cfg.TickInterval
	h.window = healthWindow * uint64(cfg.Tuning.ElectionTicks)
	if cfg.SlowDisk > 0 {
		h.slowDisk = cfg.SlowDisk
	}
	if cfg.HungDisk > 0 {
		h.hung = max(1, uint64(cfg.HungDisk/cfg.TickInterval))
		h.stall = max(1, h.hung*2/3)
	}
}

// now returns what the groups are to know.
//
//mr:hotpath
func (h *health) now() group.Fitness { return group.Fitness(h.fitness.Load()) }

// stalls says whether one cycle takes so long that leaders leave.
func (h *health) stalls() bool { return h.hung > 0 && h.stalled >= h.stall }

// look takes what the log tells in this tick, and returns the new fitness.
func (h *health) look(cycles uint64, busy bool) group.Fitness {
	h.yields.Store(yieldsPerTick)
	was := h.now()
	moved := cycles != h.cycles
	if h.cycles = cycles; busy && !moved {
		h.stalled++
	} else {
		h.stalled = 0
	}
	h.looks++
	if busy {
		h.busy++
	}
	is := was
	if h.looks == h.window {
		is = h.judge(was)
		h.looks, h.busy, h.windowCycles = 0, 0, cycles
	}
	switch {
	case h.hung == 0:
	case h.stalled >= h.hung:
		is = group.Hung
	case h.stalls():
		is = max(is, group.Slow)
	case was == group.Hung && h.stalled == 0:
		is = group.Slow
	}
	if is != group.Fit && was == group.Fit || is == group.Hung {
		h.goods = 0
	}
	h.fitness.Store(uint32(is))
	return is
}

// judge looks at a window that is over.
func (h *health) judge(was group.Fitness) group.Fitness {
	ended := time.Duration(h.cycles - h.windowCycles)
	took := time.Duration(h.busy) * h.interval
	if h.slowDisk > 0 && h.busy >= minBusyLooks && took > h.slowDisk*max(1, ended) {
		h.slowRow++
		h.goods = 0
	} else {
		h.slowRow = 0
		if h.busy < minBusyLooks || h.slowDisk == 0 || took <= h.slowDisk/2*ended {
			h.goods++
		} else {
			h.goods = 0
		}
	}
	switch {
	case h.slowRow >= slowWindows:
		return max(was, group.Slow)
	case was == group.Slow && h.goods >= goodWindows:
		return group.Fit
	}
	return was
}

// checkHealth is called in each tick.
func (s *Store) checkHealth() {
	was, stalls := s.health.now(), s.health.stalls()
	is := s.health.look(s.log.Progress())
	if now := s.health.stalls(); now != stalls {
		// Proposals that the gate holds back wait for a sync that may never end. Their
		// groups stop leading, and they are to hear so.
		s.gate.bypass(now)
	}
	if is == was {
		return
	}
	switch is {
	case group.Fit:
		s.cfg.Logger.Info("the disk answers in time again", zap.Uint64("store", uint64(s.cfg.ID)))
	case group.Slow:
		if was == group.Fit {
			s.metrics.slowDisk.Add(1)
		}
		s.cfg.Logger.Warn("the disk is slow: leaderships are handed over", zap.Uint64("store", uint64(s.cfg.ID)), zap.Stringer("before", was))
	case group.Hung:
		s.metrics.hungDisk.Add(1)
		s.cfg.Logger.Error("the disk does not answer: leaders step down", zap.Uint64("store", uint64(s.cfg.ID)))
	}
	if f := s.cfg.Events.FitnessChanged; f != nil {
		s.events.call(func() { f(is) })
	}
}

// noteFitness tells a core what the health of the store has become. Leaders that
// are to hand over hear it a limited number in each tick; all others ask again with
// their next heartbeat.
//
// Replicas hear it in the turn that they take next, for whatever reason: a leader
// within a heartbeat, a follower at the latest before it campaigns.
func (w *worker) noteFitness(r *replica, is group.Fitness) {
	if is == group.Slow && r.core.Role() == group.Leader && w.store.health.yields.Add(-1) < 0 {
		return
	}
	if is == group.Hung && planted.Is(planted.LeadOnHungDisk) {
		return
	}
	r.core.SetFitness(is)
}

// Fitness tells how the disk of the log answers. It is [group.Fit] until a disk
// has been slow for some seconds or has not answered for most of an election
// time-out; see Config.SlowDisk and Config.HungDisk.
func (s *Store) Fitness() group.Fitness { return s.health.now() }

// unsynced says whether more is on its way to the log than the budgets allow, so
// that received entries are to be dropped. Own proposals
// take no more of it than MaxInflightBytes, and as much once more where they were
// given up while on their way, so that memory is bounded however many groups there
// are.
//
//mr:hotpath
func (s *Store) unsynced() bool {
	return s.logBytes.Load() > s.cfg.MaxReceiveBytes+s.cfg.MaxInflightBytes
}
