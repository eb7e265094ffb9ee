package engine_test

import (
	"testing"

	"multiraft/engine"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// A receiver that was restarted in the middle has a part of the snapshot and asks
// nobody for the rest. The sender offers again after one election time-out of
// silence, and at once when the receiver's store is connected again.
func TestRestartedReceiverIsOfferedAgain(t *testing.T) {
	const electionTicks = 20
	for _, connected := range []bool{false, true} {
		c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.Tuning.ElectionTicks = electionTicks })
		c.weight = 500
		behind(t, c)
		passed := 0
		c.pass = func(_, _ wire.StoreID, m *wire.Message) bool {
			if isChunk(m) {
				passed++
			}
			return !isChunk(m) || passed <= 60
		}
		c.mustOpen(2)
		c.until("under way", func() bool { return passed > 60 })
		c.pass = nil
		c.crash(2, vfs.ProcessDies)
		c.tick(2)
		c.mustOpen(2)
		limit := electionTicks
		if connected {
			c.places[c.leader(1)].handler.PeerUp(3, 2)
			limit = 1
		}
		before := c.chunks
		for ticks := 0; c.chunks == before; ticks++ {
			if ticks == limit {
				t.Fatalf("connected=%v: no chunk in %d ticks", connected, limit)
			}
			c.tick(1)
		}
		c.until("all have the same", func() bool { return c.converged(205) })
		if m := c.places[2].store.Metrics(); m.SnapshotsInstalled != 1 {
			t.Errorf("connected=%v: %d snapshots were installed", connected, m.SnapshotsInstalled)
		}
	}
}

// A peer that knows an offer takes it once more without doing anything twice,
// however often its connection comes and goes.
func TestRepeatedOffersCostNothing(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotBytesPerSecond = 20 * 4096 })
	c.weight = 500
	behind(t, c)
	offers := 0
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool {
		if m.Kind == wire.Snapshot {
			offers++
		}
		return true
	}
	c.mustOpen(2)
	c.until("all have the same", func() bool {
		leader := c.places[c.leader(1)]
		for range 3 {
			leader.handler.PeerUp(3, 1)
		}
		return c.converged(205)
	})
	m := c.places[2].store.Metrics()
	if offers < 10 || m.SnapshotsInstalled != 1 {
		t.Errorf("%d offers, %d snapshots were installed", offers, m.SnapshotsInstalled)
	}
	sent := c.places[c.leader(1)].store.Metrics()
	if sent.SnapshotsSent != 1 || sent.SnapshotBytesSent != m.SnapshotBytesReceived || int(m.SnapshotBytesReceived) > 130_000 {
		t.Errorf("%d bytes were sent, %d received of one snapshot", sent.SnapshotBytesSent, m.SnapshotBytesReceived)
	}
}
