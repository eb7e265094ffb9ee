package engine

import (
	"sync/atomic"

	"multiraft/group"
	"multiraft/wire"
)

// Status is what a replica knows of its group at one moment.
type Status struct {
	ID wire.GroupID
	// Members are those in force here, Membership is the index of the entry that
	// made them.
	Members    []Member
	Membership wire.Index
	// Self is the replica that was asked, Leader whom it follows.
	Self, Leader Member
	Role         group.Role
	Term         wire.Term
	// Vote is whom this replica voted for in its term, zero for nobody.
	Vote wire.ReplicaID
	// First and Last bound the entries in the log; Committed and Applied are as
	// in the raft paper.
	First, Last, Committed, Applied wire.Index
	// Snapshot is the last entry in the newest snapshot, zero when there is none.
	Snapshot wire.Index
	// Recoveries is how often the group was recovered from the loss of its quorum, as
	// far as this replica has been a survivor of it.
	Recoveries uint64
	// Agreed is the end of the last range of entries of which the state machine of
	// this replica is known to have made the same as those of a majority, zero for
	// none since it was started.
	Agreed wire.Index
	// Changing, on a leader: the log holds a later membership than Members, or may
	// hold one of a leader of before. Nothing tells yet whether it will be in force.
	Changing bool
	// Progress of the other members, on a leader.
	Progress []group.Progress
	// Err is why the replica stopped, nil while it runs.
	Err error
	// Repairing is what the replica has lost and waits for, nil when it has all.
	Repairing error
}

// Status returns what this replica knows. It waits for a turn of the group to
// end.
func (g *Group) Status() Status {
	r := g.replica
	set := r.members.Load()
	st := Status{
		ID:         r.id,
		Members:    append([]Member(nil), set.wire.Members...),
		Membership: set.wire.Index,
		Self:       Member{Replica: r.self, Store: g.store.cfg.ID},
		Leader:     r.leader(),
		First:      r.log.First(),
		Last:       r.log.Last(),
		Applied:    wire.Index(r.applied.Load()),
		Recoveries: r.generation(),
		Err:        r.state(),
		Repairing:  r.repairing(),
	}
	st.Agreed = r.lastAgreed()
	st.Snapshot, _ = g.store.snaps.newest(r.id)
	if at := set.place(r.self); at >= 0 {
		st.Self = set.wire.Members[at]
	}
	r.turnMu.Lock()
	defer r.turnMu.Unlock()
	if r.core == nil {
		return st
	}
	var core group.Status
	r.core.Status(&core)
	st.Role, st.Term, st.Vote = core.Role, core.Term, core.Vote
	st.Committed, st.Last = core.Commit, core.Last
	if r.install != nil {
		// The machine may have the state of a snapshot that the core does not know
		// yet; what is in there is committed.
		st.Committed, st.Last = max(st.Committed, st.Applied), max(st.Last, st.Applied)
	}
	st.Changing, st.Progress = core.Pending, core.Progress
	return st
}

// Applied returns the index of the last entry that the state machine of this
// replica has seen.
func (g *Group) Applied() wire.Index { return wire.Index(g.replica.applied.Load()) }

// Err returns why the replica takes no work, nil while it does.
func (g *Group) Err() error { return g.replica.state() }

// metrics are the store's counters.
type metrics struct {
	proposals       atomic.Int64
	forwarded       atomic.Int64
	applied         atomic.Int64
	reads           atomic.Int64
	leaseReads      atomic.Int64
	staleReads      atomic.Int64
	elections       atomic.Int64
	leading         atomic.Int64
	failedGroups    atomic.Int64
	skipped         atomic.Int64
	slowDisk        atomic.Int64
	hungDisk        atomic.Int64
	joined          atomic.Int64
	damaged         atomic.Int64
	healed          atomic.Int64
	replaced        atomic.Int64
	removed         atomic.Int64
	badFrames       atomic.Int64
	strayMessages   atomic.Int64
	barredMessages  atomic.Int64
	refusedMessages atomic.Int64
	droppedAppends  atomic.Int64
	droppedFrames   atomic.Int64

	unspokenMessages atomic.Int64
	divergedReplicas atomic.Int64
	undecidedDigests atomic.Int64

	snapshotsMade, snapshotsSent, snapshotsReceived, snapshotsInstalled, snapshotsFailed atomic.Int64
	snapshotBytesSent, snapshotBytesReceived                                             atomic.Int64
}

// Metrics are counters since Open, unless said otherwise.
type Metrics struct {
	Groups  int   // that run now
	Leading int64 // groups led now

	Proposals  int64 // commands that got an index here
	Forwarded  int64 // commands sent to leaders on other stores, again ones too
	Applied    int64 // commands applied here
	Reads      int64 // linearizable reads
	LeaseReads int64 // of them, those that asked nobody
	StaleReads int64 // ReadStale and ReadLocal; some become Reads
	Elections  int64 // campaigns that replicas here started

	Syncs         int64 // of the log
	LogBytes      int64 // written to the log
	WireBytes     int64 // sent to peers
	WireFrames    int64 // sent to peers
	InflightBytes int64 // now: commands proposed and not completed
	ApplyBytes    int64 // now: committed and not applied
	CachedBytes   int64 // now: entries kept in memory
	LogQueueBytes int64 // now: of turns, on their way to the log's disk

	Fitness  group.Fitness // now: how the disk of the log answers
	SlowDisk int64         // times that it became slow, and leaderships were handed over
	HungDisk int64         // times that it did not answer, and leaders stepped down

	FailedGroups    int64 // groups that stopped by themselves
	SkippedEntries  int64 // entries left out as GroupConfig.Skip says
	DamagedReplicas int64 // that turned out to have lost data; the same one may again
	HealedReplicas  int64 // of these, that have it again in place
	ReplacedLost    int64 // of these, that another replica has taken the place of
	Repairing       int64 // now: replicas that wait to be healed or replaced
	JoinedReplicas  int64 // replicas started because a leader asked for them
	RemovedReplicas int64 // replicas let go of after their removal
	BadFrames       int64 // frames dropped for what they held
	StrayMessages   int64 // messages for or from replicas that are not there
	BarredMessages  int64 // messages from replicas that a recovery of their group left behind
	RefusedMessages int64 // messages a core refused
	DroppedAppends  int64 // appends dropped for want of MaxReceiveBytes
	DroppedFrames   int64 // frames the transport had no room for
	// UnspokenMessages were not sent, as the protocol version that is spoken with the
	// peer does not have them.
	UnspokenMessages int64
	// DivergedReplicas stopped because of what their state machines made of entries;
	// they are FailedGroups too, as soon as they have handed over.
	DivergedReplicas int64
	// UndecidedDigests are ranges of entries of which replicas made different things,
	// no majority the same, as this store counted them.
	UndecidedDigests int64
	// RefusedConnections were turned away: by Config.Limits, for their certificate
	// or for their hello, here or by the peer.
	RefusedConnections int64

	SnapshotsMade         int64 // of state machines here
	SnapshotsSent         int64 // to peers, completely
	SnapshotsReceived     int64 // from peers, completely
	SnapshotsInstalled    int64 // that took the place of log and state
	SnapshotsFailed       int64 // attempts of any of these that came to nothing
	SnapshotBytesSent     int64 // of chunks, repeated ones too
	SnapshotBytesReceived int64
}

// Metrics returns the counters.
func (s *Store) Metrics() Metrics {
	s.mu.RLock()
	groups := len(s.groups)
	s.mu.RUnlock()
	log, links := s.log.Stats(), s.transport.Stats()
	lanes := &links.Lanes
	m := &s.metrics
	return Metrics{
		Groups:          groups,
		Leading:         m.leading.Load(),
		Proposals:       m.proposals.Load(),
		Forwarded:       m.forwarded.Load(),
		Applied:         m.applied.Load(),
		Reads:           m.reads.Load(),
		LeaseReads:      m.leaseReads.Load(),
		StaleReads:      m.staleReads.Load(),
		Elections:       m.elections.Load(),
		Syncs:           int64(log.Syncs),
		LogBytes:        int64(log.Bytes),
		WireBytes:       int64(lanes[wire.Urgent].BytesSent + lanes[wire.Bulk].BytesSent),
		WireFrames:      int64(lanes[wire.Urgent].FramesSent + lanes[wire.Bulk].FramesSent),
		InflightBytes:   s.inflightBytes.Load(),
		ApplyBytes:      s.applyBytes.Load(),
		CachedBytes:     s.cachedBytes.Load(),
		LogQueueBytes:   s.logBytes.Load(),
		Fitness:         s.health.now(),
		SlowDisk:        m.slowDisk.Load(),
		HungDisk:        m.hungDisk.Load(),
		FailedGroups:    m.failedGroups.Load(),
		SkippedEntries:  m.skipped.Load(),
		DamagedReplicas: m.damaged.Load(),
		HealedReplicas:  m.healed.Load(),
		ReplacedLost:    m.replaced.Load(),
		Repairing:       s.repairs.count.Load(),
		JoinedReplicas:  m.joined.Load(),
		RemovedReplicas: m.removed.Load(),
		BadFrames:       m.badFrames.Load(),
		StrayMessages:   m.strayMessages.Load(),
		BarredMessages:  m.barredMessages.Load(),
		RefusedMessages: m.refusedMessages.Load(),
		DroppedAppends:  m.droppedAppends.Load(),
		DroppedFrames:   m.droppedFrames.Load(),

		UnspokenMessages: m.unspokenMessages.Load(),
		DivergedReplicas: m.divergedReplicas.Load(),
		UndecidedDigests: m.undecidedDigests.Load(),

		RefusedConnections: int64(links.HellosRefused + links.HandshakesFailed + links.AcceptsRefused + links.Overflows),

		SnapshotsMade:         m.snapshotsMade.Load(),
		SnapshotsSent:         m.snapshotsSent.Load(),
		SnapshotsReceived:     m.snapshotsReceived.Load(),
		SnapshotsInstalled:    m.snapshotsInstalled.Load(),
		SnapshotsFailed:       m.snapshotsFailed.Load(),
		SnapshotBytesSent:     m.snapshotBytesSent.Load(),
		SnapshotBytesReceived: m.snapshotBytesReceived.Load(),
	}
}
