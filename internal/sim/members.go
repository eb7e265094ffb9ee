package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/wire"
)

// roster is what the operator of a cluster knows of the replicas of one group.
type roster struct {
	home map[wire.ReplicaID]int // site of each id that was ever given
	ids  []wire.ReplicaID       // in the order they were given
	open int                    // changes on their way
	gone map[wire.ReplicaID]bool
	dead map[wire.ReplicaID]bool // lost with their disks
	ran  map[wire.ReplicaID]bool // so that it may have promised something
}

func newRoster(members []engine.Member) *roster {
	r := &roster{home: make(map[wire.ReplicaID]int), gone: make(map[wire.ReplicaID]bool), dead: make(map[wire.ReplicaID]bool), ran: make(map[wire.ReplicaID]bool)}
	for _, m := range members {
		r.give(m.Replica, siteOf(m.Store))
	}
	slices.Sort(r.ids)
	return r
}

// busy says whether a change is on its way.
func (r *roster) busy() bool { return r.open > 0 }

func (r *roster) give(id wire.ReplicaID, site int) {
	r.home[id] = site
	r.ids = append(r.ids, id)
}

// lets notes that a replica is gone. A store that has lost which one it had lets go of
// all that were ever added anywhere.
func (r *roster) lets(id wire.ReplicaID, site int) {
	if home, given := r.home[id]; given && home == site {
		r.gone[id] = true
	}
}

// next returns an id that was never given.
func (r *roster) next() wire.ReplicaID { return r.ids[len(r.ids)-1] + 1 }

// leading returns the site whose replica of a group believes to lead in the
// highest term, and that replica's status; nil when there is none.
func (c *cluster) leading(g int) (*site, engine.Status) {
	var (
		leader *site
		status engine.Status
	)
	for _, s := range c.sites {
		if s.store == nil || s.groups[g] == nil || !s.groups[g].IsLeader() {
			continue
		}
		if st := s.groups[g].Status(); leader == nil || st.Term > status.Term {
			leader, status = s, st
		}
	}
	return leader, status
}

// operate has the operator change some group's members from time to time, until
// the calm.
func (c *cluster) operate() {
	if c.shape.changes == 0 {
		return
	}
	c.later(c.operator.around(c.shape.changes), func() {
		if c.calm {
			return
		}
		g := c.operator.IntN(len(c.shape.members))
		c.start(g)
		c.change(g)
		c.operate()
	})
}

// change asks the leader of a group for a change that makes sense, or at times
// for one that must be refused.
func (c *cluster) change(g int) {
	r, roster := c.operator, c.rosters[g]
	s, st := c.leading(g)
	if s == nil || s.paused || st.Err != nil {
		return
	}
	if r.chance(0.25) {
		m := st.Members[r.IntN(len(st.Members))]
		if err := s.stepper.TransferLeader(s.groups[g], m.Replica); err == nil {
			c.count(transfersAsked)
			s.poke()
		}
		return
	}
	if c.loss != nil {
		return // first the replicas that were lost
	}
	if isJoint(st.Members) {
		if roster.busy() || !r.chance(0.7) {
			return
		}
		c.count(jointLeft)
		c.ask(s, g, "leave the joint configuration", func(done func(engine.Membership, error)) error {
			return s.groups[g].LeaveJointAsync(done)
		}, nil)
		return
	}
	var free []int
	for at := range c.sites {
		if !slices.ContainsFunc(st.Members, func(m engine.Member) bool { return siteOf(m.Store) == at }) {
			free = append(free, at)
		}
	}
	var voters, learners []engine.Member
	for _, m := range st.Members {
		if m.Role == wire.Learner {
			learners = append(learners, m)
		} else {
			voters = append(voters, m)
		}
	}
	change := group.MembershipChange{Joint: r.chance(0.5)}
	if r.chance(0.3) {
		change.Leave = group.LeaveExplicit
	}
	given := roster.next()
	newcomer := func(op group.ChangeOp) group.Change {
		at := free[r.IntN(len(free))]
		roster.give(given, at)
		given++
		return group.Change{Op: op, Replica: given - 1, Store: storeID(at)}
	}
	of := func(op group.ChangeOp, list []engine.Member) group.Change {
		return group.Change{Op: op, Replica: list[r.IntN(len(list))].Replica}
	}
	reuses := false
	switch roll := r.IntN(8); {
	case roll == 0 && len(free) > 0:
		change.Changes = append(change.Changes, newcomer(group.AddLearner))
	case roll == 1 && len(free) > 0:
		change.Changes = append(change.Changes, newcomer(group.AddVoter))
	case roll == 2 && len(learners) > 0:
		change.Changes = append(change.Changes, of(group.AddVoter, learners))
	// When half of the voters or more go at once, those who stay may not know that
	// the others are free to go, and have no majority to find out once those are
	// gone. See the limits in README.md.
	case roll == 3 && len(voters) > 2:
		change.Changes = append(change.Changes, of(group.AddLearner, voters))
	case roll == 4 && len(voters) > 2:
		change.Changes = append(change.Changes, of(group.Remove, st.Members))
	case roll == 5 && len(free) > 0 && len(voters) > 2:
		change.Changes = append(change.Changes, newcomer(group.AddVoter), of(group.Remove, voters))
	case roll == 7 && len(free) > 1 && len(voters) > 4:
		first, second := newcomer(group.AddVoter), newcomer(group.AddVoter)
		gone := r.Perm(len(voters))
		if first.Store == second.Store {
			return
		}
		change.Changes = append(change.Changes, first, second,
			group.Change{Op: group.Remove, Replica: voters[gone[0]].Replica}, group.Change{Op: group.Remove, Replica: voters[gone[1]].Replica})
	case roll == 6 && len(free) > 0:
		// An id that was given before, to a replica that is gone or never was there.
		id := roster.ids[r.IntN(len(roster.ids))]
		if slices.ContainsFunc(st.Members, func(m engine.Member) bool { return m.Replica == id }) {
			return
		}
		reuses = id <= s.groups[g].Membership().MaxReplica
		if !reuses {
			return // it was asked for and never came to be
		}
		change.Changes = append(change.Changes, group.Change{Op: group.AddVoter, Replica: id, Store: storeID(free[r.IntN(len(free))])})
	default:
		return
	}
	var verdict func(error)
	if reuses {
		c.count(idsReused)
		verdict = func(err error) {
			if err == nil {
				c.check.fail(ruleMembers, "group %d: a replica id was given twice: %+v", groupID(g), change.Changes)
			}
		}
	}
	c.ask(s, g, fmt.Sprintf("%+v", change), func(done func(engine.Membership, error)) error {
		return s.groups[g].ChangeMembersAsync(change, done)
	}, verdict)
}

// holds returns the replica that the store has in its log, zero for none.
func (s *site) holds(g int) (wire.ReplicaID, error) {
	stored, err := s.store.Stored()
	if err != nil {
		return 0, err
	}
	return replicaOf(stored, groupID(g)), nil
}

// start starts what was stopped and should run, and voters that were added and do
// not run, as an operator does who sees that they were added. Leaders have stores start learners by themselves, but not
// voters: a store that lost what one of those promised must not start it again.
// Here nothing was lost, so what is not stored has promised nothing.
func (c *cluster) start(g int) {
	for _, known := range c.sites {
		if known.store == nil || known.groups[g] == nil {
			continue
		}
		for _, m := range known.groups[g].Membership().Members {
			s := c.sites[siteOf(m.Store)]
			if s.store == nil || s.paused || s.hung || s.failing || s.stopping[g] || s.replicas[g] >= m.Replica || s.rolled || known.rolled || s.rotten && !c.shape.repairs || s.awaited[g] != nil || c.rosters[g].dies(m.Replica) {
				continue
			}
			held, err := s.holds(g)
			if err != nil {
				continue // it has failed
			}
			if held > m.Replica || c.isSucceeded(g, m) {
				continue // who says that it is to run has not heard of its successor
			}
			stored := held == m.Replica
			if m.Role == wire.Learner && !stored {
				continue
			}
			if s.groups[g] != nil {
				s.stopGroup(g) // one that was removed, and did not hear so
				continue
			}
			if !stored && s.lost && !c.network.dial(s) {
				continue // with a replica it passes no later life of it that a peer has met
			}
			if !stored {
				if held != 0 && s.store.RemoveGroup(context.Background(), groupID(g)) != nil {
					s.poke()
					continue
				}
				s.forget(g)
			}
			machine := s.newMachine(g)
			handle, err := s.store.StartGroup(context.Background(), engine.GroupConfig{
				ID: groupID(g), Join: !stored, Replica: m.Replica, StateMachine: s.machineOf(machine)})
			c.note("store %d is told to run replica %d of group %d: %v", s.at+1, m.Replica, groupID(g), err)
			if lost := new(engine.ReplicaLostError); errors.As(err, &lost) && s.mayLack() {
				s.misses(g, lost, machine)
			} else if s.excuses(err) {
				s.ails(g, m.Replica, err)
			} else if err == nil {
				c.count(replicasStarted)
				s.adopt(g, handle, machine)
			} else if gone := new(engine.ReplicaRemovedError); !errors.As(err, &gone) && !expected(err) && !s.volume.failed && !s.volume.crashed {
				c.check.fail(ruleErrors, "group %d: store %d does not start replica %d: %v", groupID(g), s.at+1, m.Replica, err)
			}
			s.poke()
		}
	}
}

// isSucceeded says whether somebody knows of a later replica of a group on the same store.
func (c *cluster) isSucceeded(g int, member engine.Member) bool {
	return slices.ContainsFunc(c.sites, func(s *site) bool {
		return s.store != nil && s.groups[g] != nil && slices.ContainsFunc(s.groups[g].Membership().Members, func(m engine.Member) bool {
			return m.Store == member.Store && m.Replica > member.Replica
		})
	})
}

// ask asks for a change and counts its outcome.
func (c *cluster) ask(s *site, g int, what string, request func(func(engine.Membership, error)) error, verdict func(error)) {
	roster, life := c.rosters[g], s.life
	c.note("store %d is asked to change group %d: %s", s.at+1, groupID(g), what)
	c.count(changesAsked)
	roster.open++
	isOpen := true
	closeIt := func() {
		if isOpen {
			isOpen = false
			roster.open--
		}
	}
	err := request(func(m engine.Membership, err error) {
		if s.volume.crashed || s.life != life {
			return
		}
		closeIt()
		c.changed(g, what, m, err)
		if verdict != nil {
			verdict(err)
		}
	})
	s.poke()
	if err != nil {
		closeIt()
		c.changed(g, what, engine.Membership{}, err)
	}
	// One that ends with its store is forgotten some time.
	c.later(5*time.Second, closeIt)
}

func (c *cluster) changed(g int, what string, m engine.Membership, err error) {
	c.trace.mix(uint64(m.Index))
	c.note("group %d: %s: %+v, %v", groupID(g), what, m, err)
	var refused *group.MembershipError
	switch {
	case err == nil:
		c.count(changesMade)
	case errors.As(err, &refused):
		c.count(changesRefused)
	case expected(err), c.loss != nil && c.loss.site.excuses(err):
		c.count(changesUnknown)
	default:
		c.check.fail(ruleErrors, "group %d: a change of members ends with: %v", groupID(g), err)
	}
}

func isJoint(members []engine.Member) bool {
	return slices.ContainsFunc(members, func(m engine.Member) bool { return m.Role&wire.Outgoing != 0 })
}

// errNotNow is what an embedder may answer when a replica was added to its store.
var errNotNow = errors.New("simulated embedder is busy")

// errLost is what an embedder has to answer when a replica of a lost disk is wanted:
// it may have voted before it was made a learner. See docs/membership.md.
var errLost = errors.New("simulated embedder knows that the replica was lost")

// joins answers a leader that wants a replica to run here.
func (s *site) joins(req engine.JoinRequest) (engine.GroupConfig, error) {
	c := s.c
	if !c.calm && s.random.chance(0.2) {
		return engine.GroupConfig{}, errNotNow
	}
	g := groupOf(req.Group)
	if at, ok := c.rosters[g].home[req.Replica]; !ok || at != s.at {
		c.check.fail(ruleMembers, "group %d: store %d is to run replica %d, which was not added there", req.Group, s.at+1, req.Replica)
	}
	if c.rosters[g].dies(req.Replica) {
		return engine.GroupConfig{}, errLost
	}
	c.note("store %d joins group %d as replica %d", s.at+1, req.Group, req.Replica)
	s.forget(g)
	s.joining[g] = s.newMachine(g)
	return engine.GroupConfig{StateMachine: s.machineOf(s.joining[g])}, nil
}

// noteJoined takes over groups that the store has started by itself.
func (s *site) noteJoined() {
	for g, m := range s.joining {
		if m == nil {
			continue
		}
		s.joining[g] = nil
		if handle, ok := s.store.Group(groupID(g)); ok {
			s.awaited[g] = nil
			s.c.count(replicasJoined)
			s.adopt(g, handle, m)
		}
	}
	for g, m := range s.awaited {
		if m == nil {
			continue
		}
		if handle, ok := s.store.Group(groupID(g)); ok {
			s.awaited[g] = nil
			s.adopt(g, handle, m)
		}
	}
}

// adopt notes that a group runs here.
func (s *site) adopt(g int, handle *engine.Group, m *machine) {
	s.groups[g], s.machines[g], s.audits[g] = handle, m, audit{}
	st := handle.Status()
	s.replicas[g], s.wokeLacking[g], s.marked[g] = st.Self.Replica, st.Repairing != nil, 0
	if s.rolled {
		return // it may be anything that it was some time
	}
	if s.c.rosters[g].dies(s.replicas[g]) {
		s.c.check.fail(ruleMembers, "group %d: store %d runs replica %d, which was lost with its disk", groupID(g), s.at+1, s.replicas[g])
	}
	if s.c.rosters[g].gone[s.replicas[g]] {
		s.c.check.fail(ruleMembers, "group %d: store %d runs replica %d again, which was removed", groupID(g), s.at+1, s.replicas[g])
	}
	s.c.rosters[g].ran[s.replicas[g]] = true
	s.c.check.audit(s, g)
}

// forget lets go of a group and of what its machine kept.
func (s *site) forget(g int) {
	s.groups[g], s.machines[g], s.replicas[g] = nil, nil, 0
	if s.kept[g] != nil {
		s.kept[g] = &machineState{}
	}
}

// votes says whether the replica of a group here has a vote for all that it knows.
func (s *site) votes(g int) bool {
	return slices.ContainsFunc(s.groups[g].Membership().Members, func(m engine.Member) bool {
		return m.Replica == s.replicas[g] && m.Role&(wire.Voter|wire.Outgoing) != 0
	})
}

// stopGroup stops a group, and starts it again some time later if it is still
// stored then and nobody else has started it.
func (s *site) stopGroup(g int) {
	if s.groups[g] == nil || s.stopping[g] {
		return
	}
	s.c.note("store %d stops group %d", s.at+1, groupID(g))
	s.c.count(groupsStopped)
	s.stopping[g] = true
	life := s.life
	var poll func()
	poll = func() {
		if s.store == nil || s.life != life || s.store.Err() != nil {
			return
		}
		if !s.stepper.StopGroup(groupID(g)) {
			s.poke()
			s.c.later(time.Millisecond, poll)
			return
		}
		// A machine is as it was left, or begins with what it keeps.
		s.groups[g], s.machines[g], s.replicas[g], s.stopping[g] = nil, nil, 0, false
	}
	poll()
}

// removed hears that a replica is gone.
func (s *site) removed(err *engine.ReplicaRemovedError) {
	s.c.note("store %d lets go of replica %d of group %d", s.at+1, err.Replica, err.Group)
	s.c.count(replicasRemoved)
	g := groupOf(err.Group)
	s.c.rosters[g].lets(err.Replica, s.at)
	s.awaited[g] = nil
	if s.replicas[g] == err.Replica {
		s.forget(g)
	}
}

// startGroups starts what is stored, and what was never stored and should be here
// from the beginning.
func (s *site) startGroups() error {
	c := s.c
	stored, err := s.store.Stored()
	if err != nil {
		return err
	}
	known := make([]bool, len(s.groups))
	joined := make([]bool, len(s.groups))
	for _, group := range stored {
		g := groupOf(group.ID)
		known[g], joined[g] = true, group.Replica != replicaID(g, s.at)
	}
	for g, members := range c.shape.members {
		switch had := s.hadMembers(g); {
		case had != nil:
			members = had
		case !known[g] && (s.reborn || s.rolled || !isMember(members, s.at)):
			s.forget(g)
			continue
		case !isMember(members, s.at) || joined[g] || known[g] && s.random.chance(0.5):
			members = nil // those in the log are in force anyway
		}
		m := s.newMachine(g)
		handle, err := s.store.StartGroup(context.Background(), engine.GroupConfig{ID: groupID(g), Members: members, StateMachine: s.machineOf(m)})
		var gone *engine.ReplicaRemovedError
		var lost *engine.ReplicaLostError
		switch {
		case errors.As(err, &lost) && s.mayLack():
			s.misses(g, lost, m)
			continue
		case errors.As(err, &gone):
			c.count(startsBarred)
			c.rosters[g].lets(gone.Replica, s.at)
			s.forget(g)
			continue
		case s.excuses(err):
			s.ails(g, replicaOf(stored, groupID(g)), err)
			s.groups[g], s.machines[g], s.replicas[g] = nil, nil, 0
			continue
		case err != nil:
			return fmt.Errorf("start: %w", err)
		}
		s.adopt(g, handle, m)
		c.check.wakes(s, g)
	}
	return nil
}

// replicaOf returns which replica of a group is stored.
func replicaOf(stored []engine.StoredGroup, id wire.GroupID) wire.ReplicaID {
	for _, group := range stored {
		if group.ID == id {
			return group.Replica
		}
	}
	return 0
}

// newMachine returns a machine for a group, with what is kept of it.
func (s *site) newMachine(g int) *machine {
	m := &machine{site: s, group: g, kept: s.kept[g]}
	if m.kept != nil {
		m.state = *m.kept
	}
	return m
}

// machineOf dresses a machine in the interfaces that the shape gives it.
func (s *site) machineOf(m *machine) engine.StateMachine {
	switch {
	case s.c.shape.snapshots && m.kept != nil:
		return durableSnapshotMachine{durableMachine{m}, snapshotMachine{m}}
	case s.c.shape.snapshots:
		return snapshotMachine{m}
	case m.kept != nil:
		return durableMachine{m}
	}
	return m
}

func isMember(members []engine.Member, site int) bool {
	return slices.ContainsFunc(members, func(m engine.Member) bool { return m.Store == storeID(site) })
}
