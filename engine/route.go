package engine

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// KeyGroup maps a key to one of a fixed number of groups, evenly and the same
// everywhere: the upper bits of the key's xxhash64 scaled to [0, groups).
// Changing the number of groups moves almost every key.
//
// REQUIRES: groups > 0.
func KeyGroup(key []byte, groups int) int {
	hi, _ := bits.Mul64(xxhash.Sum64(key), uint64(groups))
	return int(hi)
}
