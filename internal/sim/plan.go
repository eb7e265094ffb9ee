package sim

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Plan says what to run. Seed alone makes a run.
type Plan struct {
	// Seed decides everything that is not decided here.
	Seed uint64
	// Faults is how long faults go on, in virtual time. Zero means 20 s.
	Faults time.Duration
	// Stores and Groups pin the size of the cluster. Zero leaves it to the seed.
	Stores, Groups int
	// Trace receives the readable trace. Nil means none. Errors of it are not looked
	// at: one that may fail is to remember that, as a [bufio.Writer] does.
	Trace io.Writer
	// History is told the operations of a run when the run is over, in the order in
	// which they began. Nil means nobody is.
	History func(Operation)
	// MaxHeap is how many bytes the process may hold, all runs together, before this
	// one ends with a violation that says so. Zero means any number.
	MaxHeap uint64
	// Plant is a bug to plant.
	Plant Plant
}

const (
	defaultFaults = 20 * time.Second
	maxFaults     = 24 * time.Hour
	maxStores     = 9
	maxGroups     = 1024
)

// Validate reports all faults of the plan at once.
func (p Plan) Validate() error {
	var faults []error
	check := func(ok bool, field string, value any, rule string) {
		if !ok {
			faults = append(faults, fmt.Errorf("%s: %v %s", field, value, rule))
		}
	}
	check(p.Faults >= 0 && p.Faults <= maxFaults, "Faults", p.Faults, fmt.Sprintf("must be 0 to %v", maxFaults))
	check(p.Stores >= 0 && p.Stores <= maxStores, "Stores", p.Stores, fmt.Sprintf("must be 0 to %d", maxStores))
	check(p.Groups >= 0 && p.Groups <= maxGroups, "Groups", p.Groups, fmt.Sprintf("must be 0 to %d", maxGroups))
	return errors.Join(faults...)
}

func (p Plan) withDefaults() Plan {
	if p.Faults == 0 {
		p.Faults = defaultFaults
	}
	return p
}

// Command is a shell command that runs the plan again, event for event.
func (p Plan) Command() string {
	var b strings.Builder
	tags, flags := plantedCommand()
	fmt.Fprintf(&b, "go run%s ./cmd/mrsim%s --seed %d", tags, flags, p.Seed)
	if p.Faults != 0 && p.Faults != defaultFaults {
		fmt.Fprintf(&b, " --minutes %v", p.Faults.Minutes())
	}
	if p.Stores != 0 {
		fmt.Fprintf(&b, " --stores %d", p.Stores)
	}
	if p.Groups != 0 {
		fmt.Fprintf(&b, " --groups %d", p.Groups)
	}
	return b.String()
}
