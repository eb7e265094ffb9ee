package vfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// StateOptions bound what [MemFS.States] goes through. What is beyond a bound
// is met with patterns, listed there.
type StateOptions struct {
	// Combined is how many unsynced sectors a file may have so that everything
	// that each of them may hold is combined with everything that the others
	// may.
	Combined int
	// Entries is how many unsynced changes of directories are lost and kept in
	// all combinations.
	Entries int
}

// States visits the states in which the disk may be after a power cut now.
// Where CrashClone rolls dice, it goes through what may be, in an order that
// depends on nothing but the calls made so far.
//
//	unsynced changes of directories ── every subset, or patterns ──┐
//	one file with unsynced sectors ─── every fate ─────────────────┼─▶ State
//	the other files ────────────────── each kept whole, or lost ───┘
//
// A sector is what was written, any version that it had before an unsynced
// write, zeros or noise. The fates of a file with at most Combined unsynced
// sectors are all combinations of these. With more: all kept before any sector
// and all alike behind it, or the other way round; any one sector and any two,
// if there are not too many of them. On top of that any one sector is torn in
// its middle, has one wrong bit, or holds what belongs in front of it, while
// those behind it are kept or not. A size that is not synced is the one before,
// the one after, or one in between.
//
// States may be equal; [State.Sum] tells. Nothing else may change m until States
// returns, and a State is valid during its visit only.
func (m *MemFS) States(o StateOptions, visit func(*State)) {
	m.mu.Lock()
	sp := m.space()
	m.mu.Unlock()
	sp.subsets(o.Entries, func(kept []bool) {
		s := &State{space: sp, kept: kept}
		s.build()
		s.visitFiles(o, visit)
	})
}

// State is one state that [MemFS.States] has come to.
type State struct {
	space *space
	kept  []bool // of space.ops
	names []stateName
	dirs  []string

	// The file that meets all its fates, nil when none is unsynced, and its fate.
	file *spaceFile
	fate fate
	// lost are the other files that lose everything that is not synced.
	lost map[*spaceFile]bool

	rest uint64 // the sum of all names but those of file
}

// stateName is a file of the state.
type stateName struct {
	path string
	sum  uint64 // of path
	file *spaceFile
}

// space is everything that is not synced at one moment.
type space struct {
	fs    *MemFS
	ops   []spaceOp
	files map[*inode]*spaceFile
}

// spaceOp is an unsynced change of a directory.
type spaceOp struct {
	dir *dir
	op  entryOp
}

// spaceFile is a file and what a power cut may make of it.
type spaceFile struct {
	node    *inode
	base    *inode // node without sectors whose write-back failed: these are lost for certain
	sum     uint64 // of base
	lostSum uint64 // when everything unsynced is lost
	sectors []dirtySector
}

// dirtySector is an unsynced sector in front of the end of its file.
type dirtySector struct {
	index int64
	sum   uint64 // as it is
	// common are the contents that are combined, the durable one first; rare
	// are those met one at a time.
	common, rare []holding
}

// holding is what a sector may hold instead of what was written.
type holding struct {
	what  string
	bytes []byte
	sum   uint64
}

// fate is what becomes of one file.
type fate struct {
	lost    bool // all that is not synced; the rest does not count then
	undone  bool // a truncation: the file has its synced size, and what was cut off
	size    int64
	changes []sectorChange
}

// sectorChange gives a sector, by its place in sectors, another content.
type sectorChange struct {
	sector int
	to     *holding
}

func (m *MemFS) space() *space {
	sp := &space{fs: m, files: make(map[*inode]*spaceFile)}
	for _, name := range slices.Sorted(maps.Keys(m.dirs)) {
		for _, op := range m.dirs[name].pending {
			sp.ops = append(sp.ops, spaceOp{m.dirs[name], op})
		}
	}
	return sp
}

// file returns what is known of a file, looking at it when it is met first.
func (sp *space) file(n *inode) *spaceFile {
	if f := sp.files[n]; f != nil {
		return f
	}
	f := &spaceFile{node: n, base: n}
	sp.files[n] = f
	if len(n.dropped) > 0 {
		f.base = n.share()
		for i, old := range n.dropped { // order does not matter: each is its own sector
			f.base.poke(old[:], i*SectorBytes)
		}
		f.base.cut(n.size)
	}
	f.sum = f.base.sum()
	f.lostSum = f.sum
	if !f.unsynced() {
		return f
	}
	f.lostSum = f.with(fate{lost: true}).sum()
	versions := make(map[int64][]int)
	for k, i := range n.preSectors {
		if i*SectorBytes < n.size {
			if versions[i] == nil {
				f.sectors = append(f.sectors, dirtySector{index: i})
			}
			versions[i] = append(versions[i], k)
		}
	}
	for k := range f.sectors {
		f.sectors[k].fill(n, versions[f.sectors[k].index])
	}
	return f
}

func (f *spaceFile) unsynced() bool {
	n := f.node
	return len(n.preSectors) > 0 || n.size != n.durableSize || n.minSize != n.size
}

// fill finds all that the sector may hold.
func (d *dirtySector) fill(n *inode, versions []int) {
	now := n.sector(d.index)
	valid := min(SectorBytes, n.size-d.index*SectorBytes) // the rest is behind the end
	d.sum = n.sectorSum(d.index)
	seen := [][]byte{now}
	add := func(to *[]holding, what string, b []byte) {
		b = bytes.Clone(b)
		clear(b[valid:])
		if slices.ContainsFunc(seen, func(s []byte) bool { return bytes.Equal(s, b) }) {
			return
		}
		seen = append(seen, b)
		*to = append(*to, holding{what, b, sectorSum(d.index, b)})
	}
	for _, k := range versions {
		add(&d.common, "old", n.preImage(k))
	}
	old := n.preImage(versions[0])
	add(&d.common, "zeros", zeroChunk[:])
	add(&d.common, "noise", noise(d.index))

	mixed := make([]byte, SectorBytes)
	for _, cut := range tears {
		if cut < valid {
			copy(mixed, now)
			copy(mixed[cut:], old[cut:])
			add(&d.rare, fmt.Sprintf("old from byte %d", cut), mixed)
			copy(mixed, now)
			copy(mixed, old[:cut])
			add(&d.rare, fmt.Sprintf("old up to byte %d", cut), mixed)
		}
	}
	copy(mixed, now)
	mixed[xxhash.Sum64(now)%uint64(valid)] ^= 0x10
	add(&d.rare, "one wrong bit", mixed)
	if d.index > 0 {
		add(&d.rare, "a copy of the sector before", n.sector(d.index-1))
	}
}

// tears are where sectors are torn: in a header, behind one, in what follows.
var tears = [...]int64{20, 64, 88, 152, 256, 504}

// noise is what was never written by anybody, the same for each sector.
func noise(index int64) []byte {
	b := make([]byte, SectorBytes)
	x := uint64(index)*0x9e3779b97f4a7c15 + 1
	for i := 0; i < len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return b
}

// subsets visits what may become of the directory changes: true for one that is
// kept.
func (sp *space) subsets(most int, visit func(kept []bool)) {
	n := len(sp.ops)
	set := func(keep func(i int) bool) {
		kept := make([]bool, n)
		for i := range kept {
			kept[i] = keep(i)
		}
		visit(kept)
	}
	if n <= most {
		for mask := range uint64(1) << n {
			set(func(i int) bool { return mask>>i&1 == 0 })
		}
		return
	}
	for k := range n + 1 { // a prefix
		set(func(i int) bool { return i < k })
	}
	for k := range n - 1 { // all but one
		set(func(i int) bool { return i != k })
	}
	for k := 1; k < n; k++ { // only one
		set(func(i int) bool { return i == k })
	}
}

// build finds the names there are when the changes kept are.
func (s *State) build() {
	s.walk(s.space.fs.root, "/")
}

func (s *State) walk(d *dir, path string) {
	s.dirs = append(s.dirs, path)
	entries := slices.Clone(d.durable)
	for i, op := range s.space.ops {
		if op.dir == d && s.kept[i] {
			op.op.apply(&entries)
		}
	}
	for _, e := range entries {
		name := join(path, e.base)
		if e.dir != nil {
			s.walk(e.dir, name)
		} else {
			s.names = append(s.names, stateName{name, xxhash.Sum64String(name), s.space.file(e.file)})
		}
	}
}

// visitFiles lets each unsynced file meet all its fates, with every combination
// of the others being kept and lost.
func (s *State) visitFiles(o StateOptions, visit func(*State)) {
	var dirty []*spaceFile
	for _, name := range s.names {
		if name.file.unsynced() && !slices.Contains(dirty, name.file) {
			dirty = append(dirty, name.file)
		}
	}
	if len(dirty) == 0 {
		s.sumRest()
		visit(s)
		return
	}
	for k, f := range dirty {
		others := slices.Delete(slices.Clone(dirty), k, k+1)
		for mask := range uint64(1) << min(len(others), maxOthers) {
			s.file, s.lost = f, make(map[*spaceFile]bool)
			for i, other := range others {
				s.lost[other] = mask>>min(i, maxOthers-1)&1 != 0
			}
			s.sumRest()
			f.each(o.Combined, func(fate fate) {
				s.fate = fate
				visit(s)
			})
		}
	}
}

// maxOthers bounds the combinations of files kept and lost as a whole; those
// beyond share the fate of the last.
const maxOthers = 4

// each visits the fates of a file.
func (f *spaceFile) each(combined int, visit func(fate)) {
	n := f.node
	var changes []sectorChange
	emit := func() {
		visit(fate{size: n.size, changes: changes})
		if n.minSize < n.durableSize {
			visit(fate{undone: true, changes: changes})
		}
	}
	visit(fate{lost: true})
	if n.size > n.minSize {
		// Sizes in between, with all that is in front of them.
		for size := n.minSize; size < n.size; size = (size/SectorBytes + 1) * SectorBytes {
			visit(fate{size: size})
			if size+100 < n.size {
				visit(fate{size: size + 100})
			}
		}
	}
	if len(f.sectors) <= combined {
		f.combine(0, &changes, emit)
	} else {
		f.patterns(&changes, emit)
	}
	// One sector is neither old nor new.
	for k := range f.sectors {
		for i := range f.sectors[k].rare {
			changes = append(changes[:0], sectorChange{k, &f.sectors[k].rare[i]})
			emit()
			for j := k + 1; j < len(f.sectors); j++ {
				if d := &f.sectors[j]; len(d.common) > 0 {
					changes = append(changes, sectorChange{j, &d.common[0]})
				}
			}
			if len(changes) > 1 {
				emit()
			}
		}
	}
}

// combine visits all combinations of the common contents from sector k on.
func (f *spaceFile) combine(k int, changes *[]sectorChange, emit func()) {
	if k == len(f.sectors) {
		emit()
		return
	}
	f.combine(k+1, changes, emit)
	for i := range f.sectors[k].common {
		*changes = append(*changes, sectorChange{k, &f.sectors[k].common[i]})
		f.combine(k+1, changes, emit)
		*changes = (*changes)[:len(*changes)-1]
	}
}

// maxPairs is how many sectors may be changed by twos in all ways.
const maxPairs = 16

// patterns visits what is tried where all combinations are too many.
func (f *spaceFile) patterns(changes *[]sectorChange, emit func()) {
	n := len(f.sectors)
	run := func(lo, hi, kind int) {
		*changes = (*changes)[:0]
		for k := lo; k < hi; k++ {
			if c := f.sectors[k].common; len(c) > 0 {
				*changes = append(*changes, sectorChange{k, &c[min(kind, len(c)-1)]})
			}
		}
		emit()
	}
	run(0, 0, 0)
	for kind := range 3 {
		for k := range n {
			run(k, n, kind)
			run(0, k+1, kind)
		}
	}
	for i := range n {
		for a := range f.sectors[i].common {
			*changes = append((*changes)[:0], sectorChange{i, &f.sectors[i].common[a]})
			emit()
			for j := i + 1; j < n; j++ {
				if n > maxPairs && j > i+1 && j < n-1 && i > 0 {
					continue // neighbours, and any with the first and the last
				}
				for b := range f.sectors[j].common {
					*changes = append((*changes)[:1], sectorChange{j, &f.sectors[j].common[b]})
					emit()
				}
			}
		}
	}
}

// with returns the file as a fate leaves it.
func (f *spaceFile) with(fate fate) *inode {
	n := f.base.share()
	for _, c := range fate.changes {
		n.poke(c.to.bytes, f.sectors[c.sector].index*SectorBytes)
	}
	switch {
	case fate.lost:
		f.restore(n, 0)
		n.setSize(f.node.durableSize)
	case fate.undone:
		// What was written behind the cut came later, so it is lost as well.
		f.restore(n, f.node.minSize)
		n.setSize(f.node.durableSize)
	case fate.size != n.size:
		n.setSize(fate.size)
	}
	return n
}

// restore gives sectors of n from an offset on what was synced.
func (f *spaceFile) restore(n *inode, from int64) {
	for k := len(f.node.preSectors) - 1; k >= 0; k-- { // the first pre-image wins
		i := f.node.preSectors[k]
		if at := max(i*SectorBytes, from); at < (i+1)*SectorBytes {
			n.poke(f.node.preImage(k)[at-i*SectorBytes:], at)
		}
	}
}

// setSize gives a file of which all is durable another size.
func (n *inode) setSize(size int64) {
	n.size, n.durableSize, n.minSize = size, size, size
	n.cut(size)
}

// fateSum is with(fate).sum(), mostly without making the file.
func (f *spaceFile) fateSum(fate fate) uint64 {
	switch {
	case fate.lost:
		return f.lostSum
	case fate.undone || fate.size != f.node.size:
		return f.with(fate).sum()
	}
	sum := f.sum
	for _, c := range fate.changes {
		sum += c.to.sum - f.sectors[c.sector].sum
	}
	return sum
}

// sum adds up what is in a file. Sectors count for themselves, so that one that
// changes is a subtraction and an addition.
func (n *inode) sum() uint64 {
	sum := uint64(n.size) * 0x9e3779b97f4a7c15
	for i := range n.chunks {
		sum += n.sectorSum(int64(i))
	}
	return sum
}

// sectorSum is zero for zeros, which need not be stored.
func sectorSum(index int64, b []byte) uint64 {
	if bytes.Equal(b, zeroChunk[:]) {
		return 0
	}
	return mix(uint64(index)+1, xxhash.Sum64(b))
}

// mix makes one number of two.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xd6e8feb86659fd93)
	return hi ^ lo ^ bits.RotateLeft64(b, 29)
}

// sumRest adds up the names of files whose fate is settled.
func (s *State) sumRest() {
	s.rest = 0
	for _, path := range s.dirs {
		s.rest += xxhash.Sum64String(path)
	}
	for _, name := range s.names {
		if name.file == s.file {
			continue
		}
		sum := name.file.sum
		if s.lost[name.file] {
			sum = name.file.lostSum
		}
		s.rest += mix(name.sum, sum)
	}
}

// Sum is a checksum of everything in the state: names, sizes and contents. It
// costs about as much as a call to a file.
func (s *State) Sum() uint64 {
	if s.file == nil {
		return s.rest
	}
	sum, file := s.rest, s.file.fateSum(s.fate)
	for _, name := range s.names {
		if name.file == s.file {
			sum += mix(name.sum, file)
		}
	}
	return sum
}

// Clone returns the state as a file system of its own, like CrashClone.
func (s *State) Clone() *MemFS {
	m := New(s.space.fs.options)
	for _, path := range s.dirs {
		// Parents come before what is in them.
		if parent, base := cutBase(path); base != "" {
			d := &dir{visible: make(names, 0, len(s.names))}
			m.dirs[path] = d
			m.dirs[parent].visible.set(base, entry{dir: d})
		}
	}
	var made map[*spaceFile]*inode // of files with two names
	for i, name := range s.names {
		n := made[name.file]
		if n == nil {
			switch {
			case name.file == s.file:
				n = name.file.with(s.fate)
			case s.lost[name.file]:
				n = name.file.with(fate{lost: true})
			default:
				n = name.file.base.share()
			}
			m.used += n.size
			if slices.ContainsFunc(s.names[i+1:], func(o stateName) bool { return o.file == name.file }) {
				if made == nil {
					made = make(map[*spaceFile]*inode)
				}
				made[name.file] = n
			}
		}
		n.names++
		parent, base := cutBase(name.path)
		m.dirs[parent].visible.set(base, entry{file: n})
	}
	for _, d := range m.dirs { // order does not matter: each is its own
		d.durable = slices.Clone(d.visible)
	}
	return m
}

// cutBase splits a clean path into directory and name; "/" has none.
func cutBase(path string) (parent, base string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 1)], path[i+1:]
}

// String says what the power cut did.
func (s *State) String() string {
	var b strings.Builder
	for i, op := range s.space.ops {
		if s.kept[i] {
			continue
		}
		switch {
		case op.op.from == "":
			fmt.Fprintf(&b, "creation of %s lost; ", op.op.to)
		case op.op.to == "":
			fmt.Fprintf(&b, "removal of %s lost; ", op.op.from)
		default:
			fmt.Fprintf(&b, "renaming of %s to %s lost; ", op.op.from, op.op.to)
		}
	}
	for _, name := range s.names {
		switch f := name.file; {
		case !f.unsynced():
		case s.lost[f] || f == s.file && s.fate.lost:
			fmt.Fprintf(&b, "%s as it was synced; ", name.path)
		case f == s.file:
			if s.fate.undone {
				fmt.Fprintf(&b, "truncation of %s lost; ", name.path)
			} else if s.fate.size != f.node.size {
				fmt.Fprintf(&b, "%s: %d of %d bytes; ", name.path, s.fate.size, f.node.size)
			}
			for _, c := range s.fate.changes {
				fmt.Fprintf(&b, "%s: sector %d is %s; ", name.path, f.sectors[c.sector].index, c.to.what)
			}
		}
	}
	if b.Len() == 0 {
		return "everything kept"
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// Fork returns what the next process finds when the one that uses m dies: all
// that was written can be read, what was not synced is not durable either, and
// nothing is locked or open. The original goes on as if nothing had happened.
func (m *MemFS) Fork() *MemFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &fork{inodes: make(map[*inode]*inode), dirs: make(map[*dir]*dir)}
	c := New(m.options)
	c.used, c.root = m.used, f.dir(m.root)
	clear(c.dirs)
	for name, d := range m.dirs { // order does not matter: each is its own
		c.dirs[name] = f.dir(d)
	}
	return c
}

// fork is one Fork under way.
type fork struct {
	inodes map[*inode]*inode
	dirs   map[*dir]*dir
}

func (f *fork) dir(d *dir) *dir {
	c := f.dirs[d]
	if c != nil {
		return c
	}
	c = &dir{visible: slices.Clone(d.visible), durable: slices.Clone(d.durable)}
	f.dirs[d] = c
	for _, entries := range [...]names{c.visible, c.durable} {
		for i := range entries {
			entries[i].entry = f.entry(entries[i].entry)
		}
	}
	for _, op := range d.pending {
		op.e = f.entry(op.e)
		c.pending = append(c.pending, op)
	}
	return c
}

func (f *fork) entry(e entry) entry {
	if e.dir != nil {
		return entry{dir: f.dir(e.dir)}
	}
	if e.file == nil {
		return e
	}
	n := f.inodes[e.file]
	if n == nil {
		n = e.file.share()
		f.inodes[e.file] = n
		from := e.file
		n.names = from.names
		n.preSectors, n.preChunks = slices.Clone(from.preSectors), slices.Clone(from.preChunks)
		n.dirty, n.extra = slices.Clone(from.dirty), from.extra
		n.durableSize, n.minSize = from.durableSize, from.minSize
		n.dropped = maps.Clone(from.dropped)
	}
	return entry{file: n}
}

// Sums returns a checksum of each file in a directory, by base name.
func (m *MemFS) Sums(dir string) map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	sums := make(map[string]uint64)
	if d := m.dirs[clean(dir)]; d != nil {
		for _, e := range d.visible {
			if e.file != nil {
				sums[e.base] = e.file.sum()
			}
		}
	}
	return sums
}
