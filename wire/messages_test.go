package wire

import (
	"bytes"
	"errors"
	"testing"
)

// What the engine's own schema promises, beyond what holds for every schema.

// The bytes of one message, written out: a change here is a change of protocol.
func TestAppendBytes(t *testing.T) {
	m := Message{Kind: Append, Group: 7, From: 1, To: 2, Term: 5, LogTerm: 4, Index: 9, Commit: 8, Entries: []byte("xyz")}
	want := "\x01\x00\x00\x00\x3b\x00\x00\x00" + // kind, flags, zero, 59 bytes of body
		"\x07\x00\x00\x00\x00\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00\x00\x00\x00\x00" +
		"\x05\x00\x00\x00\x00\x00\x00\x00" + // term
		"\x04\x00\x00\x00\x00\x00\x00\x00" + "\x09\x00\x00\x00\x00\x00\x00\x00" + "\x08\x00\x00\x00\x00\x00\x00\x00" +
		"xyz"
	if got := m.AppendTo(nil); string(got) != want {
		t.Errorf("\n got %x\nwant %x", got, want)
	}
}

// Kinds without a term have their first word where the term would be.
func TestTermlessBytes(t *testing.T) {
	m := Message{Kind: ReadIndex, Group: 7, From: 1, To: 2, Term: 5, Context: 9}
	got := m.AppendTo(nil)
	if len(got) != 40 || got[32] != 9 {
		t.Errorf("%d bytes, %x", len(got), got)
	}
	m.Reject = true
	if again := m.AppendTo(nil); !bytes.Equal(again, got) {
		t.Errorf("a flag that is not of the kind is encoded: %x", again)
	}
}

func TestDecodeErrorsSayWhatAndWhere(t *testing.T) {
	heartbeat := (&Message{Kind: Heartbeat}).AppendTo(nil)
	for _, c := range []struct {
		at    int
		value byte
		want  string
	}{
		{0, 0, "bad message: byte 0: unknown kind 0"},
		{0, 99, "bad message: byte 0: unknown kind 99"},
		{1, 1, "bad message: Heartbeat: byte 1: unknown flags 1"},
		{3, 2, "bad message: Heartbeat: byte 2: reserved bytes are not zero: 512"},
		{4, 47, "bad message: Heartbeat: byte 4: body is too short: 47"},
		{4, 49, "bad message: Heartbeat: byte 4: body has trailing bytes: 49"},
	} {
		src := bytes.Clone(heartbeat)
		src[c.at] = c.value
		var m Message
		if _, err := m.Decode(src); err == nil || err.Error() != c.want {
			t.Errorf("byte %d is %d: %v, want %s", c.at, c.value, err, c.want)
		}
	}
	var m Message
	if _, err := m.Decode(heartbeat[:50]); err == nil || err.Error() != "bad message: Heartbeat: byte 50: ends early, body has 48" {
		t.Errorf("cut: %v", err)
	}
	if _, err := m.Decode(heartbeat[:5]); err == nil || err.Error() != "bad message: byte 5: head ends early, it has 8" {
		t.Errorf("cut in the head: %v", err)
	}
}

func TestMembershipDecodeRefuses(t *testing.T) {
	sound := Membership{Index: 3, Members: []Member{{Replica: 1, Store: 1, Role: Voter}, {Replica: 2, Store: 2, Role: Outgoing | Learner}}}
	for _, c := range []struct {
		at    int
		value byte
		want  string
	}{
		{8, 2, "bad record: Membership: byte 8: autoLeave is not 0 or 1: 2"},
		{24, MaxReplicas + 1, "bad record: Membership: byte 24: too many members: 17"},
		{31, 0x80, "bad record: Membership: byte 24: too many members: 9223372036854775810"},
		{24, 3, "bad record: Membership: 80 bytes of 104"},
		{32 + 24 + 16, 8, "Membership: members[1]: bad record: Member: byte 16: role has unknown bits: 8"},
	} {
		src := sound.AppendTo(nil)
		src[c.at] = c.value
		var m Membership
		if _, err := m.Decode(src); !errors.Is(err, ErrBadRecord) || err.Error() != c.want {
			t.Errorf("byte %d is %d: %v, want %s", c.at, c.value, err, c.want)
		}
	}
}

func TestMembershipHoldsMaxReplicas(t *testing.T) {
	m := Membership{Members: make([]Member, MaxReplicas)}
	var got Membership
	if n, err := got.Decode(m.AppendTo(nil)); err != nil || n != m.Size() || len(got.Members) != MaxReplicas {
		t.Errorf("Decode = %d, %v with %d members", n, err, len(got.Members))
	}
	var none Membership
	if n, err := got.Decode(none.AppendTo(nil)); err != nil || n != none.Size() || len(got.Members) != 0 {
		t.Errorf("Decode of no members = %d, %v with %d", n, err, len(got.Members))
	}
}

func TestUnknownNames(t *testing.T) {
	for got, want := range map[string]string{
		MessageKind(0).String():  "MessageKind(0)",
		MessageKind(99).String(): "MessageKind(99)",
		AppendResponse.String():  "AppendResponse",
		Urgent.String():          "urgent",
		Bulk.String():            "bulk",
		Lane(7).String():         "Lane(7)",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
