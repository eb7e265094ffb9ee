package raftlog

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// Open opens the log in a directory, or makes it, and brings back all groups.
//
//  1. The lock is taken, the identity read and compared.
//  2. The newest segment with a valid header is scanned. It says where the log
//     begins (oldest) and up to which sequence it was durable for certain.
//  3. The newest checkpoint, if it is whole, gives the index up to its place.
//  4. Segments are scanned from there on, and their records applied in order.
//     Bad bytes up to the durable sequence are damage: whose they were is found
//     out and those groups are marked. Behind it they are a torn tail, and the
//     log ends there.
//  5. What was found is synced: a killed process may have left it unsynced.
//  6. The incarnation is raised. A new segment is begun with a copy of the last
//     batch, if nothing proves it, the marks and a seal, so that the tail is
//     proven and never written to again.
//
// Nothing is written before step 5, so that a refusal leaves everything as it
// is, and running recovery twice comes to the same result.
func Open(o Options) (*Log, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if err := makeOwnDir(o.FS, o.Dir); err != nil {
		return nil, err
	}
	lock, err := o.FS.Lock(o.path(lockName))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Dir, err)
	}
	if o.FS, err = keepDir(o.FS, o.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o.Dir, err), lock.Close())
	}
	l := newLog(o, lock)
	r := recovery{l: l}
	if err := r.run(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o.Dir, err), r.close(), l.closeFiles())
	}
	return l, nil
}

// newLog returns a log of which nothing is known yet.
func newLog(o Options, lock io.Closer) *Log {
	l := &Log{
		o:          o,
		lock:       lock,
		wake:       make(chan struct{}, 1),
		wakeUpkeep: make(chan struct{}, 1),
		groups:     make(map[wire.GroupID]*Group),
		damage:     make(map[wire.GroupID]*CorruptionError),
		stop:       make(chan struct{}),
	}
	l.spares.o = &l.o
	l.table.Store(&segmentTable{})
	return l
}

// recovery is the state of Open.
type recovery struct {
	l        *Log
	identity *identityFile
	hash     *hasher

	segments    []*segment // all files with a number, sorted
	temporary   []string
	checkpoints []uint64 // numbers, sorted

	oldest uint32  // the first segment that counts
	first  uint64  // the sequence that it begins with, zero when its header is bad
	free   uint32  // segments before it are not needed, whatever becomes of the last batch
	ends   []*scan // of segments with a valid header, from the last one back to newest
	newest *scan   // the last one that something speaks for
	begun  []*scan // those behind it
	proven uint64  // the last sequence that was durable for certain
	tail   *tail   // the last batch, when nothing proves it

	position      // that was reached; sequence 0 is where the oldest segment begins
	cut      bool // the log ends here, whatever follows

	// A group that came from a checkpoint has everything up to this sequence.
	known map[wire.GroupID]uint64
	// What is known of groups that lost one record each.
	losses map[wire.GroupID]*loss
	// Records were lost, and maybe those of every group.
	lostAll *CorruptionError
	lostAt  uint64
}

// nothing is the account of recovery: live bytes are counted at its end.
type nothing struct{}

func (nothing) release(uint32, uint32) {}

func (r *recovery) run() error {
	if err := r.read(); err != nil {
		return err
	}
	lost, err := r.finishGroups()
	if err != nil {
		return err
	}
	return r.begin(lost)
}

// look is run without what it writes.
func (r *recovery) look() error {
	if err := r.read(); err != nil {
		return err
	}
	if _, err := r.finishGroups(); err != nil {
		return err
	}
	r.l.identity = r.identity.Identity
	return nil
}

// read brings back what the files hold.
func (r *recovery) read() error {
	if err := r.list(); err != nil {
		return err
	}
	var err error
	if r.identity, err = loadIdentity(&r.l.o, len(r.segments)+len(r.checkpoints) > 0); err != nil {
		return err
	}
	r.hash = newHasher(r.identity.UUID)
	if err := r.findEnd(); err != nil {
		return err
	}
	from, err := r.loadCheckpoint()
	if err != nil {
		return err
	}
	return r.scanFrom(from)
}

// list sorts out the files of the directory.
func (r *recovery) list() error {
	o := &r.l.o
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return err
	}
	for _, base := range names {
		path := o.path(base)
		if n, ok := parseName(base, segmentPrefix); ok && n > 0 && n <= 1<<32-1 {
			f, err := o.FS.Open(path)
			if err != nil {
				return err
			}
			r.segments = append(r.segments, &segment{number: uint32(n), name: path, file: f})
		} else if n, ok := parseName(base, sparePrefix); ok {
			if err := r.addSpare(path, n); err != nil {
				return err
			}
		} else if n, ok := parseName(base, checkpointPrefix); ok {
			r.checkpoints = append(r.checkpoints, n)
		} else if isTemporary(base) {
			r.temporary = append(r.temporary, path)
		} else if base != lockName && base != identityNames[0] && base != identityNames[1] {
			o.Events.Ignored(path)
		}
	}
	slices.SortFunc(r.segments, func(a, b *segment) int { return int(int64(a.number) - int64(b.number)) })
	slices.Sort(r.checkpoints)
	return nil
}

func (r *recovery) addSpare(path string, number uint64) error {
	f, err := r.l.o.FS.Open(path)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.l.spares.next = max(r.l.spares.next, number)
	if size != r.l.o.SegmentBytes {
		r.temporary = append(r.temporary, path) // of another setting
		return f.Close()
	}
	r.l.spares.ready = append(r.l.spares.ready, spare{path, f})
	return nil
}

// findEnd scans segments from the newest back to the one in which the log ends.
func (r *recovery) findEnd() error {
	for _, seg := range slices.Backward(r.segments) {
		sc := scanSegment(seg, 0, 0, r.hash, nil)
		if sc.err != nil {
			return sc.err
		}
		if len(sc.batches) == 0 {
			continue // begun and never written to, or its first write was torn
		}
		r.ends = append(r.ends, sc)
		for _, b := range sc.batches {
			r.proven = max(r.proven, b.durable)
		}
		if r.begins(sc) {
			break
		}
	}
	r.chooseEnd()
	return r.checkEnd()
}

// begins reports whether the log goes on to the segment for certain. One whose
// first batch is bad, with nothing to say that it was ever durable, was only begun:
// by a recovery, its first batch is a copy of what is still where it was (see
// hold), and the log does not even end there.
func (r *recovery) begins(s *scan) bool {
	first := &s.batches[0]
	return first.intact || first.sequence <= r.proven
}

// chooseEnd finds the newest segment by what is proven so far. What segments that
// were only begun say of the oldest one does not count yet.
func (r *recovery) chooseEnd() {
	if len(r.ends) == 0 {
		return
	}
	r.newest, r.begun = r.ends[0], nil
	for i, sc := range r.ends {
		if r.begins(sc) {
			r.newest, r.begun = sc, r.ends[:i]
			break
		}
	}
	for _, b := range r.newest.batches {
		r.oldest = max(r.oldest, uint32(min(b.oldest, 1<<32-1)))
		if b.sequence <= r.proven {
			r.free = max(r.free, uint32(min(b.oldest, 1<<32-1)))
		}
	}
}

// checkEnd looks for what cannot be missing.
func (r *recovery) checkEnd() error {
	switch reached := r.identity.reached; {
	case r.newest == nil && reached == 0:
		return nil
	case r.newest == nil || r.newest.seg.number < reached:
		return &CorruptionError{Segment: uint64(reached), Err: fmt.Errorf("%w: it has no valid batch", ErrMissing)}
	}
	for _, seg := range r.segments {
		if seg.number == r.oldest {
			return nil
		}
	}
	return &CorruptionError{Segment: uint64(r.oldest), Err: ErrMissing}
}

// place is where a scan starts.
type place struct {
	segment uint32
	offset  int64
}

// scanFrom applies everything from the place to the end of the log.
func (r *recovery) scanFrom(from place) error {
	if r.newest == nil {
		return nil
	}
	newest := r.newest.seg.number
	var table, list []*segment
	for _, seg := range r.segments {
		if seg.number >= r.oldest && seg.number <= newest {
			seg.size = r.l.o.SegmentBytes
			table = append(table, seg)
			if seg.number >= from.segment && seg.number < newest {
				list = append(list, seg)
			}
		}
	}
	r.l.table.Store(&segmentTable{table})
	following, err := r.firstSequences(list)
	if err != nil {
		return err
	}
	s := scanner{uuid: r.identity.UUID, segments: list, from: from.offset, following: following}
	if !r.l.o.Serial {
		s.parallel = runtime.GOMAXPROCS(0)
	}
	if from.segment == newest {
		r.newest.skipTo(from.offset)
	}
	if err := s.run(r.apply); err != nil {
		return err
	}
	if err := r.apply(r.newest); err != nil {
		return err
	}
	for _, begun := range slices.Backward(r.begun) {
		if err := r.apply(begun); err != nil {
			return err
		}
	}
	r.ends, r.newest.data = nil, nil
	if r.l.o.NoSync {
		return nil
	}
	for _, seg := range append(list, r.newest.seg) {
		if err := seg.file.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", seg.name, err)
		}
	}
	return nil
}

// skipTo drops the batches in front of an offset.
func (s *scan) skipTo(offset int64) {
	s.batches = slices.DeleteFunc(s.batches, func(b scannedBatch) bool { return int64(b.offset) < offset })
}

// firstSequences returns the sequence with which the segments behind each one
// begin, from the next first header that is valid.
func (r *recovery) firstSequences(list []*segment) ([]uint64, error) {
	following := make([]uint64, len(list))
	if len(list) == 0 {
		return following, nil
	}
	next := uint64(0)
	if first := r.newest.batches[0]; first.offset == 0 {
		next = first.sequence
	}
	var buf [batchHeaderBytes]byte
	for i := len(list) - 1; i >= 0; i-- {
		following[i] = next
		size, err := list[i].file.Size()
		if err != nil {
			return nil, err
		}
		if size < batchHeaderBytes {
			continue
		}
		if _, err := list[i].file.ReadAt(buf[:], 0); err != nil {
			return nil, fmt.Errorf("read %s: %w", list[i].name, err)
		}
		var h header
		switch err := h.decode(buf[:], uint64(list[i].number), 0, r.hash); {
		case err == nil:
			next = h.sequence
			if list[i].number == r.oldest {
				r.first = h.sequence
			}
		case !errors.Is(err, errNoBatch):
			return nil, fmt.Errorf("%s: %w", list[i].name, err)
		}
	}
	return following, nil
}

// apply puts the batches of a segment behind what was reached so far.
func (r *recovery) apply(s *scan) error {
	for i := range s.batches {
		b := &s.batches[i]
		if r.cut {
			return nil
		}
		if b.sequence <= r.sequence || r.tail != nil && b.sequence == r.tail.sequence {
			continue // an earlier recovery cut it off and went on elsewhere
		}
		inOrder := b.sequence == r.sequence+1 && b.prevSum == r.prevSum
		if r.sequence == 0 {
			// A header names a segment as the oldest one only when it has a durable
			// batch, or is about to have its first one. That may have been copied since:
			// starts that died have each left a segment with a copy of the last batch.
			inOrder = b.offset == 0 && (b.segment == uint64(r.oldest) || b.sequence == r.first)
		}
		if !inOrder {
			if err := r.gap(s, b); err != nil {
				return err
			}
		}
		if planted.Is(planted.DropLastBatch) && s == r.newest && i > 0 && i == len(s.batches)-1 {
			r.cut = true
		}
		if planted.Is(planted.TrustTorn) {
			b.intact = true
		}
		if !r.cut && !b.intact {
			if err := r.badBody(s, b); err != nil {
				return err
			}
		}
		if r.cut {
			return nil
		}
		if s == r.newest && i == len(s.batches)-1 && b.sequence > r.proven && !r.l.o.NoSync {
			return r.hold(s, b)
		}
		if b.intact {
			r.applyIntact(s.records(b), b)
		}
		r.advance(s.seg, b)
	}
	return nil
}

// advance makes b the last batch that was reached.
func (r *recovery) advance(seg *segment, b *scannedBatch) {
	r.position = position{b.sequence, b.bodySum, b.length, seg.number, int64(b.offset) + int64(b.length)}
	seg.used.Store(r.offset)
	r.l.upkeep.uncovered.Add(int64(b.length))
}

// tail is a batch that is sound where it was read and that nothing proves: it may
// be in the page cache only, of a process whose sync failed and which died before
// it could say so. The pages are clean then, and no sync brings them to the disk.
type tail struct {
	header
	bytes []byte
	from  *segment
	to    *segment // nil for a seal, of which there is no copy
}

// segment returns where the copy goes, nil when there is none.
func (t *tail) segment() *segment {
	if t == nil {
		return nil
	}
	return t.to
}

// hold takes the last batch over, but not its place: it becomes the first batch of
// the segment that recovery begins, under the number that it has, and the index
// says so already. Until that copy is durable a crash leads back here: a torn copy
// does not count, and the original is where it was.
//
// REQUIRES: the batch is intact and the next one in order.
func (r *recovery) hold(s *scan, b *scannedBatch) error {
	r.sequence, r.prevSum, r.prevLen = b.sequence-1, b.prevSum, b.prevLen
	r.tail = &tail{header: b.header, from: s.seg}
	if b.records == 0 {
		return nil
	}
	seg, err := r.nextSegment()
	if err != nil {
		return err
	}
	end := int64(b.offset) + int64(b.length)
	r.tail.bytes, r.tail.to = slices.Clone(s.data[b.offset:end]), seg
	r.l.addSegment(seg)
	moved := *b
	moved.segment, moved.offset = uint64(seg.number), 0
	r.applyIntact(s.records(b), &moved)
	return nil
}

// nextSegment returns what will be the segment behind all that there are. It has
// no file yet.
func (r *recovery) nextSegment() (*segment, error) {
	last := uint32(0)
	if n := len(r.segments); n > 0 {
		last = r.segments[n-1].number
	}
	if last == math.MaxUint32 {
		return nil, errNumbersUsedUp
	}
	return r.l.spares.newSegment(last + 1), nil
}

// applyIntact applies the records of a batch whose checksum is right. Records
// that are not well-formed were written like that, by a fault of this program
// or on purpose by who knows the store's id; they are treated as damage.
func (r *recovery) applyIntact(body []byte, b *scannedBatch) {
	offset := b.offset + batchHeaderBytes
	for range b.records {
		var rec record
		if err := rec.decode(body); err != nil {
			r.loseAll(b.sequence, &CorruptionError{b.segment, int64(offset), err})
			return
		}
		r.applyRecord(&rec, uint32(b.segment), offset, b.sequence)
		body, offset = body[rec.size:], offset+uint32(rec.size)
	}
}

func (r *recovery) applyRecord(rec *record, segment, offset uint32, sequence uint64) {
	if r.known[rec.group] >= sequence {
		return
	}
	g := r.group(rec.group)
	r.learn(rec)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case rec.isBlock():
		block := rec.block
		g.applyBlock(blockRef{block.First(), segment, offset, uint32(rec.size), uint32(block.Count())}, block.Term(), nothing{})
	case rec.kind == kindHardState:
		g.applyHardState(rec.hardState(), segment, nothing{})
	case rec.kind == kindMeta:
		g.applyMeta(string(rec.payload), segment, nothing{})
	case rec.kind == kindCompact:
		g.applyCompact(wire.Index(rec.a), wire.Term(rec.b), segment, nothing{})
	case rec.kind == kindRestart:
		g.applyRestart(wire.Index(rec.a), wire.Term(rec.b), segment, nothing{})
	case rec.kind == kindRemove:
		g.applyRemove(segment, nothing{})
	case rec.kind == kindDamaged:
		r.l.setDamage(rec.group, &CorruptionError{rec.a, int64(rec.b), ErrLost})
		switch last, term, ok := rec.wound(); {
		case !ok:
			g.applyDamaged(segment, nothing{})
		case r.losses[rec.group] == nil:
			g.applyWound(last, term, segment, nothing{})
		}
	case rec.kind == kindMoved && !g.damaged && !g.removed:
		block := rec.block
		g.place(blockRef{block.First(), segment, offset + recordHeaderBytes, uint32(len(block)), uint32(block.Count())}, block.Term(), nothing{})
	}
}

// damaged reports bad bytes at a place where the log was proven durable.
func (r *recovery) damaged(at *CorruptionError, groups []wire.GroupID) error {
	if r.l.o.Recovery == RecoverStrict {
		return at
	}
	r.l.o.Events.Damaged(at, groups)
	return nil
}

// torn ends the log: what follows was not proven durable.
func (r *recovery) torn() error {
	if r.l.o.Recovery == RecoverStrict {
		return fmt.Errorf("segment %d at offset %d: %w", r.segment, r.offset, ErrTornTail)
	}
	r.cut = true
	r.l.o.Events.TailCut(uint64(r.segment), r.offset)
	return nil
}

// gap handles batches that are missing in front of b.
func (r *recovery) gap(s *scan, b *scannedBatch) error {
	if r.sequence+1 > r.proven || planted.Is(planted.CutProven) {
		return r.torn()
	}
	at := &CorruptionError{uint64(r.segment), r.offset, errNoBatch}
	if ok, err := r.rebuild(s, b); err != nil || ok {
		if err != nil {
			return err
		}
		return r.damaged(at, nil)
	}
	// A number without a file is normal where nothing was ever written to it, but
	// not where batches are missing.
	if r.segment != 0 && b.offset == 0 {
		for _, number := range [...]uint32{r.segment, r.segment + 1} {
			if number < s.seg.number && !r.hasFile(number) {
				return &CorruptionError{Segment: uint64(number), Err: ErrMissing}
			}
		}
	}
	if err := r.damaged(at, []wire.GroupID{storeGroup}); err != nil {
		return err
	}
	r.loseAll(b.sequence-1, at)
	return nil
}

func (r *recovery) hasFile(number uint32) bool {
	return slices.ContainsFunc(r.segments, func(s *segment) bool { return s.number == number })
}

// rebuild makes up for one damaged header in front of b: b knows the length and
// the body sum of the batch before it. If the body is right, nothing is lost.
func (r *recovery) rebuild(s *scan, b *scannedBatch) (bool, error) {
	first := r.sequence == 0 // of the log: its sequence is not known
	if b.prevLen < batchHeaderBytes || b.sequence < 2 || !first && b.sequence != r.sequence+2 {
		return false, nil
	}
	lost := scannedBatch{header: header{sequence: b.sequence - 1, length: b.prevLen, bodySum: b.prevSum}}
	in := s
	switch {
	case b.offset >= b.prevLen:
		lost.segment, lost.offset = b.segment, b.offset-b.prevLen
	case b.offset == 0:
		// It was the last one of the segment before.
		seg := r.l.table.Load().get(r.segment)
		if seg == nil {
			return false, nil
		}
		lost.segment, lost.offset = uint64(r.segment), uint32(r.offset)
		in = &scan{seg: seg, data: make([]byte, 0)}
		var err error
		if in.size, err = seg.file.Size(); err != nil {
			return false, err
		}
		end := r.offset + int64(lost.length)
		if end > in.size {
			return false, nil
		}
		in.data = make([]byte, r.offset, end)
		if in.size = end; !in.read(end) {
			return false, in.err
		}
	default:
		return false, nil
	}
	expected := int64(0) // a segment begins with a batch
	if lost.segment == uint64(r.segment) {
		expected = r.offset
	} else if first {
		return false, nil // the log begins before it
	}
	if int64(lost.offset) != expected {
		return false, nil
	}
	if r.hash.sum(lost.segment, lost.offset, in.records(&lost)) != b.prevSum {
		return false, nil
	}
	lost.records = countRecords(in.records(&lost))
	r.applyIntact(in.records(&lost), &lost)
	r.advance(in.seg, &lost)
	return true, nil
}

// countRecords returns how many records fill a body, up to its padding.
func countRecords(body []byte) (n uint32) {
	var rec record
	for len(body) >= recordHeaderBytes && rec.decode(body) == nil {
		body = body[rec.size:]
		n++
	}
	return n
}

// badBody handles a batch whose header is right and whose body is not.
//
// Each record has its own checksum, so the good ones are applied. If one is bad,
// the exclusive or in the header tells its group, even when the bytes that named
// it are gone.
func (r *recovery) badBody(s *scan, b *scannedBatch) error {
	if b.sequence > r.proven || planted.Is(planted.CutProven) {
		return r.torn()
	}
	at := &CorruptionError{b.segment, int64(b.offset), errBatchBody}
	f := r.salvage(s, b)
	proven := b.version < 2 || f.prove(&b.header)
	missing := int(b.records) - len(f.good) - len(f.doubtful)
	lost := f.doubtful
	entries := false // the one record that is lost holds entries, or says nothing that matters here
	switch {
	case proven && missing == 1:
		lost = append(lost, wire.GroupID(f.groups))
		entries = len(f.doubtful) == 0 && f.lostNoPromise(s.records(b), b.offset+batchHeaderBytes)
	case proven && missing == 0 && !f.skipped && f.groups == 0:
	case proven && missing == 0 && len(f.doubtful) == 1 && f.groups == 0: // it was no record of its own
	default:
		if err := r.damaged(at, []wire.GroupID{storeGroup}); err != nil {
			return err
		}
		r.loseAll(b.sequence, at)
		return nil
	}
	if err := r.damaged(at, lost); err != nil {
		return err
	}
	for i := range f.good {
		r.applyRecord(&f.good[i].record, uint32(b.segment), f.good[i].offset, b.sequence)
	}
	for _, id := range lost {
		r.lose(id, b.sequence, at)
		if l := r.losses[id]; entries && l != nil {
			l.promise = l.before
		}
	}
	return nil
}

// loss is what recovery knows of a group that has lost records. Whatever they
// were, newer ones may say all that matters.
type loss struct {
	before, promise bool // the hard state may be lost: by earlier losses; by these too
	end             bool // the end of the log is known: an entry came behind
	last            wire.Index
	term            wire.Term
}

// learn notes what a record says that may have been lost before.
func (r *recovery) learn(rec *record) {
	l := r.losses[rec.group]
	switch {
	case l == nil:
	case rec.kind == kindHardState:
		l.promise = false
	case rec.isBlock():
		l.end, l.last, l.term = true, rec.block.Last(), rec.block.Term()
	case rec.kind == kindRestart:
		l.end, l.last, l.term = true, wire.Index(rec.a), wire.Term(rec.b)
	case rec.kind == kindDamaged:
		// A wound says nothing of the hard state, which may be among what was lost.
		if last, term, ok := rec.wound(); ok && (l.promise || r.lostAll != nil) {
			l.end, l.last, l.term = true, last, term
			return
		}
		delete(r.losses, rec.group)
	case rec.kind == kindRemove: // it is all there is to know
		delete(r.losses, rec.group)
	}
}

// lostNoPromise reports whether the one record that was not found in a damaged
// body is neither a hard state nor one that begins or ends a life of the group.
// Those are small: between two good records its size tells. At the end of the body,
// where padding follows, its header must agree with all there is around it: with
// the group that is missing, a kind, and a size that only padding is behind.
func (f *salvage) lostNoPromise(body []byte, offset uint32) bool {
	at, from, to := 0, -1, 0
	for i := range f.good {
		start := int(f.good[i].offset - offset)
		if start > at {
			if from >= 0 {
				return false // what is between does not hang together
			}
			from, to = at, start
		}
		at = start + f.good[i].size
	}
	if from >= 0 {
		return to-from > woundBytes
	}
	if from, to = at, len(body); to-from <= woundBytes+batchAlign {
		head := body[from:to]
		if len(head) <= woundBytes || wire.GroupID(le.Uint64(head[8:])) != wire.GroupID(f.groups) {
			return false
		}
		kind, size := head[recordKindOffset], recordHeaderBytes+int64(le.Uint32(head[recordBytesOffset:]))
		isEntries := kind >= byte(wire.EntryCommand) && kind <= byte(wire.EntryConfig) || kind == kindMoved || kind == kindMeta
		return isEntries && head[recordKindOffset+1] == recordVersion && size > woundBytes && size <= int64(len(head)) &&
			padding(batchHeaderBytes+to-len(head)+int(size)) == len(head)-int(size) && isZero(head[size:])
	}
	return true
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// salvaged is a good record of a damaged batch.
type salvaged struct {
	record
	sum    uint32 // the low half of its checksum
	offset uint32 // in the segment
}

// salvage is what was found in a damaged body.
type salvage struct {
	found    []salvaged // good and doubtful ones, in order
	good     []salvaged
	doubtful []wire.GroupID // of blocks that may be records or the content of one
	groups   uint64         // the exclusive or of the groups of what is missing
	skipped  bool           // there were bytes between records
}

// salvage finds the records of a damaged body that are good by themselves.
func (r *recovery) salvage(s *scan, b *scannedBatch) (f salvage) {
	all := s.records(b)
	f.groups = b.groups
	at, bad := 0, 0 // bad is where the bytes that are not understood begin
	for len(all)-at >= recordHeaderBytes && len(f.good) < int(b.records) {
		var rec record
		switch body := all[at:]; {
		case rec.intact(body):
			verdict := isRecord
			if rec.isBlock() {
				verdict = judgeBlock(all[bad:at], &rec)
			}
			one := salvaged{rec, le.Uint32(body), b.offset + batchHeaderBytes + uint32(at)}
			if verdict != isContent {
				f.found = append(f.found, one)
			}
			switch verdict {
			case isRecord:
				f.good = append(f.good, one)
				f.groups ^= uint64(rec.group)
			case isDoubtful:
				f.doubtful = append(f.doubtful, rec.group)
				f.groups ^= uint64(rec.group)
			}
			at += rec.size
			bad = at
		case rec.size > 0 && new(record).intact(body[rec.size:]):
			f.skipped = true // the content is bad, the size seems right
			at += rec.size
		default:
			// Where the next one begins is not known: try every place.
			f.skipped = true
			at++
		}
	}
	return f
}

// prove keeps those of the records found that were written with the batch, and
// reports whether they and one more at most are all that it had. A sector whose
// write was lost, or that was meant for another place, has records that are good by
// themselves.
func (f *salvage) prove(h *header) bool {
	found := f.found
	lost, ok := h.missing(found)
	if !ok && len(f.doubtful) > 0 { // they are not records then
		found = f.good
		lost, ok = h.missing(found)
	}
	if !ok {
		return false
	}
	good := make([]salvaged, 0, len(found))
	f.groups, f.skipped, f.doubtful = h.groups, false, nil
	for i := range found {
		if i != lost || len(found) < int(h.records) {
			good = append(good, found[i])
			f.groups ^= uint64(found[i].group)
		}
	}
	f.good = good
	return true
}

// verdict says what a good block behind bytes that are not understood is.
type verdict int

const (
	isRecord   verdict = iota
	isContent          // of a moved record whose header is damaged
	isDoubtful         // one or the other
)

// judgeBlock tells a block of new entries from one in a moved record. Taken for
// the other, it would drop the entries behind it. skipped begins where a record
// does.
func judgeBlock(skipped []byte, block *record) verdict {
	n := len(skipped)
	if n < recordHeaderBytes {
		return isRecord // no room for the header of a moved record
	}
	// Three things tell the header of a moved record in front of its block: the
	// kind, the size, and the size it had before, which is at most cut. One of
	// them may be what is damaged; no other record has two.
	head := skipped[n-recordHeaderBytes:]
	moved := head[recordKindOffset] == kindMoved
	size := int64(le.Uint32(head[recordBytesOffset:])) == int64(block.size)
	source := le.Uint64(head[24:])>>32 >= uint64(block.size)
	if moved && size || size && source || source && moved {
		return isContent
	}
	// If one record of another kind was skipped, its header has two of these: a
	// kind, the version, a size that fits.
	kind, version := skipped[recordKindOffset], skipped[recordKindOffset+1] == recordVersion
	other := kind != kindMoved && (kind >= kindHardState && kind <= kindRestart || kind >= byte(wire.EntryCommand) && kind <= byte(wire.EntryConfig))
	fits := recordHeaderBytes+int(le.Uint32(skipped[recordBytesOffset:])) == n
	if version && other || version && fits || fits && other {
		return isRecord
	}
	return isDoubtful
}

// group returns the handle of a group that a record names. One that is named
// for the first time behind a place where anything may be lost has its
// beginning there, for all that is known.
func (r *recovery) group(id wire.GroupID) *Group {
	n := len(r.l.ordered)
	g := r.l.Group(id)
	if r.lostAll != nil && len(r.l.ordered) > n {
		r.lose(id, r.lostAt, r.lostAll)
	}
	return g
}

// lose marks a group that lost a record of the batch with the sequence.
func (r *recovery) lose(id wire.GroupID, sequence uint64, at *CorruptionError) {
	if r.known[id] >= sequence {
		return // a checkpoint has what the record said
	}
	g := r.l.Group(id)
	r.l.setDamage(id, &CorruptionError{at.Segment, at.Offset, ErrLost})
	l := r.losses[id]
	if l == nil {
		if r.losses == nil {
			r.losses = make(map[wire.GroupID]*loss)
		}
		l = &loss{promise: g.damaged} // it may have been marked before
		r.losses[id] = l
	}
	*l = loss{before: l.promise, promise: true}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.applyDamaged(0, nothing{})
}

// loseAll marks every group for which no later checkpoint speaks, and those that
// may be known by the lost records only.
func (r *recovery) loseAll(sequence uint64, at *CorruptionError) {
	r.lostAll, r.lostAt = &CorruptionError{at.Segment, at.Offset, ErrLost}, sequence
	for _, g := range slices.Clone(r.l.ordered) {
		r.lose(g.id, sequence, at)
	}
	r.lose(storeGroup, sequence, at)
}

// finishGroups checks what was found, group by group, and opens the account of
// live bytes. It returns the groups whose marks are not in the log yet.
func (r *recovery) finishGroups() (lost []*Group, err error) {
	table := r.l.table.Load()
	for _, g := range slices.Clone(r.l.ordered) {
		if number, ok := g.refersTo(table); !ok {
			at := &CorruptionError{Segment: uint64(number), Err: ErrMissing}
			if number >= r.oldest {
				return nil, at // the file is lost
			}
			// It was recycled: a record that had moved forward from it was damaged.
			if !g.damaged || g.wounded {
				if err := r.damaged(at, []wire.GroupID{g.id}); err != nil {
					return nil, err
				}
				r.lose(g.id, math.MaxUint64, at)
			}
			g.forget(table)
		}
		if missing, ok := g.complete(); !ok && !g.damaged {
			at := &CorruptionError{Segment: uint64(g.blocks[0].segment), Err: fmt.Errorf("%w: entry %d", ErrLost, missing)}
			if err := r.damaged(at, []wire.GroupID{g.id}); err != nil {
				return nil, err
			}
			r.lose(g.id, math.MaxUint64, at)
		}
		if l := r.losses[g.id]; l != nil && r.lostAll == nil && !l.promise && l.end &&
			g.at[controlHard] != 0 && l.term <= g.hard.Term && g.at[controlFlag] == 0 {
			g.applyWound(l.last, l.term, 0, nothing{})
		}
		if g.damaged && g.at[controlFlag] == 0 {
			lost = append(lost, g)
		}
		g.openAccount(table)
	}
	r.l.suspectNew = r.l.damage[storeGroup] != nil
	return lost, nil
}

// refersTo reports whether all segments that the group needs are there; if not,
// it returns one that is not.
func (g *Group) refersTo(table *segmentTable) (missing uint32, ok bool) {
	for _, ref := range g.blocks {
		if table.get(ref.segment) == nil {
			return ref.segment, false
		}
	}
	for _, number := range g.at {
		if number != 0 && table.get(number) == nil {
			return number, false
		}
	}
	return 0, true
}

// forget gives up the control records in segments that are not there.
//
// REQUIRES: the group is damaged, and so has no blocks.
func (g *Group) forget(table *segmentTable) {
	for k, number := range g.at {
		if number != 0 && table.get(number) == nil {
			g.at[k] = 0
		}
	}
}

// openAccount adds what is live of the group to the segments.
func (g *Group) openAccount(table *segmentTable) {
	g.blocks, g.runs = clip(g.blocks), clip(g.runs)
	for _, ref := range g.blocks {
		table.get(ref.segment).live.Add(int64(ref.size))
	}
	for k, number := range g.at {
		if number != 0 {
			table.get(number).live.Add(int64(g.controlBytes(k)))
		}
	}
}

// clip gives back what growing a slice left over.
func clip[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return append(make([]T, 0, len(s)), s...)
}

// minHeaders is how many batches a segment has before the identity says that it
// was reached: a damaged one alone must not look like a lost segment.
const minHeaders = 2

// begin makes the recovered log ready for writing.
func (r *recovery) begin(lost []*Group) error {
	l := r.l
	for _, path := range r.temporary {
		if err := l.o.FS.Remove(path); err != nil {
			return err
		}
	}
	if err := r.identity.raise(); err != nil {
		return err
	}
	l.identity = r.identity.Identity

	// What the log says it no longer needs may be used again at once, unless the
	// last batch says so and is not proven. Segments behind that batch wait until
	// there is one with a higher number: theirs must never be used again, or their
	// bytes would pass for new ones.
	next := r.tail.segment()
	if next == nil {
		var err error
		if next, err = r.nextSegment(); err != nil {
			return err
		}
		l.addSegment(next)
	}
	var unused []*segment
	for _, seg := range r.segments {
		if l.table.Load().get(seg.number) != nil {
			continue
		}
		if seg.number >= r.free {
			unused = append(unused, seg)
			continue
		}
		if err := l.spares.recycle(seg); err != nil {
			return err
		}
	}
	r.segments = nil
	for l.spares.count() == 0 {
		if more, err := l.spares.fill(); err != nil || !more {
			return errors.Join(err, closeAll(unused), ErrDiskFull)
		}
	}
	if err := l.spares.activate(next); err != nil {
		return errors.Join(err, closeAll(unused))
	}
	w := &l.writer
	w.active, w.hash = next, r.hash
	w.sequence, w.prevSum, w.prevLen = r.sequence, r.prevSum, r.prevLen
	w.durable = r.sequence
	w.oldest = r.oldest
	if l.o.NoSync {
		w.durable = r.proven
	}
	l.applied = r.position
	l.upkeep.reclaimable.Store(l.oldestLive())

	var marks Batch
	for _, g := range lost {
		at := l.damageOf(g.id)
		if g.wounded {
			marks.Wound(g, g.compacted, g.compactedTerm, at)
			continue
		}
		marks.add(item{group: g, kind: kindDamaged, a: at.Segment, b: uint64(at.Offset)}, plainRecordBytes)
	}
	headers := minHeaders
	if r.tail.segment() != nil {
		if !l.writeTail(r.tail) {
			return errors.Join(l.Err(), closeAll(unused))
		}
		headers--
	}
	l.Submit(&marks)
	for range headers {
		l.Seal()
		w.sealed = false
		for l.Step() {
		}
	}
	if err := l.Err(); err != nil {
		return errors.Join(err, closeAll(unused))
	}
	for _, seg := range unused {
		if err := l.spares.recycle(seg); err != nil {
			return err
		}
	}
	l.upkeep.identity = r.identity
	return r.identity.reach(next.number)
}

// writeTail writes the last batch again, and reports whether that worked. The
// index has it already. Its segment counts as needed until the copy is durable: a
// torn copy must not say that the log begins behind the original.
func (l *Log) writeTail(t *tail) bool {
	w := &l.writer
	w.begin(l.o.MaxBatchBytes)
	w.buf = append(w.buf[:0], t.bytes...)
	h := header{flags: t.flags}
	var rec record
	for body := w.buf[batchHeaderBytes:]; h.records < t.records && rec.decode(body) == nil; body = body[rec.size:] {
		h.add(body, rec.group)
	}
	h.records = t.records // also if it was written with one that is not well-formed
	t.from.live.Add(int64(t.length))
	defer t.from.live.Add(-int64(t.length))
	if !l.write(&h) {
		return false
	}
	l.applied = position{w.sequence, w.prevSum, w.prevLen, w.active.number, w.offset}
	return true
}

// close closes the files that did not become part of the log.
func (r *recovery) close() error {
	table := r.l.table.Load()
	return closeAll(slices.DeleteFunc(r.segments, func(s *segment) bool { return table.get(s.number) == s }))
}

func closeAll(segments []*segment) error {
	var errs []error
	for _, s := range segments {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}
