package engine_test

import (
	"testing"

	"multiraft/engine"
	"multiraft/internal/snapfile"
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
			c.places[c.leader(1)].handler.PeerUp(3, 2, wire.ProtocolVersion)
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
			leader.handler.PeerUp(3, 1, wire.ProtocolVersion)
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

// A large snapshot on a link that it fills for many election time-outs delays no
// heartbeat: its receiver follows all the while, the group takes writes, and what
// is on its way is not asked for again. The same link without lanes shows that
// heartbeats would be late.
func TestSnapshotOnASlowLinkCausesNoElection(t *testing.T) {
	const electionTicks, perTick = 20, 2 << 10
	for _, test := range []struct {
		oneLane bool
		chunk   int // a window of them takes 64 ticks, or one of them 32
		surplus int // chunks that may be sent twice
	}{
		{false, 16 << 10, 0},
		{false, 64 << 10, 16},
		{true, 16 << 10, 0},
	} {
		c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) {
			cfg.Tuning.ElectionTicks, cfg.SnapshotChunkBytes = electionTicks, test.chunk
		})
		behind(t, c)
		leader := c.leader(1)
		for at := range 2 {
			c.places[at].books[1].weight = 5000 // the next snapshot is large
		}
		c.write(1, 50)
		term := c.group(leader, 1).Status().Term
		c.slow = &slowLink{from: c.places[leader].id, to: 3, perTick: perTick, oneLane: test.oneLane}
		c.mustOpen(2)
		ticks := 0
		follows := func() bool {
			return c.places[2].store.Metrics().Elections == 0 && (ticks < 5 || c.group(2, 1).Leader().Store == c.slow.from)
		}
		for ; c.places[2].store.Metrics().SnapshotsInstalled == 0 && follows(); ticks++ {
			if ticks == 5000 {
				t.Fatalf("%+v: the snapshot does not arrive, after %d chunks", test, c.chunks)
			}
			c.tick(1)
			if ticks%10 == 0 {
				c.write(1, 1)
			}
		}
		if test.oneLane {
			if follows() {
				t.Errorf("no heartbeat was delayed in %d ticks of a link without lanes", ticks)
			}
			continue
		}
		st := c.group(2, 1).Status()
		if !follows() || c.leader(1) != leader || c.group(leader, 1).Status().Term != term {
			t.Errorf("%+v: after %d ticks: %d elections, %+v", test, ticks, c.places[2].store.Metrics().Elections, st)
		}
		if ticks < 10*electionTicks {
			t.Errorf("%+v: the snapshot took %d ticks only", test, ticks)
		}
		if file, err := snapfile.OpenFile(c.places[2].fs, "/store/snapshots/"+c.places[2].snapshotFiles(t)[0]); err != nil {
			t.Error(err)
		} else if chunks := int(file.Info().Chunks); c.chunks > chunks+test.surplus {
			t.Errorf("%+v: %d chunks were delivered of a snapshot of %d", test, c.chunks, chunks)
		}
		c.until("all have the same", func() bool { return c.converged(c.sent) })
	}
}
