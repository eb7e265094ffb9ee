package engine

import "time"

// noteClock tells the core what a clock that stood still, or was wrong, means for
// it.
func (r *replica) noteClock(now clockReading) {
	if now.lost > r.lost {
		r.core.Lost(now.lost - r.lost)
		r.lost = now.lost
	}
	if now.epoch != r.epoch {
		r.core.VoidLease()
		r.epoch = now.epoch
	}
}

// readByLease sends reads to the applier without asking anybody, if this replica
// leads by a lease. now was read after the reads came. The applier serves them only
// if, after the queries have run, the lease still holds.
func (w *worker) readByLease(r *replica, read *waitingRead, now clockReading) bool {
	index, until, ok := r.core.LeaseIndex(now.tick)
	if !ok {
		return false
	}
	w.store.metrics.leaseReads.Add(int64(len(read.requests)))
	q := &w.apply[r.applier.at]
	q.tasks = append(q.tasks, applyTask{kind: taskRead, replica: r, reads: read.requests, last: index,
		terms: &readTerms{started: now.time, epoch: now.epoch, until: until}})
	return true
}

// readTerms are what goes with a confirmed index.
type readTerms struct {
	started time.Duration // by the store's clock, before it was asked for
	epoch   uint64        // of the clock at that time
	until   uint64        // first tick at which it may be old; zero: it was confirmed
}

// serveByLease runs queries, and then looks whether the lease held meanwhile. If it
// did not, a majority is asked, and the queries run again.
func (a *applier) serveByLease(r *replica, read *indexedRead) {
	list := read.requests
	for i, req := range list {
		if err := a.query(r, req); err != nil {
			a.endReads(list[i:], err)
			list = list[:i]
			break
		}
	}
	if a.store.clock.before(read.terms.until, read.terms.epoch) {
		for _, req := range list {
			a.finishRead(r, req)
		}
		return
	}
	for _, req := range list {
		req.value, req.err, req.confirm = nil, nil, true
		if err := r.enqueueRead(req); err != nil {
			req.err = err
			req.finish()
		}
	}
}
