package vfs

import (
	"bytes"
	"math/bits"
	"slices"
	"sync/atomic"
)

// SectorBytes is what a disk writes whole, in most cases.
const SectorBytes = 512

const (
	// chunkBytes is the unit of copy-on-write between a file and its clones. It is
	// a sector: most writes are of a few, and whole.
	chunkBytes = SectorBytes
	// maxFileBytes bounds the table of chunks, 96 MiB, that a write far out
	// allocates.
	maxFileBytes = 2 << 30
	// maxPreImages bounds the versions of sectors kept beyond the first, which
	// is always kept: a file that is never synced may be written over and over.
	maxPreImages = 1 << 14
)

type chunk [chunkBytes]byte

// chunkRef is a chunk and whether this inode alone may write to it (F3): nobody
// else has it, as content or as a pre-image.
type chunkRef struct {
	*chunk // nil: zeros
	owned  bool
	// sum is that of the chunk, 0 when nobody has asked for it. The table may be
	// that of several inodes, so it is loaded and stored as a whole.
	sum uint64
}

// inode is the content of a file. Its file system's lock guards it.
type inode struct {
	chunks []chunkRef
	shared bool // another inode has the same table of chunks
	size   int64
	names  int // visible names
	opens  int // open files

	// Since the last sync: what each sector held before each write. A sector's
	// first pre-image is what is durable.
	preSectors []int64
	preChunks  []*chunk // per preSectors; never nil, never written to
	dirty      []uint64 // bit set of sectors with a pre-image
	extra      int      // pre-images beyond a sector's first

	durableSize int64
	minSize     int64 // least size since the last sync

	// dropped holds what is durable of sectors whose write-back failed.
	dropped map[int64]*chunk
}

// zeroChunk is never written to.
var zeroChunk chunk

// hole says whether chunk c is zeros that take no memory.
func (n *inode) hole(c int64) bool {
	return c >= int64(len(n.chunks)) || n.chunks[c].chunk == nil
}

// sector returns what sector i holds. The slice is only for reading.
func (n *inode) sector(i int64) []byte {
	if n.hole(i) {
		return zeroChunk[:]
	}
	return n.chunks[i].chunk[:]
}

// sectorSum returns the checksum of sector i, which is kept: sectors are summed
// up far more often than they change.
func (n *inode) sectorSum(i int64) uint64 {
	if n.hole(i) {
		return 0
	}
	ref := &n.chunks[i]
	sum := atomic.LoadUint64(&ref.sum)
	if sum == 0 {
		sum = sectorSum(i, ref.chunk[:])
		atomic.StoreUint64(&ref.sum, sum)
	}
	return sum
}

// own returns chunk c for writing. Whoever writes all of it needs nothing of what
// it was.
func (n *inode) own(c int64, all bool) *chunk {
	n.unshare()
	if more := c + 1 - int64(len(n.chunks)); more > 0 {
		n.chunks = slices.Grow(n.chunks, int(more))[:c+1]
	}
	ref := &n.chunks[c]
	if !ref.owned {
		fresh := new(chunk)
		if ref.chunk != nil && !all {
			*fresh = *ref.chunk
		}
		*ref = chunkRef{chunk: fresh, owned: true}
	}
	ref.sum = 0
	return ref.chunk
}

// unshare gets a table of chunks that belongs to n alone.
func (n *inode) unshare() {
	if !n.shared {
		return
	}
	n.shared = false
	table := make([]chunkRef, len(n.chunks))
	for i := range table {
		from := &n.chunks[i]
		table[i] = chunkRef{chunk: from.chunk, sum: atomic.LoadUint64(&from.sum)}
	}
	n.chunks = table
}

// poke writes bytes without keeping pre-images and without changing the size.
// Zeros in a hole leave it a hole.
func (n *inode) poke(p []byte, off int64) {
	for len(p) > 0 {
		at := off % chunkBytes
		k := min(len(p), int(chunkBytes-at))
		if c := off / chunkBytes; !n.hole(c) || !bytes.Equal(p[:k], zeroChunk[:k]) {
			copy(n.own(c, k == chunkBytes)[at:], p[:k])
		}
		p, off = p[k:], off+int64(k)
	}
}

// read copies from off on, and returns how much there was.
func (n *inode) read(p []byte, off int64) int {
	if off >= n.size {
		return 0
	}
	p = p[:min(int64(len(p)), n.size-off)]
	done := 0
	for done < len(p) {
		at := off + int64(done)
		c, o := at/chunkBytes, at%chunkBytes
		want := p[done:min(len(p), done+int(chunkBytes-o))]
		if c < int64(len(n.chunks)) && n.chunks[c].chunk != nil {
			copy(want, n.chunks[c].chunk[o:])
		} else {
			clear(want)
		}
		done += len(want)
	}
	return done
}

// write is WriteAt after all checks.
func (n *inode) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	n.keep(off, end)
	n.poke(p, off)
	n.size = max(n.size, end)
}

// keep notes the pre-images of the sectors that [off, end) touches.
func (n *inode) keep(off, end int64) {
	lo, hi := off/SectorBytes, (end+SectorBytes-1)/SectorBytes
	for int64(len(n.dirty))*64 < hi {
		n.dirty = append(n.dirty, 0)
	}
	for i := lo; i < hi; i++ {
		bit := uint64(1) << (i % 64)
		switch {
		case n.dirty[i/64]&bit == 0:
			n.dirty[i/64] |= bit
			if old, ok := n.dropped[i]; ok {
				// A new write makes the sector dirty again, and what it falls
				// back to is what is on disk, not what was visible.
				delete(n.dropped, i)
				n.addPreImage(i, old)
				continue
			}
		case n.extra == maxPreImages:
			continue
		default:
			n.extra++
		}
		if n.hole(i) {
			n.addPreImage(i, &zeroChunk)
		} else {
			n.unshare()
			n.chunks[i].owned = false // what comes goes into another chunk
			n.addPreImage(i, n.chunks[i].chunk)
		}
	}
}

func (n *inode) addPreImage(i int64, c *chunk) {
	n.preSectors, n.preChunks = append(n.preSectors, i), append(n.preChunks, c)
}

// preImage returns the k-th pre-image. The slice is only for reading.
func (n *inode) preImage(k int) []byte { return n.preChunks[k][:] }

// truncate sets the size.
func (n *inode) truncate(size int64) {
	if size < n.size {
		for c, ref := range n.chunks {
			at := int64(c) * chunkBytes
			if ref.chunk != nil && at+chunkBytes > size && at < n.size {
				n.keep(max(at, size), min(at+chunkBytes, n.size))
			}
		}
		n.cut(size)
		n.minSize = min(n.minSize, size)
	}
	n.size = size
}

// cut makes zeros of what is stored at and behind size.
func (n *inode) cut(size int64) {
	whole := (size + chunkBytes - 1) / chunkBytes
	if whole < int64(len(n.chunks)) {
		n.unshare()
		clear(n.chunks[whole:])
		n.chunks = n.chunks[:whole]
	}
	if rest := size % chunkBytes; rest != 0 && whole <= int64(len(n.chunks)) && n.chunks[whole-1].chunk != nil {
		if behind := n.chunks[whole-1].chunk[rest:]; !bytes.Equal(behind, zeroChunk[:len(behind)]) {
			clear(n.own(whole-1, false)[rest:])
		}
	}
}

// sync makes everything durable, but for sectors that were dropped before and
// not written since.
func (n *inode) sync() {
	n.clean()
	n.durableSize = n.size
	n.minSize = n.size
}

// drop is a sync that failed: the sectors count as clean and are not on disk.
// The size stays unsynced.
func (n *inode) drop() {
	if n.dropped == nil {
		n.dropped = make(map[int64]*chunk)
	}
	for k, i := range n.preSectors {
		if _, ok := n.dropped[i]; !ok { // the first pre-image is the durable one
			n.dropped[i] = n.preChunks[k]
		}
	}
	n.clean()
}

// keepCapacity is for how many pre-images a file holds on to the room.
const keepCapacity = 1 << 10

// clean forgets all pre-images.
func (n *inode) clean() {
	for _, i := range n.preSectors {
		n.dirty[i/64] &^= 1 << (i % 64)
	}
	clear(n.preChunks)
	n.preSectors, n.preChunks, n.extra = n.preSectors[:0], n.preChunks[:0], 0
	if cap(n.preChunks) > keepCapacity {
		n.preSectors, n.preChunks = nil, nil
	}
}

// dropCache makes dropped sectors visible as they are on disk.
func (n *inode) dropCache() {
	for i, old := range n.dropped { // order does not matter: each is its own sector
		n.poke(old[:], i*SectorBytes)
	}
	n.cut(n.size) // the last sector may have held more
	clear(n.dropped)
}

// unsynced counts the sectors that are not durable.
func (n *inode) unsynced() int {
	count := len(n.dropped)
	for _, w := range n.dirty {
		count += bits.OnesCount64(w)
	}
	return count
}

// flip inverts bits of the byte at off, visible and durable alike.
func (n *inode) flip(off int64, mask byte) {
	n.own(off/chunkBytes, false)[off%chunkBytes] ^= mask
	i, o := off/SectorBytes, off%SectorBytes
	for k, s := range n.preSectors {
		if s != i {
			continue
		}
		n.preChunks[k] = flipped(n.preChunks[k], o, mask)
	}
	if old, ok := n.dropped[i]; ok {
		n.dropped[i] = flipped(old, o, mask)
	}
}

// flipped returns a copy of a chunk, which others may have as well, with bits of
// one byte inverted.
func flipped(c *chunk, o int64, mask byte) *chunk {
	fresh := *c
	fresh[o] ^= mask
	return &fresh
}

// share returns an inode with the same visible content, all of it durable. Both
// copy the table and a chunk before they write to it from here on.
func (n *inode) share() *inode {
	n.shared = true
	return &inode{chunks: n.chunks, shared: true, size: n.size, durableSize: n.size, minSize: n.size}
}
