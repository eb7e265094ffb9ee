package bench

import (
	"errors"
	"fmt"
	"strings"

	"multiraft/engine"
)

// ErrInterrupted is returned, together with a report of what was measured so
// far, when the context of [Run] or [Crash] ends before the work does.
var ErrInterrupted = errors.New("interrupted")

// VerifyError says that the replicas do not hold what they must: an
// acknowledged write is missing, a write was applied twice, or replicas of one
// group differ.
type VerifyError struct {
	// Differences are the first ones found, at most [MaxDifferences].
	Differences []Difference
	// Total counts all of them.
	Total int
}

func (e *VerifyError) Error() string {
	if e.Total == 1 {
		return fmt.Sprintf("verify: %v", e.Differences[0])
	}
	return fmt.Sprintf("verify: %d differences, the first: %v", e.Total, e.Differences[0])
}

// OverloadError says that the engine did not hold under overload.
type OverloadError struct{ Faults []string }

func (e *OverloadError) Error() string { return "overload: " + strings.Join(e.Faults, "; ") }

// StartError says how far the start came when it took too long.
type StartError struct {
	WithLeader, Groups int
	Err                error
}

func (e *StartError) Error() string {
	return fmt.Sprintf("%d of %d groups have a leader: %v", e.WithLeader, e.Groups, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

// LoadError says why load on the stores could not go on.
type LoadError struct {
	Store uint64
	Err   error
}

func (e *LoadError) Error() string { return fmt.Sprintf("load on store %d: %v", e.Store, e.Err) }

func (e *LoadError) Unwrap() error { return e.Err }

// ChildError says why a child process of [Crash] ended before it was killed.
type ChildError struct {
	Round int
	Err   error
	// Output is the end of what the child wrote to standard error.
	Output string
}

func (e *ChildError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("round %d: child: %v", e.Round, e.Err)
	}
	return fmt.Sprintf("round %d: child: %v\n%s", e.Round, e.Err, e.Output)
}

func (e *ChildError) Unwrap() error { return e.Err }

// Exit codes of the command.
const (
	ExitOK     = 0 // everything was done, and verified if asked for
	ExitVerify = 1 // an acknowledged write was lost, or replicas differ
	ExitUsage  = 2 // a flag or a value is wrong; nothing was run
	ExitOther  = 3 // anything else, an interrupted run among it
)

// ExitCode returns the exit code of a command that ends with err.
func ExitCode(err error) int {
	var (
		verify *VerifyError
		config *engine.ConfigError
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &verify):
		return ExitVerify
	case errors.As(err, &config):
		return ExitUsage
	}
	return ExitOther
}
