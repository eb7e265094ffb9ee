package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// site is a store with a disk of its own, and the machine that it keeps.
type site struct {
	id      wire.StoreID
	disk    *vfs.MemFS
	store   *engine.Store
	steps   *engine.Stepper
	machine *kept
	writes  int // log steps that wrote something
}

// kept is a machine whose state outlives crashes at once, the strictest one:
// nothing may be applied twice, or before it is sure to be found again.
type kept struct {
	applied  wire.Index
	commands []string
}

func (k *kept) Apply(entries []engine.Entry) error {
	for _, e := range entries {
		if e.Index <= k.applied {
			return fmt.Errorf("entry %d is applied again", e.Index)
		}
		k.applied = e.Index
		k.commands = append(k.commands, string(e.Command))
	}
	return nil
}
func (k *kept) Query(any) (any, error)            { return nil, nil }
func (k *kept) AppliedIndex() (wire.Index, error) { return k.applied, nil }

// crashRun is a group whose members change while one of its stores crashes.
type crashRun struct {
	t     *testing.T
	relay relay
	sites []*site
	// crash says when: before or after the write number crash.write of a site.
	crash struct {
		site, write int
		after       bool
	}
	crashed bool
	loses   func(to *site) bool // drops what is on its way to a store
	acked   []string
	noise   tally        // writes besides, of which nobody counts the outcome
	changes []wire.Index // the memberships that were in force somewhere
}

const crashSites = 5

func newCrashRun(t *testing.T) *crashRun {
	c := &crashRun{t: t}
	for id := wire.StoreID(1); id <= crashSites; id++ {
		c.sites = append(c.sites, &site{id: id, disk: vfs.New(vfs.Options{})})
	}
	for _, s := range c.sites {
		c.open(s)
	}
	for _, s := range c.sites[:3] {
		s.machine = &kept{}
		c.start(s, engine.GroupConfig{ID: 1, Members: threeMembers})
	}
	return c
}

func (c *crashRun) open(s *site) {
	c.t.Helper()
	store, steps, err := engine.OpenStepped(engine.Config{
		Cluster: 7, ID: s.id, Dir: "/store", FS: s.disk, Seed: uint64(s.id), Transport: c.relay.end(s.id),
		SegmentBytes: 128 << 10, MaxCommandBytes: 1 << 10, Workers: 1, Appliers: 1, Tuning: group.Tuning{ElectionTicks: 10},
		Join: func(engine.JoinRequest) (engine.GroupConfig, error) {
			s.machine = &kept{}
			return engine.GroupConfig{StateMachine: s.machine}, nil
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	s.store, s.steps = store, steps
}

func (c *crashRun) start(s *site, cfg engine.GroupConfig) {
	c.t.Helper()
	cfg.StateMachine = s.machine
	_, err := s.store.StartGroup(context.Background(), cfg)
	var removed *engine.ReplicaRemovedError
	if err != nil && !errors.As(err, &removed) {
		c.t.Fatalf("start on store %d: %v", s.id, err)
	}
}

// restart loses what was not synced, and comes back.
func (c *crashRun) restart(s *site) {
	c.t.Helper()
	c.crashed = true
	s.disk = s.disk.CrashClone(rand.New(rand.NewPCG(1, 2)), vfs.AllLost)
	c.open(s)
	stored, err := s.store.Stored()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, g := range stored {
		c.start(s, engine.GroupConfig{ID: g.ID})
	}
	if g, runs := s.store.Group(1); runs {
		for _, change := range c.changes {
			if change <= s.machine.applied && g.Membership().Index < change {
				c.t.Errorf("store %d: applied %d durably and begins with the membership of %d, not of %d; crash %+v",
					s.id, s.machine.applied, g.Membership().Index, change, c.crash)
			}
		}
	}
	if len(stored) == 0 && int(s.id) <= 3 {
		// It crashed before it had stored the group, or after it had left it.
		if s.machine == nil || s.machine.applied == 0 {
			s.machine = &kept{}
		}
		c.start(s, engine.GroupConfig{ID: 1, Members: threeMembers})
	}
}

// write lets a store write its log, and crashes it if it is time.
func (c *crashRun) write(s *site) bool {
	due := !c.crashed && c.crash.site == int(s.id) && s.writes+1 == c.crash.write
	if queued := s.steps.Woken().Log; due && queued && !c.crash.after {
		c.restart(s)
		return true
	}
	calls := s.disk.Calls()
	did := s.steps.Log()
	if s.disk.Calls() > calls {
		s.writes++
		if due && c.crash.after {
			c.restart(s)
		}
	}
	return did
}

func (c *crashRun) tick() {
	for _, s := range c.sites {
		s.steps.Tick()
	}
	for again := true; again; {
		again = false
		for _, s := range c.sites {
			// The log comes last: what does not wait for it shows.
			for s.steps.Worker(0) || s.steps.Applier(0) {
				again = true
			}
			again = c.write(s) || again
			if g, runs := s.store.Group(1); runs && !slices.Contains(c.changes, g.Membership().Index) {
				c.changes = append(c.changes, g.Membership().Index)
			}
			again = s.steps.Events() || again
			again = s.steps.Join() || again
			if c.loses != nil && c.loses(s) {
				c.relay.stores[s.id].inbox = nil
			}
			again = c.relay.stores[s.id].deliver() || again
		}
	}
}

func (c *crashRun) leader() *engine.Group {
	for _, s := range c.sites {
		if g, ok := s.store.Group(1); ok && g.Err() == nil && g.IsLeader() {
			return g
		}
	}
	return nil
}

// until ticks until a condition holds.
func (c *crashRun) until(what string, condition func() bool) {
	c.t.Helper()
	for range 2000 {
		if condition() {
			return
		}
		c.tick()
	}
	for _, s := range c.sites {
		if g, runs := s.store.Group(1); runs {
			c.t.Logf("store %d: %+v", s.id, g.Status())
		}
		if s.machine != nil {
			c.t.Logf("store %d: machine at %d: %v", s.id, s.machine.applied, s.machine.commands)
		}
	}
	c.t.Fatalf("%s: not reached in 2000 ticks; crash %+v", what, c.crash)
}

// step brings the group to a membership that done knows, asking its leader for
// the change again when the answer got lost.
func (c *crashRun) step(what string, change func(engine.Membership) group.MembershipChange, done func(engine.Membership) bool) {
	c.t.Helper()
	var asked *engine.Store
	c.until(what, func() bool {
		g := c.leader()
		if g == nil {
			return false
		}
		m := g.Membership()
		if done(m) {
			return true
		}
		if asked == g.Store() {
			return false
		}
		asked = g.Store()
		err := g.ChangeMembersAsync(change(m), func(_ engine.Membership, err error) {
			var refused *group.MembershipError
			if err != nil {
				asked = nil
			}
			if errors.As(err, &refused) && refused.Reason != group.ReasonPending && refused.Reason != group.ReasonJoint {
				c.t.Errorf("%s: %v", what, err)
			}
		})
		if err != nil {
			asked = nil
		}
		for range 3 { // what comes right behind a change is committed with it
			if err := g.ProposeAsync([]byte(noise), engine.NewPending(&c.noise)); err != nil {
				break // it just lost its leadership
			}
		}
		return false
	})
}

// catchUp waits until the leader knows that a learner runs.
func (c *crashRun) catchUp(id wire.ReplicaID) {
	c.t.Helper()
	c.until(fmt.Sprintf("replica %d catches up", id), func() bool {
		g := c.leader()
		return g != nil && slices.ContainsFunc(g.Status().Progress, func(p group.Progress) bool { return p.Replica == id && p.Match > 0 })
	})
}

// propose writes one command, as often as needed.
func (c *crashRun) propose() {
	c.t.Helper()
	command := fmt.Sprint(len(c.acked))
	var count outcome
	pending := engine.NewPending(&count)
	var asked *engine.Store
	c.until("write "+command, func() bool {
		g := c.leader()
		if count.done > count.failed {
			c.acked = append(c.acked, command)
			return true
		}
		if g == nil || asked == g.Store() && count.done == 0 {
			return false
		}
		asked, count = g.Store(), outcome{}
		pending = engine.NewPending(&count)
		if g.ProposeAsync([]byte(command), pending) != nil {
			asked = nil
		}
		return false
	})
}

type outcome struct{ tally }

const noise = "noise"

// run changes every member of the group: it grows, loses its leader, and ends on
// the stores 4 and 5 and one of the first three.
func (c *crashRun) run() {
	c.t.Helper()
	c.propose()
	one := func(changes ...group.Change) func(engine.Membership) group.MembershipChange {
		return func(engine.Membership) group.MembershipChange { return group.MembershipChange{Changes: changes} }
	}
	role := func(id wire.ReplicaID, role wire.MemberRole) func(engine.Membership) bool {
		return func(m engine.Membership) bool {
			return !m.Joint && slices.ContainsFunc(m.Members, func(m engine.Member) bool { return m.Replica == id && m.Role == role })
		}
	}
	c.step("a learner on store 4", one(group.Change{Op: group.AddLearner, Replica: 4, Store: 4}), role(4, wire.Learner))
	c.propose()
	c.catchUp(4)
	c.step("it is promoted", one(group.Change{Op: group.AddVoter, Replica: 4}), role(4, wire.Voter))
	c.propose()
	var out wire.ReplicaID // the leader of that moment
	c.step("a learner on store 5", one(group.Change{Op: group.AddLearner, Replica: 5, Store: 5}), role(5, wire.Learner))
	c.catchUp(5)
	c.step("it takes the place of the leader", func(engine.Membership) group.MembershipChange {
		if out == 0 {
			out = c.leader().Status().Self.Replica
		}
		return group.MembershipChange{Changes: []group.Change{{Op: group.AddVoter, Replica: 5}, {Op: group.Remove, Replica: out}}}
	}, func(m engine.Membership) bool { return role(5, wire.Voter)(m) && !has(m, out) })
	c.propose()
	var next wire.ReplicaID
	c.step("another one goes", func(m engine.Membership) group.MembershipChange {
		if next == 0 {
			next = m.Members[0].Replica
		}
		return group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: next}}}
	}, func(m engine.Membership) bool { return next != 0 && !has(m, next) })
	c.propose()
	c.check(out, next)
}

// check looks at what is left: the members hold every acknowledged write once in
// order, or more often when an answer got lost, and the others hold nothing.
func (c *crashRun) check(gone ...wire.ReplicaID) {
	c.t.Helper()
	c.until("the members agree, the others are gone", func() bool {
		var first []string
		for _, s := range c.sites {
			if slices.Contains(gone, wire.ReplicaID(s.id)) {
				stored, err := s.store.Stored()
				if err != nil {
					c.t.Fatal(err)
				}
				if _, runs := s.store.Group(1); runs || len(stored) > 0 {
					return false
				}
				continue
			}
			g, runs := s.store.Group(1)
			if !runs {
				return false
			}
			if err := g.Err(); err != nil {
				c.t.Fatalf("store %d: %v; crash %+v", s.id, err, c.crash)
			}
			if first == nil {
				first = s.machine.commands
			}
			if !slices.Equal(s.machine.commands, first) || len(g.Membership().Members) != 3 {
				return false
			}
		}
		counted := slices.DeleteFunc(slices.Clone(first), func(command string) bool { return command == noise })
		return slices.Equal(slices.Compact(counted), c.acked)
	})
}

// A crash of any store right before or right after any of its writes leaves the
// group, and what it is asked to become, as it was.
func TestMembershipSurvivesCrashes(t *testing.T) {
	plain := newCrashRun(t)
	plain.run()
	if t.Failed() {
		return
	}
	crashes := 0
	for _, s := range plain.sites {
		stride := 1
		if testing.Short() || raceEnabled {
			stride = 7
		}
		for write := 1; write <= s.writes; write += stride {
			for _, after := range []bool{false, true} {
				c := newCrashRun(t)
				c.crash.site, c.crash.write, c.crash.after = int(s.id), write, after
				c.run()
				if c.crashed {
					crashes++
				}
				if t.Failed() {
					t.Fatalf("crash %+v", c.crash)
				}
			}
		}
	}
	t.Logf("%d crashes", crashes)
	if crashes < 20 {
		t.Errorf("only %d crashes happened", crashes)
	}
}

// A leader of two removes itself, and its last words are lost: that the removal
// is committed, and that the other shall campaign. As long as it lingers, the
// other can still win under the membership that it knows; later, the tombstone tells
// it, also one of a leader that crashed meanwhile.
func TestRemovedReplicaHelpsTheOthers(t *testing.T) {
	for _, deaf := range []string{"for a moment", "until it is forgotten", "until it has crashed"} {
		t.Run("they are deaf "+deaf, func(t *testing.T) {
			c := newCrashRun(t)
			c.propose()
			third := c.leader().Store().ID()%3 + 1
			c.step("a group of two", func(engine.Membership) group.MembershipChange {
				return group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: wire.ReplicaID(third)}}}
			}, func(m engine.Membership) bool { return len(m.Members) == 2 })
			c.propose()
			leader := c.leader()
			self := leader.Status().Self
			old, other := c.sites[self.Store-1], c.sites[6-third-self.Store-1]
			c.until("both know that they are two", func() bool {
				g, runs := other.store.Group(1)
				return runs && len(g.Membership().Members) == 2
			})
			lost := false
			c.loses = func(to *site) bool {
				gone := leader.Err() != nil
				lost = lost || gone
				return gone && to == other
			}
			if err := leader.ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: self.Replica}}},
				func(engine.Membership, error) {}); err != nil {
				t.Fatal(err)
			}
			c.until("the leader is out", func() bool { return lost })
			forgotten := func() bool {
				_, runs := old.store.Group(1)
				return !runs
			}
			switch deaf {
			case "for a moment":
				c.tick()
			case "until it is forgotten":
				c.until("the old leader is forgotten", forgotten)
			case "until it has crashed":
				c.tick()
				if forgotten() {
					t.Fatal("the old leader does not linger")
				}
				c.restart(old)
				c.until("the old leader is forgotten", forgotten)
			}
			c.loses = nil
			if g, _ := other.store.Group(1); len(g.Membership().Members) != 2 || g.IsLeader() {
				t.Fatalf("the other knows already: %+v", g.Status())
			}
			c.until("the other leads alone", func() bool {
				g := c.leader()
				return g != nil && g.Store() == other.store && len(g.Membership().Members) == 1
			})
			c.propose()
			c.until("the old leader is forgotten", forgotten)
		})
	}
}
