package group

import (
	"math/bits"
	"math/rand/v2"
	"testing"

	"multiraft/wire"
)

// digits sets the first n values to the digits of number in the given base, so
// that counting up to base^n tries all combinations.
func digits(match *[MaxReplicas]wire.Index, n, base, number int) {
	for i := range n {
		match[i] = wire.Index(number % base)
		number /= base
	}
}

func power(base, n int) int {
	p := 1
	for range n {
		p *= base
	}
	return p
}

// Goal: the networks agree with sorting. Method: n values have at most n
// different ranks, so all inputs over n digits are all there are.
func TestCommitIndexOfAllOrders(t *testing.T) {
	for n := range 8 {
		voters := replicaSet(1)<<n - 1
		var match [MaxReplicas]wire.Index
		for number := range power(max(n, 1), n) {
			digits(&match, n, max(n, 1), number)
			if got, want := commitIndex(&match, voters), plainCommitIndex(&match, voters); got != want {
				t.Fatalf("match %v: commit index %d, want %d", match[:n], got, want)
			}
		}
	}
}

// Goal: it does not matter which slots the voters have, nor what the others
// hold. Method: all sets of slots, values in random order.
func TestCommitIndexOfAllVoterSets(t *testing.T) {
	const seed = 1
	r := rand.New(rand.NewPCG(seed, 0))
	for set := range 1 << MaxReplicas {
		var match [MaxReplicas]wire.Index
		for i := range match {
			match[i] = wire.Index(r.Uint64N(20))
		}
		voters := replicaSet(set)
		if got, want := commitIndex(&match, voters), plainCommitIndex(&match, voters); got != want {
			t.Fatalf("seed %d: voters %016b of %v: commit index %d, want %d", seed, voters, match, got, want)
		}
	}
}

// smallSets are all sets of at most three of six slots, so that two of them
// overlap in every way.
func smallSets() []replicaSet {
	var sets []replicaSet
	for set := range uint16(1 << 6) {
		if bits.OnesCount16(set) <= 3 {
			sets = append(sets, replicaSet(set))
		}
	}
	return sets
}

func TestJointCommitIndexOfAllSmallConfigurations(t *testing.T) {
	const base, slots = 3, 6
	for number := range power(base, slots) {
		var match [MaxReplicas]wire.Index
		digits(&match, slots, base, number)
		for _, incoming := range smallSets() {
			in := plainCommitIndex(&match, incoming)
			for _, outgoing := range smallSets() {
				want := min(in, plainCommitIndex(&match, outgoing))
				if got := jointCommitIndex(&match, incoming, outgoing); got != want {
					t.Fatalf("voters %06b && %06b of %v: commit index %d, want %d",
						incoming, outgoing, match[:slots], got, want)
				}
			}
		}
	}
}

func FuzzCommitIndex(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint16(0b111), uint16(0))
	f.Add([]byte{9, 9, 1, 0, 5}, uint16(0b10101), uint16(0b11010))
	f.Add([]byte("sixteen replicas"), uint16(1<<16-1), uint16(1<<15))
	f.Fuzz(func(t *testing.T, values []byte, in, out uint16) {
		var match [MaxReplicas]wire.Index
		for i := range min(len(values), MaxReplicas) {
			match[i] = wire.Index(values[i])
		}
		incoming, outgoing := replicaSet(in), replicaSet(out)
		want := min(plainCommitIndex(&match, incoming), plainCommitIndex(&match, outgoing))
		if got := jointCommitIndex(&match, incoming, outgoing); got != want {
			t.Fatalf("voters %016b && %016b of %v: commit index %d, want %d", in, out, match, got, want)
		}
	})
}

func TestCommitIndexDoesNotAllocate(t *testing.T) {
	var match [MaxReplicas]wire.Index
	for _, voters := range []replicaSet{0, 0b111, 0b10101, 0b1111111, 1<<MaxReplicas - 1} {
		if n := testing.AllocsPerRun(100, func() {
			sinkIndex = jointCommitIndex(&match, voters, voters>>1)
		}); n != 0 {
			t.Errorf("voters %016b: %v allocations", voters, n)
		}
	}
}

func TestReplicaSet(t *testing.T) {
	for set := range 1 << MaxReplicas {
		s := replicaSet(set)
		slots := slotsOf(s)
		if s.count() != len(slots) {
			t.Fatalf("%016b: count %d, want %d", s, s.count(), len(slots))
		}
		i := 0
		for slot := s.first(); slot < MaxReplicas; slot = s.next(slot) {
			if i >= len(slots) || slot != slots[i] {
				t.Fatalf("%016b: walks to %d at step %d, slots are %v", s, slot, i, slots)
			}
			i++
		}
		if i != len(slots) {
			t.Fatalf("%016b: walks %d slots, want %v", s, i, slots)
		}
	}
	for slot := range MaxReplicas {
		for _, s := range []replicaSet{0, 0b1010_0101_1100_0011, 1<<MaxReplicas - 1} {
			if !s.with(slot).has(slot) || s.without(slot).has(slot) || s.with(slot).without(slot) != s.without(slot) {
				t.Errorf("%016b, slot %d: with %016b, without %016b", s, slot, s.with(slot), s.without(slot))
			}
		}
	}
}

// Results of what is measured, so that it is not optimised away.
var (
	sinkIndex  wire.Index
	sinkResult voteResult
)
