package group

import (
	"errors"
	"slices"
	"testing"

	"multiraft/wire"
)

// wound has a node that is down lose its entries, and starts it as the host that
// found that out does.
func (n *node) wound(t *testing.T) {
	t.Helper()
	last := n.log.Last()
	term, err := n.log.Term(last)
	if err != nil {
		t.Fatal(err)
	}
	*n.log = memLog{hard: n.log.hard, base: last, baseTerm: term}
	n.config.Wounded = true
	if err := n.start(0); err != nil {
		t.Fatal(err)
	}
	n.config.Wounded = false
}

// kindsFrom returns the kinds of the messages that a node has sent, and takes them
// out of the network.
func kindsFrom(c *cluster, id wire.ReplicaID) (kinds []wire.MessageKind) {
	c.net = slices.DeleteFunc(c.net, func(m wire.Message) bool {
		if m.From == id {
			kinds = append(kinds, m.Kind)
		}
		return m.From == id
	})
	return kinds
}

func startedCluster(t *testing.T, leader wire.ReplicaID) (*cluster, []wire.ReplicaID) {
	t.Helper()
	c := newCluster(members(3), Tuning{})
	c.sendsSnapshots = true
	for _, n := range c.nodes {
		if err := n.start(0); err != nil {
			t.Fatal(err)
		}
	}
	up := c.all()
	if err := c.node(leader).g.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.settle(up...)
	return c, up
}

func (c *cluster) proposeOne(t *testing.T, at wire.ReplicaID, command string) {
	t.Helper()
	b := wire.AppendPayload(wire.NewBlock(nil), []byte(command))
	if _, _, err := c.node(at).g.Propose(b, 1); err != nil {
		t.Fatal(err)
	}
}

// TestWoundedReplicaKeepsItsPromises: one that has lost its entries votes only for
// logs that reach as far as its own did, takes no entries, never campaigns, and does
// not take a snapshot that holds less than it has acknowledged.
func TestWoundedReplicaKeepsItsPromises(t *testing.T) {
	c, up := startedCluster(t, 1)
	for range 5 {
		c.proposeOne(t, 1, "a")
		c.settle(up...)
	}
	n := c.node(3)
	n.crash(0)
	n.wound(t)
	g := n.g
	last, term, wounded := g.Wounded()
	if !wounded || last != 6 || term != 1 {
		t.Fatalf("wounded %v at %d/%d", wounded, last, term)
	}
	if err := g.Campaign(); !errors.Is(err, ErrWounded) {
		t.Errorf("campaign: %v", err)
	}
	step := func(m wire.Message) {
		t.Helper()
		m.Group, m.To = g.id, 3
		if err := g.Step(&m); err != nil {
			t.Fatal(err)
		}
	}
	take := func() []wire.MessageKind {
		for n.ready() {
			n.persist()
		}
		return kindsFrom(c, 3)
	}
	b := wire.AppendPayload(wire.NewBlock(nil), []byte("b"))
	b.Seal(g.id, 7, 1, wire.EntryCommand, 1)
	step(wire.Message{Kind: wire.Append, From: 1, Term: 1, Index: 6, LogTerm: 1, Commit: 7, Entries: b})
	step(wire.Message{Kind: wire.Heartbeat, From: 1, Term: 1, Commit: 6})
	if kinds := take(); !slices.Equal(kinds, []wire.MessageKind{wire.HeartbeatResponse}) {
		t.Errorf("it answers %v to a leader", kinds)
	}
	if g.LastIndex() != 6 || g.Role() != Follower {
		t.Errorf("last entry %d, %v", g.LastIndex(), g.Role())
	}
	c.now += 1000
	g.Tick(c.now)
	if kinds := take(); len(kinds) > 0 || g.Role() != Follower {
		t.Errorf("without a leader it is a %v and says %v", g.Role(), kinds)
	}
	for i, ask := range []struct {
		index wire.Index
		term  wire.Term
		grant bool
	}{{5, 1, false}, {6, 1, true}, {2, 2, true}} {
		g := wire.Term(10 + i)
		step(wire.Message{Kind: wire.Vote, From: 2, Term: g, Index: ask.index, LogTerm: ask.term})
		take()
		if granted := n.g.vote == 2; granted != ask.grant || n.g.Term() != g {
			t.Errorf("a log that ends at %d/%d: granted %v in term %d", ask.index, ask.term, granted, n.g.Term())
		}
	}
	state := func(index wire.Index, term wire.Term) SnapshotState {
		return SnapshotState{Index: index, Term: term, Members: c.members}
	}
	for _, s := range []struct {
		state SnapshotState
		want  error
	}{{state(5, 1), ErrSnapshotOld}, {state(6, 1), nil}, {state(7, 1), nil}, {state(6, 3), nil}} {
		if err := g.CanRestore(s.state); !errors.Is(err, s.want) {
			t.Errorf("snapshot at %d/%d: %v, want %v", s.state.Index, s.state.Term, err, s.want)
		}
	}
}

// TestWoundPersistsTheVote: the Ready that meets an entry that cannot be read takes a
// vote along, and is dropped. The vote is answered only when it is durable all the same.
func TestWoundPersistsTheVote(t *testing.T) {
	c, up := startedCluster(t, 1)
	c.proposeOne(t, 1, "a")
	c.settle(up...)
	n := c.node(3)
	n.crash(0)
	if err := n.start(0); err != nil {
		t.Fatal(err)
	}
	g := n.g
	if g.commit == 0 {
		t.Fatal("nothing is left to apply")
	}
	n.log.err = wire.ErrDamaged
	vote := wire.Message{Kind: wire.Vote, Group: g.id, To: 3, From: 2, Term: 5, Index: 2, LogTerm: 1}
	if err := g.Step(&vote); err != nil {
		t.Fatal(err)
	}
	if n.ready() || g.fault == nil {
		t.Fatalf("an entry that cannot be read: %v", g.fault)
	}
	if err := g.Wound(); err != nil {
		t.Fatal(err)
	}
	kindsFrom(c, 3)
	if !n.ready() || !n.rd.SyncHardState || n.rd.HardState.Term != 5 || n.rd.HardState.Vote != 2 {
		t.Fatalf("to be persisted: %+v", n.rd.HardState)
	}
	if kinds := kindsFrom(c, 3); len(kinds) > 0 {
		t.Errorf("it says %v before that is durable", kinds)
	}
	n.persist()
	for n.ready() {
	}
	if kinds := kindsFrom(c, 3); !slices.Equal(kinds, []wire.MessageKind{wire.VoteResponse}) {
		t.Errorf("it says %v then", kinds)
	}
}

// TestWoundOfALeader: it steps down, has the best of the others campaign, drops what
// nobody has heard of, and reports a fault of another kind instead of hiding it.
func TestWoundOfALeader(t *testing.T) {
	c, up := startedCluster(t, 1)
	c.proposeOne(t, 1, "a")
	c.settle(up...)
	g := c.node(1).g
	c.proposeOne(t, 1, "never handed out")
	last := g.log.handed
	if err := g.Wound(); err != nil {
		t.Fatal(err)
	}
	if at, _, ok := g.Wounded(); !ok || at != last || g.Role() != Follower {
		t.Fatalf("wounded %v at %d, want %d; %v", ok, at, last, g.Role())
	}
	c.settle(up...)
	if lead := c.node(2).g.Leader(); lead != 2 && lead != 3 {
		t.Fatalf("replica %d leads", lead)
	}
	if g.Leader() != c.node(2).g.Leader() || g.Term() != 2 {
		t.Errorf("it follows %d in term %d", g.Leader(), g.Term())
	}
	other := c.node(3).g
	_ = other.fail("G7", 1, "planted") // kept in its fault
	if err := other.Wound(); err == nil || other.isWounded() {
		t.Errorf("a fault that is no damage is lifted: %v", err)
	}
}
