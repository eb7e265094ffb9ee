package engine

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"multiraft/batch"
	"multiraft/internal/snapfile"
	"multiraft/raftlog"
	"multiraft/wire"
)

// snapshots is all that a store does with the states of its groups. It is a loop
// of its own, so that nothing of it holds up a worker, the log or a connection.
//
//	applier ──grown──▶ ┌─ step ─────────────────────────────────┐ ──capture──▶ applier ──writer──▶ job: write the file
//	Snapshot(ctx) ───▶ │ making     at most MaxSnapshots        │
//	Ready.SnapshotTo ▶ │ sends      at most MaxSnapshots, ticks │ ──offer, chunks──▶ peers
//	offers ──────────▶ │ receives   at most MaxSnapshots, ticks │ ──fetches──▶ peers
//	fetches, chunks ─▶ │                                        │ ──file is whole──▶ turn: install
//	ticks ───────────▶ └────────────────────────────────────────┘
//
// Everything below inbox belongs to the goroutine that calls step. Jobs are what
// may take long, because a state machine does it: they run on goroutines of their
// own, a bounded number of them, and report by an event. A stepped store runs
// them within step.
type snapshots struct {
	store *Store
	dir   *snapfile.Dir
	wake  chan struct{} // holds one signal
	// active counts what ticks matter to.
	active atomic.Int64

	mu     sync.Mutex // guards the fields below; a leaf lock
	inbox  []snapEvent
	queued int // bytes of chunks in inbox
	files  map[wire.GroupID]*groupFiles
	going  snapfile.Name // being removed by discard

	events   []snapEvent
	jobs     []func() // of a stepped store
	making   map[*replica]*making
	waiting  []*making // for their turn
	writing  int
	sendable []snapEvent // asked for by cores, waiting
	sends    []*sending
	sent     []sentMark
	receives []*receiving
	parts    map[wire.GroupID]snapfile.Name
	context  uint64
	seen     uint64 // the last tick that step looked at
	sendRate rate
	recvRate rate
	diskRate diskRate
	out      *batch.Builder
	buf      []byte // of a chunk
}

// groupFiles is what there is of one group.
type groupFiles struct {
	newest wire.Index // zero: none
	bad    bool       // newest could not be read; it stays until there is another
	older  []wire.Index
	pins   int // files of the group that are being read
}

type snapEventKind uint8

const (
	snapMake     snapEventKind = iota // a snapshot is wanted; notify may be told
	snapCaptured                      // the applier has captured a state, or not
	snapMade                          // the job of a capture has ended
	snapSend                          // a core asks for a snapshot for a peer
	snapOffer                         // a leader offers one
	snapFetch                         // a peer asks for a chunk
	snapChunk                         // a chunk came
	snapRestored                      // the job of a restore has ended
	snapDiscard                       // a received file is not wanted
	snapForget                        // the replica is gone
	snapReported                      // a durable machine needs less of the log
	snapPeerUp                        // a store can be reached
)

// snapEvent is one thing that step has to hear of.
type snapEvent struct {
	kind    snapEventKind
	replica *replica
	group   wire.GroupID
	peer    wire.ReplicaID
	store   wire.StoreID
	index   wire.Index
	term    wire.Term
	message wire.Message
	capture *capture
	install *install
	info    *snapfile.Info
	// What a snapshot that is to be sent has to reach: entry least, and with repair
	// at least as far as a log that ends with it and with leastTerm.
	least     wire.Index
	leastTerm wire.Term
	repair    bool
	notify    func(wire.Index, error)
	err       error
}

const (
	// maxQueuedChunkBytes bounds the chunks that came and are not written yet;
	// more are dropped and fetched again.
	maxQueuedChunkBytes = 16 << 20
	// snapshotDir is where the files are, in the directory of the store.
	snapshotDir = "snapshots"
)

// openSnapshots looks what is there from before.
func openSnapshots(s *Store) (*snapshots, error) {
	dir, found, err := snapfile.OpenDir(s.files(), filepath.Join(s.cfg.Dir, snapshotDir), s.cfg.NoSync)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	n := &snapshots{
		store: s, dir: dir, wake: make(chan struct{}, 1),
		files:  make(map[wire.GroupID]*groupFiles),
		making: make(map[*replica]*making),
		parts:  make(map[wire.GroupID]snapfile.Name),
	}
	perTick := max(1, int64(float64(s.cfg.SnapshotBytesPerSecond)*s.cfg.TickInterval.Seconds()))
	n.sendRate.perTick, n.recvRate.perTick, n.diskRate.perTick = perTick, perTick, perTick
	n.diskRate.more = sync.NewCond(&n.diskRate.mu)
	// The numbers of transfers never repeat, not even over restarts.
	n.context = s.log.Identity().Incarnation << contextBits
	n.out = batch.NewBuilder(func() []byte { return s.transport.Buffer() }, maxFrameBytes)
	for _, name := range found.Whole {
		f := n.groupFiles(name.Group)
		if f.newest != 0 {
			f.older = append(f.older, f.newest)
		}
		f.newest = name.Index
	}
	for _, name := range found.Parts {
		if old, ok := n.parts[name.Group]; ok {
			n.note("remove an old part of a snapshot", old, dir.RemovePart(old))
		}
		n.parts[name.Group] = name
	}
	for _, base := range found.Foreign {
		s.cfg.Logger.Warn("left a foreign file alone", zap.String("name", filepath.Join(snapshotDir, base)))
	}
	return n, nil
}

// files returns where the store keeps its files.
func (s *Store) files() raftlog.FS {
	if s.cfg.FS == nil {
		return raftlog.OSFS{}
	}
	return s.cfg.FS
}

// groupFiles returns the entry of a group, made when there is none.
//
// REQUIRES: n.mu is held, or nobody else knows n.
func (n *snapshots) groupFiles(id wire.GroupID) *groupFiles {
	f := n.files[id]
	if f == nil {
		f = &groupFiles{}
		n.files[id] = f
	}
	return f
}

// post queues an event and wakes the loop.
func (n *snapshots) post(e snapEvent) {
	n.mu.Lock()
	n.inbox = append(n.inbox, e)
	n.mu.Unlock()
	n.signal()
}

func (n *snapshots) signal() {
	select {
	case n.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

// deliver takes over a message that is about a transfer. It borrows from its
// frame, whose memory is never written again.
func (n *snapshots) deliver(r *replica, from wire.StoreID, m *wire.Message) {
	kind := snapFetch
	if m.Kind == wire.SnapshotChunk {
		kind = snapChunk
	}
	n.mu.Lock()
	if n.queued > 0 && n.queued+len(m.Entries) > maxQueuedChunkBytes || len(n.inbox) > maxQueuedEvents {
		n.mu.Unlock()
		return
	}
	n.queued += len(m.Entries)
	n.inbox = append(n.inbox, snapEvent{kind: kind, replica: r, peer: m.From, store: from, message: *m})
	n.mu.Unlock()
	n.signal()
}

// maxQueuedEvents bounds what peers can make the loop remember.
const maxQueuedEvents = 1 << 14

// tick has step look at its clocks, when something depends on them.
func (n *snapshots) tick() {
	n.diskRate.refill()
	if n.active.Load() > 0 {
		n.signal()
	}
}

// loop runs until the store is closed.
func (n *snapshots) loop() {
	defer n.store.loops.Done()
	for {
		for n.step() {
		}
		select {
		case <-n.wake:
		case <-n.store.stopped:
			n.close()
			return
		}
	}
}

// step does what there is to do, a bounded piece of it, and tells whether there
// was anything.
func (n *snapshots) step() bool {
	n.mu.Lock()
	n.events, n.inbox = n.inbox, n.events[:0]
	n.queued = 0
	n.mu.Unlock()
	did := len(n.events) > 0
	for i := range n.events {
		n.handle(&n.events[i])
	}
	clear(n.events)
	if len(n.jobs) > 0 {
		job := n.jobs[0]
		n.jobs = slices.Delete(n.jobs, 0, 1)
		job()
		did = true
	}
	if now := n.store.now.Load(); now != n.seen {
		n.sendRate.refill(now - n.seen)
		n.recvRate.refill(now - n.seen)
		n.seen = now
		n.expire(now)
	}
	did = n.startMaking() || did
	did = n.startSends() || did
	did = n.serve() || did
	did = n.receive() || did
	n.active.Store(int64(len(n.sends) + len(n.sent) + len(n.receives) + len(n.sendable)))
	return did
}

func (n *snapshots) handle(e *snapEvent) {
	switch e.kind {
	case snapMake:
		n.want(e.replica, e.notify)
	case snapCaptured:
		n.captured(e)
	case snapMade:
		n.made(e)
	case snapSend:
		if !e.repair || !slices.ContainsFunc(n.sendable, func(other snapEvent) bool { return other.replica == e.replica && other.peer == e.peer }) {
			n.sendable = append(n.sendable, *e)
		}
	case snapOffer:
		n.offered(e)
	case snapFetch:
		n.fetched(e)
	case snapChunk:
		n.chunk(e)
	case snapRestored:
		n.restored(e)
	case snapDiscard:
		n.discard(snapfile.Name{Group: e.group, Index: e.index})
	case snapForget:
		n.forgetParts(e.group, e.replica)
	case snapReported:
		n.compactable(e.replica)
	case snapPeerUp:
		n.peerUp(e.store)
	}
}

// expire ends what takes too long or has lost its replica.
func (n *snapshots) expire(now uint64) {
	for i := len(n.sends) - 1; i >= 0; i-- {
		n.tickSend(n.sends[i], now)
	}
	for i := len(n.receives) - 1; i >= 0; i-- {
		n.tickReceive(n.receives[i], now)
	}
	for len(n.sent) > 0 && n.sent[0].until <= now {
		r := n.sent[0].replica
		n.sent = slices.Delete(n.sent, 0, 1)
		n.compactable(r)
	}
}

// run has a job done: now by a stepped store, otherwise by a goroutine that ends
// with it and that Close waits for.
func (n *snapshots) run(job func()) {
	if n.store.stepped {
		n.jobs = append(n.jobs, job)
		n.signal()
		return
	}
	n.store.loops.Add(1)
	go func() {
		defer n.store.loops.Done()
		job()
	}()
}

// close ends what is under way. Parts stay, for the next life of the store.
func (n *snapshots) close() {
	for len(n.sends) > 0 {
		n.endSend(n.sends[0], false)
	}
	for len(n.receives) > 0 {
		n.endReceive(n.receives[0], false)
	}
}

// send gives a message to a peer store at once. A store that failed says nothing
// more.
func (n *snapshots) send(to wire.StoreID, m *wire.Message) {
	if n.store.state() != nil || !n.store.knows(to, m.Kind) {
		return
	}
	n.out.Add(m)
	err := n.out.Flush(func(lane wire.Lane, payload []byte) error { return n.store.transport.Send(to, lane, payload) })
	if err != nil {
		// What the transport has no room for is lost, and asked for again.
		n.store.metrics.droppedFrames.Add(1)
	}
}

// note logs what went wrong and harms nothing.
func (n *snapshots) note(what string, name snapfile.Name, err error) {
	if err != nil {
		n.store.cfg.Logger.Warn(what, zap.Uint64("group", uint64(name.Group)), zap.Uint64("index", uint64(name.Index)), zap.Error(err))
	}
}

// failed counts and logs a snapshot that came to nothing.
func (n *snapshots) failed(what string, name snapfile.Name, err error) {
	n.store.metrics.snapshotsFailed.Add(1)
	n.note(what, name, err)
}

// newest returns the newest snapshot of a group that can be read, as far as is
// known.
func (n *snapshots) newest(id wire.GroupID) (wire.Index, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.files[id]
	if f == nil || f.newest == 0 || f.bad {
		return 0, false
	}
	return f.newest, true
}

// suspect has a snapshot that could not be read replaced by a new one. It is not
// removed before: the log may be compacted behind it, and whether it is beyond
// repair is for an operator to say.
func (n *snapshots) suspect(r *replica, name snapfile.Name, err error) {
	n.failed("read a snapshot", name, err)
	n.mu.Lock()
	if f := n.files[name.Group]; f != nil && f.newest == name.Index {
		f.bad = true
	}
	n.mu.Unlock()
	n.want(r, nil)
}

// publish makes a file that is durable the newest of its group. Older ones go as
// soon as nobody reads them.
func (n *snapshots) publish(name snapfile.Name) {
	n.adopt(name)
	n.prune(name.Group)
}

// adopt is publish without I/O: older files stay until something else looks. It
// returns false for a file that is just being removed.
func (n *snapshots) adopt(name snapfile.Name) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.going == name {
		return false
	}
	f := n.groupFiles(name.Group)
	// One of this index that was to go, and was being read, has been replaced.
	f.older = slices.DeleteFunc(f.older, func(index wire.Index) bool { return index == name.Index })
	switch {
	case name.Index > f.newest && f.newest != 0:
		f.older = append(f.older, f.newest)
		f.newest, f.bad = name.Index, false
	case name.Index >= f.newest:
		f.newest, f.bad = name.Index, false
	default:
		f.older = append(f.older, name.Index)
	}
	return true
}

// prune removes the older files of a group unless one is being read.
func (n *snapshots) prune(id wire.GroupID) {
	n.mu.Lock()
	var older []wire.Index
	if f := n.files[id]; f != nil && f.pins == 0 {
		older, f.older = f.older, nil
		if f.newest == 0 {
			delete(n.files, id)
		}
	}
	n.mu.Unlock()
	for _, index := range older {
		name := snapfile.Name{Group: id, Index: index}
		n.note("remove an old snapshot", name, n.dir.Remove(name))
	}
}

// pin keeps all files of a group until unpin.
func (n *snapshots) pin(id wire.GroupID) {
	n.mu.Lock()
	n.groupFiles(id).pins++
	n.mu.Unlock()
}

func (n *snapshots) unpin(id wire.GroupID) {
	n.mu.Lock()
	n.groupFiles(id).pins--
	n.mu.Unlock()
}

// open opens a snapshot for reading. While it is open no file of its group is
// removed; release closes it.
func (n *snapshots) open(name snapfile.Name) (file *snapfile.File, release func(), err error) {
	n.pin(name.Group)
	unpin := func() {
		n.unpin(name.Group)
		n.prune(name.Group)
	}
	if file, err = n.dir.Open(name); err != nil {
		unpin()
		return nil, nil, err
	}
	return file, func() {
		n.note("close a snapshot", name, file.Close())
		unpin()
	}, nil
}

// drop takes damaged files out of use. The newest of the others takes their place.
func (n *snapshots) drop(id wire.GroupID, damaged []wire.Index) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.files[id]
	if f == nil || !slices.Contains(damaged, f.newest) {
		return // it may be that they are older ones, which go anyway
	}
	f.older = append(f.older, f.newest)
	f.newest, f.bad = 0, false
	for _, index := range f.older {
		if !slices.Contains(damaged, index) {
			f.newest = max(f.newest, index)
		}
	}
	f.older = slices.DeleteFunc(f.older, func(index wire.Index) bool { return index == f.newest })
}

// discard removes a file that was received and will not be installed. The group
// may have a snapshot of the same entry by now, under the same name: one that it
// made, or that it installs from another transfer.
func (n *snapshots) discard(name snapfile.Name) {
	for _, m := range n.making {
		if m.captured && m.replica.id == name.Group && m.index == name.Index {
			m.discard = true // it is not known whose file that is before the job has ended
			return
		}
	}
	n.mu.Lock()
	f := n.files[name.Group]
	known := f != nil && (f.newest == name.Index || slices.Contains(f.older, name.Index))
	if !known {
		n.going = name
	}
	n.mu.Unlock()
	if known {
		return
	}
	n.note("remove a snapshot that is not needed", name, n.dir.Remove(name))
	n.mu.Lock()
	n.going = snapfile.Name{}
	n.mu.Unlock()
}

// forget removes everything of a replica that was removed from its group.
//
// REQUIRES: no other replica of the group can begin here yet.
func (n *snapshots) forget(r *replica) {
	n.forgetFiles(r.id)
	n.post(snapEvent{kind: snapForget, group: r.id, replica: r})
}

// forgetParts removes what a replica of a group was receiving, unless its successor
// is at it by now. No replica stands for any that has stopped.
func (n *snapshots) forgetParts(id wire.GroupID, r *replica) {
	for _, t := range n.receives {
		if t.replica.id != id {
			continue
		}
		if t.replica != r && (r != nil || t.replica.state() == nil) {
			return
		}
		n.endReceive(t, false)
		break
	}
	if name, ok := n.parts[id]; ok {
		delete(n.parts, id)
		n.note("remove a part of a snapshot", name, n.dir.RemovePart(name))
	}
}

// forgetFiles removes the whole files of a group: it is gone from this store, or
// begins anew.
func (n *snapshots) forgetFiles(id wire.GroupID) {
	n.mu.Lock()
	if f := n.files[id]; f != nil && f.newest != 0 {
		f.older = append(f.older, f.newest)
		f.newest, f.bad = 0, false
	}
	n.mu.Unlock()
	n.prune(id)
}

// rate lets bytes pass at a steady pace: what a tick brings may be used at once,
// and what is left over in the next one too. The last of them may exceed it.
type rate struct {
	perTick, left int64
}

func (r *rate) refill(ticks uint64) {
	r.left = min(r.left+r.perTick*int64(min(ticks, rateTicks)), rateTicks*r.perTick)
}

// rateTicks is for how many ticks the bytes may pass at once.
const rateTicks = 2

// take reports whether bytes may pass now.
func (r *rate) take(bytes int) bool {
	if r.left <= 0 {
		return false
	}
	r.left -= int64(bytes)
	return true
}

// diskRate is a rate that goroutines wait on: those that write snapshots of state
// machines, which would otherwise fill the queue of the disk that the log syncs
// on.
type diskRate struct {
	mu   sync.Mutex // guards the field below; a leaf lock
	rate            // of all writers together
	more *sync.Cond // signalled by ticks, so by Close too, which lets none wait
	open bool       // nobody waits any more
}

func (d *diskRate) refill() {
	d.mu.Lock()
	d.rate.refill(1)
	d.mu.Unlock()
	d.more.Broadcast()
}

// wait returns when bytes may be written.
func (d *diskRate) wait(bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.open && !d.take(bytes) {
		d.more.Wait()
	}
}

// end lets everybody go.
func (d *diskRate) end() {
	d.mu.Lock()
	d.open = true
	d.mu.Unlock()
	d.more.Broadcast()
}
