//go:build linux

package faulttest

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"multiraft/wire"
)

// moves changes the members of all groups of a cluster, side by side. What it
// returns is called to wait for the end of that.
func moves(t *testing.T, c *Cluster, q Request) (wait func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	ended := make(chan error, c.cfg.Groups)
	for g := wire.GroupID(1); int(g) <= c.cfg.Groups; g++ {
		q := q
		q.Group = g
		go func() { // ends with ctx at the latest
			_, err := c.Change(ctx, q)
			ended <- err
		}()
	}
	return func() {
		t.Helper()
		defer cancel()
		for range c.cfg.Groups {
			must(t, <-ended)
		}
	}
}

// voters waits until every group has the given voters, and is in no joint
// configuration. The replica that is asked may have answered a read and still be about
// to take over the membership that the read covers.
func voters(t *testing.T, c *Cluster, want ...wire.StoreID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for g := wire.GroupID(1); int(g) <= c.cfg.Groups; g++ {
		for {
			got, err := c.Members(ctx, g)
			must(t, err)
			slices.Sort(got)
			if slices.Equal(got, want) {
				break
			}
			if err := pause(ctx, retryInterval); err != nil {
				t.Fatalf("group %d has voters on stores %d, want %d", g, got, want)
			}
		}
	}
}

// gone waits until a store has let go of all its replicas: it has learnt that it is
// no member any more.
func gone(t *testing.T, c *Cluster, id wire.StoreID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for {
		h, err := c.Health(ctx, id)
		must(t, err)
		if h.Health.Hosted == 0 {
			return
		}
		if err := pause(ctx, retryInterval); err != nil {
			t.Fatalf("store %d was removed and still has replicas of %d groups", id, h.Health.Hosted)
		}
	}
}

// TestMembersUnderKills moves groups over five stores while processes die: the store
// that comes, the one that leads, the one that goes, which then comes back and has to
// learn that it is no member, and all of them.
func TestMembersUnderKills(t *testing.T) {
	t.Parallel()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 5), Voters: 3, SnapshotEntries: 60}, 24)
	membersUnder(t, c, l, pick(1, 2, 200), func() {
		c.KillAll()
		must(t, c.StartAll())
	})
}

// TestMembersUnderPowerCuts is the same when the power goes for all.
func TestMembersUnderPowerCuts(t *testing.T) {
	t.Parallel()
	v := newVolume(t, 256*mib)
	v.mount()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(v.dir, 5), Voters: 3, SnapshotEntries: 60, SegmentBytes: 256 << 10}, 24)
	membersUnder(t, c, l, pick(1, 1, 100), func() {
		v.cut()
		c.KillAll()
		v.unmount()
		v.mount()
		must(t, c.StartAll())
	})
	c.KillAll()
	v.unmount()
}

// membersUnder makes rounds of changes. Each begins and ends with voters on stores 1
// to 3; disaster ends all processes and starts them again.
func membersUnder(t *testing.T, c *Cluster, l *Load, rounds int, disaster func()) {
	t.Helper()
	l.Moves = true
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	rng := rand.New(rand.NewPCG(uint64(rounds), 25))
	restart := func(id wire.StoreID, wait func()) {
		l.Attempts(1 + rng.IntN(60)) // somewhere in the middle of the change
		c.Kill(id)
		l.Attempts(100)
		must(t, c.Start(id))
		wait()
		answers(t, l, 300)
	}
	for range rounds {
		answers(t, l, 500)

		// A fourth voter, on a store that dies while it catches up.
		restart(4, moves(t, c, Request{Op: opAdd, Store: 4}))
		voters(t, c, 1, 2, 3, 4)

		// Store 4 for store 1, which leads a part of the groups and dies on the way.
		restart(1, moves(t, c, Request{Op: opRemove, Store: 1}))
		voters(t, c, 2, 3, 4)
		gone(t, c, 1)

		// In one step, while anyone dies.
		restart(anyStore(c, rng), moves(t, c, Request{Op: opReplace, Old: 2, Store: 5}))
		voters(t, c, 3, 4, 5)
		gone(t, c, 2)

		// One that is dead is replaced, on a store that has been a member before. When
		// it comes back it has missed its removal.
		c.Kill(3)
		moves(t, c, Request{Op: opReplace, Old: 3, Store: 1})()
		answers(t, l, 300)
		must(t, c.Start(3))
		gone(t, c, 3)
		voters(t, c, 1, 4, 5)

		// Everything ends in the middle of a change; what becomes of it is the same.
		wait := moves(t, c, Request{Op: opReplace, Old: 4, Store: 2})
		l.Attempts(1 + rng.IntN(60))
		disaster()
		wait()
		wait = moves(t, c, Request{Op: opReplace, Old: 5, Store: 3})
		l.Attempts(1 + rng.IntN(60))
		disaster()
		wait()
		voters(t, c, 1, 2, 3)
		gone(t, c, 4)
		gone(t, c, 5)
	}
	answers(t, l, 500)
	l.End()
	verify(t, c, l)
	joined := int64(0)
	for _, id := range c.Stores() {
		h, err := c.Health(context.Background(), id)
		must(t, err)
		joined += h.Health.Joined
	}
	t.Logf("%d operations around %d changes of members of %d groups; %d replicas joined since the last disaster",
		l.History.Len(), 6*rounds, c.cfg.Groups, joined)
}
