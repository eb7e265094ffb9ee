package engine

import (
	"sync"

	"multiraft/internal/planted"
	"multiraft/scheduler"
)

// gate holds proposals back while a log batch with own proposals is unsynced,
// so that batches grow with the load and no timer is needed: a lone proposal
// passes at once, and what arrives during a sync leaves together when it ends.
//
// E5: a slot in waiting has proposals in its mailbox; open flags them all.
type gate struct {
	sched *scheduler.Scheduler

	mu       sync.Mutex
	batches  int              // own batches on their way to the disk
	bypassed bool             // everything passes, whatever is on its way
	waiting  []scheduler.Slot // groups with proposals that came meanwhile
	spare    []scheduler.Slot
}

// arrive is called when the first proposal entered an empty mailbox.
//
//mr:hotpath
func (g *gate) arrive(slot scheduler.Slot) {
	g.mu.Lock()
	if g.batches > 0 && !g.bypassed {
		g.waiting = append(g.waiting, slot)
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.sched.Set(slot, flagPropose)
}

// arriveAll is arrive for many groups.
//
//mr:hotpath
func (g *gate) arriveAll(slots []scheduler.Slot) {
	g.mu.Lock()
	if g.batches > 0 && !g.bypassed {
		g.waiting = append(g.waiting, slots...)
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.sched.SetBatch(slots, flagPropose)
}

// close is called before an own batch goes to the log.
func (g *gate) close() {
	g.mu.Lock()
	g.batches++
	g.mu.Unlock()
}

// open is called when n own batches are durable, or lost for good.
func (g *gate) open(n int) {
	g.mu.Lock()
	g.batches -= n
	if g.batches > 0 && !g.bypassed {
		g.mu.Unlock()
		return
	}
	g.release()
}

// bypass has everything pass, or not any more.
func (g *gate) bypass(all bool) {
	g.mu.Lock()
	g.bypassed = all
	if !all {
		g.mu.Unlock()
		return
	}
	g.release()
}

// release flags all that wait, and unlocks.
//
// REQUIRES: g.mu is held.
func (g *gate) release() {
	if len(g.waiting) == 0 {
		g.mu.Unlock()
		return
	}
	slots := g.waiting
	g.waiting, g.spare = g.spare[:0], nil
	g.mu.Unlock()
	if !planted.Is(planted.LostWake) {
		g.sched.SetBatch(slots, flagPropose)
	}
	g.mu.Lock()
	g.spare = slots[:0]
	g.mu.Unlock()
}
