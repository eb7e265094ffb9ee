package bench

import (
	"encoding/binary"
	"math/bits"
)

// bitmap is a set of sequence numbers. It grows as far as the highest one, so
// numbers must be dense: a write costs one bit per set.
type bitmap []uint64

// set adds n and reports whether it was missing.
//
//mr:hotpath
func (b *bitmap) set(n uint64) bool {
	word, bit := n/64, uint64(1)<<(n%64)
	if word >= uint64(len(*b)) {
		b.grow(word)
	}
	old := (*b)[word]
	(*b)[word] = old | bit
	return old&bit == 0
}

// grow makes room for the given word, and doubles so that the cost per write
// vanishes.
func (b *bitmap) grow(word uint64) {
	grown := make(bitmap, max(word+1, 2*uint64(len(*b)), 4))
	copy(grown, *b)
	*b = grown
}

func (b bitmap) has(n uint64) bool {
	return n/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0
}

func (b bitmap) count() int {
	n := 0
	for _, word := range b {
		n += bits.OnesCount64(word)
	}
	return n
}

// limit returns one more than the highest number, 0 when empty.
func (b bitmap) limit() uint64 {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0 {
			return uint64(i)*64 + uint64(bits.Len64(b[i]))
		}
	}
	return 0
}

// add adds every number of other.
func (b *bitmap) add(other bitmap) {
	if n := (other.limit() + 63) / 64; n > uint64(len(*b)) {
		b.grow(n - 1)
	}
	for i, word := range other[:min(len(other), len(*b))] {
		(*b)[i] |= word
	}
}

// missing calls f with the numbers of b that are not in other, in order, until
// f returns false.
func (b bitmap) missing(other bitmap, f func(n uint64) bool) {
	for i, word := range b {
		if i < len(other) {
			word &^= other[i]
		}
		for word != 0 {
			if !f(uint64(i)*64 + uint64(bits.TrailingZeros64(word))) {
				return
			}
			word &= word - 1
		}
	}
}

// appendTo appends the words up to the highest number, little-endian.
func (b bitmap) appendTo(dst []byte) []byte {
	for _, word := range b[:(b.limit()+63)/64] {
		dst = binary.LittleEndian.AppendUint64(dst, word)
	}
	return dst
}

// bitmapFrom is the inverse of appendTo.
//
// REQUIRES: len(src) is a multiple of 8.
func bitmapFrom(src []byte) bitmap {
	b := make(bitmap, len(src)/8)
	for i := range b {
		b[i] = binary.LittleEndian.Uint64(src[8*i:])
	}
	return b
}
