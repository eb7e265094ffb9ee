package sim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

var (
	flagSeed   = flag.Uint64("sim.seed", 0, "run this seed alone; 0 runs -sim.seeds from -sim.first on")
	flagFirst  = flag.Uint64("sim.first", 1, "first seed to run")
	flagSeeds  = flag.Int("sim.seeds", 0, "how many seeds to run; 0 is as many as fit a normal test")
	flagFaults = flag.Duration("sim.faults", 0, "virtual time with faults; 0 is the default")
	flagTrace  = flag.String("sim.trace", "", "write the readable trace of -sim.seed to this file; - is standard output")
)

const (
	normalSeeds = 200
	shortSeeds  = 3
)

// TestSeeds runs clusters of many shapes under many faults. A failure names the
// command that shows it again.
func TestSeeds(t *testing.T) {
	if *flagSeed != 0 {
		report, err := Run(Plan{Seed: *flagSeed, Faults: *flagFaults, Trace: traceFile(t)})
		t.Logf("seed %d: %s\n%d events, %v, hash %x\n%v", report.Seed, report.Shape, report.Events, report.Virtual, report.Hash, &report.Counts)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	seeds := *flagSeeds
	if seeds == 0 {
		seeds = normalSeeds
		if testing.Short() {
			seeds = shortSeeds
		}
	}
	var (
		mu      sync.Mutex
		counts  Counts
		virtual time.Duration
		spent   time.Duration
	)
	t.Run("run", func(t *testing.T) {
		for seed := *flagFirst; seed < *flagFirst+uint64(seeds); seed++ {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				report, err := Run(Plan{Seed: seed, Faults: *flagFaults})
				if err != nil {
					t.Errorf("%v\n%s\nto see it: go test ./internal/sim -run TestSeeds -sim.seed=%d -sim.faults=%v -sim.trace=- -v", err, report.Shape, seed, *flagFaults)
				}
				mu.Lock()
				defer mu.Unlock()
				counts.Add(&report.Counts)
				virtual += report.Virtual
				spent += time.Since(began)
			})
		}
	})
	t.Logf("%d seeds: %.2f cluster-hours per minute of a core\n%v", seeds, virtual.Hours()/spent.Minutes(), &counts)
	if seeds < normalSeeds || t.Failed() {
		return
	}
	for n := range counts {
		if counts[n] == 0 {
			t.Errorf("no run had any: %v", counter(n))
		}
	}
}

func traceFile(t *testing.T) io.Writer {
	switch *flagTrace {
	case "":
		return nil
	case "-":
		return os.Stdout
	}
	f, err := os.Create(*flagTrace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
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
		{"lying-sync", PlantLyingSync, []rule{ruleVote, ruleLog, ruleMachine, ruleComplete, ruleForward, ruleWrites}, []rule{ruleErrors, ruleRecovery}},
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
