package raftlog

// For the tests, which live outside as the file system they use imports this
// package.

const (
	BatchHeaderBytes = batchHeaderBytes
	SectorBytes      = batchAlign
	ReserveSegments  = reserveSegments
)

// ActiveSegment returns where the next batch goes.
func (l *Log) ActiveSegment() (name string, offset int64) {
	return l.writer.active.name, l.writer.offset
}

// IndexBytes returns the memory that the index of the group holds beyond the
// handle.
func (g *Group) IndexBytes() int {
	return cap(g.blocks)*24 + cap(g.runs)*16
}

// SealBatch makes a batch for a place out of anything: it puts right magic,
// place, length and checksums on b and leaves the rest of the header as it is.
func SealBatch(uuid [16]byte, segment uint64, offset uint32, b []byte) []byte {
	b = append(b, make([]byte, max(batchHeaderBytes-len(b), 0))...)
	b = append(b, make([]byte, padding(len(b)))...)
	h := header{
		flags: le.Uint16(b[14:]), segment: segment, offset: offset,
		sequence: le.Uint64(b[24:]), durable: le.Uint64(b[32:]), oldest: uint64(le.Uint32(b[40:])),
		sums: le.Uint32(b[20:]), weighted: le.Uint32(b[44:]), prevSum: le.Uint64(b[56:]), groups: le.Uint64(b[64:]),
		prevLen: le.Uint32(b[80:]), records: le.Uint32(b[84:]),
	}
	h.finish(b, newHasher(uuid))
	return b
}

// DataSync is what a file of OSFS does to sync.
var DataSync = dataSync
