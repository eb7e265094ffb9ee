package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"multiraft/wire"
)

// le is the byte order of everything on disk.
var le = binary.LittleEndian

// A batch is what one write and one sync make durable for all groups: a header
// and records, filled up with zeros to whole sectors. Sectors that hold durable
// bytes are never written again, so a torn write cannot take them away.
//
//		  0        8      12   14   16       24       32       40
//		┌────────┬──────┬────┬────┬────────┬────────┬────────┬────────┐
//		│ sum    │ magic│ v  │flag│seg│sums│sequence│ durable│old│wei.│
//		├────────┼──────┴────┴────┼───┴────┼──────┬─┴────┬───┴──┬┴────┴─┐
//		│ body   │ previous body  │ groups │offset│length│prev. │records│
//		│ sum    │ sum            │        │      │      │length│       │
//		└────────┴────────────────┴────────┴──────┴──────┴──────┴───────┘
//		 48       56               64       72     76     80     84     88
//
//	  - sum covers the rest of the header, body sum the rest of the batch. Both
//	    are seeded with (uuid of the store, segment, offset), so that a batch is
//	    valid in one place only: stale bytes of a recycled segment, bytes of
//	    another store and misdirected writes do not pass (L2).
//	  - sequence is one more than that of the batch before, over the whole life
//	    of the store.
//	  - durable is the last sequence that was durable when this header was made.
//	    A bad batch at or before it was damaged, not torn (L3).
//	  - oldest is the first segment that held live data.
//	  - groups is the exclusive or of the group ids of all records. Where one
//	    record is damaged it tells whose it was, whatever became of its bytes.
//	  - sums is the sum of the low halves of the checksums of all records, modulo
//	    2^32, and weighted the same with the first taken once, the second twice,
//	    and so on. A record's own checksum knows no place: where one is damaged,
//	    these prove that the others are of this batch (see [header.missing]).
//	    Version 1 has zeros there.
//	  - previous body sum and length let a reader prove the batch before, even
//	    when the header of that one is damaged.
const (
	batchHeaderBytes = 88
	batchMagic       = 0x314c524d // "MRL1"
	batchVersion     = 2
	batchAlign       = 512 // the least that a disk writes

	flagSeal = 1 // the batch has no records; it proves the one before
)

// recordHeaderBytes is the size of the header of every record. It has the
// shape of a block's, so that blocks are records as they are.
const recordHeaderBytes = wire.BlockHeaderBytes

// Kinds of the records that are not blocks. They stand where a block has its
// kind.
//
//	 0        8        16       24       32      36      40 41 42      48
//	┌────────┬────────┬────────┬────────┬───────┬───────┬──┬──┬───────┬─────────┐
//	│ sum    │ group  │ a      │ b      │ zero  │ bytes │k │v │ zero  │ payload │
//	└────────┴────────┴────────┴────────┴───────┴───────┴──┴──┴───────┴─────────┘
//
// sum is the xxhash64 of everything behind it; bytes is the size of the
// payload.
const (
	// kindHardState has the term in a, the vote in b and the commit index (u64)
	// as payload.
	kindHardState = 0x81
	// kindMeta has the blob as payload.
	kindMeta = 0x82
	// kindCompact drops entries up to index a, whose term is b, and entries
	// behind it of terms below b: they contradict the entry at a.
	kindCompact = 0x83
	// kindRemove forgets the group and leaves a tombstone.
	kindRemove = 0x84
	// kindDamaged says that records of the group were lost in segment a at
	// offset b. Group 0 stands for groups that nothing else is known of. With a
	// payload (index and term, u64 each) only entries were lost, none of them
	// behind the one that it names: see [Wound].
	kindDamaged = 0x85
	// kindMoved has a block as payload whose entries were already in the log and
	// now live here. It truncates nothing. a (segment, offset) and b (size,
	// count), two u32 each, say where they were.
	kindMoved = 0x86
	// kindRestart drops all entries, of whatever terms: the log goes on behind
	// index a, whose term is b.
	kindRestart = 0x87

	recordVersion     = 1
	hardStateBytes    = recordHeaderBytes + 8
	plainRecordBytes  = recordHeaderBytes
	woundBytes        = recordHeaderBytes + 16
	maxPayloadBytes   = wire.MaxBlockBytes
	recordKindOffset  = 40
	recordBytesOffset = 36
)

// maxBatchBytes bounds the length a header may claim: the largest setting of
// MaxBatchBytes and one record behind it.
const maxBatchBytes = maxMaxBatchBytes + recordHeaderBytes + maxPayloadBytes + batchHeaderBytes + batchAlign

var (
	errNoBatch   = errors.New("no batch header")
	errBatchBody = errors.New("batch checksum does not match")
	errBadRecord = errors.New("bad record")
)

// header is a decoded batch header.
type header struct {
	version  uint16
	flags    uint16
	sums     uint32
	weighted uint32
	segment  uint64
	sequence uint64
	durable  uint64
	oldest   uint64
	bodySum  uint64
	prevSum  uint64
	groups   uint64
	offset   uint32
	length   uint32
	prevLen  uint32
	records  uint32
}

// hasher computes checksums bound to a place in the log of one store. It
// belongs to one goroutine.
type hasher struct {
	place  [32]byte // uuid, segment, offset
	digest xxhash.Digest
}

func newHasher(uuid [16]byte) *hasher {
	h := new(hasher)
	copy(h.place[:], uuid[:])
	return h
}

// at starts a checksum for bytes of the batch at offset of segment.
//
//mr:hotpath
func (h *hasher) at(segment uint64, offset uint32) {
	le.PutUint64(h.place[16:], segment)
	le.PutUint64(h.place[24:], uint64(offset))
	h.digest.ResetWithSeed(xxhash.Sum64(h.place[:]))
}

// sum returns the checksum of b for the batch at offset of segment.
//
//mr:hotpath
func (h *hasher) sum(segment uint64, offset uint32, b []byte) uint64 {
	h.at(segment, offset)
	_, _ = h.digest.Write(b) // a digest takes every byte and has no error to give
	return h.digest.Sum64()
}

// add takes in a record that was appended to the batch.
//
//mr:hotpath
func (h *header) add(record []byte, group wire.GroupID) {
	sum := le.Uint32(record)
	h.records++
	h.sums += sum
	h.weighted += h.records * sum
	h.groups ^= uint64(group)
}

// missing finds out which record of the batch is not among those found, which are
// in order: -1 when all are there, or else the number of one that is missing, or has
// another in its place. It is not ok when there is more amiss than that. A record
// that was never in the batch passes once in 2^32 times.
func (h *header) missing(found []salvaged) (lost int, ok bool) {
	var sums, weighted uint32
	for i := range found {
		sums += found[i].sum
		weighted += uint32(i+1) * found[i].sum
	}
	switch n := int(h.records); len(found) {
	case n:
		if sums == h.sums && weighted == h.weighted {
			return -1, true
		}
		for i := range found {
			k := uint32(i + 1)
			if sum := h.sums - (sums - found[i].sum); h.weighted-(weighted-k*found[i].sum) == k*sum {
				return i, true
			}
		}
	case n - 1:
		weighted += sums // as if all stood one further back
		for i := range n {
			if h.weighted-weighted == uint32(i+1)*(h.sums-sums) {
				return i, true
			}
			if i < len(found) {
				weighted -= found[i].sum
			}
		}
	}
	return 0, false
}

// finish writes the header in front of a batch whose records are complete. It
// sets the body sum and, from the buffer, the length.
//
// REQUIRES: len(batch) is a multiple of batchAlign.
//
//mr:hotpath
func (h *header) finish(batch []byte, hash *hasher) {
	h.length = uint32(len(batch))
	h.bodySum = hash.sum(h.segment, h.offset, batch[batchHeaderBytes:])

	le.PutUint32(batch[8:], batchMagic)
	le.PutUint16(batch[12:], batchVersion)
	le.PutUint16(batch[14:], h.flags)
	le.PutUint32(batch[16:], uint32(h.segment))
	le.PutUint32(batch[20:], h.sums)
	le.PutUint64(batch[24:], h.sequence)
	le.PutUint64(batch[32:], h.durable)
	le.PutUint32(batch[40:], uint32(h.oldest))
	le.PutUint32(batch[44:], h.weighted)
	le.PutUint64(batch[48:], h.bodySum)
	le.PutUint64(batch[56:], h.prevSum)
	le.PutUint64(batch[64:], h.groups)
	le.PutUint32(batch[72:], h.offset)
	le.PutUint32(batch[76:], h.length)
	le.PutUint32(batch[80:], h.prevLen)
	le.PutUint32(batch[84:], h.records)
	le.PutUint64(batch, hash.sum(h.segment, h.offset, batch[8:batchHeaderBytes]))
}

// decode reads the header of the batch at offset of segment from the start of
// b. Everything in a header that passes was written by this store for this
// place.
func (h *header) decode(b []byte, segment uint64, offset uint32, hash *hasher) error {

	if len(b) < batchHeaderBytes || le.Uint32(b[8:]) != batchMagic ||
		uint64(le.Uint32(b[16:])) != segment || le.Uint32(b[72:]) != offset {
		return errNoBatch
	}
	if le.Uint64(b) != hash.sum(segment, offset, b[8:batchHeaderBytes]) {
		return errNoBatch
	}
	v := le.Uint16(b[12:])
	if v == 0 || v > batchVersion {
		return fmt.Errorf("batch version %d, want %d at most", v, batchVersion)
	}
	*h = header{
		version:  v,
		flags:    le.Uint16(b[14:]),
		sums:     le.Uint32(b[20:]),
		weighted: le.Uint32(b[44:]),
		segment:  segment,
		sequence: le.Uint64(b[24:]),
		durable:  le.Uint64(b[32:]),
		oldest:   uint64(le.Uint32(b[40:])),
		bodySum:  le.Uint64(b[48:]),
		prevSum:  le.Uint64(b[56:]),
		groups:   le.Uint64(b[64:]),
		offset:   offset,
		length:   le.Uint32(b[76:]),
		prevLen:  le.Uint32(b[80:]),
		records:  le.Uint32(b[84:]),
	}
	if h.length < batchHeaderBytes || h.length > maxBatchBytes || h.length%batchAlign != 0 {
		return fmt.Errorf("batch of %d bytes", h.length)
	}
	return nil
}

// padding is how many zeros bring n bytes to whole sectors.
//
//mr:hotpath
func padding(n int) int { return -n & (batchAlign - 1) }

// record is a decoded record. Its payload borrows.
type record struct {
	kind    byte // a wire.EntryKind for blocks
	group   wire.GroupID
	a, b    uint64
	payload []byte // of a control record
	block   wire.Block
	size    int
}

// isBlock reports whether the record is a block of new entries.
func (r *record) isBlock() bool { return r.kind < kindHardState }

// decode splits the record at the start of b off, trusting its checksum: the
// batch around it was checked, or [record.intact] will. Sizes are checked here.
func (r *record) decode(b []byte) error {
	if len(b) < recordHeaderBytes {
		return fmt.Errorf("%w: %d bytes are less than a header", errBadRecord, len(b))
	}

	*r = record{
		kind:  b[recordKindOffset],
		group: wire.GroupID(le.Uint64(b[8:])),
		a:     le.Uint64(b[16:]),
		b:     le.Uint64(b[24:]),
	}
	if r.isBlock() {
		size, err := wire.BlockSize(b)
		if err != nil {
			return err
		}
		if size > len(b) {
			return fmt.Errorf("%w: block of %d bytes in %d", errBadRecord, size, len(b))
		}
		r.block, r.size = wire.Block(b[:size:size]), size
		return nil
	}
	n := le.Uint32(b[recordBytesOffset:])
	if n > maxPayloadBytes || int(n) > len(b)-recordHeaderBytes {
		return fmt.Errorf("%w: %d payload bytes in %d", errBadRecord, n, len(b)-recordHeaderBytes)
	}
	if b[recordKindOffset+1] != recordVersion || r.kind > kindRestart {
		return fmt.Errorf("%w: kind %d, version %d", errBadRecord, r.kind, b[recordKindOffset+1])
	}
	r.size = recordHeaderBytes + int(n)
	r.payload = b[recordHeaderBytes:r.size:r.size]
	switch {
	case r.kind == kindHardState && n != 8:
		return fmt.Errorf("%w: hard state of %d bytes", errBadRecord, n)
	case r.kind == kindDamaged && n != 0 && n != woundBytes-recordHeaderBytes:
		return fmt.Errorf("%w: damage mark of %d bytes", errBadRecord, n)
	case r.kind == kindMoved:
		size, err := wire.BlockSize(r.payload)
		if err != nil {
			return err
		}
		if size != len(r.payload) || wire.Block(r.payload).Group() != r.group {
			return fmt.Errorf("%w: moved block of %d bytes in %d", errBadRecord, size, len(r.payload))
		}
		r.block = wire.Block(r.payload)
	case r.group == 0 && r.kind != kindDamaged:
		return fmt.Errorf("%w: group is zero", errBadRecord)
	}
	return nil
}

// intact decodes the record at the start of b and checks its own checksum.
func (r *record) intact(b []byte) bool {
	return r.decode(b) == nil && xxhash.Sum64(b[8:r.size]) == le.Uint64(b)
}

// hardState returns the content of a kindHardState record.
func (r *record) hardState() wire.HardState {
	return wire.HardState{
		Term:   wire.Term(r.a),
		Vote:   wire.ReplicaID(r.b),
		Commit: wire.Index(le.Uint64(r.payload)),
	}
}

// wound returns the entry that a kindDamaged record names, if it does.
func (r *record) wound() (last wire.Index, term wire.Term, ok bool) {
	if len(r.payload) == 0 {
		return 0, 0, false
	}
	return wire.Index(le.Uint64(r.payload)), wire.Term(le.Uint64(r.payload[8:])), true
}

// appendControl appends a control record that has no payload yet; size bytes of
// payload are to follow, and then sealControl.
//
//mr:hotpath
func appendControl(dst []byte, kind byte, group wire.GroupID, a, b uint64, size int) []byte {

	dst = le.AppendUint64(dst, 0)
	dst = le.AppendUint64(dst, uint64(group))
	dst = le.AppendUint64(dst, a)
	dst = le.AppendUint64(dst, b)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, uint32(size))
	return append(dst, kind, recordVersion, 0, 0, 0, 0, 0, 0)
}

// sealControl puts the checksum into a complete control record.
//
//mr:hotpath
func sealControl(record []byte) {
	le.PutUint64(record, xxhash.Sum64(record[8:]))
}
