package raftlog_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// The crash states of the log, enumerated.
//
//	workload ─┬─▶ call that changes the disk ──▶ moment ─▶ vfs.States: each state ─▶ recover, twice
//	          │    (Open, Step, Maintain,         │                        │
//	          │     Close, one within another)    │                        └─ some ─▶ recovery ─▶ its calls:
//	          │                                   │                                   each state ─▶ recover, twice
//	          └─▶ crash, kill, close: next life   └─▶ the process dies ─▶ recovery on what is not synced ─▶ its calls: …
//
// A workload makes changes at random, as raft might make them, to a log with
// tiny segments, over several lives of a store. In front of each call that
// changes the disk is a moment: the power may fail there. All states that
// [vfs.MemFS.States] comes to at that moment are recovered. So are those in which
// a recovery of such a state may end when the power fails again, and those of a
// recovery that follows the death of the process alone, which finds in the page
// cache what never reached the disk, and what never will, because a sync failed.
//
// What must be found is the state after some number of changes: all of those
// that were durable, none that was not submitted, and no half of an install. No damage may be reported,
// as there was none, and an incarnation may not be seen twice. A second recovery,
// and one after a recovery that was cut short, must come to the very same state.

var (
	crashFull   = flag.Bool("crash.full", false, "TestCrashStates: go to full depth, which takes an hour or more")
	crashSeeds  = flag.Int("crash.seeds", 0, "TestCrashStates: how many workloads; 8 by default")
	crashMoment = flag.Int("crash.moment", 0, "TestCrashStates: look at this moment only")
)

// crashDepth is how far an enumeration goes.
type crashDepth struct {
	states vfs.StateOptions
	inner  vfs.StateOptions // of moments in a recovery
	rounds int              // of a life
	lives  int
	nested int // one in so many states of the workload has its recovery crashed
	killed int // so has one in so many deaths of the process, with and without a failed sync
}

// crashFacts are counters of what was reached.
type crashFacts struct {
	moments    int
	enumerated int // states that were come to
	distinct   int // of these, those that differ from all before and were recovered
	inner      int // of the distinct ones, those of a crash in recovery
	recoveries int
	nested     int // recoveries that were crashed at each of their calls
	killed     int // of these, those after the death of the process
	skipped    int // checkpoints that could not be used
	cuts       int // torn tails
	calls      map[string]int
	stats      Stats
}

func (f *crashFacts) add(g *crashFacts) {
	f.moments += g.moments
	f.enumerated += g.enumerated
	f.distinct += g.distinct
	f.inner += g.inner
	f.recoveries += g.recoveries
	f.nested += g.nested
	f.killed += g.killed
	f.skipped += g.skipped
	f.cuts += g.cuts
	for k, n := range g.calls {
		f.calls[k] += n
	}
	f.addStats(g.stats)
}

func (f *crashFacts) addStats(s Stats) {
	f.stats.Rotations += s.Rotations
	f.stats.Grown += s.Grown
	f.stats.Moved += s.Moved
	f.stats.Batches += s.Batches
}

// crashRun is one workload, from one seed.
type crashRun struct {
	name  string
	seed  uint64
	depth crashDepth
	bug   plantedBug
	r     *rand.Rand
	o     Options

	fs *vfs.MemFS
	l  *Log // nil while it is opened

	m       *model
	changes []change
	digests []uint64 // of all groups after so many changes
	parted  []bool   // after so many changes an install is half done
	durable int      // changes that are
	sizes   []int    // changes of the batches that are not answered
	floor   uint64   // the highest incarnation that was open

	inStep, inMaintain, within bool
	lazy                       bool // no upkeep in this life, so that the log has to grow

	// The next life begins with what is on the disk at the first call from moment
	// cutAt on that is cutCall, or at any call when there is none for some time.
	cutAt   int
	cutCall string
	next    *vfs.MemFS
	nextLo  int
	nextHi  int
	kill    bool // by the death of the process, not of the machine

	digest digester
	seen   map[uint64]uint64 // sum of a disk to digest of what is on it
	facts  crashFacts
	damage error // reported in the recovery that runs
	err    error // the first violation
}

const crashGroups = 4

func newCrashRun(name string, seed uint64, depth crashDepth, bug plantedBug) *crashRun {
	x := &crashRun{
		name: name, seed: seed, depth: depth, bug: bug,
		r: rand.New(rand.NewPCG(seed, 7)), seen: make(map[uint64]uint64),
	}
	x.facts.calls = make(map[string]int)
	x.o = Options{
		Dir: "/log", Cluster: 7, Store: 3, SegmentBytes: 4 << 10, MaxBatchBytes: 1 << (10 + seed%3),
		Serial: true, Rand: func() uint64 { return seed + 1 },
		Events: Events{
			Damaged: func(err *CorruptionError, groups []wire.GroupID) {
				if err.Segment != 0 { // a torn copy of the identity is no harm
					x.damage = fmt.Errorf("sound bytes are called damaged: %v, groups %v", err, groups)
				}
			},
			CheckpointSkipped: func(string, error) { x.facts.skipped++ },
			TailCut:           func(uint64, int64) { x.facts.cuts++ },
			MaintainFailed:    func(err error) { x.fail("maintenance: %v", err) },
		},
	}
	x.fs = vfs.New(vfs.Options{})
	x.truncate(0)
	return x
}

// fail notes the first violation, after which nothing more is looked at.
func (x *crashRun) fail(format string, args ...any) {
	if x.err == nil {
		x.err = fmt.Errorf("moment %d: %s\nreplay with: go test ./raftlog -run '%s' -crash.moment=%d",
			x.facts.moments, fmt.Sprintf(format, args...), x.name, x.facts.moments)
	}
}

// open opens what is on a file system, with the planted bug.
func (x *crashRun) open(disk *vfs.MemFS) (*Log, error) {
	o := x.o
	o.FS = disk
	if x.bug.patched() {
		p := &patchedFS{MemFS: disk, bug: &x.bug, opening: true, uuid: x.uuid()}
		defer func() { p.opening = false }()
		o.FS = p
	}
	x.damage = nil
	x.facts.recoveries++
	l, err := Open(o)
	return l, cmp.Or(err, x.damage)
}

// run leads the workload through its lives.
func (x *crashRun) run() {
	for life := range x.depth.lives {
		x.live(life)
		if x.err != nil {
			return
		}
	}
}

// cutCalls are the calls at which lives end, in turn.
var cutCalls = []string{
	"rename spare.tmp to spare", "sync spare", "rename checkpoint.tmp to checkpoint", "rename spare to segment",
	"sync identity", "rename segment to spare", "syncdir",
}

// cutPatience is for how many moments such a call is waited for.
const cutPatience = 60

func (x *crashRun) live(life int) {
	x.next, x.l, x.cutAt = nil, nil, 0
	x.fs.SetHook(x.hook)
	l, err := x.open(x.fs)
	if err != nil {
		x.fail("life %d: %v", life, err)
		return
	}
	x.durable = len(x.changes) // it was found out which they are
	if d, err := x.digest.log(l); err != nil || d != x.digests[x.durable] {
		x.fail("life %d begins with another state (%v)", life, err)
		return
	}
	x.floor = l.Identity().Incarnation
	l.SetSink(x)
	x.l = l
	x.kill, x.lazy = life%3 == 1, life%6 == 5
	x.cutCall = cutCalls[(int(x.seed)*x.depth.lives+life)%len(cutCalls)]
	for round := 0; round < x.depth.rounds && x.next == nil && x.err == nil; round++ {
		if round == x.depth.rounds*3/4 && life%3 != 2 {
			x.cutAt = x.facts.moments + 1 + x.r.IntN(10)
		}
		x.round(round)
	}
	x.facts.addStats(x.l.Stats())
	if x.err != nil {
		return
	}
	if x.next == nil {
		x.l.Submit(x.batch())
		err := x.l.Close()
		if err != nil || x.durable != len(x.changes) {
			x.fail("close: %v, %d of %d changes are durable", err, x.durable, len(x.changes))
			return
		}
		x.hook(vfs.Op{Kind: vfs.OpSyncDir}) // one more moment
		x.next, x.nextLo, x.nextHi = x.fs.CrashClone(x.r, vfs.DiskFails), x.durable, x.durable
	}
	x.beginNext()
}

// beginNext finds out what is on the disk of the next life, from a copy.
func (x *crashRun) beginNext() {
	x.fs.SetHook(nil)
	x.fs = x.next
	probe := x.fs.Fork()
	probe.SetHook(x.bug.fault)
	l, err := x.open(probe)
	if err != nil {
		x.fail("next life: %v", err)
		return
	}
	d, err := x.digest.log(l)
	n := x.expected(d, x.nextLo, x.nextHi)
	if err != nil || n < 0 {
		x.fail("next life: %v, no state between change %d and %d fits", err, x.nextLo, x.nextHi)
		return
	}
	x.truncate(n)
	x.durable, x.sizes = n, nil
	if x.kill {
		x.durable = min(x.nextLo, n) // the rest becomes durable when Open returns
	}
}

// truncate makes the first n changes all there were.
func (x *crashRun) truncate(n int) {
	x.m, x.changes = newModel(), x.changes[:n]
	for id := range wire.GroupID(crashGroups) {
		x.m.group(id + 1)
	}
	x.digests, x.parted = append(x.digests[:0], modelDigest(x.m)), append(x.parted[:0], false)
	for _, c := range x.changes {
		x.m.add(c)
		x.digests, x.parted = append(x.digests, modelDigest(x.m)), append(x.parted, false) // what was found is allowed
	}
}

// round is a few batches, steps and pieces of upkeep.
func (x *crashRun) round(round int) {
	for range r1(x.r, 2) {
		x.l.Submit(x.batch())
	}
	if round%16 == 9 {
		x.l.Submit(x.large())
	}
	if x.r.IntN(8) == 0 {
		x.l.Seal()
	}
	for x.r.IntN(5) > 0 && x.step() {
	}
	for i := x.r.IntN(5); i > 0 && !x.lazy && x.maintain(); i-- {
	}
}

func (x *crashRun) step() bool {
	x.inStep = true
	defer func() { x.inStep = false }()
	return x.next == nil && x.err == nil && x.l.Step()
}

func (x *crashRun) maintain() bool {
	x.inMaintain = true
	defer func() { x.inMaintain = false }()
	return x.next == nil && x.err == nil && x.l.Maintain()
}

// batch makes a batch of random changes.
func (x *crashRun) batch() *Batch {
	b := new(Batch)
	n := r1(x.r, 5)
	for range n {
		x.change(b, x.m.random(x.r, crashGroups))
	}
	if x.r.IntN(12) == 0 { // a snapshot is installed
		id := wire.GroupID(1 + x.r.IntN(crashGroups))
		g := x.m.group(id)
		x.change(b, change{group: id, kind: "restart", first: g.compacted + 1 + wire.Index(x.r.IntN(len(g.terms)+3)), term: g.term(g.last()) + 1})
		x.parted[len(x.changes)] = true
		x.change(b, change{group: id, kind: "meta", content: fmt.Sprintf("members %d", len(x.changes))})
		n += 2
	}
	x.sizes = append(x.sizes, n)
	return b
}

// large makes a batch that no segment can hold, and gets rid of it soon.
func (x *crashRun) large() *Batch {
	b := new(Batch)
	id := wire.GroupID(1 + x.r.IntN(crashGroups))
	x.change(b, change{group: id, kind: "meta", content: strings.Repeat("large ", 800)})
	x.change(b, change{group: id, kind: "meta", content: "small"})
	x.sizes = append(x.sizes, 2)
	return b
}

func (x *crashRun) change(b *Batch, c change) {
	x.m.add(c)
	x.changes = append(x.changes, c)
	x.digests, x.parted = append(x.digests, modelDigest(x.m)), append(x.parted, false)
	c.addTo(b, x.l.Group(c.group))
	if x.bug.ackEarly {
		x.durable = len(x.changes)
	}
}

// Durable implements Sink.
func (x *crashRun) Durable(batches []*Batch, err error) {
	if err != nil {
		x.fail("the log failed: %v", err)
		return
	}
	for range batches {
		if !x.bug.ackEarly {
			x.durable += x.sizes[0]
		}
		x.sizes = x.sizes[1:]
	}
}

// hook sees every call of the workload to its disk.
func (x *crashRun) hook(op vfs.Op) vfs.Fault {
	if !op.Kind.Mutates() || x.next != nil || x.err != nil {
		return x.bug.faultOf(op)
	}
	x.facts.moments++
	call := describeCall(op)
	x.facts.calls[call]++
	x.moment()
	if x.cutAt > 0 && x.facts.moments >= x.cutAt && (call == x.cutCall || x.facts.moments > x.cutAt+cutPatience) {
		x.nextLo, x.nextHi = x.durable, len(x.changes)
		if x.kill {
			x.next = x.fs.Fork()
		} else {
			x.next = x.fs.CrashClone(x.r, vfs.DiskFails)
		}
		return vfs.Fault{}
	}
	// The writer and the maintainer run side by side: here, the one makes a step
	// while a call of the other is under way.
	if !x.within && x.r.IntN(3) == 0 {
		x.within = true
		switch {
		case x.inStep && !x.lazy:
			x.l.Maintain()
		case x.inMaintain:
			x.l.Submit(x.batch())
			x.l.Step()
		}
		x.within = false
	}
	return x.bug.faultOf(op)
}

// describeCall names a call by what it does to which kind of file: what the file
// was when it was opened, so that the spares that became segments are spares.
func describeCall(op vfs.Op) string {
	kind := func(name string) string {
		base := filepath.Base(name)
		what, _, _ := strings.Cut(base, "-")
		if strings.HasSuffix(base, ".tmp") {
			what += ".tmp"
		}
		return what
	}
	s := op.Kind.String()
	if op.Kind != vfs.OpSyncDir && op.Kind != vfs.OpMkdirAll {
		s += " " + kind(op.Name)
	}
	if op.To != "" {
		s += " to " + kind(op.To)
	}
	return s
}

// moment goes through everything that a crash may leave now.
func (x *crashRun) moment() {
	if *crashMoment > 0 && x.facts.moments != *crashMoment {
		return
	}
	lo, hi := x.durable, len(x.changes)
	x.fs.States(x.depth.states, func(s *vfs.State) {
		if x.err != nil {
			return
		}
		x.facts.enumerated++
		d, fresh := x.state(s, func(d uint64) bool { return x.expected(d, lo, hi) >= 0 }, "")
		if fresh && x.err == nil && (x.facts.distinct-x.facts.inner)%x.depth.nested == 0 {
			x.facts.nested++
			x.crashRecovery(s.Clone(), s.String(), func(got uint64, _ bool) bool { return got == d })
		}
	})
	die := func(disk *vfs.MemFS, what string) {
		x.facts.killed++
		x.facts.nested++
		var found uint64
		x.crashRecovery(disk, what, func(got uint64, end bool) bool {
			if end && found == 0 {
				found = got
			}
			return x.expected(got, lo, hi) >= 0 && (!end || got == found)
		})
	}
	if sectors, entries := x.fs.Unsynced(); sectors+entries > 0 && x.err == nil && x.facts.moments%x.depth.killed == 0 {
		die(x.fs.Fork(), "the process died")
		if sectors > 0 && x.err == nil {
			disk := x.fs.Fork()
			disk.DropUnsynced()
			die(disk, "the sync failed and the process died")
		}
	}
}

// state recovers a state, unless an equal one was before. It returns what is in
// it and whether it was new. after says in what, when it is one of a crash in
// recovery.
func (x *crashRun) state(s *vfs.State, right func(digest uint64) bool, after string) (digest uint64, fresh bool) {
	sum := s.Sum()
	digest, ok := x.seen[sum]
	if !ok {
		x.facts.distinct++
		rounds := 2
		if after != "" {
			// The recovery is the second one as it is; a third does not always follow.
			if x.facts.inner++; x.facts.inner%innerThird != 0 {
				rounds = 1
			}
		}
		var err error
		if digest, err = x.recover(s.Clone(), rounds); err != nil {
			x.fail("%s%s: %v", after, s, err)
			return 0, false
		}
		x.seen[sum] = digest
	}
	if !right(digest) {
		x.fail("%s%s: %s", after, s, x.explain(digest))
	}
	return digest, !ok
}

// innerThird is how many states of a crash in recovery are recovered once for
// one that is recovered twice.
const innerThird = 8

// recover recovers what is on a disk, and again after the power failed when that
// was done.
func (x *crashRun) recover(disk *vfs.MemFS, rounds int) (digest uint64, err error) {
	var segments map[string]uint64
	for round := range rounds {
		disk.SetHook(x.bug.fault)
		l, err := x.open(disk)
		if err != nil {
			return 0, err
		}
		if n := l.Identity().Incarnation; n <= x.floor {
			return 0, fmt.Errorf("recovery %d: incarnation %d, but %d was in use", round, n, x.floor)
		}
		d, err := x.digest.log(l)
		if err != nil {
			return 0, fmt.Errorf("recovery %d: %w", round, err)
		}
		switch {
		case round > 0 && d != digest:
			return 0, fmt.Errorf("the second recovery finds another state than the first")
		case round+1 < rounds:
			disk = disk.CrashClone(nil, vfs.AllLost)
			segments = disk.Sums("/log")
		}
		digest = d
	}
	if segments == nil {
		return digest, nil
	}
	// Segments that the second recovery kept are as it found them.
	for name, sum := range disk.Sums("/log") {
		if was, ok := segments[name]; ok && was != sum && strings.HasPrefix(name, "segment-") {
			return 0, fmt.Errorf("the second recovery changed %s", name)
		}
	}
	return digest, nil
}

// crashRecovery recovers a disk and goes through everything that a crash may
// leave at any of its calls, and at its end. what says what led to it; right is
// told whether recovery was at its end.
func (x *crashRun) crashRecovery(disk *vfs.MemFS, what string, right func(digest uint64, end bool) bool) {
	call, ended := 0, false
	look := func(at string) {
		disk.States(x.depth.inner, func(s *vfs.State) {
			if x.err == nil {
				x.facts.enumerated++
				x.state(s, func(d uint64) bool { return right(d, ended) }, what+"; then in recovery, "+at+": ")
			}
		})
	}
	disk.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Kind.Mutates() && x.err == nil {
			call++
			// The recoveries in between report damage of their own.
			damage := x.damage
			look(fmt.Sprintf("before call %d, %s %s", call, op.Kind, op.Name))
			x.damage = damage
		}
		return x.bug.faultOf(op)
	})
	l, err := x.open(disk)
	if err != nil {
		x.fail("%s: %v", what, err)
		return
	}
	ended = true
	if d, err := x.digest.log(l); err != nil || !right(d, true) {
		x.fail("%s: %v, %s", what, err, x.explain(d))
		return
	}
	look("at its end")
}

// expected returns after how many changes, between lo and hi, the state was the
// digest's, or -1.
func (x *crashRun) expected(digest uint64, lo, hi int) int {
	for n := hi; n >= lo; n-- {
		if x.digests[n] == digest && !x.parted[n] {
			return n
		}
	}
	return -1
}

func (x *crashRun) explain(digest uint64) string {
	if n := slices.Index(x.digests, digest); n >= 0 {
		return fmt.Sprintf("found the state after %d changes, of %d with %d durable", n, len(x.changes), x.durable)
	}
	return fmt.Sprintf("found a state that never was, after %d changes with %d durable", len(x.changes), x.durable)
}

// modelDigest is digester.log for a model.
func modelDigest(m *model) uint64 {
	var buf []byte
	for id := range wire.GroupID(crashGroups) {
		buf = m.group(id + 1).appendDigest(buf)
	}
	return xxhash.Sum64(buf)
}

// appendDigest appends what tells the state of a group from others.
func (m *groupModel) appendDigest(b []byte) []byte {
	b = appendDigest(b, m.compacted, m.last(), m.compactedTerm, m.hard, m.meta, m.removed)
	for _, term := range m.terms {
		b = binary.LittleEndian.AppendUint64(b, uint64(term))
	}
	return b
}

func appendDigest(b []byte, compacted, last wire.Index, term wire.Term, hs wire.HardState, meta string, removed bool) []byte {
	le := binary.LittleEndian
	for _, v := range [...]uint64{
		uint64(compacted), uint64(last), uint64(term), uint64(hs.Term), uint64(hs.Vote), uint64(hs.Commit), uint64(len(meta)),
	} {
		b = le.AppendUint64(b, v)
	}
	if removed {
		b = append(b, 1)
	}
	return append(b, meta...)
}

// digester reads groups. It keeps what it reads into.
type digester struct{ buf, blocks, text []byte }

// log reads everything of all groups, and checks that the entries are those
// that were written.
func (d *digester) log(l *Log) (uint64, error) {
	for _, id := range l.Groups() {
		if id > crashGroups {
			return 0, fmt.Errorf("there is a group %d", id)
		}
	}
	d.buf = d.buf[:0]
	for id := range wire.GroupID(crashGroups) {
		if err := d.group(l.Group(id + 1)); err != nil {
			return 0, err
		}
	}
	return xxhash.Sum64(d.buf), nil
}

// group appends to buf what groupModel.appendDigest does.
func (d *digester) group(g *Group) error {
	if err := g.Err(); err != nil {
		return err
	}
	term, err := g.Term(g.First() - 1)
	if err != nil {
		return err
	}
	d.buf = appendDigest(d.buf, g.First()-1, g.Last(), term, g.HardState(), string(g.Meta()), g.Removed())
	if d.blocks, err = g.Blocks(g.First(), g.Last()+1, 1<<30, d.blocks[:0]); err != nil {
		return err
	}
	next := g.First()
	for rest := d.blocks; len(rest) > 0; {
		var block wire.Block
		if block, rest, err = wire.ParseBlock(rest); err != nil {
			return err
		}
		if block.First() != next || block.Group() != g.ID() {
			return fmt.Errorf("block of group %d at %d, want group %d at %d", block.Group(), block.First(), g.ID(), next)
		}
		for _, i := range [...]wire.Index{block.First(), block.Last()} {
			if term, err := g.Term(i); err != nil || term != block.Term() {
				return fmt.Errorf("group %d: entry %d is of term %d, not %d (%v)", g.ID(), i, block.Term(), term, err)
			}
		}
		for payloads := block.Payloads(); len(payloads) > 0; next++ {
			var command []byte
			command, payloads, _ = wire.NextPayload(payloads)
			d.text = strconv.AppendUint(d.text[:0], uint64(g.ID()), 10)
			d.text = strconv.AppendUint(append(d.text, '/'), uint64(next), 10)
			d.text = strconv.AppendUint(append(d.text, '/'), uint64(block.Term()), 10)
			if !bytes.Equal(command, d.text) {
				return fmt.Errorf("group %d: entry %d is %s, want %s", g.ID(), next, command, d.text)
			}
			d.buf = binary.LittleEndian.AppendUint64(d.buf, uint64(block.Term()))
		}
	}
	if next != g.Last()+1 {
		return fmt.Errorf("group %d: read up to %d of %d", g.ID(), next-1, g.Last())
	}
	return nil
}

// TestCrashStates is the enumeration. It counts what it comes to and fails when
// that is less than it should be.
func TestCrashStates(t *testing.T) {
	depth := crashDepth{
		states: vfs.StateOptions{Combined: 5, Entries: 4}, inner: vfs.StateOptions{Combined: 3, Entries: 4},
		rounds: 32, lives: 8, nested: 22, killed: 10,
	}
	seeds, least := 8, 1_000_000
	switch {
	case *crashFull:
		depth.states.Combined, depth.inner.Combined, depth.nested, depth.killed = 6, 5, 1, 1
		depth.lives, seeds, least = 16, 16, 10_000_000
	case testing.Short():
		depth.states.Combined, depth.lives, depth.nested, depth.killed = 3, 3, 200, 100
		seeds, least = 1, 3_000
	}
	if *crashSeeds > 0 {
		seeds, least = *crashSeeds, 100_000**crashSeeds
	}
	// Nearly all memory is garbage, and little of it is kept. Samples of it, which
	// are taken in case somebody asks for a profile, cost a tenth of the time.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	if flag.Lookup("test.memprofile").Value.String() == "" {
		rate := runtime.MemProfileRate
		runtime.MemProfileRate = 0
		defer func() { runtime.MemProfileRate = rate }()
	}
	var mu sync.Mutex
	total, ran := crashFacts{calls: make(map[string]int)}, 0
	t.Run("all", func(t *testing.T) {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				x := newCrashRun("^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", seed, depth, plantedBug{})
				x.run()
				if x.err != nil {
					t.Fatal(x.err)
				}
				mu.Lock()
				defer mu.Unlock()
				total.add(&x.facts)
				ran++
			})
		}
	})
	if t.Failed() || *crashMoment > 0 {
		return
	}
	t.Logf("%d moments: %d states, %d of them distinct (%d in recovery); %d recoveries, %d of them crashed at each call (%d after the death of the process)",
		total.moments, total.enumerated, total.distinct, total.inner, total.recoveries, total.nested, total.killed)
	t.Logf("%d torn tails, %d checkpoints not used; %d batches, %d segments begun, %d of them grown, %d bytes moved",
		total.cuts, total.skipped, total.stats.Batches, total.stats.Rotations, total.stats.Grown, total.stats.Moved)
	for _, call := range slices.Sorted(maps.Keys(total.calls)) {
		t.Logf("%6d moments before %s", total.calls[call], call)
	}
	if ran < seeds {
		return // only some were asked for
	}
	if total.distinct < least {
		t.Errorf("%d distinct states, want %d", total.distinct, least)
	}
	if testing.Short() {
		return
	}
	for _, call := range []string{
		"mkdir", "syncdir", "write segment", "sync segment", "write spare", "sync spare", "write identity", "sync identity", "create identity",
		"create segment", "rename spare to segment", "rename segment to spare", "truncate segment", "remove segment",
		"create spare.tmp", "write spare.tmp", "sync spare.tmp", "rename spare.tmp to spare", "remove spare.tmp",
		"create checkpoint.tmp", "write checkpoint.tmp", "sync checkpoint.tmp", "rename checkpoint.tmp to checkpoint",
		"remove checkpoint.tmp", "remove checkpoint",
	} {
		if total.calls[call] == 0 {
			t.Errorf("no moment before %s", call)
		}
	}
	if s := total.stats; s.Moved == 0 || s.Grown == 0 || total.cuts == 0 {
		t.Error("something was never done")
	}
}
