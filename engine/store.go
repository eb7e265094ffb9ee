package engine

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/internal/planted"
	"multiraft/raftlog"
	"multiraft/scheduler"
	"multiraft/transport"
	"multiraft/wire"
)

// Store runs the replicas of many groups over one directory. Open makes one,
// Close ends it.
type Store struct {
	cfg       Config
	log       *raftlog.Log
	promises  *promises
	sched     *scheduler.Scheduler
	transport transport.Transport
	workers   []*worker
	appliers  []*applier
	gate      gate
	health    health
	readGate  readGate
	seeds     seedSource
	metrics   metrics
	snaps     *snapshots
	stepped   bool // nothing runs but what a Stepper steps

	now         atomic.Uint64 // ticks since Open
	clock       *storeClock
	leases      bool // ticks follow the clock
	readContext atomic.Uint64
	failure     atomic.Pointer[StoreFailedError]
	left        atomic.Bool // Close was called
	closing     atomic.Bool // and has handed over

	// Budgets, see Config.
	inflightBytes atomic.Int64
	receiveBytes  atomic.Int64
	applyBytes    atomic.Int64
	cachedBytes   atomic.Int64
	logBytes      atomic.Int64 // of rounds, on their way to the log

	messages messagePool
	blocks   slicePool[byte]
	pendings slicePool[*Pending]
	batches  batchPool
	inboxes  objectPool[inbox]
	remotes  objectPool[remote]
	waiters  *sync.Pool       // of *waiter; apart, so that the runtime does not keep the store with it
	ackSlots []scheduler.Slot // owned by durable

	heldMu sync.Mutex // guards held, and replica.held
	held   []*replica

	// replicas is indexed by slot. A larger array is published when it is full;
	// entries change under mu and are read by workers without it.
	replicas atomic.Pointer[[]atomic.Pointer[replica]]
	// peers are the stores that memberSet.peers has the places of. It only grows,
	// under sets.mu, by a new array.
	peers atomic.Pointer[[]wire.StoreID]
	sets  memberSets

	events    eventQueue
	joins     joinQueue
	repairs   repairs
	outliving outliving
	links     links
	dialects  dialects
	lastKind  wire.MessageKind // of the newest protocol version that is spoken; see Config.MaxProtocol
	badFrames throttle         // of the words about them

	// forgetMu is held by who lets go of a replica, so that what a removed one leaves
	// behind is gone before its successor can begin. Taken before mu.
	forgetMu sync.Mutex

	mu        sync.RWMutex // guards the fields below; taken before replica.mu
	groups    map[wire.GroupID]*replica
	starting  map[wire.GroupID]bool       // StartGroup is under way
	poisoned  map[wire.GroupID]wire.Index // a machine failed on an entry up to here
	freeSlots []scheduler.Slot

	ticks     uint64 // calls of tick; tick's own
	sealAfter uint64 // batches in the log when tick last looked; tick's own

	ticker  *time.Ticker
	stopped chan struct{}  // closed by Close
	loops   sync.WaitGroup // ticker, appliers, events and joins
	closed  chan struct{}  // closed when Close is done
	result  error          // of Close, valid when closed is
}

// Open opens or creates the store in cfg.Dir, reads its log, and starts
// listening. Groups run once StartGroup was called for them.
//
// It returns the faults of the configuration, [raftlog.ErrLocked] when the
// directory is open elsewhere, a [*raftlog.IdentityError] when it belongs to
// another store or cluster, an [*OutlivedError] when a peer has said in an earlier
// life that it is an older copy, and errors of the disk and the network.
func Open(cfg Config) (*Store, error) {
	s, err := open(cfg, false)
	if err != nil {
		return nil, err
	}
	s.log.Start()
	s.sched.Start()
	s.loops.Add(3 + joinLoops + len(s.appliers))
	for range joinLoops {
		go s.joinLoop()
	}
	go s.eventLoop()
	go s.snaps.loop()
	for _, a := range s.appliers {
		go s.applyLoop(a)
	}
	s.ticker = time.NewTicker(s.cfg.TickInterval)
	go s.tickLoop()
	if err := s.transport.Start(transportHandler{s}); err != nil {
		return nil, errors.Join(fmt.Errorf("store %d: start transport: %w", cfg.ID, err), s.Close())
	}
	return s, nil
}

// open builds a store without any goroutine of its own. serial keeps recovery
// on this goroutine too.
func open(cfg Config, serial bool) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("store %d: configuration: %w", cfg.ID, err)
	}
	cfg = cfg.withDefaults()
	cfg.Tuning = cfg.Tuning.WithDefaults() // groups share it
	cfg.Tuning.TickNanos = int64(cfg.TickInterval)
	s := &Store{
		cfg:      cfg,
		groups:   make(map[wire.GroupID]*replica),
		starting: make(map[wire.GroupID]bool),
		poisoned: make(map[wire.GroupID]wire.Index),
		stopped:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
	s.stepped = serial
	s.lastKind = wire.LastKind(cfg.MaxProtocol)
	s.replicas.Store(&[]atomic.Pointer[replica]{})
	s.peers.Store(&[]wire.StoreID{})
	s.events.wake = make(chan struct{}, 1)
	s.joins.wake = make(chan struct{}, joinLoops)
	s.joins.until = make(map[wire.GroupID]uint64)
	s.blocks.maxCap = 2 * maxBlockBytes
	s.pendings.maxCap = 16 << 10
	s.waiters = &sync.Pool{New: func() any { return newWaiter() }}
	s.seeds.state.Store(cfg.Seed)
	if cfg.Seed == 0 {
		s.seeds.state.Store(rand.Uint64()) //gosec:disable G404 -- for time-outs, and for ids and nonces that only have to differ
	}
	if s.cfg.Clock == nil {
		s.cfg.Clock = newSystemClock()
	}
	s.health.init(&s.cfg)
	s.clock, s.leases = newStoreClock(&s.cfg), cfg.Tuning.LeaseReads
	var err error
	s.log, err = raftlog.Open(raftlog.Options{
		FS:           cfg.FS,
		Dir:          cfg.Dir,
		Cluster:      cfg.Cluster,
		Store:        cfg.ID,
		SegmentBytes: cfg.SegmentBytes,
		NoSync:       cfg.NoSync,
		Serial:       serial,
		Rand:         s.seeds.Uint64,
		Events:       s.logEvents(),
	})
	if err != nil {
		return nil, fmt.Errorf("store %d: open log: %w", cfg.ID, err)
	}
	s.log.SetSink(logSink{s})
	s.outliving.refused.every, s.badFrames.every = logEvery, logEvery
	s.outliving.blank = s.isBlank()
	if err := s.checkOutlived(); err != nil {
		return nil, errors.Join(fmt.Errorf("store %d: %w", cfg.ID, err), s.log.Close())
	}
	if s.promises, err = openPromises(s); err != nil {
		return nil, errors.Join(fmt.Errorf("store %d: %w", cfg.ID, err), s.log.Close())
	}
	if s.snaps, err = openSnapshots(s); err != nil {
		return nil, errors.Join(fmt.Errorf("store %d: %w", cfg.ID, err), s.log.Close())
	}
	// Contexts of reads never repeat, not even over restarts: the answer to one
	// of an earlier life would otherwise pass for that of a new one.
	s.readContext.Store(s.log.Identity().Incarnation << contextBits)
	if planted.Is(planted.StaleContext) {
		s.readContext.Store(0)
	}
	for at := range cfg.Appliers {
		s.appliers = append(s.appliers, newApplier(s, at))
	}
	s.sched, err = scheduler.New(scheduler.Config{Workers: cfg.Workers, RoundSize: roundSize, Processor: roundProcessor{s}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %d: %w", cfg.ID, err), s.log.Close())
	}
	s.gate.sched, s.readGate.sched = s.sched, s.sched
	for range cfg.Workers {
		s.workers = append(s.workers, newWorker(s))
	}
	if s.transport, err = s.connectTransport(); err != nil {
		return nil, errors.Join(fmt.Errorf("store %d: %w", cfg.ID, err), s.log.Close())
	}
	identity := s.log.Identity()
	cfg.Logger.Info("store is open", zap.Uint64("cluster", cfg.Cluster), zap.Uint64("store", uint64(cfg.ID)),
		zap.Uint64("incarnation", identity.Incarnation), zap.Int("stored groups", len(s.log.Groups())))
	return s, nil
}

const (
	// roundSize is how many groups share one log batch and one frame per peer.
	// Larger rounds make fewer, larger syncs; a group waits for its round.
	roundSize = 1024
	// maxBlockBytes cuts the proposals of one group into blocks, so that no
	// single one holds up a batch or a frame.
	maxBlockBytes = 256 << 10
	// contextBits leaves room for a trillion reads in each life of a store.
	contextBits = 40
	// maxFrameBytes cuts frames to peers.
	maxFrameBytes = 512 << 10
)

// seedSource is the randomness of all groups of a store: splitmix64, safe for
// concurrent use and the same sequence for the same seed.
type seedSource struct{ state atomic.Uint64 }

// Uint64 returns the next number.
func (s *seedSource) Uint64() uint64 {
	z := s.state.Add(0x9e3779b97f4a7c15)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// ID returns the store's id.
func (s *Store) ID() wire.StoreID { return s.cfg.ID }

// Addr returns the address that the store listens on, empty for transports
// without one.
func (s *Store) Addr() string {
	if t, ok := s.transport.(interface{ Addr() string }); ok {
		return t.Addr()
	}
	return ""
}

// SetPeer adds a peer store or changes its address. Transports without
// addresses ignore it.
func (s *Store) SetPeer(id wire.StoreID, addr string) error {
	if t, ok := s.transport.(interface {
		SetPeer(wire.StoreID, string) error
	}); ok {
		return t.SetPeer(id, addr)
	}
	return nil
}

// Err returns why the whole store stopped, nil while it runs.
func (s *Store) Err() error {
	if failure := s.failure.Load(); failure != nil {
		return failure
	}
	return nil
}

// state returns why the store takes no work, nil when it does.
func (s *Store) state() error {
	if failure := s.failure.Load(); failure != nil {
		return failure
	}
	if s.closing.Load() {
		return ErrClosed
	}
	return nil
}

// running returns all replicas by slot.
//
// REQUIRES: s.mu is held.
func (s *Store) running() []*replica {
	var list []*replica
	replicas := *s.replicas.Load()
	for i := range replicas {
		if r := replicas[i].Load(); r != nil {
			list = append(list, r)
		}
	}
	return list
}

// durable is called by the log after each sync with the batches it covered.
//
//mr:hotpath
func (s *Store) durable(batches []*raftlog.Batch, err error) {
	if err != nil {
		s.fail(err)
	}
	own := 0
	slots := s.ackSlots[:0]
	for _, b := range batches {
		lb := b.Owner.(*logBatch)
		if err == nil {
			lb.after.flush(s)
		}
		for i := range lb.acks {
			a := &lb.acks[i]
			if err == nil && a.membership > 0 {
				a.replica.keptMembership.Store(uint64(a.membership))
			}
			if err == nil && a.ack.Seq != 0 {
				a.replica.postAck(a.ack)
			}
			if err == nil && a.install {
				a.replica.installStored()
			}
			if a.last {
				close(a.replica.logged)
				a.replica.noteEnded()
				continue
			}
			if a.quiet && err == nil {
				continue
			}
			slots = append(slots, a.replica.slot)
		}
		if lb.own {
			own++
		}
		if lb.counted > 0 {
			s.logBytes.Add(-lb.counted)
			lb.counted = 0
		}
		if lb.done != nil {
			lb.done <- err
		}
		s.batches.put(lb)
	}
	s.ackSlots = slots
	s.sched.SetBatch(slots, flagAck)
	if own > 0 {
		s.gate.open(own)
	}
}

// fail stops the whole store: its log is not to be trusted any more. Nothing is
// acknowledged from here on, and as no heartbeat leaves either, other stores
// take over its leaderships.
func (s *Store) fail(err error) {
	failure := &StoreFailedError{Store: s.cfg.ID, Err: err}
	if !s.failure.CompareAndSwap(nil, failure) {
		return
	}
	s.cfg.Logger.Error("store failed", zap.Uint64("store", uint64(s.cfg.ID)), zap.Error(err))
	if f := s.cfg.Events.StoreFailed; f != nil {
		s.events.call(func() { f(failure) })
	}
	s.mu.RLock()
	for _, r := range s.running() {
		s.sched.Set(r.slot, flagControl)
	}
	s.mu.RUnlock()
}

// damaged stops the groups that lost entries or hard state. Group 0 stands for
// all: records were lost of which nobody can tell whose they were.
func (s *Store) damaged(err *raftlog.CorruptionError, groups []wire.GroupID) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, id := range groups {
		if r := s.groups[id]; r != nil && !r.reportDamage(err, false) {
			r.fail(err)
		} else if r == nil && id != 0 && s.log != nil && !s.starting[id] {
			s.markHurt(id, err)
		}
		if id == 0 {
			for _, r := range s.running() {
				r.fail(err)
			}
		}
	}
}

// markHurt marks a group that does not run, so that its damaged entries pin nothing.
// Of a running one its turn sees to that.
//
// REQUIRES: s.mu is held, so that it does not begin to run.
func (s *Store) markHurt(id wire.GroupID, err *raftlog.CorruptionError) {
	g := s.log.Group(id)
	last := g.Last()
	if term, termErr := g.Term(last); termErr == nil {
		b := s.batches.get()
		b.Wound(g, last, term, err)
		s.log.Submit(&b.Batch)
	}
}

// groupFailed reports that one group stopped by itself.
func (s *Store) groupFailed(err *GroupFailedError) {
	s.metrics.failedGroups.Add(1)
	s.cfg.Logger.Error("group failed", zap.Uint64("group", uint64(err.Group)), zap.Uint64("replica", uint64(err.Replica)), zap.Error(err.Err))
}

// leaderChanged reports a new leader at debug level.
func (s *Store) leaderChanged(r *replica) {
	if s.cfg.Events.LeaderChanged != nil {
		s.events.note(r, noticeLeader)
	}
	if check := s.cfg.Logger.Check(zap.DebugLevel, "leader changed"); check != nil {
		leader := r.leader()
		check.Write(zap.Uint64("group", uint64(r.id)), zap.Uint64("leader", uint64(leader.Replica)), zap.Uint64("store", uint64(leader.Store)))
	}
}

// refusal turns the core's word about a proposal into the engine's.
func (s *Store) refusal(r *replica, err error) error {
	switch {
	case errors.Is(err, group.ErrNotLeader):
		return r.notLeader()
	case errors.Is(err, group.ErrBusy):
		return ErrBusy
	case errors.Is(err, group.ErrTransferring):
		return ErrTransferring
	}
	return err
}

// electionTicks is the election time-out in force.
func (s *Store) electionTicks() int { return s.cfg.Tuning.ElectionTicks }

// holdApply remembers a group whose committed entries wait for the appliers.
func (s *Store) holdApply(r *replica) {
	s.heldMu.Lock()
	if !r.held {
		r.held = true
		s.held = append(s.held, r)
	}
	s.heldMu.Unlock()
	s.applied(0) // the appliers may have run dry before the group was on the list
}

// applied gives back room in the apply budget and wakes groups that wait for it.
//
//mr:hotpath
func (s *Store) applied(bytes int64) {
	if s.applyBytes.Add(-bytes) > s.cfg.MaxApplyBytes/2 {
		return
	}
	s.heldMu.Lock()
	held := s.held
	s.held = nil
	for _, r := range held {
		r.held = false
	}
	s.heldMu.Unlock()
	for _, r := range held {
		s.sched.Set(r.slot, flagApply)
	}
}

// tick advances logical time by one. Every sealTicks it looks whether the log
// has come to rest, and seals it, so that its last batch is proven durable.
func (s *Store) tick() {
	// A log that fails when nothing is pending, on a seal, has nobody to tell.
	if err := s.log.Err(); err != nil {
		s.fail(err)
	}
	var now uint64
	if s.leases {
		now = s.clock.fire()
		s.now.Store(now)
	} else {
		now = s.now.Add(1)
	}
	s.checkHealth()
	s.sched.Tick(now, flagTick)
	s.readGate.tick()
	s.snaps.tick()
	s.tickRepairs()
	if s.ticks++; s.ticks%sealTicks == 0 {
		batches := s.log.Stats().Batches
		if batches == s.sealAfter {
			s.log.Seal()
		}
		s.sealAfter = batches
	}
}

const sealTicks = 32

// tickLoop ends when stopped is closed. After a pause of the process, lost
// ticks stay lost: time-outs then run from what the store has really seen. For
// stores with leases, see storeClock.
func (s *Store) tickLoop() {
	defer s.loops.Done()
	for {
		select {
		case <-s.ticker.C:
			s.tick()
		case <-s.stopped:
			return
		}
	}
}

// applyLoop ends when stopped is closed and nothing is queued.
func (s *Store) applyLoop(a *applier) {
	defer s.loops.Done()
	for {
		for a.step() {
		}
		select {
		case <-a.wake:
		case <-s.stopped:
			for a.step() {
			}
			return
		}
	}
}

// Close hands leaderships to other stores, for up to Config.HandOverTimeout. Then it
// stops all groups, completes everything pending with ErrClosed, makes
// the log durable and waits for all goroutines. Later calls wait for the first
// and return the same error.
//
// When the log's disk does not answer for Config.CloseTimeout, Close returns
// [*DiskHungError] and leaves the goroutines that wait for the disk behind, and with
// them the lock of the directory.
func (s *Store) Close() error {
	if !s.left.CompareAndSwap(false, true) {
		<-s.closed
		return s.result
	}
	s.handOver()
	s.closing.Store(true)
	done := make(chan error, 1)
	go func() { done <- s.end() }() // ends with Close, or is left behind by it
	s.result = s.awaitEnd(done)
	close(s.closed)
	return s.result
}

// end does what Close does.
func (s *Store) end() error {
	s.snaps.diskRate.end()
	for _, r := range s.stopAll() {
		<-r.apply.ended
	}
	err := s.transport.Close()
	err = errors.Join(err, s.sched.Close())
	if s.ticker != nil {
		s.ticker.Stop()
	}
	close(s.stopped)
	s.loops.Wait()
	if s.Err() == nil {
		err = errors.Join(err, s.promises.close(s.now.Load()))
	}
	return errors.Join(err, s.log.Close())
}

// awaitEnd returns what end returns, unless the log stands still for too long: what
// waits for the disk then waits for ever.
func (s *Store) awaitEnd(done <-chan error) error {
	look := time.NewTicker(s.cfg.TickInterval)
	defer look.Stop()
	patience := max(1, s.cfg.CloseTimeout/s.cfg.TickInterval)
	var last uint64
	var stalled time.Duration // in ticks
	for {
		select {
		case err := <-done:
			return err
		case <-look.C:
		}
		cycles, busy := s.log.Progress()
		if !busy || cycles != last {
			last, stalled = cycles, 0
			continue
		}
		if stalled++; stalled >= patience {
			err := &DiskHungError{Store: s.cfg.ID, For: s.cfg.CloseTimeout}
			s.cfg.Logger.Error("closed without the disk", zap.Error(err))
			return err
		}
	}
}

// stopAll tells all replicas to stop and returns them.
func (s *Store) stopAll() []*replica {
	s.mu.Lock()
	list := s.running()
	s.mu.Unlock()
	for _, r := range list {
		r.close()
		s.sched.Set(r.slot, flagControl)
	}
	return list
}

// close refuses everything that comes from now on; what is in the mailbox gets
// its answer in the turn that sees stopping.
func (r *replica) close() {
	r.mu.Lock()
	r.box.closed = true
	r.mu.Unlock()
	r.stopping.Store(true)
}

// never is a deadline that does not come.
const never = math.MaxUint64

// logEvents passes on what the log wants an operator to know, and stops groups
// whose stored entries turn out to be damaged while they run.
func (s *Store) logEvents() raftlog.Events {
	log := s.cfg.Logger
	return raftlog.Events{
		TailCut: func(segment uint64, offset int64) {
			log.Info("cut the unproven tail of the log", zap.Uint64("segment", segment), zap.Int64("offset", offset))
		},
		Damaged: func(err *raftlog.CorruptionError, groups []wire.GroupID) {
			log.Error("the log is damaged", zap.Error(err), zap.Int("groups", len(groups)))
			s.damaged(err, groups)
		},
		CheckpointSkipped: func(name string, err error) {
			log.Warn("index checkpoint is not usable, scanning the whole log", zap.String("name", name), zap.Error(err))
		},
		DiskFull: func(full bool) {
			if full {
				log.Error("no space or no file descriptors for the log's reserve: proposals are refused until there are")
			} else {
				log.Info("the log's reserve is complete again")
			}
		},
		MaintainFailed: func(err error) { log.Warn("background work of the log", zap.Error(err)) },
		Failed:         func(err error) { log.Error("log failed", zap.Error(err)) },
		Ignored: func(name string) {
			base := filepath.Base(name)
			if _, ours := promiseSpan(base); !ours && base != snapshotDir && base != outlivedFile && !strings.HasPrefix(base, recordPrefix) {
				log.Warn("left a foreign file alone", zap.String("name", name))
			}
		},
	}
}
