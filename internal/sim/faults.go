package sim

import (
	"time"

	"multiraft/internal/vfs"
	"multiraft/wire"
)

// faultKind is something nemesis does.
type faultKind uint8

const (
	faultCrash       faultKind = iota // one store dies, between two steps
	faultCrashInStep                  // one store dies at some call to its disk, maybe in recovery
	faultKill                         // the process of one store dies, its page cache lives
	faultPowerCut                     // all stores die at once
	faultStop                         // one store is stopped in good order and started again
	faultPause                        // one store does nothing for a while
	faultIsolate                      // one store is cut off
	faultSplit                        // the stores fall into two parts
	faultOneWay                       // some links lose everything in one direction
	faultStorm                        // all links lose, delay, repeat
	faultSlowDisk                     // one disk takes long
	faultHungDisk                     // calls to one disk do not return for a while
	faultWipe                         // one disk loses everything
	faultRollBack                     // one disk becomes what it was earlier
	faultRot                          // bytes of one disk change
	faultLostWrite                    // a write that was synced never was
	faultMisdirect                    // a write that was synced is at another place
	faultDiskError                    // a sync or a write fails, for good
	faultDiskFull                     // one disk has hardly any room for a while
	faultClock                        // one clock changes its rate, or jumps
	faultUsurp                        // one store is cut off, and others get their chance early
	faultSchism                       // the next membership changes meet a split
	faultCoup                         // a leader falls, and the next ones soon after their election
	faultKinds
)

var faultNames = [faultKinds]string{
	"crash", "crash-in-step", "kill", "power-cut", "stop", "pause", "isolate", "split", "one-way", "storm", "slow-disk", "hung-disk", "wipe", "roll-back", "rot", "lost-write", "misdirect", "disk-error", "disk-full", "clock", "usurp", "schism", "coup",
}

func (k faultKind) String() string { return faultNames[k] }

// nemesis strikes from time to time with a fault of the kinds that the shape
// has, until the calm.
func (c *cluster) nemesis() {
	r := c.faults
	c.later(r.around(c.shape.strike), func() {
		if c.calm {
			return
		}
		total := 0
		for _, weight := range c.shape.weights {
			total += weight
		}
		if total == 0 {
			return
		}
		// Misfortunes do not come alone: what one fault leaves open for a moment,
		// another one has to hit.
		for again := true; again; again = !c.shape.alone && r.chance(0.4) {
			roll := r.IntN(total)
			for k, weight := range c.shape.weights {
				if roll -= weight; roll < 0 {
					c.strike(faultKind(k))
					break
				}
			}
		}
		c.nemesis()
	})
}

// victim chooses a site: half of the time one whose store leads some group.
func (c *cluster) victim() *site {
	r := c.faults
	if r.chance(0.5) {
		g := r.IntN(len(c.shape.members))
		for _, s := range c.sites {
			if s.store != nil && s.groups[g] != nil && s.groups[g].IsLeader() {
				return s
			}
		}
	}
	return c.sites[r.IntN(len(c.sites))]
}

// strike makes one fault happen. Those that last end by themselves.
func (c *cluster) strike(k faultKind) {
	r := c.faults
	s := c.victim()
	lasts := 50*time.Millisecond + r.around(2*time.Second)
	c.note("strike: %v", k)
	switch k {
	case faultCrash:
		if s.store != nil {
			c.count(crashes)
			s.dieSoon(s.crashOptions())
		}
	case faultCrashInStep:
		s.volume.crashIn, s.volume.crashAs = 1+r.IntN(20), s.crashOptions()
	case faultKill:
		if s.store != nil {
			c.count(processKills)
			s.volume.keep = true
			s.crash(vfs.ProcessDies)
		}
	case faultPowerCut:
		c.powerCut()
	case faultStop:
		if s.store != nil && !s.paused && !s.hung {
			c.count(cleanStops)
			s.stop()
		}
	case faultPause:
		if s.store != nil && !s.paused {
			c.count(pauses)
			s.pause(lasts)
		}
	case faultIsolate:
		c.count(isolations)
		c.cut(lasts, func(from, to int) bool { return from == s.at || to == s.at })
	case faultSplit:
		c.count(splits)
		side := make([]bool, len(c.sites))
		for i := range side {
			side[i] = r.chance(0.5)
		}
		c.cut(lasts, func(from, to int) bool { return side[from] != side[to] })
	case faultOneWay:
		c.count(oneWayCuts)
		cut := make([]bool, len(c.network.links))
		for i := range cut {
			cut[i] = r.chance(0.3)
		}
		c.cut(lasts, func(from, to int) bool { return cut[from*len(c.sites)+to] })
	case faultStorm:
		c.count(storms)
		c.network.storm = weather{loss: r.Float64() * 0.4, duplicates: r.Float64() * 0.3, delay: r.between(0, 200*time.Millisecond)}
		c.later(lasts, func() { c.network.storm = weather{} })
	case faultSlowDisk:
		c.count(slowDisks)
		s.slow = 1 + 100*r.Float64()
		c.later(lasts, func() { s.slow = 1 })
	case faultHungDisk:
		if !s.hung {
			c.count(hungDisks)
			s.hang(pick(r, time.Duration(1), 1, 1, 5) * lasts)
		}
	case faultWipe:
		c.attempt(s, func() bool { return true }, func() {
			c.lose(s)
			s.wipe()
		})
	case faultRollBack:
		if s.store == nil || s.rolled || s.blank || s.failing || c.loss != nil {
			return
		}
		if s.copied == nil {
			if s.leadsAlone() {
				return
			}
			s.copyDisk()
		}
		s.outlive(lasts/3, c.now+5*time.Second)
		c.later(lasts, func() { c.attempt(s, s.isOutlived, func() { s.rollBack(lasts + 2*c.shape.election()) }) })
	case faultRot, faultLostWrite, faultMisdirect:
		if l := c.loss; l != nil && l.site.rotten && l.site.store != nil {
			l.site.spoil(k) // more of the same disk
			return
		}
		c.attempt(s, func() bool { return !s.hung }, func() { s.rot(k, 4*lasts) })
	case faultDiskError:
		if r.chance(0.5) {
			s.volume.failSyncIn = 1 + r.IntN(10)
		} else {
			s.volume.failWriteIn = 1 + r.IntN(10)
		}
	case faultDiskFull:
		c.count(fullDisks)
		s.volume.fill(s.volume.Used() + int64(r.IntN(4<<10))*int64(r.IntN(64)))
		c.later(lasts, func() { s.volume.fill(0) })
	case faultClock:
		if r.chance(0.7) {
			c.count(clockDrifts)
			s.clock.drift(r)
		} else {
			c.count(clockJumps)
			s.clock.jump(r)
		}
	case faultUsurp:
		c.count(usurpations)
		c.usurp(s)
	case faultSchism:
		c.schisms += 1 + r.IntN(4)
	case faultCoup:
		c.coups += 1 + r.IntN(6)
		g := r.IntN(len(c.shape.members))
		if leader, st := c.leading(g); leader != nil {
			c.topple(st.Self.Replica, g, 0) // who leads has to go for others to come
		}
	}
}

// attempt has a disk lost as soon as the cluster can do without, if that is soon.
func (c *cluster) attempt(s *site, ready func() bool, strike func()) {
	until := c.now + 5*time.Second
	var poll func()
	poll = func() {
		switch {
		case c.canLose(s) && ready():
			strike()
		case c.now < until && c.loss == nil && !c.calm:
			c.later(50*time.Millisecond, poll)
		}
	}
	poll()
}

// usurp cuts off a store, and at times prepares its fall: another store loses sight
// of it an election time-out earlier and asks for votes, and when a third, which
// has refused, starts anew, it may have forgotten why.
func (c *cluster) usurp(s *site) {
	if c.shape.odd == 0 {
		c.overthrow(s, c.faults.IntN(6))
		return
	}
	s = c.sites[0]
	c.enthrone(s)
	c.later(c.shape.election()/2, func() {
		if c.calm {
			return
		}
		if c.shape.odd == oddTrusting {
			c.overthrow(s, 5) // who forgets is asked
		} else {
			c.overthrow(s, 0) // by the first who may
		}
	})
}

// enthrone has the leaders of all groups hand over to a store.
func (c *cluster) enthrone(heir *site) {
	for g := range c.shape.members {
		s, st := c.leading(g)
		if s == nil || s == heir || s.paused {
			continue
		}
		for _, m := range st.Members {
			if siteOf(m.Store) == heir.at && s.stepper.TransferLeader(s.groups[g], m.Replica) == nil {
				c.count(transfersAsked)
				s.poke()
			}
		}
	}
}

// overthrow is one of six ways of usurping.
func (c *cluster) overthrow(s *site, way int) {
	r, election := c.faults, c.shape.election()
	alone := func(from, to int) bool { return from == s.at || to == s.at }
	if r.chance(0.5) { // who is cut off has the slowest clock
		for _, other := range c.sites {
			other.clock.extreme(other != s)
		}
	}
	switch {
	case way < 3 || len(c.sites) < 3:
		lasts := r.between(election, 3*election)
		c.cut(lasts, alone)
		if r.chance(0.7) {
			c.pester(s, c.now+lasts)
		}
		return
	case way < 4:
		// It hands over, and does not hear that it has.
		c.cut(r.between(election, 2*election), func(_, to int) bool { return to == s.at })
		for g := range c.shape.members {
			if s.store == nil || s.paused || s.groups[g] == nil || !s.groups[g].IsLeader() {
				continue
			}
			for _, m := range s.groups[g].Membership().Members {
				if siteOf(m.Store) != s.at && s.stepper.TransferLeader(s.groups[g], m.Replica) == nil {
					c.count(transfersAsked)
					break
				}
			}
			s.poke()
		}
		return
	}
	if way < 5 {
		// It hears late what others promised, and they hear nothing more from it. That one
		// of them leads it hears late as well.
		lag := r.between(election/2, election*9/10)
		for _, other := range c.sites {
			c.network.link(other.at, s.at).lag = lag
		}
		c.later(3*election, func() {
			for _, other := range c.sites {
				c.network.link(other.at, s.at).lag = 0
			}
		})
		c.later(election, func() {
			if !c.calm {
				c.cut(2*election, func(from, _ int) bool { return from == s.at })
				c.pester(s, c.now+2*election)
			}
		})
		return
	}
	heir := (s.at + 1 + r.IntN(len(c.sites)-1)) % len(c.sites)
	c.cut(3*election, func(from, to int) bool { return from == s.at && to == heir })
	c.later(r.between(election, 2*election), func() {
		if c.calm {
			return
		}
		c.cut(2*election, alone)
		c.pester(s, c.now+2*election)
		for _, voter := range c.sites {
			if voter != s && voter.at != heir && voter.store != nil && !voter.paused {
				voter.volume.keep = true
				voter.crash(vfs.ProcessDies)
				voter.openSoon(r.between(0, election/4))
			}
		}
	})
}

// pester has others try, again and again, to take over what a store leads that was cut
// off: they do so at the first moment at which they may. One at a time tries, as
// candidates refuse each other.
func (c *cluster) pester(leader *site, until time.Duration) {
	if c.calm || c.now >= until {
		return
	}
	first := c.faults.IntN(len(c.sites))
	for g := range c.shape.members {
		if leader.store == nil || leader.groups[g] == nil || !leader.groups[g].IsLeader() {
			continue
		}
		for i := range c.sites {
			s := c.sites[(first+i)%len(c.sites)]
			if s == leader || s.store == nil || s.paused || s.groups[g] == nil {
				continue
			}
			if !s.groups[g].IsLeader() && s.stepper.Campaign(s.groups[g]) == nil {
				c.count(campaignsAsked)
				s.poke()
			}
			break
		}
	}
	c.later(max(c.shape.tick/2, 3*c.shape.delayMax), func() { c.pester(leader, until) })
}

// reconfigured may split the stores when a leader sends a membership for the first
// time: some have it then, some know that it is committed, and some know nothing.
func (c *cluster) reconfigured(g int, leader wire.ReplicaID) {
	if c.schisms == 0 || c.calm {
		return
	}
	c.schisms--
	r, shape := c.faults, &c.shape
	at := c.rosters[g].home[leader]
	c.later(r.between(0, pick(r, time.Duration(1), 3)*(shape.delayMax+shape.syncMax+shape.stepMax)), func() {
		if c.calm {
			return
		}
		c.count(schisms)
		// Those who came last stay with the leader, as far as chance has it.
		side := make([]bool, len(c.sites))
		for i := range side {
			side[i] = r.chance(0.3)
		}
		ids := c.rosters[g].ids
		for _, id := range ids[max(0, len(ids)-2):] {
			side[c.rosters[g].home[id]] = r.chance(0.8)
		}
		side[at] = true
		c.cut(r.between(shape.election(), 5*shape.election()), func(from, to int) bool { return side[from] != side[to] })
	})
}

// elected may have a leader fall that was just elected, before or while it makes
// others follow it: terms whose entries are on few disks are what the rules about
// old entries are for.
func (c *cluster) elected(replica wire.ReplicaID, g int, term wire.Term) {
	if c.coups == 0 || c.calm {
		return
	}
	c.coups--
	r, shape := c.faults, &c.shape
	switch r.IntN(3) {
	case 0: // before anybody has heard of it
		c.topple(replica, g, r.between(0, shape.delayMin))
	case 1:
		c.falls[g] = term
	default:
		c.topple(replica, g, r.between(0, pick(r, time.Duration(1), 2, 4)*(shape.delayMax+shape.syncMax+shape.stepMax)))
	}
}

// followed may have a leader fall to whom somebody has just acknowledged an entry: it
// hears so, and at best tells it nobody.
func (c *cluster) followed(leader wire.ReplicaID, g int, term wire.Term) {
	if c.falls[g] != term || c.calm {
		return
	}
	c.falls[g] = 0
	c.topple(leader, g, c.faults.between(c.shape.delayMin, 2*c.shape.delayMax+c.shape.stepMax))
}

// topple ends a leadership some time later.
func (c *cluster) topple(replica wire.ReplicaID, g int, delay time.Duration) {
	r, shape := c.faults, &c.shape
	s := c.sites[c.rosters[g].home[replica]]
	life := s.life
	c.later(delay, func() {
		if s.store == nil || s.life != life || c.calm {
			return
		}
		c.count(coups)
		lasts := r.between(0, 6*time.Duration(shape.tuning.ElectionTicks)*shape.tick)
		c.note("store %d falls as the leader of group %d", s.at+1, groupID(g))
		switch r.IntN(4) {
		case 0:
			s.crash(s.crashOptions())
		case 1:
			s.pause(lasts)
		default:
			c.cut(lasts, func(from, to int) bool { return from == s.at || to == s.at })
		}
	})
}

// powerCut ends the lives of all stores at once.
func (c *cluster) powerCut() {
	c.count(powerCuts)
	for _, s := range c.sites {
		s.crash(s.crashOptions())
	}
}

// cut lets nothing through the chosen links for a while.
func (c *cluster) cut(lasts time.Duration, chosen func(from, to int) bool) {
	var links []*link
	for from := range c.sites {
		for to := range c.sites {
			if from == to || !chosen(from, to) {
				continue
			}
			l := c.network.link(from, to)
			l.cut++
			links = append(links, l)
			c.note("link %d ─▶ %d is cut", from+1, to+1)
			c.network.lose(c.sites[to], from)
		}
	}
	c.later(lasts, func() {
		if c.calm {
			return // everything was mended
		}
		for _, l := range links {
			l.cut--
		}
		c.note("%d links are mended", len(links))
	})
}

// background is how likely something is that happens all the time, and not in
// the calm.
func (c *cluster) background(p float64) float64 {
	if c.calm {
		return 0
	}
	return p
}
