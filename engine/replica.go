package engine

import (
	"sync"
	"sync/atomic"

	"multiraft/group"
	"multiraft/raftlog"
	"multiraft/scheduler"
	"multiraft/wire"
)

// The log tells the core which entries may be memberships.
var _ group.SingleFinder = (*raftlog.Group)(nil)

// Flags say why a group has to run. Several set at once cost one turn.
const (
	flagMessage scheduler.Flags = 1 << iota // messages or reads are in the mailbox
	flagAck                                 // the log made something durable
	flagTick                                // the deadline of the group is due
	flagPropose                             // the gate let the proposals through
	flagApply                               // the appliers have room again
	flagControl                             // start, stop, failure, a peer that went away
)

// replica is one member of one group on this store: its core, its mailbox and
// what its applier knows of it.
type replica struct {
	store   *Store
	slot    scheduler.Slot
	id      wire.GroupID
	self    wire.ReplicaID
	log     *raftlog.Group
	applier *applier

	// What every turn looks at comes first, and what is seldom last: thousands of
	// groups take turns, and each line of cache that one needs has to be fetched.

	// members are those in force, as in the core. Written by the worker.
	members atomic.Pointer[memberSet]
	// lead is the leader, 0 when unknown. Written by the worker, read by
	// proposers.
	lead atomic.Uint64
	// published is the term, stored by the worker before anything that the replica
	// says in it leaves. Read by the handler of frames.
	published atomic.Uint64
	// committed is the commit index after the last turn, for stale reads.
	committed atomic.Uint64
	// applied is the last index the state machine has seen.
	applied atomic.Uint64
	// failed is why the replica stopped by itself, nil while it runs.
	failed atomic.Pointer[GroupFailedError]
	// diverged is set when the state machine is known to have another state than a
	// majority, nil before.
	diverged atomic.Pointer[DivergedError]
	// digests compare it with the other replicas; nil when they are not compared.
	digests *digests
	// removed is set when the replica is no member any more, nil before.
	removed atomic.Pointer[ReplicaRemovedError]
	// inflightBytes counts proposals from admission to completion.
	inflightBytes atomic.Int64
	// wound is what the replica waits for that has lost entries or state, nil when it
	// has all. Stored by the worker, or before there is one.
	wound atomic.Pointer[wound]
	// superseded is set when the store was given another replica of the group.
	superseded atomic.Bool
	// stopping is set by StopGroup and Close; the worker drops the core.
	stopping atomic.Bool
	// starved is set while the core keeps committed entries back until it has
	// heard of those applied, or a change of the members waits for it to. The
	// worker stores starved and then looks at applied, the applier stores applied
	// and then looks at starved: one of them sees the other and sees to it that the
	// core hears.
	starved atomic.Bool
	held    bool // on Store.held; guarded by Store.heldMu

	mu       sync.Mutex // guards the fields below; taken last, held for a few instructions
	box      mailbox
	leadWait chan struct{} // closed when a leader becomes known, or the replica ends; nil when nobody waits

	turnMu    sync.Mutex // guards the fields below, to apply; held for a turn, and by Status
	core      *group.Group
	role      group.Role
	joining   bool // it is in no membership that it knows of
	ended     bool // the applier has been told that nothing more comes
	term      wire.Term
	cached    int64      // bytes in the core's tail, as counted in Store.cachedBytes
	switching wire.Index // the membership that is handed out and not in force; zero: none
	install   *install   // takes the place of log and state; the core is left alone
	changes   *memberRequest
	leaveAt   uint64 // tick when a removed replica ends
	// withdrawAt is the tick when a leader that has diverged ends, zero before.
	withdrawAt uint64
	handed     *wire.Membership // that went to the log last, nil before
	boot       bootCampaign
	reads      []waitingRead
	transfers  []transfer
	forwards   []forward // proposals on their way to the leader
	hurt       error     // why the log cannot be read; nil: it can, or that is dealt with
	hurtUntil  uint64    // tick when a leader that is hurt does not wait any more
	starving   bool      // the applier needs what cannot be read
	rising     bool      // it took the place of a voter that was lost, and has no vote yet

	// recovery is the last one of the group from the loss of its quorum, nil when
	// there was none. It does not change.
	recovery *wire.Recovery
	barred   bool // others have recovered the group without this replica

	strangers *strangers
	lost      uint64    // ticks that the core knows to be lost
	epoch     uint64    // of the clock, as the core knows it
	led       wire.Term // the last term that this replica led since it was started
	// Requests of other stores that were looked at in term originsTerm.
	origins     []origin
	originsTerm wire.Term

	apply applyState // owned by the applier

	// outside is the last leader that was no member here any more, or not yet: one
	// that stays when it is removed, or that is about to go. Written by the worker.
	outside atomic.Pointer[stranger]
	// keptMembership is the index of the newest membership that became durable
	// while the replica runs.
	keptMembership atomic.Uint64
	// installing is the index of the last snapshot that began to take the place of
	// log and state, stored before the log loses what is in front of it.
	installing atomic.Uint64
	// logged is closed when a replica that ended has nothing on its way to the
	// disk any more.
	logged  chan struct{}
	buried  bool   // its tombstone is stored; valid when logged is closed
	notices notice // guarded by Store.events.mu
}

// mailbox gathers what waits for the next turn.
type mailbox struct {
	first, last *messageNode
	ack         group.Ack
	reads       []*readRequest
	orders      *orders // nil without any
	closed      bool    // the replica takes nothing any more

	// Proposals are encoded right into the block that will be logged and
	// sent. full holds blocks that reached maxBlockBytes.
	block   wire.Block
	pending []*Pending
	full    []proposalRun
}

// orders are what is seldom in a mailbox. They are apart, because every turn
// moves the mailbox.
type orders struct {
	transfers   []transfer
	changes     *memberRequest
	snap        *snapMail
	hurt        error  // the log cannot be read
	starving    bool   // by the applier, who needs it
	unreachable uint32 // bit per place in members whose store went away; after a switch, a wrong one is probed in vain
}

// order returns the orders, made when there are none.
//
// REQUIRES: replica.mu is held.
func (b *mailbox) order() *orders {
	if b.orders == nil {
		b.orders = &orders{}
	}
	return b.orders
}

// proposalRun is one block under construction and who waits for its entries.
type proposalRun struct {
	block   wire.Block
	pending []*Pending
}

// bootCampaign makes the preferred replica of a new group campaign at once, and
// again while the other stores do not run the group yet.
type bootCampaign struct {
	attempts int
	next     uint64 // tick
}

const (
	bootAttempts = 200
	bootInterval = 2 // ticks between two attempts
)

// isLeader tells whether this replica led its group after its last turn.
func (r *replica) isLeader() bool { return wire.ReplicaID(r.lead.Load()) == r.self }

// leader returns the leader known after the last turn, zero when unknown. One that
// is no member, here or any more, has no role.
func (r *replica) leader() Member {
	lead := wire.ReplicaID(r.lead.Load())
	set := r.members.Load()
	if at := set.place(lead); at >= 0 {
		return set.wire.Members[at]
	}
	if lead == r.self {
		return Member{Replica: lead, Store: r.store.cfg.ID}
	}
	if out := r.outside.Load(); out != nil && out.replica == lead {
		return Member{Replica: lead, Store: out.store}
	}
	return Member{Replica: lead}
}

// leaderKnown returns a channel that is closed when WaitLeader has reason to
// look again, and nil when a leader is known.
func (r *replica) leaderKnown() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lead.Load() != 0 {
		return nil
	}
	if r.leadWait == nil {
		r.leadWait = make(chan struct{})
	}
	return r.leadWait
}

// setLeader publishes the leader, or 0, and wakes those who wait for one.
func (r *replica) setLeader(lead wire.ReplicaID, ended bool) {
	r.mu.Lock()
	r.lead.Store(uint64(lead))
	if r.leadWait != nil && (lead != 0 || ended) {
		close(r.leadWait)
		r.leadWait = nil
	}
	r.mu.Unlock()
}

// postAck puts acks of the log into the mailbox. Acks of one group arrive in the
// order of their sequence numbers, so the newest stands for all before it; one
// without blocks keeps the place of the last one with blocks.
//
//mr:hotpath
func (r *replica) postAck(ack group.Ack) {
	r.mu.Lock()
	if ack.Index == 0 {
		ack.Term, ack.Index = r.box.ack.Term, r.box.ack.Index
	}
	r.box.ack = ack
	r.mu.Unlock()
}

// take empties the mailbox into box. Proposals stay unless the gate let them
// through.
//
//mr:hotpath
func (r *replica) take(box *mailbox, proposals bool) {
	r.mu.Lock()
	*box = r.box
	if proposals {
		r.box = mailbox{closed: box.closed}
	} else {
		r.box = mailbox{closed: box.closed, block: box.block, pending: box.pending, full: box.full}
		box.block, box.pending, box.full = nil, nil, nil
	}
	r.mu.Unlock()
}

// fail stops the replica for good and tells everyone who waits on it.
func (r *replica) fail(err error) {
	failed := &GroupFailedError{Group: r.id, Replica: r.self, Err: err}
	if r.failed.CompareAndSwap(nil, failed) {
		r.store.groupFailed(failed)
		if r.store.cfg.Events.GroupFailed != nil {
			r.store.events.note(r, noticeFailed)
		}
		r.store.sched.Set(r.slot, flagControl)
	}
}

// state returns why the replica takes no work, nil when it does.
func (r *replica) state() error {
	if err := r.store.state(); err != nil {
		return err
	}
	if failed := r.failed.Load(); failed != nil {
		return failed
	}
	if removed := r.removed.Load(); removed != nil {
		return removed
	}
	if r.stopping.Load() {
		return ErrGroupStopped
	}
	return nil
}

// refuseClosed returns why a closed mailbox takes nothing. It is never nil, not
// even between the closing of the mailbox and the word of why.
func (r *replica) refuseClosed() error {
	if err := r.state(); err != nil {
		return err
	}
	return ErrGroupStopped
}

// notLeader returns the refusal of a replica that does not lead.
func (r *replica) notLeader() error {
	leader := r.leader()
	return &NotLeaderError{Group: r.id, Leader: leader.Replica, Store: leader.Store}
}
