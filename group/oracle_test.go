package group

import (
	"slices"

	"multiraft/wire"
)

// The plain implementations that generated code is held against: voters in
// slices, votes in maps, sorting by the library.

// slotsOf lists a set.
func slotsOf(set replicaSet) []int {
	var slots []int
	for slot := range MaxReplicas {
		if set&(1<<slot) != 0 {
			slots = append(slots, slot)
		}
	}
	return slots
}

// plainCommitIndex sorts what the voters have and takes the value that a
// majority reaches.
func plainCommitIndex(match *[MaxReplicas]wire.Index, voters replicaSet) wire.Index {
	var values []wire.Index
	for _, slot := range slotsOf(voters) {
		values = append(values, match[slot])
	}
	if len(values) == 0 {
		return unbound
	}
	slices.Sort(values)
	majority := len(values)/2 + 1
	return values[len(values)-majority]
}

// plainResult counts votes, true or false by slot, in both configurations.
func plainResult(votes map[int]bool, incoming, outgoing replicaSet) voteResult {
	won := true
	for _, voters := range []replicaSet{incoming, outgoing} {
		granted, refused := 0, 0
		slots := slotsOf(voters)
		for _, slot := range slots {
			switch vote, ok := votes[slot]; {
			case ok && vote:
				granted++
			case ok:
				refused++
			}
		}
		majority := len(slots)/2 + 1
		switch {
		case len(slots) == 0 || granted >= majority:
		case len(slots)-refused < majority:
			return voteLost
		default:
			won = false
		}
	}
	if won {
		return voteWon
	}
	return votePending
}
