package group

import (
	"strings"
	"testing"

	"multiraft/wire"
)

// TestPromiseHoldsWithinATerm: a voter that has heard of the candidate's term by
// another message grants it no vote either while its leader may hold a lease; by
// order of the leader it does.
func TestPromiseHoldsWithinATerm(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=1")
	n.c.tuning.LeaseReads = true
	receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 1})
	out(n)
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 3, Term: 2})
	receive(t, n, wire.Message{Kind: wire.Vote, From: 3, Term: 2, Index: 9, LogTerm: 1})
	if sent := out(n); len(sent) != 0 || n.g.Term() != 2 {
		t.Fatalf("in term %d sent %v", n.g.Term(), sent)
	}
	receive(t, n, wire.Message{Kind: wire.Vote, From: 3, Term: 2, Index: 9, LogTerm: 1, Context: contextTransfer})
	if m := one(t, out(n), wire.VoteResponse); m.Reject {
		t.Error("the leader ordered the campaign")
	}
}

// TestLeaseTuning: a lease needs check-quorum, and must outlast a heartbeat.
func TestLeaseTuning(t *testing.T) {
	for want, tuning := range map[string]Tuning{
		"LeaseReads: needs check-quorum":             {LeaseReads: true, DisableCheckQuorum: true},
		"LeaseReads: a lease of 3 ticks must exceed": {LeaseReads: true, ElectionTicks: 6, HeartbeatTicks: 3},
		"MaxClockDrift: 51 must be between 1 and 50": {MaxClockDrift: 51},
		"MaxClockDrift: -1 must be between 1 and 50": {MaxClockDrift: -1},
	} {
		if err := tuning.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if got := (&Tuning{ElectionTicks: 20, MaxClockDrift: 10}).leaseTicks(19); got != 16 {
		t.Errorf("%d ticks", got)
	}
}

// TestVoterTellsWhatItPromises: an answer tells how long the promise lasts, and
// nothing where nothing is promised. A later leader is not told of ticks of another.
func TestVoterTellsWhatItPromises(t *testing.T) {
	n := thesisGroup(t, 3, "")
	beat := func(term wire.Term, tick uint64) wire.Message {
		receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: term, Context: tick})
		return one(t, out(n), wire.HeartbeatResponse)
	}
	if m := beat(1, 500); m.Context != 0 || m.Hint != 0 {
		t.Errorf("without leases: %+v", m)
	}
	n.c.tuning.LeaseReads = true
	if m := beat(1, 501); m.Context != 501 || m.Hint != 9 {
		t.Errorf("ticks: %+v", m)
	}
	n.c.tuning.TickNanos = 1000
	if m := beat(1, 502); m.Context != 502 || m.Hint != 9000 {
		t.Errorf("nanoseconds: %+v", m)
	}
	if m := beat(2, 6); m.Context != 0 || m.Hint != 0 {
		t.Errorf("before the term is durable: %+v", m)
	}
	if m := beat(2, 7); m.Context != 7 {
		t.Errorf("a new leader: %+v", m)
	}
	if m := beat(2, 0); m.Context != 7 {
		t.Errorf("a repeated heartbeat: %+v", m)
	}
}

// TestLeaseCountsOnlyPromises: a lease needs a quorum of promises, and lasts as long
// as these do by the leader's clock.
func TestLeaseCountsOnlyPromises(t *testing.T) {
	for name, c := range map[string]struct {
		nanos int64
		hints [2]wire.Index // of the other voters; zero promises nothing
		until uint64        // zero: no lease
	}{
		"none":             {1, [2]wire.Index{0, 0}, 0},
		"one":              {1, [2]wire.Index{9, 0}, 1 + 7},
		"both are longer":  {1, [2]wire.Index{99, 19}, 1 + 16},
		"shorter than own": {1, [2]wire.Index{4, 0}, 1 + 2},
		"too short":        {1, [2]wire.Index{1, 0}, 0},
		"shorter ticks":    {1000, [2]wire.Index{9 * 500, 0}, 1 + 3},
		"longer ticks":     {1000, [2]wire.Index{9 * 3000, 9 * 4000}, 1 + 23},
		"without an end":   {1, [2]wire.Index{1<<64 - 1, 1<<64 - 1}, 1 + maxPromiseSpan*90/100 - 1},
		"longer than own":  {1, [2]wire.Index{99, 0}, 1 + 7}, // asked again, it goes on
	} {
		t.Run(name, func(t *testing.T) {
			n := thesisGroup(t, 3, "")
			n.c.tuning.LeaseReads, n.c.tuning.TickNanos = true, c.nanos
			lead(t, n)
			out(n)
			receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 1, Index: 1})
			n.g.Tick(1)
			for at, hint := range c.hints {
				context := uint64(1)
				if hint == 0 {
					context = 0
				}
				receive(t, n, wire.Message{Kind: wire.HeartbeatResponse, From: wire.ReplicaID(2 + at), Term: 1, Context: context, Hint: hint})
			}
			_, until, ok := n.g.LeaseIndex(1)
			if ok != (c.until > 0) || until != c.until {
				t.Errorf("until %d, %v, want %d", until, ok, c.until)
			}
		})
	}
}

// TestPromiseOfAFormerLife: a voter that starts again keeps what it may have promised
// before, whatever it promises now.
func TestPromiseOfAFormerLife(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=1")
	n.config.Promised = 30
	vote := wire.Message{Kind: wire.Vote, From: 3, Term: 2, Index: 1, LogTerm: 1}
	for _, leases := range []bool{false, true} {
		n.c.tuning.LeaseReads = leases
		n.c.now += 100
		n.crash(0)
		if err := n.start(0); err != nil {
			t.Fatal(err)
		}
		n.g.Clock(n.c.now + 29)
		receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 1}) // a promise of 10 does not end it
		if err := n.g.ForgetLeader(); err != ErrPromised {
			t.Errorf("leases %v: %v", leases, err)
		}
		if err := n.g.Campaign(); err != ErrPromised {
			t.Errorf("leases %v: %v", leases, err)
		}
		receive(t, n, vote)
		for _, m := range out(n) {
			if m.Kind == wire.VoteResponse {
				t.Errorf("leases %v: sent %+v", leases, m)
			}
		}
	}
	n.g.Clock(n.c.now + 29 + 10)
	receive(t, n, vote)
	if m := one(t, out(n), wire.VoteResponse); m.Reject {
		t.Error("refused when the promise was over")
	}
}

// TestPromiseOutlastsTheTimeout: a voter that starts again with a time-out shorter than
// what it may have promised before does not campaign either until that is over.
func TestPromiseOutlastsTheTimeout(t *testing.T) {
	for _, direct := range []bool{false, true} {
		n := thesisGroup(t, 3, "1/1 term=1")
		n.config.Promised = 30
		n.c.tuning.DisablePreVote = direct
		n.crash(0)
		if err := n.start(0); err != nil {
			t.Fatal(err)
		}
		start := n.c.now
		for n.g.Deadline() < start+30 {
			n.g.Tick(n.g.Deadline())
			if sent := out(n); n.g.Role() != Follower || len(sent) > 0 {
				t.Fatalf("pre-vote off %v: %s at %d, sent %v", direct, n.g.Role(), n.g.now-start, sent)
			}
		}
		n.g.Tick(start + 30)
		if out(n); n.g.Role() == Follower {
			t.Errorf("pre-vote off %v: it does not campaign when the promise is over", direct)
		}
	}
}

// TestLeaseIndexAllocatesNothing: it is there to be cheap.
func TestLeaseIndexAllocatesNothing(t *testing.T) {
	n := thesisGroup(t, 1, "")
	n.c.tuning.LeaseReads = true
	campaign(t, n)
	out(n)
	allocations(t, func() {
		if _, _, ok := n.g.LeaseIndex(5); !ok {
			t.Fatal("no lease")
		}
	})
}
