package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// A loss is what happens to a whole disk: it is wiped, or an older copy of it comes
// back. What the replicas on it promised is destroyed with it, so they are dead:
// their ids must never promise anything again, and others take their place. Raft
// bears that as long as a majority of every group has kept its word, so one store at
// a time has a loss, and only when all that its groups need is elsewhere.
type loss struct {
	site   *site
	wanted []bool // groups that are to get a new replica there
	mended []bool
	voted  []bool // groups that it had a vote in
	// members is what the operator knows of each group.
	members [][]engine.Member
}

// copied is what a disk held earlier.
type copied struct {
	disk        *vfs.MemFS
	kept        []machineState
	incarnation uint64
}

// meeting is what a store knows of the lives of a peer.
type meeting struct {
	incarnation uint64
	life        uint32
}

// canLose says whether every group does without the replicas of a site: its leader
// is known, and all other members, of whom there are enough, run and know of its
// membership, which is not about to change.
func (c *cluster) canLose(s *site) bool {
	if c.loss != nil || c.calm || s.store == nil || s.paused || s.failing {
		return false
	}
	for g := range c.shape.members {
		leader, st := c.leading(g)
		if leader == nil || isJoint(st.Members) || st.Changing || c.rosters[g].busy() || c.check.changing(g, &st) {
			return false
		}
		voters, others := 0, 0
		for _, m := range st.Members {
			at := c.sites[siteOf(m.Store)]
			if m.Role != wire.Learner {
				if voters++; at != s {
					others++
				}
			}
			if at != s && (at.store == nil || at.failing || at.groups[g] == nil || at.replicas[g] != m.Replica || at.groups[g].Membership().Index != st.Membership) {
				return false
			}
		}
		if 2*others <= voters {
			return false
		}
	}
	return true
}

// lose makes a site one that has lost its disk. What follows must end the life of
// its store.
func (c *cluster) lose(s *site) {
	l := &loss{site: s, members: make([][]engine.Member, len(c.shape.members)),
		wanted: make([]bool, len(c.shape.members)), mended: make([]bool, len(c.shape.members)), voted: make([]bool, len(c.shape.members))}
	for g := range c.rosters {
		_, st := c.leading(g)
		for _, m := range st.Members {
			if siteOf(m.Store) == s.at {
				l.wanted[g], l.voted[g] = true, m.Role != wire.Learner
			}
		}
	}
	c.loss = l
	l.remember()
	c.mendLater()
}

// bury notes that what the replicas of a disk have promised is gone.
func (l *loss) bury() {
	for _, roster := range l.site.c.rosters {
		for _, id := range roster.ids {
			if roster.home[id] == l.site.at && roster.ran[id] {
				roster.dead[id] = true
			}
		}
	}
}

// wipe empties the disk of a site. Its store comes back as one that says so.
func (s *site) wipe() {
	c := s.c
	c.count(wipedDisks)
	c.note("the disk of store %d is lost", s.at+1)
	s.crash(vfs.ProcessDies)
	s.volume.use(vfs.New(vfs.Options{FailedSyncDrops: true}))
	s.volume.writes = nil
	s.copied, s.rolled, s.outlived, s.copyLives = nil, false, false, 0
	if s.rotten {
		s.rotten, s.nameless = false, false
		clear(s.damaged)
	}
	c.loss.bury()
	s.blank, s.reborn = true, true
	if c.repairs.chance(0.5) {
		c.loss.remember() // what is known of members is of today, or of before
	}
	for g := range s.kept {
		if s.kept[g] != nil {
			s.kept[g] = &machineState{}
		}
	}
}

// leadsAlone says whether the site is the only voter of a group. A copy of its disk
// would go on leading it until it met a peer, and nothing could be said against that.
func (s *site) leadsAlone() bool {
	return slices.ContainsFunc(s.groups, func(handle *engine.Group) bool {
		if handle == nil {
			return false
		}
		voters := 0
		for _, m := range handle.Membership().Members {
			if m.Role != wire.Learner {
				voters++
			}
		}
		return voters < 2
	})
}

// copyDisk keeps what the disk of a site holds, as a power cut would leave it.
func (s *site) copyDisk() {
	s.c.note("the disk of store %d is copied", s.at+1)
	s.c.count(copiedDisks)
	s.copied = &copied{disk: s.volume.CrashClone(s.volume.source, vfs.AllLost), incarnation: s.stepper.Incarnation()}
	for _, k := range s.kept {
		state := machineState{}
		if k != nil {
			state = *k
		}
		s.copied.kept = append(s.copied.kept, state)
	}
}

// outlive ends lives of a site that its peers have met, until they have met one that
// is later than the copy of its disk: then they know it for one.
func (s *site) outlive(each, until time.Duration) {
	c := s.c
	c.later(each, func() {
		if s.copied == nil || s.rolled || c.calm || c.now > until || s.isOutlived() {
			return
		}
		if s.store != nil && c.network.dial(s) {
			c.count(crashes)
			s.crash(s.crashOptions())
		}
		s.outlive(each, until)
	})
}

// isOutlived says whether all others have met the life of the site in which a copy of its
// disk would wake up, or a later one.
func (s *site) isOutlived() bool {
	if s.copied == nil || !s.c.network.dial(s) {
		return false
	}
	for _, other := range s.c.sites {
		if other != s && other.met[s.at].incarnation < s.copied.incarnation+1 {
			return false
		}
	}
	return true
}

// rollBack puts the copy of the disk in place of what is there. Some time later the
// operator sees that nobody talks to the store, and empties the disk.
func (s *site) rollBack(lasts time.Duration) {
	c := s.c
	c.count(rolledBackDisks)
	c.note("store %d comes back with the disk of its incarnation %d", s.at+1, s.copied.incarnation)
	c.lose(s)
	s.crash(vfs.ProcessDies) // what it sends meanwhile is still said by those replicas
	c.loss.bury()
	s.volume.use(s.copied.disk)
	s.volume.writes = nil
	for g, state := range s.copied.kept {
		if s.kept[g] != nil {
			s.kept[g] = &state
		}
	}
	s.copied, s.rolled = nil, true
	c.later(lasts, func() {
		if s.rolled {
			s.wipe()
			s.openLater()
		}
	})
}

func isOutlived(err error) bool {
	outlived := new(engine.OutlivedError)
	return errors.As(err, &outlived)
}

// dies says whether a replica was lost with its disk.
func (r *roster) dies(id wire.ReplicaID) bool { return r.dead[id] }

// mendLater has the operator look after the loss now and then.
func (c *cluster) mendLater() {
	l := c.loss
	c.later(c.operator.around(200*time.Millisecond), func() {
		if c.loss != l {
			return
		}
		if c.shape.repairs {
			c.upgrade()
			c.network.connect(l.site)
			l.restart()
		}
		if !l.site.rolled && !l.site.rotten {
			c.mend()
		}
		if c.loss == l {
			c.mendLater()
		}
	})
}

// mend replaces the replicas that were lost: they are removed, and their store gets
// new ones, as learners first.
func (c *cluster) mend() {
	l, left := c.loss, false
	for g := range c.shape.members {
		l.mended[g] = l.mended[g] || c.mendGroup(l, g)
		left = left || !l.mended[g]
	}
	if left || !c.network.dial(l.site) || l.site.store.Metrics().Repairing > 0 {
		return
	}
	c.note("all replicas of store %d are replaced", l.site.at+1)
	c.count(storesMended)
	l.site.blank = false // from the next life on
	c.loss = nil
}

// mendGroup goes on with replacing one replica and says whether it is done.
func (c *cluster) mendGroup(l *loss, g int) bool {
	if c.shape.repairs {
		return c.isWhole(l, g)
	}
	s, st := c.leading(g)
	roster := c.rosters[g]
	if s == nil || s.paused || s.hung || roster.busy() {
		return false
	}
	if isJoint(st.Members) {
		c.ask(s, g, "leave the joint configuration", func(done func(engine.Membership, error)) error {
			return s.groups[g].LeaveJointAsync(done)
		}, nil)
		return false
	}
	change := func(what group.Change) {
		c.ask(s, g, fmt.Sprintf("mend: %+v", what), func(done func(engine.Membership, error)) error {
			return s.groups[g].ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{what}}, done)
		}, nil)
	}
	for _, m := range st.Members {
		if siteOf(m.Store) != l.site.at {
			continue
		}
		switch {
		case roster.dies(m.Replica):
			change(group.Change{Op: group.Remove, Replica: m.Replica})
		case m.Role != wire.Learner:
			return true
		case l.site.store != nil && l.site.replicas[g] == m.Replica && l.site.groups[g] != nil:
			change(group.Change{Op: group.AddVoter, Replica: m.Replica})
		}
		return false
	}
	if !l.wanted[g] {
		return true
	}
	if !c.network.dial(l.site) {
		return false // in a life with replicas it passes no other one
	}
	id := roster.next()
	roster.give(id, l.site.at)
	change(group.Change{Op: group.AddLearner, Replica: id, Store: storeID(l.site.at)})
	return false
}

// greets says whether two stores let each other in, as transports do when they
// connect: neither talks to an earlier life of a peer than it has met.
func (n *network) greets(f *frame) bool {
	from, to := n.c.sites[f.from], n.c.sites[f.to]
	if to.rolled && from.met[to.at].incarnation >= to.stepper.Incarnation() {
		return false // nobody connects to it
	}
	if f.life != from.life || from.store == nil {
		return !f.copied // sent before, and on its way since: a copy had no connection to send it on
	}
	return n.admits(to, from, f.incarnation) && n.admits(from, to, to.stepper.Incarnation())
}

// dial has a store connect to all others and says whether all let it in, and have
// met no later life of it.
func (n *network) dial(s *site) bool {
	if s.store == nil || s.paused || s.hung {
		return false
	}
	all := true
	for _, other := range n.c.sites {
		if other == s {
			continue
		}
		l := n.link(s.at, other.at)
		if other.store == nil || l.cut > 0 || n.link(other.at, s.at).cut > 0 {
			all = false
		} else if !n.admits(other, s, s.stepper.Incarnation()) || s.store == nil {
			return false
		}
	}
	return all
}

// connect has a store and all others that it reaches know of each other, as transports
// see to though nobody has anything to say.
func (n *network) connect(s *site) {
	for _, other := range n.c.sites {
		if s.store == nil || s.rolled || s.paused || s.hung {
			return
		}
		if other == s || other.store == nil || other.paused || other.hung || n.link(s.at, other.at).cut > 0 || n.link(other.at, s.at).cut > 0 {
			continue
		}
		if n.admits(other, s, s.stepper.Incarnation()) && n.admits(s, other, other.stepper.Incarnation()) {
			n.understands(&frame{from: s.at, to: other.at, life: s.life})
			n.understands(&frame{from: other.at, to: s.at, life: other.life})
		}
	}
}

// admits says whether one store lets another in, and notes the life that it has met.
func (n *network) admits(s, peer *site, incarnation uint64) bool {
	met := &s.met[peer.at]
	latest := met.incarnation
	if incarnation == latest && peer.life != met.life {
		latest++ // in another life: one of the two has a copy of the disk
	}
	if incarnation < latest {
		if !peer.paused && !peer.hung {
			life := peer.stepper.Outlived(storeID(s.at), latest)
			n.c.note("store %d has met incarnation %d of store %d, which is in %d now", s.at+1, met.incarnation, peer.at+1, life)
			peer.poke()
			peer.look()
		}
		return false
	}
	if peer.rolled {
		n.c.check.fail(ruleMembers, "store %d lets an older copy of store %d in, as its life %d", s.at+1, peer.at+1, incarnation)
	}
	*met = meeting{incarnation, peer.life}
	return true
}
