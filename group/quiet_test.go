package group

import (
	"testing"

	"multiraft/wire"
)

// A Ready is quiet when nothing waits for it to be durable. What a follower says in a
// new term about entries that it has on its disk waits for the term to be there too.
func TestQuietReadyOwesNothing(t *testing.T) {
	ready := func(t *testing.T) *node {
		n := thesisGroup(t, 3, "1/1 2/1")
		n.c.deferAnswers = true
		return n
	}
	matching := wire.Message{Kind: wire.Append, From: 2, Term: 2, Index: 1, LogTerm: 1, Entries: blocks(t, "2/1")}
	ahead := wire.Message{Kind: wire.Append, From: 2, Term: 2, Index: 7, LogTerm: 2}
	cases := map[string]struct {
		before []wire.Message // in the Ready with the term
		after  []wire.Message // before that is durable
		reject bool
	}{
		"acceptance of what is durable": {before: []wire.Message{matching}},
		"refusal":                       {before: []wire.Message{ahead}, reject: true},
		"acceptance that comes later":   {before: []wire.Message{{Kind: wire.Heartbeat, From: 2, Term: 2}}, after: []wire.Message{matching}},
		"refusal that comes later":      {before: []wire.Message{{Kind: wire.Heartbeat, From: 2, Term: 2}}, after: []wire.Message{ahead}, reject: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n := ready(t)
			for _, m := range c.before {
				receive(t, n, m)
			}
			if !n.ready() || !n.rd.SyncHardState {
				t.Fatal("no term to persist")
			}
			quiet := n.rd.Quiet
			for _, m := range c.after {
				receive(t, n, m)
			}
			for n.ready() {
			}
			n.c.net = nil
			n.persist()
			answer := one(t, out(n), wire.AppendResponse)
			if answer.Reject != c.reject {
				t.Errorf("answered %s", describe(&answer))
			}
			if quiet {
				t.Error("the answer waits for whatever comes next")
			}
		})
	}
}
