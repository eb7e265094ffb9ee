package group

import (
	"errors"
	"fmt"

	"multiraft/wire"
)

// Config of a group on one replica.
type Config struct {
	// Group is the group's id, the same on all replicas. Must not be zero.
	Group wire.GroupID
	// Replica is this replica; it must be one of Members, unless it joins.
	Replica wire.ReplicaID
	// Members are all replicas of the group, this one included: those it was
	// started with, or the newest that Ready.Membership gave. They must be at least
	// as new as Applied: a host stores a membership before its machine does
	// durably what comes behind. It is kept, and must not change; groups with equal
	// members may share one.
	Members *wire.Membership
	// Join says that this replica was added to a group that runs already and does
	// not know a membership that it is in. It waits for the leader, whose entries
	// or snapshot hold one. Members may be any, this replica alone as a learner
	// for instance.
	Join bool
	// Floor, unless zero, is the membership entry with which the group was recovered
	// from the loss of its quorum. Memberships of entries in front of it are passed
	// over: nobody may campaign in one of them any more (G17). Until the replica has
	// applied that entry, Members should not have it as a voter.
	Floor wire.Index
	// Tuning may be shared by groups. Nil means all defaults.
	Tuning *Tuning
	// Storage holds the durable log and hard state.
	Storage Storage
	// Rand is where election time-outs are drawn from.
	Rand Rand
	// Now is the current tick.
	Now uint64
	// Applied is the last entry the state machine holds already. Entries behind
	// it are handed out again as far as they are known to be committed.
	Applied wire.Index
	// Wounded says that the replica has lost entries, or the state of its machine, and
	// knows its hard state and the last entry that it may have acknowledged: Storage
	// ends with that, and may hold nothing else. It waits for a snapshot that reaches
	// as far, see [Group.Wound].
	Wounded bool
	// Promised is for how many ticks, from Now, this replica may owe silence to a
	// leader because of what it promised before it started, when that is longer than
	// ElectionTicks, or when LeaseReads is off now and was on. A host that never
	// changes these leaves it zero.
	Promised uint64
	// Priority says which replicas should rather lead: those of higher priority
	// wait less for a leader, and a leader hands over to a voter of higher priority
	// that is caught up. Replicas that are not in it have priority zero. It must
	// not change, and may be shared; all replicas of a group should be given the
	// same. Nil lets chance decide.
	Priority map[wire.ReplicaID]uint8
}

// Rand is a source of random numbers. It need not be good, but replicas of one
// group should not draw the same numbers.
type Rand interface {
	Uint64() uint64
}

// Storage is the durable log of the group. What was handed out in Ready.Blocks
// and not acknowledged may or may not show in it already; the group only asks
// for entries that it has no newer version of.
type Storage interface {
	// HardState returns the last one persisted, zero if none.
	HardState() wire.HardState
	// First returns the first entry that is not compacted, one if none was.
	First() wire.Index
	// Last returns the last durable entry, First-1 when there is none.
	Last() wire.Index
	// Term returns the term of an entry within [First-1, Last]; errors wrap
	// wire.ErrCompacted below and wire.ErrUnavailable above.
	Term(i wire.Index) (wire.Term, error)
	// Blocks appends blocks that cover [lo, …) and end at hi, exclusive, at most;
	// it stops before maxBytes are exceeded but returns at least one entry.
	Blocks(lo, hi wire.Index, maxBytes int, dst []byte) ([]byte, error)
}

// SingleFinder is what a Storage may be as well. A group that starts with entries
// not applied has to know which of them are memberships before it campaigns, and
// need not read the blocks that cannot be.
type SingleFinder interface {
	// NextSingle returns the first entry of [lo, hi) that may be alone in its block,
	// hi when there is none.
	NextSingle(lo, hi wire.Index) wire.Index
}

// Validate reports all faults of the configuration.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf(format, args...))
	}
	if c.Group == 0 {
		fault("Group: must not be zero")
	}
	if c.Replica == 0 {
		fault("Replica: must not be zero")
	}
	if c.Storage == nil {
		fault("Storage: must not be nil")
	}
	if c.Rand == nil {
		fault("Rand: must not be nil")
	}
	if c.Tuning != nil {
		if err := c.Tuning.Validate(); err != nil {
			fault("Tuning: %w", err)
		}
	}
	if c.Members == nil {
		fault("Members: must not be nil")
		return errors.Join(faults...)
	}
	validateMembers(c.Members, fault)
	if c.Join && c.Floor != 0 {
		fault("Floor: must be zero for a replica that joins")
	}
	if c.Join {
		return errors.Join(faults...)
	}
	if !hasVoter(c.Members) {
		fault("Members: must hold a voter")
	}
	if c.Replica != 0 && place(c.Members, c.Replica) < 0 {
		fault("Members: must hold Replica (%d)", c.Replica)
	}
	return errors.Join(faults...)
}
