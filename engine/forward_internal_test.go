package engine

import (
	"bytes"
	"testing"

	"multiraft/internal/allocs"
)

// FuzzNextResult: whatever comes from the network is read within its bounds, and
// what reads well encodes to the same bytes.
func FuzzNextResult(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendResult(nil, resultApplied, &Result{Value: 7, Data: []byte("data")}))
	f.Add(appendResult(appendResult(nil, resultLost, &Result{}), resultTooLarge, &Result{Value: 1}))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		allocs.AtMost(t, 4<<10, func() { // it borrows
			for rest, ok := b, true; ok && len(rest) > 0; {
				_, _, rest, ok = nextResult(rest)
			}
		})
		for rest := b; len(rest) > 0; {
			status, result, after, ok := nextResult(rest)
			if !ok {
				return
			}
			took := rest[:len(rest)-len(after)]
			if status == resultApplied && !bytes.Equal(appendResult(nil, status, &result), took) {
				t.Fatalf("%x reads as %v, %+v", took, status, result)
			}
			rest = after
		}
	})
}

// FuzzCountPayloads: a request is taken only as a list of commands that fills it.
func FuzzCountPayloads(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 'x', 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var count int
		var ok bool
		allocs.AtMost(t, 4<<10, func() { count, ok = countPayloads(b) }) // it only counts
		if ok && (count == 0 || 4*count > len(b)) {
			t.Fatalf("%d commands in %d bytes", count, len(b))
		}
	})
}
