package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"multiraft/group"
	"multiraft/internal/planted"
	"multiraft/raftlog"
	"multiraft/wire"
)

// Member is one replica of a group, the store it lives on, and its role there.
// In what an embedder passes, no role stands for [wire.Voter].
type Member = wire.Member

// Membership is the configuration of a group as one replica has applied it.
type Membership struct {
	// Index is the entry that made it, zero for the one the group was started
	// with. [group.MembershipChange] names it to be refused when it is another; for
	// zero, with Exact set.
	Index wire.Index
	// Members are all replicas with their roles.
	Members []Member
	// MaxReplica is the highest replica id that was ever given in the group.
	MaxReplica wire.ReplicaID
	// Joint says that both the voters that come and those that go decide.
	Joint bool
}

// place returns where replica stands in the membership, -1 when it is no member.
func (m *Membership) place(replica wire.ReplicaID) int {
	return slices.IndexFunc(m.Members, func(m Member) bool { return m.Replica == replica })
}

// publicMembership returns m as embedders see it.
func publicMembership(m *wire.Membership) Membership {
	p := Membership{Index: m.Index, Members: slices.Clone(m.Members), MaxReplica: m.MaxReplica}
	for _, member := range m.Members {
		p.MaxReplica = max(p.MaxReplica, member.Replica)
		p.Joint = p.Joint || member.Role&wire.Outgoing != 0
	}
	return p
}

// memberSet is a membership and where its members are reached. It never
// changes.
type memberSet struct {
	wire  *wire.Membership // the core's
	peers []int32          // place of each member's store in Store.peers, -1 for this store
}

// place returns where replica stands in the set, -1 when it is no member.
//
//mr:hotpath
func (m *memberSet) place(replica wire.ReplicaID) int {
	for i := range m.wire.Members {
		if m.wire.Members[i].Replica == replica {
			return i
		}
	}
	return -1
}

// hosts tells whether a store has a member of the set.
func (m *memberSet) hosts(store wire.StoreID) bool {
	return slices.ContainsFunc(m.wire.Members, func(m wire.Member) bool { return m.Store == store })
}

// memberSets finds the memberships that groups have in common: those that they
// were started with. Later ones bear the index of their entry, which is each
// group's own.
type memberSets struct {
	mu     sync.Mutex // guards the field below, and growing Store.peers; a leaf lock
	shared map[string]*memberSet
}

// maxSharedSets bounds the table. When it is full a new one is begun: sharing
// saves memory, and nothing depends on it.
const maxSharedSets = 1 << 12

// memberSet returns the set for m, which must not change any more.
func (s *Store) memberSet(m *wire.Membership) *memberSet {
	s.sets.mu.Lock()
	defer s.sets.mu.Unlock()
	key := ""
	if m.Index == 0 {
		key = string(m.AppendTo(nil))
		if set := s.sets.shared[key]; set != nil {
			return set
		}
	}
	set := &memberSet{wire: m, peers: make([]int32, len(m.Members))}
	for i, member := range m.Members {
		set.peers[i] = s.peerPlace(member.Store)
	}
	if m.Index == 0 {
		if len(s.sets.shared) >= maxSharedSets || s.sets.shared == nil {
			s.sets.shared = make(map[string]*memberSet)
		}
		s.sets.shared[key] = set
	}
	return set
}

// peerPlace returns the place of a store in Store.peers, -1 for this store.
//
// REQUIRES: s.sets.mu is held.
func (s *Store) peerPlace(store wire.StoreID) int32 {
	if store == s.cfg.ID {
		return -1
	}
	peers := *s.peers.Load()
	at := slices.Index(peers, store)
	if at < 0 {
		at = len(peers)
		grown := append(slices.Clone(peers), store)
		s.peers.Store(&grown)
	}
	return int32(at)
}

// startMembership returns what a group is started with. Members without a role
// are voters.
func startMembership(members []Member) *wire.Membership {
	m := &wire.Membership{Members: slices.Clone(members)}
	for i := range m.Members {
		if m.Members[i].Role == 0 {
			m.Members[i].Role = wire.Voter
		}
	}
	return m
}

// descriptor is what the log keeps of a replica besides its entries and its
// hard state, in the blob that [raftlog.Group.Meta] returns.
type descriptor struct {
	wire.Descriptor
	members  *wire.Membership
	recovery *wire.Recovery // nil: the group never lost its quorum
	proof    wire.Proof     // of a tombstone; see proofOf
}

func (d *descriptor) encode() []byte {
	stored := wire.Stored{Descriptor: d.Descriptor, Members: *d.members, Proof: d.proof}
	if d.recovery != nil {
		stored.Recovery = *d.recovery
	}
	return stored.AppendTo(nil)
}

func decodeDescriptor(meta []byte) (d descriptor, err error) {
	stored := new(wire.Stored)
	err = stored.Decode(meta)
	d.Descriptor, d.members, d.proof = stored.Descriptor, &stored.Members, stored.Proof
	if stored.Recovery.Generation != 0 {
		d.recovery = &stored.Recovery
	}
	return d, err
}

func (d *descriptor) joining() bool  { return d.State&wire.Joining != 0 }
func (d *descriptor) gone() bool     { return d.State&wire.Gone != 0 }
func (d *descriptor) barred() bool   { return d.State&wire.Barred != 0 }
func (d *descriptor) diverged() bool { return d.State&wire.Diverged != 0 }

// isMember tells whether the replica is in the stored membership.
func (d *descriptor) isMember() bool {
	return slices.ContainsFunc(d.members.Members, func(m Member) bool { return m.Replica == d.Replica })
}

// tombstone returns what is left in the log of a replica that was removed.
func tombstone(replica wire.ReplicaID, proof wire.Proof) []byte {
	d := descriptor{
		Descriptor: wire.Descriptor{Replica: replica, State: wire.Gone},
		members:    &wire.Membership{MaxReplica: replica},
		proof:      proof,
	}
	return d.encode()
}

// description returns the descriptor of r once m is stored.
func (r *replica) description(m *wire.Membership) descriptor {
	d := descriptor{Descriptor: wire.Descriptor{Replica: r.self}, members: m, recovery: r.recovery}
	if r.joining && !d.isMember() {
		d.State = wire.Joining
	}
	if r.rising && !d.isVoter() && !r.isDemotedBy(m) {
		d.State |= wire.Rising
	}
	if r.barred {
		d.State |= wire.Barred
	}
	return d
}

// isDemotedBy tells whether a membership takes the vote away that this replica has by
// the one in force. What falls back to an earlier one because its entry is dropped does
// not.
func (r *replica) isDemotedBy(m *wire.Membership) bool {
	set := r.members.Load()
	if set == nil {
		return false // it begins
	}
	at := set.place(r.self)
	return at >= 0 && set.wire.Members[at].Role&wire.Voter != 0 && m.Index > set.wire.Index
}

// lastDescription returns the descriptor with the newest membership, which may be on
// its way to the log still, and must stay.
//
// REQUIRES: turnMu is held.
func (r *replica) lastDescription() descriptor {
	m := r.members.Load().wire
	if r.handed != nil && r.handed.Index > m.Index {
		m = r.handed
	}
	return r.description(m)
}

// agree holds what StartGroup was given against what is stored and returns what
// is in force.
func (r *replica) agree(ctx context.Context, cfg *GroupConfig) (d descriptor, isNew bool, err error) {
	fault := func(field string, value any, rule string) (descriptor, bool, error) {
		return d, false, fmt.Errorf("group %d: configuration: %w", r.id, &ConfigError{Field: field, Value: value, Rule: rule})
	}
	if meta := r.log.Meta(); len(meta) > 0 && (len(cfg.Members) == 0 || !planted.Is(planted.StaleTombstone)) {
		if d, err = decodeDescriptor(meta); err != nil {
			return d, false, fmt.Errorf("group %d: stored descriptor: %w", r.id, err)
		}
		// It was removed as well when it has stored a membership without it and the
		// store ended before the tombstone was written; and when its store was given
		// another replica of the group, of which a store has one at most.
		if !d.gone() && (!d.joining() && !d.isMember() || cfg.Join && cfg.Replica > d.Replica) {
			if err := r.store.persist(ctx, func(b *raftlog.Batch) { bury(b, r.log, d.Replica, d.members.Index) }); err != nil {
				return d, false, err
			}
			d.State = wire.Gone
		}
		switch {
		case d.gone() && (!cfg.Join || cfg.Replica <= d.Replica):
			return d, false, &ReplicaRemovedError{Group: r.id, Replica: d.Replica}
		case d.gone():
			return joinDescriptor(cfg.Replica, d.Replica), true, nil
		case d.barred():
			return d, false, &BarredError{Group: r.id, Replica: d.Replica}
		case d.diverged() && r.digests != nil:
			return d, false, &DivergedError{Group: r.id, Replica: d.Replica}
		case cfg.Snapshot != "":
			return fault("Snapshot", cfg.Snapshot, "must be left out when the group is stored")
		case cfg.Replica != 0 && cfg.Replica != d.Replica:
			return fault("Replica", cfg.Replica, fmt.Sprintf("must be the stored one, %d", d.Replica))
		case d.members.Index == 0 && d.recovery == nil && !d.joining() && len(cfg.Members) > 0 && !slices.Equal(startMembership(cfg.Members).Members, d.members.Members):
			return fault("Members", fmt.Sprintf("%+v", cfg.Members), fmt.Sprintf("must be the stored ones, %+v", d.members.Members))
		}
		if d.diverged() {
			// What its machine answers may differ, it is said.
			d.State &^= wire.Diverged
			if err := r.store.persist(ctx, func(b *raftlog.Batch) { b.Meta(r.log, d.encode()) }); err != nil {
				return d, false, err
			}
		}
		return d, false, nil
	}
	if cfg.Join {
		return joinDescriptor(cfg.Replica, 0), true, nil
	}
	if len(cfg.Members) == 0 {
		return fault("Members", "none", "must be given when the group is not stored yet")
	}
	if r.store.cfg.DiskLost {
		return fault("Members", fmt.Sprintf("%+v", cfg.Members), "must not begin on a store with DiskLost: add its replica to the group anew")
	}
	d.members = startMembership(cfg.Members)
	for _, m := range d.members.Members {
		if m.Store == r.store.cfg.ID {
			d.Replica = m.Replica
		}
	}
	if cfg.Replica != 0 && cfg.Replica != d.Replica {
		return fault("Replica", cfg.Replica, fmt.Sprintf("must be the one of Members on this store, %d", d.Replica))
	}
	return d, true, nil
}

// joinDescriptor describes a replica that was added to a running group. Its
// membership, of which it has yet to hear, keeps the id in the tombstone that it
// takes the place of, zero when there was none.
func joinDescriptor(replica, buried wire.ReplicaID) descriptor {
	return descriptor{
		Descriptor: wire.Descriptor{Replica: replica, State: wire.Joining},
		members:    &wire.Membership{MaxReplica: buried},
	}
}

// preferred returns the member that campaigns first in a new group.
func preferred(id wire.GroupID, m *wire.Membership) wire.ReplicaID {
	voters := uint64(0)
	for i := range m.Members {
		voters += uint64(m.Members[i].Role & wire.Voter)
	}
	if voters == 0 {
		return 0
	}
	at := uint64(id) % voters
	for i := range m.Members {
		if m.Members[i].Role&wire.Voter == 0 {
			continue
		}
		if at == 0 {
			return m.Members[i].Replica
		}
		at--
	}
	return 0
}

// keepMembership puts a membership that the core has handed out into the log.
//
// E8: what the machine applies behind it must not be durable before it is, or a
// restart would begin with an older membership than the machine's state. The
// core hands out nothing behind it before it hears that its entry is applied,
// and it hears that once the log has the membership (toldApplied).
func (w *worker) keepMembership(r *replica, m *wire.Membership) {
	d := r.description(m)
	w.log.Meta(r.log, d.encode())
	w.log.acks = append(w.log.acks, slotAck{replica: r, membership: m.Index})
	r.switching, r.handed = m.Index, m
}

// toldApplied returns what the core may hear to be applied.
//
// REQUIRES: r.switching is not zero.
func (r *replica) toldApplied(applied wire.Index) wire.Index {
	if wire.Index(r.keptMembership.Load()) < r.switching {
		return min(applied, r.switching-1)
	}
	return applied
}

// noteMembers follows the core to another membership. It is called whenever the
// core may have switched, before messages of that turn are addressed.
//
//mr:hotpath
func (w *worker) noteMembers(r *replica) {
	if m := r.core.Members(); m != r.members.Load().wire {
		w.switchMembers(r, m)
	}
}

func (w *worker) switchMembers(r *replica, m *wire.Membership) {
	s := w.store
	old := r.members.Load()
	set := s.memberSet(m)
	for i := range old.wire.Members {
		if set.place(old.wire.Members[i].Replica) < 0 {
			// It has to be told that it is removed.
			r.meet(old.wire.Members[i].Replica, old.wire.Members[i].Store)
		}
	}
	if at := set.place(r.self); r.rising && (at < 0 || set.wire.Members[at].Role&wire.Voter == 0) && r.isDemotedBy(m) {
		r.rising = false // it had what it was to have
	}
	r.members.Store(set)
	r.noteOutside(wire.ReplicaID(r.lead.Load()))
	if m.Index >= r.switching {
		r.switching = 0
	}
	if set.place(r.self) >= 0 {
		r.joining = false
	}
	w.settleChanges(r, m)
	if s.cfg.Events.MembershipChanged != nil {
		s.events.note(r, noticeMembers)
	}
}

// stranger is a replica that is no member as far as this one knows: one that
// was removed, or one that was added by entries that have not come here yet.
type stranger struct {
	replica wire.ReplicaID
	store   wire.StoreID
}

// strangers are those that a replica may have to answer, the last ones met.
type strangers struct {
	list [maxStrangers]stranger
	next int
}

// maxStrangers bounds the memory of a replica for others. A joint change
// replaces all members at most; a stranger that is forgotten speaks again.
const maxStrangers = group.MaxReplicas

// meet remembers where a stranger lives.
func (r *replica) meet(id wire.ReplicaID, store wire.StoreID) {
	if r.strangers == nil {
		r.strangers = new(strangers)
	}
	for i := range r.strangers.list {
		if r.strangers.list[i].replica == id {
			r.strangers.list[i].store = store
			return
		}
	}
	r.strangers.list[r.strangers.next] = stranger{id, store}
	r.strangers.next = (r.strangers.next + 1) % maxStrangers
}

// noteOutside remembers where a leader lives that is no member as far as this
// replica knows: clients are sent there, and its answers are taken.
func (r *replica) noteOutside(lead wire.ReplicaID) {
	if lead == 0 || lead == r.self || r.strangers == nil || r.members.Load().place(lead) >= 0 {
		return
	}
	for i := range r.strangers.list {
		if known := r.strangers.list[i]; known.replica == lead {
			r.outside.Store(&known)
		}
	}
}

// strangerPeer returns the place of a stranger's store in Store.peers, -1 when
// it is not known.
func (s *Store) strangerPeer(r *replica, id wire.ReplicaID) int32 {
	if r.strangers == nil {
		return -1
	}
	for _, known := range r.strangers.list {
		if known.replica == id && id != 0 {
			s.sets.mu.Lock()
			defer s.sets.mu.Unlock()
			return s.peerPlace(known.store)
		}
	}
	return -1
}

// takesStranger tells whether a message may come from a replica that is no member
// as far as the receiver knows. Leaders and candidates may have been added since,
// and who is removed hears it from whoever knows. What only the leader says comes
// from a leader that was met before; a chunk of a snapshot is held against the
// transfer that it belongs to. All other kinds come from members only.
//
//mr:hotpath
func (r *replica) takesStranger(from wire.StoreID, m *wire.Message) bool {
	switch m.Kind {
	case wire.Vote, wire.PreVote, wire.Removed, wire.Append, wire.Heartbeat, wire.Snapshot, wire.Confirm, wire.SnapshotChunk, wire.Rejoin, wire.Repair:
		return true
	case wire.Bar:
		return r.members.Load().hosts(from)
	case wire.TimeoutNow, wire.ReadIndexResponse, wire.ProposeResponse:
		out := r.outside.Load()
		return out != nil && out.replica == m.From && out.store == from
	}
	return false
}
