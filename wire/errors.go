package wire

import "errors"

var (
	// ErrBadMessage is wrapped by every error about bytes that should be a
	// message and are not. The frame they came in is dropped.
	ErrBadMessage = errors.New("bad message")
	// ErrBadBlock is wrapped by every error about bytes that should be a block and
	// are not: too short, impossible counts, wrong checksum.
	ErrBadBlock = errors.New("bad block")
	// ErrBadRecord is wrapped by every error about bytes that should be a stored
	// record (hard state, membership) and are not.
	ErrBadRecord = errors.New("bad record")
	// ErrCompacted answers a request for entries or terms that were compacted
	// away. A follower that needs them gets a snapshot.
	ErrCompacted = errors.New("entries are compacted")
	// ErrUnavailable answers a request for entries or terms behind the last
	// stored one.
	ErrUnavailable = errors.New("entries are not stored yet")
	// ErrDamaged answers a request for entries that are stored and cannot be read
	// any more. They are to be had from other replicas only.
	ErrDamaged = errors.New("stored entries are damaged")
)
