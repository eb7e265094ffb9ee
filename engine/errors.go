package engine

import (
	"errors"
	"fmt"
	"time"

	"multiraft/wire"
)

var (
	// ErrClosed answers calls on a store that is closed or closing.
	ErrClosed = errors.New("store is closed")
	// ErrUnknownGroup answers calls that name a group the store does not run, and
	// RemoveGroup for one that it does not hold.
	ErrUnknownGroup = errors.New("unknown group")
	// ErrGroupExists answers StartGroup and RemoveGroup for a group that runs.
	ErrGroupExists = errors.New("group runs already")
	// ErrStored says why a replica that was added is not joined: the store holds
	// one of its group that nobody has started.
	ErrStored = errors.New("the store holds a replica of the group")
	// ErrGroupStopped completes what was pending when its group was stopped.
	ErrGroupStopped = errors.New("group is stopped")
	// ErrBusy refuses work at once because a budget is used up: bytes in flight
	// of the group or the store, groups per store, or free disk space. Nothing
	// was queued; try again later.
	ErrBusy = errors.New("busy")
	// ErrLeadershipLost completes proposals whose leader stepped down before
	// they were committed. Whether they take effect is unknown.
	ErrLeadershipLost = errors.New("leadership lost, outcome unknown")
	// ErrProposalDropped completes proposals that another leader's entries
	// replaced. They did not take effect and never will.
	ErrProposalDropped = errors.New("proposal was dropped")
	// ErrNoAnswer completes forwarded proposals that the leader did not answer in
	// time. Whether they take effect is unknown.
	ErrNoAnswer = errors.New("no answer from the leader, outcome unknown")
	// ErrResultTooLarge completes forwarded proposals that were applied, and whose
	// result is too large to be sent.
	ErrResultTooLarge = errors.New("result of a forwarded proposal is too large")
	// ErrNoLeader answers reads for which no leader was found in time. The
	// read may be repeated.
	ErrNoLeader = errors.New("no leader")
	// ErrTransferring completes proposals on a leader that hands over. They did
	// not take effect; propose again when the new leader is known.
	ErrTransferring = errors.New("leadership is being transferred")
	// ErrNotVoter refuses a transfer to a replica without a vote in the group.
	ErrNotVoter = errors.New("not a voter of the group")
	// ErrTransferFailed says that the wished replica does not lead.
	ErrTransferFailed = errors.New("leadership was not transferred")
	// ErrCampaignFailed says that a replica that was told to campaign does not lead.
	ErrCampaignFailed = errors.New("campaign did not win")
	// ErrNoSnapshotter answers what needs snapshots of a group whose state machine
	// makes none.
	ErrNoSnapshotter = errors.New("state machine makes no snapshots")
	// ErrNothingApplied answers Snapshot on a replica that has not applied enough
	// to make one yet. It may be tried again.
	ErrNothingApplied = errors.New("nothing is applied yet")
	// ErrInstalling answers Snapshot on a replica that is taking in the state of
	// another one. It may be tried again.
	ErrInstalling = errors.New("a snapshot is being installed")
	// ErrNoNotifier refuses a Pending that was made without NewPending or Init, and
	// an asynchronous read without a function to call.
	ErrNoNotifier = errors.New("nobody to notify")
	// ErrPendingInUse answers ProposeAsync with a Pending that still waits for
	// an earlier proposal.
	ErrPendingInUse = errors.New("pending object is in use")
)

var (
	// errNoWriter is what is wrong with a state machine that returns neither a
	// writer nor an error.
	errNoWriter = errors.New("Snapshot returned no writer")
	// errUnspoken is what is wrong with a message of a protocol version that this
	// store does not speak.
	errUnspoken = errors.New("message of a newer protocol version")
	// errMachineAhead is why a replica that joins asks for a snapshot at once.
	errMachineAhead = errors.New("the state machine holds the state of an earlier replica")
	// errWho is why a store takes no replica yet for one that is lost.
	errWho = errors.New("it is not known yet which replica was lost")
	// errMade marks a wish whose snapshot was made for it.
	errMade = errors.New("snapshot was made")
	// errContradiction is wrapped when log and snapshot cannot both be right.
	errContradiction = errors.New("the log contradicts the snapshot")
)

// NotLeaderError refuses a proposal on a replica that does not lead its group.
// Leader and Store are zero when no leader is known.
type NotLeaderError struct {
	Group  wire.GroupID
	Leader wire.ReplicaID
	Store  wire.StoreID
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("group %d: not leader, no leader is known", e.Group)
	}
	return fmt.Sprintf("group %d: not leader, replica %d on store %d is", e.Group, e.Leader, e.Store)
}

// CommandTooLargeError refuses a command above Config.MaxCommandBytes.
type CommandTooLargeError struct {
	Group        wire.GroupID
	Bytes, Limit int
}

func (e *CommandTooLargeError) Error() string {
	return fmt.Sprintf("group %d: command of %d bytes exceeds the limit of %d", e.Group, e.Bytes, e.Limit)
}

// GroupFailedError says why one replica stopped by itself: its state machine
// failed, its log is damaged, or the core found a contradiction. Other groups
// of the store go on.
type GroupFailedError struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
	Err     error
}

func (e *GroupFailedError) Error() string {
	return fmt.Sprintf("group %d: replica %d failed: %v", e.Group, e.Replica, e.Err)
}

func (e *GroupFailedError) Unwrap() error { return e.Err }

// ReplicaRemovedError says that a replica was removed from its group. It
// completes what was pending, and answers StartGroup: an id that was removed is
// not used again. The store keeps a tombstone of it and nothing else. When the store
// had lost which one it was, Replica may be zero, or the last that the group ever had.
type ReplicaRemovedError struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
}

func (e *ReplicaRemovedError) Error() string {
	return fmt.Sprintf("group %d: replica %d was removed", e.Group, e.Replica)
}

// BarredError says that a group lost its quorum and was recovered without this
// replica, see docs/quorum-loss.md. What it holds is left as it is and never used:
// StartGroup refuses it from then on. The store gets another replica of the group
// by [Group.AddReplica], which takes its place.
type BarredError struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
	// Generation counts the recoveries of the group, By is the store that told of
	// the last one. Both are zero where that is not known, as after a restart.
	Generation uint64
	By         wire.StoreID
}

func (e *BarredError) Error() string {
	if e.Generation == 0 {
		return fmt.Sprintf("group %d: replica %d is barred: the group was recovered without it", e.Group, e.Replica)
	}
	return fmt.Sprintf("group %d: replica %d is barred: the group was recovered without it, in recovery %d", e.Group, e.Replica, e.Generation)
}

// DivergedError says that the state machine of a replica has made something else of
// the same entries than a majority of voters, somewhere up to Index, zero when that is
// not known any more. The replica has ended, and StartGroup does not start it again:
// its state is wrong, and snapshots that it made may be. Have it replaced, see
// docs/divergence.md.
type DivergedError struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
	Index   wire.Index
}

func (e *DivergedError) Error() string {
	if e.Index == 0 {
		return fmt.Sprintf("group %d: the state machine of replica %d has diverged", e.Group, e.Replica)
	}
	return fmt.Sprintf("group %d: the state machine of replica %d has diverged by entry %d", e.Group, e.Replica, e.Index)
}

// SnapshotError says why the snapshot of a group that ends at Index could not be
// used: it is damaged, cannot be read, or the state machine did not take it. The
// group needs its state from other replicas or from an export.
type SnapshotError struct {
	Group wire.GroupID
	Index wire.Index
	Err   error
}

func (e *SnapshotError) Error() string {
	return fmt.Sprintf("group %d: snapshot at %d: %v", e.Group, e.Index, e.Err)
}

func (e *SnapshotError) Unwrap() error { return e.Err }

// ReplicaLostError answers StartGroup for a replica that may have forgotten what it
// promised: it never runs again. Unless [Config.DisableRepair] is set or the state
// machine cannot begin anew, the store asks the group for another replica in its
// place, and starts that by itself: [Events.GroupRepaired] tells, and [Store.Group]
// then has it.
type ReplicaLostError struct {
	Group   wire.GroupID
	Replica wire.ReplicaID // zero: not known
	Err     error          // what was found, nil when the store has lost its disk
}

func (e *ReplicaLostError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("group %d: replica %d is lost with its disk", e.Group, e.Replica)
	}
	return fmt.Sprintf("group %d: what replica %d promised may be lost: %v", e.Group, e.Replica, e.Err)
}

func (e *ReplicaLostError) Unwrap() error { return e.Err }

// RepairingError answers reads on a replica that has lost entries, or the state of
// its machine, and waits for that of the leader.
type RepairingError struct {
	Group   wire.GroupID
	Replica wire.ReplicaID
	Err     error
}

func (e *RepairingError) Error() string {
	return fmt.Sprintf("group %d: replica %d waits for the state of the leader: %v", e.Group, e.Replica, e.Err)
}

func (e *RepairingError) Unwrap() error { return e.Err }

// OutlivedError says that a peer has met a later life of this store and refuses it.
//
// With Blank, its directory was lost, and nothing is in there: open it again with
// [Config.DiskLost]. Otherwise the directory is an older copy, and what its replicas
// have promised since is forgotten there: the store fails, and does not open again.
// Empty the directory, and open the store with DiskLost.
type OutlivedError struct {
	Store            wire.StoreID
	Peer             wire.StoreID
	Incarnation, Met uint64
	Blank            bool
}

func (e *OutlivedError) Error() string {
	what := "its directory is an older copy"
	if e.Blank {
		what = "its directory was lost"
	}
	return fmt.Sprintf("store %d, in life %d, is refused by store %d, which has met life %d: %s", e.Store, e.Incarnation, e.Peer, e.Met, what)
}

// StoreFailedError says why the whole store stopped: its log could not be
// written or synced. It is final until the store is opened again.
type StoreFailedError struct {
	Store wire.StoreID
	Err   error
}

func (e *StoreFailedError) Error() string {
	return fmt.Sprintf("store %d failed: %v", e.Store, e.Err)
}

func (e *StoreFailedError) Unwrap() error { return e.Err }

// DiskHungError is returned by Close when the log has not answered for
// Config.CloseTimeout. What the store has on its way to the disk may become durable
// or not, as after a crash. The directory stays locked until the disk answers or the
// process ends.
type DiskHungError struct {
	Store wire.StoreID
	For   time.Duration
}

func (e *DiskHungError) Error() string {
	return fmt.Sprintf("store %d: the disk has not answered for %v", e.Store, e.For)
}

// ApplyError says on which committed entries a state machine failed: one of those
// from First to Last. A group that is started again on the same Store finds out
// which, and then First and Last are that one. It is there on all replicas; see
// GroupConfig.Skip for the way out when the state machine cannot be mended.
type ApplyError struct {
	Group       wire.GroupID
	First, Last wire.Index
	Err         error // of Apply, or a [*PanicError]
}

func (e *ApplyError) Error() string {
	if e.First == e.Last {
		return fmt.Sprintf("group %d: apply entry %d: %v", e.Group, e.First, e.Err)
	}
	return fmt.Sprintf("group %d: apply an entry from %d to %d: %v", e.Group, e.First, e.Last, e.Err)
}

func (e *ApplyError) Unwrap() error { return e.Err }

// PanicError wraps what a state machine panicked with.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("state machine panicked: %v", e.Value) }

// ConfigError is one fault in a configuration.
type ConfigError struct {
	Field string
	Value any
	Rule  string
}

func (e *ConfigError) Error() string { return fmt.Sprintf("%s: %v %s", e.Field, e.Value, e.Rule) }
