package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"slices"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/internal/snapfile"
	"multiraft/raftlog"
	"multiraft/wire"
)

// A received snapshot takes the place of log and state in four steps. A crash
// between any two of them leaves either the old state, or a file that the next
// start finishes the install from:
//
//	loop:    the file is whole and durable under its name
//	turn:    the core agrees; one log batch has the restart of the log behind the
//	         snapshot and the membership. The core is left alone from here on
//	applier: once that is durable, the machine takes the state, on a goroutine of
//	         its own. What is committed before and not applied yet may be skipped
//	turn:    the core goes on from the snapshot
//
// Until then the replica neither votes nor promises anything. What peers send is
// dropped, as raft bears; proposals are refused; reads wait.

// install is a snapshot that takes the place of log and state.
type install struct {
	info *snapfile.Info
	ack  group.Ack // of the log, for the core when it goes on
	err  error     // why the machine did not take it
}

func (i *install) name() snapfile.Name {
	return snapfile.Name{Group: i.info.Group, Index: i.info.Index}
}

func (i *install) state() group.SnapshotState {
	return group.SnapshotState{Index: i.info.Index, Term: i.info.Term, Members: &i.info.Members}
}

// turnSnapshots does what is due of snapshots before a turn. It returns true when
// the core must be left alone, and has then taken care of the mailbox.
//
// REQUIRES: turnMu is held, and the replica takes work.
func (w *worker) turnSnapshots(r *replica, box *mailbox, now uint64) (hold bool) {
	var mail *snapMail
	if box.orders != nil {
		mail = box.orders.snap
	}
	if mail != nil && mail.stored && r.install != nil {
		q := &w.apply[r.applier.at]
		q.tasks = append(q.tasks, applyTask{kind: taskRestore, replica: r, install: r.install})
	}
	if mail != nil && mail.restored != nil && mail.restored == r.install {
		if err := w.finishInstall(r, now); err != nil {
			r.fail(err)
			w.turnAway(r, box)
			return true
		}
	}
	if r.install != nil {
		w.holdInstall(r, box, now)
		return true
	}
	if mail == nil {
		return false
	}
	for _, report := range mail.reports {
		if report.term == r.core.Term() { // or an earlier leadership asked
			r.core.SnapshotSent(report.to, report.index, report.ok)
		}
	}
	if mail.compact != 0 {
		w.compact(r, mail.compact, mail.hold)
	}
	return false
}

// beginInstall puts the log behind a snapshot, unless the core has no use for it
// any more. It is the last that a turn does with the core.
func (w *worker) beginInstall(r *replica, in *install) (begun bool) {
	if err := r.core.CanRestore(in.state()); err != nil {
		if !errors.Is(err, group.ErrSnapshotOld) {
			w.store.snaps.failed("install a snapshot", in.name(), err)
		}
		w.store.snaps.post(snapEvent{kind: snapDiscard, group: r.id, index: in.info.Index})
		return false
	}
	// From here on the file is what the log begins behind: nothing may take it away,
	// and a start in the same process must find it, whatever becomes of the machine.
	if !w.store.snaps.adopt(in.name()) {
		return false // it was not wanted a moment ago; it is offered again
	}
	r.installing.Store(uint64(in.info.Index))
	// The restart stands first: a start that finds it without the members has them
	// from the file, but members without it would vouch for entries that the
	// snapshot contradicts.
	w.log.Restart(r.log, in.info.Index, in.info.Term)
	d := r.description(&in.info.Members)
	if at := in.info.Members.Index; at >= r.members.Load().wire.Index && at >= r.floor() {
		r.handed = &in.info.Members
		w.log.Meta(r.log, d.encode())
	}
	w.log.acks = append(w.log.acks, slotAck{replica: r, install: true})
	r.install = in
	// What waits for a word of the core would wait as long as the machine takes.
	w.endForwards(r, ErrNoAnswer)
	for _, t := range r.transfers {
		t.done <- ErrTransferFailed
	}
	r.transfers = nil
	w.store.sched.Set(r.slot, flagControl) // for the deadlines of what waits on
	return true
}

// installStored is called by the log when it goes on behind the snapshot.
func (r *replica) installStored() { r.postSnap(func(m *snapMail) { m.stored = true }) }

// holdInstall deals with a mailbox while the core is left alone.
func (w *worker) holdInstall(r *replica, box *mailbox, now uint64) {
	in := r.install
	if box.ack.Seq != 0 {
		if box.ack.Index == 0 {
			box.ack.Term, box.ack.Index = in.ack.Term, in.ack.Index
		}
		in.ack = box.ack
	}
	if len(box.reads) > 0 {
		w.startReads(r, box.reads, now)
		box.reads = nil
	}
	leader := r.leader()
	w.answer(r, box, &NotLeaderError{Group: r.id, Leader: leader.Replica, Store: leader.Store})
	w.expireReads(r, now)
	deadline := uint64(never)
	if len(r.reads) > 0 {
		deadline = r.reads[0].expires
	}
	w.store.sched.SetDeadline(r.slot, deadline)
}

// finishInstall has the core go on from the snapshot that the machine holds.
func (w *worker) finishInstall(r *replica, now uint64) error {
	in := r.install
	if in.err != nil {
		return &SnapshotError{Group: r.id, Index: in.info.Index, Err: in.err}
	}
	r.core.Clock(now)
	if err := r.core.Restore(in.state()); err != nil {
		return &SnapshotError{Group: r.id, Index: in.info.Index, Err: err}
	}
	r.install = nil
	r.hurt, r.starving = nil, false
	r.noteHealed()
	if in.ack.Seq != 0 {
		r.core.Persisted(in.ack)
	}
	w.noteMembers(r)
	w.store.metrics.snapshotsInstalled.Add(1)
	if told := w.store.cfg.Events.SnapshotInstalled; told != nil {
		w.store.events.call(func() { told(r.id, in.info.Index) })
	}
	if check := w.store.cfg.Logger.Check(zap.InfoLevel, "installed a snapshot"); check != nil {
		check.Write(zap.Uint64("group", uint64(r.id)), zap.Uint64("replica", uint64(r.self)), zap.Uint64("index", uint64(in.info.Index)),
			zap.Uint64("bytes", in.info.Bytes))
	}
	return nil
}

// restore is called on the applier: nothing of the old state is to be applied
// any more, and the machine is given away until the job is done.
func (a *applier) restore(r *replica, in *install) {
	if r.ending() != nil || r.apply.over != nil {
		return
	}
	// What waits for an index was proposed to another leader than the one whose
	// state comes; it may be in there or not.
	a.endRuns(r, ErrLeadershipLost)
	r.apply.restoring = true
	r.apply.away++
	n := a.store.snaps
	n.run(func() {
		in.err = n.restoreFrom(r, r.apply.plan.machine, in.name())
		n.post(snapEvent{kind: snapRestored, replica: r, install: in})
	})
}

// restoreFrom gives a state machine the state in a file.
func (n *snapshots) restoreFrom(r *replica, machine Snapshotter, name snapfile.Name) error {
	file, release, err := n.open(name)
	if err != nil {
		return err
	}
	defer release()
	return restoreTo(machine, name.Index, &stoppedReader{r, file.Reader()})
}

// restoreTo calls Restore and turns a panic into an error. A machine that stops
// reading early has not seen whether the rest was right, so that is read for it.
func restoreTo(machine Snapshotter, index wire.Index, from io.Reader) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	if err := machine.Restore(index, from); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, from)
	return err
}

// stoppedReader reads nothing for a replica that stops.
type stoppedReader struct {
	r    *replica
	from io.Reader
}

func (s *stoppedReader) Read(b []byte) (int, error) {
	if err := s.r.state(); err != nil {
		return 0, err
	}
	return s.from.Read(b)
}

// restored goes on when the machine has the state, or has not.
func (n *snapshots) restored(e *snapEvent) {
	if e.install.err == nil {
		n.prune(e.install.info.Group)
	} else {
		n.failed("install a snapshot", e.install.name(), e.install.err)
	}
	e.replica.toApplier(applyTask{kind: taskRestored, replica: e.replica, install: e.install})
}

// takeBack is called on the applier when the machine has the state, or not.
func (a *applier) takeBack(r *replica, in *install) {
	r.apply.restoring = false
	if in.err == nil {
		r.apply.broken = false
		p := r.apply.plan
		p.base, p.grown, p.size = in.info.Index, 0, int64(in.info.Bytes)
		r.apply.members = &in.info.Members
		r.applied.Store(uint64(in.info.Index))
		r.apply.stop = r.digests.begin(in.info.Index)
	}
	r.postSnap(func(m *snapMail) { m.restored = in })
	if in.err == nil && r.ending() == nil {
		a.serveApplied(r, in.info.Index)
		a.resumeDirect(r)
	}
	a.back(r)
}

// back takes the machine back from a job, and ends a replica that waited for it.
func (a *applier) back(r *replica) {
	r.apply.away--
	if r.apply.over != nil && r.apply.away == 0 {
		close(r.apply.ended)
		r.noteEnded()
	}
}

// machineIndex returns the index of the last entry whose effect the machine has
// at the start.
func (c *GroupConfig) machineIndex() (wire.Index, error) {
	durable, ok := c.StateMachine.(Durable)
	if !ok {
		return 0, nil
	}
	index, err := appliedIndex(durable)
	if err != nil {
		return 0, fmt.Errorf("group %d: applied index: %w", c.ID, err)
	}
	return index, nil
}

// begin brings log and state machine to where the replica starts, from the
// newest snapshot as far as one is needed, and returns the last applied entry.
// An install that a crash interrupted is finished. d is what is stored of the
// group, and is changed when a snapshot knows a newer membership.
func (s *Store) begin(ctx context.Context, r *replica, cfg *GroupConfig, d *descriptor, isNew bool) (wire.Index, error) {
	if isNew {
		return s.beginNew(ctx, r, cfg, d)
	}
	index, err := cfg.machineIndex()
	if err != nil {
		return 0, err
	}
	info, err := s.usableSnapshot(r, index)
	if err != nil {
		return 0, err
	}
	if info != nil {
		machine, ok := cfg.StateMachine.(Snapshotter)
		if !ok {
			return 0, fmt.Errorf("group %d: start from a snapshot: %w", r.id, ErrNoSnapshotter)
		}
		if err := s.settleLog(ctx, r, info, d); err != nil {
			return 0, err
		}
		name := snapfile.Name{Group: r.id, Index: info.Index}
		if err := s.snaps.restoreFrom(r, machine, name); err != nil {
			return 0, &SnapshotError{Group: r.id, Index: info.Index, Err: err}
		}
		r.apply.plan.base, r.apply.plan.size = info.Index, int64(info.Bytes)
		return info.Index, nil
	}
	if index+1 < r.log.First() {
		return 0, fmt.Errorf("group %d: state machine is at %d, stored entries begin at %d: %w",
			r.id, index, r.log.First(), wire.ErrCompacted)
	}
	if p := r.apply.plan; p != nil {
		p.base = index
	}
	return index, nil
}

// usableSnapshot returns the newest sound snapshot that the replica has to start
// from, nil when it needs none: its machine has all that the log has not, and
// keeps it itself.
func (s *Store) usableSnapshot(r *replica, machine wire.Index) (*snapfile.Info, error) {
	// Each look at a file would otherwise remove what may have to be tried next.
	s.snaps.pin(r.id)
	info, damaged, err := s.chooseSnapshot(r, machine)
	if err != nil {
		// Nothing is removed: what to do is for an operator to say.
		s.snaps.unpin(r.id)
		return nil, err
	}
	s.snaps.drop(r.id, damaged)
	s.snaps.unpin(r.id)
	s.snaps.prune(r.id)
	return info, nil
}

// chooseSnapshot is usableSnapshot without a change to the files. It also returns
// those that are damaged.
func (s *Store) chooseSnapshot(r *replica, machine wire.Index) (info *snapfile.Info, damaged []wire.Index, err error) {
	var damage error
	for _, index := range s.snaps.candidates(r.id) {
		name := snapfile.Name{Group: r.id, Index: index}
		if index <= machine || index+1 < r.log.First() {
			break // what is older is no use either
		}
		var info *snapfile.Info
		var err error
		if machine+1 >= r.log.First() && machine > 0 && index <= r.log.Last() {
			if info, err = s.snaps.info(name); err == nil && r.holds(info) {
				break // the log has all that a durable machine lacks
			}
		}
		if err == nil {
			info, err = s.snaps.verify(name)
		}
		if err == nil && info.Cluster != s.cfg.Cluster {
			err = &snapfile.DamageError{Name: "snapshot", Err: fmt.Errorf("%w: it is of cluster %d", snapfile.ErrHeader, info.Cluster)}
		}
		var bad *snapfile.DamageError
		switch {
		case err == nil:
			return info, damaged, nil
		case errors.As(err, &bad), errors.Is(err, fs.ErrNotExist):
			s.snaps.failed("a stored snapshot is damaged", name, err)
			damage, damaged = errors.Join(damage, err), append(damaged, index)
		default:
			return nil, nil, &SnapshotError{Group: r.id, Index: index, Err: err}
		}
	}
	if damage != nil && machine+1 < r.log.First() {
		return nil, nil, &SnapshotError{Group: r.id, Index: r.log.First() - 1, Err: damage}
	}
	return nil, damaged, nil
}

// holds tells whether the log has the last entry of a snapshot, or begins behind
// it. A snapshot holds committed entries only, so all in front is the same too.
func (r *replica) holds(info *snapfile.Info) bool {
	term, err := r.log.Term(info.Index)
	return err == nil && term == info.Term
}

// candidates returns the snapshots of a group, newest first.
func (n *snapshots) candidates(id wire.GroupID) []wire.Index {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.files[id]
	if f == nil {
		return nil
	}
	list := slices.Clone(f.older)
	if f.newest != 0 {
		list = append(list, f.newest)
	}
	slices.Sort(list)
	slices.Reverse(list)
	return list
}

// info reads what a snapshot says of itself.
func (n *snapshots) info(name snapfile.Name) (*snapfile.Info, error) {
	file, release, err := n.open(name)
	if err != nil {
		return nil, err
	}
	defer release()
	info := *file.Info()
	return &info, nil
}

// verify reads a whole snapshot.
func (n *snapshots) verify(name snapfile.Name) (*snapfile.Info, error) {
	file, release, err := n.open(name)
	if err != nil {
		return nil, err
	}
	defer release()
	info := *file.Info()
	return &info, file.Verify()
}

// settleLog makes the log one that goes with a snapshot, where it is not: an
// install was interrupted before its batch was durable.
//
// What the log holds instead is not committed, or it would agree. Giving it up
// takes back what was promised about it only to leaders of terms that did not
// commit it.
func (s *Store) settleLog(ctx context.Context, r *replica, info *snapfile.Info, d *descriptor) error {
	term, err := r.log.Term(info.Index)
	agrees := err == nil && term == info.Term
	newer := info.Members.Index > d.members.Index && info.Members.Index >= r.floor() || len(d.members.Members) == 0
	if agrees && !newer {
		return nil
	}
	hs := r.log.HardState()
	if !agrees && hs.Commit >= info.Index {
		return &SnapshotError{Group: r.id, Index: info.Index, Err: fmt.Errorf("%w: entry %d is committed", errContradiction, hs.Commit)}
	}
	if newer {
		*d = r.description(&info.Members)
	}
	return s.persist(ctx, func(b *raftlog.Batch) {
		if info.Term > hs.Term {
			// The term is that of a committed entry, so there is no more to vote
			// about in those before.
			b.HardState(r.log, wire.HardState{Term: info.Term, Commit: hs.Commit})
		}
		if !agrees {
			b.Restart(r.log, info.Index, info.Term)
		}
		if newer {
			b.Meta(r.log, d.encode())
		}
	})
}

// persist makes changes of a group durable that does not run.
func (s *Store) persist(ctx context.Context, fill func(*raftlog.Batch)) error {
	b := s.batches.get()
	fill(&b.Batch)
	done := make(chan error, 1)
	b.done = done
	s.log.Submit(&b.Batch)
	if s.stepped {
		for s.log.Step() {
		}
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
