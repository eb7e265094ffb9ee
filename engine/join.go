package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"multiraft/wire"
)

// JoinRequest says that a replica was added to a group on this store, which does
// not run it yet.
type JoinRequest struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
	// From is the store of the group's leader.
	From wire.StoreID
}

// joinWish is a request and the replica that made it.
type joinWish struct {
	JoinRequest
	leader wire.ReplicaID
}

// joinQueue holds what leaders asked for until somebody asks the embedder.
// Leaders ask again with each heartbeat, so nothing needs to be kept for long.
type joinQueue struct {
	mu   sync.Mutex // guards the fields below; a leaf lock
	list []joinWish
	// until is when a group may be asked for again: never while it is in the list
	// or with the embedder, some ticks later after a refusal.
	until map[wire.GroupID]uint64
	wake  chan struct{} // holds a signal per goroutine
}

const (
	// maxJoins bounds the groups in a joinQueue.
	maxJoins = 1 << 10
	// joinLoops is how many groups are joined at a time: machines may have to be
	// opened for them.
	joinLoops = 4
)

// wantJoin notes that a leader wants a replica to run here.
//
// REQUIRES: s.mu is held, for reading at least.
func (s *Store) wantJoin(from wire.StoreID, m *wire.Message) {
	if s.cfg.Join == nil && s.repairs.lostStart(m.Group) == nil || m.To == 0 {
		s.metrics.strayMessages.Add(1)
		return
	}
	q := &s.joins
	now := s.now.Load()
	q.mu.Lock()
	defer q.mu.Unlock()
	if until, ok := q.until[m.Group]; ok && now < until {
		return
	}
	if len(q.until) >= maxJoins {
		for id, until := range q.until {
			if until <= now {
				delete(q.until, id)
			}
		}
	}
	if len(q.until) >= maxJoins {
		return
	}
	q.until[m.Group] = never
	q.list = append(q.list, joinWish{JoinRequest{Group: m.Group, Replica: m.To, From: from}, m.From})
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// joinStep asks the embedder for one replica and starts it. It tells whether
// there was one to ask for.
func (s *Store) joinStep() bool {
	if s.repairStep() {
		return true
	}
	q := &s.joins
	q.mu.Lock()
	if len(q.list) == 0 || s.state() != nil {
		q.mu.Unlock()
		return false
	}
	req := q.list[0]
	if q.list = q.list[1:]; len(q.list) == 0 {
		q.list = nil
	}
	q.mu.Unlock()
	err := s.join(req)
	q.mu.Lock()
	if err == nil {
		delete(q.until, req.Group)
	} else {
		q.until[req.Group] = s.now.Load() + uint64(s.electionTicks())
	}
	q.mu.Unlock()
	level := zap.WarnLevel
	if errors.Is(err, ErrStored) || errors.Is(err, ErrGroupExists) || errors.Is(err, errWho) {
		level = zap.DebugLevel // the embedder is about to start it, or just did, or the leader to answer
	}
	if err != nil && s.state() == nil {
		s.cfg.Logger.Log(level, "replica was added here and does not run", zap.Uint64("group", uint64(req.Group)),
			zap.Uint64("replica", uint64(req.Replica)), zap.Uint64("asked by", uint64(req.From)), zap.Error(err))
	}
	return true
}

// asksFirst tells whether a store must not run a replica before it has asked about it:
// it has lost its disk and knows nothing of the group, or a part of its log, or knows that
// a replica is lost; what it knows may be of an older one than ran last. Leaders ask for
// every learner: one that had a vote before may have promised something here. So the
// store says that it is lost, whichever it is, and takes the one that comes in its place.
func (s *Store) asksFirst(req *joinWish, stored *descriptor, damaged bool) bool {
	return (s.cfg.DiskLost && stored.members == nil || stored.lost() || damaged) && !s.cfg.DisableRepair && s.knows(req.From, wire.Rejoin)
}

// join starts an added replica, if this store has nothing of it yet.
func (s *Store) join(req joinWish) error {
	var d descriptor
	damaged := false
	log := s.log.Find(req.Group) // whoever asks leaves no trace here
	if log != nil {
		_, wounded := log.Wound() // only entries are missing
		damaged = log.Err() != nil && !wounded
	}
	if log != nil && len(log.Meta()) > 0 {
		var err error
		d, err = decodeDescriptor(log.Meta())
		switch {
		case err != nil:
			return fmt.Errorf("group %d: stored descriptor: %w", req.Group, err)
		case d.recovery != nil && d.recovery.Bars(req.leader):
			return &BarredError{Group: req.Group, Replica: req.leader, Generation: d.recovery.Generation}
		case !d.gone() && req.Replica <= d.Replica:
			return fmt.Errorf("group %d: %w: replica %d", req.Group, ErrStored, d.Replica)
		case req.Replica <= d.Replica:
			return &ReplicaRemovedError{Group: req.Group, Replica: d.Replica}
		}
	}
	if _, runs := s.Group(req.Group); runs {
		return fmt.Errorf("group %d: %w", req.Group, ErrGroupExists) // nothing of it is stored yet
	}
	if s.asksFirst(&req, &d, damaged) {
		// StartGroup may be about to say the same, and how to start the successor.
		s.addLost(&repair{kind: repairLost, group: req.Group, id: d.Replica, peers: s.whomToAsk(&d, &GroupConfig{}), recovery: d.recovery})
	}
	if s.repairs.asksWho(req.Group, req.From) {
		return fmt.Errorf("group %d: %w", req.Group, errWho)
	}
	if d.Replica != 0 && !d.gone() && !d.lost() && !damaged { // what is lost goes when its successor begins
		if err := s.buryOlder(req.Group, &d); err != nil {
			return err
		}
	}
	var cfg GroupConfig
	switch start := s.repairs.lostStart(req.Group); {
	case start != nil:
		cfg, cfg.Snapshot = *start, ""
	case s.cfg.Join == nil:
		return nil // the lost replica that it was for has come back otherwise
	default:
		var err error
		if cfg, err = s.cfg.Join(req.JoinRequest); err != nil {
			return err
		}
	}
	cfg.ID, cfg.Replica, cfg.Join, cfg.Members = req.Group, req.Replica, true, nil
	_, err := s.StartGroup(context.Background(), cfg)
	if err == nil {
		s.metrics.joined.Add(1)
	}
	return err
}

// buryOlder drops what is left of a replica that another one takes the place of. That
// is durable before the embedder hears of the other: it may empty what the machine of
// the older one has kept.
func (s *Store) buryOlder(id wire.GroupID, d *descriptor) error {
	if err := s.reserve(id); err != nil {
		return err
	}
	defer s.unreserve(id)
	return s.buryStored(id, d.Replica, d.Replica, d.members.Index)
}

// joinLoop ends when stopped is closed.
func (s *Store) joinLoop() {
	defer s.loops.Done()
	for {
		for s.joinStep() {
		}
		select {
		case <-s.joins.wake:
		case <-s.stopped:
			return
		}
	}
}
