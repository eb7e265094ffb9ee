package engine_test

import (
	"testing"
	"time"

	"multiraft/batch"
	"multiraft/engine"
	"multiraft/wire"
)

// hookedClock is a Clock that moves with the ticks of a test, and tells when it is
// read.
type hookedClock struct {
	now  time.Duration
	read func()
}

func (c *hookedClock) Now() time.Duration {
	now := c.now
	c.read()
	return now
}

// hookedCluster is a cluster with leases whose clocks call read.
func hookedCluster(t *testing.T, groups int, read func(wire.StoreID)) *steppedCluster {
	clocks := map[wire.StoreID]*hookedClock{}
	return newSteppedClusterWith(t, groups, func(cfg *engine.Config) {
		id := cfg.ID
		clocks[id] = &hookedClock{now: time.Hour, read: func() { read(id) }}
		cfg.Clock, cfg.Tuning.LeaseReads = clocks[id], true
	}, func() {
		for _, clock := range clocks {
			clock.now += 50 * time.Millisecond
		}
	})
}

// The clock of a store with leases is read for many turns at once, whatever is in the
// mailboxes.
func TestTurnsShareReadingsOfTheClock(t *testing.T) {
	const groups = 96
	readings := func(groups int) (n int) {
		c := hookedCluster(t, groups, func(wire.StoreID) { n++ })
		n = 0
		for range 20 {
			c.tick()
		}
		return n
	}
	few, many := readings(3), readings(groups)
	// The turns of a round are as many as there are groups, at most: three readings.
	if many > 4*few {
		t.Errorf("%d readings with %d groups, %d with 3", many, groups, few)
	}
	if few == 0 {
		t.Error("the clock is not read")
	}
}

// A message that comes while the clock is read may have come after the time that the
// reading tells. Its turn goes by the next one, or a voter's promise would begin
// before the heartbeat that it answers.
func TestMessagesWaitForALaterReading(t *testing.T) {
	var hook func()
	c := hookedCluster(t, 1, func(id wire.StoreID) {
		if f := hook; id == 1 && f != nil {
			hook = nil
			f()
		}
	})
	leader, voter := c.groups[0].Store().ID(), c.relay.stores[1]
	if leader == 1 {
		t.Fatal("store 1 leads")
	}
	for len(voter.inbox) < 2 { // two heartbeats
		for _, f := range c.beforeTick {
			f()
		}
		c.stepOf(c.groups[0]).Tick()
		c.stepOf(c.groups[0]).Worker(0)
	}
	frames := voter.inbox
	voter.inbox = nil
	answers := c.relay.stores[leader]
	answers.inbox = nil
	answered := func() (ticks []uint64) {
		for len(answers.inbox) == 0 && c.steps[0].Worker(0) {
		}
		for _, frame := range answers.inbox {
			ticks = append(ticks, contextOf(t, frame.payload, wire.HeartbeatResponse))
		}
		answers.inbox = nil
		return ticks
	}
	hook = func() { voter.handler.HandleFrame(frames[1].from, frames[1].payload) }
	voter.handler.HandleFrame(frames[0].from, frames[0].payload)
	first, second := contextOf(t, frames[0].payload, wire.Heartbeat), contextOf(t, frames[1].payload, wire.Heartbeat)
	if first == 0 || second <= first {
		t.Fatalf("heartbeats of ticks %d and %d", first, second)
	}
	if got := answered(); len(got) != 1 || got[0] != first {
		t.Errorf("answered the heartbeats of ticks %v in the first round, want %d", got, first)
	}
	if got := answered(); len(got) != 1 || got[0] != second {
		t.Errorf("answered the heartbeats of ticks %v in the second round, want %d", got, second)
	}
}

// contextOf returns the context of the only message of a kind in a frame.
func contextOf(t *testing.T, payload []byte, kind wire.MessageKind) (context uint64) {
	t.Helper()
	var reader batch.Reader
	reader.Reset(payload)
	n := 0
	for {
		var m wire.Message
		ok, err := reader.Next(&m)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if m.Kind == kind {
			context = m.Context
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d messages of kind %s in a frame", n, kind)
	}
	return context
}
