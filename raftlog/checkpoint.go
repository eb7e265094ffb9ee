package raftlog

import (
	"errors"
	"fmt"
	"strings"

	"multiraft/wire"
)

// A checkpoint is a copy of the index, so that Open scans only what was written
// after it. It is an optimisation: without it, or with a damaged one, all
// segments are scanned, to the same result.
//
//	┌────────┬───────┬───────┬─ … ─┬───────┬─────┐
//	│ header │ group │ group │     │ count │ sum │
//	└────────┴───────┴───────┴─ … ─┴───────┴─────┘
//
// The header says where to go on scanning. Groups are copied a few at a time
// while the log goes on, so each says up to which batch it is known; records of
// earlier batches are skipped for it.
//
//	 0      4    6    8       16        24       32       40            48
//	┌──────┬────┬────┬───────┬─────────┬────────┬────────┬─────────────┬───────────┬────┐
//	│magic │ v  │zero│ number│ sequence│ segment│ offset │previous sum │previous   │zero│
//	│      │    │    │       │         │        │        │             │length     │    │
//	└──────┴────┴────┴───────┴─────────┴────────┴────────┴─────────────┴───────────┴────┘
//
// A group is nine u64 (id, known sequence, term, vote, commit, compacted index
// and term, damaged segment and offset), eight u32 (the segments of its control
// records, flags, bytes of meta, blocks, runs), the meta blob, blocks of 24 bytes
// and runs of 16. count is the number of groups; sum covers all before it,
// seeded like a batch at (0, number).
const (
	checkpointMagic       = 0x31434c52
	checkpointVersion     = 1
	checkpointHeaderBytes = 56
	checkpointGroupBytes  = 9*8 + 8*4
	checkpointTailBytes   = 16
	checkpointBlockBytes  = 24
	checkpointRunBytes    = 16

	flagRemoved = 1
	flagDamaged = 2
	flagWounded = 4 // with flagDamaged; the compacted index and term are those of the wound

	// maxCheckpointBytes bounds what is read: 100 million blocks.
	maxCheckpointBytes = 4 << 30
	// checkpointPieceBytes is how much of it is copied and written at a time.
	checkpointPieceBytes = 256 << 10
	// checkpointSegments is how much log is written until the next checkpoint,
	// unless the last one was larger than that.
	checkpointSegments = 4
)

// position is the end of a batch, and what the next header says of it.
type position struct {
	sequence uint64
	prevSum  uint64
	prevLen  uint32
	segment  uint32
	offset   int64
}

// checkpointJob is a checkpoint that is being written.
type checkpointJob struct {
	newest uint64 // highest number there was
	have   uint64 // number of the last complete one, 0 when there is none
	size   int64  // of that

	file    File // nil when there is no job
	name    string
	start   position
	covered int64 // Log.upkeep.uncovered when it began
	groups  []*Group
	next    int
	count   uint64
	offset  int64
	sum     *hasher
	buf     []byte
}

func writeCheckpoint(l *Log) (bool, error) {
	j := &l.upkeep.checkpoint
	if j.file == nil {
		if l.upkeep.uncovered.Load() < max(checkpointSegments*l.o.SegmentBytes, j.size) {
			return false, nil
		}
		if err := j.begin(l); err != nil {
			return false, j.fail(l, err)
		}
	}
	done := j.copyGroups(l)
	if done {
		j.buf = le.AppendUint64(j.buf, j.count)
		_, _ = j.sum.digest.Write(j.buf) // has no error to give
		j.buf = le.AppendUint64(j.buf, j.sum.digest.Sum64())
	} else {
		_, _ = j.sum.digest.Write(j.buf) // neither has this
	}
	_, err := j.file.WriteAt(j.buf, j.offset)
	if err == nil && !l.o.NoSync {
		err = j.file.Sync()
	}
	if err != nil {
		return false, j.fail(l, err)
	}
	j.offset += int64(len(j.buf))
	j.buf = j.buf[:0]
	if !done {
		return true, nil
	}
	if err := j.finish(l); err != nil {
		return false, j.fail(l, err)
	}
	return true, nil
}

// begin notes where recovery will go on: what is copied later may include more,
// but not less.
func (j *checkpointJob) begin(l *Log) (err error) {
	j.name = l.o.numberedName(checkpointPrefix, j.newest+1)
	if j.file, err = l.o.FS.Create(j.name + temporarySuffix); err != nil {
		return err
	}
	l.applyMu.Lock()
	j.start = l.applied
	j.covered = l.upkeep.uncovered.Load()
	l.applyMu.Unlock()
	j.groups, j.next, j.count, j.offset = l.handles(), 0, 0, 0
	j.sum = newHasher(l.identity.UUID)
	j.sum.at(0, uint32(j.newest+1))

	b := le.AppendUint32(j.buf[:0], checkpointMagic)
	b = le.AppendUint16(b, checkpointVersion)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, j.newest+1)
	b = le.AppendUint64(b, j.start.sequence)
	b = le.AppendUint64(b, uint64(j.start.segment))
	b = le.AppendUint64(b, uint64(j.start.offset))
	b = le.AppendUint64(b, j.start.prevSum)
	b = le.AppendUint32(b, j.start.prevLen)
	j.buf = le.AppendUint32(b, 0)
	return nil
}

// copyGroups appends groups to the buffer until it holds a piece. It holds the
// index still for that long, so that no group is copied in the middle of a batch.
func (j *checkpointJob) copyGroups(l *Log) (done bool) {
	l.applyMu.Lock()
	defer l.applyMu.Unlock()
	for j.next < len(j.groups) {
		if len(j.buf) >= checkpointPieceBytes {
			return false
		}
		g := j.groups[j.next]
		j.next++
		if g.stored() {
			j.buf = g.appendCheckpoint(j.buf, l.applied.sequence)
			j.count++
		}
	}
	return true
}

func (j *checkpointJob) finish(l *Log) error {
	err := j.file.Close()
	j.file = nil
	if err != nil {
		return err
	}
	if err := l.o.FS.Rename(j.name+temporarySuffix, j.name); err != nil {
		return err
	}
	if !l.o.NoSync {
		if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
			return err
		}
	}
	old := j.have
	j.newest++
	j.have, j.size = j.newest, j.offset
	j.groups, j.buf = nil, nil
	l.upkeep.uncovered.Add(-j.covered)
	if old == 0 {
		return nil
	}
	return l.o.FS.Remove(l.o.numberedName(checkpointPrefix, old))
}

// fail gives up the job. The next one comes after as much log again.
func (j *checkpointJob) fail(l *Log, err error) error {
	l.upkeep.uncovered.Store(0)
	return errors.Join(fmt.Errorf("checkpoint: %w", err), j.drop(l))
}

// drop removes a checkpoint that is not complete.
func (j *checkpointJob) drop(l *Log) error {
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Close(), l.o.FS.Remove(j.name+temporarySuffix))
	j.file, j.groups, j.buf = nil, nil, nil
	return err
}

func (u *upkeep) close(l *Log) error { return u.checkpoint.drop(l) }

func (g *Group) appendCheckpoint(b []byte, known uint64) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	var damage CorruptionError
	flags := uint32(0)
	if g.removed {
		flags |= flagRemoved
	}
	if g.damaged {
		flags |= flagDamaged
		damage = *g.log.damageOf(g.id)
	}
	if g.wounded {
		flags |= flagWounded
	}
	for _, v := range [...]uint64{
		uint64(g.id), known, uint64(g.hard.Term), uint64(g.hard.Vote), uint64(g.hard.Commit),
		uint64(g.compacted), uint64(g.compactedTerm), damage.Segment, uint64(damage.Offset),
	} {
		b = le.AppendUint64(b, v)
	}
	for _, at := range g.at {
		b = le.AppendUint32(b, at)
	}
	for _, v := range [...]int{int(flags), len(g.meta), len(g.blocks), len(g.runs)} {
		b = le.AppendUint32(b, uint32(v))
	}
	b = append(b, g.meta...)
	for _, r := range g.blocks {
		b = le.AppendUint64(b, uint64(r.first))
		b = le.AppendUint32(b, r.segment)
		b = le.AppendUint32(b, r.offset)
		b = le.AppendUint32(b, r.size)
		b = le.AppendUint32(b, r.count)
	}
	for _, r := range g.runs {
		b = le.AppendUint64(b, uint64(r.first))
		b = le.AppendUint64(b, uint64(r.term))
	}
	return b
}

var errBadCheckpoint = errors.New("checkpoint is damaged")

// checkpoint is a decoded one. It borrows from the bytes.
type checkpoint struct {
	number uint64
	start  position
	groups []byte
	count  uint64
}

func (c *checkpoint) decode(b []byte, number uint64, hash *hasher) error {
	if len(b) < checkpointHeaderBytes+checkpointTailBytes || le.Uint32(b) != checkpointMagic {
		return errBadCheckpoint
	}
	end := len(b) - checkpointTailBytes
	if hash.sum(0, uint32(number), b[:end+8]) != le.Uint64(b[end+8:]) || le.Uint64(b[8:]) != number {
		return errBadCheckpoint
	}
	if v := le.Uint16(b[4:]); v != checkpointVersion {
		return fmt.Errorf("checkpoint version %d, want %d", v, checkpointVersion)
	}
	segment, offset := le.Uint64(b[24:]), le.Uint64(b[32:])
	if segment > 1<<32-1 || offset > maxSegmentFileBytes {
		return errBadCheckpoint
	}
	c.number = number
	c.start = position{
		sequence: le.Uint64(b[16:]), prevSum: le.Uint64(b[40:]), prevLen: le.Uint32(b[48:]),
		segment: uint32(segment), offset: int64(offset),
	}
	c.groups, c.count = b[checkpointHeaderBytes:end], le.Uint64(b[end:])
	return nil
}

// groupImage is a group in a checkpoint.
type groupImage struct {
	id    wire.GroupID
	known uint64
	at    CorruptionError
	state Group // only the fields that mu guards
}

// decode splits the first group off b.
func (m *groupImage) decode(b []byte) (rest []byte, err error) {
	if len(b) < checkpointGroupBytes {
		return nil, errBadCheckpoint
	}
	var v [9]uint64
	for i := range v {
		v[i] = le.Uint64(b[8*i:])
	}
	var n [8]uint32
	for i := range n {
		n[i] = le.Uint32(b[8*len(v)+4*i:])
	}
	b = b[checkpointGroupBytes:]
	flags, meta, blocks, runs := n[4], uint64(n[5]), uint64(n[6]), uint64(n[7])
	if uint64(len(b)) < meta+blocks*checkpointBlockBytes+runs*checkpointRunBytes {
		return nil, errBadCheckpoint
	}
	m.id, m.known = wire.GroupID(v[0]), v[1]
	m.at = CorruptionError{v[7], int64(v[8]), ErrLost}
	g := &m.state
	g.hard = wire.HardState{Term: wire.Term(v[2]), Vote: wire.ReplicaID(v[3]), Commit: wire.Index(v[4])}
	g.compacted, g.compactedTerm = wire.Index(v[5]), wire.Term(v[6])
	copy(g.at[:], n[:controlKinds])
	g.removed, g.damaged = flags&flagRemoved != 0, flags&flagDamaged != 0
	g.wounded = g.damaged && flags&flagWounded != 0
	g.meta, b = string(b[:meta]), b[meta:]
	g.blocks, g.runs = make([]blockRef, blocks), make([]termRun, runs)
	next := g.compacted
	for i := range g.blocks {
		r := blockRef{wire.Index(le.Uint64(b)), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:]), le.Uint32(b[20:])}
		if r.count == 0 || r.last() < r.first || r.last() <= next || i > 0 && r.first != next+1 || r.first > next+1 {
			return nil, errBadCheckpoint
		}
		g.blocks[i], next, b = r, r.last(), b[checkpointBlockBytes:]
	}
	for i := range g.runs {
		g.runs[i], b = termRun{wire.Index(le.Uint64(b)), wire.Term(le.Uint64(b[8:]))}, b[checkpointRunBytes:]
		if i > 0 && g.runs[i].first <= g.runs[i-1].first {
			return nil, errBadCheckpoint
		}
	}
	return b, nil
}

// loadCheckpoint takes over the newest checkpoint that can be used, and returns
// where the scan has to start.
func (r *recovery) loadCheckpoint() (place, error) {
	o := &r.l.o
	for i := len(r.checkpoints) - 1; i >= 0; i-- {
		number := r.checkpoints[i]
		name := o.numberedName(checkpointPrefix, number)
		r.l.upkeep.checkpoint.newest = max(r.l.upkeep.checkpoint.newest, number)
		if r.sequence != 0 {
			r.temporary = append(r.temporary, name) // a newer one is in use
			continue
		}
		b, err := readFile(o.FS, name)
		if err != nil {
			return place{}, err
		}
		if err := r.useCheckpoint(b, number); err != nil {
			o.Events.CheckpointSkipped(name, err)
			r.temporary = append(r.temporary, name)
			continue
		}
		r.l.upkeep.checkpoint.have, r.l.upkeep.checkpoint.size = number, int64(len(b))
	}
	err := r.checkEnd() // it may have moved
	if r.sequence == 0 {
		r.segment = r.oldest
	}
	return place{r.segment, r.offset}, err
}

// useCheckpoint takes a checkpoint over, completely or not at all.
func (r *recovery) useCheckpoint(b []byte, number uint64) error {
	var c checkpoint
	if err := c.decode(b, number, r.hash); err != nil {
		return err
	}
	r.proven = max(r.proven, c.start.sequence)
	r.chooseEnd()
	if r.newest == nil || c.start.segment < r.oldest || c.start.segment > r.newest.seg.number {
		return fmt.Errorf("checkpoint is of segment %d: %w", c.start.segment, ErrMissing)
	}
	var images []*groupImage
	for rest := c.groups; len(rest) > 0; {
		m := new(groupImage)
		var err error
		if rest, err = m.decode(rest); err != nil {
			return err
		}
		images = append(images, m)
	}
	if uint64(len(images)) != c.count {
		return errBadCheckpoint
	}
	r.known = make(map[wire.GroupID]uint64, len(images))
	for _, m := range images {
		g := r.l.Group(m.id)
		g.hard, g.meta, g.index, g.at = m.state.hard, m.state.meta, m.state.index, m.state.at
		g.removed, g.damaged, g.wounded = m.state.removed, m.state.damaged, m.state.wounded
		if g.damaged {
			r.l.setDamage(m.id, &m.at)
		}
		r.known[m.id] = m.known
	}
	r.position = c.start
	return nil
}

// readFile reads a file whose size is checked before.
func readFile(fsys FS, name string) (b []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	switch {
	case err != nil:
	case size > maxCheckpointBytes:
		err = fmt.Errorf("%s: %d bytes are too many", name, size)
	case size > 0:
		b = make([]byte, size)
		_, err = f.ReadAt(b, 0)
	}
	return b, errors.Join(err, f.Close())
}

// isTemporary reports whether a name is of a file that was not completed.
func isTemporary(base string) bool {
	base, ok := strings.CutSuffix(base, temporarySuffix)
	if !ok {
		return false
	}
	_, isSpare := parseName(base, sparePrefix)
	_, isCheckpoint := parseName(base, checkpointPrefix)
	return isSpare || isCheckpoint
}
