package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"multiraft/raftlog"
)

// history is what a plain oracle knows of one file: its content when it was
// last synced, and after every change since.
type history struct {
	file   raftlog.File
	states [][]byte // the first is durable
}

func (h *history) now() []byte { return h.states[len(h.states)-1] }

// change makes one random change and notes what the file holds then.
func (h *history) change(t *testing.T, rng *rand.Rand) {
	state := slices.Clone(h.now())
	switch rng.IntN(8) {
	case 0:
		size := rng.IntN(12 * SectorBytes)
		must(t, h.file.Truncate(int64(size)))
		for len(state) < size {
			state = append(state, 0)
		}
		state = state[:size]
	case 1:
		must(t, h.file.Sync())
		h.states = nil
	default:
		p := make([]byte, rng.IntN(3*SectorBytes))
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		off := rng.IntN(10 * SectorBytes)
		mustWrite(t, h.file, int64(off), string(p))
		for len(p) > 0 && len(state) < off+len(p) {
			state = append(state, 0)
		}
		copy(state[min(off, len(state)):], p)
	}
	h.states = append(h.states, state)
}

// sectorOf returns sector i of a state, zeros where it has none.
func sectorOf(state []byte, i int) []byte {
	var s [SectorBytes]byte
	if i*SectorBytes < len(state) {
		copy(s[:], state[i*SectorBytes:])
	}
	return s[:]
}

// check says why got may not be left by a crash that keeps sectors whole. The
// last sector of got counts as far as got goes: a smaller size cuts it.
func (h *history) check(got []byte) error {
	lo, hi := len(h.states[0]), len(h.states[0])
	for _, s := range h.states {
		lo, hi = min(lo, len(s)), max(hi, len(s))
	}
	if len(got) < lo || len(got) > hi {
		return fmt.Errorf("size %d is not in [%d, %d]", len(got), lo, hi)
	}
	for i := range (len(got) + SectorBytes - 1) / SectorBytes {
		n := min(SectorBytes, len(got)-i*SectorBytes)
		if !slices.ContainsFunc(h.states, func(s []byte) bool {
			return bytes.Equal(sectorOf(s, i)[:n], got[i*SectorBytes:][:n])
		}) && !h.mixtureOfSizes(got, i, n) {
			return fmt.Errorf("sector %d holds what it never held", i)
		}
	}
	return nil
}

// mixtureOfSizes allows one more thing: where the size changed, a sector may
// hold what it held, but with zeros behind the end that some state had.
func (h *history) mixtureOfSizes(got []byte, i, n int) bool {
	for _, s := range h.states {
		for _, other := range h.states {
			mixed := sectorOf(s, i)
			clear(mixed[min(max(len(other)-i*SectorBytes, 0), SectorBytes):])
			if bytes.Equal(mixed[:n], got[i*SectorBytes:][:n]) {
				return true
			}
			// A lost truncation: the front is newer, the rest is as it was.
			mixed = sectorOf(s, i)
			at := min(max(len(other)-i*SectorBytes, 0), SectorBytes)
			copy(mixed[at:], sectorOf(h.states[0], i)[at:])
			if bytes.Equal(mixed[:n], got[i*SectorBytes:][:n]) {
				return true
			}
		}
	}
	return false
}

// F1 and F2 beside an oracle that keeps every state since the last sync.
func TestCrashKeepsWhatWasSynced(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		rng := newRand(seed)
		m := New(Options{})
		h := &history{file: mustCreate(t, m, "a"), states: [][]byte{nil}}
		must(t, m.SyncDir("/"))
		for range 40 {
			h.change(t, rng)
			if got := mustContent(t, m, "a"); got != string(h.now()) {
				t.Fatalf("seed %d: the oracle and the file system differ while all is well", seed)
			}
			if got := mustContent(t, m.CrashClone(rng, ProcessDies), "a"); got != string(h.now()) {
				t.Fatalf("seed %d: a process that dies loses nothing, but this did", seed)
			}
			if got := mustContent(t, m.CrashClone(rng, AllLost), "a"); got != string(h.states[0]) {
				t.Fatalf("seed %d: with all lost, size %d is left, want the %d that were synced",
					seed, len(got), len(h.states[0]))
			}
			for _, o := range []CrashOptions{{Lost: 50}, {Lost: 20, Whole: 50}, {Lost: 90, Whole: 100}} {
				clone := m.CrashClone(rng, o)
				if err := h.check([]byte(mustContent(t, clone, "a"))); err != nil {
					t.Fatalf("seed %d %+v: %v", seed, o, err)
				}
				if sectors, entries := clone.Unsynced(); sectors != 0 || entries != 0 {
					t.Fatalf("seed %d: a clone has %d sectors and %d entries that are not durable", seed, sectors, entries)
				}
				twice := mustContent(t, clone.CrashClone(rng, AllLost), "a")
				if twice != mustContent(t, clone, "a") {
					t.Fatalf("seed %d: a second crash took what the first had left", seed)
				}
			}
		}
	}
}

// Each thing that may happen to a sector does happen, and only what the options
// name. New is 'n', old is 'o', both all through the sector.
func TestCrashFates(t *testing.T) {
	const sectors = 400
	fates := func(o CrashOptions) (map[string]int, Losses) {
		m := New(Options{})
		f := mustCreate(t, m, "a")
		must(t, m.SyncDir("."))
		mustWrite(t, f, 0, strings.Repeat("o", sectors*SectorBytes))
		must(t, f.Sync())
		mustWrite(t, f, 0, strings.Repeat("n", sectors*SectorBytes))
		clone := m.CrashClone(newRand(1), o)
		got := mustContent(t, clone, "a")
		count := make(map[string]int)
		for i := range sectors {
			s := got[i*SectorBytes:][:SectorBytes]
			switch {
			case strings.Count(s, "n") == SectorBytes:
				count["kept"]++
			case strings.Count(s, "o") == SectorBytes:
				count["lost"]++
			case strings.Count(s, "\x00") == SectorBytes:
				count["zeroed"]++
			case strings.Count(s, "n")+strings.Count(s, "o") == SectorBytes:
				count["torn"]++
			default:
				count["garbage"]++
			}
		}
		return count, clone.Losses()
	}
	for _, c := range []struct {
		options CrashOptions
		want    []string
	}{
		{CrashOptions{}, []string{"kept"}},
		{CrashOptions{Lost: 100}, []string{"lost"}},
		{CrashOptions{Lost: 50}, []string{"kept", "lost"}},
		{CrashOptions{Torn: 50}, []string{"kept", "torn"}},
		{CrashOptions{Zeroed: 50}, []string{"kept", "zeroed"}},
		{CrashOptions{Garbage: 50}, []string{"garbage", "kept"}},
		{CrashOptions{Lost: 20, Torn: 20, Zeroed: 20, Garbage: 20}, []string{"garbage", "kept", "lost", "torn", "zeroed"}},
	} {
		got, told := fates(c.options)
		// A sector that is torn at its end is as it was or as it is.
		torn := told.Torn - got["torn"]
		if told.Lost > got["lost"] || torn < 0 || torn > 2 || got["lost"]-told.Lost > torn || told.Zeroed != got["zeroed"] || told.Garbage != got["garbage"] ||
			told.Entries+told.Sizes != 0 || (told.Reordered > 0) != (len(c.want) > 1) {
			t.Errorf("%+v: told %+v of %v", c.options, told, got)
		}
		if !slices.Equal(slices.Sorted(maps.Keys(got)), c.want) {
			t.Errorf("%+v: got %v, want %v", c.options, got, c.want)
		}
		for fate, n := range got {
			if len(c.want) > 1 && n < sectors/10 {
				t.Errorf("%+v: only %d sectors %s", c.options, n, fate)
			}
		}
	}
}

// A file of one fate is kept, lost, or cut at one place in the order in which
// it was written.
func TestCrashWholeFiles(t *testing.T) {
	const sectors = 20
	seen := make(map[string]int)
	for seed := range uint64(200) {
		m := New(Options{})
		f := mustCreate(t, m, "a")
		must(t, m.SyncDir("."))
		mustWrite(t, f, 0, strings.Repeat("o", sectors*SectorBytes))
		must(t, f.Sync())
		for i := sectors - 1; i >= 0; i-- { // back to front
			mustWrite(t, f, int64(i*SectorBytes), strings.Repeat("n", SectorBytes))
		}
		got := mustContent(t, m.CrashClone(newRand(seed), CrashOptions{Whole: 100, Torn: 1}), "a")
		rest := strings.TrimRight(got, "n")
		old := strings.TrimLeft(rest, "o")
		switch {
		case rest == "":
			seen["kept"]++
		case old == "" && len(rest) == len(got):
			seen["lost"]++
		case len(old) <= SectorBytes:
			seen["cut"]++
		default:
			t.Fatalf("seed %d: more than one sector is mixed", seed)
		}
	}
	if len(seen) != 3 {
		t.Fatalf("seen %v", seen)
	}
}

// An old version between two unsynced writes may be what is left.
func TestCrashLeavesVersionInBetween(t *testing.T) {
	seen := make(map[string]bool)
	m := New(Options{})
	f := mustCreate(t, m, "a")
	must(t, m.SyncDir("."))
	for _, version := range []string{"1", "2", "3"} {
		mustWrite(t, f, 0, version)
		if version == "1" {
			must(t, f.Sync())
		}
	}
	for seed := range uint64(100) {
		seen[mustContent(t, m.CrashClone(newRand(seed), CrashOptions{Lost: 50}), "a")] = true
	}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Fatalf("seen %q", got)
	}
}

// A truncation happens or does not: what it cut off is there in full, or not at
// all.
func TestCrashKeepsOrLosesTruncation(t *testing.T) {
	for _, size := range []int{0, SectorBytes, SectorBytes + 100, 3 * SectorBytes} {
		m := New(Options{})
		f := mustCreate(t, m, "a")
		must(t, m.SyncDir("."))
		old := strings.Repeat("o", 4*SectorBytes)
		mustWrite(t, f, 0, old)
		must(t, f.Sync())
		must(t, f.Truncate(int64(size)))
		seen := make(map[string]bool)
		for seed := range uint64(100) {
			seen[mustContent(t, m.CrashClone(newRand(seed), CrashOptions{Lost: 50}), "a")] = true
		}
		if len(seen) != 2 || !seen[old] || !seen[old[:size]] {
			t.Errorf("truncated to %d: %d outcomes, kept %v, lost %v", size, len(seen), seen[old[:size]], seen[old])
		}
	}
}

// Names: every outcome that may be, and none else, over many seeds. Files hold
// their own first name and are synced.
func TestCrashNames(t *testing.T) {
	file := func(m *MemFS, name string) {
		f := mustCreate(t, m, name)
		mustWrite(t, f, 0, name)
		must(t, f.Sync())
	}
	for _, c := range []struct {
		name string
		do   func(m *MemFS)
		want []string
	}{
		{"create, not synced", func(m *MemFS) { file(m, "b") }, []string{"a=a", "a=a b=b"}},
		{"create, synced", func(m *MemFS) {
			file(m, "b")
			must(t, m.SyncDir("."))
		}, []string{"a=a b=b"}},
		{"remove", func(m *MemFS) { must(t, m.Remove("a")) }, []string{"", "a=a"}},
		{"rename is one step", func(m *MemFS) { must(t, m.Rename("a", "b")) }, []string{"a=a", "b=a"}},
		{"replace is one step", func(m *MemFS) {
			file(m, "b")
			must(t, m.SyncDir("."))
			must(t, m.Rename("b", "a"))
		}, []string{"a=a b=b", "a=b"}},
		{"create and rename, each kept or not", func(m *MemFS) {
			file(m, "b")
			must(t, m.Rename("b", "a"))
		}, []string{"a=a", "a=a b=b", "a=b"}},
		{"remove and create again", func(m *MemFS) {
			must(t, m.Remove("a"))
			f := mustCreate(t, m, "a")
			mustWrite(t, f, 0, "new")
			must(t, f.Sync())
		}, []string{"", "a=a", "a=new"}},
		{"between directories a file may be in both or none", func(m *MemFS) {
			must(t, m.MkdirAll("d"))
			must(t, m.SyncDir("."))
			must(t, m.Rename("a", "d/b"))
		}, []string{"a=a d=directory", "a=a d=directory d/b=a", "d=directory", "d=directory d/b=a"}},
		{"a directory goes with what is in it", func(m *MemFS) {
			must(t, m.MkdirAll("d"))
			file(m, "d/b")
			must(t, m.SyncDir("d"))
		}, []string{"a=a", "a=a d=directory d/b=d/b"}},
	} {
		seen, lost := make(map[string]bool), 0
		for seed := range uint64(100) {
			m := New(Options{})
			file(m, "a")
			must(t, m.SyncDir("."))
			c.do(m)
			clone := m.CrashClone(newRand(seed), CrashOptions{EntriesLost: 50})
			lost += clone.Losses().Entries
			tree := dump(t, clone, "/")
			var text []string
			for _, path := range slices.Sorted(maps.Keys(tree)) {
				text = append(text, strings.TrimPrefix(path, "/")+"="+tree[path])
			}
			seen[strings.Join(text, " ")] = true
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
		if (lost > 0) != (len(c.want) > 1) {
			t.Errorf("%s: %d changes of directories are said to be lost", c.name, lost)
		}
	}
}

func TestCrashClonesAreApart(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 0, strings.Repeat("1", 2*chunkBytes))
	must(t, f.Sync())
	must(t, m.SyncDir("."))
	clone := m.CrashClone(newRand(1), AllLost)
	twin := clone.CrashClone(newRand(1), AllLost)

	mustWrite(t, f, 5, "22")
	g, err := clone.Open("a")
	must(t, err)
	mustWrite(t, g, chunkBytes, "33")
	must(t, clone.FlipBit("a", 0, 1))
	must(t, m.Remove("a"))

	if got := mustContent(t, twin, "a"); got != strings.Repeat("1", 2*chunkBytes) {
		t.Fatal("a clone changed with its original")
	}
	want := []byte(strings.Repeat("1", 2*chunkBytes))
	want[0] ^= 2
	copy(want[chunkBytes:], "33")
	if got := mustContent(t, clone, "a"); got != string(want) {
		t.Fatal("a clone does not hold its own writes, and only those")
	}
}

// F4.
func TestCrashIsRepeatable(t *testing.T) {
	m := New(Options{FailedSyncDrops: true})
	rng := newRand(7)
	must(t, m.MkdirAll("d"))
	for i := range 30 {
		f := mustCreate(t, m, fmt.Sprintf("%s/%d", []string{"", "d"}[i%2], i))
		mustWrite(t, f, int64(rng.IntN(5000)), strings.Repeat("x", rng.IntN(5000)))
		switch i % 3 {
		case 0:
			must(t, f.Sync())
		case 1:
			m.SetHook(FailCall(m.Calls()+1, errors.New("broken")))
			if f.Sync() == nil {
				t.Fatal("no error")
			}
		}
	}
	a, b := dump(t, m.CrashClone(newRand(1), DiskFails), "/"), dump(t, m.CrashClone(newRand(1), DiskFails), "/")
	c := dump(t, m.CrashClone(newRand(2), DiskFails), "/")
	if !maps.Equal(a, b) {
		t.Fatal("one seed left two states")
	}
	if maps.Equal(a, c) {
		t.Fatal("two seeds left one state")
	}
}

// After a failed sync the pages count as clean: visible, and gone with the next
// crash although a later sync returned nil.
func TestFailedSyncDrops(t *testing.T) {
	broken := errors.New("broken")
	m := New(Options{FailedSyncDrops: true})
	f := mustCreate(t, m, "a")
	must(t, m.SyncDir("."))
	mustWrite(t, f, 0, strings.Repeat("1", 3*SectorBytes))
	must(t, f.Sync())
	mustWrite(t, f, 0, strings.Repeat("2", 2*SectorBytes))
	m.SetHook(FailCall(m.Calls()+1, broken))
	if err := f.Sync(); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	must(t, f.Sync())
	mustWrite(t, f, SectorBytes, "3") // this sector is dirty again, all of it
	after := func(m *MemFS) string {
		p := mustContent(t, m, "a")
		return p[:1] + p[SectorBytes:SectorBytes+2] + p[2*SectorBytes:2*SectorBytes+1]
	}
	if got := after(m); got != "2321" {
		t.Fatalf("visible %q", got)
	}
	if got := after(m.CrashClone(nil, AllLost)); got != "1111" {
		t.Fatalf("nothing was synced since, but %q is left", got)
	}
	must(t, f.Sync())
	if got := after(m.CrashClone(nil, ProcessDies)); got != "1321" {
		t.Fatalf("%q is left", got)
	}
	m.DropCaches()
	if got := after(m); got != "1321" {
		t.Fatalf("visible %q once the cache is gone", got)
	}

	// Without the option, the next sync makes good.
	m = New(Options{})
	f = mustCreate(t, m, "a")
	must(t, m.SyncDir("."))
	mustWrite(t, f, 0, "1")
	m.SetHook(FailCall(m.Calls()+1, broken))
	if err := f.Sync(); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	must(t, f.Sync())
	if got := mustContent(t, m.CrashClone(nil, AllLost), "a"); got != "1" {
		t.Fatalf("%q is left", got)
	}
}

// A file that is written over and over without a sync keeps its durable state
// and a bounded number of others.
func TestPreImagesAreBounded(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a").(*file)
	must(t, m.SyncDir("."))
	mustWrite(t, f, 0, "durable")
	must(t, f.Sync())
	p := make([]byte, 64*SectorBytes)
	for range 2 * maxPreImages / 64 {
		if _, err := f.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(f.node.preSectors); got != maxPreImages+64 {
		t.Fatalf("%d pre-images", got)
	}
	if got := mustContent(t, m.CrashClone(nil, AllLost), "a"); got != "durable" {
		t.Fatalf("%d bytes are left", len(got))
	}
}

func TestLostNameIsNotExist(t *testing.T) {
	m := New(Options{})
	must(t, mustCreate(t, m, "a").Sync())
	if _, err := m.CrashClone(nil, AllLost).Open("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a file whose directory was not synced: %v", err)
	}
}
