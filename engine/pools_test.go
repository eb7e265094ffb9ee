package engine_test

import (
	"runtime"
	"testing"
	"weak"

	"multiraft/engine"
)

// TestStoresAreCollected shows that nothing of the process keeps a store alive that
// nobody refers to, what it recycles included. A process that opens many stores,
// such as a simulator, would otherwise carry those of the last two collections,
// and with them collect the less often the more of them there are.
func TestStoresAreCollected(t *testing.T) {
	var gone []weak.Pointer[engine.Store]
	t.Run("life", func(t *testing.T) {
		c, _, follower := forwardCluster(t, nil)
		var count tally
		if err := follower.ProposeAsync([]byte("x"), engine.NewPending(&count)); err != nil {
			t.Fatal(err)
		}
		c.settle()
		for _, store := range c.stores {
			gone = append(gone, weak.Make(store))
		}
	})
	runtime.GC()
	for at, store := range gone {
		if store.Value() != nil {
			t.Errorf("store %d outlives its last use", at+1)
		}
	}
}
