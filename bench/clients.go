package bench

import (
	"context"

	"multiraft/engine"
)

// clientPart is one goroutine that does one operation after the other.
type clientPart struct {
	load    *load
	store   uint32
	rec     *recorder
	command command
	mixer   mixer
	cursor  uint32
}

func newClientPart(l *load, store uint32, number int, rec *recorder) *clientPart {
	active := len(l.sequences)
	return &clientPart{
		load:    l,
		store:   store,
		rec:     rec,
		command: newCommand(l.cfg, len(l.parts)),
		mixer:   newMixer(l.cfg, len(l.parts)),
		// Clients begin spread over the groups.
		cursor: uint32(number * active / l.cfg.Clients),
	}
}

func (p *clientPart) run(ctx context.Context) {
	l := p.load
	for !l.stopped() {
		group, store, ok := l.routes.next(p.cursor, p.store)
		if !ok {
			if !l.pause(idlePause) {
				return
			}
			continue
		}
		p.cursor = group
		start := l.clock.now()
		if l.schedule != nil {
			select {
			case k := <-l.due:
				start = l.schedule.at(k)
			case <-l.stopping:
				return
			}
		}
		var rest bool
		if p.mixer.next() == opRead {
			rest = l.read(ctx, p.rec, group, store, start)
		} else {
			rest = p.write(ctx, group, store, start)
		}
		if rest && !l.pause(idlePause) {
			return
		}
	}
}

func (p *clientPart) write(ctx context.Context, group, store uint32, start int64) (rest bool) {
	l := p.load
	sequence := l.sequences[group].Add(1) - 1
	_, err := l.routes.handle(group, store).Propose(ctx, p.command.with(sequence))
	now := l.clock.now()
	if err != nil {
		return l.reroute(p.rec.failed(err), err, group, store)
	}
	if l.acknowledged != nil {
		l.acknowledged[group].Add(1)
	}
	p.rec.mu.Lock()
	p.rec.okLocked(opWrite, now-start)
	p.rec.ackedLocked(group, sequence)
	p.rec.mu.Unlock()
	return false
}

// batchPart is one goroutine that proposes one batch after the other. Every
// write of a batch is done when the batch is.
type batchPart struct {
	load  *load
	store uint32
	rec   *recorder
	// commands holds one payload per write: the engine copies them when the
	// batch is proposed.
	commands []command
	cursor   uint32
	batch    *engine.Batch
	writes   []batchWrite
}

type batchWrite struct {
	group    uint32
	store    uint32
	start    int64
	sequence uint64
}

func newBatchPart(l *load, store uint32, cursor int, rec *recorder) *batchPart {
	commands := make([]command, l.cfg.Batch)
	for i := range commands {
		commands[i] = newCommand(l.cfg, len(l.parts))
	}
	return &batchPart{
		load:     l,
		store:    store,
		rec:      rec,
		commands: commands,
		cursor:   uint32(cursor % len(l.sequences)),
		batch:    &engine.Batch{},
		writes:   make([]batchWrite, 0, l.cfg.Batch),
	}
}

func (p *batchPart) run(ctx context.Context) {
	l := p.load
	for !l.stopped() {
		ok := p.gather()
		if len(p.writes) > 0 {
			// An open loop sends a batch when its last write is due.
			if l.schedule != nil && !l.waitUntil(p.writes[len(p.writes)-1].start) {
				return
			}
			ok = p.propose(ctx) && ok
		}
		if !ok && !l.pause(idlePause) {
			return
		}
	}
}

// gather fills the batch. It returns false when there is no group to load.
func (p *batchPart) gather() bool {
	l := p.load
	p.writes = p.writes[:0]
	p.batch.Reset()
	for len(p.writes) < l.cfg.Batch {
		group, store, ok := l.routes.next(p.cursor, p.store)
		if !ok {
			break
		}
		p.cursor = group
		sequence := l.sequences[group].Add(1) - 1
		p.writes = append(p.writes, batchWrite{group: group, store: store, sequence: sequence})
		p.batch.Add(l.routes.handle(group, store), p.commands[len(p.writes)-1].with(sequence))
	}
	if n := len(p.writes); l.schedule != nil && n > 0 {
		first := l.schedule.take(n)
		for i := range p.writes {
			p.writes[i].start = l.schedule.at(first + int64(i))
		}
	}
	return len(p.writes) > 0
}

// propose proposes the batch and accounts for its writes. It returns false when
// the caller should rest.
func (p *batchPart) propose(ctx context.Context) bool {
	l := p.load
	submitted := l.clock.now()
	err := l.cluster.stores[p.store-1].ProposeBatch(p.batch)
	if err == nil {
		err = p.batch.Wait(ctx)
	}
	now := l.clock.now()
	rest := false
	p.rec.mu.Lock()
	defer p.rec.mu.Unlock()
	for i, w := range p.writes {
		failed := err
		if failed == nil {
			_, failed = p.batch.Result(i)
		}
		if failed != nil {
			rest = l.reroute(p.rec.failedLocked(failed), failed, w.group, w.store) || rest
			continue
		}
		if l.schedule == nil {
			w.start = submitted
		}
		p.rec.okLocked(opWrite, now-w.start)
		p.rec.ackedLocked(w.group, w.sequence)
	}
	return !rest
}
