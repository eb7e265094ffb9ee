//go:build planted

package engine_test

import (
	"testing"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// What TestDivergedFollowerStops waits for does not come to pass with the bug: it
// finds it.
func TestPlantedKeepDiverged(t *testing.T) {
	if err := planted.Plant("keep-diverged"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = planted.Plant("") }() // no name is always known
	c := newWarpCluster(t, 3, false, false, nil)
	c.write(1, 50)
	bad := c.follower()
	c.warp(bad)
	c.write(1, 4*warpEvery)
	c.tick(100)
	if err := c.failed[wire.StoreID(bad+1)]; err != nil {
		t.Errorf("the diverged replica stopped: %v", err)
	}
	if st := c.group(bad, 1).Status(); st.Agreed >= c.from[bad] {
		t.Errorf("it agrees up to %d though it diverged from %d", st.Agreed, c.from[bad])
	}
}
