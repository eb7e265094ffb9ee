package bench

import (
	"context"
	"sync"
	"time"

	"multiraft/engine"
)

// asyncPart keeps a fixed number of operations in flight from one goroutine.
//
//	        ┌──────────── free slots ◀────────────┐
//	        ▼                                     │
//	generator ──ProposeAsync(slot.pending)──▶ store ──ProposalsDone──▶ recorder
//	        └──slot──▶ readers ──Read──▶ store ───┘
//
// A slot is an operation in flight: its pending object and what is needed to
// account for it. Slots go around in slices: the generator swaps the free ones
// out under one lock, and appliers return all slots of a completion batch under
// one lock, so that an operation costs no channel, no map and no allocation.
//
// Who owns a slot: the generator from free.take until ProposeAsync accepted it,
// then the engine until ProposalsDone, then the free list. Each hand-over goes
// through a lock of the next owner.
type asyncPart struct {
	load    *load
	store   uint32 // anyStore in an open loop
	rec     *recorder
	slots   []slot
	free    freeSlots
	command command
	mixer   mixer
	cursor  uint32

	readers chan uint32 // slots that read; holds all of them, so sending never blocks
	// acks, when not nil, receives acknowledged slots and returns them to free
	// when their acknowledgements are passed on.
	acks *ackWriter
}

type slot struct {
	pending  engine.Pending
	start    int64 // intended start in an open loop
	sequence uint64
	group    uint32
	store    uint32
}

// stampEvery is how many submissions share one reading of the clock. The first
// of them is stamped right, the last too early by the time of the submissions
// between, some microseconds at most, so latency is overstated and never
// understated.
const stampEvery = 16

func newAsyncPart(l *load, store uint32, inflight int, rec *recorder) *asyncPart {
	p := &asyncPart{
		load:    l,
		store:   store,
		rec:     rec,
		slots:   make([]slot, inflight),
		command: newCommand(l.cfg, len(l.parts)),
		mixer:   newMixer(l.cfg, len(l.parts)),
	}
	p.free.init(inflight)
	for i := range p.slots {
		p.slots[i].pending.Init(p)
		p.slots[i].pending.Tag = uint64(i)
	}
	if l.cfg.reads() {
		p.readers = make(chan uint32, inflight)
	}
	return p
}

func (p *asyncPart) run(ctx context.Context) {
	var readers sync.WaitGroup
	if p.readers != nil {
		n := p.load.cfg.Clients
		if p.store == anyStore {
			n *= p.load.cfg.Stores
		}
		for range min(n, len(p.slots)) {
			readers.Go(func() { p.serveReads(ctx) })
		}
	}
	p.generate()
	if p.readers != nil {
		close(p.readers)
	}
	readers.Wait()
	// Writes in flight come back through ProposalsDone whatever happens to
	// their group, unless the engine is stuck; then ctx ends this.
	p.free.waitAll(ctx)
}

// generate is the loop of the generator.
func (p *asyncPart) generate() {
	pacer := newPacer() // one descriptor, idle in a closed loop
	defer pacer.close()
	var ids []uint32
	for {
		if len(ids) == 0 {
			if ids = p.free.take(ids, p.load.stopping); len(ids) == 0 {
				return // stopping
			}
		}
		if p.load.stopped() {
			p.free.put(ids...)
			return
		}
		now := p.load.clock.now()
		n := min(stampEvery, len(ids))
		var first int64
		if s := p.load.schedule; s != nil {
			if p.load.cfg.Shed {
				s.shed(now)
			}
			if first, n = s.claim(now, n); n == 0 {
				pacer.wait(time.Duration(s.at(first) - now))
				continue
			}
		}
		left, rest := p.submit(ids, n, now, first)
		ids = ids[:left]
		if rest && !p.load.pause(idlePause) {
			p.free.put(ids...)
			return
		}
	}
}

// submit starts n operations with slots from the end of ids and returns how
// many of ids are left. rest is true when the caller should wait a little.
//
//mr:hotpath
func (p *asyncPart) submit(ids []uint32, n int, now, first int64) (left int, rest bool) {
	left = len(ids)
	for i := range n {
		start := now
		if p.load.schedule != nil {
			start = p.load.schedule.at(first + int64(i))
		}
		id := ids[left-1]
		kind, ok := p.prepare(id, start)
		if !ok {
			return left, true
		}
		s := &p.slots[id]
		if kind == opRead {
			p.readers <- id // cannot block: it has room for every slot
			left--
			continue
		}
		err := p.load.routes.handle(s.group, s.store).ProposeAsync(p.command.with(s.sequence), &s.pending)
		if err == nil {
			left--
			continue
		}
		if p.load.reroute(p.rec.failed(err), err, s.group, s.store) && !p.load.cfg.Shed {
			return left, true
		}
	}
	return left, false
}

// prepare chooses what the slot does. ok is false when no group can be loaded.
//
//mr:hotpath
func (p *asyncPart) prepare(id uint32, start int64) (kind opKind, ok bool) {
	group, store, ok := p.load.routes.next(p.cursor, p.store)
	if !ok {
		return 0, false
	}
	p.cursor = group
	s := &p.slots[id]
	s.group, s.store, s.start = group, store, start
	if kind = p.mixer.next(); kind == opWrite {
		s.sequence = p.load.sequences[group].Add(1) - 1
		if c := p.load.ceiling; c != nil && s.sequence >= c.value.Load() && !c.raise(s.sequence) {
			return 0, false
		}
	}
	return kind, true
}

// ProposalsDone accounts for completed writes and frees their slots.
//
//mr:hotpath
func (p *asyncPart) ProposalsDone(done []*engine.Pending) {
	now := p.load.clock.now()
	p.rec.mu.Lock()
	for _, pending := range done {
		_, err := pending.Result()
		p.finishLocked(uint32(pending.Tag), err, now)
	}
	p.rec.mu.Unlock()
	if p.acks != nil {
		p.acks.done(done)
		return
	}
	p.free.putDone(done)
}

// finishLocked accounts for one write. The recorder's lock must be held.
//
//mr:hotpath
func (p *asyncPart) finishLocked(id uint32, err error, now int64) {
	s := &p.slots[id]
	if err != nil {
		p.load.reroute(p.rec.failedLocked(err), err, s.group, s.store)
		return
	}
	p.rec.okLocked(opWrite, now-s.start)
	p.rec.ackedLocked(s.group, s.sequence)
	if p.load.acknowledged != nil {
		p.load.acknowledged[s.group].Add(1)
	}
}

func (p *asyncPart) serveReads(ctx context.Context) {
	for id := range p.readers {
		s := &p.slots[id]
		rest := p.load.read(ctx, p.rec, s.group, s.store, s.start)
		if rest {
			p.load.pause(idlePause)
		}
		p.free.put(id)
	}
}

// freeSlots is where slots wait between operations.
type freeSlots struct {
	mu    sync.Mutex
	ids   []uint32
	total int
	// The generator sleeps on wake while waiting is true, until least slots are
	// free: waking it for every few would cost more than they are worth. Slots
	// below that number are not lost, because all others come back.
	waiting bool
	least   int
	wake    chan struct{} // holds one signal
}

// wakeShare of the slots must be free for the generator to wake.
const wakeShare = 64

func (f *freeSlots) init(n int) {
	f.total = n
	f.ids = make([]uint32, n)
	for i := range f.ids {
		f.ids[i] = uint32(n - 1 - i)
	}
	f.wake = make(chan struct{}, 1)
}

// take swaps the free slots for ids, whose memory is kept for the next ones. It
// waits while there are too few, and returns none when stopping is closed.
func (f *freeSlots) take(ids []uint32, stopping <-chan struct{}) []uint32 {
	for {
		f.mu.Lock()
		if len(f.ids) > 0 {
			taken := f.ids
			f.ids = ids[:0]
			f.mu.Unlock()
			return taken
		}
		f.waiting, f.least = true, max(1, f.total/wakeShare)
		f.mu.Unlock()
		select {
		case <-f.wake:
		case <-stopping:
			return ids[:0]
		}
	}
}

// put returns slots.
func (f *freeSlots) put(ids ...uint32) {
	f.mu.Lock()
	f.ids = append(f.ids, ids...)
	f.wakeLocked()
	f.mu.Unlock()
}

// putDone returns the slots of a completion batch.
//
//mr:hotpath
func (f *freeSlots) putDone(done []*engine.Pending) {
	f.mu.Lock()
	for _, pending := range done {
		f.ids = append(f.ids, uint32(pending.Tag))
	}
	f.wakeLocked()
	f.mu.Unlock()
}

//mr:hotpath
func (f *freeSlots) wakeLocked() {
	if f.waiting && len(f.ids) >= f.least {
		f.waiting = false
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// waitAll waits until every slot is free, or ctx ends. The generator must have
// ended.
func (f *freeSlots) waitAll(ctx context.Context) {
	for {
		f.mu.Lock()
		if len(f.ids) == f.total {
			f.mu.Unlock()
			return
		}
		f.waiting, f.least = true, f.total
		f.mu.Unlock()
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
	}
}
