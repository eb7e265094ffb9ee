package group

import (
	"testing"

	"multiraft/wire"
)

// newProgress returns tables with one peer, in slot 1, that has match and next.
func newProgress(state progressState, match, next wire.Index) *leading {
	ld := newLeading(2, next-1)
	ld.state[1], ld.match[1] = state, match
	return ld
}

func TestProgressAccepted(t *testing.T) {
	for _, tc := range []struct {
		name        string
		state       progressState
		match, next wire.Index
		index       wire.Index
		wantState   progressState
		wantMatch   wire.Index
		wantNext    wire.Index
	}{
		{"a probe that matches begins to replicate", probe, 2, 6, 5, replicate, 5, 6},
		{"also when it matches what was known", probe, 2, 6, 2, replicate, 2, 3},
		{"an old answer says nothing about a probe", probe, 4, 6, 3, probe, 4, 6},
		{"match moves, next stays ahead", replicate, 2, 9, 5, replicate, 5, 9},
		{"next is never at or below match", replicate, 2, 3, 5, replicate, 5, 6},
		{"match does not go back", replicate, 5, 9, 3, replicate, 5, 9},
		{"a snapshot that has not arrived", snapshot, 2, 3, 6, snapshot, 6, 7},
		{"a snapshot that has", snapshot, 2, 3, 7, replicate, 7, 8},
	} {
		ld := newProgress(tc.state, tc.match, tc.next)
		ld.pendingSnapshot[1] = 7
		ld.paused = ld.paused.with(1)
		ld.accepted(1, tc.index)
		if ld.state[1] != tc.wantState || ld.match[1] != tc.wantMatch || ld.next[1] != tc.wantNext {
			t.Errorf("%s: %s match=%d next=%d", tc.name, ld.state[1], ld.match[1], ld.next[1])
		}
		if moved := tc.state != tc.wantState; ld.paused.has(1) == moved {
			t.Errorf("%s: paused is %v", tc.name, !moved)
		}
	}
}

func TestProgressRefused(t *testing.T) {
	for _, tc := range []struct {
		name        string
		state       progressState
		match, next wire.Index
		index, hint wire.Index
		current     bool
		wantState   progressState
		wantNext    wire.Index
	}{
		{"a probe steps back to the hint", probe, 0, 10, 9, 4, true, probe, 5},
		{"at least one entry", probe, 0, 10, 9, 9, true, probe, 9},
		{"never to match", probe, 6, 10, 9, 2, true, probe, 7},
		{"a refusal of another probe is old", probe, 0, 10, 8, 4, false, probe, 10},
		{"replicate begins again from match", replicate, 4, 10, 7, 5, true, probe, 5},
		{"what matches cannot be refused", replicate, 4, 10, 4, 2, false, replicate, 10},
		{"what was not sent cannot be refused", replicate, 4, 10, 10, 2, false, replicate, 10},
		{"a peer that waits for a snapshot", snapshot, 4, 5, 4, 2, false, snapshot, 5},
	} {
		ld := newProgress(tc.state, tc.match, tc.next)
		ld.paused = ld.paused.with(1)
		current := ld.refused(1, tc.index, tc.hint)
		if current != tc.current || ld.state[1] != tc.wantState || ld.next[1] != tc.wantNext || ld.match[1] != tc.match {
			t.Errorf("%s: %v, %s match=%d next=%d", tc.name, current, ld.state[1], ld.match[1], ld.next[1])
		}
		if ld.paused.has(1) == tc.current {
			t.Errorf("%s: paused is %v", tc.name, !tc.current)
		}
	}
}

func TestProgressSendable(t *testing.T) {
	tuning := Tuning{MaxInflightMessages: 2}.WithDefaults()
	ld := newProgress(probe, 3, 4)
	if !ld.sendable(1, 3, &tuning) {
		t.Error("a probe needs no entries")
	}
	ld.sent(1, 6, 100)
	if ld.sendable(1, 9, &tuning) || ld.next[1] != 4 {
		t.Errorf("one probe at a time; next=%d", ld.next[1])
	}
	ld.becomeReplicate(1)
	if ld.sendable(1, 3, &tuning) {
		t.Error("nothing to send")
	}
	ld.sent(1, 6, 100)
	ld.sent(1, 7, 100)
	if ld.sendable(1, 9, &tuning) || ld.next[1] != 7 || !ld.unanswered(1) {
		t.Errorf("the window is full; next=%d", ld.next[1])
	}
	ld.accepted(1, 5)
	if !ld.sendable(1, 9, &tuning) {
		t.Error("an answer frees a place")
	}
	ld.accepted(1, 6)
	if ld.unanswered(1) {
		t.Error("all is answered")
	}
	ld.becomeSnapshot(1, 8)
	if ld.sendable(1, 9, &tuning) || ld.flights[1].count != 0 || !ld.unanswered(1) {
		t.Error("entries are sent to a peer that waits for a snapshot")
	}
}
