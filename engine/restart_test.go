package engine_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

var restartGroups = flag.Int("restart.groups", 512, "groups of TestRestartOfAllStores")

// All stores stop at once and come back together, with many groups. All groups have
// leaders again within eight election time-outs, though in this lockstep some of them
// draw the same tick again and again, and elections do not pile up: a pre-vote and a
// vote each, and few more. -restart.groups=4096 is what is measured.
func TestRestartOfAllStores(t *testing.T) {
	groups := *restartGroups
	c := &steppedCluster{t: t}
	dir := t.TempDir()
	open := func(life uint64) {
		c.stores, c.steps = nil, nil
		for id := wire.StoreID(1); id <= 3; id++ {
			store, steps, err := engine.OpenStepped(engine.Config{
				Cluster: 7, ID: id, Dir: filepath.Join(dir, fmt.Sprint(id)), Seed: 10*life + uint64(id), Transport: c.relay.end(id),
				NoSync: true, SegmentBytes: 4 << 20, Workers: 1, Appliers: 1,
			})
			if err != nil {
				t.Fatal(err)
			}
			c.stores, c.steps = append(c.stores, store), append(c.steps, steps)
			for g := range groups {
				if _, err := store.StartGroup(t.Context(), engine.GroupConfig{
					ID: wire.GroupID(g + 1), Members: threeMembers, StateMachine: &countingMachine{}}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	elections := func() (n int64) {
		for _, s := range c.stores {
			n += s.Metrics().Elections
		}
		return n
	}
	leading := func() (n int64) {
		for _, s := range c.stores {
			n += s.Metrics().Leading
		}
		return n
	}
	closeAll := func() {
		for _, d := range c.steps {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for life := range uint64(3) {
		open(life)
		ticks := 0
		for ; leading() < int64(groups); ticks++ {
			if ticks > 8*electionTicks {
				t.Fatalf("life %d: %d of %d groups have leaders after %d ticks", life, leading(), groups, ticks)
			}
			c.tick()
		}
		t.Logf("life %d: %d groups have leaders after %d ticks and %d campaigns", life, groups, ticks, elections())
		if got := elections(); got > int64(3*groups) {
			t.Errorf("life %d: %d campaigns for %d groups", life, got, groups)
		}
		before := elections()
		for range 5 * electionTicks {
			c.tick()
		}
		if got := elections(); got != before {
			t.Errorf("life %d: %d campaigns after all had leaders", life, got-before)
		}
		closeAll()
	}
}
