package group

import (
	"errors"
	"testing"

	"multiraft/wire"
)

// The rest of the behaviours that origin_test.go begins: who may become what, and
// how the log begins, is searched and is truncated.

// Config.validate: what is wrong is told by an error, by New too, and nothing
// panics.
func TestOrigin_validate_IsAnError(t *testing.T) {
	good := Config{Group: 1, Replica: 1, Members: members(3), Storage: &memLog{}, Rand: fixedRand(0)}
	for name, spoil := range map[string]func(*Config){
		"no id":               func(c *Config) { c.Replica = 0 },
		"no group":            func(c *Config) { c.Group = 0 },
		"no storage":          func(c *Config) { c.Storage = nil },
		"no randomness":       func(c *Config) { c.Rand = nil },
		"no members":          func(c *Config) { c.Members = nil },
		"no heartbeats":       func(c *Config) { c.Tuning = &Tuning{HeartbeatTicks: -1} },
		"election too soon":   func(c *Config) { c.Tuning = &Tuning{ElectionTicks: 3, HeartbeatTicks: 3} },
		"no inflight appends": func(c *Config) { c.Tuning = &Tuning{MaxInflightMessages: -1} },
		"lease without quorum": func(c *Config) {
			c.Tuning = &Tuning{LeaseReads: true, DisableCheckQuorum: true}
		},
	} {
		c := good
		spoil(&c)
		if g, err := New(c); err == nil || g != nil {
			t.Errorf("%s: %v, %v", name, g, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Errorf("nothing wrong: %v", err)
	}
}

// inRole returns a replica of three in a role, that was in term 1 before.
func inRole(t *testing.T, role Role) *node {
	t.Helper()
	n := thesisGroup(t, 3, "1/1 term=1")
	switch role {
	case PreCandidate, Candidate:
		campaign(t, n)
		if role == Candidate {
			out(n)
			receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: 2, Term: 2})
		}
	case Leader:
		lead(t, n)
	}
	out(n)
	if n.g.Role() != role {
		t.Fatalf("a %s, want a %s", n.g.Role(), role)
	}
	return n
}

// becomeFollower: whoever hears of a higher term follows in it, with its vote free
// again and what its old role knew gone.
func TestOrigin_becomeFollower_FromEveryRole(t *testing.T) {
	for role := Follower; role <= Leader; role++ {
		n := inRole(t, role)
		receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 3, Term: 7})
		out(n)
		if n.g.Role() != Follower || n.g.Term() != 7 || n.g.Leader() != 3 || n.g.vote != 0 || n.g.leading != nil || n.g.votes != (tally{}) {
			t.Errorf("a %s became a %s of %d in term %d, vote %d", role, n.g.Role(), n.g.Leader(), n.g.Term(), n.g.vote)
		}
		if n.log.hard.Term != 7 || n.log.hard.Vote != 0 {
			t.Errorf("a %s stored %+v", role, n.log.hard)
		}
	}
}

// becomeFollower in the same term keeps the vote: it was given.
func TestOrigin_becomeFollower_KeepsTheVoteOfItsTerm(t *testing.T) {
	n := inRole(t, Candidate)
	receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 2})
	if out(n); n.g.Role() != Follower || n.g.Leader() != 2 || n.g.vote != 1 || n.log.hard.Vote != 1 {
		t.Errorf("a %s of %d, vote %d, stored %d", n.g.Role(), n.g.Leader(), n.g.vote, n.log.hard.Vote)
	}
}

// becomePreCandidate changes neither term nor vote; becomeCandidate adds a term and
// votes for itself.
func TestOrigin_becomeCandidate_VotesForItself(t *testing.T) {
	n := inRole(t, PreCandidate)
	if n.g.Term() != 1 || n.g.vote != 0 || n.log.hard != (wire.HardState{Term: 1}) {
		t.Errorf("pre-candidate: term %d, vote %d, stored %+v", n.g.Term(), n.g.vote, n.log.hard)
	}
	n = inRole(t, Candidate)
	if n.g.Term() != 2 || n.g.vote != 1 || n.log.hard.Term != 2 || n.log.hard.Vote != 1 {
		t.Errorf("candidate: term %d, vote %d, stored %+v", n.g.Term(), n.g.vote, n.log.hard)
	}
}

// The ways that are forbidden, of which newRaft's roles panic: a leader does not
// become a candidate or pre-candidate, and a follower or pre-candidate becomes no
// leader. No message and no tick takes them.
func TestOrigin_become_ForbiddenWaysAreNotTaken(t *testing.T) {
	forbidden := map[Role][]Role{
		Follower:     {Leader},
		PreCandidate: {Leader},
		Leader:       {PreCandidate, Candidate},
	}
	for role, ways := range forbidden {
		for kind := wire.MessageKind(0); kind < 64; kind++ {
			for _, reject := range []bool{false, true} {
				for term := wire.Term(1); term <= 3; term++ {
					n := inRole(t, role)
					m := wire.Message{Kind: kind, Group: 1, From: 2, To: 1, Term: term, Reject: reject, Context: 1}
					// A message that no replica sends is refused; that is not what is tested.
					_ = n.g.Step(&m)
					for _, way := range ways {
						if n.g.Role() == way {
							t.Errorf("%s: a %s became a %s", describe(&m), role, way)
						}
					}
				}
			}
		}
		n := inRole(t, role)
		n.g.Tick(n.g.Deadline())
		for _, way := range ways {
			if n.g.Role() == way {
				t.Errorf("a tick made a %s of a %s", way, role)
			}
		}
	}
}

// campaign: the only voter elects itself, once its vote is durable.
func TestOrigin_campaign_OnlyVoterWins(t *testing.T) {
	n := thesisGroup(t, 1, "1/1 term=1")
	campaign(t, n)
	if n.g.Role() == Leader {
		t.Fatal("leads before its vote is durable")
	}
	if out(n); n.g.Role() != Leader || n.g.Term() != 2 || n.g.Commit() != 2 {
		t.Errorf("a %s in term %d, commit %d", n.g.Role(), n.g.Term(), n.g.Commit())
	}
}

// BecomeProbe, BecomeReplicate, BecomeSnapshot: each way between the states of a
// progress, with the next entry, the pause and the window that go with it.
func TestOrigin_BecomeProbe_ReplicateSnapshot(t *testing.T) {
	for _, from := range []progressState{probe, replicate, snapshot} {
		for to, become := range map[progressState]func(*leading){
			probe:     func(ld *leading) { ld.becomeProbe(1) },
			replicate: func(ld *leading) { ld.becomeReplicate(1) },
			snapshot:  func(ld *leading) { ld.becomeSnapshot(1, 9) },
		} {
			ld := newProgress(from, 4, 8)
			ld.paused = ld.paused.with(1)
			ld.flights[1].add(7, 100)
			become(ld)
			if ld.state[1] != to || ld.match[1] != 4 || ld.next[1] != 5 || ld.paused.has(1) || ld.flights[1].count != 0 {
				t.Errorf("%s to %s: %s, match %d, next %d", from, to, ld.state[1], ld.match[1], ld.next[1])
			}
			if ld.snapshotDue.has(1) != (to == snapshot) || to == snapshot && ld.pendingSnapshot[1] != 9 {
				t.Errorf("%s to %s: snapshot due %v, pending %d", from, to, ld.snapshotDue.has(1), ld.pendingSnapshot[1])
			}
		}
	}
}

// maybeCommit: what a quorum has is committed when it is of the current term, and
// takes what is in front of it along.
func TestOrigin_maybeCommit_OwnTermOnly(t *testing.T) {
	for _, c := range []struct {
		log         string
		two, three  wire.Index
		want        wire.Index
		description string
	}{
		{"1/1 2/1", 1, 0, 0, "an older term"},
		{"1/1 2/1", 2, 2, 0, "an older term, on all"},
		{"1/1 2/1", 3, 0, 3, "the own term takes the older along"},
		{"1/1 2/1", 0, 3, 3, "either follower"},
		{"", 1, 0, 1, "the first entry"},
	} {
		n := thesisGroup(t, 3, c.log)
		lead(t, n)
		out(n)
		for from, index := range map[wire.ReplicaID]wire.Index{2: c.two, 3: c.three} {
			receive(t, n, wire.Message{Kind: wire.AppendResponse, From: from, Term: n.g.Term(), Index: index})
		}
		if n.g.Commit() != c.want {
			t.Errorf("%s: commit %d, want %d", c.description, n.g.Commit(), c.want)
		}
	}
}

// newLog: the log begins at the first entry of storage and goes on behind its last.
func TestOrigin_newLog_BeginsAtFirstAndLast(t *testing.T) {
	for _, c := range []struct {
		log      string
		applied  wire.Index
		commit   wire.Index
		last     wire.Index
		lastTerm wire.Term
	}{
		{"", 0, 0, 0, 0},
		{"1/1 2/2 term=2", 0, 0, 2, 2},
		{"1/1 2/2 term=2 commit=1", 0, 1, 2, 2},
		{"1/1 2/2 3/2 term=2 commit=2 compact=2", 2, 2, 3, 2},
		{"1/1 2/2 term=2 compact=2", 2, 2, 2, 2},
	} {
		cl := newCluster(members(3), Tuning{})
		n := cl.nodes[0]
		(&scenario{t: t, c: cl}).fillLog(parseCommand(t, "replica "+c.log, 0), n.log)
		if err := n.start(c.applied); err != nil {
			t.Fatal(err)
		}
		g := n.g
		if g.Commit() != c.commit || g.applied != c.applied || g.handed.last != c.applied || g.LastIndex() != c.last ||
			g.log.lastTerm() != c.lastTerm || g.log.durable != c.last || g.log.handed != c.last {
			t.Errorf("%q: commit %d, applied %d, handed out %d, last %d/%d, durable %d",
				c.log, g.Commit(), g.applied, g.handed.last, g.LastIndex(), g.log.lastTerm(), g.log.durable)
		}
	}
}

// findConflict: the first entry that is missing or of another term.
func TestOrigin_findConflict(t *testing.T) {
	for _, c := range []struct {
		lo, hi wire.Index
		term   wire.Term
		want   wire.Index
	}{
		{1, 2, 1, 3}, // all there
		{1, 3, 1, 3}, // the third is of term 2
		{3, 4, 2, 5}, // all there, in storage and in memory
		{4, 9, 2, 5}, // more than is there, and of another term
		{5, 6, 3, 6}, // missing
		{6, 7, 3, 6}, // nothing there
		{2, 5, 3, 2}, // conflict at once
		{5, 5, 4, 5}, // a newer term
	} {
		tl := originTail(t)
		if got, err := tl.firstConflict(c.lo, c.hi, c.term); err != nil || got != c.want {
			t.Errorf("[%d, %d] of term %d: %d, %v; want %d", c.lo, c.hi, c.term, got, err, c.want)
		}
	}
}

// originTail holds 1/1 2/1 3/2 in storage and 4/2 5/3 in memory, not handed out.
func originTail(t *testing.T) *tail {
	t.Helper()
	log := new(memLog)
	for _, e := range entriesOf(blocks(t, "1/1 2/1 3/2")) {
		b := commands(e.command)
		b.Seal(1, e.index, e.term, wire.EntryCommand, 1)
		log.write(wire.HardState{}, []wire.Block{b})
	}
	tl := &tail{storage: log}
	tl.restore(3, 2)
	for _, text := range []string{"4/2", "5/3"} {
		b := wire.Block(blocks(t, text))
		tl.append(b.First(), b)
	}
	return tl
}

// truncateAndAppend: behind the unstable part, in place of all of it, within it,
// and in front of it, where what was stable is not any more.
func TestOrigin_truncateAndAppend(t *testing.T) {
	for _, c := range []struct {
		name          string
		append        string
		want          string
		base, durable wire.Index
	}{
		{"behind", "6/3", "1/1 2/1 3/2 4/2 5/3 6/3", 3, 3},
		{"within", "5/4", "1/1 2/1 3/2 4/2 5/4", 3, 3},
		{"all that is unstable", "4/4 5/4", "1/1 2/1 3/2 4/4 5/4", 3, 3},
		{"some that is stable", "3/4", "1/1 2/1 3/4", 2, 2},
	} {
		tl := originTail(t)
		add := entriesOf(blocks(t, c.append))
		if from := add[0].index; from <= tl.last() {
			if err := tl.truncate(from, 1); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range add {
			b := commands(e.command)
			b.Seal(1, e.index, e.term, wire.EntryCommand, 1)
			tl.append(e.index, b)
		}
		got := ""
		for i := wire.Index(1); i <= tl.last(); i++ {
			term, err := tl.term(i)
			if err != nil {
				t.Fatal(err)
			}
			got += when(i > 1, " ") + indexAndTerm(i, term)
		}
		if got != c.want || tl.base != c.base || tl.durable != c.durable {
			t.Errorf("%s: log %s, in memory behind %d, durable %d; want %s, %d, %d",
				c.name, got, tl.base, tl.durable, c.want, c.base, c.durable)
		}
	}
}

// truncateAndAppend below commit is refused by this group, which stops; etcd's
// library stops the process.
func TestOrigin_truncateAndAppend_RefusesBelowCommit(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 2/1 term=1 commit=2")
	m := wire.Message{Kind: wire.Append, Group: 1, From: 2, To: 1, Term: 2, Entries: blocks(t, "1/2")}
	var fault *FaultError
	if err := n.g.Step(&m); !errors.As(err, &fault) || fault.Rule != "G7" {
		t.Fatalf("%v", err)
	}
	if n.g.Commit() != 2 || logOf(n) != "1/1 2/1" || n.g.HasReady() {
		t.Errorf("commit %d, log %s", n.g.Commit(), logOf(n))
	}
}
