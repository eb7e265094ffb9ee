package snapfile

import (
	"errors"
	"fmt"
)

var (
	// ErrHeader is wrapped when the beginning of a file, or of an encoded [Info],
	// is not the header of a snapshot.
	ErrHeader = errors.New("bad snapshot header")
	// ErrVersion is wrapped for a snapshot of another version of the format.
	ErrVersion = errors.New("unknown version of the snapshot format")
	// ErrChunk is wrapped for a chunk that is not the one that was written there.
	ErrChunk = errors.New("bad snapshot chunk")
	// ErrTrailer is wrapped when a file does not end as its header and its chunks
	// say.
	ErrTrailer = errors.New("bad snapshot trailer")
	// ErrIncomplete answers [Part.Commit] while chunks are missing.
	ErrIncomplete = errors.New("snapshot is incomplete")
	// ErrWindow refuses a chunk that is too far ahead of the ones that are there.
	ErrWindow = errors.New("snapshot chunk is too far ahead")
	// ErrFinished answers calls on a [Writer] that was committed or aborted.
	ErrFinished = errors.New("snapshot is finished")
)

// DamageError says where a file is not what was written. Nothing of that place
// is served.
type DamageError struct {
	Name   string
	Offset int64
	Err    error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: %v", e.Name, e.Offset, e.Err)
}

func (e *DamageError) Unwrap() error { return e.Err }
