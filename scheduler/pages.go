package scheduler

import (
	"math"
	"sync"
	"sync/atomic"
)

// pageSlots is the number of slots per page: 64 KiB of words and deadlines. A
// store with one group pays for one page, one with a million for 245, which
// is also what a scan of quiet deadlines reads.
const pageSlots = 1 << pageBits

const pageBits = 12

// page holds the state of pageSlots slots. It never moves, so a pointer into
// it outlives any Grow.
type page struct {
	// low is the low bound of S5, on a cache line that a scan of quiet pages
	// reads and a worker writes only when it lowers it.
	low atomic.Uint64
	_   [56]byte

	words     [pageSlots]word
	deadlines [pageSlots]atomic.Uint64
}

// pages finds the page of a slot. Readers load the table once and take no
// lock; Grow publishes a longer table with the same pages in front.
type pages struct {
	table  atomic.Pointer[[]*page]
	growMu sync.Mutex // serialises Grow
}

// load returns the current table.
func (p *pages) load() []*page {
	if t := p.table.Load(); t != nil {
		return *t
	}
	return nil
}

// grow makes room for slots in [0, slots).
func (p *pages) grow(slots int) {
	p.growMu.Lock()
	defer p.growMu.Unlock()
	old := p.load()
	want := (slots + pageSlots - 1) >> pageBits
	if want <= len(old) {
		return
	}
	table := make([]*page, want)
	copy(table, old)
	for i := len(old); i < want; i++ {
		pg := new(page)
		pg.low.Store(noDeadline)
		for j := range pg.deadlines {
			pg.deadlines[j].Store(noDeadline)
		}
		table[i] = pg
	}
	p.table.Store(&table)
}

// of returns the page of slot and its place in it. It panics, as a slice does,
// for a slot that Grow has not made room for.
func (p *pages) of(slot Slot) (*page, int) {
	return p.load()[slot>>pageBits], int(slot & (pageSlots - 1))
}

// word returns the word of slot.
func (p *pages) word(slot Slot) *word {
	pg, i := p.of(slot)
	return &pg.words[i]
}

// noDeadline is the deadline of a slot that has none.
const noDeadline = math.MaxUint64
