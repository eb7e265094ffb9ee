package vfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// everything is all states of a file system, by what is in them.
func everything(t *testing.T, m *MemFS, o StateOptions) map[string]string {
	t.Helper()
	states, sums := make(map[string]string), make(map[uint64]string)
	m.States(o, func(s *State) {
		clone := s.Clone()
		var b strings.Builder
		for _, e := range clone.dirs["/"].visible {
			if e.file != nil {
				fmt.Fprintf(&b, "%s=%q ", e.base, mustContent(t, clone, e.base))
			}
		}
		if sectors, entries := clone.Unsynced(); sectors+entries > 0 {
			t.Fatalf("%s: %d sectors and %d entries are not durable", s, sectors, entries)
		}
		// Sums are equal exactly when the states are.
		sum := s.Sum()
		if was, ok := sums[sum]; ok != (states[b.String()] != "") || ok && was != b.String() {
			t.Fatalf("%s: sum %x is that of %s", s, sum, was)
		}
		sums[sum], states[b.String()] = b.String(), s.String()
		var again *State
		clone.States(o, func(s *State) { again = s })
		if again.Sum() != sum {
			t.Fatalf("%s: sum %x, and %x when there is no other", s, sum, again.Sum())
		}
	})
	return states
}

// TestStatesOfNames: what was not synced in a directory is lost and kept in all
// combinations.
func TestStatesOfNames(t *testing.T) {
	m := New(Options{})
	mustCreate(t, m, "a")
	must(t, m.SyncDir("/"))
	must(t, m.Rename("a", "b"))
	mustCreate(t, m, "c")
	got := slices.Sorted(maps.Keys(everything(t, m, StateOptions{Entries: 2})))
	want := []string{`a="" `, `a="" c="" `, `b="" `, `b="" c="" `}
	if !slices.Equal(got, want) {
		t.Fatalf("states %q, want %q", got, want)
	}
	for i := range 6 {
		mustCreate(t, m, fmt.Sprint(i))
	}
	n := len(everything(t, m, StateOptions{Entries: 2}))
	if n < 20 || n > 40 { // prefixes, all but one, only one
		t.Fatalf("%d states of 8 changes", n)
	}
}

// TestStatesOfSectors: each unsynced sector is new, old, zeros or noise, in all
// combinations; durable ones are as they are.
func TestStatesOfSectors(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 0, strings.Repeat("o", 4*SectorBytes))
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	mustWrite(t, f, SectorBytes, strings.Repeat("m", SectorBytes)+strings.Repeat("n", SectorBytes))
	kinds := make(map[string]bool)
	for content, what := range everything(t, m, StateOptions{Combined: 2}) {
		content = strings.TrimSuffix(strings.TrimPrefix(content, `a="`), `" `)
		if !strings.HasPrefix(content, strings.Repeat("o", SectorBytes)) || !strings.HasSuffix(content, strings.Repeat("o", SectorBytes)) {
			t.Fatalf("%s: a durable sector is not as it was", what)
		}
		if parts := strings.Split(what, "; "); len(parts) <= 2 {
			kinds[what] = true
		}
	}
	for _, want := range []string{
		"everything kept", "/a: sector 1 is old", "/a: sector 1 is zeros; /a: sector 2 is noise", "/a: sector 2 is old from byte 88",
		"/a: sector 1 is one wrong bit; /a: sector 2 is old", "/a: sector 2 is a copy of the sector before",
	} {
		if !kinds[want] {
			t.Errorf("no state in which %s", want)
		}
	}
	if n := len(everything(t, m, StateOptions{Combined: 2})); n < 16 {
		t.Errorf("%d states, want all combinations of 4 for 2 sectors at least", n)
	}
	must(t, f.Sync())
	if n := len(everything(t, m, StateOptions{Combined: 2})); n != 1 {
		t.Errorf("%d states of a file that is synced", n)
	}
}

// TestStatesOfSizes: a size is the old one, the new one or one in between, and a
// truncation did or did not happen.
func TestStatesOfSizes(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 0, "old")
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	mustWrite(t, f, 3, strings.Repeat("n", 2*SectorBytes))
	sizes := make(map[int]bool)
	m.States(StateOptions{Combined: 4}, func(s *State) { sizes[len(mustContent(t, s.Clone(), "a"))] = true })
	for _, want := range []int{3, SectorBytes, 2 * SectorBytes, 2*SectorBytes + 3} {
		if !sizes[want] {
			t.Errorf("no state of %d bytes", want)
		}
	}
	must(t, f.Sync())
	must(t, f.Truncate(5))
	contents := make(map[string]bool)
	m.States(StateOptions{Combined: 4}, func(s *State) { contents[mustContent(t, s.Clone(), "a")] = true })
	if !contents["oldnn"] || !contents["old"+strings.Repeat("n", 2*SectorBytes)] {
		t.Errorf("%d states, not those with and without the truncation", len(contents))
	}
}

// TestFork: the next process reads what was written and can lose it.
func TestFork(t *testing.T) {
	m := New(Options{})
	f := mustCreate(t, m, "a")
	mustWrite(t, f, 0, "kept")
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	mustWrite(t, f, 0, "lost")
	mustCreate(t, m, "b")
	fork := m.Fork()
	mustWrite(t, f, 0, "more")
	if got := mustContent(t, fork, "a"); got != "lost" {
		t.Fatalf("the next process reads %q", got)
	}
	if got := mustContent(t, fork.CrashClone(nil, AllLost), "a"); got != "kept" {
		t.Fatalf("and %q after a power cut", got)
	}
	if names, err := fork.CrashClone(nil, AllLost).List("/"); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Fatalf("names %v (%v)", names, err)
	}
	g, err := fork.Open("a")
	must(t, err)
	must(t, g.Sync())
	if got := mustContent(t, fork.CrashClone(nil, AllLost), "a"); got != "lost" {
		t.Fatalf("synced %q", got)
	}
	if got := mustContent(t, m, "a"); got != "more" {
		t.Fatalf("the original reads %q", got)
	}
}
