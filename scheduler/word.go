package scheduler

import (
	"sync/atomic"

	"multiraft/internal/invariants"
)

// word is the whole state of a slot. Flags are the low half; two bits above
// are its state:
//
//	        set: this call queues it             take
//	idle ────────────────────────────▶ queued ─────────▶ running ──┐ release, nothing set
//	 ▲                                   ▲                 │ set    │
//	 │                                   │                 ▼        │
//	 │                                   └── release ── running     │
//	 │                                       puts it    set again   │
//	 │                                       back                   │
//	 └──────────────────────────────────────────────────────────────┘
//
// S1 follows from who may do what: only the call that finds a slot idle puts it
// on a queue; only the worker that took it from there may release it; and a
// release gives back to idle or to a queue, never both.
type word struct {
	bits atomic.Uint64
}

const (
	queued  = 1 << 32 // set since it was last taken
	running = 1 << 33 // in a round

	flagBits = queued - 1
)

// set adds flags and says whether the caller must put the slot on a queue.
//
// It is an atomic read-modify-write even when all flags are there already. A
// load that sees them would do for a mailbox behind a lock, but would not
// order the caller's plain writes before the run that gets the flags (S2).
//
//mr:hotpath
func (w *word) set(f Flags) bool {
	return w.bits.Or(uint64(f)|queued)&(queued|running) == 0
}

// take starts a run and returns the flags that it answers for.
//
// S2: cleared before running, not after, so that one set meanwhile stays.
//
// REQUIRES: the slot came from a queue.
//
//mr:hotpath
func (w *word) take() Flags {
	old := w.bits.Swap(running)
	if invariants.Enabled && old&(queued|running) != queued {
		invariants.Fail("S1", "a slot in state %#x came from a queue", old)
	}
	return Flags(old & flagBits)
}

// release ends a run and says whether the caller must put the slot back on a
// queue: because flags are left over, or because it was set meanwhile.
//
// REQUIRES: the caller took it.
//
//mr:hotpath
func (w *word) release(again Flags) bool {
	if again == 0 && w.bits.CompareAndSwap(running, 0) {
		return false
	}
	// Nobody else clears bits of a running slot, so the two steps need not be
	// one: queued stays set in between and keeps others from queueing it.
	old := w.bits.Or(uint64(again) | queued)
	w.bits.And(^uint64(running))
	if invariants.Enabled && old&running == 0 {
		invariants.Fail("S1", "a slot in state %#x was released", old)
	}
	return true
}
