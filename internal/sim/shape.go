package sim

import (
	"fmt"
	"strings"
	"time"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/wire"
)

// shape is everything about a run that is drawn from its seed once: how large
// the cluster is, how it is tuned, how good its network and disks are, and which
// faults it meets. Drawing whole features on and off, and not only numbers,
// makes runs differ more than any mixture would (swarm testing).
type shape struct {
	stores  int
	members [][]engine.Member // per group
	clients int

	workers, appliers int
	tick              time.Duration
	tuning            group.Tuning
	segmentBytes      int64
	cacheBytes        int64
	groupBytes        int64 // MaxGroupInflightBytes
	receiveBytes      int64
	applyBytes        int64

	delayMin, delayMax time.Duration // of frames
	ordered            bool          // links keep order, as TCP does
	loss, duplicates   float64       // of frames, all the time
	late               float64       // of frames that are not ordered, by seconds
	linkBytes          int           // queued per link and lane before Send refuses
	syncMin, syncMax   time.Duration
	stepMax            time.Duration // until a worker or applier that has work steps

	rate      float64       // operations a second that clients try, all together
	think     time.Duration // a client waits so long between two bursts
	burst     int
	reads     float64       // share of operations
	command   int           // largest filler of a command
	durable   bool          // state machines keep their state across restarts
	snapshots bool          // state machines make them
	entries   uint64        // between two of them
	keep      uint64        // entries in front of one
	heavy     int           // largest filler of one
	mixed     bool          // stores have election time-outs and leases of their own
	digests   uint64        // entries between two comparisons of replicas
	odd       oddity        // of the first store
	oneClock  bool          // the ticker of a store is as fast or slow as its clock
	batches   float64       // share of bursts whose writes are proposed together
	versions  bool          // stores speak different protocol versions
	forward   bool          // followers pass proposals on to the leader
	stale     float64       // share of reads that may be old
	changes   time.Duration // between two changes of members; zero: none
	strike    time.Duration
	alone     bool            // a strike is not followed by another at once
	weights   [faultKinds]int // of faults that nemesis chooses from
	faultTime time.Duration
	repairs   bool // stores repair themselves
}

// oddity is how the first store of a run differs from the others in what leases rest on.
type oddity uint8

const (
	oddPatient  oddity = iota + 1 // it waits for leaders twice as long as they do, and promises as much
	oddTrusting                   // it alone has leases: the others promise nothing
)

const (
	maxCommandBytes = 8 << 10
	// groupSpread keeps group, store and replica ids apart, so that one taken
	// for another shows.
	groupSpread = 100
)

func groupID(g int) wire.GroupID        { return wire.GroupID(groupSpread * (g + 1)) }
func groupOf(id wire.GroupID) (g int)   { return int(id/groupSpread) - 1 }
func storeID(site int) wire.StoreID     { return wire.StoreID(site + 1) }
func siteOf(id wire.StoreID) (site int) { return int(id) - 1 }

// replicaID is that of a replica that a group begins with.
func replicaID(g, site int) wire.ReplicaID { return wire.ReplicaID(1000*(g+1) + site + 1) }

// drawShape decides what the run of a plan looks like. What the plan pins is
// drawn all the same, so that everything else stays as it is without.
func drawShape(p Plan) shape {
	r := newRandom(p.Seed, streamShape)
	s := shape{
		stores:       pick(r, 3, 3, 3, 5),
		clients:      1 + r.IntN(6),
		workers:      pick(r, 1, 2, 3),
		appliers:     pick(r, 1, 1, 2),
		tick:         pick(r, time.Duration(10), 50, 100) * time.Millisecond,
		segmentBytes: pick(r, int64(64<<10), 64<<10, 256<<10, 1<<20),
		cacheBytes:   pick(r, int64(1), 16<<10, 0),
		groupBytes:   pick(r, int64(16<<10), 1<<20),
		receiveBytes: pick(r, int64(8<<10), 1<<20, 1<<20),
		applyBytes:   pick(r, int64(1), 16<<10, 1<<20),
		delayMin:     pick(r, time.Duration(20), 200, 2000) * time.Microsecond,
		ordered:      r.chance(0.5),
		loss:         pick(r, 0, 0, 0.001, 0.02),
		duplicates:   pick(r, 0, 0, 0.001, 0.02),
		late:         pick(r, 0, 0.001, 0.01),
		linkBytes:    pick(r, 4<<10, 16<<10, 256<<10),
		syncMin:      pick(r, time.Duration(10), 100, 500) * time.Microsecond,
		stepMax:      pick(r, time.Duration(20), 200, 3000) * time.Microsecond,
		rate:         pick(r, 30., 100, 300, 1000),
		burst:        pick(r, 1, 4, 16),
		reads:        pick(r, 0.1, 0.3, 0.6),
		command:      pick(r, 16, 200, 2000),
		durable:      r.chance(0.3),
		strike:       pick(r, time.Duration(300), 1000, 3000) * time.Millisecond,
		faultTime:    p.Faults,
		repairs:      newRandom(p.Seed, streamRepairs).chance(0.8),
	}
	if p.Stores != 0 {
		s.stores = p.Stores
	}
	s.syncMax = s.syncMin * pick(r, time.Duration(2), 10, 50)
	s.tuning = group.Tuning{
		ElectionTicks:       pick(r, 5, 10, 20),
		HeartbeatTicks:      pick(r, 1, 2),
		MaxMessageBytes:     pick(r, 1, 1<<10, 16<<10, 1<<20),
		MaxInflightMessages: pick(r, 1, 4, 64),
		MaxInflightBytes:    pick(r, 1, 8<<10, 1<<20),
		MaxUncommittedBytes: pick(r, 8<<10, 1<<20),
		MaxCommittedBytes:   pick(r, 1, 4<<10, 1<<20),
		MaxTailBytes:        pick(r, 1, 4<<10, 256<<10),
		DisablePreVote:      r.chance(0.2),
		DisableCheckQuorum:  r.chance(0.2),
	}
	groups := 1 + r.IntN(pick(r, 2, 6, 16))
	if p.Groups != 0 {
		groups = p.Groups
	}
	for g := range groups {
		s.members = append(s.members, drawMembers(r, g, s.stores))
	}
	for k := range s.weights {
		if r.chance(0.6) {
			s.weights[k] = 1 + r.IntN(4)
		}
	}
	s.snapshots = r.chance(0.8)
	s.entries, s.keep, s.heavy = pick(r, uint64(3), 20, 200), pick(r, uint64(1), 10, 100), pick(r, 0, 2000, 50_000)
	s.forward = r.chance(0.5)
	s.versions = r.chance(0.3)
	s.batches = pick(r, 0, 0.2, 0.8)
	s.mixed = r.chance(0.3)
	s.stale = pick(r, 0, 0.2, 0.5)
	if r.chance(0.5) {
		s.tuning.DisableCheckQuorum = false
		s.tuning.LeaseReads = true
		s.tuning.MaxClockDrift = pick(r, 5, 10, 20)
	}
	if r.chance(0.5) {
		s.changes = pick(r, time.Duration(100), 500, 3000) * time.Millisecond
	}
	switch roll := r.IntN(20); {
	case roll < 7:
		s.turmoil(r)
		if p.Groups == 0 {
			s.members = s.members[:min(pick(r, 1, 1, 3), len(s.members))]
		}
	case roll < 12:
		s.succession(r)
		for p.Groups == 0 && len(s.members) < 12 {
			s.members = append(s.members, drawMembers(r, len(s.members), s.stores))
		}
	case roll < 14:
		s.decay(r)
	case roll < 15:
		s.relapse(r)
		if p.Groups == 0 {
			s.members = s.members[:min(3, len(s.members))]
		}
	case roll < 16:
		s.exchange(r)
	}
	if s.tuning.LeaseReads && s.tuning.Validate() != nil {
		s.tuning.LeaseReads = false // the election time-out leaves no room for one
	}
	if p.Faults >= longFaults {
		// A long run is for what takes time to come about. It meets as many faults
		// as a few short ones, further apart, so that logs grow and terms last.
		s.rate = min(s.rate, 100)
		s.snapshots, s.entries = true, max(s.entries, 20)
		if r.chance(0.75) {
			s.slowTicks()
		}
		s.strike = s.strike * pick(r, time.Duration(1), 3, 10)
	}
	if len(s.members) > manyGroups {
		s.slowTicks()
		s.segmentBytes = max(s.segmentBytes, 256<<10)
	}
	s.think = time.Duration(float64(s.clients) * float64(1+s.burst) / 2 / s.rate * float64(time.Second))
	// No leader could be elected if answers took longer than candidates wait.
	s.delayMax = min(s.delayMin*pick(r, time.Duration(2), 5, 20), s.election()/4)
	s.syncMax = min(s.syncMax, s.election()/4) // or what is no fault hangs, and leaders step down for it
	if s.mixed || s.odd == oddPatient {
		// Without pre-vote, a store with a short time-out and an old log campaigns
		// before the others have their chance, for ever.
		s.tuning.DisablePreVote = false
		s.delayMax /= 2
		s.delayMin = min(s.delayMin, s.delayMax)
	}
	s.digests = pick(r, uint64(16), 128, 1024)
	return s
}

// turmoil makes a run one in which leaders hardly ever get anything done: few
// writes, entries that travel one by one, and coups. It is what the rules about
// entries of earlier terms are for (thesis, figure 3.7).
func (s *shape) turmoil(r random) {
	s.tick = 10 * time.Millisecond
	s.tuning.ElectionTicks = pick(r, 5, 10)
	s.tuning.MaxMessageBytes = pick(r, 1, 1, 1<<10)
	s.tuning.DisablePreVote = r.chance(0.5)
	s.rate, s.burst = 30, pick(r, 1, 4)
	s.strike = pick(r, time.Duration(200), 500, 500) * time.Millisecond
	s.delayMin = pick(r, time.Duration(200), 2000, 2000, 5000) * time.Microsecond
	s.weights = [faultKinds]int{}
	s.weights[faultCoup] = 9
	if s.changes = pick(r, 0, 0, 0, 200*time.Millisecond); s.changes > 0 {
		s.weights[faultSchism] = 6
	}
	if !s.ordered {
		s.late = 0.05
	}
	for _, k := range []faultKind{faultSlowDisk, faultHungDisk, faultCrash, faultPause, faultIsolate, faultClock} {
		if r.chance(0.4) {
			s.weights[k] = 1
		}
	}
}

// succession makes a run one in which leaders are cut off again and again while
// they hold leases, by clocks that differ as much as they may, and others take over
// as soon as they may.
func (s *shape) succession(r random) {
	s.tick = 50 * time.Millisecond
	s.tuning.ElectionTicks, s.tuning.HeartbeatTicks = 20, 1
	s.tuning.DisableCheckQuorum, s.tuning.LeaseReads, s.tuning.MaxClockDrift = false, true, pick(r, 10, 20)
	s.delayMin, s.syncMin, s.syncMax, s.stepMax = pick(r, 200*time.Microsecond, 20*time.Millisecond), 100*time.Microsecond, 500*time.Microsecond, 200*time.Microsecond
	s.loss, s.duplicates, s.late = 0, 0, 0
	s.strike, s.alone = 2*s.election(), true
	s.weights = [faultKinds]int{}
	s.weights[faultUsurp], s.weights[faultPause], s.weights[faultClock] = 6, 1, 2
	s.changes = pick(r, 0, time.Second)
	switch roll := r.IntN(20); {
	case roll < 3:
		s.mixed = true
	case roll < 7:
		s.odd = oddPatient
	case roll < 11:
		s.odd = oddTrusting
	}
	s.oneClock = true
}

// decay makes a run one in which disks rot or are lost, one after the other, and little else
// happens: each has to be replaced before the next one may.
func (s *shape) decay(r random) {
	s.weights = [faultKinds]int{}
	s.weights[faultRot], s.weights[faultLostWrite], s.weights[faultMisdirect] = 6, 2, 2
	s.weights[faultCrash], s.weights[faultKill], s.weights[faultRollBack], s.weights[faultWipe] = 1, 1, 2, 1
	s.snapshots, s.heavy, s.entries = true, pick(r, 2000, 50_000), pick(r, uint64(3), 20)
	s.strike, s.changes = 500*time.Millisecond, 0
}

// relapse makes a run one in which disks are copied and rolled back, one after the other,
// while the others have time to meet what becomes of a store in between.
func (s *shape) relapse(r random) {
	s.weights = [faultKinds]int{}
	s.weights[faultRollBack], s.weights[faultCrash], s.weights[faultStop] = 6, 1, 1
	s.weights[faultIsolate], s.weights[faultKill], s.weights[faultWipe] = r.IntN(2), r.IntN(2), r.IntN(2)
	s.strike, s.changes = time.Second, pick(r, 0, 0, 2*time.Second)
}

// exchange makes a run one in which members come and go all the time, and some of those
// who are to go, or have just come, lag behind.
func (s *shape) exchange(r random) {
	s.tick, s.loss = 10*time.Millisecond, 0
	s.weights = [faultKinds]int{}
	s.weights[faultSlowDisk], s.weights[faultIsolate], s.weights[faultOneWay], s.weights[faultSchism] = 3, 3, 2, 2
	s.weights[faultPause], s.weights[faultCrash], s.weights[faultHungDisk] = 2, 1, 1
	s.strike, s.changes = pick(r, time.Duration(300), 1000)*time.Millisecond, 100*time.Millisecond
}

const (
	// longFaults makes a run a long one.
	longFaults = 2 * time.Minute
	// manyGroups are more than a run has whose plan does not say so.
	manyGroups = 16
)

// slowTicks makes ticks as long as they are in production. Short ones bring more
// elections in a second, at the price of as many more heartbeats.
func (s *shape) slowTicks() { s.tick = max(s.tick, 50*time.Millisecond) }

// drawMembers places the replicas of a group: mostly three, sometimes all
// stores, one or two.
func drawMembers(r random, g, stores int) []engine.Member {
	n := min(stores, pick(r, 3, 3, 3, 3, 5, 5, 2, 1))
	var members []engine.Member
	for _, site := range r.Perm(stores)[:n] {
		members = append(members, engine.Member{Replica: replicaID(g, site), Store: storeID(site)})
	}
	return members
}

// String describes the shape in the order in which one reads it.
func (s *shape) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d stores, %d groups, %d clients with %g operations a second, %d workers, %d appliers, tick %v, election %d, heartbeat %d",
		s.stores, len(s.members), s.clients, s.rate, s.workers, s.appliers, s.tick, s.tuning.ElectionTicks, s.tuning.HeartbeatTicks)
	fmt.Fprintf(&b, ", delay %v to %v, ordered %v, loss %g, duplicates %g, late %g, sync %v to %v, strike every %v, faults",
		s.delayMin, s.delayMax, s.ordered, s.loss, s.duplicates, s.late, s.syncMin, s.syncMax, s.strike)
	if s.snapshots {
		fmt.Fprintf(&b, "; a snapshot every %d entries, %d kept, up to %d bytes;", s.entries, s.keep, s.heavy)
	}
	if s.tuning.LeaseReads {
		fmt.Fprintf(&b, "; leases with clocks that drift by %d %%;", s.tuning.MaxClockDrift)
	}
	if s.mixed {
		b.WriteString("; each store with its own time-out, with leases or without;")
	}
	switch s.odd {
	case oddPatient:
		b.WriteString("; the first store waits longer than the others;")
	case oddTrusting:
		b.WriteString("; the first store alone has leases;")
	}
	if s.batches > 0 {
		fmt.Fprintf(&b, "; %g of writes in batches;", s.batches)
	}
	if s.versions {
		b.WriteString("; stores of different protocol versions;")
	}
	if s.forward {
		b.WriteString("; proposals are forwarded;")
	}
	if s.repairs {
		b.WriteString("; stores repair themselves;")
	}
	if s.changes > 0 {
		fmt.Fprintf(&b, "; members change every %v;", s.changes)
	}
	for k, weight := range s.weights {
		if weight > 0 {
			fmt.Fprintf(&b, " %v", faultKind(k))
		}
	}
	return b.String()
}

// election is the shortest election time-out.
func (s *shape) election() time.Duration {
	return time.Duration(s.tuning.ElectionTicks) * s.tick
}

// tuningOf draws the tuning of the store of a site.
func (s *shape) tuningOf(r random, at int) group.Tuning {
	t := s.tuning
	switch {
	case s.odd == oddPatient && at > 0:
		t.ElectionTicks /= 2
		return t
	case s.odd == oddTrusting && at > 0:
		t.LeaseReads = false
		return t
	case !s.mixed:
		return t
	}
	t.ElectionTicks = pick(r, t.ElectionTicks, t.ElectionTicks/2, 2*t.ElectionTicks)
	t.ElectionTicks = min(max(t.ElectionTicks, 5), 20)
	t.LeaseReads = t.LeaseReads && r.chance(0.7)
	if t.Validate() != nil {
		t.LeaseReads = false
	}
	return t
}

// calm is how long a healed cluster may take until every group has a leader,
// has accepted a write and has equal replicas: several rounds of elections, each
// as long as they get, and what a replica that missed all of the faults needs to
// catch up through the narrowest window.
func (s *shape) calm() time.Duration {
	election := 2 * s.election()
	if s.mixed {
		election *= 2
	}
	return 15*election + 2*s.faultTime + 20*time.Second
}
