package group

import (
	"errors"
	"fmt"

	"multiraft/wire"
)

var (
	// ErrNotLeader is returned by Propose on a replica that does not lead. The
	// caller asks Leader who does.
	ErrNotLeader = errors.New("replica is not the leader")
	// ErrNoLeader is returned by ReadIndex and TransferLeader when no leader is
	// known. The caller
	// tries again after an election.
	ErrNoLeader = errors.New("no leader is known")
	// ErrBusy is returned by Propose when too many bytes are uncommitted, and by
	// ReadIndex when too many reads wait. The caller tries again later.
	ErrBusy = errors.New("group is busy")
	// ErrTransferring is returned by Propose while the leader hands over. The
	// caller tries again when a leader is known, after an election time-out at the
	// latest.
	ErrTransferring = errors.New("leadership is being transferred")
	// ErrUnknownReplica is returned by TransferLeader for a replica that is no
	// member.
	ErrUnknownReplica = errors.New("replica is not a member")
	// ErrLearner is returned by TransferLeader for a member that cannot lead.
	ErrLearner = errors.New("replica is a learner")
	// ErrSnapshotOld is returned by Restore for a snapshot that holds nothing new
	// here, or to a leader.
	ErrSnapshotOld = errors.New("snapshot holds nothing new")
	// ErrBadSnapshot is wrapped by what Restore returns for a snapshot that cannot
	// be one of this group.
	ErrBadSnapshot = errors.New("bad snapshot")
	// ErrPromised is returned by Campaign and ForgetLeader while the leader may hold a lease. The
	// caller tries again after an election time-out.
	ErrPromised = errors.New("the leader may hold a lease")
	// ErrHung is returned by Campaign while nothing becomes durable here. The caller
	// leaves the campaign to others.
	ErrHung = errors.New("nothing becomes durable here")
	// ErrWounded is returned by Campaign on a replica that has lost its entries. It
	// may campaign when it has taken the state of the leader.
	ErrWounded = errors.New("replica has lost entries and waits for a snapshot")
	// ErrNotVoter is returned by Campaign on a replica that has no vote.
	ErrNotVoter = errors.New("replica is not a voter")
	// ErrBadProposal is returned by Propose for a block whose payloads are not as
	// many as the caller says, or too large. Nothing was appended.
	ErrBadProposal = errors.New("malformed proposal")
	// ErrAwaitsChange is returned by Campaign while a committed membership is not
	// applied, or might be found in a log that has not been looked through since the
	// start. The caller tries again, which goes on looking.
	ErrAwaitsChange = errors.New("a committed membership is not applied yet")
)

// FaultError says why a group stopped. It is final: the group does nothing
// until it is made anew.
type FaultError struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
	Term    wire.Term
	Index   wire.Index // the entry it is about, zero if none
	Rule    string     // the invariant of this package that does not hold, "G7"
	Err     error
}

// Error names the place, the rule and the reason.
func (e *FaultError) Error() string {
	return fmt.Sprintf("group %d: replica %d: term %d: index %d: %s: %v",
		e.Group, e.Replica, e.Term, e.Index, e.Rule, e.Err)
}

// Unwrap returns the reason.
func (e *FaultError) Unwrap() error { return e.Err }

// MembershipError refuses a membership change before anything was appended.
type MembershipError struct {
	Reason MembershipReason
	// Replica is the one it is about, zero if it is about none.
	Replica wire.ReplicaID
	// Index is that of the membership in force.
	Index wire.Index
}

// Error names the reason and the replica.
func (e *MembershipError) Error() string {
	if e.Replica != 0 {
		return fmt.Sprintf("membership change: replica %d: %s", e.Replica, e.Reason)
	}
	return fmt.Sprintf("membership change: %s", e.Reason)
}

// fail stops the group, unless it has stopped already, and returns the fault.
func (g *Group) fail(rule string, index wire.Index, format string, args ...any) error {
	if g.fault == nil {
		g.fault = &FaultError{
			Group: g.id, Replica: g.self, Term: g.term, Index: index,
			Rule: rule, Err: fmt.Errorf(format, args...),
		}
		g.shed()
	}
	return g.fault
}

// badMessage refuses a message that no correct replica sends. The group goes on.
func badMessage(m *wire.Message, format string, args ...any) error {
	return fmt.Errorf("%w: %s from replica %d to %d in group %d: %w",
		wire.ErrBadMessage, m.Kind, m.From, m.To, m.Group, fmt.Errorf(format, args...))
}
