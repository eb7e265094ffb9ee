package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/internal/planted"
	"multiraft/internal/snapfile"
	"multiraft/wire"
)

// A snapshot is made in three steps, of which only the first holds up the group,
// and only for as long as the machine takes to capture its state:
//
//	applier:  Snapshotter.Snapshot, between two calls of Apply
//	job:      WriteTo into a file, while Apply goes on; the file becomes durable
//	turn:     the log is compacted, but for some entries

// snapPlan is what the applier keeps of a replica whose machine makes snapshots.
type snapPlan struct {
	// These never change, and others read them too.
	machine Snapshotter
	durable Durable // nil unless the machine keeps its state itself
	// entries and bytes are after how much log the next snapshot is due.
	entries uint64
	bytes   int64
	keep    wire.Index // see Config.KeepEntries

	// reported is what a durable machine had when the log was last compacted for
	// it; stored by the applier, read by the loop.
	reported atomic.Uint64

	base  wire.Index // of the newest snapshot, or what a durable machine had
	grown int64      // bytes applied since
	taken int64      // of those, what the capture on its way holds
	size  int64      // of the newest snapshot
	asked bool       // one is on its way
	retry wire.Index // not before this index, after one that failed
}

// writeAmplification bounds what automatic snapshots cost: no more than this
// many bytes of snapshots are written for each byte of commands.
const writeAmplification = 4

// due tells whether the log has grown enough for another snapshot.
//
//mr:hotpath
func (p *snapPlan) due(applied wire.Index) bool {
	if p.asked || uint64(applied-p.base) < p.entries && p.grown < p.bytes {
		return false
	}
	return applied >= p.retry && p.grown >= p.size/writeAmplification
}

// newSnapPlan returns the plan for a machine, nil when it makes no snapshots.
func (s *Store) newSnapPlan(cfg *GroupConfig) *snapPlan {
	machine, ok := cfg.StateMachine.(Snapshotter)
	if !ok {
		return nil
	}
	p := &snapPlan{machine: machine, entries: cfg.SnapshotEntries, bytes: cfg.SnapshotBytes, keep: wire.Index(cfg.KeepEntries)}
	set(&p.entries, s.cfg.SnapshotEntries)
	set(&p.bytes, s.cfg.SnapshotBytes)
	set(&p.keep, wire.Index(s.cfg.KeepEntries))
	p.durable, _ = cfg.StateMachine.(Durable)
	return p
}

// grown is called when the log of a group has grown enough.
func (a *applier) grown(r *replica, applied wire.Index) {
	p := r.apply.plan
	if p.durable == nil {
		p.asked = true
		a.store.snaps.post(snapEvent{kind: snapMake, replica: r})
		return
	}
	// What the machine has durably needs no log, and no snapshot before a
	// follower asks for one.
	index, err := appliedIndex(p.durable)
	if err != nil || index <= p.base {
		p.retry = applied + retryEntries(p)
		a.store.snaps.note("durable index of a state machine", snapfile.Name{Group: r.id, Index: applied}, err)
		return
	}
	p.base, p.grown = index, 0
	p.reported.Store(uint64(min(index, applied)))
	a.store.snaps.post(snapEvent{kind: snapReported, replica: r}) // it knows what receivers need
}

// retryEntries is how much more log there must be after a failure.
func retryEntries(p *snapPlan) wire.Index { return wire.Index(max(1, p.entries/8)) }

// appliedIndex calls AppliedIndex and turns a panic into an error.
func appliedIndex(d Durable) (index wire.Index, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return d.AppliedIndex()
}

// making is one wish for a snapshot, or several for the same one.
type making struct {
	replica  *replica
	captured bool       // later wishes are for the next one
	index    wire.Index // of what was captured
	discard  bool       // a received file of that index is not wanted, if it is there alone
	notify   []func(wire.Index, error)
	again    []func(wire.Index, error)
	wanted   bool // again, be it that nobody is to be told
}

// Snapshot makes a snapshot of the group's state on this replica, unless there
// is one of all that is applied, and returns the index of the last entry in it
// when it is durable. The log is then compacted as after an automatic one.
//
// It returns [ErrNoSnapshotter] when the state machine makes none and
// [ErrNothingApplied] when it would be empty. When ctx ends first, its error is
// returned and the snapshot is made all the same.
func (g *Group) Snapshot(ctx context.Context) (wire.Index, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	type outcome struct {
		index wire.Index
		err   error
	}
	done := make(chan outcome, 1)
	if err := g.SnapshotAsync(func(index wire.Index, err error) { done <- outcome{index, err} }); err != nil {
		return 0, err
	}
	select {
	case o := <-done:
		return o.index, o.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-g.store.stopped:
		return 0, ErrClosed
	}
}

// SnapshotAsync is Snapshot without a goroutine that waits: done is called once,
// on a goroutine of the store, and must not block. After an error, or when the
// store is closed, done is not called.
func (g *Group) SnapshotAsync(done func(wire.Index, error)) error {
	if done == nil {
		return ErrNoNotifier
	}
	if err := g.replica.state(); err != nil {
		return err
	}
	g.store.snaps.post(snapEvent{kind: snapMake, replica: g.replica, notify: done})
	return nil
}

// want notes a wish.
func (n *snapshots) want(r *replica, notify func(wire.Index, error)) {
	m := n.making[r]
	if m == nil {
		m = &making{replica: r}
		n.making[r] = m
		n.waiting = append(n.waiting, m)
	}
	list := &m.notify
	if m.captured {
		list, m.wanted = &m.again, true
	}
	if notify != nil {
		*list = append(*list, notify)
	}
}

// startMaking asks appliers for captures while there is room.
func (n *snapshots) startMaking() (did bool) {
	for len(n.waiting) > 0 && n.writing < n.store.cfg.MaxSnapshots {
		m := n.waiting[0]
		n.waiting = slices.Delete(n.waiting, 0, 1)
		n.writing++
		m.replica.toApplier(applyTask{kind: taskCapture, replica: m.replica})
		did = true
	}
	return did
}

// toApplier hands one task to the replica's applier, from outside a round.
func (r *replica) toApplier(t applyTask) {
	q := applyQueue{tasks: []applyTask{t}}
	r.applier.hand(&q)
}

// capture is a state that waits to be written.
type capture struct {
	writer  io.WriterTo
	index   wire.Index
	term    wire.Term
	members *wire.Membership
}

// taskCapture: it is between two calls of Apply.
func (a *applier) capture(r *replica) {
	e := snapEvent{kind: snapCaptured, replica: r}
	if p := r.apply.plan; p != nil {
		p.taken = p.grown
	}
	e.capture, e.index, e.err = a.captureState(r)
	if e.capture != nil {
		r.apply.away++
	} else {
		a.wrote(r, e.index, 0, e.err)
	}
	a.store.snaps.post(e)
}

// captureState returns a capture, or the index of a snapshot that holds all that
// is applied.
func (a *applier) captureState(r *replica) (*capture, wire.Index, error) {
	index := wire.Index(r.applied.Load())
	switch {
	case r.apply.over != nil:
		return nil, 0, r.apply.over
	case r.ending() != nil:
		return nil, 0, r.ending()
	case r.apply.plan == nil:
		return nil, 0, fmt.Errorf("group %d: %w", r.id, ErrNoSnapshotter)
	case r.apply.restoring:
		return nil, 0, ErrInstalling
	case index == 0:
		return nil, 0, ErrNothingApplied
	case index < r.apply.members.Index || len(r.apply.members.Members) == 0:
		// After a start, the membership at this index is not known.
		return nil, 0, fmt.Errorf("%w: the membership of entry %d is in force", ErrNothingApplied, r.apply.members.Index)
	}
	if newest, ok := a.store.snaps.newest(r.id); ok && newest == index {
		return nil, index, nil
	}
	term, err := r.log.Term(index)
	if err != nil {
		return nil, 0, fmt.Errorf("group %d: term of the last applied entry: %w", r.id, err)
	}
	if planted.Is(planted.StaleSnapshot) && r.log.Last() > index {
		index++
	}
	writer, err := snapshotOf(r.apply.plan.machine)
	if err != nil {
		var p *PanicError
		if errors.As(err, &p) {
			r.fail(err)
		}
		return nil, 0, fmt.Errorf("group %d: capture the state: %w", r.id, err)
	}
	return &capture{writer: writer, index: index, term: term, members: r.apply.members}, index, nil
}

// snapshotOf calls Snapshot and turns a panic into an error.
func snapshotOf(machine Snapshotter) (w io.WriterTo, err error) {
	defer func() {
		if v := recover(); v != nil {
			w, err = nil, &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	w, err = machine.Snapshot()
	if err == nil && w == nil {
		err = errNoWriter
	}
	return w, err
}

// captured goes on with what the applier says.
func (n *snapshots) captured(e *snapEvent) {
	m := n.making[e.replica]
	if e.capture == nil {
		n.finishMaking(m, e.index, e.err)
		return
	}
	m.captured, m.index = true, e.index
	meta := snapfile.Meta{
		Cluster: n.store.cfg.Cluster, Store: n.store.cfg.ID, Group: m.replica.id, Index: e.index, Term: e.capture.term,
		Nonce: n.store.seeds.Uint64(), ChunkBytes: n.store.cfg.SnapshotChunkBytes, Members: *e.capture.members,
	}
	c, r := e.capture, m.replica
	n.run(func() {
		info, err := n.write(r, c, meta)
		if closer, ok := c.writer.(io.Closer); ok {
			err = errors.Join(err, closer.Close())
		}
		n.post(snapEvent{kind: snapMade, replica: r, index: c.index, info: info, err: err})
	})
}

// write is the job of a capture.
func (n *snapshots) write(r *replica, c *capture, meta snapfile.Meta) (info *snapfile.Info, err error) {
	w, err := n.dir.Create(meta)
	if err != nil {
		return nil, err
	}
	if err := writeTo(c.writer, &pacedWriter{n, r, w}); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w.Commit()
}

// writeTo calls WriteTo and turns a panic into an error.
func writeTo(from io.WriterTo, to io.Writer) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	_, err = from.WriteTo(to)
	return err
}

// pacedWriter writes no faster than the store's rate, and not at all for a
// replica that stops.
type pacedWriter struct {
	n *snapshots
	r *replica
	w io.Writer
}

func (p *pacedWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		if err := p.r.state(); err != nil {
			return n, err
		}
		piece := b[:min(len(b), pacedBytes)]
		if !p.n.store.stepped {
			p.n.diskRate.wait(len(piece))
		}
		var k int
		k, err = p.w.Write(piece)
		b, n = b[k:], n+k
	}
	return n, err
}

// pacedBytes is how much a state machine writes between two looks at the rate.
const pacedBytes = 256 << 10

// made takes over a file that a job has written.
func (n *snapshots) made(e *snapEvent) {
	m, r := n.making[e.replica], e.replica
	name := snapfile.Name{Group: r.id, Index: e.index}
	bytes := int64(0)
	if e.err == nil {
		bytes = int64(e.info.Bytes)
		n.store.metrics.snapshotsMade.Add(1)
		n.publish(name)
		n.compactable(r)
		if check := n.store.cfg.Logger.Check(zap.DebugLevel, "made a snapshot"); check != nil {
			check.Write(zap.Uint64("group", uint64(r.id)), zap.Uint64("index", uint64(e.index)), zap.Int64("bytes", bytes))
		}
	}
	r.toApplier(applyTask{kind: taskWrote, replica: r, last: e.index, bytes: bytes, err: e.err})
	n.finishMaking(m, e.index, e.err)
	if m.discard && e.err != nil {
		n.discard(name)
	}
}

// finishMaking tells those who wait, and goes on with later wishes.
func (n *snapshots) finishMaking(m *making, index wire.Index, err error) {
	n.writing--
	delete(n.making, m.replica)
	if err != nil && m.replica.state() == nil && !errors.Is(err, ErrNoSnapshotter) && !errors.Is(err, ErrNothingApplied) {
		n.failed("make a snapshot", snapfile.Name{Group: m.replica.id, Index: index}, err)
	}
	if err != nil {
		index = 0
	}
	for _, notify := range m.notify {
		notify(index, err)
	}
	if m.wanted {
		n.want(m.replica, nil)
		n.making[m.replica].notify = m.again
	}
}

// wrote is called on the applier when a capture has become a file, or will not.
func (a *applier) wrote(r *replica, index wire.Index, bytes int64, err error) {
	p := r.apply.plan
	if p == nil {
		return
	}
	p.asked = false
	if err != nil {
		p.retry = wire.Index(r.applied.Load()) + retryEntries(p)
		return
	}
	if index > p.base {
		p.base, p.grown = index, max(0, p.grown-p.taken)
	}
	p.taken = 0
	if bytes > 0 {
		p.size = bytes
	}
	// As much may have been applied meanwhile, and nothing more may come.
	if applied := wire.Index(r.applied.Load()); r.ending() == nil && p.due(applied) {
		a.grown(r, applied)
	}
}

// snapMail is what waits for the next turn of a replica, about snapshots.
type snapMail struct {
	// compact is up to where the log is not needed any more, hold what a snapshot
	// on its way to a follower needs of it; zero is none.
	compact, hold wire.Index
	reports       []sendReport
	install       *install // whose file is whole
	stored        bool     // the log begins behind the install
	restored      *install // the machine has its state
}

// sendReport is what became of a snapshot for a peer.
type sendReport struct {
	to    wire.ReplicaID
	term  wire.Term // in which the core asked
	index wire.Index
	ok    bool
}

// postSnap changes what waits for the next turn, and wakes the group. It returns
// false when there will be no turn.
func (r *replica) postSnap(change func(*snapMail)) bool {
	r.mu.Lock()
	if r.box.closed {
		r.mu.Unlock()
		return false
	}
	o := r.box.order()
	if o.snap == nil {
		o.snap = &snapMail{}
	}
	change(o.snap)
	r.mu.Unlock()
	r.store.sched.Set(r.slot, flagControl)
	return true
}

// compact drops the log up to index, but for what followers are likely to need:
// some entries always, and on a leader as much again for those that are being
// sent entries right now, who would otherwise need the whole state.
func (w *worker) compact(r *replica, index, hold wire.Index) {
	s := w.store
	if r.apply.plan == nil {
		return
	}
	// A snapshot may be ahead of a durable machine, which has started from its own
	// state and is given the entries in between.
	if index = min(index, wire.Index(r.applied.Load())); index <= r.apply.plan.keep {
		return
	}
	keep := r.apply.plan.keep
	to, least := index-keep, index-min(index, keep+keep)
	if hold != 0 {
		to = min(to, hold)
	}
	if r.core.Role() == group.Leader {
		var st group.Status
		r.core.Status(&st)
		for i := range st.Progress {
			if p := &st.Progress[i]; p.RecentActive && p.State == "replicate" {
				to = min(to, max(p.Match, least))
			}
		}
	}
	if to < r.log.First() {
		return
	}
	if planted.Is(planted.CompactAll) {
		to = wire.Index(r.applied.Load())
	}
	term, err := r.log.Term(to)
	if err != nil {
		s.snaps.note("compact", snapfile.Name{Group: r.id, Index: to}, err)
		return
	}
	w.log.Compact(r.log, to, term)
}
