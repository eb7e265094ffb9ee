package sim

import (
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"multiraft/engine"
	"multiraft/internal/snapfile"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/wire"
)

// Rot is what a disk does to bytes that it has promised to keep: it flips some, it
// never wrote them though it said that it had, or it wrote them to another place. It
// strikes what the log can prove to have been durable, as a later write was synced
// behind it. The last write is spared: that it is not what was acknowledged cannot be
// told from a torn one (see docs/log-format.md).
//
// A disk that rots is replaced some time later, or kept where stores repair
// themselves, and no other disk is lost until then.
// Meanwhile its store may refuse to open, and replicas on it may stop and say that
// they are damaged. All others go on, and whatever is served must be right.

// written is a write to a segment.
type written struct {
	name   string
	offset int64
	before []byte // what was there
	length int
	synced bool
}

// maxWritten bounds the writes that are remembered.
const maxWritten = 24

const (
	storeDir     = "/store"
	snapshotsDir = storeDir + "/snapshots"
	segmentFile  = "segment-"
)

// remember keeps what a call to the disk is about to do to segments.
func (v *volume) remember(op vfs.Op) {
	if !v.site.c.shape.rots() {
		return
	}
	if op.Kind == vfs.OpRename {
		v.renamed(op.Name, op.To)
		return
	}
	if name, ok := v.names[op.Name]; ok && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpSync || op.Kind == vfs.OpTruncate) {
		op.Name = name // an open file goes by the name that it was opened under
	}
	if !strings.HasPrefix(path.Base(op.Name), segmentFile) {
		return
	}
	switch op.Kind {
	case vfs.OpWrite:
		w := written{name: op.Name, offset: op.Offset, length: int(op.Length), before: make([]byte, op.Length)}
		v.Peek(op.Name, w.before, op.Offset)
		if len(v.writes) == maxWritten {
			v.writes = append(v.writes[:0], v.writes[1:]...)
		}
		v.writes = append(v.writes, w)
	case vfs.OpSync:
		for i := range v.writes {
			v.writes[i].synced = v.writes[i].synced || v.writes[i].name == op.Name
		}
	case vfs.OpRemove, vfs.OpCreate, vfs.OpTruncate:
		v.forgetWrites(func(w *written) bool { return w.name == op.Name })
	}
}

// renamed keeps under which name files are found that were opened under another one
// in this life.
func (v *volume) renamed(from, to string) {
	for opened, name := range v.names { // each by itself, so in any order
		if name == from {
			v.names[opened] = to
		}
	}
	v.names[from] = to
	v.forgetWrites(func(w *written) bool { return w.name == from || w.name == to })
}

func (v *volume) forgetWrites(which func(*written) bool) {
	left := v.writes[:0]
	for i := range v.writes {
		if !which(&v.writes[i]) {
			left = append(left, v.writes[i])
		}
	}
	clear(v.writes[len(left):])
	v.writes = left
}

// proven returns the writes behind which another one was synced.
func (v *volume) proven() []written {
	last := -1
	for i := range v.writes {
		if v.writes[i].synced {
			last = i
		}
	}
	var list []written
	for i := range max(last, 0) {
		if v.writes[i].synced {
			list = append(list, v.writes[i])
		}
	}
	return list
}

// sound are the bytes of a proven write that no other one has written to since: what
// overlaps one that is not proven is spared with it.
func (v *volume) spares(name string, offset, end int64) bool {
	proven := v.proven()
	for i := range v.writes {
		w := &v.writes[i]
		if i >= len(v.writes)-1 || !w.synced {
			if w.name == name && offset < w.offset+int64(w.length) && w.offset < end {
				return true
			}
		}
	}
	return len(proven) == 0
}

// rots says whether disks of this run do.
func (s *shape) rots() bool {
	return s.weights[faultRot]+s.weights[faultLostWrite]+s.weights[faultMisdirect] > 0
}

// rot makes a disk that a cluster can do without rot in one way, and has it replaced
// some time later.
func (s *site) rot(k faultKind, lasts time.Duration) {
	c := s.c
	struck := s.spoil(k)
	for range pick(c.faults, 0, 0, 1, 4) { // it seldom comes alone
		struck = s.spoil(pick(c.faults, faultRot, faultRot, faultLostWrite, faultMisdirect)) || struck
	}
	if !struck {
		return
	}
	c.lose(s)
	s.rotten = true
	if c.faults.chance(0.6) {
		c.later(c.faults.between(0, lasts/2), func() {
			switch {
			case !s.rotten || s.store == nil:
			case c.shape.repairs && c.repairs.chance(0.5):
				c.powerCut() // who finds out what was lost meets elections
			default:
				c.count(crashes)
				s.crash(s.crashOptions())
			}
		})
	}
	c.later(lasts, func() {
		if c.shape.repairs && (c.calm || c.repairs.chance(0.5)) {
			c.count(disksKept)
			return
		}
		s.replaceDisk()
	})
}

// spoil strikes what is on the disk once. It returns false when there was nothing.
func (s *site) spoil(k faultKind) bool {
	switch k {
	case faultRot:
		return s.flipBits()
	case faultLostWrite:
		return s.loseWrite(false)
	}
	return s.loseWrite(true)
}

// replaceDisk puts an empty disk in place of one that rots.
func (s *site) replaceDisk() {
	if s.rotten {
		s.wipe()
		s.openLater()
	}
}

// files returns what is on the disk and may rot.
func (s *site) files() (list []string) {
	for _, dir := range [...]string{storeDir, snapshotsDir} {
		names, err := s.volume.List(dir)
		if err != nil {
			continue // not made yet
		}
		for _, name := range names {
			if base := path.Join(dir, name); base != snapshotsDir && !strings.HasSuffix(base, "lock") {
				list = append(list, base)
			}
		}
	}
	return list
}

// flipBits flips bits of a few bytes of a file, of a segment or another one.
func (s *site) flipBits() bool {
	c, r := s.c, s.c.faults
	if r.chance(0.1) {
		return s.spoilIdentity()
	}
	name, lo, hi := "", int64(0), int64(0)
	if proven := s.volume.proven(); len(proven) > 0 && r.chance(0.3) {
		w := &proven[r.IntN(len(proven))]
		name, lo, hi = w.name, w.offset, w.offset+int64(w.length)
	} else if files := s.files(); len(files) > 0 {
		if snapshots := slices.DeleteFunc(slices.Clone(files), func(file string) bool { return path.Dir(file) != snapshotsDir }); len(snapshots) > 0 && r.chance(0.7) {
			return s.flipInAll(snapshots)
		}
		name = files[r.IntN(len(files))]
		hi = s.volume.FileSize(name)
	}
	if hi <= lo {
		return false
	}
	newest := strings.HasPrefix(path.Base(name), segmentFile) && s.isNewest(name)
	flipped := false
	for range pick(r, 1, 1, 3, 20) {
		offset := lo + r.Int64N(hi-lo)
		if newest && !s.isProven(name, offset) {
			continue
		}
		if s.volume.FlipBit(name, offset, uint(r.IntN(8))) == nil {
			c.note("a bit of %s at %d flips on the disk of store %d", name, offset, s.at+1)
			c.count(bitsFlipped)
			flipped = true
			s.nameless = s.nameless || strings.HasPrefix(path.Base(name), "identity-")
		}
	}
	return flipped
}

// flipInAll flips a bit in each file, mostly of what is between head and end.
func (s *site) flipInAll(files []string) (flipped bool) {
	for _, name := range files {
		size, r := s.volume.FileSize(name), s.c.faults
		if size == 0 {
			continue
		}
		offset := r.Int64N(size)
		if r.chance(0.7) {
			offset = size/3 + offset/2
		}
		if s.volume.FlipBit(name, offset, uint(r.IntN(8))) == nil {
			s.c.note("a bit of %s at %d flips on the disk of store %d", name, offset, s.at+1)
			s.c.count(bitsFlipped)
			flipped = true
		}
	}
	return flipped
}

// spoilIdentity flips a bit in both copies of the identity. No store opens without.
func (s *site) spoilIdentity() bool {
	names := [...]string{storeDir + "/identity-a", storeDir + "/identity-b"}
	sizes := [...]int64{s.volume.FileSize(names[0]), s.volume.FileSize(names[1])}
	if sizes[0] == 0 || sizes[1] == 0 {
		return false
	}
	for i, name := range names {
		if s.volume.FlipBit(name, s.c.faults.Int64N(sizes[i]), 0) != nil {
			return false
		}
		s.c.count(bitsFlipped)
	}
	s.c.note("the identity on the disk of store %d is spoilt", s.at+1)
	s.nameless = true
	return true
}

// isNewest says whether no segment has a higher number: names are in their order.
func (s *site) isNewest(name string) bool {
	newest := ""
	for _, file := range s.files() {
		if strings.HasPrefix(path.Base(file), segmentFile) {
			newest = max(newest, file)
		}
	}
	return name == newest
}

// isProven says whether a byte is of a proven write, and of no later one.
func (s *site) isProven(name string, offset int64) bool {
	return s.covers(s.volume.proven(), name, offset) && !s.volume.spares(name, offset, offset+1)
}

func (s *site) covers(list []written, name string, offset int64) bool {
	for i := range list {
		if w := &list[i]; w.name == name && w.offset <= offset && offset < w.offset+int64(w.length) {
			return true
		}
	}
	return false
}

// loseWrite undoes a write that was synced: the disk never did it. A misdirected one
// is found at the place of another, instead of it.
func (s *site) loseWrite(misdirected bool) bool {
	c, r, v := s.c, s.c.faults, s.volume
	proven := v.proven()
	if len(proven) == 0 {
		return false
	}
	w := &proven[r.IntN(len(proven))]
	end := w.offset + int64(w.length)
	if v.spares(w.name, w.offset, end) {
		return false
	}
	content := make([]byte, w.length)
	if n := v.Peek(w.name, content, w.offset); n < w.length || v.Spoil(w.name, w.offset, w.before) != nil {
		return false
	}
	c.note("the disk of store %d loses a write to %s at %d of %d bytes", s.at+1, w.name, w.offset, w.length)
	if !misdirected {
		c.count(writesLost)
		return true
	}
	c.count(writesMisdirected)
	other := &proven[r.IntN(len(proven))]
	at := other.offset + vfs.SectorBytes*r.Int64N(3)
	content = content[:max(0, min(int64(len(content)), v.FileSize(other.name)-at))]
	if !v.spares(other.name, at, at+int64(len(content))) && s.within(proven, other.name, at, at+int64(len(content))) && v.Spoil(other.name, at, content) == nil {
		c.note("it is at %d of %s", at, other.name)
	}
	return true
}

// within says whether all of a range is of proven writes.
func (s *site) within(list []written, name string, from, to int64) bool {
	for offset := from; offset < to; offset += vfs.SectorBytes / 2 {
		if !s.covers(list, name, offset) {
			return false
		}
	}
	return to <= from || s.covers(list, name, to-1)
}

// excuses says whether an error is what a disk that rots is to lead to.
func (s *site) excuses(err error) bool {
	if damage := new(engine.RepairingError); s.mayLack() && errors.As(err, &damage) {
		return true
	}
	if !s.rotten {
		return false
	}
	var (
		corruption *raftlog.CorruptionError
		snapshot   *engine.SnapshotError
		damage     *snapfile.DamageError
	)
	return errors.As(err, &corruption) || errors.As(err, &snapshot) || errors.As(err, &damage)
}

// ails notes that a replica says that it is damaged, once.
func (s *site) ails(g int, replica wire.ReplicaID, err error) {
	if c := s.c; !s.damaged[g] {
		s.damaged[g] = true
		c.count(replicasDamaged)
		c.note("group %d: replica %d on store %d is damaged: %v", groupID(g), replica, s.at+1, err)
	}
}
