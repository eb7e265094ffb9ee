package group

import (
	"testing"

	"multiraft/wire"
)

// floorLog returns a log of commands in term 1, and of memberships at 3, in which
// replica 2 decides alone, and at 5, of replicas 1 and 2. All are committed.
func floorLog(last wire.Index) *memLog {
	log := &memLog{hard: wire.HardState{Term: 1, Commit: last}}
	for i := wire.Index(1); i <= last; i++ {
		b, kind := commands("x"), wire.EntryCommand
		if i == 3 || i == 5 {
			m := wire.Membership{Members: []wire.Member{{Replica: 2, Store: 2, Role: wire.Voter}}}
			if i == 5 {
				m.Members = append(m.Members, wire.Member{Replica: 1, Store: 1, Role: wire.Voter})
			}
			b, kind = wire.AppendPayload(wire.NewBlock(nil), m.AppendTo(nil)), wire.EntryConfig
		}
		b.Seal(1, i, 1, kind, 1)
		log.write(log.hard, []wire.Block{b})
	}
	return log
}

// stranded returns what replica 2 is until it has the floor: a learner of replica 1.
func stranded() *wire.Membership {
	return &wire.Membership{Members: []wire.Member{{Replica: 1, Store: 1, Role: wire.Voter}, {Replica: 2, Store: 2, Role: wire.Learner}}}
}

// applyAll acknowledges what is handed out until there is nothing more.
func applyAll(t *testing.T, g *Group) {
	t.Helper()
	for range 32 {
		var rd Ready
		g.Ready(&rd)
		if rd.CommittedLast == 0 {
			return
		}
		g.Applied(rd.CommittedLast)
		if err := g.Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("entries are handed out for ever")
}

// TestG17Floor: a replica of a recovered group passes over memberships in front of
// the floor, in which it could campaign, and enters that of the floor.
func TestG17Floor(t *testing.T) {
	for _, test := range []struct {
		last, floor wire.Index
		campaigns   bool
		in          wire.Index // the membership in force at the end
	}{
		{last: 4, floor: 0, campaigns: true, in: 3}, // as it would be otherwise
		{last: 4, floor: 5, campaigns: false, in: 0},
		{last: 5, floor: 5, campaigns: true, in: 5},
	} {
		g, err := New(Config{Group: 1, Replica: 2, Members: stranded(), Storage: floorLog(test.last), Rand: fixedRand(0), Floor: test.floor})
		if err != nil {
			t.Fatal(err)
		}
		applyAll(t, g)
		if got := g.Members().Index; got != test.in {
			t.Errorf("log to %d, floor %d: membership of %d in force, want %d", test.last, test.floor, got, test.in)
		}
		for range 8 {
			if at := g.Deadline(); at != never {
				g.Tick(at)
			}
		}
		if got := g.Role() != Follower; got != test.campaigns {
			t.Errorf("log to %d, floor %d: it is a %s", test.last, test.floor, g.Role())
		}
	}
}

// TestG17FloorAndSnapshot: the same holds for the membership that comes with a
// snapshot.
func TestG17FloorAndSnapshot(t *testing.T) {
	for index, want := range map[wire.Index]wire.Index{6: 0, 7: 7} {
		log := floorLog(2)
		g, err := New(Config{Group: 1, Replica: 2, Members: stranded(), Storage: log, Rand: fixedRand(0), Applied: 2, Floor: 7})
		if err != nil {
			t.Fatal(err)
		}
		log.restart(8, 1)
		members := &wire.Membership{Index: index, Members: []wire.Member{{Replica: 2, Store: 2, Role: wire.Voter}}}
		if err := g.Restore(SnapshotState{Index: 8, Term: 1, Members: members}); err != nil {
			t.Fatal(err)
		}
		if got := g.Members().Index; got != want {
			t.Errorf("snapshot with the membership of %d: that of %d is in force, want %d", index, got, want)
		}
	}
}

// TestG17FloorIsNotForJoiners: who joins knows of no membership at all.
func TestG17FloorIsNotForJoiners(t *testing.T) {
	_, err := New(Config{Group: 1, Replica: 2, Members: stranded(), Storage: &memLog{}, Rand: fixedRand(0), Join: true, Floor: 7})
	if err == nil {
		t.Error("a joiner was given a floor")
	}
}
