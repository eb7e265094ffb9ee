package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Campaign is many runs of one plan, each under a seed of its own.
type Campaign struct {
	// Plan of each run, but for its seed. Its Trace must be nil. Its MaxHeap is 512 MiB
	// for each run at a time if it is zero.
	Plan Plan
	// From is the first seed, Seeds is how many.
	From  uint64
	Seeds int
	// Workers run at a time. Zero means GOMAXPROCS.
	Workers int
	// Replay has every so manieth seed run twice, and fails it when the two runs
	// differ. Zero means none.
	Replay int
	// MaxViolations ends the campaign early. Zero means 20.
	MaxViolations int
	// Progress is told the state after each run, by one goroutine at a time. Nil
	// means nobody.
	Progress func(Progress)
}

// Progress is how far a campaign is.
type Progress struct {
	Done, Seeds int
	Violations  int
	Wall        time.Duration
	// Rate is simulated cluster-hours per minute of processor time.
	Rate float64
	// Heap is the most bytes that the process was seen to hold behind a run.
	Heap uint64
}

// Found is a seed that broke a promise.
type Found struct {
	Violation
	Shape   string
	Command string // that shows it again
}

// Summary is what became of a campaign.
type Summary struct {
	Plan Plan
	From uint64
	// Done counts the seeds that were run, fewer than asked for when the campaign
	// ended early. Replayed of them were run twice.
	Done, Replayed int
	// Hash is that of the run, or of the hashes of all runs in the order of their
	// seeds when there were several.
	Hash    uint64
	Events  uint64
	Virtual time.Duration // in all, without replays
	// CPU is the processor time of this process meanwhile, replays and collector
	// included; the wall time of the workers on systems that do not tell it.
	CPU, Wall time.Duration
	// Heap is the most bytes that the process was seen to hold behind a run.
	Heap   uint64
	Counts Counts
	// Shape is of the run when there was one.
	Shape string
	// Found are the violations by seed.
	Found []Found
}

// Rate is simulated cluster-hours per minute of processor time.
func (s *Summary) Rate() float64 { return rate(s.Virtual, s.CPU) }

func rate(virtual, cpu time.Duration) float64 {
	if cpu <= 0 {
		return 0
	}
	return virtual.Hours() / cpu.Minutes()
}

const defaultMaxViolations = 20

// ruleReplay is broken by a run that cannot be had again. It is no promise of
// the cluster but of the simulator.
const ruleReplay rule = "replay"

// Run runs the seeds. It stops early when ctx ends or too much was found; runs
// that have begun are finished. The error says that the campaign cannot be run,
// never what was found.
func (c Campaign) Run(ctx context.Context) (Summary, error) {
	if err := c.Validate(); err != nil {
		return Summary{}, err
	}
	workers := c.Workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	if c.Plan.MaxHeap == 0 {
		c.Plan.MaxHeap = defaultMaxHeap * uint64(min(workers, c.Seeds))
	}
	if c.MaxViolations == 0 {
		c.MaxViolations = defaultMaxViolations
	}
	r := campaignRun{Campaign: c, hashes: make([]uint64, c.Seeds), began: time.Now(), cpu: cpuTime()}
	r.sum.Plan, r.sum.From = c.Plan.withDefaults(), c.From
	var running sync.WaitGroup
	for range min(workers, c.Seeds) {
		running.Add(1)
		go func() { // ends when there are no more seeds
			defer running.Done()
			for r.one(ctx) {
			}
		}()
	}
	running.Wait()
	s := &r.sum
	slices.SortFunc(s.Found, func(a, b Found) int { return cmp.Compare(a.Seed, b.Seed) })
	if s.Wall, s.CPU = time.Since(r.began), r.spent(); r.next == 1 {
		s.Hash = r.hashes[0]
	} else {
		var t trace
		for _, hash := range r.hashes[:r.next] {
			t.mix(hash)
		}
		s.Hash = t.hash
	}
	return *s, nil
}

// Validate reports all faults of the campaign at once.
func (c Campaign) Validate() error {
	faults := []error{c.Plan.Validate()}
	for _, f := range []struct {
		field string
		value int
		low   int
	}{{"Seeds", c.Seeds, 1}, {"Workers", c.Workers, 0}, {"Replay", c.Replay, 0}, {"MaxViolations", c.MaxViolations, 0}} {
		if f.value < f.low {
			faults = append(faults, fmt.Errorf("%s: %d must be at least %d", f.field, f.value, f.low))
		}
	}
	if c.Plan.Trace != nil && c.Seeds > 1 {
		faults = append(faults, fmt.Errorf("%s: must be nil, runs would write into each other's", "Trace"))
	}
	return errors.Join(faults...)
}

// campaignRun is a campaign under way.
type campaignRun struct {
	Campaign
	began time.Time
	cpu   time.Duration

	mu     sync.Mutex // guards the fields below
	next   int        // seed to begin, from From
	hashes []uint64   // by seed, from From
	sum    Summary
}

// spent is the processor time since the beginning.
func (r *campaignRun) spent() time.Duration {
	if now := cpuTime(); now > 0 {
		return now - r.cpu
	}
	return time.Since(r.began) * time.Duration(max(1, r.Workers))
}

// one runs the next seed. It returns false when there is none.
func (r *campaignRun) one(ctx context.Context) bool {
	r.mu.Lock()
	at := r.next
	if at == r.Seeds || len(r.sum.Found) >= r.MaxViolations || ctx.Err() != nil {
		r.mu.Unlock()
		return false
	}
	r.next++
	r.mu.Unlock()

	plan := r.Plan
	plan.Seed = r.From + uint64(at)
	report, err := Run(plan)
	replay := r.Replay > 0 && at%r.Replay == 0
	if replay {
		again, _ := Run(plan) // an error is part of what has to be equal: it is in the hash
		if err == nil && again != report {
			err = &Violation{Seed: plan.Seed, Rule: string(ruleReplay), At: report.Virtual,
				What: fmt.Sprintf("the run cannot be had again: first %d events, %v, hash %x; then %d, %v, %x",
					report.Events, report.Virtual, report.Hash, again.Events, again.Virtual, again.Hash)}
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sum
	s.Done++
	if replay {
		s.Replayed++
	}
	s.Heap = max(s.Heap, heap())
	s.Events += report.Events
	s.Virtual += report.Virtual
	s.Counts.Add(&report.Counts)
	if r.Seeds == 1 {
		s.Shape = report.Shape
	}
	r.hashes[at] = report.Hash
	var v *Violation
	if errors.As(err, &v) {
		s.Found = append(s.Found, Found{Violation: *v, Shape: report.Shape, Command: plan.Command()})
	}
	if r.Progress != nil {
		r.Progress(Progress{Done: s.Done, Seeds: r.Seeds, Violations: len(s.Found), Wall: time.Since(r.began), Rate: rate(s.Virtual, r.spent()), Heap: s.Heap})
	}
	return true
}
