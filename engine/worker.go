package engine

import (
	"sync"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/internal/planted"
	"multiraft/raftlog"
	"multiraft/scheduler"
	"multiraft/wire"
)

// worker is what one scheduler worker needs to run rounds. Its fields belong to
// the goroutine that runs the worker.
//
// A round goes through three stages: every group has its turn and leaves
// blocks, messages and apply tasks here; then frames leave for the peers, so
// that followers sync while this store does (thesis, section 10.2.1); then the
// log batch and the apply tasks are handed over.
type worker struct {
	store *Store
	ready group.Ready
	arena wire.Arena
	free  freeNodes
	out   outboxes
	log   *logBatch
	apply []applyQueue // per applier, swapped into it at the end of a round

	taken   [turnsAtOnce]taken // mailboxes of the turns that come next
	fitness group.Fitness      // of the store, for these turns

	forward wire.Message // about forwarded proposals, under construction

	readTerms     *readTerms // of reads that are asked for in this round, made on demand
	readsAsked    bool       // reads were sent on their way in this round
	readsAnswered bool       // answers for reads came in this round
}

// logBatch is a raftlog batch and whom to tell when it is durable.
type logBatch struct {
	raftlog.Batch
	acks    []slotAck
	after   outboxes   // answers that leave when the batch is durable
	own     bool       // holds own proposals, so the gate is closed for it
	counted int64      // of Store.logBytes
	done    chan error // hears what became of it; nil: nobody asks
}

// slotAck is what a turn persisted. The last one of a replica that ends tells
// that nothing of it is on its way to the disk any more.
type slotAck struct {
	replica    *replica
	ack        group.Ack
	membership wire.Index // of the membership that was stored, zero: none
	quiet      bool       // no turn is needed for it
	install    bool       // the log goes on behind a snapshot
	last       bool
}

// batchPool recycles log batches.
type batchPool struct {
	mu   sync.Mutex
	free []*logBatch
}

func (p *batchPool) get() *logBatch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	b := &logBatch{}
	b.Owner = b
	return b
}

// maxFreeBatches bounds what the pool keeps; more are under way only when the
// disk stands still.
const maxFreeBatches = 64

func (p *batchPool) put(b *logBatch) {
	b.Reset()
	clear(b.acks)
	b.acks, b.own, b.done = b.acks[:0], false, nil
	b.after.discard()
	p.mu.Lock()
	if len(p.free) < maxFreeBatches {
		p.free = append(p.free, b)
	}
	p.mu.Unlock()
}

func newWorker(s *Store) *worker {
	w := &worker{store: s, apply: make([]applyQueue, len(s.appliers))}
	w.ready.Arena, w.ready.DeferAnswers = &w.arena, true
	return w
}

// process runs one round. The scheduler calls it, one round of a worker after
// the other, and never with the same slot on two workers.
//
//mr:hotpath
func (s *Store) process(at int, round []scheduler.Work) {
	w := s.workers[at]
	w.log = s.batches.get()
	for len(round) > 0 {
		n := min(len(round), turnsAtOnce)
		w.turns(round[:n])
		round = round[n:]
	}
	w.finish()
}

// taken is a replica and what was in its mailbox.
type taken struct {
	replica *replica
	box     mailbox
}

// turnsAtOnce is how many turns go by one reading of the clock. A reading is a
// system call under a lock of the store; more turns to one would save little, and
// the mailboxes not fit the cache.
const turnsAtOnce = 32

// turns empties the mailboxes of a few groups, reads the clock, and gives each its
// turn. In that order: what a voter promises must not begin before the message came,
// nor a leader read by a lease that ended before the read. A reading that is older
// than the turn makes promises longer and leases shorter.
//
//mr:hotpath
func (w *worker) turns(works []scheduler.Work) {
	s := w.store
	replicas := *s.replicas.Load()
	n := 0
	for i := range works {
		slot := int(works[i].Slot)
		if slot >= len(replicas) {
			continue
		}
		if r := replicas[slot].Load(); r != nil {
			w.taken[n].replica = r
			r.take(&w.taken[n].box, works[i].Flags&(flagPropose|flagControl) != 0)
			n++
		}
	}
	w.fitness = s.health.told()
	now := s.now.Load()
	var clock clockReading
	if s.leases {
		clock = s.clock.read()
		now = clock.tick
	}
	for i := range w.taken[:n] {
		w.turn(w.taken[i].replica, &w.taken[i].box, now, clock)
	}
	clear(w.taken[:n])
}

// turn gives one group everything that was in its mailbox and gathers what it
// hands out. The order is: messages, acknowledgements of the log, reads,
// proposals, time, ready.
//
//mr:hotpath
func (w *worker) turn(r *replica, box *mailbox, now uint64, clock clockReading) {
	s := w.store
	r.turnMu.Lock()
	defer r.turnMu.Unlock()
	if r.diverged.Load() != nil {
		w.withdraw(r, now)
	}
	if err := r.state(); r.core == nil || err != nil {
		if !r.lingers(now) {
			w.turnAway(r, box)
			return
		}
		w.refuse(r, box, err)
	}
	if (box.orders != nil || r.install != nil) && w.turnSnapshots(r, box, now) {
		return
	}
	core := r.core
	core.Clock(now)
	if fitness := r.fitness(w.fitness); fitness != core.Fitness() && r.withdrawAt == 0 {
		w.noteFitness(r, fitness)
	}
	if s.leases {
		r.noteClock(clock)
	}
	own := w.hear(r, box, now)
	applied := wire.Index(r.applied.Load())
	told := applied
	if r.switching != 0 {
		told = r.toldApplied(applied)
	}
	core.Applied(told)
	w.noteMembers(r)
	if box.orders != nil {
		w.obeyOrders(r, box.orders, now)
	}
	if r.changes != nil {
		w.runChanges(r, now)
	}
	if len(box.reads) > 0 {
		w.startReads(r, box.reads, now)
	}
	if len(r.reads) > 0 {
		w.sendReads(r, clock)
	}
	for _, run := range box.full {
		own = w.propose(r, run.block, run.pending) || own
	}
	if len(box.pending) > 0 {
		own = w.propose(r, box.block, box.pending) || own
	}
	due := uint64(never)
	if r.forwards != nil {
		var appended bool
		due, appended = w.sendForwards(r, now)
		own = own || appended
	}
	core.Tick(now)
	if r.boot.attempts > 0 {
		w.bootCampaign(r, now)
	}
	if term := uint64(core.Term()); term != r.published.Load() {
		r.published.Store(term) // before the messages of this turn leave
	}
	w.takeReady(r, own)
	w.noteStarved(r, applied)
	if err := core.Err(); err != nil {
		if !w.wound(r, err) {
			w.giveUp(r, err)
			return
		}
	} else if err := core.Hurt(); err != nil {
		w.noteHurt(r, err, false, now)
	}
	if r.hurt != nil && !w.tendHurt(r, now) {
		return
	}
	if r.isRemoved() && r.removed.Load() == nil {
		w.noteRemoved(r, now)
	}
	w.noteChanges(r)
	if commit := uint64(core.Commit()); commit != r.committed.Load() {
		r.committed.Store(commit)
	}
	w.expireReads(r, now)
	if o := box.orders; o != nil && o.snap != nil && o.snap.install != nil && w.beginInstall(r, o.snap.install) {
		return
	}
	s.sched.SetDeadline(r.slot, min(due, w.deadline(r, now)))
}

// hear gives the core the messages of a mailbox and what the log made durable. It
// tells whether proposals of other stores were appended.
//
//mr:hotpath
func (w *worker) hear(r *replica, box *mailbox, now uint64) (own bool) {
	s := w.store
	for node := box.first; node != nil; {
		next := node.next
		if n := int64(len(node.message.Entries)); n > 0 {
			s.receiveBytes.Add(-n)
		}
		if node.stranger != 0 {
			r.meet(node.message.From, node.stranger)
		}
		var err error
		switch node.message.Kind {
		case wire.Propose:
			var appended bool
			appended, err = w.takeForwarded(r, &node.message)
			own = own || appended
		case wire.Bar:
			w.takeBar(r, &node.message)
		case wire.Repair, wire.Rejoin:
			w.takePlea(r, node)
		case wire.ProposeResponse:
			err = w.forwardAnswered(r, &node.message, now)
		default:
			err = r.core.Step(&node.message)
		}
		if err != nil {
			s.metrics.refusedMessages.Add(1)
		}
		w.free.add(node, &s.messages)
		node = next
	}
	if box.ack.Seq != 0 {
		r.core.Persisted(box.ack)
	}
	return own
}

// obeyOrders does what is seldom in a mailbox, but for snapshots.
func (w *worker) obeyOrders(r *replica, o *orders, now uint64) {
	if o.unreachable != 0 {
		for i, m := range r.members.Load().wire.Members {
			if o.unreachable&(1<<i) != 0 {
				r.core.Unreachable(m.Replica)
			}
		}
	}
	if o.hurt != nil {
		w.noteHurt(r, o.hurt, o.starving, now)
	}
	if o.changes != nil {
		w.startChanges(r, o.changes)
	}
	if len(o.transfers) > 0 {
		w.startTransfers(r, o.transfers, now)
	}
}

// deadline returns the tick at which the group needs a turn, whatever happens.
//
//mr:hotpath
func (w *worker) deadline(r *replica, now uint64) uint64 {
	deadline := r.core.Deadline()
	if r.leaveAt > 0 {
		deadline = min(deadline, r.leaveAt)
	}
	if r.withdrawAt > 0 {
		deadline = min(deadline, r.withdrawAt)
	}
	if r.boot.attempts > 0 {
		deadline = min(deadline, r.boot.next)
	}
	if len(r.reads) > 0 {
		deadline = min(deadline, r.reads[0].expires)
	}
	if len(r.transfers) > 0 {
		deadline = min(deadline, w.settleTransfers(r, now))
	}
	return deadline
}

// propose hands one block of proposals to the core and, when the core takes
// it, to the applier that will complete them.
//
//mr:hotpath
func (w *worker) propose(r *replica, built wire.Block, pending []*Pending) bool {
	s := w.store
	if s.cfg.ForwardProposals && r.core.Role() != group.Leader {
		w.hold(r, built, pending)
		return false
	}
	// The block under construction goes back to its pool; the one that is
	// logged and sent lives in the arena, where nobody has to count its users.
	block := wire.Block(append(w.arena.Alloc(len(built)), built...))
	s.blocks.put(built)
	first, term, err := r.core.Propose(block, len(pending))
	q := &w.apply[r.applier.at]
	if err != nil {
		q.tasks = append(q.tasks, applyTask{kind: taskRefused, replica: r, pending: pending, err: s.refusal(r, err)})
		return false
	}
	q.tasks = append(q.tasks, applyTask{kind: taskProposed, replica: r, pending: pending, first: first, term: term})
	s.metrics.proposals.Add(int64(len(pending)))
	return true
}

// takeReady gathers what the core hands out.
//
//mr:hotpath
func (w *worker) takeReady(r *replica, own bool) {
	s := w.store
	rd := &w.ready
	rd.HoldCommitted = s.applyBytes.Load() > s.cfg.MaxApplyBytes
	if !r.core.Ready(rd) {
		if rd.HoldCommitted && r.core.HoldsCommitted() {
			s.holdApply(r)
		}
		return
	}
	if rd.HoldCommitted && r.core.HoldsCommitted() {
		s.holdApply(r)
	}
	for i := range rd.Messages {
		s.address(&w.out, r, &rd.Messages[i])
	}
	if rd.Seq != 0 {
		for i := range rd.After {
			if planted.Is(planted.AckEarly) {
				s.address(&w.out, r, &rd.After[i])
				continue
			}
			s.address(&w.log.after, r, &rd.After[i])
		}
		ack := group.Ack{Seq: rd.Seq}
		if rd.SyncHardState && !planted.Is(planted.ForgetHardState) {
			w.log.HardState(r.log, rd.HardState)
		}
		for _, block := range rd.Blocks {
			w.log.Append(r.log, block)
			ack.Term, ack.Index = block.Term(), block.Last()
		}
		w.log.acks = append(w.log.acks, slotAck{replica: r, ack: ack, quiet: rd.Quiet})
		w.log.own = w.log.own || own
	}
	q := &w.apply[r.applier.at]
	if rd.CommittedFirst <= rd.CommittedLast {
		lo := len(q.blocks)
		q.blocks = append(q.blocks, rd.Committed...)
		bytes := int64(0)
		for _, block := range rd.Committed {
			bytes += int64(len(block))
		}
		q.bytes += bytes
		q.tasks = append(q.tasks, applyTask{kind: taskCommitted, replica: r,
			first: rd.CommittedFirst, last: rd.CommittedLast, lo: lo, hi: len(q.blocks), bytes: bytes, membership: rd.Membership})
	}
	if rd.Membership != nil {
		w.keepMembership(r, rd.Membership)
	}
	if len(rd.Reads) > 0 {
		w.readsAnswered = true
		for _, read := range rd.Reads {
			w.finishRead(r, read)
		}
	}
	if len(rd.SnapshotTo) > 0 || rd.SnapshotOffer != nil {
		w.takeSnapshots(r)
	}
}

// noteStarved has the applier wake the group when the core waits for it, told
// being what the core has heard of.
//
//mr:hotpath
func (w *worker) noteStarved(r *replica, told wire.Index) {
	starved := r.core.HoldsCommitted() || r.switching != 0 || r.changes != nil
	if starved != r.starved.Load() {
		r.starved.Store(starved)
	}
	if starved && wire.Index(r.applied.Load()) > told {
		w.store.sched.Set(r.slot, flagApply)
	}
}

// finish ends a round: frames out, log batch out, apply tasks out.
//
//mr:hotpath
func (w *worker) finish() {
	s := w.store
	w.out.flush(s)
	if w.readsAsked || w.readsAnswered {
		s.readGate.turn(w.readsAnswered, w.readsAsked)
		w.readsAsked, w.readsAnswered, w.readTerms = false, false, nil
	}
	if w.log.Len() > 0 || len(w.log.acks) > 0 {
		if w.log.own {
			s.gate.close()
		}
		if bytes := int64(w.log.Bytes()); bytes > 0 {
			w.log.counted = bytes
			s.logBytes.Add(bytes)
		}
		s.log.Submit(&w.log.Batch)
	} else {
		s.batches.put(w.log)
	}
	w.log = nil
	for i := range w.apply {
		s.appliers[i].hand(&w.apply[i])
	}
}

// noteChanges publishes a change of role or leader, and lets go of what waits
// for a leadership that ended.
//
//mr:hotpath
func (w *worker) noteChanges(r *replica) {
	s := w.store
	core := r.core
	if bytes := int64(core.TailBytes()); bytes != r.cached {
		s.cachedBytes.Add(bytes - r.cached)
		r.cached = bytes
		if s.cachedBytes.Load() > s.cfg.CacheBytes {
			core.ReleaseTail()
			left := int64(core.TailBytes())
			s.cachedBytes.Add(left - r.cached)
			r.cached = left
		}
	}
	role, term := core.Role(), core.Term()
	if lead := core.Leader(); lead != wire.ReplicaID(r.lead.Load()) {
		r.noteOutside(lead)
		r.setLeader(lead, false)
		s.leaderChanged(r)
		w.tellNewLeader(r, lead)
	}
	if role == r.role && term == r.term {
		return
	}
	led := r.role == group.Leader
	if led && (role != group.Leader || term != r.term) {
		q := &w.apply[r.applier.at]
		lost := ErrLeadershipLost
		if planted.Is(planted.LostIsDropped) {
			lost = ErrProposalDropped
		}
		q.tasks = append(q.tasks, applyTask{kind: taskLost, replica: r, err: lost})
		w.endChanges(r, ErrLeadershipLost)
	}
	if role == group.Leader {
		r.led = term
	} else if r.withdrawAt > 0 {
		s.sched.Set(r.slot, flagControl) // it has handed over, and ends
	}
	if led != (role == group.Leader) {
		if led {
			s.metrics.leading.Add(-1)
		} else {
			s.metrics.leading.Add(1)
		}
	}
	if role == group.Candidate && (r.role != group.Candidate || term != r.term) ||
		role == group.Leader && !led && r.role != group.Candidate ||
		role == group.PreCandidate && r.role != group.PreCandidate {
		s.metrics.elections.Add(1)
	}
	r.role, r.term = role, term
}

// bootCampaign makes the preferred replica of a new group stand for election
// until there is a leader.
func (w *worker) bootCampaign(r *replica, now uint64) {
	if r.core.Leader() != 0 {
		r.boot = bootCampaign{}
		return
	}
	if now < r.boot.next {
		return
	}
	r.boot.attempts--
	r.boot.next = now + bootInterval
	if w.fitness == group.Hung {
		return // others may campaign
	}
	if err := r.core.Campaign(); err != nil {
		w.store.cfg.Logger.Warn("first campaign", zap.Uint64("group", uint64(r.id)), zap.Error(err))
		r.boot = bootCampaign{}
	}
}

// turnAway ends a replica that takes no more work: everything in its mailbox is
// answered, and nothing enters it from here on.
func (w *worker) turnAway(r *replica, box *mailbox) {
	s := w.store
	err := r.state()
	if err == nil {
		err = ErrGroupStopped
	}
	// What came in since the mailbox was taken, and what the gate still held.
	r.mu.Lock()
	rest := r.box
	r.box = mailbox{closed: true}
	r.mu.Unlock()
	w.answer(r, box, err)
	w.answer(r, &rest, err)
	w.endWaiting(r, err)
	s.sched.SetDeadline(r.slot, never)
	if r.ended {
		return
	}
	r.ended = true
	if r.core != nil {
		w.keepAtEnd(r)
		if r.role == group.Leader {
			s.metrics.leading.Add(-1)
		}
		s.cachedBytes.Add(-r.cached)
		r.cached = 0
	}
	r.core, r.role = nil, group.Follower
	r.setLeader(0, true)
	w.log.acks = append(w.log.acks, slotAck{replica: r, last: true})
	q := &w.apply[r.applier.at]
	q.tasks = append(q.tasks, applyTask{kind: taskEnd, replica: r, err: err})
}

// answer lets go of the messages in a mailbox and has everyone who waits for
// something in it hear err.
func (w *worker) answer(r *replica, box *mailbox, err error) {
	s := w.store
	for node := box.first; node != nil; {
		next := node.next
		s.receiveBytes.Add(-int64(len(node.message.Entries)))
		w.free.add(node, &s.messages)
		node = next
	}
	box.first, box.last = nil, nil
	w.refuse(r, box, err)
}

// refuse takes what clients want out of a mailbox, and has them hear err.
func (w *worker) refuse(r *replica, box *mailbox, err error) {
	q := &w.apply[r.applier.at]
	for _, run := range box.full {
		q.tasks = append(q.tasks, applyTask{kind: taskRefused, replica: r, pending: run.pending, err: err})
	}
	if len(box.pending) > 0 {
		q.tasks = append(q.tasks, applyTask{kind: taskRefused, replica: r, pending: box.pending, err: err})
	}
	if len(box.reads) > 0 {
		q.tasks = append(q.tasks, applyTask{kind: taskReadFailed, replica: r, reads: box.reads, err: err})
	}
	box.full, box.pending, box.block, box.reads = nil, nil, nil, nil
	o := box.orders
	if o == nil {
		return
	}
	if o.snap != nil && o.snap.install != nil {
		// Nobody installs it here any more; unless an install of it was begun, the
		// next life of the group gets it from whoever leads then.
		w.store.snaps.post(snapEvent{kind: snapDiscard, group: r.id, index: o.snap.install.info.Index})
		o.snap.install = nil
	}
	for _, t := range o.transfers {
		t.done <- err
	}
	if o.changes != nil {
		w.startChanges(r, o.changes)
		w.endChanges(r, err)
	}
	o.transfers, o.changes = nil, nil
}

// endWaiting has everyone hear err who waits for something that the worker has
// taken over.
func (w *worker) endWaiting(r *replica, err error) {
	q := &w.apply[r.applier.at]
	for _, read := range r.reads {
		q.tasks = append(q.tasks, applyTask{kind: taskReadFailed, replica: r, reads: read.requests, err: err})
	}
	for _, t := range r.transfers {
		t.done <- err
	}
	r.reads, r.transfers = nil, nil
	w.endChanges(r, err)
	w.endForwards(r, err)
}

// keepAtEnd leaves in the log what the next start is to find.
func (w *worker) keepAtEnd(r *replica) {
	switch {
	case w.store.failure.Load() != nil:
	case r.diverged.Load() != nil && r.removed.Load() == nil:
		w.markDiverged(r)
	case r.failed.Load() != nil:
	case r.removed.Load() != nil:
		r.buried = true
		bury(&w.log.Batch, r.log, r.self, min(r.core.HardState().Commit, r.log.Last()))
	default:
		w.saveCommit(r)
	}
}

// saveCommit writes the commit index of a group that stops in good order, so
// that its state machine is up to date right after the next start. Nothing
// depends on it: commit is volatile in raft.
func (w *worker) saveCommit(r *replica) {
	hs := r.core.HardState()
	if stored := r.log.HardState(); hs.Term == stored.Term && hs.Vote == stored.Vote && hs.Commit > stored.Commit {
		w.log.HardState(r.log, hs)
	}
}
