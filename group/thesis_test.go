package group

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"multiraft/wire"
)

// The claims of the raft thesis (Ongaro, "Consensus: Bridging Theory and
// Practice", 2014) that this package has to make true, one test each, named by
// section. Each has three parts: what is given, what happens, what must hold.

// thesisGroup returns replica 1 of n voters, with the given log (index/term) and
// whatever else a line of add-group may say, ten ticks to an election.
func thesisGroup(t *testing.T, n int, log string) *node {
	t.Helper()
	c := newCluster(members(n), Tuning{ElectionTicks: 10, HeartbeatTicks: 1})
	s := &scenario{t: t, c: c}
	s.fillLog(parseCommand(t, "replica "+log, 0), c.nodes[0].log)
	if err := c.nodes[0].start(0); err != nil {
		t.Fatal(err)
	}
	return c.nodes[0]
}

// lead makes a node that is alone leader, by the votes of all others.
func lead(t *testing.T, n *node) {
	t.Helper()
	if err := n.g.Campaign(); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []wire.MessageKind{wire.PreVoteResponse, wire.VoteResponse} {
		out(n)
		for _, other := range n.c.nodes[1:] {
			term := n.g.Term()
			if kind == wire.PreVoteResponse {
				term++
			}
			receive(t, n, wire.Message{Kind: kind, From: other.id, Term: term})
		}
	}
	if n.g.Role() != Leader {
		t.Fatalf("%s after all votes", n.g.Role())
	}
}

// out takes all readies of a node, syncing as it goes, and returns what it sent.
func out(n *node) []wire.Message {
	for n.ready() {
		n.persist()
	}
	sent := n.c.net
	n.c.net = nil
	return sent
}

// receive hands a node a message to it in its group.
func receive(t *testing.T, n *node, m wire.Message) {
	t.Helper()
	m.Group, m.To = 1, n.id
	if err := n.g.Step(&m); err != nil {
		t.Fatal(err)
	}
}

// one returns the only message of a kind in sent.
func one(t *testing.T, sent []wire.Message, kind wire.MessageKind) wire.Message {
	t.Helper()
	sent = slices.DeleteFunc(sent, func(m wire.Message) bool { return m.Kind != kind })
	if len(sent) != 1 {
		t.Fatalf("%d messages of kind %s", len(sent), kind)
	}
	return sent[0]
}

// blocks returns a block per index/term.
func blocks(t *testing.T, list string) (b []byte) {
	t.Helper()
	s := &scenario{t: t}
	for _, text := range strings.Fields(list) {
		index, term := s.indexTerm(command{}, text)
		one := commands("c" + text[:strings.Index(text, "/")])
		one.Seal(1, index, term, wire.EntryCommand, 1)
		b = append(b, one...)
	}
	return b
}

// logOf writes a node's log as index/term.
func logOf(n *node) string {
	var words []string
	for i := n.log.First(); i <= n.g.LastIndex(); i++ {
		words = append(words, indexAndTerm(i, n.g.log.term2(i)))
	}
	return strings.Join(words, " ")
}

// campaign makes a replica campaign, which it must be able to.
func campaign(t *testing.T, n *node) {
	t.Helper()
	if err := n.g.Campaign(); err != nil {
		t.Fatal(err)
	}
}

// 3.3: if one server's current term is smaller than the other's, it updates its
// current term to the larger value; a candidate or leader that discovers that
// its term is out of date immediately reverts to follower state.
func Test3_3_NewerTermMakesFollower(t *testing.T) {
	for role, become := range map[Role]func(n *node){
		Follower: func(*node) {},
		PreCandidate: func(n *node) {
			campaign(t, n)
		},
		Candidate: func(n *node) {
			campaign(t, n)
			for _, other := range n.c.nodes[1:] {
				receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: other.id, Term: 3})
			}
		},
		Leader: func(n *node) { lead(t, n) },
	} {
		n := thesisGroup(t, 3, "1/1 term=2")
		become(n)
		if n.g.Role() != role {
			t.Fatalf("%s, want %s", n.g.Role(), role)
		}
		receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 7})
		if n.g.Role() != Follower || n.g.Term() != 7 || n.g.Leader() != 2 {
			t.Errorf("%s became a %s in term %d, leader %d", role, n.g.Role(), n.g.Term(), n.g.Leader())
		}
	}
}

// 3.3: if a server receives a request with a stale term number, it rejects the
// request.
func Test3_3_StaleTermIsRejected(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=5")
	receive(t, n, wire.Message{Kind: wire.Append, From: 2, Term: 4, Index: 1, LogTerm: 1, Entries: blocks(t, "2/4")})
	if m := one(t, out(n), wire.HeartbeatResponse); m.Term != 5 {
		t.Errorf("answered in term %d", m.Term)
	}
	receive(t, n, wire.Message{Kind: wire.Vote, From: 2, Term: 4, Index: 9, LogTerm: 4})
	if m := one(t, out(n), wire.VoteResponse); !m.Reject || m.Term != 5 || logOf(n) != "1/1" || n.g.Leader() != 0 {
		t.Errorf("answered %+v, log %s, leader %d", m, logOf(n), n.g.Leader())
	}
}

// 3.4: when servers start up, they begin as followers; a server remains in
// follower state as long as it receives valid requests from a leader.
func Test3_4_FollowerStaysWhileItHearsFromALeader(t *testing.T) {
	n := thesisGroup(t, 3, "")
	for tick := uint64(1); tick < 200; tick++ {
		n.g.Tick(tick)
		if n.g.Role() != Follower {
			t.Fatalf("%s at tick %d", n.g.Role(), tick)
		}
		if tick%9 == 0 {
			receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 1})
		}
	}
}

// 3.4: leaders send periodic heartbeats to all followers to maintain authority.
func Test3_4_LeaderSendsHeartbeats(t *testing.T) {
	n := thesisGroup(t, 3, "")
	lead(t, n)
	out(n)
	for tick := uint64(1); tick < 8; tick++ {
		n.g.Tick(tick)
		sent := out(n)
		if tick > 1 && (len(sent) != 2 || sent[0].Kind != wire.Heartbeat || sent[0].To != 2 || sent[1].To != 3) {
			t.Fatalf("tick %d: %v", tick, sent)
		}
	}
}

// 3.4: if a follower receives no communication over the election timeout, it
// begins an election: it increments its current term, votes for itself and
// requests votes in parallel from each of the other servers. (Here a pre-vote
// comes before, section 9.6.)
func Test3_4_SilenceStartsAnElection(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=1")
	n.c.tuning.DisablePreVote = true
	n.g.Tick(10)
	sent := out(n)
	if n.g.Role() != Candidate || n.g.Term() != 2 || n.log.hard != (wire.HardState{Term: 2, Vote: 1}) {
		t.Fatalf("%s in term %d, on disk %+v", n.g.Role(), n.g.Term(), n.log.hard)
	}
	if len(sent) != 2 || describe(&sent[0]) != "1->2 Vote term=2 last=1/1" || describe(&sent[1]) != "1->3 Vote term=2 last=1/1" {
		t.Fatalf("sent %v", sent)
	}
}

// 3.4, figure 3.1: a follower converts to candidate if the election timeout elapses
// without receiving appends from the current leader or granting its vote. So a
// candidate that cannot win does not keep it from that, however often it raises the
// term.
func Test3_4_OnlyVotesThatAreGrantedDelayAnElection(t *testing.T) {
	for _, was := range []Role{Follower, Candidate} {
		n := thesisGroup(t, 3, "1/1 2/1 term=1")
		n.c.tuning.DisablePreVote = true
		start, term := n.c.now, wire.Term(1)
		if was == Candidate {
			campaign(t, n)
			term++
		}
		for range 9 {
			n.c.now++
			n.g.Tick(n.c.now)
			term++
			receive(t, n, wire.Message{Kind: wire.Vote, From: 2, Term: term, Index: 1, LogTerm: 1})
			if m := one(t, slices.DeleteFunc(out(n), func(m wire.Message) bool { return m.To != 2 }), wire.VoteResponse); !m.Reject || n.g.Term() != term || n.g.Role() != Follower {
				t.Fatalf("%s in term %d, sent %+v", n.g.Role(), n.g.Term(), m)
			}
		}
		n.c.now++
		n.g.Tick(n.c.now)
		if n.g.Role() != Candidate || n.g.Term() != term+1 {
			t.Errorf("who was %s is %s in term %d after %d ticks", was, n.g.Role(), n.g.Term(), n.c.now-start)
		}
		out(n)
		receive(t, n, wire.Message{Kind: wire.Vote, From: 3, Term: term + 2, Index: 2, LogTerm: 1})
		if out(n); n.g.Deadline() < n.c.now+10 {
			t.Errorf("who has granted its vote waits %d ticks", n.g.Deadline()-n.c.now)
		}
	}
}

// 3.4: a candidate wins an election if it receives votes from a majority of the
// servers in the full cluster for the same term; otherwise it does not.
func Test3_4_MajorityWins(t *testing.T) {
	for size := 1; size <= 7; size++ {
		for granted := 0; granted < size; granted++ {
			n := thesisGroup(t, size, "")
			if err := n.g.Campaign(); err != nil {
				t.Fatal(err)
			}
			out(n)
			for i, other := range n.c.nodes[1:] {
				receive(t, n, wire.Message{Kind: wire.VoteResponse, From: other.id, Term: 1, Reject: i >= granted})
			}
			want := Follower
			if granted+1 > size/2 {
				want = Leader
			}
			if n.g.Role() != want {
				t.Errorf("%d of %d votes: %s, want %s", granted+1, size, n.g.Role(), want)
			}
		}
	}
}

// 3.4: each server will vote for at most one candidate in a given term, on a
// first-come-first-served basis.
func Test3_4_OneVotePerTerm(t *testing.T) {
	n := thesisGroup(t, 3, "")
	for _, vote := range []struct {
		from    wire.ReplicaID
		term    wire.Term
		granted bool
	}{{2, 1, true}, {3, 1, false}, {2, 1, true}, {3, 2, true}, {2, 2, false}} {
		receive(t, n, wire.Message{Kind: wire.Vote, From: vote.from, Term: vote.term})
		if m := one(t, out(n), wire.VoteResponse); m.To != vote.from || m.Reject == vote.granted {
			t.Errorf("%+v answered by %s", vote, describe(&m))
		}
	}
}

// 3.4: a candidate that receives an append from a server claiming to be leader
// with a term at least as large as its own returns to follower state; with a
// smaller term, it rejects it and continues in candidate state.
func Test3_4_CandidateFollowsALegitimateLeader(t *testing.T) {
	for term := wire.Term(2); term <= 4; term++ {
		n := thesisGroup(t, 3, "1/1 term=2")
		n.c.tuning.DisablePreVote = true
		if err := n.g.Campaign(); err != nil {
			t.Fatal(err)
		}
		out(n)
		receive(t, n, wire.Message{Kind: wire.Append, From: 3, Term: term, Index: 1, LogTerm: 1})
		if follows := n.g.Role() == Follower && n.g.Leader() == 3; follows != (term >= 3) {
			t.Errorf("append of term %d to a candidate of term 3: %s, leader %d", term, n.g.Role(), n.g.Leader())
		}
	}
}

// 3.4: election timeouts are chosen randomly from a fixed interval, so that in
// most cases only a single server will time out.
func Test3_4_TimeoutsAreSpread(t *testing.T) {
	c := newCluster(members(3), Tuning{ElectionTicks: 10, HeartbeatTicks: 1})
	n := c.nodes[0]
	n.rand = rand.New(rand.NewPCG(1, 1))
	if err := n.start(0); err != nil {
		t.Fatal(err)
	}
	var seen [20]int
	for range 2000 {
		seen[n.g.Deadline()-c.now]++
		c.now = n.g.Deadline()
		n.g.Tick(c.now)
		out(n)
	}
	for ticks, times := range seen {
		if within := ticks >= 10; within != (times > 0) || within && (times < 140 || times > 260) {
			t.Errorf("%d of 2000 time-outs are %d ticks", times, ticks)
		}
	}
}

// 3.5: the leader appends the command to its log as a new entry and issues
// appends in parallel; when the entry has been safely replicated, the leader
// applies it. It is committed once the leader has replicated it on a majority.
func Test3_5_MajorityCommits(t *testing.T) {
	for size := 1; size <= 7; size++ {
		for acks := 0; acks < size; acks++ {
			n := thesisGroup(t, size, "")
			lead(t, n)
			out(n)
			first, _, err := n.g.Propose(commands("x"), 1)
			if err != nil {
				t.Fatal(err)
			}
			out(n)
			for _, other := range n.c.nodes[1 : 1+acks] {
				receive(t, n, wire.Message{Kind: wire.AppendResponse, From: other.id, Term: 1, Index: first})
			}
			out(n)
			if committed := n.g.Commit() == first; committed != (acks+1 > size/2) {
				t.Errorf("on %d of %d disks, commit is %d of %d", acks+1, size, n.g.Commit(), first)
			}
			if applied := len(n.machine) == int(first); applied != (n.g.Commit() == first) {
				t.Errorf("commit %d, applied %d", n.g.Commit(), len(n.machine))
			}
		}
	}
}

// 3.5: the leader includes the highest index it knows to be committed in future
// appends (including heartbeats); once a follower learns that an entry is
// committed, it applies the entry, in log order.
func Test3_5_FollowersLearnOfCommits(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 2/1 3/1")
	receive(t, n, wire.Message{Kind: wire.Append, From: 2, Term: 1, Index: 3, LogTerm: 1, Commit: 2})
	out(n)
	if got := len(n.machine); got != 2 {
		t.Fatalf("applied %d entries", got)
	}
	receive(t, n, wire.Message{Kind: wire.Append, From: 2, Term: 1, Index: 3, LogTerm: 1, Commit: 9, Entries: blocks(t, "4/1")})
	out(n)
	if got := n.machine; len(got) != 4 || got[3] != (entry{4, 1, wire.EntryCommand, "c4"}) {
		t.Fatalf("applied %v; only what the append shows to match is known", got)
	}
}

// 3.5: if the follower does not find an entry in its log with the same index and
// term, then it refuses the new entries.
func Test3_5_ConsistencyCheck(t *testing.T) {
	for _, tc := range []struct {
		prev    wire.Index
		term    wire.Term
		accepts bool
	}{{0, 0, true}, {1, 1, true}, {2, 2, true}, {1, 2, false}, {2, 1, false}, {3, 2, false}, {3, 3, false}} {
		n := thesisGroup(t, 3, "1/1 2/2")
		receive(t, n, wire.Message{Kind: wire.Append, From: 2, Term: 3, Index: tc.prev, LogTerm: tc.term})
		if m := one(t, out(n), wire.AppendResponse); m.Reject == tc.accepts || m.Index != tc.prev {
			t.Errorf("%+v: %s", tc, describe(&m))
		}
	}
}

// 3.5: the leader handles inconsistencies by forcing the followers' logs to
// duplicate its own: figure 3.6, where followers a to f miss entries, have extra
// ones, or both. (The figure's terms; the leader's own entry of term 8 follows.)
func Test3_5_LeaderBringsFollowersIntoLine(t *testing.T) {
	const leader = "1/1 2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6 10/6"
	for name, log := range map[string]string{
		"a": "1/1 2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6",
		"b": "1/1 2/1 3/1 4/4",
		"c": "1/1 2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6 10/6 11/6",
		"d": "1/1 2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6 10/6 11/7 12/7",
		"e": "1/1 2/1 3/1 4/4 5/4 6/4 7/4",
		"f": "1/1 2/1 3/1 4/2 5/2 6/2 7/3 8/3 9/3 10/3 11/3",
	} {
		c := newCluster(members(3), Tuning{ElectionTicks: 10, HeartbeatTicks: 1})
		s := &scenario{t: t, c: c}
		for i, text := range []string{leader, log, ""} {
			s.fillLog(parseCommand(t, "replica "+text+" term=7", 0), c.nodes[i].log)
			if err := c.nodes[i].start(0); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.nodes[0].g.Campaign(); err != nil {
			t.Fatal(err)
		}
		c.settle(1, 2, 3)
		if got, want := logOf(c.nodes[1]), leader+" 11/8"; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// 3.5: a leader never overwrites or deletes entries in its own log, it only
// appends new entries (leader append-only).
func Test3_5_LeaderAppendsOnly(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 2/1")
	lead(t, n)
	before := logOf(n)
	m := wire.Message{Kind: wire.Append, Group: 1, From: 2, To: 1, Term: n.g.Term(), Index: 1, LogTerm: 1, Entries: blocks(t, "2/2")}
	if err := n.g.Step(&m); err == nil {
		t.Error("an append from a second leader was taken")
	}
	if got := logOf(n); got != before || before != "1/1 2/1 3/2" {
		t.Errorf("%s became %s", before, got)
	}
}

// 3.6.1: the voter denies its vote if its own log is more up-to-date than that of
// the candidate: later last term, or same last term and longer log.
func Test3_6_1_VoterComparesLogs(t *testing.T) {
	for _, tc := range []struct {
		index   wire.Index
		term    wire.Term
		granted bool
	}{
		{3, 2, true}, {4, 2, true}, {2, 2, false}, {1, 3, true}, {9, 1, false}, {0, 0, false},
	} {
		n := thesisGroup(t, 3, "1/1 2/2 3/2")
		receive(t, n, wire.Message{Kind: wire.Vote, From: 2, Term: 5, Index: tc.index, LogTerm: tc.term})
		if m := one(t, out(n), wire.VoteResponse); m.Reject == tc.granted {
			t.Errorf("%+v: %s", tc, describe(&m))
		}
	}
}

// 3.6.2: Raft never commits log entries from previous terms by counting
// replicas; once an entry from the current term has been committed, then all
// prior entries are committed indirectly.
func Test3_6_2_OnlyOwnTermIsCounted(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 2/2")
	lead(t, n)
	out(n)
	for index, want := range map[wire.Index]wire.Index{1: 0, 2: 0} {
		receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 3, Index: index})
		if n.g.Commit() != want {
			t.Errorf("entry %d on a majority: commit %d", index, n.g.Commit())
		}
	}
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 3, Index: 3})
	if n.g.Commit() != 3 {
		t.Errorf("entry of the own term on a majority: commit %d", n.g.Commit())
	}
}

// 3.8: each server must persist its current term and vote before it grants its
// vote, and new log entries before their append is answered.
func Test3_8_StateIsPersistedBeforeItIsSaid(t *testing.T) {
	n := thesisGroup(t, 3, "")
	receive(t, n, wire.Message{Kind: wire.Vote, From: 2, Term: 1})
	for n.ready() {
	}
	if len(n.c.net) != 0 {
		t.Fatalf("not synced: %s", describe(&n.c.net[0]))
	}
	n.persist()
	one(t, out(n), wire.VoteResponse)

	receive(t, n, wire.Message{Kind: wire.Append, From: 2, Term: 1, Entries: blocks(t, "1/1")})
	for n.ready() {
	}
	if len(n.c.net) != 0 {
		t.Fatalf("not synced: %s", describe(&n.c.net[0]))
	}
	n.persist()
	if m := one(t, out(n), wire.AppendResponse); m.Index != 1 {
		t.Fatalf("%s", describe(&m))
	}
}

// 3.8: the last applied index can be volatile: state machines are rebuilt from
// the log.
func Test3_8_MachineIsRebuiltFromTheLog(t *testing.T) {
	c := newCluster(members(1), Tuning{})
	n := c.nodes[0]
	if err := n.start(0); err != nil {
		t.Fatal(err)
	}
	if err := n.g.Campaign(); err != nil {
		t.Fatal(err)
	}
	out(n)
	if _, _, err := n.g.Propose(commands("x", "y"), 2); err != nil {
		t.Fatal(err)
	}
	out(n)
	before := slices.Clone(n.machine)
	n.crash(0)
	if err := n.start(0); err != nil {
		t.Fatal(err)
	}
	if err := n.g.Campaign(); err != nil {
		t.Fatal(err)
	}
	out(n)
	if len(before) != 3 || len(n.machine) != 4 || !slices.Equal(n.machine[:3], before) {
		t.Errorf("before %v, after %v", before, n.machine)
	}
}

// 4.2.3: if a server receives a vote request within the minimum election timeout
// of hearing from a current leader, it does not update its term or grant its
// vote, except when the leader asked for it.
func Test4_2_3_LiveLeaderIsNotDisturbed(t *testing.T) {
	for ticks := uint64(8); ticks <= 11; ticks++ {
		for _, context := range []uint64{0, contextTransfer} {
			n := thesisGroup(t, 3, "")
			n.g.timeout = 19
			receive(t, n, wire.Message{Kind: wire.Heartbeat, From: 2, Term: 1})
			n.g.Tick(ticks)
			receive(t, n, wire.Message{Kind: wire.Vote, From: 3, Term: 9, Context: context})
			if heard := n.g.Term() == 9; heard != (ticks >= 10 || context == contextTransfer) {
				t.Errorf("vote request after %d ticks, context %d: term %d", ticks, context, n.g.Term())
			}
		}
	}
}

// 6.2: a leader steps down if an election timeout elapses without a successful
// round of heartbeats to a majority of its cluster.
func Test6_2_LeaderWithoutQuorumStepsDown(t *testing.T) {
	for answering := 0; answering <= 4; answering++ {
		n := thesisGroup(t, 5, "")
		lead(t, n)
		out(n)
		for tick := uint64(1); tick <= 20; tick++ {
			n.g.Tick(tick)
			out(n)
			for _, other := range n.c.nodes[1 : 1+answering] {
				if n.g.Role() == Leader {
					receive(t, n, wire.Message{Kind: wire.HeartbeatResponse, From: other.id, Term: 1})
				}
			}
		}
		if leads := n.g.Role() == Leader; leads != (answering+1 > 2) {
			t.Errorf("%d of 5 answer: %s", answering+1, n.g.Role())
		}
	}
}

// 6.4: to serve a read without the log, the leader (1) has committed an entry of
// its term, (2) saves its commit index as the read index, (3) makes sure it has
// not been superseded, by a round of messages acknowledged by a majority.
func Test6_4_ReadIndexNeedsAQuorumRound(t *testing.T) {
	n := thesisGroup(t, 5, "1/1")
	lead(t, n)
	out(n)
	if err := n.g.ReadIndex(1); err != nil {
		t.Fatal(err)
	}
	for _, m := range out(n) {
		if m.Kind == wire.Confirm {
			t.Fatalf("a round before the first commit: %s", describe(&m))
		}
	}
	for _, from := range []wire.ReplicaID{2, 3} {
		receive(t, n, wire.Message{Kind: wire.AppendResponse, From: from, Term: 2, Index: 2})
	}
	round := uint64(0)
	for _, m := range out(n) {
		if m.Kind == wire.Confirm {
			round = m.Context
		}
	}
	if round == 0 {
		t.Fatal("no round")
	}
	receive(t, n, wire.Message{Kind: wire.ConfirmResponse, From: 2, Term: 2, Context: round})
	if n.g.HasReady() {
		t.Error("answered after 2 of 5")
	}
	receive(t, n, wire.Message{Kind: wire.ConfirmResponse, From: 4, Term: 2, Context: round})
	if !n.g.Ready(&n.rd) || !slices.Equal(n.rd.Reads, []ReadState{{Context: 1, Index: 2}}) {
		t.Errorf("after 3 of 5: %+v", n.rd.Reads)
	}
}

// 9.6: in the pre-vote algorithm a candidate only increments its term if it first
// learns from a majority of the cluster that they would be willing to grant it
// their votes; servers that answer change neither term nor vote.
func Test9_6_PreVoteChangesNothing(t *testing.T) {
	n := thesisGroup(t, 5, "1/1 term=3")
	n.g.Tick(10)
	for range 3 {
		if sent := out(n); len(sent) != 4 || sent[0].Kind != wire.PreVote || sent[0].Term != 4 {
			t.Fatalf("sent %v", sent)
		}
		receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: 2, Term: 4})
		receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: 3, Term: 3, Reject: true})
		if n.g.Term() != 3 || n.g.Role() != PreCandidate {
			t.Fatalf("%s in term %d after 2 of 5", n.g.Role(), n.g.Term())
		}
		n.g.Tick(n.g.Deadline())
	}
	out(n)
	receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: 2, Term: 4})
	receive(t, n, wire.Message{Kind: wire.PreVoteResponse, From: 4, Term: 4})
	if n.g.Term() != 4 || n.g.Role() != Candidate {
		t.Errorf("%s in term %d after 3 of 5", n.g.Role(), n.g.Term())
	}

	voter := thesisGroup(t, 3, "1/1 term=3")
	receive(t, voter, wire.Message{Kind: wire.PreVote, From: 2, Term: 9, Index: 1, LogTerm: 1})
	if m := one(t, out(voter), wire.PreVoteResponse); m.Reject || m.Term != 9 {
		t.Errorf("%s", describe(&m))
	}
	if voter.g.Term() != 3 || voter.log.hard != (wire.HardState{Term: 3}) {
		t.Errorf("term %d, on disk %+v", voter.g.Term(), voter.log.hard)
	}
}

// 3.10: the prior leader stops accepting client requests, brings the target up to
// date, and sends it TimeoutNow.
func Test3_10_TransferOrder(t *testing.T) {
	n := thesisGroup(t, 3, "1/1 term=1")
	lead(t, n)
	out(n)
	if err := n.g.TransferLeader(3); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.g.Propose(commands("x"), 1); err != ErrTransferring {
		t.Errorf("propose: %v", err)
	}
	if sent := out(n); len(sent) != 0 {
		t.Errorf("sent %v before replica 3 is caught up", sent)
	}
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 3, Term: 2, Index: 2})
	if m := one(t, out(n), wire.TimeoutNow); m.To != 3 {
		t.Errorf("ordered %d", m.To)
	}
}

// 3.10: if leadership transfer does not complete after about an election timeout,
// the prior leader aborts the transfer and resumes accepting client requests.
func Test3_10_TransferIsGivenUp(t *testing.T) {
	n := thesisGroup(t, 3, "")
	n.c.tuning.DisableCheckQuorum = true
	lead(t, n)
	out(n)
	if err := n.g.TransferLeader(3); err != nil {
		t.Fatal(err)
	}
	n.g.Tick(9)
	if _, _, err := n.g.Propose(commands("x"), 1); err != ErrTransferring {
		t.Errorf("before: %v", err)
	}
	n.g.Tick(10)
	if _, _, err := n.g.Propose(commands("x"), 1); err != nil {
		t.Errorf("after: %v", err)
	}
}

// 4.1: changes of more than one server are not safe in one step; 4.3: they go
// through a joint configuration. All changes of configurations of up to four
// voters are tried.
func Test4_1_NeighbouringConfigurationsOverlap(t *testing.T) {
	for from := 1; from < 1<<5; from++ {
		for to := 1; to < 1<<5; to++ {
			old := &wire.Membership{MaxReplica: 5}
			var change MembershipChange
			for i := range 5 {
				id := wire.ReplicaID(i + 1)
				role := wire.Learner
				if from>>i&1 != 0 {
					role = wire.Voter
				}
				old.Members = append(old.Members, wire.Member{Replica: id, Store: wire.StoreID(id), Role: role})
				switch is, was := to>>i&1, from>>i&1; {
				case is > was:
					change.Changes = append(change.Changes, Change{Op: AddVoter, Replica: id})
				case is < was:
					change.Changes = append(change.Changes, Change{Op: AddLearner, Replica: id})
				}
			}
			next, err := change.applyTo(old)
			if from == to {
				var refused *MembershipError
				if !errors.As(err, &refused) || refused.Reason != ReasonNothing {
					t.Fatalf("no change: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if joint := isJoint(next); joint != (len(change.Changes) > 1) || !quorumsMeet(old, next) {
				t.Fatalf("from %s to %s", membersOf(old), membersOf(next))
			}
			if isJoint(next) && !quorumsMeet(next, leaveJoint(next)) {
				t.Fatalf("leaving %s", membersOf(next))
			}
		}
	}
}

// 4.3: in joint consensus, agreement for elections and for commitment requires
// majorities from both the old and the new configuration. All votes and all
// acknowledgements of two neighbours with different majorities are tried.
func Test4_3_BothMajoritiesAgree(t *testing.T) {
	// 1, 2, 3 go to 1, 4, 5: the leader counts in both.
	joint := &wire.Membership{}
	for id, role := range []wire.MemberRole{wire.Voter | wire.Outgoing, wire.Outgoing, wire.Outgoing, wire.Voter, wire.Voter} {
		joint.Members = append(joint.Members, wire.Member{Replica: wire.ReplicaID(id + 1), Store: wire.StoreID(id + 1), Role: role})
	}
	begin := func() *node {
		n := newCluster(joint, Tuning{ElectionTicks: 10, HeartbeatTicks: 1, DisablePreVote: true}).nodes[0]
		if err := n.start(0); err != nil {
			t.Fatal(err)
		}
		campaign(t, n)
		out(n)
		return n
	}
	for yes := range 1 << 4 { // a bit for each of 2 to 5
		old, coming := yes&0b0011 != 0, yes&0b1100 != 0 // one more is a majority with the leader
		n := begin()
		for i := range 4 {
			if yes>>i&1 != 0 {
				receive(t, n, wire.Message{Kind: wire.VoteResponse, From: wire.ReplicaID(i + 2), Term: 1})
			}
		}
		if won := n.g.Role() == Leader; won != (old && coming) {
			t.Errorf("votes %04b: a %s", yes, n.g.Role())
		}
		n = begin()
		for i := range 4 {
			receive(t, n, wire.Message{Kind: wire.VoteResponse, From: wire.ReplicaID(i + 2), Term: 1})
		}
		out(n)
		for i := range 4 {
			if yes>>i&1 != 0 {
				receive(t, n, wire.Message{Kind: wire.AppendResponse, From: wire.ReplicaID(i + 2), Term: 1, Index: 1})
			}
		}
		if committed := n.g.Commit() == 1; committed != (old && coming) {
			t.Errorf("acknowledged by %04b: commit %d", yes, n.g.Commit())
		}
	}
}

// 5.1: the server retains the index and term of the last entry that the snapshot
// replaces, for the consistency check of the entry behind it; once that is done it may
// drop everything up to there.
func Test5_1_CompactedLogStillChecksTheNextEntry(t *testing.T) {
	for _, term := range []wire.Term{1, 2} {
		n := thesisGroup(t, 3, "1/1 2/1 3/2 term=2 commit=3")
		out(n)
		n.log.compact(3)
		err := n.g.Step(&wire.Message{Kind: wire.Append, Group: 1, From: 2, To: 1, Term: 3, Index: 3, LogTerm: term, Entries: blocks(t, "4/3")})
		if term != 2 {
			// What is compacted was committed, so no leader has another term there.
			var fault *FaultError
			if !errors.As(err, &fault) || fault.Rule != "G7" {
				t.Errorf("an entry behind one of another term: %v", err)
			}
			continue
		}
		if m := one(t, out(n), wire.AppendResponse); err != nil || m.Reject || m.Index != 4 {
			t.Errorf("answered %s, %v", describe(&m), err)
		}
	}
}

// 5.1: the leader sends its snapshot to a follower when it has discarded the next
// entry that it needs; entries that it still has, it sends.
func Test5_1_SnapshotIsForWhoNeedsWhatIsDiscarded(t *testing.T) {
	for hint, needs := range map[wire.Index]bool{0: true, 1: true, 2: false, 3: false} {
		n := thesisGroup(t, 3, "1/1 2/1 3/1 term=1 commit=3")
		out(n)
		n.log.compact(2)
		lead(t, n)
		out(n)
		receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 2, Reject: true, Index: 3, Hint: hint, LogTerm: 1})
		asked, sent := false, false
		for n.ready() {
			asked = asked || slices.Contains(n.rd.SnapshotTo, 2)
			n.persist()
		}
		for _, m := range n.c.net {
			sent = sent || m.Kind == wire.Append && m.To == 2 && m.Index >= 2 && len(m.Entries) > 0
		}
		if asked != needs || sent == needs {
			t.Errorf("a log up to %d: snapshot %v, entries %v", hint, asked, sent)
		}
	}
}

// 5.1: a follower that gets a snapshot with information it does not have discards its
// entire log; one that holds only a prefix of its log (a retransmission, or by
// mistake) leaves the entries behind it, which are still valid.
func Test5_1_SnapshotReplacesOrIsAPrefix(t *testing.T) {
	offer := func(n *node, index wire.Index, term wire.Term) *SnapshotOffer {
		receive(t, n, wire.Message{Kind: wire.Snapshot, From: 2, Term: 3, Index: index, LogTerm: term, Context: 1})
		var got *SnapshotOffer
		for n.ready() {
			if n.rd.SnapshotOffer != nil {
				got = n.rd.SnapshotOffer
			}
			n.persist()
		}
		return got
	}
	n := thesisGroup(t, 3, "1/1 2/1 3/1")
	if got := offer(n, 2, 1); got != nil || logOf(n) != "1/1 2/1 3/1" || n.g.Commit() != 2 {
		t.Errorf("a prefix: offered %+v, log %s, commit %d", got, logOf(n), n.g.Commit())
	}
	for _, c := range []struct {
		index wire.Index
		term  wire.Term
	}{{7, 2}, {3, 2}} { // behind the log, and in conflict with it
		n := thesisGroup(t, 3, "1/1 2/1 3/1")
		got := offer(n, c.index, c.term)
		if got == nil || got.Index != c.index {
			t.Fatalf("%d/%d: offered %+v", c.index, c.term, got)
		}
		state := SnapshotState{Index: c.index, Term: c.term, Members: members(3)}
		if err := n.g.CanRestore(state); err != nil {
			t.Fatal(err)
		}
		n.log.restart(c.index, c.term)
		if err := n.g.Restore(state); err != nil {
			t.Fatal(err)
		}
		if m := one(t, out(n), wire.AppendResponse); n.g.LastIndex() != c.index || n.g.Commit() != c.index || m.Index != c.index || m.Reject {
			t.Errorf("%d/%d: log ends at %d, commit %d, answered %s", c.index, c.term, n.g.LastIndex(), n.g.Commit(), describe(&m))
		}
	}
}

// 4.2.2: a leader that is removed steps down once the entry is committed (and
// applied, here), and does not count itself before.
func Test4_2_2_RemovedLeaderStepsDown(t *testing.T) {
	n := thesisGroup(t, 3, "")
	lead(t, n)
	out(n)
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 1, Index: 1})
	out(n)
	if _, _, err := n.g.ChangeMembers(MembershipChange{Changes: []Change{{Op: Remove, Replica: 1}}}); err != nil {
		t.Fatal(err)
	}
	if out(n); n.g.Role() != Leader || n.g.Removed() {
		t.Fatalf("a %s before it is committed", n.g.Role())
	}
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 1, Index: 2})
	sent := out(n)
	if n.g.Role() != Follower || !n.g.Removed() {
		t.Errorf("a %s, removed %v", n.g.Role(), n.g.Removed())
	}
	if m := one(t, sent, wire.TimeoutNow); m.To != 2 {
		t.Errorf("ordered %d", m.To)
	}
}

// 6.4.1: a lease read needs no round of messages while the lease holds.
func Test6_4_1_LeaseIsBoundedByTheRoundsBegin(t *testing.T) {
	n := thesisGroup(t, 3, "")
	n.c.tuning.LeaseReads = true
	lead(t, n)
	out(n)
	receive(t, n, wire.Message{Kind: wire.AppendResponse, From: 2, Term: 1, Index: 1})
	n.g.Tick(1)
	round := one(t, out(n)[:1], wire.Heartbeat).Context
	n.g.Tick(5) // the answer takes a while
	receive(t, n, wire.Message{Kind: wire.HeartbeatResponse, From: 2, Term: 1, Context: round, Hint: 9})
	index, until, ok := n.g.LeaseIndex(5)
	if !ok || index != 1 || until != 1+n.c.tuning.leaseTicks(9) || until >= 1+10 {
		t.Errorf("index %d until %d, %v", index, until, ok)
	}
	if _, _, ok := n.g.LeaseIndex(until); ok {
		t.Error("a lease that is over")
	}
}
