package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"multiraft/group"
	"multiraft/internal/snapfile"
	"multiraft/raftlog"
	"multiraft/wire"
)

// Damage that is found while a replica runs, by whoever reads its log, makes it a
// wounded one in a turn:
//
//	applier, Maintain ──order──▶ turn ─▶ hurt ──leads──▶ hands over, goes on meanwhile
//	core, for a peer ───Hurt───▶           │
//	                                       └─▶ core.Wound, mark in the round's batch ─▶ Repair
//
// The mark comes behind everything that the core handed out before, in the log as in
// the queue, and names the last of it.

// reportDamage tells the next turn that the log cannot be read. It returns false
// when there will be none.
func (r *replica) reportDamage(err error, applying bool) bool {
	r.mu.Lock()
	if r.box.closed {
		r.mu.Unlock()
		return false
	}
	o := r.box.order()
	o.hurt, o.starving = err, o.starving || applying
	r.mu.Unlock()
	r.store.sched.Set(r.slot, flagControl)
	return true
}

// fitness returns how well the replica fares: one that cannot read its log should
// not lead, as one on a slow disk.
func (r *replica) fitness(store group.Fitness) group.Fitness {
	if r.hurt != nil && store == group.Fit {
		return group.Slow
	}
	return store
}

// noteHurt begins to deal with a log that cannot be read.
func (w *worker) noteHurt(r *replica, err error, starving bool, now uint64) {
	r.starving = r.starving || starving
	if r.hurt == nil && r.wound.Load() == nil {
		r.hurt, r.hurtUntil = err, now+uint64(woundPatience*w.store.electionTicks())
	}
}

// tendHurt goes on with it. It returns false when the replica has failed.
func (w *worker) tendHurt(r *replica, now uint64) bool {
	if r.core.Role() == group.Leader {
		if r.othersVote() && now < r.hurtUntil {
			return true // it hands over, see fitness
		}
		if !r.othersVote() && !r.starving {
			// Nobody could repair it, and its machine has all that is damaged: the
			// next snapshot lets go of the entries.
			r.hurt = nil
			w.store.snaps.post(snapEvent{kind: snapMake, replica: r})
			return true
		}
	}
	if w.wound(r, r.hurt) {
		return true
	}
	w.giveUp(r, r.hurt)
	return false
}

// othersVote tells whether the group has other voters. One that joins does not know
// them yet, and was added by them.
func (r *replica) othersVote() bool {
	return r.joining || slices.ContainsFunc(r.members.Load().wire.Members, func(m Member) bool {
		return m.Replica != r.self && m.Role&wire.Voter != 0
	})
}

// wound makes the replica one that waits for a snapshot. It returns false when that
// would not help it.
func (w *worker) wound(r *replica, err error) bool {
	s := w.store
	var at *raftlog.CorruptionError
	if s.cfg.DisableRepair || r.apply.plan == nil || !r.othersVote() || !errors.As(err, &at) || r.core.Wound() != nil {
		return false
	}
	last, term, _ := r.core.Wounded()
	w.log.Wound(r.log, last, term, at)
	r.hurt, r.starving = nil, false
	r.wound.Store(&wound{last, term, err})
	q := &w.apply[r.applier.at]
	for _, read := range r.reads {
		q.tasks = append(q.tasks, applyTask{kind: taskReadFailed, replica: r, reads: read.requests, err: r.repairing()})
	}
	r.reads = nil
	s.sched.Set(r.slot, flagControl) // for what it says to the others
	s.addRepair(&repair{kind: repairState, group: r.id, id: r.self})
	s.noteDamage(Damage{Group: r.id, Replica: r.self, InPlace: true, Err: err})
	return true
}

// giveUp ends a replica that cannot go on, and asks for another in its place if its
// store could start that one.
func (w *worker) giveUp(r *replica, err error) {
	s := w.store
	r.fail(err)
	if s.cfg.DisableRepair || s.cfg.Join == nil || !r.othersVote() || !errors.Is(err, wire.ErrDamaged) {
		return
	}
	// The mark has its successor become what it was, in a later life of the store too.
	d := r.lastDescription()
	d.State |= wire.Lost
	w.log.Meta(r.log, d.encode())
	s.addRepair(&repair{kind: repairLost, group: r.id, id: r.self, known: true, peers: s.whomToAsk(&d, &GroupConfig{}), recovery: d.recovery})
	s.noteDamage(Damage{Group: r.id, Replica: r.self, Err: err})
}

// repairing returns why a wounded replica answers no reads, nil for others.
func (r *replica) repairing() error {
	w := r.wound.Load()
	if w == nil {
		return nil
	}
	return &RepairingError{Group: r.id, Replica: r.self, Err: w.err}
}

// noteHealed is called when a wounded replica goes on from a snapshot.
func (r *replica) noteHealed() {
	if r.wound.Swap(nil) != nil {
		r.store.metrics.healed.Add(1)
		r.store.noteWhole(r.id, r.self)
	}
}

// beginOrWait is begin, except that a replica that lacks a part of what it has
// promised nothing about begins as a wounded one.
func (s *Store) beginOrWait(ctx context.Context, r *replica, cfg *GroupConfig, d *descriptor, isNew bool) (wire.Index, error) {
	if !isNew {
		if err := s.mendFromFile(ctx, r, d); err != nil {
			return 0, err
		}
		if err := r.log.Err(); err != nil {
			if !d.othersVote() {
				return 0, fmt.Errorf("group %d: stored log, and no other replica votes: %w", r.id, err)
			}
			return 0, r.beginWounded(err)
		}
	}
	applied, err := s.begin(ctx, r, cfg, d, isNew)
	waits := r.apply.plan != nil && !s.cfg.DisableRepair
	switch {
	case err != nil && waits && !isNew && isDamagedSnapshot(err) && d.othersVote():
		return 0, r.beginWounded(err)
	case err == nil && d.joining() && applied > r.log.Last():
		// The machine holds state of an earlier replica.
		if !waits {
			return 0, fmt.Errorf("group %d: a replica that joins begins with nothing, and its state machine is at %d: %w", r.id, applied, ErrNoSnapshotter)
		}
		return 0, r.beginWounded(errMachineAhead)
	}
	return applied, err
}

// othersVote tells whether the stored membership has voters on other stores, or is
// still to come from them.
func (d *descriptor) othersVote() bool {
	return d.joining() || slices.ContainsFunc(d.members.Members, func(m Member) bool { return m.Replica != d.Replica && m.Role&wire.Voter != 0 })
}

// beginWounded notes with what log a replica waits for the state of its group: all
// that it ever acknowledged is in there, or was.
func (r *replica) beginWounded(err error) error {
	last := r.log.Last()
	term, termErr := r.log.Term(last)
	if termErr != nil {
		return errors.Join(err, termErr)
	}
	r.wound.Store(&wound{last, term, err})
	return nil
}

// startRepair has the store see to what a replica lacks that has just begun.
func (s *Store) startRepair(r *replica, predecessor *descriptor) {
	if w := r.wound.Load(); w != nil {
		s.noteDamage(Damage{Group: r.id, Replica: r.self, InPlace: true, Err: w.err})
		s.addRepair(&repair{kind: repairState, group: r.id, id: r.self})
	}
	switch {
	case r.rising:
		s.addRepair(&repair{kind: repairRise, group: r.id, id: r.self})
	case predecessor != nil:
		s.noteReplaced(r.id, r.self)
	}
	if err := r.log.Hurt(); err != nil {
		r.reportDamage(err, false)
	}
}

// mendFromFile lifts a wound when a snapshot that is stored here reaches as far: one
// that was received when the store ended, or an own one of all that it had.
func (s *Store) mendFromFile(ctx context.Context, r *replica, d *descriptor) error {
	at, ok := r.log.Wound()
	if !ok {
		return nil
	}
	s.snaps.pin(r.id)
	defer s.snaps.unpin(r.id)
	for _, index := range s.snaps.candidates(r.id) {
		info, err := s.snaps.verify(snapfile.Name{Group: r.id, Index: index})
		if err != nil || info.Cluster != s.cfg.Cluster || info.Term < at.Term || info.Term == at.Term && info.Index < at.Index ||
			info.Term > r.log.HardState().Term || info.Index < r.log.HardState().Commit {
			continue
		}
		newer := info.Members.Index > d.members.Index && info.Members.Index >= r.floor() || len(d.members.Members) == 0
		if newer {
			*d = r.description(&info.Members)
		}
		return s.persist(ctx, func(b *raftlog.Batch) {
			b.Restart(r.log, info.Index, info.Term)
			if newer {
				b.Meta(r.log, d.encode())
			}
		})
	}
	return nil
}

// isDamagedSnapshot tells whether a start failed because a snapshot is damaged or
// gone, and not because it could not be read this time.
func isDamagedSnapshot(err error) bool {
	var failed *SnapshotError
	var damage *snapfile.DamageError
	return errors.As(err, &failed) && (errors.As(err, &damage) || errors.Is(err, fs.ErrNotExist))
}
