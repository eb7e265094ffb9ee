package snapfile

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// le is the byte order of everything in a file.
var le = binary.LittleEndian

// A file is a header, chunks and a trailer.
//
//		 0      4    6    8         16      24      32      40     48      56      60        64
//		┌──────┬────┬────┬─────────┬───────┬───────┬───────┬──────┬───────┬───────┬─────────┬────────────┬─────┐
//		│magic │ v  │zero│ cluster │ store │ group │ index │ term │ nonce │ chunk │ members │ membership │ sum │
//		└──────┴────┴────┴─────────┴───────┴───────┴───────┴──────┴───────┴───────┴─────────┴────────────┴─────┘
//
//		 0        4      8     16
//		┌────────┬──────┬─────┬───────┐
//		│ length │ zero │ sum │ bytes │   as many as there are, all but the last of the size in the header
//		└────────┴──────┴─────┴───────┘
//
//		 0       4      8        16      24      32    40
//		┌───────┬──────┬────────┬───────┬───────┬─────┐
//		│ magic │ zero │ chunks │ bytes │ total │ sum │
//		└───────┴──────┴────────┴───────┴───────┴─────┘
//
//	  - The sum of the header, over all before it, is the identity of the snapshot.
//	    nonce was drawn for it. members is the size of the membership.
//	  - The sum of a chunk is over its number (u64), its length (u64) and its bytes,
//	    seeded with the identity.
//	  - total is over the sums of all chunks in order, seeded with the identity; the
//	    sum of the trailer over the trailer before it, seeded likewise.
const (
	headerMagic  = 0x314e534d // "MSN1"
	trailerMagic = 0x3145534d // "MSE1"
	version      = 1

	headerFixedBytes = 64
	sumBytes         = 8
	chunkHeadBytes   = 16
	trailerBytes     = 40

	// maxMembersBytes is the size of the largest membership there is.
	maxMembersBytes = 32 + 24*wire.MaxReplicas

	// MaxInfoBytes is the most that an encoded [Info] takes.
	MaxInfoBytes = headerFixedBytes + maxMembersBytes + sumBytes + trailerBytes
)

const (
	// DefaultChunkBytes is the size of a chunk when none is given: some
	// milliseconds of a gigabit link, so that a chunk holds up nothing for long.
	DefaultChunkBytes = 256 << 10
	// MinChunkBytes and MaxChunkBytes bound what may be given.
	MinChunkBytes = 512
	MaxChunkBytes = 1 << 20
	// MaxRecordBytes is the largest chunk with its head.
	MaxRecordBytes = chunkHeadBytes + MaxChunkBytes
	// maxBytes bounds the state in one snapshot, so that no sum of sizes
	// overflows.
	maxBytes = 1 << 56
)

// Meta says what a snapshot is of.
type Meta struct {
	Cluster uint64
	// Store made it. Copies on other stores are equal, byte by byte.
	Store wire.StoreID
	Group wire.GroupID
	// Index and Term are those of the last entry that the state holds.
	Index wire.Index
	Term  wire.Term
	// Nonce is drawn anew for each snapshot that is made.
	Nonce uint64
	// ChunkBytes is the size of all chunks but the last. Zero means
	// DefaultChunkBytes.
	ChunkBytes int
	// Members is the membership at Index.
	Members wire.Membership
}

// Info is what a whole file says of itself.
type Info struct {
	Meta
	Chunks uint64
	Bytes  uint64 // of the state

	header   []byte // encoded
	identity uint64
	total    uint64
}

// Same says whether two descriptions are of the same bytes.
func (i *Info) Same(other *Info) bool {
	return i.identity == other.identity && i.total == other.total && i.Bytes == other.Bytes && i.Meta.Index == other.Meta.Index
}

// FileBytes is the size of the file.
func (i *Info) FileBytes() int64 {
	return int64(len(i.header)) + int64(i.Chunks)*chunkHeadBytes + int64(i.Bytes) + trailerBytes
}

// RecordBytes is the size of the record of chunk n.
//
// REQUIRES: n < Chunks.
func (i *Info) RecordBytes(n uint64) int {
	if n == i.Chunks-1 {
		return chunkHeadBytes + int(i.Bytes-n*uint64(i.ChunkBytes))
	}
	return chunkHeadBytes + i.ChunkBytes
}

// offset is where the record of chunk n begins.
func (i *Info) offset(n uint64) int64 {
	return int64(len(i.header)) + int64(n)*int64(chunkHeadBytes+i.ChunkBytes)
}

// AppendTo appends the description, for [Info.Decode] elsewhere.
func (i *Info) AppendTo(dst []byte) []byte {
	return i.appendTrailer(append(dst, i.header...))
}

// Decode reads what AppendTo wrote, and refuses anything else. It keeps nothing
// of b.
func (i *Info) Decode(b []byte) error {
	*i = Info{}
	n, err := i.decodeHeader(b)
	if err != nil {
		return err
	}
	if err := i.decodeTrailer(b[n:]); err != nil {
		*i = Info{}
		return err
	}
	return nil
}

// encodeHeader fills in header and identity from the rest.
func (i *Info) encodeHeader() {
	b := make([]byte, 0, headerFixedBytes+i.Members.Size()+sumBytes)
	b = le.AppendUint32(b, headerMagic)
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, 0)
	for _, v := range [...]uint64{i.Cluster, uint64(i.Store), uint64(i.Group), uint64(i.Index), uint64(i.Term), i.Nonce} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, uint32(i.ChunkBytes))
	b = le.AppendUint32(b, uint32(i.Members.Size()))
	b = i.Members.AppendTo(b)
	i.identity = xxhash.Sum64(b)
	i.header = le.AppendUint64(b, i.identity)
}

// headerSize returns how long the header is that begins with b.
func headerSize(b []byte) (int, error) {
	if len(b) < headerFixedBytes || le.Uint32(b) != headerMagic {
		return 0, ErrHeader
	}
	if v := le.Uint16(b[4:]); v != version {
		return 0, fmt.Errorf("%w: %d, this is %d", ErrVersion, v, version)
	}
	members := le.Uint32(b[60:])
	if members > maxMembersBytes {
		return 0, fmt.Errorf("%w: membership of %d bytes", ErrHeader, members)
	}
	return headerFixedBytes + int(members) + sumBytes, nil
}

// decodeHeader takes the header off the start of b.
func (i *Info) decodeHeader(b []byte) (n int, err error) {
	if n, err = headerSize(b); err != nil {
		return 0, err
	}
	if len(b) < n {
		return 0, fmt.Errorf("%w: %d bytes of %d", ErrHeader, len(b), n)
	}
	sum := le.Uint64(b[n-sumBytes:])
	if xxhash.Sum64(b[:n-sumBytes]) != sum {
		return 0, fmt.Errorf("%w: its checksum does not match", ErrHeader)
	}
	m := Meta{
		Cluster: le.Uint64(b[8:]), Store: wire.StoreID(le.Uint64(b[16:])), Group: wire.GroupID(le.Uint64(b[24:])),
		Index: wire.Index(le.Uint64(b[32:])), Term: wire.Term(le.Uint64(b[40:])), Nonce: le.Uint64(b[48:]),
		ChunkBytes: int(le.Uint32(b[56:])),
	}
	if size, err := m.Members.Decode(b[headerFixedBytes : n-sumBytes]); err != nil || size != n-sumBytes-headerFixedBytes {
		return 0, fmt.Errorf("%w: membership of %d bytes: %v", ErrHeader, n-sumBytes-headerFixedBytes, err)
	}
	if err := m.check(); err != nil || le.Uint16(b[6:]) != 0 {
		return 0, fmt.Errorf("%w: %v", ErrHeader, err)
	}
	*i = Info{Meta: m, identity: sum, header: append([]byte(nil), b[:n]...)}
	return n, nil
}

// check says what no snapshot is of.
func (m *Meta) check() error {
	switch {
	case m.Group == 0 || m.Index == 0 || m.Term == 0:
		return fmt.Errorf("group %d, index %d, term %d: none may be zero", m.Group, m.Index, m.Term)
	case m.ChunkBytes < MinChunkBytes || m.ChunkBytes > MaxChunkBytes:
		return fmt.Errorf("chunks of %d bytes must be of %d to %d", m.ChunkBytes, MinChunkBytes, MaxChunkBytes)
	case m.Members.Index > m.Index:
		return fmt.Errorf("membership of entry %d is behind %d", m.Members.Index, m.Index)
	case len(m.Members.Members) > wire.MaxReplicas:
		return fmt.Errorf("%d members, at most %d are possible", len(m.Members.Members), wire.MaxReplicas)
	}
	return nil
}

func (i *Info) appendTrailer(dst []byte) []byte {
	start := len(dst)
	dst = le.AppendUint32(dst, trailerMagic)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint64(dst, i.Chunks)
	dst = le.AppendUint64(dst, i.Bytes)
	dst = le.AppendUint64(dst, i.total)
	return le.AppendUint64(dst, i.seeded(dst[start:]))
}

// decodeTrailer reads the trailer, which is all of b, behind its header.
func (i *Info) decodeTrailer(b []byte) error {
	switch {
	case len(b) != trailerBytes || le.Uint32(b) != trailerMagic || le.Uint32(b[4:]) != 0:
		return ErrTrailer
	case i.seeded(b[:trailerBytes-sumBytes]) != le.Uint64(b[trailerBytes-sumBytes:]):
		return fmt.Errorf("%w: its checksum does not match", ErrTrailer)
	}
	i.Chunks, i.Bytes, i.total = le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])
	if size := uint64(i.ChunkBytes); i.Bytes > maxBytes || i.Chunks != (i.Bytes+size-1)/size {
		return fmt.Errorf("%w: %d bytes in %d chunks of %d", ErrTrailer, i.Bytes, i.Chunks, i.ChunkBytes)
	}
	return nil
}

// seeded is the checksum of b as a part of this snapshot.
func (i *Info) seeded(b []byte) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(i.identity)
	_, _ = d.Write(b) // a digest takes every byte and has no error to give
	return d.Sum64()
}

// chunkSum is the checksum of chunk n.
func (i *Info) chunkSum(n uint64, payload []byte) uint64 {
	var place [16]byte
	le.PutUint64(place[:], n)
	le.PutUint64(place[8:], uint64(len(payload)))
	var d xxhash.Digest
	d.ResetWithSeed(i.identity)
	_, _ = d.Write(place[:]) // neither has this an error to give
	_, _ = d.Write(payload)  // nor this
	return d.Sum64()
}

// sealChunk fills in the head of a record whose bytes are in place, and returns
// its sum.
func (i *Info) sealChunk(n uint64, record []byte) uint64 {
	payload := record[chunkHeadBytes:]
	sum := i.chunkSum(n, payload)
	le.PutUint32(record, uint32(len(payload)))
	le.PutUint32(record[4:], 0)
	le.PutUint64(record[8:], sum)
	return sum
}

// checkChunk checks the record of chunk n, which must be of the size that it has
// to be, and returns its sum.
func (i *Info) checkChunk(n uint64, record []byte) (sum uint64, err error) {
	if len(record) <= chunkHeadBytes || le.Uint32(record) != uint32(len(record)-chunkHeadBytes) || le.Uint32(record[4:]) != 0 {
		return 0, fmt.Errorf("%w: chunk %d has a wrong head", ErrChunk, n)
	}
	sum = le.Uint64(record[8:])
	if i.chunkSum(n, record[chunkHeadBytes:]) != sum && !planted.Is(planted.RestoreUnchecked) {
		return 0, fmt.Errorf("%w: the checksum of chunk %d does not match", ErrChunk, n)
	}
	return sum, nil
}

// totaler computes the checksum over all chunks.
type totaler struct{ digest xxhash.Digest }

func (t *totaler) reset(i *Info) { t.digest.ResetWithSeed(i.identity) }

func (t *totaler) add(sum uint64) {
	var b [8]byte
	le.PutUint64(b[:], sum)
	_, _ = t.digest.Write(b[:]) // has no error to give
}

func (t *totaler) sum() uint64 { return t.digest.Sum64() }
