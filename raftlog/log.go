package raftlog

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"multiraft/wire"
)

// Sink is told what became of batches.
type Sink interface {
	// Durable says that the batches are durable, in the order they were
	// submitted, and that the groups' handles show it; or, with an error, that
	// they may or may not be, and never will be known to be. It is called by
	// Step, at most once per sync. The slice is valid during the call only.
	Durable(batches []*Batch, err error)
}

// Log is the shared log of a store. See the package comment for who may call
// what from which goroutine.
type Log struct {
	o        Options
	identity Identity // its incarnation is guarded by identityMu
	lock     io.Closer
	sink     Sink

	identityMu sync.Mutex // a leaf lock
	table      atomic.Pointer[segmentTable]
	tableMu    sync.Mutex // held while the table is replaced
	spares     spares
	counts     counters
	failure    atomic.Pointer[FailedError]
	queueMu    sync.Mutex // guards the fields below
	queue      []*Batch
	rewrite    *rewriteBatch // handed to the writer by Maintain
	wantMark   bool          // an empty batch is wanted, see Seal and reclaim
	closed     bool
	wake       chan struct{} // of the writer
	wakeUpkeep chan struct{} // of the maintainer

	// groupsMu guards the fields below. Handles are never deleted: a handle once
	// given out must stay the only one of its group.
	groupsMu sync.RWMutex
	groups   map[wire.GroupID]*Group
	ordered  []*Group // in the order they were made
	damage   map[wire.GroupID]*CorruptionError
	// suspectNew: records were lost that may have belonged to groups of which
	// nothing is left.
	suspectNew bool

	// applyMu is held while a batch goes into the index, so that a checkpoint
	// can copy groups between two batches. Taken before Group.mu.
	applyMu sync.Mutex
	applied position // of the last batch in the index

	writer writer
	upkeep upkeep

	stop      chan struct{}
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// storeGroup is the id under which damage is recorded that may have hit groups
// of which nothing else is left.
const storeGroup wire.GroupID = 0

// Stats are counters since Open, and sizes of now.
type Stats struct {
	Syncs     uint64 // by the writer
	Batches   uint64 // physical ones, each one write
	Bytes     uint64 // in these
	Records   uint64
	Entries   uint64 // new ones, without what was moved
	Moved     uint64 // bytes of records rewritten forward
	Rotations uint64 // segments begun
	Grown     uint64 // of these, without a spare at hand

	Segments  int // with batches in them
	Spares    int
	LiveBytes int64 // of records that the index refers to
	UsedBytes int64 // of batches in the segments
	DiskBytes int64 // of segments and spares
}

type counters struct {
	syncs, batches, bytes, records, entries, moved, rotations, grown atomic.Uint64

	cycles atomic.Uint64 // of the writer that have ended
	busy   atomic.Bool   // one is under way, or cannot but follow
}

// Groups returns the sorted ids of all groups of which something is stored,
// also if only a tombstone.
func (l *Log) Groups() []wire.GroupID {
	l.groupsMu.RLock()
	handles := slices.Clone(l.ordered)
	l.groupsMu.RUnlock()
	var ids []wire.GroupID
	for _, g := range handles {
		if g.id != storeGroup && g.stored() {
			ids = append(ids, g.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Find returns the handle of a group, nil when there is none: nothing of the group is
// stored then.
func (l *Log) Find(id wire.GroupID) *Group {
	l.groupsMu.RLock()
	defer l.groupsMu.RUnlock()
	return l.groups[id]
}

// Group returns the handle of a group, which is made when there is none.
func (l *Log) Group(id wire.GroupID) *Group {
	if g := l.Find(id); g != nil {
		return g
	}
	l.groupsMu.Lock()
	defer l.groupsMu.Unlock()
	if g := l.groups[id]; g != nil {
		return g
	}
	g := &Group{log: l, id: id}
	g.damaged = l.suspectNew
	l.groups[id] = g
	l.ordered = append(l.ordered, g)
	return g
}

// damageOf returns what the group suffers from.
func (l *Log) damageOf(id wire.GroupID) *CorruptionError {
	l.groupsMu.RLock()
	defer l.groupsMu.RUnlock()
	if err := l.damage[id]; err != nil {
		return err
	}
	return l.damage[storeGroup]
}

func (l *Log) setDamage(id wire.GroupID, err *CorruptionError) {
	l.groupsMu.Lock()
	defer l.groupsMu.Unlock()
	l.damage[id] = err
}

// SetSink names who is told about durability. It must be called before the
// first Submit.
func (l *Log) SetSink(s Sink) { l.sink = s }

// Submit queues a batch. It never blocks and may be called from any goroutine;
// batches become durable in the order of the calls. What became of the batch,
// also if the log has failed, is told to the sink by Step. After Close it is
// told at once, with [ErrClosed], by Submit itself.
//
//mr:hotpath
func (l *Log) Submit(b *Batch) {
	l.queueMu.Lock()
	if l.closed {
		l.queueMu.Unlock()
		l.refuse(b)
		return
	}
	l.queue = append(l.queue, b)
	l.queueMu.Unlock()
	l.wakeWriter()
}

func (l *Log) refuse(b *Batch) {
	if l.sink != nil {
		l.sink.Durable([]*Batch{b}, ErrClosed)
	}
}

// Seal asks for an empty batch when the last one is not empty. It proves the
// last one, which otherwise could not be told from a torn one if it was damaged.
// Call it when a store has become idle.
func (l *Log) Seal() {
	l.queueMu.Lock()
	l.wantMark = true
	l.queueMu.Unlock()
	l.wakeWriter()
}

// Woken tells what was woken since the last call: the goroutine that would run
// Step, and the one that would run Maintain. It is for who runs them without
// [Log.Start] and wants to know when they would run.
func (l *Log) Woken() (step, maintain bool) {
	select {
	case <-l.wake:
		step = true
	default:
	}
	select {
	case <-l.wakeUpkeep:
		maintain = true
	default:
	}
	return step, maintain
}

//mr:hotpath
func (l *Log) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

func (l *Log) wakeMaintainer() {
	select {
	case l.wakeUpkeep <- struct{}{}:
	default:
	}
}

// release takes bytes that the index has let go of off the account of their
// segment. It implements account.
func (l *Log) release(segment, size uint32) {
	if s := l.table.Load().get(segment); s != nil {
		s.live.Add(-int64(size))
	}
}

// Err returns the failure of the log, after which nothing becomes durable any
// more, or nil.
func (l *Log) Err() error {
	if f := l.failure.Load(); f != nil {
		return f
	}
	return nil
}

func (l *Log) fail(op string, segment uint32, offset int64, err error) {
	f := &FailedError{op, uint64(segment), offset, err}
	if l.failure.CompareAndSwap(nil, f) {
		l.o.Events.Failed(f)
	}
}

// DiskFull reports whether there is no space for the reserve of segments. The
// log still takes batches, but a caller should send only what matters, like
// votes and compaction, until it is false again.
func (l *Log) DiskFull() bool { return l.spares.full.Load() }

// Stats returns counters and sizes.
func (l *Log) Stats() Stats {
	c := &l.counts
	s := Stats{
		Syncs: c.syncs.Load(), Batches: c.batches.Load(), Bytes: c.bytes.Load(),
		Records: c.records.Load(), Entries: c.entries.Load(), Moved: c.moved.Load(),
		Rotations: c.rotations.Load(), Grown: c.grown.Load(),
		Spares: l.spares.count(),
	}
	for _, seg := range l.table.Load().segments {
		s.Segments++
		s.LiveBytes += seg.live.Load()
		s.UsedBytes += seg.used.Load()
		s.DiskBytes += max(seg.size, seg.used.Load())
	}
	s.DiskBytes += int64(s.Spares) * l.o.SegmentBytes
	return s
}

// Start runs Step and Maintain in goroutines of their own, until Close.
func (l *Log) Start() {
	l.running.Add(2)
	go l.runWriter()
	go l.runMaintainer()
}

// runWriter steps until Close and then until nothing is queued.
func (l *Log) runWriter() {
	defer l.running.Done()
	for {
		for l.Step() {
		}
		select {
		case <-l.wake:
		case <-l.stop:
			for l.Step() {
			}
			return
		}
	}
}

// retryInterval is how often background work that failed is tried again while
// nothing else happens.
const retryInterval = time.Second

func (l *Log) runMaintainer() {
	defer l.running.Done()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		for l.Maintain() {
			select {
			case <-l.stop:
				return
			default:
			}
		}
		select {
		case <-l.wakeUpkeep:
		case <-retry.C:
		case <-l.stop:
			return
		}
	}
}

// Close writes what is queued, proves it with a seal, and releases the
// directory. It returns the failure of the log if there was one. Batches that
// come later are refused with [ErrClosed]. Close may be called again.
func (l *Log) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Log) close() error {
	l.queueMu.Lock()
	l.closed = true
	l.wantMark = true
	l.queueMu.Unlock()
	close(l.stop)
	l.running.Wait()
	for l.Step() {
	}
	errs := []error{l.Err(), l.upkeep.close(l), l.closeFiles()}
	return errors.Join(errs...)
}

func (l *Log) closeFiles() error {
	errs := []error{l.spares.close()}
	for _, s := range l.table.Load().segments {
		if s.file != nil { // recovery may have ended before it had one
			errs = append(errs, s.file.Close())
		}
	}
	errs = append(errs, letDir(l.o.FS))
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the log: %w", err)
	}
	return nil
}
