package engine

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"

	"multiraft/group"
	"multiraft/wire"
)

// readRequest is one linearizable read on its way.
type readRequest struct {
	query  any
	value  any
	err    error
	done   chan struct{}    // holds one signal
	notify func(any, error) // called instead of done
	aged   *agedRead        // of a read that tells how old it may be, else nil
	// direct: served without an index if the state is young enough.
	direct bool
	// confirm: not by a lease, because one has ended while the query ran.
	confirm bool
}

// finish wakes who waits.
func (q *readRequest) finish() {
	if q.aged != nil && q.aged.tell != nil {
		q.aged.tell(q.value, q.aged.staleness, q.err)
		return
	}
	if q.notify != nil {
		q.notify(q.value, q.err)
		return
	}
	q.done <- struct{}{}
}

var readRequests = sync.Pool{New: func() any { return &readRequest{done: make(chan struct{}, 1)} }}

// waitingRead is what waits for the core's answer to one ReadIndex.
type waitingRead struct {
	context  uint64 // zero while no leader is known to ask
	expires  uint64 // tick
	requests []*readRequest
	terms    *readTerms // once asked for
	confirm  bool       // one of requests is not to be served by a lease
	asker    *asker     // who waits in place of requests, see confirmAnswer
}

// readElections is how many election time-outs a read waits for a leader before it
// ends with ErrNoLeader.
const readElections = 3

// Read runs query on the state machine of this replica and returns a value that
// reflects every write acknowledged anywhere before Read was called (thesis,
// section 6.4). Reads that come together share one round of
// messages to the other voters, and rounds of all groups of a store share frames.
// Read works on followers, which ask the leader for the index.
//
// While no leader is known the read waits for one, for three election time-outs;
// then it returns ErrNoLeader. When ctx ends first, its error is returned.
func (g *Group) Read(ctx context.Context, query any) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	req := readRequests.Get().(*readRequest)
	req.query = query
	if err := g.replica.enqueueRead(req); err != nil {
		return nil, err
	}
	select {
	case <-req.done:
		value, err := req.value, req.err
		req.query, req.value, req.err, req.confirm = nil, nil, nil, false
		readRequests.Put(req)
		return value, err
	case <-ctx.Done():
		return nil, ctx.Err() // the applier still holds req; it is not reused
	}
}

// ReadAsync is Read without a goroutine that waits: done is called once, on the
// applier's goroutine, and must not block. After an error done is not called.
func (g *Group) ReadAsync(query any, done func(value any, err error)) error {
	if done == nil {
		return ErrNoNotifier
	}
	return g.replica.enqueueRead(&readRequest{query: query, notify: done})
}

// enqueueRead puts a read into the mailbox.
func (r *replica) enqueueRead(req *readRequest) error {
	if err := r.state(); err != nil {
		return err
	}
	if err := r.repairing(); err != nil {
		return err
	}
	r.mu.Lock()
	if r.box.closed {
		r.mu.Unlock()
		return r.refuseClosed()
	}
	r.box.reads = append(r.box.reads, req)
	first := len(r.box.reads) == 1
	r.mu.Unlock()
	switch {
	case first && r.store.leases && r.isLeader():
		r.store.sched.Set(r.slot, flagMessage) // most probably sends nothing
	case first:
		r.store.readGate.arrive(r.slot)
	}
	return nil
}

// startReads takes over the reads of a mailbox. They are sent on their way by
// sendReads, in this turn if a leader is known.
func (w *worker) startReads(r *replica, requests []*readRequest, now uint64) {
	w.store.metrics.reads.Add(int64(len(requests)))
	read := waitingRead{requests: requests, expires: now + uint64(readElections*w.store.electionTicks())}
	if w.store.leases {
		for _, req := range requests {
			read.confirm = read.confirm || req.confirm
		}
	}
	r.reads = append(r.reads, read)
}

// sendReads asks the core to confirm an index for the reads that wait for a
// leader: new ones, and those that a change of leaders has dropped.
func (w *worker) sendReads(r *replica, now clockReading) {
	if r.core.Leader() == 0 {
		return
	}
	// A group that owes answers already may be slow to give them, and must not keep
	// the gate closed for the others.
	prompt := r.reads[0].context == 0
	kept := r.reads[:0]
	for _, read := range r.reads {
		if read.context == 0 {
			if w.store.leases && !read.confirm && w.readByLease(r, &read, now) {
				continue
			}
			read.terms = w.beginRead()
			read.context = w.store.readContext.Add(1)
			if err := r.core.ReadIndex(read.context); err != nil {
				q := &w.apply[r.applier.at]
				q.tasks = append(q.tasks, applyTask{kind: taskReadFailed, replica: r, reads: read.requests, err: readRefusal(err)})
				continue
			}
			w.readsAsked = w.readsAsked || prompt
		}
		kept = append(kept, read)
	}
	clear(r.reads[len(kept):])
	r.reads = kept
}

// beginRead returns the terms of an index that is asked for now. The clock is read
// once in a round of the worker: earlier than need be is on the safe side.
func (w *worker) beginRead() *readTerms {
	if w.readTerms == nil {
		now := w.store.clock.read()
		w.readTerms = &readTerms{started: now.time, epoch: now.epoch}
	}
	return w.readTerms
}

// readRefusal turns the core's word into the engine's.
func readRefusal(err error) error {
	switch {
	case errors.Is(err, group.ErrNoLeader):
		return ErrNoLeader
	case errors.Is(err, group.ErrBusy):
		return ErrBusy
	}
	return err
}

// finishRead passes the requests behind a confirmed index to the applier.
// Dropped ones wait for the next leader.
func (w *worker) finishRead(r *replica, read group.ReadState) {
	q := &w.apply[r.applier.at]
	for i := range r.reads {
		if r.reads[i].context != read.Context {
			continue
		}
		if read.Dropped {
			r.reads[i].context = 0
			return
		}
		if a := r.reads[i].asker; a != nil {
			r.reads = append(r.reads[:i], r.reads[i+1:]...)
			w.takeRejoin(r, a.store, &a.wish, true)
			return
		}
		q.tasks = append(q.tasks, applyTask{kind: taskRead, replica: r, reads: r.reads[i].requests, last: read.Index, terms: r.reads[i].terms})
		r.reads = append(r.reads[:i], r.reads[i+1:]...)
		return
	}
}

// expireReads gives up on answers that were lost on the way.
func (w *worker) expireReads(r *replica, now uint64) {
	for len(r.reads) > 0 && r.reads[0].expires <= now {
		q := &w.apply[r.applier.at]
		q.tasks = append(q.tasks, applyTask{kind: taskReadFailed, replica: r, reads: r.reads[0].requests, err: ErrNoLeader})
		r.reads = r.reads[1:]
	}
	if len(r.reads) == 0 {
		r.reads = nil
	}
}

// serveApplied serves the reads whose index is applied now.
func (a *applier) serveApplied(r *replica, applied wire.Index) {
	if len(r.apply.reads) == 0 {
		return
	}
	kept := r.apply.reads[:0]
	for _, read := range r.apply.reads {
		if read.index <= applied {
			a.serveReads(r, &read)
		} else {
			kept = append(kept, read)
		}
	}
	clear(r.apply.reads[len(kept):])
	r.apply.reads = kept
}

// serveReads runs queries and wakes their callers.
func (a *applier) serveReads(r *replica, read *indexedRead) {
	r.noteFresh(read.terms)
	if read.terms.until != 0 {
		a.serveByLease(r, read)
		return
	}
	for i, req := range read.requests {
		if err := a.query(r, req); err != nil {
			a.endReads(read.requests[i:], err)
			return
		}
		a.finishRead(r, req)
	}
}

// query runs one query. It returns an error when the replica has ended.
func (a *applier) query(r *replica, req *readRequest) error {
	if err := r.ending(); err != nil {
		return err
	}
	req.value, req.err = queryOn(r.apply.machine, req.query)
	if p, ok := req.err.(*PanicError); ok {
		r.fail(p)
	}
	return nil
}

// queryOn calls Query and turns a panic into an error.
func queryOn(machine StateMachine, query any) (value any, err error) {
	defer func() {
		if v := recover(); v != nil {
			value, err = nil, &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return machine.Query(query)
}

// endReads wakes callers with an error.
func (a *applier) endReads(requests []*readRequest, err error) {
	for _, req := range requests {
		req.value, req.err = nil, err
		req.finish()
	}
}
