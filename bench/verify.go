package bench

import (
	"fmt"

	"multiraft/wire"
)

// MaxDifferences is how many differences are kept and printed.
const MaxDifferences = 10

// DifferenceKind says what is wrong with a replica.
type DifferenceKind string

const (
	// DifferenceLost is an acknowledged write that a replica did not apply.
	DifferenceLost DifferenceKind = "lost"
	// DifferenceDuplicate is a write that a replica applied twice.
	DifferenceDuplicate DifferenceKind = "duplicate"
	// DifferenceDiverged is a replica with other commands, or another order of
	// them, than the first replica of its group.
	DifferenceDiverged DifferenceKind = "diverged"
	// DifferenceBehind is a group whose replicas did not reach the same index
	// in time, or that has no leader.
	DifferenceBehind DifferenceKind = "behind"
	// DifferenceStale is a read that missed a write acknowledged before the
	// read began.
	DifferenceStale DifferenceKind = "stale read"
)

// Difference is one finding of a verification.
type Difference struct {
	Kind  DifferenceKind `json:"kind"`
	Group wire.GroupID   `json:"group"`
	Store wire.StoreID   `json:"store,omitempty"`
	// Count is how many writes of this replica are concerned.
	Count uint64 `json:"count,omitempty"`
	// Sequence is the first of them.
	Sequence uint64 `json:"sequence,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

func (d Difference) String() string {
	switch d.Kind {
	case DifferenceLost:
		return fmt.Sprintf("group %d: store %d lost %d acknowledged writes, the first with sequence number %d", d.Group, d.Store, d.Count, d.Sequence)
	case DifferenceDuplicate:
		return fmt.Sprintf("group %d: store %d applied %d writes twice, the first with sequence number %d", d.Group, d.Store, d.Count, d.Sequence)
	case DifferenceDiverged:
		return fmt.Sprintf("group %d: store %d differs: %s", d.Group, d.Store, d.Detail)
	case DifferenceStale:
		return fmt.Sprintf("group %d: %d reads on store %d missed writes acknowledged before: %s", d.Group, d.Count, d.Store, d.Detail)
	}
	return fmt.Sprintf("group %d: %s: %s", d.Group, d.Kind, d.Detail)
}

// replicaState is what one replica's machine remembers.
type replicaState struct {
	store          wire.StoreID
	index          wire.Index
	count          uint64
	digest         uint64
	duplicates     uint64
	firstDuplicate uint64
	sequences      bitmap
	restored       wire.Index // of the snapshot that its state began with, 0 for none
}

// findings gathers differences: all are counted, the first are kept.
type findings struct {
	first    []Difference
	total    int
	restored int // replicas whose state began with a snapshot
}

func (f *findings) add(d Difference) {
	if f.total++; len(f.first) < MaxDifferences {
		f.first = append(f.first, d)
	}
}

// err returns what was found as a *VerifyError, or nil.
func (f *findings) err() error {
	if f.total == 0 {
		return nil
	}
	return &VerifyError{Differences: f.first, Total: f.total}
}

// checkGroup compares the replicas of one group, which must have applied all
// there is, with each other and with the acknowledged writes:
//
//   - every acknowledged write is in every replica;
//   - no replica applied a sequence number twice;
//   - all replicas applied the same commands at the same indexes in the same
//     order, as far as their digests can tell.
//
// A write that is applied and was never acknowledged is no fault: its
// acknowledgement may have been lost, or its outcome unknown.
func checkGroup(group wire.GroupID, acked bitmap, replicas []replicaState, found *findings) {
	for i := range replicas {
		r := &replicas[i]
		lost := Difference{Kind: DifferenceLost, Group: group, Store: r.store}
		acked.missing(r.sequences, func(n uint64) bool {
			if lost.Count == 0 {
				lost.Sequence = n
			}
			lost.Count++
			return true
		})
		if lost.Count > 0 {
			found.add(lost)
		}
		if r.duplicates > 0 {
			found.add(Difference{
				Kind: DifferenceDuplicate, Group: group, Store: r.store,
				Count: r.duplicates, Sequence: r.firstDuplicate,
			})
		}
		if first := &replicas[0]; r.digest != first.digest || r.count != first.count || r.index != first.index {
			found.add(Difference{
				Kind: DifferenceDiverged, Group: group, Store: r.store,
				Detail: fmt.Sprintf("%d commands to index %d with digest %016x; store %d has %d to index %d with digest %016x",
					r.count, r.index, r.digest, first.store, first.count, first.index, first.digest),
			})
		}
	}
}
