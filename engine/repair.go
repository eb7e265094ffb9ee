package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"multiraft/batch"
	"multiraft/group"
	"multiraft/internal/planted"
	"multiraft/raftlog"
	"multiraft/wire"
)

// A replica whose disk has lost something comes back by itself, in one of two ways.
//
//	entries, or the state of the machine, are lost; what was promised is known
//	    wounded ──Repair──▶ leader: snapshot at least as far ──▶ installed: as before
//
//	what was promised may be lost
//	    lost ──Rejoin──▶ leader: removes it, adds a learner on its store
//	    buried ◀── Join ──┘
//	    joins, catches up ──Rejoin──▶ leader: makes it a voter
//
// Unless it ran until just now, a lost one asks first which one it is, and whether it
// had a vote (Rejoin, Rejoined): the store may have forgotten that as well.
//
// A wounded replica stays what it is in its group (group/wound.go says why that is
// safe). A lost one never runs again: the mark in the log, or in its descriptor, is
// there before anything else can be, and goes with the tombstone that its successor
// begins on. So it gives no vote and no acknowledgement under its old id, in this
// life of the store or any later one; and the removal needs a quorum without it,
// which leaves nothing that only it held.
//
// Who asks is the store with the damage, about its own replicas only, again and
// again: nothing of it is kept at the leader, and what has been done already is not
// done twice, as replica ids are not used twice. Leaders come and go meanwhile.
type repairs struct {
	mu    sync.Mutex // guards the fields below; a leaf lock
	list  []*repair  // in the order in which they have their turn
	due   uint64     // tick of the next look
	count atomic.Int64
}

type repairKind uint8

const (
	repairState repairKind = iota // wounded: it needs the state of the leader
	repairLost                    // another replica has to take its place
	repairRise                    // it has taken one's place, and is to vote
)

// repair is one replica that is to come back.
type repair struct {
	kind  repairKind
	group wire.GroupID
	id    wire.ReplicaID // zero: not known
	// known says that a leader has told in this life what the group has here. Until
	// then a lost replica asks without its id: what is stored, or what an embedder says,
	// may be older than what the store has run, and nothing that ran may run again.
	known bool
	start *GroupConfig   // how to start a successor; nil: Config.Join tells
	peers []wire.StoreID // whom a lost one asks; never written to
	// recovery is the one that a lost one has survived: the word of those whom that
	// left behind is not for it. nil: none is known.
	recovery *wire.Recovery
	asked    int
	answer   *rejoinAnswer
}

// rejoinAnswer is what a leader says of a lost replica.
type rejoinAnswer struct {
	none  bool // there is none on this store
	id    wire.ReplicaID
	voter bool
}

const (
	// repairPatience is how often one asks before others have their turn.
	repairPatience = 20
	// woundPatience is for how many election time-outs a leader that cannot read its
	// log tries to hand over before it steps down.
	woundPatience = 4
)

// wound is what a wounded replica has to reach, and why.
type wound struct {
	index wire.Index
	term  wire.Term
	err   error
}

// addRepair puts a replica on the list, in the place of what stands there of its group.
// One that has taken the place of another may be wounded as well.
func (s *Store) addRepair(p *repair) {
	q := &s.repairs
	q.mu.Lock()
	q.list = slices.DeleteFunc(q.list, func(other *repair) bool { return other.group == p.group && (other.id != p.id || other.kind == p.kind) })
	q.add(p)
	q.mu.Unlock()
	s.wakeJoins()
}

// addLost puts a lost replica on the list that nobody has started in this life, unless
// one of its group is there.
func (s *Store) addLost(p *repair) {
	q := &s.repairs
	q.mu.Lock()
	if !q.hasLost(p.group) {
		q.add(p)
	}
	q.mu.Unlock()
	s.wakeJoins()
}

// add appends to the list.
//
// REQUIRES: q.mu is held.
func (q *repairs) add(p *repair) {
	q.list = append(q.list, p)
	q.due = 0
	q.count.Store(int64(len(q.list)))
}

func (s *Store) wakeJoins() {
	select {
	case s.joins.wake <- struct{}{}:
	default:
	}
}

// tickRepairs has a join loop look at the list when that is due.
func (s *Store) tickRepairs() {
	q := &s.repairs
	if q.count.Load() == 0 {
		return
	}
	q.mu.Lock()
	due := s.now.Load() >= q.due
	q.mu.Unlock()
	if due {
		s.wakeJoins()
	}
}

// lostStart returns how StartGroup was told to start a group that is lost, nil when
// it was not.
func (q *repairs) lostStart(id wire.GroupID) *GroupConfig {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.list {
		if p.group == id && p.kind == repairLost {
			return p.start
		}
	}
	return nil
}

// hasLost tells whether another replica is to take the place of one of a group.
//
// REQUIRES: q.mu is held.
func (q *repairs) hasLost(id wire.GroupID) bool {
	return slices.ContainsFunc(q.list, func(p *repair) bool { return p.group == id && p.kind == repairLost })
}

// asksWho tells whether a lost replica of a group still asks which one it is: none may
// take its place before that is known.
// from is a store that knows; it is asked as well.
func (q *repairs) asksWho(id wire.GroupID, from wire.StoreID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := slices.IndexFunc(q.list, func(p *repair) bool { return p.group == id && p.kind == repairLost && !p.known })
	if at < 0 {
		return false
	}
	if p := q.list[at]; !slices.Contains(p.peers, from) {
		p.peers = append(slices.Clone(p.peers), from)
	}
	return true
}

// repairStep has those whose turn it is ask again: as many as snapshots may come at
// a time. It tells whether it was time.
func (s *Store) repairStep() bool {
	q := &s.repairs
	now := s.now.Load()
	q.mu.Lock()
	if len(q.list) == 0 || now < q.due || s.state() != nil {
		q.mu.Unlock()
		return false
	}
	q.due = now + uint64(s.electionTicks())
	turn := slices.Clone(q.list[:min(len(q.list), s.cfg.MaxSnapshots)])
	for _, p := range turn {
		if p.asked++; p.asked%repairPatience == 0 {
			at := slices.Index(q.list, p)
			q.list = append(slices.Delete(q.list, at, at+1), p)
		}
	}
	q.mu.Unlock()
	for _, p := range turn {
		if !s.repair(p) {
			continue
		}
		q.mu.Lock()
		q.list = slices.DeleteFunc(q.list, func(other *repair) bool { return other == p })
		q.count.Store(int64(len(q.list)))
		q.mu.Unlock()
	}
	return true
}

// repair does what can be done for one replica now. It returns true when nothing is
// left to do.
func (s *Store) repair(p *repair) (done bool) {
	s.mu.RLock()
	r := s.groups[p.group]
	s.mu.RUnlock()
	switch p.kind {
	case repairState:
		if r == nil || r.self != p.id || r.state() != nil {
			return true // it begins anew with the next start
		}
		wound := r.wound.Load()
		if wound == nil {
			return true
		}
		s.plead(r, p, &wire.Message{Kind: wire.Repair, Group: p.group, From: r.self, Index: wound.index, LogTerm: wound.term})
		return false
	case repairRise:
		if r == nil || r.self != p.id || r.state() != nil {
			return true
		}
		set := r.members.Load()
		if at := set.place(r.self); at >= 0 && set.wire.Members[at].Role&wire.Voter != 0 {
			s.noteReplaced(p.group, r.self)
			return true
		}
		s.plead(r, p, &wire.Message{Kind: wire.Rejoin, Group: p.group, From: r.self})
		return false
	}
	q := &s.repairs
	q.mu.Lock()
	answer, id := p.answer, p.id
	p.answer = nil
	q.mu.Unlock()
	if r != nil && r.self > id && id != 0 {
		return true // its successor runs
	}
	if answer != nil && r == nil {
		if gone, err := s.takeRejoinAnswer(p, answer); err != nil || gone {
			if err != nil {
				s.cfg.Logger.Warn("note what became of a lost replica", zap.Uint64("group", uint64(p.group)), zap.Error(err))
			}
			return gone
		}
	}
	q.mu.Lock()
	if id = p.id; !p.known { // the answer may have told
		id = 0
	}
	peers := p.peers
	q.mu.Unlock()
	for _, peer := range peers {
		if peer != s.cfg.ID {
			s.tellStore(peer, &wire.Message{Kind: wire.Rejoin, Group: p.group, From: id, Reject: true})
		}
	}
	return false
}

// plead asks the leader for a replica that runs, and with it one of the other members
// in turn: who never campaigns hears of nobody else when its leader is gone, and any
// of them tells it if it was removed.
func (s *Store) plead(r *replica, p *repair, m *wire.Message) {
	s.repairs.mu.Lock()
	asked := p.asked
	s.repairs.mu.Unlock()
	leader, members := r.leader(), r.members.Load().wire.Members
	ask := func(member Member) {
		if member.Store != 0 && member.Store != s.cfg.ID {
			m.To = member.Replica
			s.tellStore(member.Store, m)
		}
	}
	ask(leader)
	if n := len(members); n > 0 && members[asked%n].Replica != leader.Replica {
		ask(members[asked%n])
	}
}

// tellStore sends one message to a store at once.
func (s *Store) tellStore(to wire.StoreID, m *wire.Message) {
	if s.state() != nil || !s.knows(to, m.Kind) {
		return
	}
	b := batch.NewBuilder(s.transport.Buffer, maxFrameBytes)
	b.Add(m)
	err := b.Flush(func(lane wire.Lane, payload []byte) error { return s.transport.Send(to, lane, payload) })
	if err != nil {
		s.metrics.droppedFrames.Add(1) // it is asked again
	}
}

// rejoined takes a leader's word about a lost replica of this store.
//
// REQUIRES: s.mu is held, for reading at least.
func (s *Store) rejoined(from wire.StoreID, m *wire.Message) {
	q := &s.repairs
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.list {
		if p.group == m.Group && p.kind == repairLost && slices.Contains(p.peers, from) {
			if p.recovery != nil && p.recovery.Bars(m.From) {
				s.metrics.barredMessages.Add(1)
				return
			}
			p.answer = &rejoinAnswer{none: m.Reject, id: wire.ReplicaID(m.Hint), voter: m.Context != 0}
			q.due = 0
			return
		}
	}
	s.metrics.strayMessages.Add(1)
}

// takeRejoinAnswer notes durably which replica is lost, or that it was removed
// before. It tells whether nothing is left to do.
func (s *Store) takeRejoinAnswer(p *repair, a *rejoinAnswer) (gone bool, err error) {
	if a.id < p.id || a.id == p.id && p.known && !a.none {
		return false, nil // by a leader of before, or told already
	}
	if err := s.reserve(p.group); err != nil {
		return false, nil // a successor begins
	}
	defer s.unreserve(p.group)
	log := s.log.Group(p.group)
	if a.none {
		err := s.buryStored(p.group, p.id, a.id, 0)
		return err == nil, err
	}
	old, err := decodeDescriptor(log.Meta())
	member := Member{Replica: a.id, Store: s.cfg.ID, Role: wire.Learner}
	if a.voter || err == nil && old.isToVote() || len(log.Meta()) == 0 && p.start.votesOn(s.cfg.ID) {
		member.Role = wire.Voter
	}
	d := lostDescriptor(a.id, &wire.Membership{Members: []Member{member}})
	if err == nil {
		d.recovery = old.recovery
	}
	if err := s.persist(context.Background(), func(b *raftlog.Batch) { b.Meta(log, d.encode()) }); err != nil {
		return false, err
	}
	s.repairs.mu.Lock()
	p.id, p.known = a.id, true // another loop may look at it
	s.repairs.mu.Unlock()
	return false, nil
}

// lostDescriptor describes a replica that must never run again, and the members as
// far as they are known.
func lostDescriptor(id wire.ReplicaID, m *wire.Membership) descriptor {
	return descriptor{Descriptor: wire.Descriptor{Replica: id, State: wire.Lost}, members: m}
}

func (d *descriptor) lost() bool   { return d.State&wire.Lost != 0 }
func (d *descriptor) rising() bool { return d.State&wire.Rising != 0 }

// votesOn tells whether the embedder knows of a voter on a store. c may be nil.
func (c *GroupConfig) votesOn(id wire.StoreID) bool {
	return c != nil && slices.ContainsFunc(c.Members, func(m Member) bool { return m.Store == id && m.Role != wire.Learner })
}

// isToVote tells whether the replica has a vote, or is to have one.
func (d *descriptor) isToVote() bool { return d.isVoter() || d.rising() }

// isVoter tells whether the replica has a vote in the stored membership.
func (d *descriptor) isVoter() bool {
	return slices.ContainsFunc(d.members.Members, func(m Member) bool {
		return m.Replica == d.Replica && m.Role&(wire.Voter|wire.Outgoing) != 0
	})
}

// checkLost returns a *ReplicaLostError for a replica that must not run, and has the
// store ask for another one in its place. successor says that cfg starts that one,
// and what the lost one was.
func (s *Store) checkLost(ctx context.Context, r *replica, cfg *GroupConfig) (successor *descriptor, err error) {
	var d descriptor
	damage, meta := r.log.Err(), r.log.Meta()
	_, wounded := r.log.Wound()
	known := len(meta) > 0
	if known {
		if d, err = decodeDescriptor(meta); err != nil || d.gone() && damage == nil {
			return nil, nil // agree says what is wrong
		}
	} else if damage == nil && s.cfg.DiskLost && !s.cfg.DisableRepair && !cfg.Join && cfg.Snapshot == "" && len(cfg.Members) > 0 {
		// What this store has promised went with its disk. That is durable before
		// another start could forget it.
		for _, m := range startMembership(cfg.Members).Members {
			if m.Store == s.cfg.ID {
				d = lostDescriptor(m.Replica, startMembership(cfg.Members))
			}
		}
		known = true
		if err := s.persist(ctx, func(b *raftlog.Batch) { b.Meta(r.log, d.encode()) }); err != nil {
			return nil, err
		}
	}
	// Behind a tombstone another replica may have come, and be what is damaged.
	lost := damage != nil && (!wounded || !known || d.gone() || s.cfg.DisableRepair || r.apply.plan == nil)
	if !lost && !d.lost() || planted.Is(planted.KeepLostID) {
		return nil, nil
	}
	if cfg.Join && known && cfg.Replica > d.Replica {
		return &d, s.succeed(ctx, r, &d, cfg.Replica)
	}
	failed := &ReplicaLostError{Group: r.id, Replica: d.Replica, Err: damage}
	if s.cfg.DisableRepair {
		return nil, failed
	}
	if s.cfg.Join == nil && r.apply.plan == nil {
		if index, err := cfg.machineIndex(); err != nil || index > 0 {
			failed.Err = errors.Join(damage, ErrNoSnapshotter) // nothing could bring its machine to where a new replica begins
			return nil, failed
		}
	}
	start := *cfg
	s.addRepair(&repair{kind: repairLost, group: r.id, id: d.Replica, start: &start, peers: s.whomToAsk(&d, cfg), recovery: d.recovery})
	s.noteDamage(Damage{Group: r.id, Replica: d.Replica, Err: failed})
	return nil, failed
}

// succeed puts a replica that joins in the place of a lost one, with all that it has
// to know of it. In one batch, so that no crash leaves a tombstone alone: who is to
// start the successor may know of it in this life of the store only.
func (s *Store) succeed(ctx context.Context, r *replica, lost *descriptor, id wire.ReplicaID) error {
	s.snaps.forgetFiles(r.id)
	d := joinDescriptor(id, lost.Replica)
	d.recovery = lost.recovery
	if lost.isToVote() && !planted.Is(planted.StayLearner) {
		d.State |= wire.Rising
	}
	return s.persist(ctx, func(b *raftlog.Batch) {
		b.Remove(r.log)
		b.Meta(r.log, d.encode())
	})
}

// whomToAsk returns the stores that may run a member of a lost replica's group: all,
// as its members may have moved since those were stored that are left. A recovery may
// have left some of them behind, see rejoined.
func (s *Store) whomToAsk(d *descriptor, cfg *GroupConfig) (peers []wire.StoreID) {
	add := func(id wire.StoreID) {
		if id != s.cfg.ID && !slices.Contains(peers, id) {
			peers = append(peers, id)
		}
	}
	if d.members != nil {
		for _, m := range d.members.Members {
			add(m.Store)
		}
	}
	for _, m := range cfg.Members {
		add(m.Store)
	}
	for id := range s.cfg.Peers {
		add(id)
	}
	for _, id := range *s.peers.Load() {
		add(id)
	}
	slices.Sort(peers)
	return peers
}

// noteDamage tells an operator, once for each time that it is found.
func (s *Store) noteDamage(d Damage) {
	s.metrics.damaged.Add(1)
	s.cfg.Logger.Error("a replica has lost a part of its data", zap.Uint64("group", uint64(d.Group)),
		zap.Uint64("replica", uint64(d.Replica)), zap.Bool("in place", d.InPlace), zap.Error(d.Err))
	if told := s.cfg.Events.GroupDamaged; told != nil {
		s.events.call(func() { told(d) })
	}
}

// noteReplaced tells that a lost replica has a successor that is what it was.
func (s *Store) noteReplaced(id wire.GroupID, replica wire.ReplicaID) {
	s.metrics.replaced.Add(1)
	s.noteWhole(id, replica)
}

func (s *Store) noteWhole(id wire.GroupID, replica wire.ReplicaID) {
	s.cfg.Logger.Info("a replica has come back", zap.Uint64("group", uint64(id)), zap.Uint64("replica", uint64(replica)))
	if told := s.cfg.Events.GroupRepaired; told != nil {
		s.events.call(func() { told(id, replica) })
	}
}

// takePlea takes what a store asks for about a replica of its own.
func (w *worker) takePlea(r *replica, node *messageNode) {
	m, from := &node.message, node.stranger
	if from == 0 {
		set := r.members.Load()
		at := set.place(m.From)
		if at < 0 {
			return // it was removed in this turn
		}
		from = set.wire.Members[at].Store
	} else if m.Kind == wire.Repair || !m.Reject {
		r.core.TellRemoved(m.From) // it runs, and asks about itself
		return
	}
	if m.Kind == wire.Repair {
		w.takeRepair(r, from, m)
		return
	}
	w.takeRejoin(r, from, m, false)
}

// asker is a store that is to hear which replica a group has on it.
type asker struct {
	store wire.StoreID
	wish  wire.Message
}

// confirmAnswer answers a store when it is sure that this replica leads still. One that
// was deposed, and does not know it yet, may name a replica that the store has had after
// others: that one would run again.
func (w *worker) confirmAnswer(r *replica, from wire.StoreID, m *wire.Message) {
	if slices.ContainsFunc(r.reads, func(read waitingRead) bool { return read.asker != nil && read.asker.store == from }) {
		return // it asks again and again
	}
	expires := w.store.now.Load() + uint64(readElections*w.store.electionTicks())
	r.reads = append(r.reads, waitingRead{asker: &asker{from, *m}, expires: expires, confirm: true})
}

// takeRejoin looks at a wish for another replica on a store. Only the leader does
// anything, one change at a time, and only when it knows of all replicas that were added
// before it led; from is the store that the wish came from. confirmed says that this
// replica led after the wish came.
func (w *worker) takeRejoin(r *replica, from wire.StoreID, m *wire.Message, confirmed bool) {
	s := w.store
	if r.core.Role() != group.Leader || r.isChanging() || s.cfg.DisableRepair {
		return
	}
	var st group.Status
	r.core.Status(&st)
	if st.Pending {
		return // the replica that is lost may be one that is yet to be applied
	}
	members := st.Members
	at := slices.IndexFunc(members.Members, func(m Member) bool { return m.Store == from })
	answer := wire.Message{Kind: wire.Rejoined, Group: r.id, From: r.self}
	if at < 0 {
		switch {
		case !m.Reject:
		case !confirmed:
			w.confirmAnswer(r, from, m)
		default:
			answer.Reject, answer.Hint = true, wire.Index(max(m.From, publicMembership(members).MaxReplica))
			s.putTo(&w.out, from, &answer)
		}
		return
	}
	have := members.Members[at]
	unheard, caughtUp := false, false
	for _, p := range st.Progress {
		if p.Replica == have.Replica {
			unheard, caughtUp = p.Unheard, p.State == "replicate" && p.Match+catchUpEntries >= st.Commit
		}
	}
	change := group.MembershipChange{IfIndex: members.Index, Exact: true}
	switch {
	case !m.Reject && have.Replica == m.From && have.Role == wire.Learner && caughtUp:
		change.Changes = []group.Change{{Op: group.AddVoter, Replica: have.Replica}}
	case m.Reject && have.Replica == m.From && have.Store != s.cfg.ID:
		// In one step: the vote goes, and the learner comes. So the quorum is one of
		// the replicas that are there, before and after.
		change.Changes = []group.Change{
			{Op: group.Remove, Replica: have.Replica},
			{Op: group.AddLearner, Replica: publicMembership(members).MaxReplica + 1, Store: from},
		}
	case m.Reject && have.Replica > m.From && !(unheard && m.From != 0):
		if !confirmed {
			w.confirmAnswer(r, from, m)
			return
		}
		answer.Hint = wire.Index(have.Replica)
		if have.Role != wire.Learner {
			answer.Context = 1
		}
		s.putTo(&w.out, from, &answer)
		return
	default:
		return // the learner is told to run with each heartbeat; or there is nothing to do yet
	}
	w.startChanges(r, &memberRequest{change: change, final: true, done: func(_ Membership, err error) {
		if err == nil && m.Reject {
			s.cfg.Logger.Warn("a replica that has lost its promises is replaced", zap.Uint64("group", uint64(r.id)),
				zap.Uint64("replica", uint64(have.Replica)), zap.Uint64("store", uint64(from)))
		}
	}})
}

// takeRepair has a snapshot sent to a wounded member.
func (w *worker) takeRepair(r *replica, from wire.StoreID, m *wire.Message) {
	if r.core.Role() == group.Leader && !w.store.cfg.DisableRepair {
		w.store.snaps.post(snapEvent{
			kind: snapSend, replica: r, peer: m.From, store: from, term: r.core.Term(), least: m.Index, leastTerm: m.LogTerm, repair: true,
		})
	}
}
