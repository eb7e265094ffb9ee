package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"multiraft/wire"
)

// resultsOf returns entries with results, some of which have data.
func resultsOf(r *rand.Rand, n int) []Entry {
	entries := make([]Entry, n)
	index := wire.Index(r.Uint64N(100))
	for i := range entries {
		index += 1 + wire.Index(r.Uint64N(2))
		entries[i] = Entry{Index: index, Result: Result{Value: r.Uint64N(3)}}
		if r.IntN(2) == 0 {
			entries[i].Result.Data = fmt.Append(nil, r.Uint64N(10))
		}
	}
	return entries
}

// The hash does not depend on how entries were gathered, and changes with each
// index, value and byte of a result, and with the order of entries.
func TestFoldSeesEveryResult(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		entries := resultsOf(r, 1+r.IntN(40))
		hashOf := func(entries []Entry) uint64 {
			d := digests{last: 1 << 40}
			for len(entries) > 0 {
				n := 1 + r.IntN(len(entries))
				if got := d.fold(entries[:n]); got != n {
					t.Fatalf("seed %d: %d of %d entries were folded", seed, got, n)
				}
				entries = entries[n:]
			}
			return d.hash
		}
		want := hashOf(entries)
		if again := hashOf(entries); again != want {
			t.Fatalf("seed %d: %x and %x", seed, want, again)
		}
		seen := map[uint64]string{want: "as it was"}
		try := func(what string, change func(e []Entry)) {
			changed := append([]Entry(nil), entries...)
			change(changed)
			got := hashOf(changed)
			if other, known := seen[got]; known {
				t.Errorf("seed %d: the same hash %s and %s", seed, other, what)
			}
			seen[got] = what
		}
		for i := range entries {
			try(fmt.Sprintf("with value %d changed", i), func(e []Entry) { e[i].Result.Value ^= 1 << 63 })
			try(fmt.Sprintf("with index %d changed", i), func(e []Entry) { e[i].Index += 1 << 20 })
			try(fmt.Sprintf("with data %d changed", i), func(e []Entry) { e[i].Result.Data = append([]byte("x"), e[i].Result.Data...) })
		}
		if len(entries) > 1 {
			try("without the last", func(e []Entry) { e[len(e)-1] = Entry{} })
		}
	}
}

// A range ends between two entries, wherever that is in what is gathered.
func TestFoldStopsAtTheEnd(t *testing.T) {
	entries := []Entry{{Index: 6}, {Index: 8}, {Index: 9}, {Index: 12}}
	for last, want := range map[wire.Index]int{5: 0, 6: 1, 7: 1, 8: 2, 11: 3, 12: 4, 20: 4} {
		d := digests{last: last}
		if got := d.fold(entries); got != want {
			t.Errorf("%d entries up to %d, want %d", got, last, want)
		}
	}
}

// A majority is one of each half of a joint configuration; learners do not count.
func TestDigestsNeedAMajorityOfVoters(t *testing.T) {
	const joint = wire.Voter | wire.Outgoing
	members := func(roles ...wire.MemberRole) *memberSet {
		m := &wire.Membership{}
		for i, role := range roles {
			m.Members = append(m.Members, Member{Replica: wire.ReplicaID(i + 1), Store: wire.StoreID(i + 1), Role: role})
		}
		return &memberSet{wire: m}
	}
	for _, c := range []struct {
		set             *memberSet
		places          uint32
		majority, every bool
	}{
		{members(wire.Voter), 0b1, true, true},
		{members(wire.Voter, wire.Voter), 0b01, false, false},
		{members(wire.Voter, wire.Voter), 0b11, true, true},
		{members(wire.Voter, wire.Voter, wire.Voter), 0b101, true, false},
		{members(wire.Voter, wire.Voter, wire.Voter, wire.Learner), 0b1001, false, false},
		{members(wire.Voter, wire.Voter, wire.Voter, wire.Learner), 0b0111, true, true},
		{members(wire.Voter, wire.Voter, wire.Voter, wire.Voter), 0b0011, false, false},
		{members(joint, wire.Voter, wire.Voter, wire.Outgoing, wire.Outgoing), 0b00111, false, false},
		{members(joint, wire.Voter, wire.Voter, wire.Outgoing, wire.Outgoing), 0b01011, true, false},
		{members(joint, wire.Voter, wire.Voter, wire.Outgoing, wire.Outgoing), 0b11001, false, false},
		{members(joint, wire.Voter, wire.Voter, wire.Outgoing|wire.Learner, wire.Outgoing), 0b01011, true, false},
		{members(wire.Learner), 0b1, false, true},
	} {
		if got := c.set.isMajority(c.places); got != c.majority {
			t.Errorf("%+v at %b: majority is %v", c.set.wire.Members, c.places, got)
		}
		if got := c.set.isEveryVoter(c.places); got != c.every {
			t.Errorf("%+v at %b: every voter is %v", c.set.wire.Members, c.places, got)
		}
	}
}

// What a replica keeps is bounded, whatever is told it and in whatever order, and
// a range of long ago does not take the place of a later one.
func TestDigestsAreBounded(t *testing.T) {
	set := &memberSet{wire: &wire.Membership{}}
	for id := range wire.ReplicaID(3) {
		set.wire.Members = append(set.wire.Members, Member{Replica: id + 1, Store: wire.StoreID(id + 1), Role: wire.Voter})
	}
	d := &digests{every: 4}
	r := rand.New(rand.NewPCG(1, 1))
	newest := wire.Index(0)
	for range 10_000 {
		last := 4 * wire.Index(1+r.Uint64N(100))
		newest = max(newest, last)
		switch r.IntN(3) {
		case 0:
			d.close(last, digest{hash: r.Uint64N(3)})
		case 1:
			d.vote(set, 1, last, vote{wire.ReplicaID(r.Uint64N(100)), digest{hash: r.Uint64N(3), state: r.Uint64N(3)}})
		case 2:
			d.decide(last, digest{hash: r.Uint64N(3), state: r.Uint64N(3)})
		}
		if len(d.ranges) != keptRanges {
			t.Fatalf("%d ranges", len(d.ranges))
		}
		for _, c := range d.ranges {
			if len(c.votes) > wire.MaxReplicas {
				t.Fatalf("%d votes", len(c.votes))
			}
		}
	}
	for i := range wire.Index(keptRanges) {
		last := newest - 4*i
		if c := d.ranges[uint64(last/4)%keptRanges]; c.last != last {
			t.Errorf("in the place of %d is %d", last, c.last)
		}
	}
}

// Following the machine costs a few nanoseconds per entry and allocates nothing.
func TestFoldAllocatesNothing(t *testing.T) {
	entries := resultsOf(rand.New(rand.NewPCG(1, 1)), 1000)
	d := &digests{last: 1 << 40}
	if n := testing.AllocsPerRun(100, func() { d.fold(entries) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFold(b *testing.B) {
	for _, data := range []int{0, 16, 256} {
		b.Run(fmt.Sprintf("data=%d", data), func(b *testing.B) {
			entries := make([]Entry, 1024)
			for i := range entries {
				entries[i] = Entry{Index: wire.Index(i + 1), Result: Result{Value: uint64(i)}}
				if data > 0 {
					entries[i].Result.Data = make([]byte, data)
				}
			}
			d := &digests{last: 1 << 40}
			for b.Loop() {
				d.fold(entries)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(entries)), "ns/entry")
		})
	}
}
