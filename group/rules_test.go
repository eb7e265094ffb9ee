package group

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"multiraft/wire"
)

// receiver returns replica 1 of three in term 5, in a role; a follower follows 2.
func receiver(t *testing.T, role Role) *node {
	t.Helper()
	n := thesisGroup(t, 3, "1/1 2/3 term=4")
	n.c.tuning.DisableCheckQuorum = true // or votes are not heard while a leader lives
	switch role {
	case Follower:
		receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 5})
	case PreCandidate:
		receive(t, n, wire.Message{Kind: wire.Vote, From: 3, Term: 5})
		campaign(t, n)
	case Candidate:
		campaign(t, n)
		receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: 2, Term: 5})
	case Leader:
		lead(t, n)
		out(n)
		receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 3, Term: 5, Index: 3}) // may be read
		out(n)
		n.g.leading.recentActive = 0
	}
	out(n)
	if role == Follower {
		if err := n.g.ReadIndex(7); err != nil {
			t.Fatal(err)
		}
		out(n)
	}
	if n.g.Role() != role || n.g.Term() != 5 {
		t.Fatalf("%s in term %d, want %s", n.g.Role(), n.g.Term(), role)
	}
	return n
}

// outcome hands a message to n and writes what became of it: what n is then, in which
// term when that has changed, whom it follows, what it learned, and what it sends.
func outcome(n *node, m wire.Message) string {
	m.Group, m.To = 1, n.id
	reading := n.g.reads != nil
	err := n.g.Step(&m)
	var words []string
	var fault *FaultError
	switch {
	case errors.As(err, &fault):
		return "fault " + fault.Rule
	case errors.Is(err, wire.ErrBadMessage):
		words = append(words, "bad")
	}
	if n.g.Term() != 5 {
		words = append(words, fmt.Sprintf("term=%d", n.g.Term()))
	}
	words = append(words, n.g.Role().String())
	if l := n.g.Leader(); l != 0 && l != n.id {
		words = append(words, fmt.Sprintf("of %d", l))
	}
	if ld := n.g.leading; ld != nil && ld.recentActive != 0 {
		words = append(words, "heard")
	}
	if reading && n.g.Term() == 5 && n.g.Role() == Follower && len(n.g.reads.waiting) == 0 {
		words = append(words, "read")
	}
	if n.g.Removed() {
		words = append(words, "removed")
	}
	sent := out(n)
	slices.SortFunc(sent, func(a, b wire.Message) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.To, b.To)) })
	for _, m := range sent {
		text := m.Kind.String()
		if m.Reject {
			text += "!"
		}
		words = append(words, fmt.Sprintf("%s@%d>%d", text, m.Term, m.To))
	}
	return strings.Join(words, " ")
}

// plainRules say what becomes of a message, by kind, by whether its term is lower than
// the receiver's, equal or higher, and by the receiver's role. They are written from
// the thesis and from the comments of the kinds, and share nothing with the schema.
func plainRules() map[wire.MessageKind][3][4]string {
	type byRole = [4]string
	asItWas := byRole{"follower of 2", "pre-candidate", "candidate", "leader"}
	with := func(rows byRole, what string) byRole {
		for i := range rows {
			rows[i] += what
		}
		return rows
	}
	// 3.3: whoever hears of a higher term follows in it, and gives its reads up.
	newTerm := func(rest string) byRole {
		return byRole{"term=9 follower" + rest, "term=9 follower" + rest, "term=9 follower" + rest, "term=9 follower" + rest}
	}
	// A leader of a past term hears of the newer one; there is one leader in a term; and
	// one of this or a higher term is followed.
	fromLeader := func(answers string) [3]byRole {
		now, then := strings.ReplaceAll(answers, "@", "@5"), strings.ReplaceAll(answers, "@", "@9")
		return [3]byRole{
			with(asItWas, " HeartbeatResponse@5>2"),
			{"follower of 2" + now, "follower of 2" + now, "follower of 2" + now, "fault G10"},
			newTerm(" of 2" + then),
		}
	}
	answer := func(leader string) [3]byRole {
		return [3]byRole{asItWas, {"follower of 2", "pre-candidate", "candidate", leader}, newTerm("")}
	}
	always := func(rows byRole) [3]byRole { return [3]byRole{rows, rows, rows} }
	quiesce := fromLeader("")
	quiesce[1] = asItWas // nobody makes use of it
	return map[wire.MessageKind][3]byRole{
		wire.Append:    fromLeader(" AppendResponse@>2"),
		wire.Heartbeat: fromLeader(" HeartbeatResponse@>2"),
		wire.Confirm:   fromLeader(" ConfirmResponse@>2"),
		wire.Snapshot:  fromLeader(" AppendResponse@>2 SnapshotResponse@>2"),
		wire.Quiesce:   quiesce,

		wire.AppendResponse:    answer("leader heard Append@5>2"), // with the entry of its term
		wire.HeartbeatResponse: answer("leader heard Append@5>2"), // it has not answered that one
		wire.SnapshotResponse:  answer("leader heard"),
		wire.ConfirmResponse:   answer("bad leader"), // of a round that has not begun
		wire.ReadIndexResponse: {asItWas, {"follower of 2 read", "pre-candidate", "candidate", "leader"}, newTerm("")},

		// 9.6: neither asks for a term to be adopted, but a refusal of a higher one tells
		// of it. A pre-vote of this term is for those that have no leader nor vote in it.
		wire.PreVote: {
			with(asItWas, " PreVoteResponse!@5>2"),
			{"follower of 2 PreVoteResponse!@5>2", "pre-candidate PreVoteResponse@5>2", "candidate PreVoteResponse!@5>2", "leader PreVoteResponse!@5>2"},
			with(asItWas, " PreVoteResponse@9>2"),
		},
		wire.PreVoteResponse: always(asItWas), // of another term than was asked for
		// 3.4: one vote in a term, and none for another than the leader.
		wire.Vote: {
			with(asItWas, " VoteResponse!@5>2"),
			{"follower of 2 VoteResponse!@5>2", "pre-candidate VoteResponse@5>2", "candidate VoteResponse!@5>2", "leader VoteResponse!@5>2"},
			newTerm(" VoteResponse@9>2"),
		},
		wire.VoteResponse: {asItWas, {"follower of 2", "pre-candidate", "leader Append@5>2 Append@5>3", "leader"}, newTerm("")},
		// 3.10
		wire.TimeoutNow: {asItWas, {"term=6 candidate Vote@6>2 Vote@6>3", "pre-candidate", "candidate", "leader"}, newTerm("")},
		wire.Transfer:   always(byRole{"follower of 2 Transfer@0>2", "pre-candidate", "candidate", "leader TimeoutNow@5>3"}),
		// 6.4
		wire.ReadIndex: always(byRole{"follower of 2", "pre-candidate", "candidate", "leader Confirm@5>2 Confirm@5>3"}),
		wire.Removed:   always(byRole{"follower of 2 removed", "follower removed", "follower removed", "follower removed"}),

		// The host's.
		wire.Propose:         always(asItWas),
		wire.ProposeResponse: always(asItWas),
		wire.Wake:            always(asItWas),
		wire.Join:            always(asItWas),
		wire.SnapshotFetch:   always(asItWas),
		wire.SnapshotChunk:   always(asItWas),
		wire.Digest:          always(asItWas),
		wire.DigestResponse:  always(asItWas),
		wire.Bar:             always(asItWas),
		wire.Repair:          always(asItWas),
		wire.Rejoin:          always(asItWas),
		wire.Rejoined:        always(asItWas),
	}
}

// TestRulesAgainstPlain: the generated term rules and dispatch do with messages of all
// kinds, in all roles and terms, what is written above by hand.
func TestRulesAgainstPlain(t *testing.T) {
	rules := plainRules()
	for k := wire.Append; k <= wire.MessageKinds; k++ {
		want, ok := rules[k]
		if !ok {
			t.Errorf("no rule for %v", k)
		}
		for at, term := range []wire.Term{4, 5, 9} {
			for role := Follower; role <= Leader; role++ {
				n := receiver(t, role)
				if got := outcome(n, messageOf(k, term)); got != want[at][role] {
					t.Errorf("%v of term %d to a %s in term 5:\n got %q\nwant %q", k, term, role, got, want[at][role])
				}
			}
		}
	}
	// What a refused or granted pre-vote depends on besides.
	for role := Follower; role <= Leader; role++ {
		m := messageOf(wire.PreVoteResponse, 9)
		m.Reject = true
		if got := outcome(receiver(t, role), m); got != "term=9 follower" {
			t.Errorf("a refusal of a higher term to a %s: %q", role, got)
		}
	}
	// What refusals tell of commits counts in every role that may have asked.
	for role, kinds := range map[Role][]wire.MessageKind{
		Follower:     {wire.PreVoteResponse, wire.VoteResponse},
		PreCandidate: {wire.PreVoteResponse},
		Candidate:    {wire.VoteResponse},
	} {
		for _, k := range kinds {
			n := receiver(t, role)
			m := messageOf(k, 5)
			m.Reject, m.Commit, m.LogTerm = true, 2, 3
			if outcome(n, m); n.g.Commit() != 2 {
				t.Errorf("a %s learns of commit %d from a %v", role, n.g.Commit(), k)
			}
		}
	}
	granted := messageOf(wire.PreVoteResponse, 6)
	if got := outcome(receiver(t, PreCandidate), granted); got != "term=6 candidate Vote@6>2 Vote@6>3" {
		t.Errorf("a grant: %q", got)
	}
}

// TestDurabilityAgainstPlain: 3.8: votes and accepted entries are durable before they
// are told; nothing else promises anything.
func TestDurabilityAgainstPlain(t *testing.T) {
	for k := wire.Append; k <= wire.MessageKinds; k++ {
		want := leavesAtOnce
		switch k {
		case wire.Vote, wire.VoteResponse:
			want = waitsForHardState
		case wire.AppendResponse:
			want = waitsForLog
		}
		if got := durabilityOf(k); got != want {
			t.Errorf("%v: %v, want %v", k, got, want)
		}
	}
}

// messageOf returns a message from 2 that a correct replica may send in a term.
func messageOf(k wire.MessageKind, term wire.Term) wire.Message {
	m := wire.Message{Kind: k, From: 2, Term: term}
	switch k {
	case wire.Append:
		m.Index, m.LogTerm = 2, 3
	case wire.AppendResponse:
		m.Index = 2
	case wire.Vote, wire.PreVote:
		m.Index, m.LogTerm = 9, min(term-1, 5) // as good a log as any
	case wire.Snapshot:
		m.Index, m.LogTerm, m.Context = 2, 3, 1
	case wire.Transfer:
		m.From, m.Hint = 3, 3
	case wire.ReadIndex:
		m.From = 3
	case wire.ReadIndexResponse:
		m.Index, m.Context = 2, 7
	case wire.ConfirmResponse, wire.Removed:
		m.Context = 1
	}
	switch k {
	case wire.Transfer, wire.ReadIndex, wire.ProposeResponse, wire.Removed, wire.Wake, wire.Join, wire.SnapshotFetch, wire.SnapshotChunk, wire.Bar:
		m.Term = 0 // they have none
	}
	return m
}
