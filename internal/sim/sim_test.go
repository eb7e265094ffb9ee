package sim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	flagFirst   = flag.Uint64("sim.first", 1, "first seed to run")
	flagSeeds   = flag.Int("sim.seeds", 0, "how many seeds to run; 0 is as many as fit a normal test")
	flagMinutes = flag.Float64("sim.minutes", 0, "virtual minutes with faults; 0 is the default")
)

const (
	normalSeeds = 200
	shortSeeds  = 3
)

// TestSeeds runs clusters of many shapes under many faults. A failure names the
// command that shows it again. Some seeds are run twice, and every kind of fault
// must have fired.
func TestSeeds(t *testing.T) {
	seeds := *flagSeeds
	if seeds == 0 {
		seeds = normalSeeds
		if testing.Short() {
			seeds = shortSeeds
		}
	}
	sum, err := Campaign{
		From: *flagFirst, Seeds: seeds, Replay: 20,
		Plan: Plan{Faults: time.Duration(*flagMinutes * float64(time.Minute))},
	}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := sum.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	t.Log(text.String())
	if sum.Done != seeds || len(sum.Found) > 0 {
		t.Fatalf("%d of %d seeds were run, %d broke a promise", sum.Done, seeds, len(sum.Found))
	}
	if seeds < normalSeeds {
		return
	}
	for n := range sum.Counts {
		if sum.Counts[n] == 0 {
			t.Errorf("no run had any: %v", counter(n))
		}
	}
}

// TestCampaignFinds shows that a campaign tells what it found, with a command
// that runs the same again, and ends when it has found enough.
func TestCampaignFinds(t *testing.T) {
	var told Progress
	c := Campaign{
		From: 1, Seeds: 50, Workers: 1, MaxViolations: 2, Plan: Plan{Stores: 3, Groups: 2, Plant: PlantLocalReads},
		Progress: func(p Progress) { told = p },
	}
	sum, err := c.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(sum.Found) != 2 || sum.Done == c.Seeds || told.Done != sum.Done || told.Violations != 2 {
		t.Fatalf("%d violations in %d seeds, told %+v", len(sum.Found), sum.Done, told)
	}
	f := sum.Found[0]
	if want := fmt.Sprintf("go run ./cmd/mrsim --seed %d --stores 3 --groups 2", f.Seed); f.Command != want {
		t.Errorf("got %q, want %q", f.Command, want)
	}
	plan := c.Plan
	plan.Seed = f.Seed
	_, err = Run(plan)
	var v *Violation
	if !errors.As(err, &v) || *v != f.Violation {
		t.Errorf("got %v, then %v", &f.Violation, err)
	}
}

// TestCampaignStops shows that no seed begins after the context has ended.
func TestCampaignStops(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	c := Campaign{From: 1, Seeds: 50, Workers: 1, Plan: Plan{Faults: time.Second}, Progress: func(Progress) { stop() }}
	sum, err := c.Run(ctx)
	if err != nil || sum.Done != 1 {
		t.Fatalf("%d seeds, %v", sum.Done, err)
	}
}

// TestMaxHeap shows that a run ends, and says why, when the process holds too much.
func TestMaxHeap(t *testing.T) {
	_, err := Run(Plan{Seed: 1, Stores: 3, Faults: 10 * time.Minute, MaxHeap: 1})
	var v *Violation
	if !errors.As(err, &v) || v.Rule != string(ruleMemory) || !strings.Contains(v.What, "on disks") {
		t.Fatalf("got %v", err)
	}
	if report, err := Run(Plan{Seed: 1, Stores: 3, MaxHeap: 64 << 30}); err != nil || report.Events < memoryEvents {
		t.Fatalf("got %v after %d events", err, report.Events)
	}
}

// TestBadPlans shows that plans and campaigns that cannot be run are refused with
// all that is wrong.
func TestBadPlans(t *testing.T) {
	_, err := Run(Plan{Stores: -1, Groups: 1 << 20, Faults: -1})
	for _, want := range []string{"Stores", "Groups", "Faults"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
	_, err = Campaign{Seeds: 0, Workers: -1, Plan: Plan{Stores: 99}}.Run(context.Background())
	for _, want := range []string{"Seeds", "Workers", "Stores"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
}

// TestSameSeedSameRun shows that a run depends on its seed alone: not on map
// order, addresses or pools, and not on whether somebody reads the trace.
func TestSameSeedSameRun(t *testing.T) {
	seen := make(map[uint64]uint64)
	for seed := uint64(1); seed <= 4; seed++ {
		plan := Plan{Seed: seed, Faults: 5 * time.Second}
		first, err := Run(plan)
		if err != nil {
			t.Fatal(err)
		}
		plan.Trace = io.Discard
		second, err := Run(plan)
		if err != nil {
			t.Fatal(err)
		}
		if first != second {
			t.Errorf("seed %d: got %+v, then %+v", seed, first, second)
		}
		if other, ok := seen[first.Hash]; ok {
			t.Errorf("seeds %d and %d make the same run", other, seed)
		}
		seen[first.Hash] = seed
	}
}

// TestPlantedBugs shows that the checker sees what it is for: each bug is found
// within a few seeds, as a violation of a promise that it breaks.
func TestPlantedBugs(t *testing.T) {
	for _, tt := range []struct {
		name  string
		plant Plant
		wants []rule // one of these must be found
		may   []rule // and these may be found before
	}{
		// Stores notice themselves that a disk has lost what it promised to keep,
		// where that leaves marks; where it does not, the checker has to.
		{"lying-sync", PlantLyingSync, []rule{ruleVote, ruleLog, ruleMachine, ruleComplete, ruleForward, ruleWrites, ruleDurable}, []rule{ruleErrors, ruleRecovery}},
		// Two leaders, or one that lacks what was applied, and all that follows.
		{"forged-votes", PlantForgedVotes, []rule{ruleLeader}, []rule{ruleLog, ruleMachine, ruleComplete, ruleErrors}},
		{"local-reads", PlantLocalReads, []rule{ruleReads}, nil},
		{"twisted-command", PlantTwistedCommand, []rule{ruleMachine}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const seeds = 40
			for seed := uint64(1); seed <= seeds; seed++ {
				_, err := Run(Plan{Seed: seed, Plant: tt.plant})
				var v *Violation
				if !errors.As(err, &v) {
					continue
				}
				if slices.Contains(tt.wants, rule(v.Rule)) {
					t.Logf("found: %v", v)
					return
				}
				if !slices.Contains(tt.may, rule(v.Rule)) {
					t.Fatalf("got %v, want a violation of one of %v", v, tt.wants)
				}
			}
			t.Fatalf("not found by %d seeds", seeds)
		})
	}
}

// TestAgendaOrder shows that events come in the order of their times, and in the
// order in which they were added when times are equal.
func TestAgendaOrder(t *testing.T) {
	r := newRandom(1, 1)
	var a agenda
	for range 1000 {
		a.add(event{at: time.Duration(r.IntN(20))})
	}
	var last event
	for n := 0; ; n++ {
		e, ok := a.next()
		if !ok {
			if n != 1000 {
				t.Fatalf("got %d events, want 1000", n)
			}
			return
		}
		if e.at < last.at || e.at == last.at && e.order < last.order {
			t.Fatalf("event %d: %v/%d comes after %v/%d", n, e.at, e.order, last.at, last.order)
		}
		last = e
	}
}
