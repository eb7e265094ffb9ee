package engine

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// applier runs the state machines of its share of the groups and completes
// their proposals and reads. Its queue is filled by workers at the end of their
// rounds; everything below run belongs to its goroutine.
type applier struct {
	store *Store
	at    int

	mu    sync.Mutex
	queue applyQueue
	wake  chan struct{} // holds one signal

	run     applyQueue
	entries []Entry
	done    []*Pending
	out     outboxes // results of forwarded proposals
	buf     []byte
}

// applyQueue is a list of tasks and the blocks they refer to.
type applyQueue struct {
	tasks  []applyTask
	blocks []wire.Block
	bytes  int64 // of the blocks
}

type taskKind uint8

const (
	taskProposed   taskKind = iota // pending proposals took [first, first+len)
	taskResults                    // pending proposals have their results from another store
	taskRefused                    // pending proposals never got an index
	taskCommitted                  // entries [first, last] are committed
	taskRead                       // reads may be served once last is applied
	taskReadDirect                 // a read that may need no index
	taskReadFailed                 // reads end with err
	taskLost                       // all proposals with an index end with err
	taskCapture                    // the state is to be captured for a snapshot
	taskWrote                      // a captured state is a file, or will not be
	taskRestore                    // a snapshot takes the place of the state
	taskRestored                   // the machine has taken it, or not
	taskChanged                    // a request for another membership has its outcome
	taskEnd                        // the replica stops: everything ends with err
)

type applyTask struct {
	kind        taskKind
	replica     *replica
	first, last wire.Index
	term        wire.Term
	lo, hi      int // blocks of a committed range; none: read them from the log
	bytes       int64
	pending     []*Pending
	reads       []*readRequest
	terms       *readTerms // of the index of reads
	change      *memberRequest
	install     *install
	membership  *wire.Membership // that entry last makes, or the outcome of change
	err         error
}

// applyState is what the applier keeps of a replica.
type applyState struct {
	machine StateMachine
	// members is the membership at the applied index, unless its own index is
	// higher: after a start, the one at the applied index is not known before
	// that has come so far.
	members *wire.Membership
	runs    []pendingRun // in the order of their indexes; complete from the front
	reads   []indexedRead
	direct  []*readRequest // that came while the machine was being restored
	fresh   freshness
	ended   chan struct{} // closed when the replica has stopped

	care      care
	stop      wire.Index // no call of Apply goes beyond it
	plan      *snapPlan  // nil when the machine makes no snapshots
	away      int        // jobs that use the machine
	restoring bool       // one of them gives it another state
	broken    bool       // entries are missing that cannot be read; a snapshot has them
	over      error      // why the replica has ended, though jobs may be under way
}

// pendingRun waits for the entries [first, first+len(list)) of one term. It
// completes by position: no map and no id.
type pendingRun struct {
	first, next wire.Index // next is the first that is not complete
	term        wire.Term
	list        []*Pending
}

// indexedRead waits for an index to be applied.
type indexedRead struct {
	index    wire.Index
	requests []*readRequest
	terms    *readTerms
}

const (
	// maxApplyEntries bounds the entries of one Apply call.
	maxApplyEntries = 4096
	// applyReadBytes is how much of the log is read back at once.
	applyReadBytes = 1 << 20
)

func newApplier(s *Store, at int) *applier {
	return &applier{store: s, at: at, wake: make(chan struct{}, 1)}
}

// hand takes over a worker's tasks and empties its queue.
//
//mr:hotpath
func (a *applier) hand(q *applyQueue) {
	if len(q.tasks) == 0 {
		return
	}
	a.store.applyBytes.Add(q.bytes)
	a.mu.Lock()
	if len(a.queue.tasks) == 0 {
		a.queue, *q = *q, a.queue
	} else {
		base := len(a.queue.blocks)
		for i := range q.tasks {
			q.tasks[i].lo += base
			q.tasks[i].hi += base
		}
		a.queue.tasks = append(a.queue.tasks, q.tasks...)
		a.queue.blocks = append(a.queue.blocks, q.blocks...)
		a.queue.bytes += q.bytes
	}
	a.mu.Unlock()
	q.reset()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// reset empties the queue and lets go of what it referred to.
//
//mr:hotpath
func (q *applyQueue) reset() {
	clear(q.tasks)
	clear(q.blocks)
	q.tasks, q.blocks, q.bytes = q.tasks[:0], q.blocks[:0], 0
}

// step does everything in the queue. It tells whether there was anything.
//
//mr:hotpath
func (a *applier) step() bool {
	a.mu.Lock()
	a.run, a.queue = a.queue, a.run
	a.mu.Unlock()
	if len(a.run.tasks) == 0 {
		return false
	}
	for i := range a.run.tasks {
		a.task(&a.run.tasks[i])
	}
	a.notify()
	if a.store.failure.Load() != nil {
		a.out.discard() // a store that has failed is silent: origins hear no answer
	} else {
		a.out.flush(a.store)
	}
	a.store.applied(a.run.bytes)
	a.run.reset()
	return true
}

//mr:hotpath
func (a *applier) task(t *applyTask) {
	r := t.replica
	switch t.kind {
	case taskProposed:
		if err := r.ending(); err != nil {
			a.endList(r, t.pending, err)
			return
		}
		r.apply.runs = append(r.apply.runs, pendingRun{first: t.first, next: t.first, term: t.term, list: t.pending})
	case taskResults:
		a.finishList(r, t.pending)
	case taskRefused:
		a.endList(r, t.pending, t.err)
	case taskCommitted:
		a.committed(r, t, a.run.blocks[t.lo:t.hi])
		if t.membership != nil && r.ending() == nil {
			r.apply.members = t.membership
		}
	case taskRead:
		read := indexedRead{index: t.last, requests: t.reads, terms: t.terms}
		if !r.apply.restoring && (wire.Index(r.applied.Load()) >= t.last || planted.Is(planted.ReadBeforeApplied)) {
			a.serveReads(r, &read)
			return
		}
		r.apply.reads = append(r.apply.reads, read)
	case taskReadDirect:
		a.serveDirect(r, t.reads[0])
	case taskReadFailed:
		a.endReads(t.reads, t.err)
	case taskLost:
		a.endRuns(r, t.err)
	case taskCapture:
		a.capture(r)
	case taskWrote:
		a.wrote(r, t.last, t.bytes, t.err)
		a.back(r)
	case taskRestore:
		a.restore(r, t.install)
	case taskRestored:
		a.takeBack(r, t.install)
	case taskChanged:
		t.changed()
	case taskEnd:
		a.endRuns(r, t.err)
		for _, read := range r.apply.reads {
			a.endReads(read.requests, t.err)
		}
		r.apply.reads = nil
		a.endReads(r.apply.direct, t.err)
		r.apply.direct = nil
		a.notify()
		if r.apply.over = t.err; r.apply.away == 0 {
			close(r.apply.ended)
			r.noteEnded()
		}
	}
}

// ending returns why the replica's state machine must not be called any more.
func (r *replica) ending() error {
	if failed := r.failed.Load(); failed != nil {
		return failed
	}
	if diverged := r.diverged.Load(); diverged != nil {
		return diverged
	}
	return nil
}

// committed applies the entries of a committed range.
//
//mr:hotpath
func (a *applier) committed(r *replica, t *applyTask, blocks []wire.Block) {
	if r.ending() != nil || r.apply.broken {
		return
	}
	if len(blocks) == 0 {
		a.committedFromLog(r, t.first, t.last)
		return
	}
	if r.apply.plan != nil {
		r.apply.plan.grown += t.bytes
	}
	for _, block := range blocks {
		if !a.gather(r, block, t.first, t.last) {
			return
		}
	}
	a.applyGathered(r, t.last)
}

// committedFromLog applies entries that are not in memory any more, or not yet
// after a start.
func (a *applier) committedFromLog(r *replica, first, last wire.Index) {
	if planted.Is(planted.ApplyTwice) && first > r.log.First() {
		first--
	}
	if planted.Is(planted.ApplySkips) && first < last {
		first++
	}
	for first <= last {
		var err error
		a.buf, err = r.log.Blocks(first, last+1, applyReadBytes, a.buf[:0])
		if errors.Is(err, wire.ErrCompacted) && uint64(last) < r.installing.Load() {
			return // the log goes on behind a snapshot that holds them
		}
		if errors.Is(err, wire.ErrDamaged) && r.reportDamage(err, true) {
			r.apply.broken = true
			return
		}
		if err != nil {
			r.fail(fmt.Errorf("read committed entries [%d,%d]: %w", first, last, err))
			return
		}
		if r.apply.plan != nil {
			r.apply.plan.grown += int64(len(a.buf))
		}
		rest := a.buf
		from := first
		for len(rest) > 0 {
			var block wire.Block
			if block, rest, err = wire.ParseBlock(rest); err != nil {
				r.fail(fmt.Errorf("read committed entries from %d: %w", first, err))
				return
			}
			if !a.gather(r, block, first, last) {
				return
			}
			first = block.Last() + 1
		}
		if first == from {
			r.fail(fmt.Errorf("read committed entries from %d: %w", first, wire.ErrUnavailable))
			return
		}
		if !a.applyGathered(r, min(first-1, last)) {
			return
		}
	}
}

// gather adds the commands of block within [first, last] to the entries to
// apply. It returns false when the state machine failed.
//
//mr:hotpath
func (a *applier) gather(r *replica, block wire.Block, first, last wire.Index) bool {
	if block.Kind() != wire.EntryCommand {
		return true
	}
	term, index := block.Term(), block.First()
	var command []byte
	for payloads := block.Payloads(); ; index++ {
		var ok bool
		if command, payloads, ok = wire.NextPayloadOf(payloads, len(command)); !ok {
			if command, payloads, ok = wire.NextPayload(payloads); !ok {
				return true
			}
		}
		if index < first || index > last {
			continue
		}
		for index > r.apply.stop {
			if !a.applyGathered(r, r.apply.stop) {
				return false
			}
		}
		if index <= r.apply.care.to {
			if skip, ok := a.careful(r, index); !ok {
				return false
			} else if skip {
				continue
			}
		}
		if len(a.entries) == maxApplyEntries && !a.applyGathered(r, a.entries[maxApplyEntries-1].Index) {
			return false
		}
		a.entries = append(a.entries, Entry{Index: index, Term: term, Command: command})
	}
}

// applyGathered calls the state machine with the gathered entries and completes
// what waited for anything up to index last.
//
//mr:hotpath
func (a *applier) applyGathered(r *replica, last wire.Index) bool {
	if len(a.entries) > 0 {
		if err := applyTo(r.apply.machine, a.entries); err != nil {
			err = a.store.poison(r, a.entries[0].Index, a.entries[len(a.entries)-1].Index, err)
			clear(a.entries)
			a.entries = a.entries[:0]
			r.fail(err)
			return false
		}
		a.store.metrics.applied.Add(int64(len(a.entries)))
	}
	if d := r.digests; d != nil && !a.noteResults(r, d, last) {
		clear(a.entries)
		a.entries = a.entries[:0]
		return false
	}
	a.complete(r, last)
	clear(a.entries)
	a.entries = a.entries[:0]
	r.applied.Store(uint64(last))
	if r.starved.Load() {
		a.store.sched.Set(r.slot, flagApply)
	}
	a.serveApplied(r, last)
	if p := r.apply.plan; p != nil && p.due(last) {
		a.grown(r, last)
	}
	return true
}

// applyTo calls Apply and turns a panic into an error.
func applyTo(machine StateMachine, entries []Entry) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return machine.Apply(entries)
}

// complete finishes the pending proposals up to index last with the results of
// the gathered entries. A proposal whose index now holds an entry of another
// term, or none of a client's, was replaced.
//
//mr:hotpath
func (a *applier) complete(r *replica, last wire.Index) {
	runs := r.apply.runs
	at, finished := 0, 0
	for i := range runs {
		run := &runs[i]
		end := run.first + wire.Index(len(run.list))
		bytes := int64(0)
		for run.next < end && run.next <= last {
			for at < len(a.entries) && a.entries[at].Index < run.next {
				at++
			}
			p := run.list[run.next-run.first]
			if at < len(a.entries) && a.entries[at].Index == run.next && a.entries[at].Term == run.term {
				p.result, p.err = a.entries[at].Result, nil
			} else {
				p.result, p.err = Result{}, ErrProposalDropped
			}
			bytes += int64(p.bytes)
			p.bytes = 0
			a.done = append(a.done, p)
			run.next++
		}
		a.store.inflightBytes.Add(-bytes)
		r.inflightBytes.Add(-bytes)
		if run.next < end {
			break
		}
		a.store.pendings.put(run.list)
		finished++
	}
	if finished > 0 {
		n := copy(runs, runs[finished:])
		clear(runs[n:])
		r.apply.runs = runs[:n]
	}
}

// notify hands completed proposals to their notifiers, neighbours with the same
// one together.
//
//mr:hotpath
func (a *applier) notify() {
	for from := 0; from < len(a.done); {
		to := from + 1
		for to < len(a.done) && a.done[to].notifier == a.done[from].notifier {
			to++
		}
		a.done[from].notifier.ProposalsDone(a.done[from:to])
		from = to
	}
	clear(a.done)
	a.done = a.done[:0]
}

// endList completes proposals with an error.
func (a *applier) endList(r *replica, list []*Pending, err error) {
	for _, p := range list {
		p.result, p.err = Result{}, err
	}
	a.finishList(r, list)
}

// finishList completes proposals that have their results.
func (a *applier) finishList(r *replica, list []*Pending) {
	bytes := int64(0)
	for _, p := range list {
		bytes += int64(p.bytes)
		p.bytes = 0
		a.done = append(a.done, p)
	}
	a.store.inflightBytes.Add(-bytes)
	r.inflightBytes.Add(-bytes)
	a.store.pendings.put(list)
}

// endRuns completes everything that has an index with an error.
func (a *applier) endRuns(r *replica, err error) {
	for i := range r.apply.runs {
		run := &r.apply.runs[i]
		// Those before next were completed with their results.
		list := run.list[:copy(run.list, run.list[run.next-run.first:])]
		a.endList(r, list, err)
	}
	r.apply.runs = nil
}
