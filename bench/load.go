package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

// load is everything that makes operations. Its parts run on goroutines of
// their own, each for one store, and share what is here:
//
//	schedule ──when──▶ ┌ part ┐ ──propose, read──▶ store of the group's leader
//	routes ──where───▶ │      │                              │
//	sequences ─what──▶ └──────┘ ◀─────────── done ───────────┘
//	                                           └─▶ recorder of the part
//
// An operation that is refused because the leader is elsewhere is counted as an
// error and corrects the routes; its place in the load is used for the next.
type load struct {
	cfg      *Config
	clock    clock
	cluster  *cluster
	routes   *routes
	schedule *schedule // nil: closed loop
	// due hands the operations of an open loop to clients when they are due. It
	// has no room: an operation waits in the schedule until a client is free.
	due chan int64

	// sequences holds the next sequence number of each active group. A refused
	// write leaves a gap.
	sequences []atomic.Uint64
	// ceiling, when not nil, must be raised before a higher sequence number is
	// used.
	ceiling *ceiling
	// acknowledged counts the acknowledged writes of each active group, to
	// catch stale reads. Nil unless a verified load reads.
	acknowledged []atomic.Uint64

	recorders []*recorder
	parts     []loadPart

	stopping chan struct{} // closed when no further operation may start
	parent   context.Context
	cancel   context.CancelFunc // gives up what is in flight
	running  sync.WaitGroup
	watching sync.WaitGroup
}

// loadPart is one goroutine, or a few, that make operations.
type loadPart interface {
	// run makes operations until load.stopping is closed, then waits for those
	// in flight, or until ctx ends.
	run(ctx context.Context)
}

// newLoad prepares the load. start begins it.
func newLoad(cfg *Config, c *cluster) *load {
	active := cfg.activeGroups()
	l := &load{
		cfg:       cfg,
		cluster:   c,
		routes:    newRoutes(c, active),
		schedule:  newSchedule(cfg.Rate),
		sequences: make([]atomic.Uint64, active),
		stopping:  make(chan struct{}),
	}
	if cfg.Verify && cfg.reads() {
		l.acknowledged = make([]atomic.Uint64, active)
	}
	switch cfg.Mode {
	case ModeAsync:
		l.addAsync()
	case ModeSync:
		l.addClients()
	case ModeBatch:
		l.addBatches()
	}
	return l
}

// addAsync makes one generator per store. In an open loop one generator serves
// all stores, so that the schedule is kept wherever the leaders are.
func (l *load) addAsync() {
	if l.schedule != nil {
		l.parts = append(l.parts, newAsyncPart(l, anyStore, l.cfg.Inflight*l.cfg.Stores, l.newRecorder()))
		return
	}
	for store := range l.cfg.Stores {
		l.parts = append(l.parts, newAsyncPart(l, uint32(store)+1, l.cfg.Inflight, l.newRecorder()))
	}
}

// clientsPerRecorder trades histograms for contention.
const clientsPerRecorder = 32

func (l *load) addClients() {
	if l.schedule != nil {
		l.due = make(chan int64)
	}
	for store := range l.cfg.Stores {
		var rec *recorder
		for i := range l.cfg.Clients {
			if i%clientsPerRecorder == 0 {
				rec = l.newRecorder()
			}
			l.parts = append(l.parts, newClientPart(l, uint32(store)+1, i, rec))
		}
	}
}

func (l *load) addBatches() {
	for store := range l.cfg.Stores {
		rec := l.newRecorder()
		n := max(1, l.cfg.Inflight/l.cfg.Batch)
		for i := range n {
			l.parts = append(l.parts, newBatchPart(l, uint32(store)+1, i*l.cfg.Batch, rec))
		}
	}
}

func (l *load) newRecorder() *recorder {
	r := newRecorder(l.cfg)
	l.recorders = append(l.recorders, r)
	return r
}

// start begins the load.
func (l *load) start(ctx context.Context) {
	// What is in flight when ctx ends is waited for: an operation given up has
	// an unknown outcome, and an interrupted run is verified like any other.
	l.parent, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l.clock = newClock()
	l.watching.Go(func() { l.routes.watch(l.parent) })
	if l.due != nil {
		l.running.Go(l.giveOut)
	}
	for _, p := range l.parts {
		l.running.Go(func() { p.run(l.parent) })
	}
}

// stop ends the load and waits until nothing is in flight, at most for the
// given time. It reports whether that time sufficed.
func (l *load) stop(limit time.Duration) bool {
	close(l.stopping)
	timer := time.AfterFunc(limit, l.cancel)
	l.running.Wait()
	inTime := timer.Stop()
	l.cancel()
	l.watching.Wait()
	return inTime
}

func (l *load) stopped() bool {
	select {
	case <-l.stopping:
		return true
	default:
		return false
	}
}

// pause waits a little where there is nothing to do, and returns false when the
// load stops.
func (l *load) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.stopping:
		return false
	case <-timer.C:
		return true
	}
}

// idlePause is how long a goroutine rests that has no group to load, or was
// told that the store is busy.
const idlePause = time.Millisecond

// giveOut hands out operations that are due until the load stops.
func (l *load) giveOut() {
	p := newPacer()
	defer p.close()
	for !l.stopped() {
		now := l.clock.now()
		k, n := l.schedule.claim(now, 1)
		if n == 0 {
			p.wait(time.Duration(l.schedule.at(k) - now))
			continue
		}
		select {
		case l.due <- k:
		case <-l.stopping:
			return
		}
	}
}

// waitUntil waits for a moment of the schedule, as coarsely as Go's timers.
func (l *load) waitUntil(at int64) bool {
	if d := at - l.clock.now(); d > 0 {
		return l.pause(time.Duration(d))
	}
	return !l.stopped()
}

// reroute draws the consequence of a failed operation and reports whether the
// caller should rest before the next. It does not block.
func (l *load) reroute(kind failure, err error, group, store uint32) (rest bool) {
	switch kind {
	case failNotLeader:
		var e *engine.NotLeaderError
		if errors.As(err, &e) {
			l.routes.moved(group, store, e.Store)
		}
	case failLeadershipLost, failDropped, failNoLeader:
		l.routes.moved(group, store, 0)
	case failStopped:
		l.routes.dead(group, store)
	case failBusy, failOther:
		return true
	}
	return false
}

// alive reports whether any active group can still be loaded.
func (l *load) alive() bool {
	for g := range l.routes.leaders {
		if l.routes.leaders[g].Load() != groupDead {
			return true
		}
	}
	return false
}

// acked returns the acknowledged writes of an active group. Nil is none.
func (l *load) acked(group int) bitmap {
	var all bitmap
	for _, r := range l.recorders {
		r.mu.Lock()
		all.add(r.acked[group])
		r.mu.Unlock()
	}
	return all
}

// staleReads returns what reads of a verified load found.
func (l *load) staleReads() []Difference {
	var all []Difference
	for _, r := range l.recorders {
		r.mu.Lock()
		all = append(all, r.stale...)
		r.mu.Unlock()
	}
	return all
}

// lastErrors returns an example of each kind of error.
func (l *load) lastErrors() [failures]error {
	var last [failures]error
	for _, r := range l.recorders {
		r.mu.Lock()
		for kind, err := range r.lastError {
			if err != nil {
				last[kind] = err
			}
		}
		r.mu.Unlock()
	}
	return last
}

// command builds the payloads of one goroutine in one buffer, which the engine
// copies.
type command struct{ bytes []byte }

// newCommand returns a payload of random bytes: all the same would compress,
// should anything below compress.
func newCommand(cfg *Config, part int) command {
	rng := rand.New(rand.NewPCG(cfg.Seed, uint64(part))) //gosec:disable G404 -- runs of a seed are to be alike
	c := command{bytes: make([]byte, cfg.Payload)}
	for i := range c.bytes {
		c.bytes[i] = byte(rng.Uint32())
	}
	return c
}

// with returns the payload with a sequence number, if it has room for one.
//
//mr:hotpath
func (c command) with(sequence uint64) []byte {
	if len(c.bytes) >= sequenceBytes {
		binary.LittleEndian.PutUint64(c.bytes, sequence)
	}
	return c.bytes
}

// mixer draws reads and writes in the ratio of the workload.
type mixer struct {
	state     uint64
	threshold uint64 // a draw below it is a read
}

func newMixer(cfg *Config, part int) mixer {
	m := mixer{state: rand.New(rand.NewPCG(cfg.Seed, ^uint64(part))).Uint64() | 1} //gosec:disable G404 -- as above
	switch cfg.Workload {
	case WorkloadRead:
		m.threshold = 1 << 32
	case WorkloadMixed:
		m.threshold = uint64(cfg.ReadRatio * (1 << 32))
	}
	return m
}

//mr:hotpath
func (m *mixer) next() opKind {
	if m.threshold == 0 {
		return opWrite
	}
	// xorshift: good enough to mix, and a nanosecond.
	m.state ^= m.state << 13
	m.state ^= m.state >> 7
	m.state ^= m.state << 17
	if m.state>>32 < m.threshold {
		return opRead
	}
	return opWrite
}

// read does one read and records it.
func (l *load) read(ctx context.Context, rec *recorder, group, store uint32, start int64) (rest bool) {
	var before uint64
	if l.acknowledged != nil {
		before = l.acknowledged[group].Load()
	}
	value, err := l.routes.handle(group, store).Read(ctx, countQuery{})
	now := l.clock.now()
	if err != nil {
		return l.reroute(rec.failed(err), err, group, store)
	}
	if count, ok := value.(uint64); !ok || count < before {
		rec.staleRead(Difference{
			Kind: DifferenceStale, Group: l.routes.ids[group], Store: wire.StoreID(store), Count: 1,
			Detail: fmt.Sprintf("read %v, %d were acknowledged", value, before),
		})
	}
	rec.mu.Lock()
	rec.okLocked(opRead, now-start)
	rec.mu.Unlock()
	return false
}
