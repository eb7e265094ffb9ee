package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/scheduler"
	"multiraft/wire"
)

// Group is a handle on one group of a store. It stays valid after the group
// has stopped; calls then return ErrGroupStopped.
type Group struct {
	store   *Store
	replica *replica
}

// ID returns the id of the group.
func (g *Group) ID() wire.GroupID { return g.replica.id }

// Store returns the store that runs this replica.
func (g *Group) Store() *Store { return g.store }

// Leader returns the member that leads the group as far as this replica knows.
// It is the zero Member when none is known.
func (g *Group) Leader() Member { return g.replica.leader() }

// IsLeader tells whether this replica leads the group as far as it knows.
func (g *Group) IsLeader() bool { return g.replica.isLeader() }

// StoredGroup is a group that the store's log holds.
type StoredGroup struct {
	ID wire.GroupID
	// Replica is the one on this store.
	Replica wire.ReplicaID
	// Members are those that were stored last, none when the replica joins and
	// has heard of none.
	Members []Member
	// Barred says that the group was recovered from the loss of its quorum without
	// this replica: StartGroup refuses it with [*BarredError].
	Barred bool
	// Diverged says that the replica does not start again, see [DivergedError].
	Diverged bool
	// Damage is what was lost of it, nil when nothing was. StartGroup repairs what can
	// be. Replica is zero when not even that is known.
	Damage error
}

// Stored lists the groups in the store's log, by id, whether they run or not.
// After a restart, call StartGroup for those that shall go on.
func (s *Store) Stored() ([]StoredGroup, error) {
	if err := s.state(); err != nil {
		return nil, err
	}
	var list []StoredGroup
	for _, id := range s.log.Groups() {
		meta, damage := s.log.Group(id).Meta(), s.log.Group(id).Err()
		if len(meta) == 0 {
			if damage != nil {
				list = append(list, StoredGroup{ID: id, Damage: damage})
			}
			continue
		}
		d, err := decodeDescriptor(meta)
		if err != nil {
			return nil, fmt.Errorf("group %d: stored descriptor: %w", id, err)
		}
		if d.gone() {
			if damage != nil { // another replica may have come behind it
				list = append(list, StoredGroup{ID: id, Damage: damage})
			}
			continue
		}
		list = append(list, StoredGroup{ID: id, Replica: d.Replica, Members: d.members.Members, Barred: d.barred(), Diverged: d.diverged(), Damage: damage})
	}
	return list, nil
}

// StartGroup runs a replica of a group on this store. The first start writes
// the members to the log; later ones go on from what is stored, and the state
// machine is given all entries behind what it reports as applied (see
// [Durable]). A replica that was removed from its group is not started again:
// [*ReplicaRemovedError]; nor is one without which its group was recovered from the
// loss of its quorum: [*BarredError].
//
// It does not wait for a leader; ctx bounds nothing but the start itself.
func (s *Store) StartGroup(ctx context.Context, cfg GroupConfig) (*Group, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.state(); err != nil {
		return nil, err
	}
	if err := cfg.validate(s.cfg.ID); err != nil {
		return nil, fmt.Errorf("group %d: configuration: %w", cfg.ID, err)
	}
	if err := s.reserve(cfg.ID); err != nil {
		return nil, err
	}
	defer s.unreserve(cfg.ID)
	r := &replica{store: s, id: cfg.ID, log: s.log.Group(cfg.ID), digests: s.newDigests(&cfg)}
	r.apply.machine, r.apply.ended, r.logged = cfg.StateMachine, make(chan struct{}), make(chan struct{})
	r.apply.plan = s.newSnapPlan(&cfg)
	predecessor, err := s.checkLost(ctx, r, &cfg)
	if err != nil {
		return nil, err
	}
	d, isNew, err := r.agree(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	r.self, r.joining, r.recovery = d.Replica, d.joining(), d.recovery
	r.apply.care = s.newCare(&cfg)
	r.rising = d.rising() && !d.isVoter()
	applied, err := s.beginOrWait(ctx, r, &cfg, &d, isNew)
	if err != nil {
		return nil, err
	}
	r.joining = d.joining() // a snapshot may know that it was added
	r.applied.Store(uint64(applied))
	r.apply.stop = r.digests.begin(applied)
	r.apply.members = d.members
	if err := s.admit(r, d, isNew, applied, cfg.Priority); err != nil {
		return nil, err
	}
	if isNew && preferred(r.id, d.members) == r.self {
		r.turnMu.Lock()
		r.boot = bootCampaign{attempts: bootAttempts}
		r.turnMu.Unlock()
	}
	s.logStart(r, d.members)
	s.sched.Set(r.slot, flagControl)
	s.startRepair(r, predecessor)
	return &Group{store: s, replica: r}, nil
}

// logStart tells an operator what a replica begins with.
func (s *Store) logStart(r *replica, m *wire.Membership) {
	word := s.cfg.Logger.Check(zap.InfoLevel, "group starts")
	if word == nil {
		return
	}
	hs, first, last := r.log.HardState(), r.log.First(), r.log.Last()
	term, err := r.log.Term(last)
	word.Write(zap.Uint64("group", uint64(r.id)), zap.Uint64("replica", uint64(r.self)), zap.Any("members", m.Members),
		zap.Uint64("membership", uint64(m.Index)), zap.Uint64("recoveries", r.generation()), zap.Uint64("term", uint64(hs.Term)), zap.Uint64("vote", uint64(hs.Vote)),
		zap.Uint64("commit", uint64(hs.Commit)), zap.Uint64("applied", r.applied.Load()), zap.Uint64("first", uint64(first)),
		zap.Uint64("last", uint64(last)), zap.Uint64("last term", uint64(term)), zap.NamedError("term error", err))
}

// reserve keeps other calls of StartGroup for the same group out until
// unreserve, so that log and state machine are not looked at while somebody else
// uses them.
func (s *Store) reserve(id wire.GroupID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[id] != nil || s.starting[id] {
		return fmt.Errorf("group %d: %w", id, ErrGroupExists)
	}
	s.starting[id] = true
	return nil
}

func (s *Store) unreserve(id wire.GroupID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.starting, id)
}

// validate reports all faults of a group's configuration at once.
func (c GroupConfig) validate(store wire.StoreID) error {
	var faults []error
	fault := func(field string, value any, rule string) {
		faults = append(faults, &ConfigError{Field: field, Value: value, Rule: rule})
	}
	if c.ID == 0 {
		fault("ID", c.ID, "must not be zero")
	}
	if c.StateMachine == nil {
		fault("StateMachine", "nil", "must be given")
	}
	if c.Join && c.Replica == 0 {
		fault("Replica", c.Replica, "must not be zero with Join")
	}
	if c.Join && len(c.Members) > 0 {
		fault("Members", fmt.Sprintf("%+v", c.Members), "must be left out with Join")
	}
	if slices.Contains(c.Skip, 0) {
		fault("Skip", c.Skip, "must not hold entry 0, which is none")
	}
	if c.Join && c.Snapshot != "" {
		fault("Snapshot", fmt.Sprintf("%q", c.Snapshot), "must be left out with Join: the state comes from the leader")
	}
	if len(c.Members) > maxMembers {
		fault("Members", len(c.Members), fmt.Sprintf("members, at most %d are possible", maxMembers))
	}
	here, voters := false, false
	for i, m := range c.Members {
		if m.Role != 0 && m.Role != wire.Voter && m.Role != wire.Learner {
			fault("Members", fmt.Sprintf("%+v", m), "must be voter or learner")
		}
		voters = voters || m.Role != wire.Learner
		if m.Replica == 0 || m.Store == 0 {
			fault("Members", fmt.Sprintf("%+v", m), "has a zero id")
		}
		here = here || m.Store == store
		for _, other := range c.Members[:i] {
			if other.Replica == m.Replica || other.Store == m.Store {
				fault("Members", fmt.Sprintf("%+v", m), "stands twice")
			}
		}
	}
	if len(c.Members) > 0 && !here {
		fault("Members", fmt.Sprintf("%+v", c.Members), fmt.Sprintf("must have a replica on store %d", store))
	}
	if len(c.Members) > 0 && !voters {
		fault("Members", fmt.Sprintf("%+v", c.Members), "must hold a voter")
	}
	return errors.Join(faults...)
}

// maxMembers bounds the initial members: the largest majority that the core has
// a sorting network for.
const maxMembers = 7

// admit builds the core, gives the replica a slot and makes it reachable.
func (s *Store) admit(r *replica, d descriptor, isNew bool, applied wire.Index, priority map[wire.ReplicaID]uint8) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.state(); err != nil {
		return err
	}
	if len(s.groups) >= s.cfg.MaxGroups {
		return fmt.Errorf("group %d: %w: the store runs %d groups, its MaxGroups", r.id, ErrBusy, len(s.groups))
	}
	set := s.memberSet(d.members)
	r.members.Store(set)
	now := s.now.Load()
	if s.leases {
		clock := s.clock.read() // what was promised before the start is promised from now on
		now, r.lost, r.epoch = clock.tick, clock.lost, clock.epoch
	}
	floor := r.floor()
	if r.joining {
		floor = 0 // it took the place of a survivor, and is in no membership in front of the floor
	}
	core, err := group.New(group.Config{
		Group:    r.id,
		Replica:  r.self,
		Members:  set.wire,
		Join:     r.joining,
		Floor:    floor,
		Tuning:   &s.cfg.Tuning,
		Priority: priority,
		Storage:  r.log,
		Rand:     &s.seeds,
		Now:      now,
		Applied:  applied,
		Promised: s.promises.owed(now),
		Wounded:  r.wound.Load() != nil,
	})
	if err != nil {
		return fmt.Errorf("group %d: %w", r.id, err)
	}
	r.core = core
	r.published.Store(uint64(core.Term()))
	if len(s.freeSlots) == 0 {
		s.growSlots()
	}
	r.slot = s.freeSlots[len(s.freeSlots)-1]
	s.freeSlots = s.freeSlots[:len(s.freeSlots)-1]
	r.applier = s.appliers[int(r.slot)%len(s.appliers)]
	if isNew {
		// Batches are written in order: whatever the replica promises later is
		// durable only when this is.
		b := s.batches.get()
		b.Meta(r.log, d.encode())
		s.log.Submit(&b.Batch)
	}
	(*s.replicas.Load())[r.slot].Store(r)
	s.groups[r.id] = r
	return nil
}

// growSlots doubles the number of slots. A worker that still has the smaller
// array misses nothing: a slot is flagged only after its replica was stored,
// and rounds load the array after their flags.
//
// REQUIRES: s.mu is held, no slot is free.
func (s *Store) growSlots() {
	old := *s.replicas.Load()
	grown := make([]atomic.Pointer[replica], max(64, 2*len(old)))
	for i := range old {
		grown[i].Store(old[i].Load())
	}
	s.sched.Grow(len(grown))
	s.replicas.Store(&grown)
	for slot := len(grown) - 1; slot >= len(old); slot-- {
		s.freeSlots = append(s.freeSlots, scheduler.Slot(slot))
	}
}

// StopGroup stops the replica of a group on this store and waits until its
// state machine is not called any more. What is pending completes with
// ErrGroupStopped. The group's log stays; StartGroup goes on from it. When ctx
// ends first the group stops all the same, but stays listed until StopGroup is
// called again.
func (s *Store) StopGroup(ctx context.Context, id wire.GroupID) error {
	if err := s.state(); err != nil {
		return err
	}
	s.mu.Lock()
	r := s.groups[id]
	s.mu.Unlock()
	if r == nil {
		return fmt.Errorf("group %d: %w", id, ErrUnknownGroup)
	}
	r.close()
	s.sched.Set(r.slot, flagControl)
	for _, end := range []chan struct{}{r.apply.ended, r.logged} {
		select {
		case <-end:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.letGo(r)
	return nil
}

// Group returns the handle of a group that runs on this store.
func (s *Store) Group(id wire.GroupID) (*Group, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.groups[id]
	if r == nil {
		return nil, false
	}
	return &Group{store: s, replica: r}, true
}

// Groups returns the handles of all groups that run on this store.
func (s *Store) Groups() []*Group {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*Group
	for _, r := range s.running() {
		list = append(list, &Group{store: s, replica: r})
	}
	return list
}
