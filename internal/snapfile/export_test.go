package snapfile

import "github.com/cespare/xxhash/v2"

// Reseal makes the checksums in b right, where b has the shape of a snapshot or of
// the description of one: random bytes never get behind them.
func Reseal(b []byte) []byte {
	b = append([]byte(nil), b...)
	if len(b) >= headerFixedBytes {
		le.PutUint32(b, headerMagic)
		le.PutUint16(b[4:], version)
	}
	n, err := headerSize(b)
	if err != nil || len(b) < n+trailerBytes {
		return b
	}
	i := &Info{identity: xxhash.Sum64(b[:n-sumBytes])}
	le.PutUint64(b[n-sumBytes:], i.identity)
	chunks, trailer := b[n:len(b)-trailerBytes], b[len(b)-trailerBytes:]
	// A description has no chunks, and says how many there are.
	i.Chunks, i.Bytes, i.total = le.Uint64(trailer[8:]), le.Uint64(trailer[16:]), le.Uint64(trailer[24:])
	if len(chunks) > 0 || i.Chunks == 0 {
		i.Chunks, i.Bytes = 0, 0
		var total totaler
		total.reset(i)
		size := chunkHeadBytes + int(le.Uint32(b[56:])&(4*MaxChunkBytes-1))
		for len(chunks) > chunkHeadBytes {
			record := chunks[:min(size, len(chunks))]
			chunks = chunks[len(record):]
			if len(record) > chunkHeadBytes {
				total.add(i.sealChunk(i.Chunks, record))
				i.Chunks++
				i.Bytes += uint64(len(record) - chunkHeadBytes)
			}
		}
		i.total = total.sum()
	}
	return append(b[:len(b)-trailerBytes], i.appendTrailer(nil)...)
}

// ResealChunk makes a record one of chunk n of a snapshot, whatever is in it.
func ResealChunk(i *Info, n uint64, record []byte) []byte {
	record = append([]byte(nil), record...)
	if len(record) > chunkHeadBytes {
		i.sealChunk(n, record)
	}
	return record
}
