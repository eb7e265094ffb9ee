package group

import (
	"strings"
	"testing"

	"multiraft/wire"
)

// What bounds the flow of entries, one test per bound. How each looks from outside,
// message by message, is in the scenarios.

// flowLeader returns a leader of three that has nothing to say, with both followers
// in replicate, under the given limits.
func flowLeader(t *testing.T, limits Tuning) *node {
	t.Helper()
	n := thesisGroup(t, 3, "")
	limits.ElectionTicks, limits.HeartbeatTicks = 10, 1
	n.c.tuning = limits.WithDefaults()
	lead(t, n)
	out(n)
	for _, from := range []wire.ReplicaID{2, 3} {
		flowAck(t, n, from)
	}
	out(n)
	return n
}

// flowAck has a follower acknowledge everything that was sent to it.
func flowAck(t *testing.T, n *node, from wire.ReplicaID) {
	t.Helper()
	index, ld := n.g.log.handed, n.g.leading
	if ld.state[from-1] == replicate {
		index = ld.next[from-1] - 1
	}
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: from, Term: n.g.Term(), Index: index})
}

// flowPropose proposes a command of some bytes and returns the appends to follower 2.
func flowPropose(t *testing.T, n *node, bytes int) (appends []wire.Message) {
	t.Helper()
	if _, _, err := n.g.Propose(commands(strings.Repeat("x", bytes)), 1); err != nil {
		t.Fatal(err)
	}
	return appendsTo2(out(n))
}

func appendsTo2(sent []wire.Message) (appends []wire.Message) {
	for _, m := range sent {
		if m.Kind == wire.Append && m.To == 2 {
			appends = append(appends, m)
		}
	}
	return appends
}

// No more appends are unanswered than the window has messages; an answer lets all
// that waited go in one.
func TestFlow_InflightMessages(t *testing.T) {
	n := flowLeader(t, Tuning{MaxInflightMessages: 3})
	for i := range 6 {
		if got := len(flowPropose(t, n, 10)); got != min(1, max(0, 3-i)) {
			t.Errorf("proposal %d: %d appends", i, got)
		}
	}
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: n.g.Term(), Index: 2})
	if appends := appendsTo2(out(n)); len(appends) != 1 || len(entriesOf(appends[0].Entries)) != 3 {
		t.Errorf("after an answer: %d appends", len(appends))
	}
}

// No append is sent once as many bytes are unanswered as the window has; one may
// pass its end.
func TestFlow_InflightBytes(t *testing.T) {
	n := flowLeader(t, Tuning{MaxInflightBytes: 300})
	for i, want := range []int{1, 1, 0} {
		if got := len(flowPropose(t, n, 150)); got != want {
			t.Errorf("proposal %d: %d appends, %d bytes unanswered", i, got, n.g.leading.flights[1].bytes)
		}
	}
	flowAck(t, n, 2)
	if len(appendsTo2(out(n))) != 1 || n.g.leading.flights[1].bytes >= 300 {
		t.Errorf("%d bytes unanswered", n.g.leading.flights[1].bytes)
	}
}

// An append holds no more than it may; an entry that is larger goes alone.
func TestFlow_MessageBytes(t *testing.T) {
	n := flowLeader(t, Tuning{MaxMessageBytes: 300})
	for _, size := range []int{100, 100, 100, 1000} {
		if _, _, err := n.g.Propose(commands(strings.Repeat("x", size)), 1); err != nil {
			t.Fatal(err)
		}
	}
	entries := 0
	for _, m := range appendsTo2(out(n)) {
		list := entriesOf(m.Entries)
		if len(m.Entries) > 300 && len(list) > 1 {
			t.Errorf("%d entries in an append of %d bytes", len(list), len(m.Entries))
		}
		entries += len(list)
	}
	if entries != 4 {
		t.Errorf("%d entries sent", entries)
	}
}

// Propose refuses above the limit of uncommitted bytes, at once and without a
// trace; a larger command passes when nothing is uncommitted; and the empty entry
// of a new leader counts nothing, though it is not committed yet.
func TestFlow_UncommittedBytes(t *testing.T) {
	n := thesisGroup(t, 3, "")
	n.c.tuning.MaxUncommittedBytes = 20
	lead(t, n)
	out(n)
	if n.g.Commit() != 0 || n.g.leading.uncommittedBytes != 0 {
		t.Fatalf("commit %d, %d bytes uncommitted", n.g.Commit(), n.g.leading.uncommittedBytes)
	}
	flowPropose(t, n, 1000)
	last := n.g.LastIndex()
	if _, _, err := n.g.Propose(commands("x"), 1); err != ErrBusy || n.g.LastIndex() != last || n.g.HasReady() {
		t.Errorf("%v, last %d", err, n.g.LastIndex())
	}
	flowAck(t, n, 2)
	out(n)
	flowAck(t, n, 2)
	if flowPropose(t, n, 1); n.g.leading.uncommittedBytes != wire.PayloadBytes(1) {
		t.Errorf("%d bytes uncommitted", n.g.leading.uncommittedBytes)
	}
	// Whoever follows next counts none of it.
	receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 3, Term: 9})
	if n.g.leading != nil {
		t.Error("still leads")
	}
}

// A Ready hands out no more committed bytes than it may, and nothing while as much
// is not applied.
func TestFlow_CommittedBytes(t *testing.T) {
	n := flowLeader(t, Tuning{MaxCommittedBytes: 400})
	n.keepApplying = false
	for range 16 {
		flowPropose(t, n, 100)
	}
	flowAck(t, n, 2)
	out(n)
	applied, turns := wire.Index(0), 0
	for n.g.handed.last < n.g.LastIndex() {
		if bytes := n.g.handed.firstBytes + n.g.handed.restBytes; bytes > 2*400 || n.g.toHandOut() {
			t.Fatalf("%d bytes handed out and not applied", bytes)
		}
		if n.g.handed.last == applied || turns > 16 {
			t.Fatalf("stands still at %d", applied)
		}
		applied = n.g.handed.last
		n.g.Applied(applied)
		out(n)
		turns++
	}
	if turns < 3 {
		t.Errorf("%d turns for 1,600 bytes", turns)
	}
}

// A peer that is unreachable is sent one append at a time, until it answers.
func TestFlow_Unreachable(t *testing.T) {
	n := flowLeader(t, Tuning{})
	n.g.Unreachable(2)
	for i, want := range []int{1, 0, 0} {
		if got := len(flowPropose(t, n, 10)); got != want {
			t.Errorf("proposal %d: %d appends", i, got)
		}
	}
	if n.g.leading.state[1] != probe || n.g.leading.state[2] != replicate {
		t.Errorf("states %s, %s", n.g.leading.state[1], n.g.leading.state[2])
	}
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: n.g.Term(), Index: 2})
	if len(appendsTo2(out(n))) != 1 || n.g.leading.state[1] != replicate {
		t.Errorf("after an answer: %s", n.g.leading.state[1])
	}
}

// A snapshot that failed is asked for again, when the peer says that it has not got
// it and an election time-out has passed, and not before the report.
func TestFlow_FailedSnapshot(t *testing.T) {
	n := flowLeader(t, Tuning{})
	ld := n.g.leading
	ld.becomeSnapshot(1, 1)
	asked := func() bool {
		n.g.Ready(&n.rd)
		n.persist()
		return len(n.rd.SnapshotTo) == 1 && n.rd.SnapshotTo[0] == 2
	}
	refuse := func() {
		receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: n.g.Term(), Reject: true, Index: 1})
	}
	if !asked() {
		t.Fatal("no snapshot is asked for")
	}
	refuse()
	if asked() {
		t.Error("asked for again while it is being sent")
	}
	n.g.SnapshotSent(2, 1, false)
	refuse()
	if asked() {
		t.Error("asked for again at once")
	}
	n.g.Clock(n.g.now + 10)
	refuse()
	if !asked() || ld.state[1] != snapshot {
		t.Errorf("not asked for again; %s", ld.state[1])
	}
}

// With one follower stopped for long, the leader keeps a bounded part of the log in
// memory, and a bounded window, and the others go on.
func TestFlow_OneFollowerStopped(t *testing.T) {
	const tailBytes, inflightBytes, messages = 8 << 10, 16 << 10, 8
	n := flowLeader(t, Tuning{MaxTailBytes: tailBytes, MaxInflightBytes: inflightBytes, MaxInflightMessages: messages})
	longest := 0
	for i := range 2000 {
		if i%10 == 0 { // heartbeats, which only one of them answers
			n.g.Tick(n.g.now + 1)
			out(n)
			receive(t, n, wire.Message{Kind: wire.HeartbeatResponse, From: 2, Term: n.g.Term()})
		}
		flowPropose(t, n, 100)
		flowAck(t, n, 2)
		out(n)
		longest = max(longest, n.g.TailBytes())
		if f := &n.g.leading.flights[2]; int(f.count) > messages || f.bytes > inflightBytes+1<<10 || len(f.ring) > 2*messages {
			t.Fatalf("%d messages, %d bytes on their way to the stopped one", f.count, f.bytes)
		}
	}
	if n.g.Role() != Leader || n.g.applied != n.g.LastIndex() || n.g.LastIndex() != 2001 {
		t.Errorf("a %s, applied %d of %d", n.g.Role(), n.g.applied, n.g.LastIndex())
	}
	if limit := tailBytes + inflightBytes + 1<<10; longest > limit || longest == 0 || cap(n.g.log.refs) > 1024 {
		t.Errorf("%d bytes in memory, at most %d; %d refs", longest, limit, cap(n.g.log.refs))
	}
}
