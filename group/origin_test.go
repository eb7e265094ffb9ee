package group

import (
	"errors"
	"testing"

	"multiraft/wire"
)

// The behaviours of etcd's raft library at start-up, in its roles and in its log,
// one test each, named after the function there that has it.

// newRaft restores term, vote, commit, applied and configuration, and newRaft's
// log line is what Status tells.
func TestOrigin_newRaft_RestoresFromStorage(t *testing.T) {
	c := newCluster(members(3), Tuning{})
	n := c.nodes[1]
	s := &scenario{t: t, c: c}
	s.fillLog(parseCommand(t, "replica 1/1 2/1 3/4 term=5 vote=3 commit=2 compact=1", 0), n.log)
	if err := n.start(1); err != nil {
		t.Fatal(err)
	}
	var st Status
	n.g.Status(&st)
	if st.Replica != 2 || st.Role != Follower || st.Term != 5 || st.Vote != 3 || st.Leader != 0 ||
		st.Commit != 2 || st.Applied != 1 || st.Last != 3 || st.LastTerm != 4 || len(st.Members.Members) != 3 {
		t.Errorf("%+v", st)
	}
}

// newRaft, assertConfStatesEquivalent: what is stored must agree. Here it is an
// error, and not a panic.
func TestOrigin_newRaft_RefusesWhatDoesNotAgree(t *testing.T) {
	for _, bad := range []struct {
		log     string
		applied wire.Index
		members wire.Index
	}{
		{"1/1 2/1 term=1 commit=3", 0, 0},
		{"1/1 2/3 term=2", 0, 0},
		{"1/1 2/1 term=1", 3, 0},
		{"1/1 2/1 term=1 compact=2", 1, 0},
		{"1/1 2/1 term=1", 0, 3},
	} {
		c := newCluster(members(3), Tuning{})
		c.members.Index = bad.members
		(&scenario{t: t, c: c}).fillLog(parseCommand(t, "replica "+bad.log, 0), c.nodes[0].log)
		var fault *FaultError
		if err := c.nodes[0].start(bad.applied); !errors.As(err, &fault) || fault.Rule != "G12" {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// becomeFollower, becomePreCandidate, becomeCandidate, becomeLeader: the way up.
func TestOrigin_become_GoesThroughTheRoles(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=2")
	roles := []Role{n.g.Role()}
	campaign(t, n)
	roles = append(roles, n.g.Role())
	receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: 2, Term: 3})
	roles = append(roles, n.g.Role())
	out(n)
	receive(t, n, wire.Message{Kind: wire.VoteResponse, From: 2, Term: 3})
	roles = append(roles, n.g.Role())
	for i, want := range []Role{Follower, PreCandidate, Candidate, Leader} {
		if roles[i] != want {
			t.Fatalf("went through %v", roles)
		}
	}
	if n.g.Term() != 3 {
		t.Errorf("term %d: a pre-candidate keeps its term, a candidate adds one", n.g.Term())
	}
}

// becomeCandidate and becomePreCandidate are forbidden to a leader: its campaign
// is none.
func TestOrigin_hup_LeaderDoesNotCampaign(t *testing.T) {
	n := thesisGroup(t, 3, "")
	lead(t, n)
	out(n)
	campaign(t, n)
	if sent := out(n); n.g.Role() != Leader || n.g.Term() != 1 || len(sent) != 0 {
		t.Errorf("a %s in term %d that sent %v", n.g.Role(), n.g.Term(), sent)
	}
}

// becomeLeader is forbidden to a follower: votes that it did not ask for are
// not counted.
func TestOrigin_stepFollower_IgnoresVotes(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=2")
	for _, kind := range []wire.MessageKind{wire.PreVoteResponse, wire.VoteResponse} {
		receive(t, n, wire.Message{Kind: kind, From: 2, Term: 2})
		receive(t, n, wire.Message{Kind: kind, From: 3, Term: 2})
	}
	if n.g.Role() != Follower {
		t.Errorf("became a %s", n.g.Role())
	}
}

// promotable: who has no vote does not campaign, asked or not.
func TestOrigin_promotable_LearnerDoesNotCampaign(t *testing.T) {
	c := newCluster(members(3), Tuning{ElectionTicks: 10})
	c.members.Members[0].Role = wire.Learner
	n := c.nodes[0]
	if err := n.start(0); err != nil {
		t.Fatal(err)
	}
	if err := n.g.Campaign(); err != ErrNotVoter {
		t.Errorf("campaign: %v", err)
	}
	n.g.Tick(1000)
	if n.g.Role() != Follower || n.g.Deadline() != never {
		t.Errorf("a %s with a deadline of %d", n.g.Role(), n.g.Deadline())
	}
}

// becomeLeader: the leader's own progress is in replicate and matches its disk;
// the pending configuration is taken to be its last entry, which is the empty one
// that begins its term.
func TestOrigin_becomeLeader_BeginsItsTerm(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 2/1 term=1")
	lead(t, n)
	ld := n.g.leading
	if ld.state[0] != replicate || ld.state[1] != probe || ld.next[1] != 3 || ld.match[1] != 0 {
		t.Errorf("own progress %s, of another %s, match %d, next %d", ld.state[0], ld.state[1], ld.match[1], ld.next[1])
	}
	if ld.pendingConfig != 3 || n.g.LastIndex() != 3 || ld.match[0] != 2 {
		t.Errorf("pending %d, last %d, match %d before the entry is durable", ld.pendingConfig, n.g.LastIndex(), ld.match[0])
	}
	out(n)
	if e := entriesOf(n.log.entries[2].block)[0]; e.kind != wire.EntryEmpty || e.term != 2 || ld.match[0] != 3 {
		t.Errorf("entry %v, match %d", e, ld.match[0])
	}
	if ld.uncommittedBytes != 0 {
		t.Errorf("the empty entry counts %d bytes", ld.uncommittedBytes)
	}
}

// appendEntry numbers what is proposed, and commits at once in a group of one
// voter: as soon as it is durable.
func TestOrigin_appendEntry_NumbersAndCommitsAlone(t *testing.T) {
	n := thesisGroup(t, 1, "")
	campaign(t, n)
	out(n)
	first, term, err := n.g.Propose(commands("a", "b"), 2)
	if err != nil || first != 2 || term != 1 || n.g.LastIndex() != 3 {
		t.Fatalf("%d/%d, %v, last %d", first, term, err, n.g.LastIndex())
	}
	if n.g.Commit() != 1 {
		t.Fatalf("commit %d before anything is durable", n.g.Commit())
	}
	if out(n); n.g.Commit() != 3 {
		t.Errorf("commit %d", n.g.Commit())
	}
}

// increaseUncommittedSize: proposals are refused above the limit, but one that is
// larger passes when nothing is uncommitted.
func TestOrigin_increaseUncommittedSize_OneLargePasses(t *testing.T) {
	n := thesisGroup(t, 3, "")
	n.c.tuning.MaxUncommittedBytes = 20
	lead(t, n)
	out(n)
	if _, _, err := n.g.Propose(commands("much more than twenty bytes"), 1); err != nil {
		t.Errorf("alone: %v", err)
	}
	if _, _, err := n.g.Propose(commands("x"), 1); err != ErrBusy {
		t.Errorf("behind it: %v", err)
	}
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 1, Index: 1})
	out(n)
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 1, Index: 2})
	if _, _, err := n.g.Propose(commands("x"), 1); err != nil {
		t.Errorf("after the commit: %v", err)
	}
}

// MaybeUpdate: match and next move forward only.
func TestOrigin_MaybeUpdate(t *testing.T) {
	for _, c := range []struct{ update, match, next wire.Index }{
		{2, 3, 5}, {3, 3, 5}, {4, 4, 5}, {5, 5, 6},
	} {
		ld := newLeading(2, 9)
		ld.state[1], ld.match[1], ld.next[1] = replicate, 3, 5
		ld.accepted(1, c.update)
		if ld.match[1] != c.match || ld.next[1] != c.next {
			t.Errorf("%d: match %d, next %d", c.update, ld.match[1], ld.next[1])
		}
	}
}

// MaybeDecrTo: a refusal in replicate goes back behind match; in probe it must be
// about what was probed, and goes back to the hint.
func TestOrigin_MaybeDecrTo(t *testing.T) {
	for _, c := range []struct {
		state         progressState
		match, next   wire.Index
		refused, hint wire.Index
		moved         bool
		want          wire.Index
	}{
		{replicate, 5, 10, 5, 5, false, 10},
		{replicate, 5, 10, 9, 9, true, 6},
		{probe, 0, 10, 5, 5, false, 10},
		{probe, 0, 10, 9, 9, true, 9},
		{probe, 0, 10, 9, 2, true, 3},
		{probe, 0, 10, 9, 0, true, 1},
		{probe, 4, 10, 9, 0, true, 5},
	} {
		ld := newLeading(2, 20)
		ld.state[1], ld.match[1], ld.next[1] = c.state, c.match, c.next
		if moved := ld.refused(1, c.refused, c.hint); moved != c.moved || ld.next[1] != c.want {
			t.Errorf("%+v: %v, next %d", c, moved, ld.next[1])
		}
	}
}

// newLog begins between the first and the last entry of storage; maybeAppend
// finds the conflict, truncates what is behind it, and refuses to below commit:
// that stops this group, and no other.
func TestOrigin_maybeAppend_FindsConflicts(t *testing.T) {
	for _, c := range []struct {
		append string
		want   string
		fault  bool
	}{
		{"3/1 4/2", "1/1 2/1 3/1 4/2", false},         // all there
		{"4/2 5/3", "1/1 2/1 3/1 4/2 5/3", false},     // new behind what is there
		{"4/3", "1/1 2/1 3/1 4/3", false},             // conflict at the end
		{"3/3 4/3 5/3", "1/1 2/1 3/3 4/3 5/3", false}, // conflict within
		{"2/3 3/3", "1/1 2/1 3/1 4/2", true},          // conflict with what is committed
	} {
		n := thesisGroup(t, 3, "1/1 2/1 3/1 4/2 term=2 commit=2")
		entries := blocks(t, c.append)
		first := wire.Block(entries).First()
		m := wire.Message{
			Kind: wire.Append, Group: 1, From: 2, To: 1, Term: 3,
			Index: first - 1, LogTerm: n.g.log.term2(first - 1), Entries: entries,
		}
		err := n.g.Step(&m)
		if (err != nil) != c.fault || (n.g.Err() != nil) != c.fault {
			t.Errorf("%s: %v", c.append, err)
		}
		if got := logOf(n); !c.fault && got != c.want {
			t.Errorf("%s: log %s, want %s", c.append, got, c.want)
		}
	}
}

// term looks into the unstable part, then into storage, and tells compacted
// entries from those that are not there yet.
func TestOrigin_term_TellsCompactedFromUnavailable(t *testing.T) {
	c := newCluster(members(3), Tuning{})
	n := c.nodes[0]
	(&scenario{t: t, c: c}).fillLog(parseCommand(t, "replica 1/1 2/1 3/2 term=2 commit=3 compact=2", 0), n.log)
	if err := n.start(2); err != nil {
		t.Fatal(err)
	}
	receive(t, n, wire.Message{Kind: wire.Append, From: 2, Term: 3, Index: 3, LogTerm: 2, Entries: blocks(t, "4/3")})
	for i, want := range map[wire.Index]wire.Term{2: 1, 3: 2, 4: 3} {
		if term, err := n.g.log.term(i); term != want || err != nil {
			t.Errorf("entry %d: term %d, %v", i, term, err)
		}
	}
	if _, err := n.g.log.term(1); !errors.Is(err, wire.ErrCompacted) {
		t.Errorf("entry 1: %v", err)
	}
	if _, err := n.g.log.term(5); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("entry 5: %v", err)
	}
}
