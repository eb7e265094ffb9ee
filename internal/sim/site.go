package sim

import (
	"time"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// site is a place in the cluster: a volume, and a store while one is up. A
// store's life lasts from opening to a crash or a stop; the next one finds what
// is on the volume.
type site struct {
	c      *cluster
	at     int
	volume *volume
	random random
	torn   random        // of what a crash hits
	tick   time.Duration // tickers of stores differ a little
	clock  siteClock
	tuning group.Tuning

	life        uint32
	store       *engine.Store // nil while down
	stepper     *engine.Stepper
	end         *transportEnd
	spoken      []uint16        // the protocol version with each peer
	newest      uint16          // the version that the store is held at
	peers       []bool          // whom the store takes for reachable
	parts       []bool          // of the store that have a step on the agenda
	logFailed   bool            // a write or sync of the log failed in this life
	failing     bool            // the store failed by itself; its end is on the agenda
	groups      []*engine.Group // nil where none runs
	machines    []*machine
	replicas    []wire.ReplicaID // in groups
	joining     []*machine       // of replicas that are about to be started
	awaited     []*machine       // of lost replicas, for their successors
	wounds      []wire.ReplicaID // that wait for the state of their leaders
	marked      []time.Duration  // since when groups are known to have a mark of a wound
	stopping    []bool           // groups that are being stopped
	wokeLacking []bool           // groups whose replica was started without all that it had
	audits      []audit
	audited     int
	unfit       int // ticks for which the store has known that its disk hangs
	ticked      int

	// kept is what durable machines keep over the lives.
	kept []*machineState

	paused bool
	held   []event // what would have happened in the pause
	slow   float64 // disk latency is multiplied by it

	hangs  int             // counts them
	hung   bool            // calls to the disk do not return
	blocks []bool          // parts that wait for one, besides those that write
	stuck  []event         // steps of parts that wait
	owes   []time.Duration // what reads took in the last step of a part

	batches []*batched // in flight

	met       []meeting // by site. Peers keep what they have met: a store that forgets lets a copy in
	copied    *copied   // of the disk, nil for none
	rolled    bool      // the disk is such a copy
	copyLives int       // on it. With each it takes the next incarnation, until peers could not tell it from the true one,
	outlived  bool      // unless somebody has told it meanwhile, and it remembers
	rotten    bool      // the disk does not keep its promises
	nameless  bool      // its identity is spoilt in both copies
	damaged   []bool    // groups that say so
	blank     bool      // the disk is lost, and the store says so
	lost      bool      // it said so when this life began
	reborn    bool      // it was lost some time, so no group begins here from its first members
	waits     bool      // replicas waited for repair when the life before ended
}

func newSite(c *cluster, at int) *site {
	s := &site{c: c, at: at, slow: 1, random: newRandom(c.seed, streamSteps+uint64(groupSpread*(at+1)))}
	s.torn = newRandom(c.seed, streamTorn+uint64(groupSpread*(at+1)))
	s.tick = c.shape.tick + time.Duration(float64(c.shape.tick)*0.02*(s.random.Float64()-0.5))
	s.tuning = c.shape.tuningOf(s.random, at)
	s.clock = siteClock{c: c, rate: 1}
	s.clock.drift(s.random)
	s.volume = newVolume(s)
	s.newest = wire.ProtocolVersion
	if c.shape.versions && s.random.chance(0.7) {
		s.newest = wire.MinProtocolVersion
	}
	s.met = make([]meeting, c.shape.stores)
	s.damaged = make([]bool, len(c.shape.members))
	s.kept = make([]*machineState, len(c.shape.members))
	for g := range s.kept {
		if c.shape.durable {
			s.kept[g] = &machineState{}
		}
	}
	return s
}

// open begins a life of the store. A crash in the middle of it ends the life
// before it has begun.
func (s *site) open() {
	c := s.c
	if s.store != nil {
		return
	}
	if s.rolled {
		if s.copyLives++; s.copyLives > 1 && !s.outlived {
			s.wipe()
		}
	}
	s.life++
	s.lost = s.blank || s.rolled
	c.note("store %d opens, life %d", s.at+1, s.life)
	s.end = &transportEnd{site: s, life: s.life, protocol: wire.ProtocolVersion}
	s.spoken = make([]uint16, c.shape.stores)
	for peer := range s.spoken {
		s.spoken[peer] = wire.MinProtocolVersion
	}
	store, stepper, err := engine.OpenStepped(engine.Config{
		Cluster: 1, ID: storeID(s.at), Dir: "/store", Transport: s.end, FS: s.volume,
		SegmentBytes: c.shape.segmentBytes, Workers: c.shape.workers, Appliers: c.shape.appliers,
		TickInterval: c.shape.tick, Tuning: s.tuning, MaxCommandBytes: maxCommandBytes,
		MaxGroupInflightBytes: c.shape.groupBytes, CacheBytes: c.shape.cacheBytes,
		MaxReceiveBytes: c.shape.receiveBytes, MaxApplyBytes: c.shape.applyBytes,
		Seed: s.random.Uint64() | 1, SnapshotEntries: c.shape.entries, KeepEntries: c.shape.keep, SnapshotChunkBytes: 1 << 10,
		ForwardProposals: c.shape.forward, Clock: &s.clock, MaxProtocol: s.release(), DiskLost: s.lost, Join: s.joins,
		DigestEntries: c.shape.digests, DisableRepair: !c.shape.repairs, Peers: c.addresses(),
		Events: engine.Events{ReplicaRemoved: s.removed, GroupDamaged: s.hasDamaged, GroupRepaired: s.hasRepaired},
	})
	if err != nil {
		s.stillborn(err)
		return
	}
	if s.outlived {
		c.check.fail(ruleMembers, "store %d opens a disk that it was told is an older copy", s.at+1)
	}
	s.store, s.stepper, s.failing, s.logFailed, s.unfit = store, stepper, false, false, 0
	s.peers = make([]bool, c.shape.stores)
	s.parts = make([]bool, stepper.Workers()+stepper.Appliers()+otherParts)
	s.groups = make([]*engine.Group, len(c.shape.members))
	s.machines = make([]*machine, len(c.shape.members))
	s.audits = make([]audit, len(c.shape.members))
	s.replicas = make([]wire.ReplicaID, len(c.shape.members))
	s.joining = make([]*machine, len(c.shape.members))
	s.awaited = make([]*machine, len(c.shape.members))
	s.wounds = make([]wire.ReplicaID, len(c.shape.members))
	s.wokeLacking = make([]bool, len(c.shape.members))
	s.marked = make([]time.Duration, len(c.shape.members))
	s.stopping = make([]bool, len(c.shape.members))
	s.blocks, s.owes = make([]bool, len(s.parts)), make([]time.Duration, len(s.parts))
	if err := s.startGroups(); err != nil {
		s.store = nil
		s.stillborn(err)
		return
	}
	c.note("store %d is up, in incarnation %d", s.at+1, stepper.Incarnation())
	s.tickLater()
	s.maintainLater()
	for part := range s.parts {
		s.wake(part)
	}
}

// release draws which version of the protocol the next life speaks: stores are
// upgraded one by one, and at times one is set back. The calm finds all upgraded, or
// as they are.
func (s *site) release() uint16 {
	if r := s.random; s.c.shape.versions && r.chance(0.3) && !(s.c.shape.repairs && (s.c.loss != nil || s.c.calm && s.c.awaits())) {
		old := s.newest
		if s.newest = wire.ProtocolVersion; r.chance(0.3) {
			s.newest = wire.MinProtocolVersion
		}
		if s.newest > old {
			s.c.count(upgrades)
		} else if s.newest < old {
			s.c.count(downgrades)
		}
	}
	return s.newest
}

// stillborn ends a life that did not begin, for a reason that had better be a
// fault of this run.
func (s *site) stillborn(err error) {
	c := s.c
	c.note("store %d does not open: %v", s.at+1, err)
	switch {
	case s.volume.crashed:
		c.count(crashesInRecovery)
	case s.outlived && isOutlived(err):
		c.count(copiesRefused)
	case s.excuses(err), s.rotten && s.nameless:
		c.count(storesUnreadable)
		s.replaceDisk()
		return
	case s.volume.failed:
		if s.volume.capacity > 0 {
			c.count(openedFull)
		}
		s.volume.crash(s.crashOptions())
	default:
		c.check.fail(ruleErrors, "store %d does not open: %v", s.at+1, err)
		return
	}
	s.volume.restore()
	s.openLater()
}

// openLater puts the next life on the agenda.
func (s *site) openLater() {
	delay := s.random.around(500 * time.Millisecond)
	if s.c.calm {
		delay = s.random.between(0, 100*time.Millisecond)
	}
	s.openSoon(delay)
}

// openSoon puts the next life on the agenda, unless it begins by itself before.
func (s *site) openSoon(delay time.Duration) {
	life := s.life
	s.c.later(delay, func() {
		if s.store != nil || s.life != life {
			return
		}
		if s.hung {
			s.openSoon(100 * time.Millisecond)
			return
		}
		s.c.count(restarts)
		if !s.c.calm && s.c.shape.weights[faultCrashInStep] > 0 && s.random.chance(0.2) {
			s.volume.crashIn, s.volume.crashAs = 1+s.random.IntN(20), s.crashOptions()
		}
		s.open()
	})
}

// crash ends a life without warning. What the volume had not synced is lost as
// o says.
func (s *site) crash(o vfs.CrashOptions) {
	if s.store == nil {
		return
	}
	s.dieWriting(o)
	s.volume.crash(o)
	s.fall()
}

// fall ends the life of a store whose volume has crashed under it.
func (s *site) fall() {
	c := s.c
	c.note("store %d is down", s.at+1)
	metrics := s.store.Metrics()
	c.counts[readsLeased] += uint64(metrics.LeaseReads)
	c.counts[messagesUnspoken] += uint64(metrics.UnspokenMessages)
	if metrics.BadFrames > 0 {
		c.check.fail(ruleFrames, "store %d was sent %d frames that it could not read", s.at+1, metrics.BadFrames)
	}
	if metrics.DivergedReplicas+metrics.UndecidedDigests > 0 && c.plan.Plant == PlantNothing {
		c.check.fail(ruleMachine, "store %d has seen %d replicas diverge, and %d undecided ranges, of sound machines", s.at+1, metrics.DivergedReplicas, metrics.UndecidedDigests)
	}
	s.waits = metrics.Repairing > 0
	s.store, s.stepper, s.groups, s.machines = nil, nil, nil, nil
	s.stuck, s.batches = nil, nil
	s.volume.restore()
	s.resume() // what was held finds nobody
	for peer := range c.sites {
		if peer != s.at {
			c.network.lose(c.sites[peer], s.at)
		}
	}
	s.openLater()
}

// stop ends a life in good order.
func (s *site) stop() {
	c := s.c
	if s.store == nil || s.failing {
		return
	}
	c.note("store %d stops", s.at+1)
	err := s.stepper.Close()
	switch {
	case s.volume.crashed || s.volume.failed:
		s.volume.crash(s.crashOptions())
	case err != nil && !s.excuses(err):
		c.check.fail(ruleErrors, "store %d does not stop in good order: %v", s.at+1, err)
	case s.volume.locked():
		c.check.fail(ruleErrors, "store %d keeps its lock after it has stopped", s.at+1)
	default:
		s.volume.keep = true
		s.volume.crash(vfs.ProcessDies)
	}
	s.fall()
}

// crashOptions draws what a crash does to what was not synced.
func (s *site) crashOptions() vfs.CrashOptions {
	return pick(s.random, vfs.ProcessDies, vfs.AllLost, vfs.PowerFails, vfs.DiskFails)
}

func (s *site) tickLater() {
	tick := s.tick
	if s.c.shape.oneClock {
		tick = time.Duration(float64(tick) / s.clock.rate)
	}
	s.c.agenda.add(event{at: s.c.now + tick, kind: eventTick, site: int16(s.at), life: s.life})
}

// auditTicks is how many ticks pass between two audits of some group.
const auditTicks = 4

// ticks advances the logical time of the store.
func (s *site) ticks() {
	s.stepper.Tick()
	s.tickLater()
	s.poke()
	s.c.check.fitness(s)
	if s.ticked++; s.ticked%auditTicks != 0 {
		return
	}
	for range s.groups {
		s.audited = (s.audited + 1) % len(s.groups)
		if s.groups[s.audited] != nil {
			s.c.check.audit(s, s.audited)
			return
		}
	}
}

// poke puts a step of every part on the agenda that was woken and has none there.
// Whatever may give a store something to do is followed by it.
func (s *site) poke() {
	if s.stepper == nil {
		return
	}
	w := s.stepper.Woken()
	if !w.Any() {
		return
	}
	workers := s.stepper.Workers()
	for part := range workers {
		// Another worker comes to steal at times.
		if w.Workers>>part&1 != 0 || w.Workers != 0 && s.random.chance(0.1) {
			s.wake(part)
		}
	}
	for at := range s.stepper.Appliers() {
		if w.Appliers>>at&1 != 0 {
			s.wake(workers + at)
		}
	}
	if w.Log {
		s.wake(s.logPart())
	}
	if w.Maintain {
		s.wake(s.maintainPart())
	}
	if w.Snapshots {
		s.wake(s.snapshotPart())
	}
	if w.Events {
		s.wake(s.eventPart())
	}
	if w.Join {
		s.wake(s.joinPart())
	}
}

// wake puts a step of a part on the agenda, unless one stands there.
func (s *site) wake(part int) {
	if s.parts[part] {
		return
	}
	s.parts[part] = true
	if part == s.logPart() {
		s.stepper.BeginLog()
	}
	delay := s.pace(part) + s.owes[part]
	s.owes[part] = 0
	s.c.agenda.add(event{at: s.c.now + delay, kind: eventStep, site: int16(s.at), life: s.life, arg: int32(part)})
}

// maintainLater has the background work of the log take a step now and then
// though nothing has woken it, as the log's goroutine does for what has failed.
func (s *site) maintainLater() {
	life := s.life
	s.c.later(time.Second, func() {
		if s.store != nil && s.life == life {
			s.wake(s.maintainPart())
			s.maintainLater()
		}
	})
}

// otherParts are the parts of a store besides its workers and appliers: what
// starts replicas that were added, what tells the embedder, snapshots, the log, and
// the log's background work.
const otherParts = 5

func (s *site) joinPart() int     { return len(s.parts) - 5 }
func (s *site) eventPart() int    { return len(s.parts) - 4 }
func (s *site) snapshotPart() int { return len(s.parts) - 3 }
func (s *site) logPart() int      { return len(s.parts) - 2 }
func (s *site) maintainPart() int { return len(s.parts) - 1 }

// pace draws how long a part takes until its next step.
func (s *site) pace(part int) time.Duration {
	shape := &s.c.shape
	switch {
	case part == s.logPart():
		return time.Duration(s.slow * float64(s.random.between(shape.syncMin, shape.syncMax)))
	case part == s.maintainPart(), part == s.snapshotPart():
		return time.Duration(s.slow * float64(s.random.around(10*time.Millisecond)))
	}
	if s.random.chance(0.001) {
		return s.random.between(0, 50*time.Millisecond) // a stall, as of a garbage collector
	}
	return s.random.between(time.Microsecond, shape.stepMax)
}

// step lets one part of the store do what it has to do.
func (s *site) step(part int) {
	s.parts[part] = false
	workers := s.stepper.Workers()
	busy := false
	s.volume.reads = 0
	switch {
	case part < workers:
		busy = s.stepper.Worker(part)
	case part == s.logPart():
		busy = s.stepLog()
	case part == s.maintainPart():
		busy = s.stepper.Maintain()
	case part == s.snapshotPart():
		busy = s.stepper.Snapshots()
	case part == s.eventPart():
		busy = s.stepper.Events()
	case part == s.joinPart():
		busy = s.stepper.Join()
		s.noteJoined()
	default:
		busy = s.stepper.Applier(part - workers)
	}
	if s.volume.reads > 0 && (s.hung || s.slow > 1) {
		s.readSlowly(part)
	}
	if busy {
		s.c.trace.mix(uint64(part) + 1)
		if s.store != nil {
			s.wake(part) // a part goes on until it has nothing to do
		}
		s.poke()
	}
}

// writes says whether a part writes to the disk in every step.
func (s *site) writes(part int) bool {
	return part == s.logPart() || part == s.maintainPart() || part == s.snapshotPart() || part == s.joinPart()
}

// readSlowly has a part that has read from a slow disk begin its next step later,
// and from a hung one when that goes on. The step itself was one event.
func (s *site) readSlowly(part int) {
	s.c.count(slowReads)
	if s.hung {
		s.blocks[part] = true
		return
	}
	s.owes[part] += time.Duration(float64(s.volume.reads) * s.slow * float64(s.random.between(0, s.c.shape.syncMin)))
}

// hang lets no call to the disk return for a while, or until the calm.
func (s *site) hang(lasts time.Duration) {
	s.c.note("the disk of store %d hangs for %v", s.at+1, lasts)
	s.hung = true
	s.hangs++
	hangs := s.hangs
	s.c.later(lasts, func() {
		if s.hangs == hangs {
			s.goOn()
		}
	})
}

// goOn ends the hang of the disk.
func (s *site) goOn() {
	if !s.hung {
		return
	}
	s.c.note("the disk of store %d goes on", s.at+1)
	s.hung = false
	clear(s.blocks)
	for _, e := range s.stuck {
		e.at = s.c.now + s.pace(int(e.arg))
		s.c.agenda.add(e)
	}
	s.stuck = nil
}

// stepLog lets the log take a step. A store hears of a write or sync that failed
// with the first batch that is not durable for it, and then is to stop.
func (s *site) stepLog() bool {
	failed := s.volume.failed
	busy := s.stepper.Log()
	s.logFailed = s.logFailed || s.volume.failed && !failed
	if s.logFailed && busy && s.store.Err() == nil {
		s.c.check.fail(ruleFailed, "store %d goes on after its log could not be written", s.at+1)
	}
	return busy
}

// look sees what an event did to the store as a whole.
func (s *site) look() {
	if s.store == nil {
		return
	}
	if len(s.batches) > 0 && !s.volume.crashed {
		s.lookAtBatches()
	}
	if s.volume.crashed {
		s.c.count(crashesInStep)
		s.fall()
		return
	}
	if err := s.store.Err(); err != nil && !s.failing {
		s.failing = true
		s.c.note("store %d failed: %v", s.at+1, err)
		if s.outlived = s.rolled && isOutlived(err) && !s.volume.failed; !s.outlived && !s.volume.failed && !s.excuses(err) {
			s.c.check.fail(ruleErrors, "store %d failed without a fault: %v", s.at+1, err)
			return
		}
		life := s.life
		s.c.later(s.random.around(500*time.Millisecond), func() {
			if s.life == life {
				s.crash(s.crashOptions())
			}
		})
	}
}

// pause stops everything in the store, as a stopped process or a frozen machine
// does; what happens to it meanwhile happens when it goes on.
func (s *site) pause(d time.Duration) {
	if s.store == nil || s.paused {
		return
	}
	s.c.note("store %d pauses for %v", s.at+1, d)
	s.paused = true
	life := s.life
	s.c.later(d, func() {
		if s.life == life {
			s.resume()
		}
	})
}

func (s *site) resume() {
	if !s.paused {
		return
	}
	s.c.note("store %d goes on", s.at+1)
	s.paused = false
	// Who waits for the processor in the process may get it before who waits for
	// the network: a leader of long ago answers with what it knows.
	if s.store != nil && !s.c.calm {
		s.c.readHere(s)
	}
	delay := s.random.between(0, 2*s.c.shape.stepMax)
	for _, e := range s.held {
		e.at = s.c.now + delay
		s.c.agenda.add(e)
	}
	s.held = nil
}
