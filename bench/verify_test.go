package bench

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

// testEntries returns commands with the given sequence numbers at indexes from
// first on.
func testEntries(first wire.Index, sequences ...uint64) []engine.Entry {
	var entries []engine.Entry
	for i, n := range sequences {
		command := append(binary.LittleEndian.AppendUint64(nil, n), "payload"...)
		entries = append(entries, engine.Entry{Index: first + wire.Index(i), Term: 1, Command: command})
	}
	return entries
}

// testReplicas returns three machines that applied the same writes, and what
// was acknowledged of them.
func testReplicas(t *testing.T) (machines []*machine, acked bitmap) {
	t.Helper()
	for range 3 {
		m := newMachine(7, true)
		for _, batch := range [][]engine.Entry{testEntries(2, 0, 1, 2), testEntries(6, 4, 3), testEntries(9, 70)} {
			if err := m.Apply(batch); err != nil {
				t.Fatal(err)
			}
		}
		machines = append(machines, m)
	}
	for _, n := range []uint64{0, 1, 2, 3, 70} { // 4 is applied and was not acknowledged
		acked.set(n)
	}
	return machines, acked
}

func check(machines []*machine, acked bitmap) *findings {
	var states []replicaState
	for i, m := range machines {
		s := m.state()
		s.store = wire.StoreID(i + 1)
		states = append(states, s)
	}
	var found findings
	checkGroup(7, acked, states, &found)
	return &found
}

func TestVerifyAcceptsEqualReplicas(t *testing.T) {
	machines, acked := testReplicas(t)
	if found := check(machines, acked); found.err() != nil {
		t.Fatal(found.err())
	}
	if found := check(machines, nil); found.err() != nil {
		t.Fatal("nothing acknowledged:", found.err())
	}
}

// Planted faults are found, as what they are and where they are.
func TestVerifyFindsPlantedFaults(t *testing.T) {
	apply := func(t *testing.T, m *machine, entries []engine.Entry) {
		t.Helper()
		if err := m.Apply(entries); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name  string
		plant func(t *testing.T, machines []*machine, acked *bitmap)
		want  []Difference // Detail is not compared
	}{
		{"lost on all replicas", func(t *testing.T, _ []*machine, acked *bitmap) {
			acked.set(71)
			acked.set(1000)
		}, []Difference{
			{Kind: DifferenceLost, Store: 1, Count: 2, Sequence: 71},
			{Kind: DifferenceLost, Store: 2, Count: 2, Sequence: 71},
			{Kind: DifferenceLost, Store: 3, Count: 2, Sequence: 71},
		}},
		{"lost on one replica", func(t *testing.T, machines []*machine, acked *bitmap) {
			acked.set(5)
			apply(t, machines[0], testEntries(10, 5))
			apply(t, machines[2], testEntries(10, 5))
		}, []Difference{
			{Kind: DifferenceLost, Store: 2, Count: 1, Sequence: 5},
			{Kind: DifferenceDiverged, Store: 2},
		}},
		{"applied twice on all replicas", func(t *testing.T, machines []*machine, _ *bitmap) {
			for _, m := range machines {
				apply(t, m, testEntries(10, 3, 8, 3, 2)) // 3, 3 and 2 were there
			}
		}, []Difference{
			{Kind: DifferenceDuplicate, Store: 1, Count: 3, Sequence: 3},
			{Kind: DifferenceDuplicate, Store: 2, Count: 3, Sequence: 3},
			{Kind: DifferenceDuplicate, Store: 3, Count: 3, Sequence: 3},
		}},
		{"applied twice on one replica", func(t *testing.T, machines []*machine, _ *bitmap) {
			apply(t, machines[1], testEntries(10, 70))
		}, []Difference{
			{Kind: DifferenceDuplicate, Store: 2, Count: 1, Sequence: 70},
			{Kind: DifferenceDiverged, Store: 2},
		}},
		{"another order", func(t *testing.T, machines []*machine, _ *bitmap) {
			apply(t, machines[0], testEntries(10, 8, 9))
			apply(t, machines[1], testEntries(10, 8, 9))
			apply(t, machines[2], testEntries(10, 9, 8))
		}, []Difference{{Kind: DifferenceDiverged, Store: 3}}},
		{"another index", func(t *testing.T, machines []*machine, _ *bitmap) {
			apply(t, machines[0], testEntries(10, 8))
			apply(t, machines[1], testEntries(11, 8))
			apply(t, machines[2], testEntries(10, 8))
		}, []Difference{{Kind: DifferenceDiverged, Store: 2}}},
		{"another payload", func(t *testing.T, machines []*machine, _ *bitmap) {
			for i, m := range machines {
				e := testEntries(10, 8)
				if i == 1 {
					e[0].Command[12] ^= 1
				}
				apply(t, m, e)
			}
		}, []Difference{{Kind: DifferenceDiverged, Store: 2}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			machines, acked := testReplicas(t)
			tc.plant(t, machines, &acked)
			found := check(machines, acked)
			var verify *VerifyError
			if err := found.err(); !errors.As(err, &verify) || ExitCode(err) != ExitVerify {
				t.Fatalf("got %v, exit code %d", err, ExitCode(err))
			}
			got := slices.Clone(verify.Differences)
			for i := range got {
				if got[i].Group != 7 {
					t.Errorf("group %d", got[i].Group)
				}
				if got[i].String() == "" {
					t.Error("no text")
				}
				got[i].Group, got[i].Detail = 0, ""
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestFindingsAreBounded(t *testing.T) {
	var found findings
	for i := range 3 * MaxDifferences {
		found.add(Difference{Kind: DifferenceBehind, Group: wire.GroupID(i + 1)})
	}
	var verify *VerifyError
	if !errors.As(found.err(), &verify) || len(verify.Differences) != MaxDifferences || verify.Total != 3*MaxDifferences {
		t.Errorf("got %+v", found.err())
	}
}

func TestMachineRefusesWhatItCannotDigest(t *testing.T) {
	m := newMachine(7, true)
	if err := m.Apply(testEntries(5, 1)); err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(testEntries(5, 2)); err == nil {
		t.Error("an index applied again was taken")
	}
	if err := m.Apply([]engine.Entry{{Index: 9, Command: []byte("short")}}); err == nil {
		t.Error("a command without sequence number was taken")
	}
	plain := newMachine(7, false)
	if err := plain.Apply([]engine.Entry{{Index: 9, Command: nil}}); err != nil {
		t.Errorf("without verification any command will do: %v", err)
	}
	if v, err := plain.Query(countQuery{}); err != nil || v != uint64(1) {
		t.Errorf("query: %v, %v", v, err)
	}
}

func TestMachineDoesNotAllocate(t *testing.T) {
	entries := testEntries(1, make([]uint64, 64)...)
	m := newMachine(7, true)
	next := uint64(0)
	m.sequences.set(1 << 20) // room for all
	if n := testing.AllocsPerRun(100, func() {
		for i := range entries {
			entries[i].Index = wire.Index(next + 1)
			binary.LittleEndian.PutUint64(entries[i].Command, next)
			next++
		}
		if err := m.Apply(entries); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
	if m.duplicates != 0 || m.count != next {
		t.Errorf("count %d of %d, %d duplicates", m.count, next, m.duplicates)
	}
}
