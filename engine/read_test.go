package engine_test

import (
	"fmt"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

// A closed loop of readers: each asks again as soon as it is answered.
type readLoop struct {
	t      testing.TB
	groups []*engine.Group
	next   int
	done   int
	failed int
}

func (l *readLoop) ask() {
	g := l.groups[l.next%len(l.groups)]
	l.next++
	if err := g.ReadAsync(nil, func(_ any, err error) {
		l.done++
		if err != nil {
			l.failed++
		}
	}); err != nil {
		l.t.Fatal(err)
	}
}

// ledBy returns the groups that lead on a store.
func (c *steppedCluster) ledBy(store *engine.Store) (led []*engine.Group) {
	for _, g := range c.groups {
		if g.Store() == store {
			led = append(led, g)
		}
	}
	return led
}

func (c *steppedCluster) frames() (frames int64) {
	for _, s := range c.stores {
		frames += s.Metrics().WireFrames
	}
	return frames
}

// Reads that come one by one, each for another group, while a round is on its way
// leave with the next: a round of all groups takes one frame to each peer and one
// back. The frames are counted on all stores together.
func TestReadsOfManyGroupsShareFrames(t *testing.T) {
	const groups, perRound, rounds = 90, 30, 100
	c := newSteppedCluster(t, groups)
	loop := &readLoop{t: t, groups: c.ledBy(c.stores[0])}
	before := c.frames()
	for range rounds {
		for range perRound {
			loop.ask()
			c.steps[0].Worker(0) // the network is slower than the store
		}
		c.settle()
	}
	if loop.done != rounds*perRound || loop.failed > 0 {
		t.Fatalf("%d of %d reads done, %d failed", loop.done, rounds*perRound, loop.failed)
	}
	// Two rounds of messages: that of the first read, and that of all others.
	if frames := c.frames() - before; frames > rounds*2*4 {
		t.Errorf("%d reads took %d frames, want at most %d", loop.done, frames, rounds*2*4)
	}
}

// A group whose majority is away does not hold up the reads of others for longer
// than until the next tick.
func TestReadsDoNotWaitForAGroupWithoutQuorum(t *testing.T) {
	c := newSteppedCluster(t, 6)
	led := c.ledBy(c.stores[0])
	for _, s := range c.stores[1:] {
		g, ok := s.Group(led[0].ID())
		if !ok {
			t.Fatal("no such group")
		}
		stopped := make(chan error, 1)
		go func() { stopped <- s.StopGroup(t.Context(), g.ID()) }()
		for g.Err() == nil || !c.stopped(s, g.ID()) {
			c.settle()
		}
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
	}
	stuck := &readLoop{t: t, groups: led[:1]}
	well := &readLoop{t: t, groups: led[1:2]}
	for round := range 8 {
		stuck.ask()
		c.steps[0].Worker(0)
		well.ask()
		c.settle()
		if round > 0 && well.done != round+1 {
			// The first round of the stuck group closes the gate once.
			t.Fatalf("round %d: %d reads of the other group done", round, well.done)
		}
		c.tick()
		if well.done != round+1 {
			t.Fatalf("round %d: %d reads of the other group done after a tick", round, well.done)
		}
	}
	if stuck.done > 0 {
		t.Errorf("%d reads done without a majority", stuck.done)
	}
}

func (c *steppedCluster) stopped(s *engine.Store, id wire.GroupID) bool {
	_, runs := s.Group(id)
	return !runs
}

// A read of a leader, over both followers, allocates nothing but its request.
func TestReadPathAllocations(t *testing.T) {
	skipUnderRace(t)
	c := newSteppedCluster(t, 30)
	led := c.ledBy(c.stores[0])
	done := 0
	count := func(any, error) { done++ }
	cycle := func() {
		for _, g := range led {
			for range 16 {
				if err := g.ReadAsync(nil, count); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.settle()
	}
	for range 50 {
		cycle()
	}
	reads := 16 * len(led)
	// The request, the boxed answer of the machine, and per group and round the list
	// of requests, which the applier keeps.
	if allocs := testing.AllocsPerRun(100, cycle) / float64(reads); allocs > 2.6 {
		t.Errorf("%.2f allocations per read", allocs)
	}
	if done != 151*reads {
		t.Errorf("%d of %d reads done", done, 151*reads)
	}
}

func BenchmarkReads(b *testing.B) {
	for _, inflight := range []int{64, 1000, 8000} {
		b.Run(fmt.Sprintf("groups=1000/inflight=%d", inflight), func(b *testing.B) {
			c := newSteppedCluster(b, 1000)
			loop := &readLoop{t: b, groups: c.groups}
			before := c.frames()
			b.ReportAllocs()
			for b.Loop() {
				for range inflight {
					loop.ask()
				}
				for loop.done < loop.next {
					c.settle()
				}
			}
			if loop.failed > 0 {
				b.Fatalf("%d reads failed", loop.failed)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(loop.done), "ns/read")
			b.ReportMetric(float64(c.frames()-before)/float64(loop.done), "frames/read")
		})
	}
}
