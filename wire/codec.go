package wire

import (
	"encoding/binary"
	"fmt"
)

// headBytes is the size of what stands in front of every message's body.
const headBytes = 8

// shape is what the head of a message of one kind may say.
type shape struct {
	fixed uint8 // bytes in front of the tail, head included; zero is no kind
	flags uint8 // the flags it may set
	tail  bool  // more bytes may follow the fixed ones
}

// checkHead checks everything that can be wrong with the message at the start
// of src: once it returns a size, src holds that many bytes and all fields of
// the kind are within them (W2).
//
//mr:hotpath
func checkHead(src []byte) (size int, err error) {
	if len(src) < headBytes {
		return 0, badMessage(0, len(src), "head ends early, it has", headBytes)
	}
	le := binary.LittleEndian
	kind, flags, zero, body := src[0], src[1], le.Uint16(src[2:]), uint64(le.Uint32(src[4:]))
	s := &shapes[kind]
	switch fixed := uint64(s.fixed); {
	case fixed == 0:
		return 0, badMessage(0, 0, "unknown kind", uint64(kind))
	case flags&^s.flags != 0:
		return 0, badMessage(kind, 1, "unknown flags", uint64(flags))
	case zero != 0:
		return 0, badMessage(kind, 2, "reserved bytes are not zero:", uint64(zero))
	case headBytes+body < fixed:
		return 0, badMessage(kind, 4, "body is too short:", body)
	case headBytes+body > fixed && !s.tail:
		return 0, badMessage(kind, 4, "body has trailing bytes:", body)
	case headBytes+body > uint64(len(src)):
		return 0, badMessage(kind, len(src), "ends early, body has", body)
	}
	return headBytes + int(body), nil
}

// badMessage says what is wrong and at which byte of the message. It is apart
// so that the hot path holds none of fmt.
//
//go:noinline
func badMessage(kind uint8, offset int, what string, value uint64) error {
	if kind == 0 {
		return fmt.Errorf("%w: byte %d: %s %d", ErrBadMessage, offset, what, value)
	}
	return fmt.Errorf("%w: %s: byte %d: %s %d", ErrBadMessage, MessageKind(kind), offset, what, value)
}

// badRecord says what is wrong and at which byte of the record.
func badRecord(record string, offset int, what string, value uint64) error {
	return fmt.Errorf("%w: %s: byte %d: %s: %d", ErrBadRecord, record, offset, what, value)
}

func recordTooShort(record string, want, got int) error {
	return fmt.Errorf("%w: %s: %d bytes of %d", ErrBadRecord, record, got, want)
}

// boolWord is how records store a bool.
func boolWord(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
