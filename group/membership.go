package group

import (
	"errors"
	"fmt"
	"slices"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// ChangeOp is what a Change does to a replica.
type ChangeOp uint8

const (
	// AddVoter adds a voter, or promotes a learner.
	AddVoter ChangeOp = iota + 1
	// AddLearner adds a learner, or makes a voter one.
	AddLearner
	// Remove removes a member, whose replica id is never used again.
	Remove
)

// Change is what becomes of one replica. Store may be zero for one that is a
// member already.
type Change struct {
	Op      ChangeOp
	Replica wire.ReplicaID
	Store   wire.StoreID
}

// LeaveMode is how a joint configuration ends.
type LeaveMode uint8

const (
	// LeaveAuto has the leader propose to leave as soon as the joint configuration
	// is applied.
	LeaveAuto LeaveMode = iota
	// LeaveExplicit waits for LeaveJoint.
	LeaveExplicit
)

// MembershipChange is a change of the configuration, with all its parts at once.
// When it changes more than one voter, it goes through a joint configuration
// (thesis, section 4.3), in which both the old voters and the new ones decide.
type MembershipChange struct {
	Changes []Change
	// Leave says how the joint configuration ends, if there is one.
	Leave LeaveMode
	// Joint asks for a joint configuration where none is needed.
	Joint bool
	// IfIndex, unless zero, must be the Index of the membership in force.
	IfIndex wire.Index
	// Exact has IfIndex checked when it is zero, too: that is the Index of the
	// membership that a group begins with.
	Exact bool
}

// MembershipReason is why a membership change was refused.
type MembershipReason uint8

const (
	// ReasonNothing: the change changes nothing.
	ReasonNothing MembershipReason = iota + 1
	// ReasonBadOp: the operation is none.
	ReasonBadOp
	// ReasonZeroID: a replica id, or the store of a new replica, is zero.
	ReasonZeroID
	// ReasonTwice: one replica is named twice.
	ReasonTwice
	// ReasonVoterAndLearner: one replica is to be voter and learner.
	ReasonVoterAndLearner
	// ReasonUnknown: the replica to remove is no member.
	ReasonUnknown
	// ReasonReused: the replica id is not above all that were ever given.
	ReasonReused
	// ReasonOtherStore: the member is on another store.
	ReasonOtherStore
	// ReasonSameStore: the store has a replica of the group already.
	ReasonSameStore
	// ReasonNoVoters: no voter would be left.
	ReasonNoVoters
	// ReasonTooMany: there would be more than MaxReplicas members.
	ReasonTooMany
	// ReasonPending: the change before is not applied yet, or the leader has not
	// applied an entry of its term.
	ReasonPending
	// ReasonJoint: the configuration is joint and has to be left first.
	ReasonJoint
	// ReasonNotJoint: there is no joint configuration to leave.
	ReasonNotJoint
	// ReasonStale: IfIndex is not the index of the membership in force.
	ReasonStale
)

var membershipReasons = [...]string{
	ReasonNothing:         "it changes nothing",
	ReasonBadOp:           "unknown operation",
	ReasonZeroID:          "replica and store must not be zero",
	ReasonTwice:           "a replica is named twice",
	ReasonVoterAndLearner: "a replica must not be voter and learner",
	ReasonUnknown:         "replica is not a member",
	ReasonReused:          "replica ids are used once and grow",
	ReasonOtherStore:      "the member is on another store",
	ReasonSameStore:       "the store has a replica of the group",
	ReasonNoVoters:        "no voter would be left",
	ReasonTooMany:         "too many members",
	ReasonPending:         "another change may be pending",
	ReasonJoint:           "the configuration is joint",
	ReasonNotJoint:        "the configuration is not joint",
	ReasonStale:           "the membership has changed",
}

// String returns the reason in words.
func (r MembershipReason) String() string {
	if int(r) >= len(membershipReasons) || r == 0 {
		return "unknown reason"
	}
	return membershipReasons[r]
}

// isJoint says whether m has two sets of voters.
func isJoint(m *wire.Membership) bool {
	return slices.ContainsFunc(m.Members, func(m wire.Member) bool { return m.Role&wire.Outgoing != 0 })
}

// place returns where a replica stands in m, -1 when it is no member.
//
//mr:hotpath
func place(m *wire.Membership, r wire.ReplicaID) int {
	for i := range m.Members {
		if m.Members[i].Replica == r {
			return i
		}
	}
	return -1
}

// highestReplica returns the highest replica id that was ever given.
func highestReplica(m *wire.Membership) wire.ReplicaID {
	highest := m.MaxReplica
	for i := range m.Members {
		highest = max(highest, m.Members[i].Replica)
	}
	return highest
}

// applyTo returns the membership that the change makes of m, which it does not
// touch, or why it must not be made.
func (c *MembershipChange) applyTo(m *wire.Membership) (*wire.Membership, error) {
	refuse := func(reason MembershipReason, r wire.ReplicaID) (*wire.Membership, error) {
		return nil, &MembershipError{Reason: reason, Replica: r, Index: m.Index}
	}
	switch {
	case (c.IfIndex != 0 || c.Exact) && c.IfIndex != m.Index:
		return refuse(ReasonStale, 0)
	case isJoint(m):
		return refuse(ReasonJoint, 0)
	case len(c.Changes) == 0:
		return refuse(ReasonNothing, 0)
	case len(c.Changes) > 2*MaxReplicas:
		return refuse(ReasonTooMany, 0)
	}
	next := &wire.Membership{MaxReplica: highestReplica(m), Members: slices.Clone(m.Members)}
	for i, ch := range c.Changes {
		for _, other := range c.Changes[:i] {
			if other.Replica == ch.Replica {
				if other.Op != ch.Op && other.Op != Remove && ch.Op != Remove {
					return refuse(ReasonVoterAndLearner, ch.Replica)
				}
				return refuse(ReasonTwice, ch.Replica)
			}
		}
		if reason := ch.applyTo(next, highestReplica(m)); reason != 0 {
			return refuse(reason, ch.Replica)
		}
	}
	var changed, voters int // voters that change, and that there will be
	for i := range next.Members {
		member := &next.Members[i]
		before := wire.MemberRole(0)
		if at := place(m, member.Replica); at >= 0 {
			before = m.Members[at].Role
		}
		if (before^member.Role)&wire.Voter != 0 {
			changed++
		}
		if member.Role&wire.Voter != 0 {
			voters++
		}
		if before&wire.Voter != 0 {
			member.Role |= wire.Outgoing // taken off below where it is not needed
		}
	}
	if voters == 0 {
		return refuse(ReasonNoVoters, 0)
	}
	if changed > 1 || c.Joint {
		next.AutoLeave = c.Leave == LeaveAuto
	} else {
		next = leaveJoint(next)
	}
	next.Members = slices.DeleteFunc(next.Members, func(m wire.Member) bool { return m.Role == 0 })
	if len(next.Members) > MaxReplicas {
		return refuse(ReasonTooMany, 0)
	}
	for i, member := range next.Members {
		for _, other := range next.Members[:i] {
			if other.Store == member.Store {
				return refuse(ReasonSameStore, max(member.Replica, other.Replica))
			}
		}
	}
	return next, nil
}

// applyTo gives the replica its new role in m, none when it is removed, and
// returns a reason not to, or zero.
func (ch *Change) applyTo(m *wire.Membership, highest wire.ReplicaID) MembershipReason {
	role := wire.Voter
	switch ch.Op {
	case AddVoter:
	case AddLearner:
		role = wire.Learner
	case Remove:
		role = 0
	default:
		return ReasonBadOp
	}
	at := place(m, ch.Replica)
	switch {
	case ch.Replica == 0:
		return ReasonZeroID
	case at >= 0 && ch.Store != 0 && ch.Store != m.Members[at].Store:
		return ReasonOtherStore
	case at >= 0 && m.Members[at].Role == role:
		return ReasonNothing
	case at >= 0:
		m.Members[at].Role = role
		return 0
	case ch.Op == Remove:
		return ReasonUnknown
	case ch.Store == 0:
		return ReasonZeroID
	case ch.Replica <= highest && !planted.Is(planted.ReuseReplica):
		return ReasonReused
	}
	m.Members = append(m.Members, wire.Member{Replica: ch.Replica, Store: ch.Store, Role: role})
	m.MaxReplica = max(m.MaxReplica, ch.Replica)
	return 0
}

// leaveJoint returns m without its outgoing half.
func leaveJoint(m *wire.Membership) *wire.Membership {
	next := &wire.Membership{MaxReplica: highestReplica(m)}
	for _, member := range m.Members {
		member.Role &^= wire.Outgoing
		if member.Role != 0 {
			next.Members = append(next.Members, member)
		}
	}
	return next
}

// validateMembers reports what is wrong with a membership on its own.
func validateMembers(m *wire.Membership, fault func(string, ...any)) {
	members := m.Members
	if len(members) > MaxReplicas {
		fault("Members: %d must be at most %d", len(members), MaxReplicas)
		return
	}
	for i, m := range members {
		switch {
		case m.Replica == 0:
			fault("Members[%d]: replica must not be zero", i)
		case m.Role&(wire.Voter|wire.Outgoing|wire.Learner) == 0:
			fault("Members[%d]: replica %d has no role", i, m.Replica)
		case m.Role&wire.Voter != 0 && m.Role&wire.Learner != 0:
			fault("Members[%d]: replica %d must not be voter and learner", i, m.Replica)
		}
		for _, other := range members[:i] {
			if other.Replica == m.Replica && m.Replica != 0 {
				fault("Members[%d]: replica %d must be there once", i, m.Replica)
			}
		}
	}
}

// hasVoter says whether m has a voter of the incoming half.
func hasVoter(m *wire.Membership) bool {
	return slices.ContainsFunc(m.Members, func(m wire.Member) bool { return m.Role&wire.Voter != 0 })
}

var (
	errNotOneChange = errors.New("not one membership")
	errNoVoter      = errors.New("Members: must hold a voter")
)

// decodeChange reads the membership from its block (G14).
func decodeChange(b wire.Block) (*wire.Membership, error) {
	payload, rest, ok := wire.NextPayload(b.Payloads())
	if !ok || len(rest) > 0 || b.Count() != 1 {
		return nil, errNotOneChange
	}
	m := new(wire.Membership)
	n, err := m.Decode(payload)
	if err != nil {
		return nil, err
	}
	if n != len(payload) {
		return nil, errNotOneChange
	}
	var faults []error
	validateMembers(m, func(format string, args ...any) {
		faults = append(faults, fmt.Errorf(format, args...))
	})
	if !hasVoter(m) {
		faults = append(faults, errNoVoter)
	}
	m.Index = b.First()
	return m, errors.Join(faults...)
}
