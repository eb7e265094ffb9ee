package engine

import (
	"sync"

	"multiraft/scheduler"
)

// readGate holds reads back while a round of Confirms, or requests to other
// leaders, are on their way, so that the reads of all groups of the store leave in
// few frames: a lone read passes at once, and what comes meanwhile leaves together
// when the answer is there.
//
// A group that runs for another reason takes its reads along. A round may not be
// answered, because a majority of its group is away; so the next tick opens the
// gate too, and a round that is asked for again does not close it.
//
// E6: a slot in waiting has reads in its mailbox; open flags them all.
type readGate struct {
	sched *scheduler.Scheduler

	mu      sync.Mutex
	closed  bool
	waiting []scheduler.Slot // groups with reads that came meanwhile
	spare   []scheduler.Slot
}

// arrive is called when the first read entered an empty mailbox.
//
//mr:hotpath
func (g *readGate) arrive(slot scheduler.Slot) {
	g.mu.Lock()
	if g.closed {
		g.waiting = append(g.waiting, slot)
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.sched.Set(slot, flagMessage)
}

// turn is called at the end of a round of a worker that has answers for reads, or
// has sent new reads on their way.
//
//mr:hotpath
func (g *readGate) turn(answered, asked bool) {
	g.mu.Lock()
	g.closed = asked || g.closed && !answered
	if !answered || len(g.waiting) == 0 {
		g.mu.Unlock()
		return
	}
	g.release()
}

// tick opens the gate, whatever is on its way.
func (g *readGate) tick() {
	g.mu.Lock()
	g.closed = false
	if len(g.waiting) == 0 {
		g.mu.Unlock()
		return
	}
	g.release()
}

// release flags all groups that wait.
//
// REQUIRES: g.mu is held; it is not afterwards.
func (g *readGate) release() {
	slots := g.waiting
	g.waiting, g.spare = g.spare[:0], nil
	g.mu.Unlock()
	g.sched.SetBatch(slots, flagMessage)
	g.mu.Lock()
	g.spare = slots[:0]
	g.mu.Unlock()
}
