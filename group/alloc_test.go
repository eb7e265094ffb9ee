package group

import (
	"testing"
	"unsafe"

	"multiraft/wire"
)

// allocations fails when f allocates once it has run for a while.
func allocations(t *testing.T, f func()) {
	t.Helper()
	for range 200 {
		f()
	}
	if n := testing.AllocsPerRun(500, f); n != 0 {
		t.Errorf("%v allocations per run", n)
	}
}

func TestReplicateAllocatesNothing(t *testing.T) {
	c := newTrio(t)
	allocations(t, func() {
		if _, _, err := c.g[0].Propose(c.payload(1), 1); err != nil {
			t.Fatal(err)
		}
		c.settle()
	})
	if c.g[2].LastIndex() < 700 || c.g[0].Commit() != c.g[2].LastIndex() {
		t.Fatalf("leader committed %d, follower has %d", c.g[0].Commit(), c.g[2].LastIndex())
	}
}

// TestProposeReadyAckAllocatesNothing is the leader alone, with more than one
// block per Ready: joining them takes memory of the arena, a chunk for many, so
// it gets an arena that is large enough.
func TestProposeReadyAckAllocatesNothing(t *testing.T) {
	c := newTrio(t)
	var answer wire.Message
	allocations(t, func() {
		for range 4 {
			if _, _, err := c.g[0].Propose(c.payload(2), 2); err != nil {
				t.Fatal(err)
			}
		}
		c.take(0)
		c.ack(0)
		for i := range c.inbox {
			c.inbox[i] = c.inbox[i][:0]
		}
		for from := wire.ReplicaID(2); from <= 3; from++ {
			answer = wire.Message{Kind: wire.AppendResponse, Group: 1, From: from, To: 1, Term: 1, Index: c.g[0].LastIndex()}
			if err := c.g[0].Step(&answer); err != nil {
				t.Fatal(err)
			}
		}
		c.take(0)
	})
	if c.g[0].Commit() != c.g[0].LastIndex() || c.g[0].Commit() < 5000 {
		t.Fatalf("commit %d of %d", c.g[0].Commit(), c.g[0].LastIndex())
	}
}

func TestFollowerAppendAllocatesNothing(t *testing.T) {
	f := newFollowerLoop(t, 64)
	allocations(t, func() { f.run(t) })
}

func TestHeartbeatAllocatesNothing(t *testing.T) {
	c := newTrio(t)
	rounds := 0
	allocations(t, func() {
		c.now += 2
		for i := range c.g {
			c.g[i].Tick(c.now)
		}
		c.settle()
		rounds++
	})
	if c.g[0].Role() != Leader || c.g[1].Role() != Follower || c.g[0].Term() != 1 {
		t.Fatalf("after %d rounds: %s in term %d", rounds, c.g[0].Role(), c.g[0].Term())
	}
}

func TestReadIndexAllocatesNothing(t *testing.T) {
	c := newTrio(t)
	var context uint64
	allocations(t, func() {
		context++
		for i := range c.g {
			if err := c.g[i].ReadIndex(context<<2 | uint64(i)); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
	})
}

func TestStatusAllocatesNothing(t *testing.T) {
	c := newTrio(t)
	var st Status
	allocations(t, func() { c.g[0].Status(&st) })
	if len(st.Progress) != 2 || st.Commit != 1 {
		t.Fatalf("%+v", st)
	}
}

// TestIdleGroupIsSmall holds the size of an idle follower: the struct, and
// nothing behind it, also after it was busy.
func TestIdleGroupIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Group{}); size > 384 {
		t.Errorf("Group takes %d bytes", size)
	}
	ms, tuning, source := members(3), Tuning{}.WithDefaults(), fixedRand(1)
	log := new(boundsLog)
	fresh := heapOf(2000, func(int) *Group {
		g, err := New(Config{Group: 1, Replica: 2, Members: ms, Tuning: &tuning, Storage: log, Rand: source})
		if err != nil {
			t.Fatal(err)
		}
		return g
	})
	used := heapOf(200, func(int) *Group {
		c := newTrio(t)
		for range 3 {
			if _, _, err := c.g[0].Propose(c.payload(1), 1); err != nil {
				t.Fatal(err)
			}
			c.settle()
		}
		for range 3 * quietBeats {
			c.tick()
			c.settle()
		}
		// What belongs to the test goes; the follower's log is part of trio.
		g := c.g[1]
		g.rand, g.members, g.tuning, g.log.storage = source, ms, &tuning, log
		return g
	})
	t.Logf("%.0f bytes fresh, %.0f after work", fresh, used)
	if fresh > 600 || used > 600 {
		t.Errorf("an idle follower takes %.0f bytes fresh, %.0f after work", fresh, used)
	}
}
