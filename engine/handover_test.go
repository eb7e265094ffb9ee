package engine_test

import (
	"fmt"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

// Time-outs are longer than the test: where a group has a leader after its store was
// closed, that one was handed the leadership. One store after the other is
// restarted, and all of the time the others take writes.
func TestRollingRestartNeedsNoTimeout(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(cfg *engine.Config) { cfg.Tuning.ElectionTicks = 20_000 })
	var ids []wire.GroupID
	for id := wire.GroupID(1); id <= 12; id++ {
		ids = append(ids, id)
	}
	c.startAll(ids...)
	writes := 0
	write := func() {
		writes++
		for _, id := range ids {
			c.propose(id, fmt.Sprint(writes))
		}
	}
	write()
	for store := wire.StoreID(1); store <= 3; store++ {
		for _, id := range ids {
			c.converge(id, writes) // who is far behind is handed nothing
		}
		c.close(store)
		write()
		c.open(store)
		for _, id := range ids {
			c.start(store, id)
		}
		write()
	}
	for _, id := range ids {
		c.converge(id, writes)
	}
}

// Where nobody can take over, Close does not wait for it, nor when it is told not to.
func TestCloseWithoutSuccessors(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"alone": time.Hour, "switched off": -1} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, func(cfg *engine.Config) { cfg.HandOverTimeout = timeout })
			c.startAll(1, 2, 3)
			for id := wire.GroupID(1); id <= 3; id++ {
				c.propose(id, "x")
			}
			for store := wire.StoreID(1); store <= 3; store++ {
				c.close(store) // the last one leads, and has nobody left
			}
		})
	}
}

// On the test's goroutine: all leaderships leave at once, none comes back.
func TestHandOverStepped(t *testing.T) {
	const groups = 30
	c := newDiskCluster(t, groups, nil)
	c.steps[1].HandOver()
	for range 3 {
		c.tick()
	}
	if c.led(1) != 0 || c.led(0)+c.led(2) != groups {
		t.Fatalf("the stores lead %d, %d and %d groups", c.led(0), c.led(1), c.led(2))
	}
	for range 10 * electionTicks {
		c.tick()
	}
	if c.led(1) != 0 || c.stores[1].Fitness() != 0 {
		t.Errorf("it leads %d groups again", c.led(1))
	}
}
