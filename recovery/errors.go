package recovery

import (
	"errors"
	"fmt"
	"strings"

	"multiraft/wire"
)

var (
	// ErrNothing is returned by NewPlan when no group has lost its quorum.
	ErrNothing = errors.New("no group has lost its quorum")
	// ErrConfirm refuses Apply without the confirmation of the plan that it is given.
	ErrConfirm = errors.New("the confirmation is not that of the plan")
	// ErrNotPlanned refuses Apply to a store that the plan does not know.
	ErrNotPlanned = errors.New("the plan was made without this store")
	// ErrFormat refuses files that are not of this version of the program.
	ErrFormat = errors.New("not a format that this version knows")
)

// InputError says what is wrong with surveys that shall become a plan, or with the
// options.
type InputError struct {
	Store wire.StoreID // zero where no single one is at fault
	Group wire.GroupID
	What  string
}

func (e *InputError) Error() string {
	var where []string
	if e.Store != 0 {
		where = append(where, fmt.Sprintf("store %d", e.Store))
	}
	if e.Group != 0 {
		where = append(where, fmt.Sprintf("group %d", e.Group))
	}
	return strings.Join(append(where, e.What), ": ")
}

// ApartError refuses a plan for replicas that have survived recoveries by different
// plans, neither of which knew of the other. They are two groups, each of which may
// have acknowledged writes since, and nothing makes them one.
type ApartError struct {
	Group      wire.GroupID
	Generation uint64
	One, Other []wire.StoreID // the two sides
}

func (e *ApartError) Error() string {
	return fmt.Sprintf("group %d was recovered apart on %s and on %s (recovery %d of each): decide which side goes on, and plan for this group with the stores of that one side alone; "+
		"the replicas of the other are left behind, with what they acknowledged", e.Group, storesOf(e.One), storesOf(e.Other), e.Generation)
}

func storesOf(ids []wire.StoreID) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = fmt.Sprintf("store %d", id)
	}
	return strings.Join(words, ", ")
}

// QuorumError refuses a plan for a group that has a quorum left: changing its
// members is for its leader.
type QuorumError struct{ Group wire.GroupID }

func (e *QuorumError) Error() string {
	return fmt.Sprintf("group %d has a quorum: start its stores, and replace members with RemoveReplica or ReplaceReplica", e.Group)
}

// ChangedError refuses Apply to a store on which a group is not as it was when the
// plan was made: the store was open since. Nothing was changed. Survey again, and
// make another plan.
type ChangedError struct {
	Store wire.StoreID
	Group wire.GroupID
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("store %d: group %d has changed since the plan was made", e.Store, e.Group)
}
