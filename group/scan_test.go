package group

import (
	"strings"
	"testing"

	"multiraft/wire"
)

// singleLog is a memLog that says which entries may be alone in their blocks: those
// in alone. Its blocks are of one entry each all the same.
type singleLog struct {
	*memLog
	alone []wire.Index
}

func (l *singleLog) NextSingle(lo, hi wire.Index) wire.Index {
	for _, i := range l.alone {
		if lo <= i && i < hi {
			return i
		}
	}
	return hi
}

// longLog returns a log of 64 entries of 64 KiB, in term 1, with a membership at
// 40 if so wanted.
func longLog(t *testing.T, change bool) *memLog {
	t.Helper()
	log := &memLog{hard: wire.HardState{Term: 1}}
	for i := wire.Index(1); i <= 64; i++ {
		b, kind := commands(strings.Repeat("x", 64<<10)), wire.EntryCommand
		if change && i == 40 {
			m := members(4)
			m.Index = i
			b, kind = wire.AppendPayload(wire.NewBlock(nil), m.AppendTo(nil)), wire.EntryConfig
		}
		b.Seal(1, i, 1, kind, 1)
		log.write(log.hard, []wire.Block{b})
	}
	return log
}

// TestScanIsBoundedPerTurn: a replica that starts with a long log looks through it
// in several ticks, a bounded part in each, before it campaigns.
func TestScanIsBoundedPerTurn(t *testing.T) {
	for _, find := range []bool{false, true} {
		log := longLog(t, false)
		var storage Storage = log
		if find {
			storage = &singleLog{memLog: log, alone: []wire.Index{7}}
		}
		g, err := New(Config{Group: 1, Replica: 1, Members: members(3), Storage: storage, Rand: fixedRand(0)})
		if err != nil {
			t.Fatal(err)
		}
		turns := 0
		for g.Role() == Follower {
			before, now := log.reads, g.Deadline()
			if turns > 0 && now != g.now+1 {
				t.Fatalf("turn %d: tick %d, the next is %d", turns, g.now, now)
			}
			g.Tick(now)
			if turns++; log.reads-before > scanReads || turns > 64 {
				t.Fatalf("%d reads in turn %d", log.reads-before, turns)
			}
		}
		if want := 64/scanReads + 1; !find && turns != want && turns != want-1 {
			t.Errorf("%d turns, want %d", turns, want)
		}
		if find && (turns != 1 || log.reads != 1) {
			t.Errorf("%d turns, %d reads, although one entry is alone", turns, log.reads)
		}
	}
}

// TestScanFindsWhatIsAlone: the membership is found among the entries that may be
// one, and, being committed, is waited for.
func TestScanFindsWhatIsAlone(t *testing.T) {
	log := longLog(t, true)
	log.hard.Commit = 64
	g, err := New(Config{
		Group: 1, Replica: 1, Members: members(3), Rand: fixedRand(0),
		Storage: &singleLog{memLog: log, alone: []wire.Index{7, 40}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Campaign(); err != ErrAwaitsChange || log.reads != 2 {
		t.Fatalf("%v after %d reads", err, log.reads)
	}
	var rd Ready
	for g.Ready(&rd) {
		if rd.Membership != nil && (rd.CommittedLast != 40 || len(rd.Membership.Members) != 4) {
			t.Errorf("entry %d, %v", rd.CommittedLast, rd.Membership)
		}
		g.Applied(rd.CommittedLast)
	}
	if err := g.Campaign(); err != nil || len(g.Members().Members) != 4 || g.applied != 64 {
		t.Errorf("%v, %d members, applied %d", err, len(g.Members().Members), g.applied)
	}
}

// TestReplayStopsWhereNobodyLooked: a membership that is in force cuts a batch short
// whose blocks were read in one go. What is handed out next ends where that read did:
// behind it there is a membership that nobody has seen yet.
func TestReplayStopsWhereNobodyLooked(t *testing.T) {
	log := longLog(t, true)
	log.hard.Commit = 64
	now := members(3)
	now.Index = 2
	again := wire.AppendPayload(wire.NewBlock(nil), now.AppendTo(nil))
	again.Seal(1, now.Index, 1, wire.EntryConfig, 1)
	log.entries[now.Index-1].block = again
	g, err := New(Config{Group: 1, Replica: 1, Members: now, Rand: fixedRand(0), Storage: log, Tuning: &Tuning{MaxCommittedBytes: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	var rd Ready
	for g.Ready(&rd) {
		g.Applied(rd.CommittedLast)
	}
	if m := g.Members(); m.Index != 40 || len(m.Members) != 4 || g.applied != 64 {
		t.Errorf("%d members as of %d, applied %d", len(m.Members), m.Index, g.applied)
	}
}
