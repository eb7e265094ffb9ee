package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"multiraft/engine"
)

// clock gives monotonic nanoseconds since the load began.
type clock struct{ base time.Time }

func newClock() clock { return clock{base: time.Now()} }

// now costs some 25 ns; callers share one reading among operations.
func (c clock) now() int64 { return int64(time.Since(c.base)) }

// Latencies are kept from 1 µs to 10 min with three digits; longer ones count
// as 10 min. Finer than a microsecond is below what the timestamps mean.
const (
	minLatency    = int64(time.Microsecond)
	maxLatency    = int64(10 * time.Minute)
	latencyDigits = 3
)

func newHistogram() *hdr.Histogram { return hdr.New(minLatency, maxLatency, latencyDigits) }

// opKind is what an operation does.
type opKind uint8

const (
	opWrite opKind = iota
	opRead
	opKinds
)

// failure is a kind of error of an operation.
type failure uint8

const (
	noFailure failure = iota
	failNotLeader
	failLeadershipLost
	failDropped
	failBusy
	failNoLeader
	failStopped
	failCanceled
	failOther
	failures
)

var failureNames = [failures]string{
	failNotLeader:      "not_leader",
	failLeadershipLost: "leadership_lost",
	failDropped:        "dropped",
	failBusy:           "busy",
	failNoLeader:       "no_leader",
	failStopped:        "stopped",
	failCanceled:       "canceled",
	failOther:          "other",
}

// classify tells the kind of an error that an operation ended with.
func classify(err error) failure {
	var (
		notLeader *engine.NotLeaderError
		failed    *engine.GroupFailedError
		store     *engine.StoreFailedError
	)
	if err == engine.ErrBusy { // under overload, most of all
		return failBusy
	}
	switch {
	case err == nil:
		return noFailure
	// What a group or store failed of may itself be one of the errors below.
	case errors.As(err, &failed), errors.As(err, &store):
		return failStopped
	case errors.As(err, &notLeader):
		return failNotLeader
	case errors.Is(err, engine.ErrLeadershipLost):
		return failLeadershipLost
	case errors.Is(err, engine.ErrProposalDropped):
		return failDropped
	case errors.Is(err, engine.ErrBusy):
		return failBusy
	case errors.Is(err, engine.ErrNoLeader):
		return failNoLeader
	case errors.Is(err, engine.ErrClosed), errors.Is(err, engine.ErrGroupStopped), errors.Is(err, engine.ErrUnknownGroup):
		return failStopped
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return failCanceled
	}
	return failOther
}

// recorder gathers the outcome of operations of one part of the load. Every
// part has its own, so that there is little contention; they are merged when a
// total is asked for.
//
// Appliers of a store, or clients, take the lock once per batch of completions.
type recorder struct {
	mu        sync.Mutex
	open      bool                    // the measured window is open
	latency   [opKinds]*hdr.Histogram // of the window; nil for kinds that do not occur
	ops       [opKinds]uint64         // in the window
	total     uint64                  // completed since the load began
	errors    [failures]uint64        // since the load began
	lastError [failures]error
	refused   uint64   // with [engine.ErrBusy], in the window
	acked     []bitmap // by active group; nil unless verified
	stale     []Difference
}

func newRecorder(cfg *Config) *recorder {
	r := &recorder{}
	if cfg.Workload != WorkloadRead {
		r.latency[opWrite] = newHistogram()
	}
	if cfg.reads() {
		r.latency[opRead] = newHistogram()
	}
	if cfg.Verify {
		r.acked = make([]bitmap, cfg.activeGroups())
	}
	return r
}

// ok counts n operations that took the given time. The lock must be held.
//
//mr:hotpath
func (r *recorder) okLocked(kind opKind, nanoseconds int64) {
	r.total++
	if !r.open {
		return
	}
	r.ops[kind]++
	// The bounds make RecordValue succeed.
	_ = r.latency[kind].RecordValue(min(max(nanoseconds, 0), maxLatency))
}

// ackedLocked notes an acknowledged write. The lock must be held.
//
//mr:hotpath
func (r *recorder) ackedLocked(group uint32, sequence uint64) {
	if r.acked != nil {
		r.acked[group].set(sequence)
	}
}

// failedLocked counts an operation without an answer. The lock must be held.
func (r *recorder) failedLocked(err error) failure {
	kind := classify(err)
	r.errors[kind]++
	r.lastError[kind] = err
	if kind == failBusy && r.open {
		r.refused++
	}
	return kind
}

func (r *recorder) failed(err error) failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failedLocked(err)
}

func (r *recorder) staleRead(d Difference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stale = append(r.stale, d)
}

// openWindow starts the measured window.
func (r *recorder) openWindow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = true
}

// closeWindow ends it. What completes later is still acknowledged and its
// errors count.
func (r *recorder) closeWindow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = false
}

// totals are the merged recorders of a load.
type totals struct {
	latency [opKinds]*hdr.Histogram
	ops     [opKinds]uint64
	total   uint64
	errors  [failures]uint64
	refused uint64 // in the window
}

func newTotals() *totals {
	t := &totals{}
	for kind := range t.latency {
		t.latency[kind] = newHistogram()
	}
	return t
}

// merge replaces t by the sum of the recorders. It allocates nothing, since it
// runs within the measured window for the live progress.
func (t *totals) merge(recorders []*recorder) {
	for _, h := range t.latency {
		h.Reset()
	}
	t.ops, t.total, t.errors, t.refused = [opKinds]uint64{}, 0, [failures]uint64{}, 0
	for _, r := range recorders {
		r.mu.Lock()
		for kind, h := range r.latency {
			if h != nil {
				// All histograms have the same bounds, so nothing is dropped.
				t.latency[kind].Merge(h)
			}
			t.ops[kind] += r.ops[kind]
		}
		t.total += r.total
		t.refused += r.refused
		for kind, n := range r.errors {
			t.errors[kind] += n
		}
		r.mu.Unlock()
	}
}

// windowOps is the number of operations completed in the window.
func (t *totals) windowOps() uint64 { return t.ops[opWrite] + t.ops[opRead] }

func (t *totals) errorCount() (n uint64) {
	for _, c := range t.errors {
		n += c
	}
	return n
}

// all returns one histogram of all kinds of operations. It consumes t's.
func (t *totals) all() *hdr.Histogram {
	h := newHistogram()
	for _, k := range t.latency {
		h.Merge(k)
	}
	return h
}
