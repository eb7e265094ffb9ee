package vfs

import "slices"

// Source is where a crash takes its chances from. Seeded by the test.
type Source interface {
	Uint64() uint64
}

// CrashOptions say what a power cut does to what was not synced. The zero value
// keeps everything: what is left when only the process dies.
//
// Percentages are of sectors, each on its own; what is left of 100 is kept.
type CrashOptions struct {
	// Lost sectors hold what they held before one of the unsynced writes. A
	// size is lost with the same chance: the file has its synced size, or one
	// in between.
	Lost int
	// Torn sectors are part new and part old, cut at any byte.
	Torn int
	// Zeroed sectors were allocated and never written.
	Zeroed int
	// Garbage sectors hold what somebody else left there.
	Garbage int
	// Whole is the percentage of files that are not treated sector by sector,
	// but whose unsynced writes are all kept, all lost, or kept in order up to
	// one sector, which is torn. Real crashes mostly look like that; mixtures
	// seldom get as far.
	Whole int
	// EntriesLost is the percentage of unsynced creations, renames and removals
	// that did not happen, each on its own.
	EntriesLost int
}

// Crashes to choose from.
var (
	// ProcessDies keeps all that was written.
	ProcessDies = CrashOptions{}
	// AllLost keeps what was synced and nothing else.
	AllLost = CrashOptions{Lost: 100, EntriesLost: 100}
	// PowerFails does all that a sound disk may do: sectors are whole.
	PowerFails = CrashOptions{Lost: 30, Zeroed: 5, Whole: 60, EntriesLost: 50}
	// DiskFails adds what the worst of disks do.
	DiskFails = CrashOptions{Lost: 20, Torn: 10, Zeroed: 10, Garbage: 10, Whole: 40, EntriesLost: 50}
)

// Losses count what a crash took, so that a test can tell that it took anything.
type Losses struct {
	// Lost, Torn, Zeroed and Garbage are unsynced sectors, see [CrashOptions].
	Lost, Torn, Zeroed, Garbage int
	// Reordered are unsynced sectors that were kept though one that was written
	// before them, to the same file, was not.
	Reordered int
	// Sizes are files with another size than they had, Entries unsynced changes of
	// directories that did not happen.
	Sizes, Entries int
}

// Losses returns what the crash took that made this file system; nothing for one
// that was not made by CrashClone.
func (m *MemFS) Losses() Losses { return m.losses }

// CrashClone returns a file system in a state in which the disk may be after a
// power cut now. The original goes on as if nothing had happened. In the clone
// everything is durable, nothing is locked or open, and there is no hook.
func (m *MemFS) CrashClone(source Source, o CrashOptions) *MemFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &crash{source: source, options: o, clones: make(map[*inode]*inode)}
	clone := New(m.options)
	clone.root = c.dir(m.root, clone, "/")
	// The tree is walked in the order of names, so files are met in one order.
	for _, n := range c.order {
		clone.used += c.clones[n].size
	}
	clone.losses = c.losses
	return clone
}

// crash is one CrashClone under way.
type crash struct {
	source  Source
	options CrashOptions
	clones  map[*inode]*inode
	order   []*inode
	losses  Losses
}

// chance is true in percent of 100 calls. It takes nothing from the source when
// there is no choice, so that zero options leave it alone.
func (c *crash) chance(percent int) bool {
	if percent <= 0 {
		return false
	}
	return percent >= 100 || int(c.source.Uint64()%100) < percent
}

// below returns a number in [0, n).
func (c *crash) below(n int64) int64 { return int64(c.source.Uint64() % uint64(n)) }

// dir clones what survives of a directory and everything under it.
func (c *crash) dir(d *dir, into *MemFS, name string) *dir {
	entries := slices.Clone(d.durable)
	for _, op := range d.pending {
		if c.chance(c.options.EntriesLost) {
			c.losses.Entries++
			continue
		}
		op.apply(&entries)
	}
	clone := new(dir)
	into.dirs[name] = clone
	for i := range entries {
		e := &entries[i]
		if e.dir != nil {
			e.dir = c.dir(e.dir, into, join(name, e.base))
		} else {
			e.file = c.file(e.file)
			e.file.names++
		}
	}
	clone.visible, clone.durable = entries, slices.Clone(entries)
	return clone
}

// file clones what survives of a file. It may be met twice, when a rename from
// one directory to another was half kept.
func (c *crash) file(n *inode) *inode {
	if clone, ok := c.clones[n]; ok {
		return clone
	}
	clone := n.share()
	c.clones[n] = clone
	c.order = append(c.order, n)

	for i, old := range n.dropped { // order does not matter: each is its own sector
		clone.poke(old[:], i*SectorBytes)
	}
	c.sectors(n, clone)
	clone.size = c.size(n, clone)
	if clone.size != n.size {
		c.losses.Sizes++
	}
	clone.cut(clone.size)
	clone.durableSize, clone.minSize = clone.size, clone.size
	return clone
}

// sectors decides what each unsynced sector of n holds in clone.
func (c *crash) sectors(n, clone *inode) {
	if len(n.preSectors) == 0 {
		return
	}
	// The sectors in the order of their first write, and the pre-images of each.
	var order []int64
	versions := make(map[int64][]int)
	for k, i := range n.preSectors {
		if versions[i] == nil {
			order = append(order, i)
		}
		versions[i] = append(versions[i], k)
	}
	// kept is how many of order are kept; the one at kept is torn, and the rest
	// lost, when the file meets one fate.
	whole, kept := c.chance(c.options.Whole), int64(0)
	if whole {
		switch c.below(3) {
		case 0:
			return
		case 1:
			kept = -1
		case 2:
			kept = c.below(int64(len(order)))
		}
	}
	gone := false // one before the next was
	for k, i := range order {
		var sector [SectorBytes]byte
		copy(sector[:], n.sector(i))
		oldest := n.preImage(versions[i][0])
		if whole {
			switch {
			case int64(k) < kept:
				continue
			case int64(k) == kept && c.options.Torn > 0:
				c.tear(sector[:], oldest)
			default:
				c.losses.Lost++
				copy(sector[:], oldest)
			}
		} else if !c.fate(sector[:], n, versions[i]) {
			if gone {
				c.losses.Reordered++
			}
			continue
		}
		gone = true
		clone.poke(sector[:], i*SectorBytes)
	}
}

// fate changes a sector as the options have it and says whether it did.
func (c *crash) fate(sector []byte, n *inode, versions []int) bool {
	old := func() []byte { return n.preImage(versions[c.below(int64(len(versions)))]) }
	o := &c.options
	if o.Lost >= 100 { // all, so the oldest: a crash before the first write-back
		c.losses.Lost++
		copy(sector, n.preImage(versions[0]))
		return true
	}
	if o.Lost+o.Torn+o.Zeroed+o.Garbage <= 0 {
		return false
	}
	roll := int(c.below(100))
	if roll -= o.Lost; roll < 0 {
		c.losses.Lost++
		copy(sector, old())
		return true
	}
	if roll -= o.Torn; roll < 0 {
		c.tear(sector, old())
		return true
	}
	if roll -= o.Zeroed; roll < 0 {
		c.losses.Zeroed++
		clear(sector)
		return true
	}
	if roll -= o.Garbage; roll < 0 {
		c.losses.Garbage++
		for i := range sector {
			sector[i] = byte(c.source.Uint64())
		}
		return true
	}
	return false
}

// tear puts old in place of one end of sector, from any byte.
func (c *crash) tear(sector, old []byte) {
	c.losses.Torn++
	cut := c.below(SectorBytes + 1)
	if c.below(2) == 0 {
		copy(sector[cut:], old[cut:])
	} else {
		copy(sector[:cut], old[:cut])
	}
}

// size decides the size of n's clone.
func (c *crash) size(n, clone *inode) int64 {
	if n.size == n.durableSize && n.minSize == n.size || !c.chance(c.options.Lost) {
		return n.size
	}
	if c.options.Lost < 100 && n.size > n.minSize && c.below(2) == 0 {
		return n.minSize + c.below(n.size-n.minSize+1)
	}
	if n.minSize < n.durableSize {
		// A truncation did not happen: what it cut off is still there, and what
		// was written behind it after that is not, as it came later.
		for k := len(n.preSectors) - 1; k >= 0; k-- { // the first pre-image wins
			if i := n.preSectors[k]; (i+1)*SectorBytes > n.minSize {
				at := max(i*SectorBytes, n.minSize)
				clone.poke(n.preImage(k)[at-i*SectorBytes:], at)
			}
		}
	}
	return n.durableSize
}
