package wire_test

import (
	"errors"
	"reflect"
	"testing"

	"multiraft/internal/allocs"
	"multiraft/wire"
)

func storedExample() wire.Stored {
	members := []wire.Member{{Replica: 1, Store: 1, Role: wire.Voter}, {Replica: 2, Store: 2, Role: wire.Voter}}
	return wire.Stored{
		Descriptor: wire.Descriptor{Replica: 2},
		Members:    wire.Membership{Index: 12, MaxReplica: 105, Members: members},
		Recovery:   wire.Recovery{Generation: 1, Index: 12, Term: 9, Ceiling: 105, Plan: 7, Survivors: members},
	}
}

// What was written without a recovery reads as before, and one that follows is
// whole or an error.
func TestStored(t *testing.T) {
	s := storedExample()
	encoded := s.AppendTo(nil)
	var got wire.Stored
	if err := got.Decode(encoded); err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("got %+v and %v, want %+v", got, err, s)
	}
	plain := s
	plain.Recovery = wire.Recovery{}
	old := plain.Members.AppendTo(plain.Descriptor.AppendTo(nil))
	if err := got.Decode(old); err != nil || !reflect.DeepEqual(got, plain) {
		t.Errorf("without a recovery: got %+v and %v, want %+v", got, err, plain)
	}
	for size := range encoded {
		if err := got.Decode(encoded[:size]); size != len(old) && !errors.Is(err, wire.ErrBadRecord) {
			t.Errorf("%d of %d bytes: got error %v", size, len(encoded), err)
		}
	}
	if err := got.Decode(append(encoded, 0)); !errors.Is(err, wire.ErrBadRecord) {
		t.Errorf("a byte too many: got error %v", err)
	}
}

// TestStoredTombstone: a tombstone has a proof where others have a recovery, or nothing.
func TestStoredTombstone(t *testing.T) {
	s := tombstoneExample()
	encoded := s.AppendTo(nil)
	var got wire.Stored
	if err := got.Decode(encoded); err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("got %+v and %v, want %+v", got, err, s)
	}
	bare := len(encoded) - len(s.Proof.AppendTo(nil))
	for size := range encoded {
		if err := got.Decode(encoded[:size]); size != bare && !errors.Is(err, wire.ErrBadRecord) {
			t.Errorf("%d of %d bytes: got error %v", size, len(encoded), err)
		}
	}
	s.Proof = wire.Proof{}
	if err := got.Decode(encoded[:bare]); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("without a proof: got %+v and %v, want %+v", got, err, s)
	}
	if again := s.AppendTo(nil); len(again) != bare {
		t.Errorf("%d bytes without a proof, want %d", len(again), bare)
	}
}

func tombstoneExample() wire.Stored {
	return wire.Stored{
		Descriptor: wire.Descriptor{Replica: 2, State: wire.Gone},
		Members:    wire.Membership{MaxReplica: 2},
		Proof:      wire.Proof{Index: 300, Term: 4},
	}
}

func FuzzStored(f *testing.F) {
	gone := tombstoneExample()
	f.Add(gone.AppendTo(nil))
	s := storedExample()
	f.Add(s.AppendTo(nil))
	f.Add(s.Members.AppendTo(s.Descriptor.AppendTo(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s wire.Stored
		var err error
		// Members are as large in memory as they are encoded; an error is a line.
		allocs.AtMost(t, uint64(4<<10+2*len(b)), func() { err = s.Decode(b) })
		if err != nil {
			return
		}
		if again := s.AppendTo(nil); string(again) != string(b) {
			t.Errorf("%x was read and written as %x", b, again)
		}
	})
}

func TestRecoveryBars(t *testing.T) {
	r := storedExample().Recovery
	for id, want := range map[wire.ReplicaID]bool{0: false, 1: false, 2: false, 3: true, 105: true, 106: false} {
		if got := r.Bars(id); got != want {
			t.Errorf("replica %d: got %v, want %v", id, got, want)
		}
	}
}
