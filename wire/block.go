package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// EntryKind says what the entries of a block are. Zero is invalid, so that
// zeroed bytes are never taken for a block.
type EntryKind uint8

const (
	// EntryCommand holds commands of the state machine.
	EntryCommand EntryKind = 1
	// EntryEmpty holds the one empty entry a leader appends at the start of its
	// term (thesis, section 6.4). State machines never see it.
	EntryEmpty EntryKind = 2
	// EntryConfig holds one membership change, alone in its block.
	EntryConfig EntryKind = 3
)

// BlockHeaderBytes is the size of the header in front of a block's payloads.
const BlockHeaderBytes = 48

// MaxBlockBytes bounds a whole block, header included. Larger ones are refused
// before anything is allocated for them.
const MaxBlockBytes = 64 << 20

// payloadPrefixBytes stands in front of each payload and holds its length.
const payloadPrefixBytes = 4

const blockVersion = 1

// Block is a sealed run of entries of one group, one term and one kind.
//
//	 0        8        16       24       32      36      40 41 42      48
//	┌────────┬────────┬────────┬────────┬───────┬───────┬──┬──┬───────┬──────────┐
//	│ sum    │ group  │ first  │ term   │ count │ bytes │k │v │ zero  │ payloads │
//	└────────┴────────┴────────┴────────┴───────┴───────┴──┴──┴───────┴──────────┘
//
// All numbers are little-endian. sum is the xxhash64 of everything behind it;
// bytes is the size of the payloads; k is the kind and v the version, 1. Each
// payload is its length (u32) and its bytes. Entry i of the block has index
// first+i.
//
// W1: the bytes are shared by the log, the wire and the state machine and never
// change once sealed.
type Block []byte

// NewBlock starts a block in dst[:0]: room for the header, no payload. Add
// payloads with [AppendPayload] and finish with [Block.Seal].
func NewBlock(dst []byte) Block {
	var header [BlockHeaderBytes]byte
	return append(dst[:0], header[:]...)
}

// PayloadBytes is what a command of n bytes takes in a block.
func PayloadBytes(n int) int { return payloadPrefixBytes + n }

// AppendPayload adds one entry with the given command to a block that is not
// sealed yet, and returns the extended block.
func AppendPayload(b Block, command []byte) Block {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(command)))
	return append(b, command...)
}

// Seal writes the header of a block whose payloads are complete.
//
// REQUIRES: b came from NewBlock and count AppendPayload calls; first > 0,
// term > 0, count > 0.
func (b Block) Seal(group GroupID, first Index, term Term, kind EntryKind, count int) {
	le := binary.LittleEndian
	le.PutUint64(b[8:], uint64(group))
	le.PutUint64(b[16:], uint64(first))
	le.PutUint64(b[24:], uint64(term))
	le.PutUint32(b[32:], uint32(count))
	le.PutUint32(b[36:], uint32(len(b)-BlockHeaderBytes))
	b[40] = byte(kind)
	b[41] = blockVersion
	le.PutUint16(b[42:], 0)
	le.PutUint32(b[44:], 0)
	le.PutUint64(b, xxhash.Sum64(b[8:]))
}

// Group returns the group the entries belong to.
func (b Block) Group() GroupID { return GroupID(binary.LittleEndian.Uint64(b[8:])) }

// First returns the index of the first entry.
func (b Block) First() Index { return Index(binary.LittleEndian.Uint64(b[16:])) }

// Last returns the index of the last entry.
func (b Block) Last() Index { return b.First() + Index(b.Count()) - 1 }

// Term returns the term of all entries.
func (b Block) Term() Term { return Term(binary.LittleEndian.Uint64(b[24:])) }

// Count returns the number of entries, at least 1.
func (b Block) Count() int { return int(binary.LittleEndian.Uint32(b[32:])) }

// Kind returns what the entries are.
func (b Block) Kind() EntryKind { return EntryKind(b[40]) }

// Sum returns the checksum in the header.
func (b Block) Sum() uint64 { return binary.LittleEndian.Uint64(b) }

// Payloads returns the length-prefixed payloads, to be walked with [NextPayload].
func (b Block) Payloads() []byte { return b[BlockHeaderBytes:] }

// NextPayload splits the first command off payloads. ok is false at the end,
// and for bytes that are not a payload.
func NextPayload(payloads []byte) (command, rest []byte, ok bool) {
	if len(payloads) < payloadPrefixBytes {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(payloads)
	payloads = payloads[payloadPrefixBytes:]
	if uint64(n) > uint64(len(payloads)) {
		return nil, nil, false
	}
	return payloads[:n:n], payloads[n:], true
}

// NextPayloadOf is [NextPayload] for a command that is likely of size bytes, as
// the one in front was. When it is not, ok is false and rest is payloads:
//
//	command, rest, ok = wire.NextPayloadOf(rest, len(command))
//	if !ok {
//		command, rest, ok = wire.NextPayload(rest)
//	}
//
// A processor that follows the guess goes on to the next payload before it has
// read how long this one is. Walked from prefix to prefix, each waits for the one
// in front, which takes twice as long.
//
//mr:hotpath
func NextPayloadOf(payloads []byte, size int) (command, rest []byte, ok bool) {
	end := payloadPrefixBytes + size
	if end > len(payloads) || binary.LittleEndian.Uint32(payloads) != uint32(size) {
		return nil, payloads, false
	}
	return payloads[payloadPrefixBytes:end:end], payloads[end:], true
}

// BlockSize returns the size of the whole block whose header starts at b, from
// the header alone. It checks what the header can tell, not the checksum.
func BlockSize(b []byte) (int, error) {
	if len(b) < BlockHeaderBytes {
		return 0, fmt.Errorf("%w: %d bytes are less than a header", ErrBadBlock, len(b))
	}
	le := binary.LittleEndian
	payloads, count := le.Uint32(b[36:]), le.Uint32(b[32:])
	switch {
	case payloads > MaxBlockBytes-BlockHeaderBytes:
		return 0, fmt.Errorf("%w: %d payload bytes exceed the limit", ErrBadBlock, payloads)
	case count == 0 || uint64(count)*payloadPrefixBytes > uint64(payloads):
		return 0, fmt.Errorf("%w: %d entries in %d payload bytes", ErrBadBlock, count, payloads)
	case b[41] != blockVersion:
		return 0, fmt.Errorf("%w: version %d, want %d", ErrBadBlock, b[41], blockVersion)
	case b[40] < byte(EntryCommand) || b[40] > byte(EntryConfig):
		return 0, fmt.Errorf("%w: unknown kind %d", ErrBadBlock, b[40])
	case le.Uint16(b[42:]) != 0 || le.Uint32(b[44:]) != 0:
		return 0, fmt.Errorf("%w: reserved bytes are not zero", ErrBadBlock)
	case le.Uint64(b[8:]) == 0 || le.Uint64(b[16:]) == 0 || le.Uint64(b[24:]) == 0:
		return 0, fmt.Errorf("%w: group, index or term is zero", ErrBadBlock)
	case le.Uint64(b[16:])+uint64(count) < le.Uint64(b[16:]):
		return 0, fmt.Errorf("%w: index overflows", ErrBadBlock)
	}
	return BlockHeaderBytes + int(payloads), nil
}

// ParseBlock splits the first block off b and checks all of it: sizes, checksum
// and that the payloads fill the block exactly. The block borrows from b (W3).
func ParseBlock(b []byte) (block Block, rest []byte, err error) {
	size, err := BlockSize(b)
	if err != nil {
		return nil, nil, err
	}
	if size > len(b) {
		return nil, nil, fmt.Errorf("%w: %d bytes of %d", ErrBadBlock, len(b), size)
	}
	block = Block(b[:size:size])
	if sum := xxhash.Sum64(block[8:]); sum != block.Sum() {
		return nil, nil, fmt.Errorf("%w: checksum %x, header says %x", ErrBadBlock, sum, block.Sum())
	}
	if !HasPayloads(block.Payloads(), block.Count()) {
		return nil, nil, fmt.Errorf("%w: its bytes are not %d payloads", ErrBadBlock, block.Count())
	}
	return block, b[size:], nil
}

// HasPayloads says whether b is count length-prefixed payloads and nothing else.
//
// Payloads of one size, the usual case, are checked without following each
// prefix to the next: the loads do not wait for each other then, which halves
// the cost of checking a received block.
//
//mr:hotpath
func HasPayloads(b []byte, count int) bool {
	if count < 1 || count > len(b)/payloadPrefixBytes {
		return false
	}
	le := binary.LittleEndian
	first := le.Uint32(b)
	if stride := payloadPrefixBytes + uint64(first); stride*uint64(count) == uint64(len(b)) {
		odd := uint32(0)
		for at := uint64(0); at < uint64(len(b)); at += stride {
			odd |= le.Uint32(b[at:]) ^ first
		}
		if odd == 0 {
			return true
		}
	}
	for range count {
		if len(b) < payloadPrefixBytes {
			return false
		}
		n := uint64(le.Uint32(b)) + payloadPrefixBytes
		if n > uint64(len(b)) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}

// Cut returns the entries of b within [lo, hi) as a block of their own, made in
// memory of the arena. It returns b itself when nothing is cut away.
//
// REQUIRES: b.First() <= lo < hi <= b.Last()+1, and lo > b.First() or
// hi <= b.Last() only for blocks of commands.
func (b Block) Cut(lo, hi Index, arena *Arena) Block {
	first := b.First()
	if lo == first && hi == b.Last()+1 {
		return b
	}
	payloads := b.Payloads()
	start, end := 0, 0
	for i := first; i < hi; i++ {
		if i == lo {
			start = end
		}
		end += payloadPrefixBytes + int(binary.LittleEndian.Uint32(payloads[end:]))
	}
	cut := NewBlock(arena.Alloc(BlockHeaderBytes + end - start))
	cut = append(cut, payloads[start:end]...)
	cut.Seal(b.Group(), lo, b.Term(), b.Kind(), int(hi-lo))
	return cut
}
