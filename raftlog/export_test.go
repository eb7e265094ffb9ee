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

// BlockBytes returns the memory that the index of the group holds beyond the
// handle.
func (g *Group) IndexBytes() int {
	return cap(g.blocks)*24 + cap(g.runs)*16
}

// DecodeBatch is what recovery does with the bytes of a segment.
func DecodeBatch(uuid [16]byte, segment uint64, offset uint32, b []byte) error {
	var h header
	hash := newHasher(uuid)
	if err := h.decode(b, segment, offset, hash); err != nil {
		return err
	}
	end := min(int(h.length), len(b))
	body := b[min(batchHeaderBytes, end):end]
	var rec record
	for range h.records {
		if err := rec.decode(body); err != nil {
			return err
		}
		body = body[rec.size:]
	}
	return nil
}

// SealHeader puts the right checksum on a header, whatever it says.
func SealHeader(uuid [16]byte, segment uint64, offset uint32, b []byte) {
	hash := newHasher(uuid)
	le.PutUint64(b, hash.sum(segment, offset, b[8:batchHeaderBytes]))
}
