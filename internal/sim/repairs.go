package sim

import (
	"errors"
	"fmt"
	"slices"

	"multiraft/engine"
	"multiraft/wire"
)

// In most runs stores repair themselves: whoever has lost a part of its data says so,
// and leaders heal it, or put another replica in its place. The operator stays away
// then. He tells stores that were given an empty disk what they ran, sees to it that
// all speak a protocol that knows of it, and exchanges a disk that rots, or keeps it:
// what it has spoilt, noticed or not, has to be repaired in the end.

// mayLack says whether replicas on a site may have lost something, and get it back.
func (s *site) mayLack() bool {
	return s.c.shape.repairs && (s.rolled || s.reborn || s.c.loss != nil && s.c.loss.site == s)
}

// misses notes that a replica is not started, as it may have forgotten what it
// promised. Its successor is given the machine.
func (s *site) misses(g int, lost *engine.ReplicaLostError, m *machine) {
	c := s.c
	c.count(replicasLost)
	c.note("group %d: replica %d on store %d is lost: %v", groupID(g), lost.Replica, s.at+1, lost)
	// A store that has lost which one it had names none, or the last that the group had.
	if home, given := c.rosters[g].home[lost.Replica]; given && home == s.at {
		c.rosters[g].dead[lost.Replica] = true
	}
	s.groups[g], s.machines[g], s.replicas[g] = nil, nil, 0
	if s.kept[g] != nil && !c.shape.snapshots {
		// Nothing could bring it to where a new replica begins.
		s.kept[g] = &machineState{}
		m.kept, m.state = s.kept[g], machineState{}
	}
	s.awaited[g] = m
}

// hadMembers returns what the operator knows of the members of a group that the
// store has forgotten.
func (s *site) hadMembers(g int) []engine.Member {
	l := s.c.loss
	if l == nil || l.site != s || !s.c.shape.repairs || !isMember(l.members[g], s.at) {
		return nil
	}
	if s.blank && !l.mended[g] || s.stepper.Stored(groupID(g)).Err() != nil {
		return l.members[g]
	}
	return nil
}

// hasDamaged hears that a replica has lost something.
func (s *site) hasDamaged(d engine.Damage) {
	c, g := s.c, groupOf(d.Group)
	c.note("store %d: group %d: replica %d is damaged, in place %v: %v", s.at+1, d.Group, d.Replica, d.InPlace, d.Err)
	if !s.mayLack() {
		c.check.fail(ruleErrors, "group %d: replica %d on store %d is damaged without a fault: %v", d.Group, d.Replica, s.at+1, d.Err)
	}
	if !d.InPlace {
		return
	}
	s.wounds[g] = d.Replica
	c.count(replicasWounded)
	if failed := new(engine.SnapshotError); errors.As(d.Err, &failed) {
		c.count(statesLost)
	}
	s.stand(g, d.Replica)
}

// stand has a replica that has lost something asked to stand for election, which it is to
// refuse.
func (s *site) stand(g int, replica wire.ReplicaID) {
	c, life := s.c, s.life
	c.later(2*s.tick, func() {
		if s.store == nil || s.life != life || s.paused || s.wounds[g] != replica || s.replicas[g] != replica || s.groups[g] == nil {
			return
		}
		if s.stepper.Campaign(s.groups[g]) == nil {
			c.count(campaignsAsked)
			s.poke()
		}
		s.stand(g, replica)
	})
}

// hasRepaired hears that a replica has come back, or another one for it.
func (s *site) hasRepaired(id wire.GroupID, replica wire.ReplicaID) {
	g := groupOf(id)
	s.c.note("store %d: group %d: replica %d has come back", s.at+1, id, replica)
	if s.wounds[g] == replica {
		s.wounds[g] = 0
		s.c.count(replicasHealed)
	} else {
		s.c.count(replicasSucceeded)
	}
}

// learn takes over where leaders have placed replicas by themselves: in the place of
// those that were lost.
func (c *cluster) learn(g int, members []engine.Member) {
	roster := c.rosters[g]
	for _, m := range members {
		home, given := roster.home[m.Replica]
		s := c.sites[siteOf(m.Store)]
		switch {
		case given && home == s.at, !c.shape.repairs, !s.lost && (c.loss == nil || c.loss.site != s) && !roster.lacks(s.at):
			continue
		case given && roster.ran[m.Replica]:
			c.check.fail(ruleMembers, "group %d: replica %d ran on store %d and is added on store %d", groupID(g), m.Replica, home+1, m.Store)
			return
		}
		// What the operator asked for and did not get has left its id free.
		roster.home[m.Replica] = s.at
		if !given {
			roster.ids = append(roster.ids, m.Replica)
		}
		c.note("group %d: replica %d is added on store %d", groupID(g), m.Replica, m.Store)
		c.count(replicasAdded)
	}
}

// lacks says whether the last replica that ran on a site is lost. A mark of it outlives
// the loss, and its store may ask for another one in any later life.
func (r *roster) lacks(site int) bool {
	last := wire.ReplicaID(0)
	for _, id := range r.ids {
		if r.home[id] == site && (r.ran[id] || r.dead[id]) {
			last = max(last, id)
		}
	}
	return r.dead[last]
}

// isWhole says whether the site that has had a loss runs what it should of a group, as
// what it was, and lacks nothing.
func (c *cluster) isWhole(l *loss, g int) bool {
	leader, st := c.leading(g)
	if leader == nil || isJoint(st.Members) {
		return false
	}
	for _, m := range st.Members {
		if s := l.site; siteOf(m.Store) == s.at {
			return !c.rosters[g].dies(m.Replica) && (m.Role != wire.Learner || !l.voted[g]) &&
				s.store != nil && s.groups[g] != nil && s.replicas[g] == m.Replica && s.groups[g].Err() == nil && s.groups[g].Status().Repairing == nil
		}
	}
	return !l.wanted[g]
}

// remember has the operator look at the members of all groups, for when their replicas
// are lost. What is to vote there is what did.
func (l *loss) remember() {
	for g := range l.members {
		newest := engine.Membership{}
		for _, s := range l.site.c.sites {
			if s.store != nil && s.groups[g] != nil {
				if m := s.groups[g].Membership(); len(m.Members) > 0 && (newest.Members == nil || m.Index > newest.Index) {
					newest = m
				}
			}
		}
		if newest.Members == nil || isJoint(newest.Members) {
			continue
		}
		l.members[g] = slices.Clone(newest.Members)
		for i, m := range l.members[g] {
			if siteOf(m.Store) == l.site.at && l.voted[g] {
				l.members[g][i].Role = wire.Voter
			}
		}
	}
}

// awaits says whether replicas wait for repair on any store, or did when its life ended.
func (c *cluster) awaits() bool {
	return c.shape.repairs && slices.ContainsFunc(c.sites, func(s *site) bool {
		return s.store == nil && s.waits || s.store != nil && s.store.Metrics().Repairing > 0
	})
}

// upgrade has a store speak the newest protocol that does not: older ones know of no
// repair.
func (c *cluster) upgrade() {
	for _, s := range c.sites {
		if s.newest == wire.ProtocolVersion || s.store == nil || s.paused || s.hung || s.failing {
			continue
		}
		s.newest = wire.ProtocolVersion
		c.count(upgrades)
		s.stop()
		return
	}
}

// lacks holds what a replica says that waits for the state of the leader against what
// it may: it votes, but is no leader, asks for no votes, and acknowledges no entries.
func (k *checker) lacks(s *site, g int, m *wire.Message) {
	if s.groups[g] == nil || s.replicas[g] != m.From {
		return
	}
	if s.groups[g].Status().Repairing == nil {
		s.wokeLacking[g], s.marked[g] = false, 0
		return
	}
	// One that was wounded while it ran says what it was about to, until all of that is
	// durable, and its mark behind it.
	if !s.wokeLacking[g] {
		if _, durable := s.stepper.Stored(m.Group).Wound(); !durable {
			return
		}
		if s.marked[g] == 0 {
			s.marked[g] = k.c.now
		}
		if k.c.now < s.marked[g]+k.c.shape.election() {
			return
		}
	}
	switch m.Kind {
	case wire.AppendResponse:
		if m.Reject {
			return
		}
	case wire.Vote, wire.PreVote, wire.Append, wire.Heartbeat, wire.Snapshot:
	default:
		return
	}
	k.fail(ruleRepair, "group %d: replica %d waits for the state of its leader, and says: %s", m.Group, m.From, describe(m))
}

// addresses are what stores are told of each other.
func (c *cluster) addresses() map[wire.StoreID]string {
	list := make(map[wire.StoreID]string)
	for at := range c.shape.stores {
		list[storeID(at)] = fmt.Sprint("site ", at)
	}
	return list
}

// restart has the operator start replicas again that have ended on a disk that rots: the
// start repairs what can be, as of a snapshot that was damaged while it was installed.
func (l *loss) restart() {
	s := l.site
	if !s.rotten || s.store == nil || s.paused || s.hung || s.failing {
		return
	}
	for g, handle := range s.groups {
		if gone := new(engine.ReplicaRemovedError); handle != nil && handle.Err() != nil && !errors.As(handle.Err(), &gone) {
			s.stopGroup(g)
		}
		s.c.start(g)
	}
}
