package group

import (
	"errors"
	"testing"

	"multiraft/wire"
)

// leads returns the leader in the highest term, nil when there is none.
func (c *trio) leads() *Group {
	var leader *Group
	for _, g := range c.g {
		if g.Role() == Leader && (leader == nil || g.Term() > leader.Term()) {
			leader = g
		}
	}
	return leader
}

func (c *trio) ticks(n int) {
	for range n {
		c.tick()
		c.settle()
	}
}

// Two heartbeats: what a follower says reaches the leader, and the leader acts.
const soon = 6

func TestSlowLeaderHandsOver(t *testing.T) {
	c := newTrio(t)
	c.ticks(soon)
	term := c.g[0].Term()
	c.g[0].SetFitness(Slow)
	c.ticks(soon)
	leader := c.leads()
	if leader == nil || leader == c.g[0] || leader.Term() != term+1 {
		t.Fatalf("%+v leads", leader)
	}
	c.ticks(200)
	if c.leads() != leader {
		t.Error("the leadership moved on")
	}
}

// A leader knows who is slow, also when nothing is written, and hands over to
// another one, or to nobody.
func TestSlowLeaderSparesSlowVoters(t *testing.T) {
	c := newTrio(t)
	c.ticks(soon)
	c.g[1].SetFitness(Hung)
	c.ticks(soon)
	c.g[0].SetFitness(Slow)
	c.ticks(soon)
	if leader := c.leads(); leader != c.g[2] {
		t.Fatalf("replica %d leads, want 3", leader.Replica())
	}
	c.g[2].SetFitness(Slow)
	c.ticks(200)
	if leader := c.leads(); leader != c.g[2] {
		t.Fatalf("replica %d leads, want 3: all are slow", leader.Replica())
	}
	var st Status
	c.g[2].Status(&st)
	if st.Fitness != Slow || !st.Progress[0].Slow || !st.Progress[1].Slow {
		t.Errorf("%+v", st)
	}
	c.g[1].SetFitness(Fit)
	c.ticks(soon)
	if leader := c.leads(); leader != c.g[1] {
		t.Fatalf("replica %d leads, want 2, which is fit again", leader.Replica())
	}
}

// A replica of higher priority does not get the leadership while it is slow, and
// gets it back when it is fit, though nothing is written meanwhile.
func TestPriorityWaitsForFitness(t *testing.T) {
	c := newTrio(t)
	for _, g := range c.g {
		g.priority = map[wire.ReplicaID]uint8{1: 2}
	}
	c.ticks(soon)
	c.g[0].SetFitness(Slow)
	c.ticks(200)
	if leader := c.leads(); leader == nil || leader == c.g[0] {
		t.Fatalf("replica %d leads", leader.Replica())
	}
	c.g[0].SetFitness(Fit)
	c.ticks(100)
	if leader := c.leads(); leader != c.g[0] {
		t.Fatalf("replica %d leads, want 1", leader.Replica())
	}
}

// A hung leader steps down, whatever it was about to do, neither campaigns nor is
// elected, by nobody's order, and grants no pre-vote; recovered, it may lead again.
func TestHungReplicaDoesNotLead(t *testing.T) {
	c := newTrio(t)
	c.ticks(soon)
	g, term := c.g[0], c.g[0].Term()
	g.SetFitness(Hung)
	if g.Role() != Follower || g.Leader() != 0 {
		t.Fatalf("a hung replica is %v", g.Role())
	}
	if err := g.Campaign(); !errors.Is(err, ErrHung) {
		t.Errorf("campaign: %v", err)
	}
	pre := wire.Message{Kind: wire.PreVote, Group: 1, From: 2, To: 1, Term: term + 1, Index: 100, LogTerm: term}
	if err := g.Step(&pre); err != nil {
		t.Fatal(err)
	}
	var rd Ready
	if !g.Ready(&rd) || len(rd.Messages) != 1 || !rd.Messages[0].Reject {
		t.Errorf("pre-vote was answered with %+v", rd.Messages)
	}
	// The others are cut off: it stays silent for as long as it takes.
	for range 400 {
		c.now++
		g.Tick(c.now)
		if g.Ready(&rd) {
			t.Fatalf("it sends %+v", rd.Messages)
		}
	}
	beat := wire.Message{Kind: wire.Heartbeat, Group: 1, From: 3, To: 1, Term: term + 1}
	order := wire.Message{Kind: wire.TimeoutNow, Group: 1, From: 3, To: 1, Term: term + 1}
	for _, m := range []*wire.Message{&beat, &order} {
		if err := g.Step(m); err != nil {
			t.Fatal(err)
		}
	}
	if g.Role() != Follower || g.Term() != term+1 {
		t.Errorf("ordered to campaign it is %v in term %d", g.Role(), g.Term())
	}
	g.SetFitness(Fit)
	if g.Deadline() > c.now+2*20 {
		t.Errorf("deadline %d at %d: a fit replica campaigns within two time-outs", g.Deadline(), c.now)
	}
}

// A candidate whose disk hangs after its own vote was durable does not lead when
// the votes of others come.
func TestHungCandidateDoesNotLead(t *testing.T) {
	c := newTrio(t)
	g := c.g[1]
	for g.Role() != PreCandidate {
		c.now++
		g.Tick(c.now)
	}
	grant := wire.Message{Kind: wire.PreVoteResponse, Group: 1, From: 3, To: 2, Term: g.Term() + 1}
	if err := g.Step(&grant); err != nil {
		t.Fatal(err)
	}
	c.take(1)
	c.ack(1)
	g.SetFitness(Hung)
	vote := wire.Message{Kind: wire.VoteResponse, Group: 1, From: 3, To: 2, Term: g.Term()}
	if err := g.Step(&vote); err != nil {
		t.Fatal(err)
	}
	if g.Role() != Follower || g.Err() != nil {
		t.Errorf("it is %v, %v", g.Role(), g.Err())
	}
}

// A slow replica leaves elections to others, and leads when there are none.
func TestSlowReplicaCampaignsLast(t *testing.T) {
	for seed := range uint64(20) {
		c := newTrio(t)
		c.ticks(soon)
		for range seed {
			c.g[1].rand.Uint64() // another time-out each time
		}
		c.g[1].SetFitness(Slow)
		waits := func(g *Group) (n uint64) {
			for now := c.now; g.Role() == Follower; n++ {
				g.Tick(now + n)
			}
			return n
		}
		slow, fit := waits(c.g[1]), waits(c.g[2])
		if slow < 2*20 || fit >= 2*20 {
			t.Fatalf("the slow one waited %d ticks, the other one %d", slow, fit)
		}
	}
}

// A group without other voters gains nothing from a leader that steps down.
func TestLonelyHungLeaderStays(t *testing.T) {
	g, err := New(Config{Group: 1, Replica: 1, Members: members(1), Storage: new(memLog), Rand: fixedRand(1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Campaign(); err != nil {
		t.Fatal(err)
	}
	var rd Ready
	for g.Ready(&rd) {
		if rd.Seq != 0 {
			g.Persisted(rd.Ack())
		}
	}
	g.SetFitness(Hung)
	for now := range uint64(100) {
		g.Tick(now)
	}
	if g.Role() != Leader {
		t.Errorf("it is %v", g.Role())
	}
}

// Who is slow is known by place, and places change with the membership.
func TestSlowVoterStaysKnownOverChanges(t *testing.T) {
	c := newTrio(t)
	c.ticks(soon)
	c.g[2].SetFitness(Slow)
	c.ticks(soon)
	g := c.g[0]
	if _, _, err := g.ChangeMembers(MembershipChange{Changes: []Change{{Op: Remove, Replica: 2}}}); err != nil {
		t.Fatal(err)
	}
	c.ticks(soon)
	var st Status
	g.Status(&st)
	if len(st.Progress) != 1 || st.Progress[0].Replica != 3 || !st.Progress[0].Slow {
		t.Errorf("%+v", st.Progress)
	}
}

// A follower whose disk hangs cannot say so, as what says it would be durable first. What
// is known is that it owes an answer for longer than from one heartbeat to the next:
// another one comes first, whatever the priorities are.
func TestSlowLeaderSparesWhoOwesAnswers(t *testing.T) {
	c := newTrio(t)
	for _, g := range c.g {
		g.priority = map[wire.ReplicaID]uint8{1: 3, 2: 2}
	}
	c.ticks(soon)
	g := c.g[0]
	// Nothing becomes durable here any more, nor on store 2: nothing is committed.
	if _, _, err := g.Propose(c.payload(1), 1); err != nil {
		t.Fatal(err)
	}
	ordered := wire.ReplicaID(0)
	drain := func() {
		var rd Ready
		for g.HasReady() && g.Ready(&rd) {
			for i := range rd.Messages {
				switch m := &rd.Messages[i]; {
				case m.Kind == wire.TimeoutNow:
					ordered = m.To
				case m.Kind == wire.Heartbeat:
					answer := wire.Message{Kind: wire.HeartbeatResponse, Group: 1, From: m.To, To: 1, Term: m.Term, Context: m.Context}
					if err := g.Step(&answer); err != nil {
						t.Fatal(err)
					}
				case m.Kind == wire.Append && m.To == 3:
					answer := wire.Message{Kind: wire.AppendResponse, Group: 1, From: 3, To: 1, Term: m.Term, Index: g.log.last()}
					if err := g.Step(&answer); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	drain()
	for range soon {
		c.now++
		g.Tick(c.now)
		drain()
	}
	g.SetFitness(Slow)
	c.now++
	g.Tick(c.now)
	drain()
	if ordered != 3 {
		t.Errorf("replica %d is to lead, want 3", ordered)
	}
}
