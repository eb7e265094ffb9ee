package engine

import (
	"context"
	"time"

	"multiraft/wire"
)

// Staleness tells what a read that asked nobody has seen.
type Staleness struct {
	// Applied is the last entry that the machine had applied, Committed the last one
	// that this replica knew to be committed.
	Applied, Committed wire.Index
	// Age bounds how old the state was: every write that was acknowledged longer ago
	// is in it. It is measured by this store's clock, from before the newest index
	// was asked for that a leader has confirmed and that is applied. Known is false
	// when there is none since the group was started here: on a healthy replica too,
	// leader or not, until a Read or ReadStale ran on it.
	Age   time.Duration
	Known bool
}

// age is the bound in s, the longest there is when none is known.
func (s *Staleness) age() time.Duration {
	if !s.Known {
		return anyAge
	}
	return s.Age
}

// ReadStale runs query on the state machine of this replica when its state is
// known to be at most maxAge old, and tells how old it may be. Else it confirms an
// index first, as Read does; with a maxAge of zero it always does.
//
// Rounds of Read and ReadStale keep the state young: with a steady flow of reads
// that bear the same maxAge, there is one round per maxAge.
//
// An index that took longer to confirm than maxAge makes the age larger than that:
// the value is then as new as that of Read. So it is when the clock turned out to be
// wrong meanwhile; the age is then unknown, and the longest Duration is returned.
func (g *Group) ReadStale(ctx context.Context, query any, maxAge time.Duration) (value any, age time.Duration, err error) {
	value, s, err := g.read(ctx, &readRequest{query: query, direct: maxAge > 0, aged: &agedRead{maxAge: maxAge}})
	return value, s.age(), err
}

// ReadStaleAsync is ReadStale without a goroutine that waits; see ReadAsync.
func (g *Group) ReadStaleAsync(query any, maxAge time.Duration, done func(value any, age time.Duration, err error)) error {
	if done == nil {
		return ErrNoNotifier
	}
	return g.replica.enqueueDirect(&readRequest{query: query, direct: maxAge > 0, aged: &agedRead{maxAge: maxAge,
		tell: func(value any, s Staleness, err error) { done(value, s.age(), err) }}})
}

// ReadLocal runs query on the state machine of this replica, however old its state
// is, and tells what is known about that. It sends nothing, and works without a
// leader. An age is known only where Read or ReadStale have been called, see
// [Staleness].
func (g *Group) ReadLocal(ctx context.Context, query any) (any, Staleness, error) {
	return g.read(ctx, &readRequest{query: query, direct: true, aged: &agedRead{maxAge: anyAge}})
}

// ReadLocalAsync is ReadLocal without a goroutine that waits; see ReadAsync.
func (g *Group) ReadLocalAsync(query any, done func(any, Staleness, error)) error {
	if done == nil {
		return ErrNoNotifier
	}
	return g.replica.enqueueDirect(&readRequest{query: query, direct: true, aged: &agedRead{maxAge: anyAge, tell: done}})
}

// agedRead is what a read needs besides that tells how old it may be.
type agedRead struct {
	maxAge    time.Duration
	tell      func(any, Staleness, error) // nil: somebody waits
	staleness Staleness
}

// anyAge is a maxAge that is never exceeded, not even by an unknown age.
const anyAge = time.Duration(1<<63 - 1)

// read waits for a request that tells a Staleness.
func (g *Group) read(ctx context.Context, req *readRequest) (any, Staleness, error) {
	if err := ctx.Err(); err != nil {
		return nil, Staleness{}, err
	}
	req.done = make(chan struct{}, 1)
	if err := g.replica.enqueueDirect(req); err != nil {
		return nil, Staleness{}, err
	}
	select {
	case <-req.done:
		return req.value, req.aged.staleness, req.err
	case <-ctx.Done():
		return nil, Staleness{}, ctx.Err()
	}
}

// enqueueDirect hands a request to the applier, past the core, or into the mailbox
// when it wants an index confirmed in any case.
func (r *replica) enqueueDirect(req *readRequest) error {
	if !req.direct {
		return r.enqueueRead(req)
	}
	if err := r.state(); err != nil {
		return err
	}
	if err := r.repairing(); err != nil {
		return err
	}
	r.store.metrics.staleReads.Add(1)
	r.toApplier(applyTask{kind: taskReadDirect, replica: r, reads: []*readRequest{req}})
	return nil
}

// freshness is what the applier knows about the age of a machine's state: all that
// was acknowledged before at is in it.
type freshness struct {
	at    time.Duration // by the store's clock
	epoch uint64
	known bool
}

// noteFresh notes that an index that was asked for is applied.
func (r *replica) noteFresh(t *readTerms) {
	f := &r.apply.fresh
	if !f.known || f.epoch != t.epoch || t.started > f.at {
		*f = freshness{at: t.started, epoch: t.epoch, known: true}
	}
}

// stalenessOf returns what is known about the machine's state now.
func (a *applier) stalenessOf(r *replica) Staleness {
	s := Staleness{Applied: wire.Index(r.applied.Load())}
	s.Committed = max(s.Applied, wire.Index(r.committed.Load()))
	if now, f := a.store.clock.read(), &r.apply.fresh; f.known && f.epoch == now.epoch {
		s.Age, s.Known = now.time-f.at, true
	}
	return s
}

// serveDirect serves a read without an index, if the state is young enough.
func (a *applier) serveDirect(r *replica, req *readRequest) {
	if err := r.state(); err != nil {
		a.endReads([]*readRequest{req}, err)
		return
	}
	if r.apply.restoring {
		r.apply.direct = append(r.apply.direct, req) // until the machine is whole again
		return
	}
	if s, most := a.stalenessOf(r), req.aged.maxAge; most != anyAge && (!s.Known || s.Age > most) {
		req.direct = false
		if err := r.enqueueRead(req); err != nil {
			a.endReads([]*readRequest{req}, err)
		}
		return
	}
	if err := a.query(r, req); err != nil {
		a.endReads([]*readRequest{req}, err)
		return
	}
	a.finishRead(r, req) // the age anew: the query may have taken long
}

// finishRead wakes who waits for a read that was served.
func (a *applier) finishRead(r *replica, req *readRequest) {
	if req.aged != nil {
		req.aged.staleness = a.stalenessOf(r)
	}
	req.finish()
}

// resumeDirect serves what waited for the machine to be restored, or ends it.
func (a *applier) resumeDirect(r *replica) {
	list := r.apply.direct
	r.apply.direct = nil
	for _, req := range list {
		a.serveDirect(r, req)
	}
}
