package engine_test

import (
	"errors"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

// Disks take one step in a tick, and clients offer what they can serve, and then
// many times that. Nothing more than the budget is let in, the rest is refused at
// once, as much is served as before, and nobody is elected.
func TestOverloadIsRefused(t *testing.T) {
	const groups, budget, size = 12, 256 << 10, 1 << 10
	c := newDiskCluster(t, groups, func(cfg *engine.Config) {
		cfg.MaxInflightBytes, cfg.MaxGroupInflightBytes, cfg.MaxCommandBytes = budget, budget/2, size
		cfg.SlowDisk = -1
	})
	c.takes = [3]int{1, 1, 1}
	command := make([]byte, size)
	var elections int64
	for _, s := range c.stores {
		elections += s.Metrics().Elections
	}
	run := func(perTick, ticks int) (served, refused int) {
		var n tally
		before := n.done
		for range ticks {
			for i := range perTick {
				g := c.leader(wire.GroupID(1 + i%groups))
				switch err := g.ProposeAsync(command, engine.NewPending(&n)); {
				case errors.Is(err, engine.ErrBusy):
					refused++
				case err != nil:
					t.Fatal(err)
				}
			}
			for _, s := range c.stores {
				inflight, receive, _, _, _ := s.Budgets()
				if inflight > budget || receive > 64<<20 || s.Metrics().LogQueueBytes > 4*budget {
					t.Fatalf("store %d: %d bytes in flight, %d received, %d for the log", s.ID(), inflight, receive, s.Metrics().LogQueueBytes)
				}
			}
			c.tick()
		}
		served = n.done - before
		for range 20 {
			c.tick()
		}
		if n.failed > 0 {
			t.Errorf("%d of %d writes failed", n.failed, n.done)
		}
		return served, refused
	}
	const sustained = 3 * budget / (size + 4) / 3 // what the budgets hold, in three ticks
	peak, refused := run(sustained, 100)
	if refused > 0 {
		t.Fatalf("%d of %d writes a tick were refused", refused, sustained)
	}
	served, refused := run(8*sustained, 100)
	if refused == 0 || served < peak {
		t.Errorf("served %d, and %d at the peak; %d were refused", served, peak, refused)
	}
	for _, s := range c.stores {
		elections -= s.Metrics().Elections
	}
	if elections != 0 {
		t.Errorf("%d elections", -elections)
	}
}

// A group that gets all it can take does not keep others from being served: they
// have their turn in every tick, within the same number of ticks as without it.
func TestNoisyGroup(t *testing.T) {
	const groups = 200
	c := newDiskCluster(t, groups, func(cfg *engine.Config) {
		cfg.MaxInflightBytes, cfg.MaxGroupInflightBytes, cfg.MaxCommandBytes = 4<<20, 1<<20, 64<<10
		cfg.SlowDisk = -1
	})
	c.takes = [3]int{1, 1, 1}
	// took returns the most ticks that a write to any other group took.
	took := func(noisy bool) (most int) {
		var noise tally
		command := make([]byte, 64<<10)
		for range 5 {
			var n tally
			for id := wire.GroupID(2); id <= groups; id++ {
				if err := c.leader(id).ProposeAsync([]byte("x"), engine.NewPending(&n)); err != nil {
					t.Fatal(err)
				}
			}
			ticks := 0
			for ; n.done < groups-1; ticks++ {
				for noisy && c.leader(1).ProposeAsync(command, engine.NewPending(&noise)) == nil {
				}
				c.tick()
			}
			most = max(most, ticks)
		}
		if noisy && noise.done == 0 {
			t.Error("the noisy group was not served")
		}
		return most
	}
	quiet := took(false)
	if noisy := took(true); noisy > 2*quiet {
		t.Errorf("writes took %d ticks, and %d beside a noisy group", quiet, noisy)
	}
}
