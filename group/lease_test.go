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
	if got := (&Tuning{ElectionTicks: 20, MaxClockDrift: 10}).leaseTicks(); got != 16 {
		t.Errorf("%d ticks", got)
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
