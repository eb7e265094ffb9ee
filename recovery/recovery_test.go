package recovery_test

import (
	"errors"
	"slices"
	"testing"

	"multiraft/group"
	"multiraft/raftlog"
	"multiraft/recovery"
	"multiraft/wire"
)

var five = []wire.StoreID{1, 2, 3, 4, 5}

// phase is a group of five at some moment, of which some stores are then lost.
type phase struct {
	name      string
	survivors []wire.StoreID
	dead      []wire.StoreID
	mayLose   bool
	loses     bool         // acknowledged writes are really lost
	silent    wire.StoreID // of the dead, one without a vote, which asks nobody and is told by nobody
	before    func(c *cluster)
	check     func(t *testing.T, p *recovery.GroupPlan)
}

func phases() []phase {
	return []phase{
		{
			name: "idle", survivors: []wire.StoreID{1, 2}, dead: []wire.StoreID{3, 4, 5}, mayLose: true,
			before: func(*cluster) {},
		},
		{
			name: "behind", survivors: []wire.StoreID{4, 5}, dead: []wire.StoreID{1, 2, 3}, mayLose: true, loses: true,
			before: func(c *cluster) {
				c.partition(4, 5)
				c.write(5, 1, 2, 3)
			},
		},
		{
			name: "uncommitted tail", survivors: []wire.StoreID{1, 2}, dead: []wire.StoreID{3, 4, 5}, mayLose: true,
			before: func(c *cluster) {
				c.until("store 1 leads", func() bool { return lead(c, 1) })
				c.partition(1)
				d := new(done)
				for range 4 {
					c.propose(d, 1) // nobody else hears of it
				}
				c.tick()
			},
			check: func(t *testing.T, p *recovery.GroupPlan) {
				if p.Last < p.Committed+4 || p.Source != 1 {
					t.Errorf("source %d, committed %d, last %d", p.Source, p.Committed, p.Last)
				}
			},
		},
		{
			name: "tails of two terms", survivors: []wire.StoreID{1, 2}, dead: []wire.StoreID{3, 4, 5}, mayLose: true,
			before: func(c *cluster) {
				c.until("store 1 leads", func() bool { return lead(c, 1) })
				c.partition(1)
				d := new(done)
				for range 6 {
					c.propose(d, 1)
				}
				c.write(2, 2, 3, 4, 5) // another leader, and a shorter log of a higher term
				c.until("store 2 has it", func() bool { return len(c.sites[2].machine.commands) == len(c.acked) })
			},
			check: func(t *testing.T, p *recovery.GroupPlan) {
				if p.Source != 2 || len(p.Notes) == 0 {
					t.Errorf("source %d, notes %q", p.Source, p.Notes)
				}
			},
		},
		{
			name: "learner has most", survivors: []wire.StoreID{4, 5}, dead: []wire.StoreID{1, 2, 3}, mayLose: true,
			before: func(c *cluster) {
				ok := c.change(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 5}}}, five...)
				c.until("5 is a learner", func() bool { return *ok })
				c.partition(4)
				c.write(5, 1, 2, 3, 5)
				c.until("the learner has it", func() bool { return len(c.sites[5].machine.commands) == len(c.acked) })
			},
			check: func(t *testing.T, p *recovery.GroupPlan) {
				if p.Source != 5 || len(p.After) != 2 || !p.After[1].Voter {
					t.Errorf("source %d, after %+v", p.Source, p.After)
				}
			},
		},
		{
			// What was committed since has a majority of 1, 4 and 5 as well.
			name: "joint", survivors: []wire.StoreID{1, 4}, dead: []wire.StoreID{2, 3, 5}, mayLose: false,
			before: func(c *cluster) {
				c.change(group.MembershipChange{Leave: group.LeaveExplicit, Changes: []group.Change{
					{Op: group.Remove, Replica: 2}, {Op: group.Remove, Replica: 3},
				}}, five...)
				c.until("joint on all", func() bool {
					return !slices.ContainsFunc(five, func(id wire.StoreID) bool {
						g, ok := c.sites[id].store.Group(1)
						return !ok || !g.Membership().Joint
					})
				})
				c.write(2, five...)
			},
			check: func(t *testing.T, p *recovery.GroupPlan) {
				if len(p.Lost) != 3 || len(p.Before.Members) != 5 {
					t.Errorf("lost %+v of %+v", p.Lost, p.Before)
				}
			},
		},
		{
			name: "change on its way", survivors: []wire.StoreID{1, 2}, dead: []wire.StoreID{3, 4, 5}, mayLose: true,
			before: func(c *cluster) {
				c.until("store 1 leads", func() bool { return lead(c, 1) })
				c.partition(1, 2)
				c.change(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: 2}}}, 1)
				c.tick()
			},
			check: func(t *testing.T, p *recovery.GroupPlan) {
				if len(p.Pending) != 1 || len(p.After) != 2 {
					t.Errorf("pending %+v, after %+v", p.Pending, p.After)
				}
			},
		},
		{
			name: "half of four", survivors: []wire.StoreID{1, 2}, dead: []wire.StoreID{3, 4, 5}, silent: 5, mayLose: false,
			before: func(c *cluster) {
				ok := c.change(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 5}}}, five...)
				c.until("5 is a learner", func() bool { return *ok })
				c.partition(2)
				c.write(3, 1, 3, 4)
			},
		},
	}
}

// lead has a store lead.
func lead(c *cluster, id wire.StoreID) bool {
	g := c.leader(five...)
	if g != nil && g.Store().ID() != id {
		c.t.Helper()
		if err := c.sites[g.Store().ID()].steps.TransferLeader(g, wire.ReplicaID(id)); err != nil {
			c.t.Fatal(err)
		}
		for range 5 {
			c.tick()
		}
		return false
	}
	return g != nil
}

// TestRecover: a majority is lost in some phase; the plan tells what may be lost, and
// is carried out; the survivors serve, with nothing lost but what was told; and those
// who come back learn that they are barred, even when they are a majority of the old
// members among themselves.
func TestRecover(t *testing.T) {
	for _, compacted := range []bool{false, true} {
		for _, ph := range phases() {
			name := ph.name
			if compacted {
				name += ", with snapshots"
			}
			t.Run(name, func(t *testing.T) { testRecover(t, ph, compacted) })
		}
	}
}

func testRecover(t *testing.T, ph phase, compacted bool) {
	c := newCluster(t, 5)
	if compacted {
		c.snapshots = 4
	}
	c.open(five...)
	c.start(members(five...), five...)
	c.write(6, five...)
	c.until("all have it", func() bool {
		return !slices.ContainsFunc(five, func(id wire.StoreID) bool { return len(c.sites[id].machine.commands) < len(c.acked) })
	})
	ph.before(c)
	c.kill(five...)
	c.cut = nil

	p := c.plan(recovery.Options{}, ph.survivors...)
	if len(p.Groups) != 1 {
		t.Fatalf("plan %+v", p)
	}
	plan := &p.Groups[0]
	if plan.MayLose != ph.mayLose {
		t.Errorf("may lose: %v, want %v", plan.MayLose, ph.mayLose)
	}
	if ph.check != nil {
		ph.check(t, plan)
	}
	c.apply(p, ph.survivors...)
	c.apply(p, ph.survivors...) // once more does no harm
	c.open(ph.survivors...)
	c.start(nil, ph.survivors...)
	before := slices.Clone(c.acked)
	c.serves(ph.survivors...)

	// Entries are commands, but for those of elections and members; the source's log
	// is a prefix of what was acknowledged, or longer.
	have := c.sites[ph.survivors[0]].machine.commands
	kept := 0
	for kept < len(before) && kept < len(have) && have[kept] == before[kept] {
		kept++
	}
	if kept < len(before) && !ph.loses {
		t.Errorf("lost %q", before[kept:])
	}
	if ph.loses && kept == len(before) {
		t.Error("nothing was lost: the phase tests nothing")
	}
	if kept < len(before) && !plan.MayLose {
		t.Error("the plan said that nothing would be lost")
	}

	// The dead come back, alone at first: they are a majority, and go on.
	c.partition(ph.survivors...)
	c.open(ph.dead...)
	c.start(nil, ph.dead...)
	for range 60 {
		c.tick()
	}
	c.cut = nil
	have = slices.Clone(have)
	c.expectBarred(slices.DeleteFunc(slices.Clone(ph.dead), func(id wire.StoreID) bool { return id == ph.silent })...)
	c.serves(ph.survivors...)
	for _, id := range ph.survivors {
		if got := c.sites[id].machine.commands; len(got) < len(have) || !slices.Equal(got[:len(have)], have) {
			t.Errorf("store %d: has %q, had %q", id, got, have)
		}
		g, _ := c.sites[id].store.Group(1)
		if st := g.Status(); st.Err != nil || st.Recoveries != 1 {
			t.Errorf("store %d: %+v", id, st)
		}
	}

	// A barred store gets a new replica, which takes the place of the old one.
	back := ph.dead[0]
	next := wire.ReplicaID(0)
	for _, m := range c.leader(ph.survivors...).Membership().Members {
		next = max(next, m.Replica)
	}
	next = max(next, c.leader(ph.survivors...).Membership().MaxReplica) + 1
	if next <= plan.Ceiling {
		t.Errorf("the next replica is %d, up to %d are barred", next, plan.Ceiling)
	}
	ok := c.change(group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: next, Store: back}}}, ph.survivors...)
	c.until("a learner is added", func() bool { return *ok })
	c.until("it catches up", func() bool {
		s := c.sites[back]
		return s.machine != nil && slices.Equal(s.machine.commands, c.sites[ph.survivors[0]].machine.commands)
	})
}

// TestLeftAlone: a group with a quorum is for its leader.
func TestLeftAlone(t *testing.T) {
	c := newCluster(t, 5)
	c.open(five...)
	c.start(members(five...), five...)
	c.write(2, five...)
	c.kill(five...)
	surveys := c.survey(1, 2, 3)
	p, err := recovery.NewPlan(surveys, recovery.Options{})
	if !errors.Is(err, recovery.ErrNothing) || len(p.Left) != 1 {
		t.Fatalf("plan %+v, %v", p, err)
	}
	var quorum *recovery.QuorumError
	if _, err := recovery.NewPlan(surveys, recovery.Options{Groups: []wire.GroupID{1}}); !errors.As(err, &quorum) {
		t.Errorf("it was planned with a quorum: %v", err)
	}
	var input *recovery.InputError
	if _, err := recovery.NewPlan(surveys, recovery.Options{Force: "a drill"}); !errors.As(err, &input) {
		t.Errorf("everything was planned by force: %v", err)
	}
	p = c.plan(recovery.Options{Groups: []wire.GroupID{1}, Force: "a drill", Voters: []wire.StoreID{2}}, 1, 2, 3)
	c.apply(p, 1, 2, 3)
	c.open(1, 2, 3)
	c.start(nil, 1, 2, 3)
	c.serves(1, 2, 3)
	voters := 0
	for _, m := range c.leader(1, 2, 3).Membership().Members {
		if m.Role == wire.Voter {
			voters++
		}
	}
	if want := 2; voters != want && p.Groups[0].Source != 2 || voters > want {
		t.Errorf("%d voters after %+v", voters, p.Groups[0])
	}
}

// TestApplyRefuses: nothing is done to a store that is open, is not in the plan, or
// has changed, nor without the confirmation.
func TestApplyRefuses(t *testing.T) {
	c := newCluster(t, 3)
	all := []wire.StoreID{1, 2, 3}
	c.open(all...)
	c.start(members(all...), all...)
	c.write(2, all...)
	if _, err := c.disk(1).Survey(); !errors.Is(err, raftlog.ErrLocked) {
		t.Errorf("survey of an open store: %v", err)
	}
	c.kill(all...)
	p := c.plan(recovery.Options{}, 1)
	confirm, err := p.Confirmation()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.disk(1).Apply(p, recovery.ApplyOptions{Confirm: "yes"}); !errors.Is(err, recovery.ErrConfirm) {
		t.Errorf("without confirmation: %v", err)
	}
	if _, err := c.disk(2).Apply(p, recovery.ApplyOptions{Confirm: confirm}); !errors.Is(err, recovery.ErrNotPlanned) {
		t.Errorf("another store: %v", err)
	}
	c.open(1)
	if _, err := c.disk(1).Apply(p, recovery.ApplyOptions{Confirm: confirm}); !errors.Is(err, raftlog.ErrLocked) {
		t.Errorf("open store: %v", err)
	}
	c.open(2, 3)
	c.start(nil, all...)
	c.write(1, all...)
	c.kill(all...)
	var changed *recovery.ChangedError
	if _, err := c.disk(1).Apply(p, recovery.ApplyOptions{Confirm: confirm}); !errors.As(err, &changed) || changed.Group != 1 {
		t.Errorf("store that has changed: %v", err)
	}
	if records, err := c.disk(1).Records(); err != nil || len(records) != 0 {
		t.Errorf("records of refusals: %v, %v", records, err)
	}
	edited := *p
	edited.Groups = slices.Clone(p.Groups)
	edited.Groups[0].Term++
	if _, err := c.disk(1).Apply(&edited, recovery.ApplyOptions{Confirm: confirm}); !errors.Is(err, recovery.ErrConfirm) {
		t.Errorf("plan that was edited: %v", err)
	}
}
