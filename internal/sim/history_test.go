package sim

import "testing"

// The history of a run tells every operation once, in the order of their
// beginnings, and the run is the one that it is without.
func TestHistoryIsTold(t *testing.T) {
	var told []Operation
	want, err := Run(Plan{Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Run(Plan{Seed: 3, History: func(op Operation) { told = append(told, op) }})
	if err != nil || got != want {
		t.Fatalf("a run whose history is told ends with %v, hash %x, not %x", err, got.Hash, want.Hash)
	}
	answered := want.Counts[writesAcknowledged] + want.Counts[readsAnswered]
	if uint64(len(told)) < uint64(answered) || answered == 0 {
		t.Errorf("%d operations were answered, %d told", answered, len(told))
	}
	moments := make(map[int64]bool)
	last := int64(0)
	for _, op := range told {
		if op.Began <= last || op.Ended <= op.Began || moments[op.Ended] {
			t.Fatalf("out of order: %+v", op)
		}
		last = op.Began
		moments[op.Ended] = true
	}
}
