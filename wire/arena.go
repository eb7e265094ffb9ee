package wire

// Arena carves buffers for blocks out of chunks, so that a block costs no
// allocation of its own. Nothing is handed back: a chunk is garbage when the
// last block in it is, and holds no pointers, so the collector never looks
// inside. Blocks of one moment share a chunk and die together; who keeps a
// small block for long copies it out first.
//
// The zero value is ready to use. An arena belongs to one goroutine.
type Arena struct {
	chunk []byte // the free rest of the current chunk
}

// arenaChunkBytes balances the cost of a fresh chunk (about 3 µs to clear)
// against what one long-lived block can pin.
const arenaChunkBytes = 64 << 10

// Alloc returns an empty slice with capacity n that nobody else uses.
func (a *Arena) Alloc(n int) []byte {
	if n > arenaChunkBytes/4 {
		return make([]byte, 0, n)
	}
	if n > len(a.chunk) {
		a.chunk = make([]byte, arenaChunkBytes)
	}
	b := a.chunk[:0:n]
	a.chunk = a.chunk[n:]
	return b
}
