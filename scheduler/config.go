package scheduler

import (
	"errors"
	"runtime"
)

const (
	// MaxWorkers bounds the queues that a batch is sorted into, and so the
	// stack that SetBatch needs.
	MaxWorkers = 128
	// MaxRoundSize bounds how long the first slot of a round waits for the
	// last: at 1 µs each, 65 ms.
	MaxRoundSize = 1 << 16

	defaultRoundSize = 512
)

// Config of a [Scheduler].
type Config struct {
	// Workers is the number of queues and, after Start, of goroutines. Zero
	// means one per CPU that Go uses. At most MaxWorkers.
	Workers int
	// RoundSize is the largest number of slots in one call of Process. Large
	// rounds share a log batch among more groups, small ones answer sooner. Zero
	// means 512. At most MaxRoundSize.
	RoundSize int
	// Processor runs the rounds. Required.
	Processor Processor
}

// Validate returns all faults at once, each a [*ConfigError].
func (c *Config) Validate() error {
	var faults []error
	if c.Workers < 0 || c.Workers > MaxWorkers {
		faults = append(faults, &ConfigError{"Workers", c.Workers, "must be in [0, 128]"})
	}
	if c.RoundSize < 0 || c.RoundSize > MaxRoundSize {
		faults = append(faults, &ConfigError{"RoundSize", c.RoundSize, "must be in [0, 65536]"})
	}
	if c.Processor == nil {
		faults = append(faults, &ConfigError{"Processor", nil, "must be given"})
	}
	return errors.Join(faults...)
}

// withDefaults returns a copy with every zero replaced.
func (c Config) withDefaults() Config {
	if c.Workers == 0 {
		c.Workers = min(runtime.GOMAXPROCS(0), MaxWorkers)
	}
	if c.RoundSize == 0 {
		c.RoundSize = defaultRoundSize
	}
	return c
}
