//go:build planted

package group

import (
	"strings"
	"testing"

	"multiraft/internal/planted"
)

// TestLeaseSchedulesFindPlantedBugs plants each bug of leases. It must be found
// within a few hundred seeds.
func TestLeaseSchedulesFindPlantedBugs(t *testing.T) {
	for _, bug := range planted.List() {
		if !strings.HasPrefix(bug.Name, "lease-") {
			continue
		}
		t.Run(bug.Name, func(t *testing.T) {
			if err := planted.Plant(bug.Name); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := planted.Plant(""); err != nil {
					t.Error(err)
				}
			}()
			var counts leaseCounts
			for seed := uint64(1); seed <= 400; seed++ {
				if err := runLeaseSchedule(seed, &counts); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("%s: not found", bug.What)
		})
	}
}
