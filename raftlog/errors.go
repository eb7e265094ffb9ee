package raftlog

import (
	"errors"
	"fmt"

	"multiraft/wire"
)

var (
	// ErrLocked says that another store, in this process or another, has the
	// directory open.
	ErrLocked = errors.New("directory is locked by another store")
	// ErrClosed is the error of batches that come after Close.
	ErrClosed = errors.New("log is closed")
	// ErrDiskFull is wrapped by errors of Open that have no space to begin with.
	// A log that is open says it through [Log.DiskFull].
	ErrDiskFull = errors.New("disk is full")
	// ErrMissing is wrapped in a [CorruptionError] when a segment that must be
	// there is not. The log does not open: whose entries are gone is unknown.
	ErrMissing = errors.New("segment is missing")
	// ErrLost is wrapped in the [CorruptionError] of a group whose records, or
	// whose neighbours' records, were lost in a damaged part of the log.
	ErrLost = errors.New("records are lost")
	// ErrTornTail is returned by Open in strict mode for a log that ends in a
	// batch that was not written to its end.
	ErrTornTail = errors.New("log ends in a torn batch")
)

// errNumbersUsedUp comes after 2^32 segments: at 64 MiB each, 256 PiB.
var errNumbersUsedUp = errors.New("segment numbers are used up")

// CorruptionError reports bytes that were durable and are not what was written.
// They are never served. The group named by the context needs its entries from
// other replicas; other groups are not affected.
type CorruptionError struct {
	Segment uint64
	Offset  int64
	Err     error
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("segment %d is damaged at offset %d: %v", e.Segment, e.Offset, e.Err)
}

func (e *CorruptionError) Unwrap() error { return e.Err }

// Is tells the core, which does not know this package, what it is about.
func (e *CorruptionError) Is(target error) bool { return target == wire.ErrDamaged }

// IdentityError refuses the directory of another store or cluster.
type IdentityError struct {
	Dir   string
	Field string // cluster or store
	Want  uint64
	Got   uint64
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("directory %s belongs to %s %d, not %d", e.Dir, e.Field, e.Got, e.Want)
}

// FailedError is the first failed write or sync of the log. It is final: what
// the kernel still has of earlier writes is unknown, so nothing is retried and
// every batch from then on is answered with this error.
type FailedError struct {
	Op      string // write, sync or rotate
	Segment uint64
	Offset  int64
	Err     error
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("log failed: %s in segment %d at offset %d: %v", e.Op, e.Segment, e.Offset, e.Err)
}

func (e *FailedError) Unwrap() error { return e.Err }

// OptionError names an option that cannot be used.
type OptionError struct {
	Field string
	Value any
	Rule  string
}

func (e *OptionError) Error() string { return fmt.Sprintf("%s: %v %s", e.Field, e.Value, e.Rule) }
