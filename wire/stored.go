package wire

import "slices"

// Stored is the blob that a store keeps of each replica: who it is, the membership
// that it has applied, and the last recovery of its group from the loss of its
// quorum, if there was one. Engine and recovery both read and write it.
//
//	┌────────────┬────────────┬──────────────────────────────────────────┐
//	│ Descriptor │ Membership │ Recovery; of a tombstone: Proof; or neither │
//	└────────────┴────────────┴──────────────────────────────────────────┘
type Stored struct {
	Descriptor Descriptor
	Members    Membership
	// Recovery has generation zero where there was none.
	Recovery Recovery
	// Proof is the last entry that a replica knew to be committed which was removed,
	// with index zero where that is not known.
	Proof Proof
}

// AppendTo appends the encoded blob to dst.
func (s *Stored) AppendTo(dst []byte) []byte {
	dst = s.Members.AppendTo(s.Descriptor.AppendTo(dst))
	switch {
	case s.isTombstone() && s.Proof.Index != 0:
		dst = s.Proof.AppendTo(dst)
	case !s.isTombstone() && s.Recovery.Generation != 0:
		dst = s.Recovery.AppendTo(dst)
	}
	return dst
}

// Decode sets s to the blob in src. An error wraps [ErrBadRecord].
func (s *Stored) Decode(src []byte) error {
	*s = Stored{}
	n, err := s.Descriptor.Decode(src)
	if err != nil {
		return err
	}
	m, err := s.Members.Decode(src[n:])
	if err != nil {
		return err
	}
	rest := src[n+m:]
	if len(rest) == 0 {
		return nil
	}
	empty := false
	if s.isTombstone() {
		n, err = s.Proof.Decode(rest)
		empty = s.Proof.Index == 0
	} else {
		n, err = s.Recovery.Decode(rest)
		empty = s.Recovery.Generation == 0
	}
	if err != nil {
		return err
	}
	if n != len(rest) || empty {
		return badRecord("Stored", len(src)-len(rest)+n, "bytes behind the record", uint64(len(rest)-n))
	}
	return nil
}

func (s *Stored) isTombstone() bool { return s.Descriptor.State&Gone != 0 }

// Bars says whether a replica was left behind by the recovery. Ids that nobody is
// known to have are barred as well: those who are gone may have given them. Zero is
// nobody's: it stands for one that its store does not know the id of any more.
func (r *Recovery) Bars(id ReplicaID) bool {
	return id != 0 && id <= r.Ceiling && !slices.ContainsFunc(r.Survivors, func(m Member) bool { return m.Replica == id })
}
