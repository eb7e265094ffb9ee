package raftlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// rewriteFile puts content into a file of the file system.
func rewriteFile(t testing.TB, fsys FS, name string, content []byte) {
	t.Helper()
	f, err := fsys.Create(name)
	if err == nil {
		_, err = f.WriteAt(content, 0)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func readAll(t testing.TB, fsys FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

// files returns the paths in /log whose base name starts with prefix.
func files(t testing.TB, fsys FS, prefix string) (paths []string) {
	t.Helper()
	names, err := fsys.List("/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range names {
		if strings.HasPrefix(base, prefix) {
			paths = append(paths, filepath.Join("/log", base))
		}
	}
	return paths
}

// sound is a model whose changes were all made durable in a log that was left
// without being closed, and the file system as it is then.
type sound struct {
	m  *model
	o  Options
	fs *vfs.MemFS
}

// makeSound makes changes of every kind in a few batches.
func makeSound(t *testing.T, batches int, maintain bool) *sound {
	s := &sound{m: newModel(), fs: vfs.New(vfs.Options{})}
	s.o = testOptions(s.fs)
	l := mustOpen(t, s.o)
	r := rand.New(rand.NewPCG(9, 9))
	for range batches {
		submit(t, l, func(b *Batch) {
			for range 4 {
				c := s.m.random(r, 5)
				s.m.add(c)
				c.addTo(b, l.Group(c.group))
			}
		})
	}
	for maintain && l.Maintain() {
	}
	return s
}

// TestTornTail cuts the last batch off at every byte: what is found is the state
// before it, or the whole of it, and finding it twice changes nothing.
func TestTornTail(t *testing.T) {
	s := makeSound(t, 12, false)
	o := s.o
	o.FS = s.fs.CrashClone(nil, vfs.ProcessDies)
	l := mustOpen(t, o)
	name, offset := l.ActiveSegment()
	before := readAll(t, o.FS, name)
	submit(t, l, func(b *Batch) {
		c := change{group: 1, kind: "append", first: s.m.group(1).last() + 1, count: 3, term: 99}
		c.addTo(b, l.Group(1))
		b.HardState(l.Group(9), wire.HardState{Term: 99, Vote: 1})
	})
	after := readAll(t, o.FS, name)
	_, end := l.ActiveSegment()
	written := o.FS.(*vfs.MemFS)

	seen := map[bool]int{}
	for cut := offset; cut <= end; cut++ {
		fs := written.CrashClone(nil, vfs.ProcessDies)
		rewriteFile(t, fs, name, append(append([]byte(nil), after[:cut]...), before[min(cut, int64(len(before))):]...))
		for round := range 2 {
			o.FS = fs
			o.Events.Damaged = func(err *CorruptionError, _ []wire.GroupID) { t.Errorf("cut at %d: called damage: %v", cut, err) }
			l := mustOpen(t, o)
			whole := l.Group(9).HardState().Term == 99
			last := s.m.group(1).last()
			if whole {
				last += 3
			}
			if got := l.Group(1).Last(); got != last {
				t.Fatalf("cut at %d, round %d: last entry %d, want %d", cut, round, got, last)
			}
			for id, m := range s.m.groups {
				if err := m.diff(l.Group(id)); err != nil && !(id == 1 && whole) {
					t.Fatalf("cut at %d, round %d: group %d: %v", cut, round, id, err)
				}
			}
			seen[whole]++
			fs = fs.CrashClone(nil, vfs.ProcessDies)
		}
	}
	if seen[true] == 0 || seen[false] < 2*BatchHeaderBytes {
		t.Fatalf("whole or not: %v", seen)
	}
}

// TestBitFlips damages every byte of a log that is proven up to its seal. No
// byte may be served as if nothing was: either the state is right, or the groups
// that it is not right for have an error. One bad byte in a record concerns one
// group only.
func TestBitFlips(t *testing.T) {
	s := makeSound(t, 6, false)
	o := s.o
	o.FS = s.fs.CrashClone(nil, vfs.ProcessDies)
	mustClose(t, mustOpen(t, o)) // proves the tail
	disk := o.FS.(*vfs.MemFS)

	r := rand.New(rand.NewPCG(3, 3))
	flips, marked, healed, wounded := 0, 0, 0, 0
	for _, name := range files(t, disk, "segment-") {
		content := readAll(t, disk, name)
		for offset := 0; offset < len(content); offset++ {
			sector := content[offset : offset/SectorBytes*SectorBytes+SectorBytes]
			if len(bytes.Trim(sector, "\x00")) == 0 && offset%64 != 0 {
				continue // padding, and what was never written to: a sample will do
			}
			fs := disk.CrashClone(nil, vfs.ProcessDies)
			if err := fs.FlipBit(name, int64(offset), uint(r.IntN(8))); err != nil {
				t.Fatal(err)
			}
			flips++
			events := 0
			o.FS = fs
			o.Events = Events{Damaged: func(*CorruptionError, []wire.GroupID) { events++ }}
			bad := 0
			for round := range 2 {
				l, err := Open(o)
				if err != nil {
					t.Fatalf("%s at %d: %v", name, offset, err)
				}
				bad = 0
				for id, m := range s.m.groups {
					g := l.Group(id)
					err := g.Err()
					if err == nil {
						if err := m.diff(g); err != nil {
							t.Fatalf("%s at %d, round %d: group %d: %v", name, offset, round, id, err)
						}
						continue
					}
					bad++
					if c := new(CorruptionError); !errors.As(err, &c) {
						t.Fatalf("%s at %d: %v is no CorruptionError", name, offset, err)
					}
					if w, ok := g.Wound(); ok {
						wounded++
						if err := m.covers(g, w); err != nil {
							t.Fatalf("%s at %d, round %d: group %d: %v", name, offset, round, id, err)
						}
					}
					if _, err := g.Blocks(g.First(), g.First()+1, 1, nil); err == nil {
						t.Fatalf("%s at %d: a damaged group serves entries", name, offset)
					}
				}
				if bad > 1 {
					t.Fatalf("%s at %d: %d groups suffer from one bit", name, offset, bad)
				}
				if bad > 0 && events == 0 {
					t.Fatalf("%s at %d: damage is not reported", name, offset)
				}
				mustClose(t, l)
			}
			if bad > 0 {
				marked++
			} else if events > 0 {
				healed++
			}
			if offset%4 != 0 {
				continue
			}

			o.FS, o.Recovery = disk.CrashClone(nil, vfs.ProcessDies), RecoverStrict
			if err := o.FS.(*vfs.MemFS).FlipBit(name, int64(offset), 0); err != nil {
				t.Fatal(err)
			}
			events = 0
			if l, err := Open(o); err == nil {
				mustClose(t, l)
				if bad > 0 {
					t.Fatalf("%s at %d: strict mode opens a damaged log", name, offset)
				}
			}
			o.Recovery = RecoverCut
		}
	}
	t.Logf("%d flips: %d marked a group, %d of which lost entries only, %d cost nothing", flips, marked, wounded/2, healed)
	if marked == 0 || healed == 0 {
		t.Fatal("one of the ways to deal with damage was not taken")
	}
}

// covers reports what a wound says wrongly: it must know the hard state, and no
// entry may be behind the one that it answers for.
func (m *groupModel) covers(g *Group, w Wound) error {
	last, term := m.last(), m.term(m.last())
	if g.HardState() != m.hard || w.Term < term || w.Term == term && w.Index < last {
		return fmt.Errorf("%+v at entry %d of term %d; it had %+v, entry %d of term %d", g.HardState(), w.Index, w.Term, m.hard, last, term)
	}
	if at, err := g.Term(w.Index); err != nil || at != w.Term || g.First() != w.Index+1 || g.Last() != w.Index {
		return fmt.Errorf("entries [%d, %d], term %d (%v) at wound %+v", g.First(), g.Last(), at, err, w)
	}
	return nil
}

// TestWounds damages every byte of a log as replicas write it. Where entries were
// lost and later ones follow, the group goes on to answer for what it had; where it
// may have been a vote, or the end of the log, it must not.
func TestWounds(t *testing.T) {
	m, fs := newModel(), vfs.New(vfs.Options{})
	o := testOptions(fs)
	l := mustOpen(t, o)
	add := func(b *Batch, c change) {
		m.add(c)
		c.addTo(b, l.Group(c.group))
	}
	for round := range 5 {
		for alone := range 2 { // two groups in one batch, and one
			submit(t, l, func(b *Batch) {
				for id := wire.GroupID(1 + 2*alone); id < wire.GroupID(3+alone); id++ {
					if round == 0 {
						add(b, change{group: id, kind: "meta", content: strings.Repeat("m", 80)})
					}
					if round%2 == 0 {
						add(b, change{group: id, kind: "hard", hard: wire.HardState{Term: wire.Term(1 + round), Vote: wire.ReplicaID(1 + round%3)}})
					}
					add(b, change{group: id, kind: "append", first: m.group(id).last() + 1, count: 3, term: wire.Term(1 + round/2*2)})
				}
			})
		}
	}
	mustClose(t, l)
	marked, wounded := 0, 0
	for _, name := range files(t, fs, "segment-") {
		content := readAll(t, fs, name)
		for offset := range content {
			if content[offset] == 0 && offset%16 != 0 {
				continue
			}
			clone := fs.CrashClone(nil, vfs.ProcessDies)
			if err := clone.FlipBit(name, int64(offset), uint(offset%8)); err != nil {
				t.Fatal(err)
			}
			o.FS = clone
			for range 2 {
				l := mustOpen(t, o)
				for id, g := range m.groups {
					if w, ok := l.Group(id).Wound(); ok {
						wounded++
						if err := g.covers(l.Group(id), w); err != nil {
							t.Fatalf("%s at %d: group %d: %v", name, offset, id, err)
						}
					} else if l.Group(id).Err() != nil {
						marked++
					}
				}
				mustClose(t, l)
			}
		}
	}
	t.Logf("%d wounds, %d groups that must not vote", wounded/2, marked/2)
	if wounded == 0 || marked == 0 {
		t.Fatal("one of the ways to deal with damage was not taken")
	}
}

// TestWoundHidesNoVote: a store marks entries that it cannot read any more, and does not
// know that a vote from before is lost too. The mark does not make up for the vote; a
// later hard state does.
func TestWoundHidesNoVote(t *testing.T) {
	for _, later := range []bool{false, true} {
		fs := vfs.New(vfs.Options{})
		o := testOptions(fs)
		l := mustOpen(t, o)
		name, vote := l.ActiveSegment()
		hard := wire.HardState{Term: 5, Vote: 2}
		submit(t, l, func(b *Batch) { b.HardState(l.Group(1), hard) })
		submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 1, 5, 3)) })
		submit(t, l, func(b *Batch) { b.Wound(l.Group(1), 3, 5, &CorruptionError{Segment: 1, Offset: 600, Err: ErrLost}) })
		if later {
			hard = wire.HardState{Term: 6, Vote: 3}
			submit(t, l, func(b *Batch) { b.HardState(l.Group(1), hard) })
		}
		mustClose(t, l)
		content := readAll(t, fs, name)
		content[vote+BatchHeaderBytes] ^= 1 // the record of the vote
		rewriteFile(t, fs, name, content)
		for round := range 3 {
			l := mustOpen(t, o)
			w, wounded := l.Group(1).Wound()
			if err := l.Group(1).Err(); err == nil || wounded != later {
				t.Fatalf("later %v, round %d: wounded %v, error %v", later, round, wounded, err)
			}
			if later && (w.Index != 3 || w.Term != 5 || l.Group(1).HardState() != hard) {
				t.Fatalf("round %d: %+v with %+v", round, w, l.Group(1).HardState())
			}
			mustClose(t, l)
		}
	}
}

// TestLostSectors zeroes runs of sectors. Whatever is hit, no group may be wrong
// without an error.
func TestLostSectors(t *testing.T) {
	for _, maintain := range []bool{false, true} {
		s := makeSound(t, 12, maintain)
		o := s.o
		o.FS = s.fs.CrashClone(nil, vfs.ProcessDies)
		mustClose(t, mustOpen(t, o))
		disk := o.FS.(*vfs.MemFS)
		spared, failed := 0, 0
		for _, name := range files(t, disk, "segment-") {
			content := readAll(t, disk, name)
			for from := 0; from < len(content); from += SectorBytes {
				for n := 1; n <= 8 && from+n*SectorBytes <= len(content); n *= 2 {
					fs := disk.CrashClone(nil, vfs.ProcessDies)
					lost := append([]byte(nil), content...)
					clear(lost[from : from+n*SectorBytes])
					rewriteFile(t, fs, name, lost)
					o.FS = fs
					l, err := Open(o)
					if err != nil {
						// A segment of which nothing is left may be refused.
						if c := new(CorruptionError); !errors.As(err, &c) {
							t.Fatal(err)
						}
						continue
					}
					for id, m := range s.m.groups {
						g := l.Group(id)
						if w, ok := g.Wound(); ok {
							if err := m.covers(g, w); err != nil {
								t.Fatalf("%s: %d sectors at %d: group %d: %v", name, n, from, id, err)
							}
						}
						if g.Err() != nil {
							failed++
						} else if err := m.diff(g); err != nil {
							t.Fatalf("%s: %d sectors at %d: group %d: %v", name, n, from, id, err)
						} else {
							spared++
						}
					}
					mustClose(t, l)
				}
			}
		}
		if spared == 0 || failed == 0 {
			t.Fatalf("%d groups right, %d with an error", spared, failed)
		}
	}
}

// TestDamageIsRemembered: a group that lost records stays marked when the
// damaged segment is long gone, until it is removed.
func TestDamageIsRemembered(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	l := mustOpen(t, o)
	name, offset := l.ActiveSegment()
	submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 1, 1, 2)) })
	mustClose(t, l)
	if err := fs.FlipBit(name, offset+BatchHeaderBytes+60, 3); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l = mustOpen(t, o)
		if l.Group(1).Err() == nil {
			t.Fatal("the mark is gone")
		}
		for i := range wire.Index(400) { // enough for checkpoints and recycling
			submit(t, l, func(b *Batch) {
				b.Append(l.Group(2), block(2, i+1, 1, 1))
				b.Compact(l.Group(2), i, 1)
			})
			for l.Maintain() {
				l.Step()
			}
		}
		if _, err := fs.Open(name); err == nil {
			t.Fatal("the segment is still there")
		}
		submit(t, l, func(b *Batch) { b.Remove(l.Group(2)) })
		mustClose(t, l)
	}
	l = mustOpen(t, o)
	submit(t, l, func(b *Batch) {
		b.Remove(l.Group(1))
		b.Append(l.Group(1), block(1, 1, 5, 1))
	})
	for range 2 {
		check(t, l.Group(1), 1, 5)
		mustClose(t, l)
		l = mustOpen(t, o)
	}
}

// TestUnknownGroupsAreSuspect: when records were lost that may have been the only
// ones of a group, a handle of a group that nobody knows has an error too.
func TestUnknownGroupsAreSuspect(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	l := mustOpen(t, o)
	name, offset := l.ActiveSegment()
	for id := range wire.GroupID(3) {
		submit(t, l, func(b *Batch) { b.HardState(l.Group(id+1), wire.HardState{Term: 1, Vote: 2}) })
	}
	mustClose(t, l)
	content := readAll(t, fs, name)
	clear(content[offset : offset+2*SectorBytes]) // the batches of groups 1 and 2
	rewriteFile(t, fs, name, content)
	var groups []wire.GroupID
	o.Events.Damaged = func(_ *CorruptionError, ids []wire.GroupID) { groups = append(groups, ids...) }
	for range 2 {
		l = mustOpen(t, o)
		for id := range wire.GroupID(5) {
			if l.Group(id+1).Err() == nil {
				t.Fatalf("group %d has no error", id+1)
			}
		}
		mustClose(t, l)
	}
	if fmt.Sprint(groups) != "[0 0]" { // 0 stands for all; the damage is found each time
		t.Fatalf("reported groups %v", groups)
	}
	l = mustOpen(t, o)
	submit(t, l, func(b *Batch) { b.Remove(l.Group(4)); b.Meta(l.Group(4), []byte("anew")) })
	mustClose(t, l)
	l = mustOpen(t, o)
	if err := l.Group(4).Err(); err != nil || string(l.Group(4).Meta()) != "anew" {
		t.Fatalf("removed and made again: %v", err)
	}
}

// TestStartsThatDie has two starts in a row die at each of their calls to the disk, after
// a process that died before it had written anything behind its last batch. Each leaves
// a segment with a copy of that batch, or a part of one, and nothing is damaged by that.
func TestStartsThatDie(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	l := mustOpen(t, testOptions(fs))
	vote := wire.HardState{Term: 7, Vote: 2}
	submit(t, l, func(b *Batch) { b.HardState(l.Group(9), vote) })
	disk := fs.Fork()
	mustClose(t, l)

	open := func(fs *vfs.MemFS) *Log {
		o := testOptions(fs)
		o.Events.Damaged = func(at *CorruptionError, groups []wire.GroupID) { t.Errorf("damage: %v, groups %v", at, groups) }
		return mustOpen(t, o)
	}
	// deaths returns what the next start finds for each call at which one may die.
	deaths := func(fs *vfs.MemFS) (found []*vfs.MemFS) {
		fs.SetHook(func(vfs.Op) vfs.Fault {
			found = append(found, fs.Fork())
			return vfs.Fault{}
		})
		l := open(fs)
		fs.SetHook(nil)
		mustClose(t, l)
		return found
	}
	starts := 0
	for _, first := range deaths(disk) {
		for _, second := range deaths(first) {
			for range 2 {
				l := open(second)
				if got, err := l.Group(9).HardState(), l.Group(9).Err(); got != vote || err != nil {
					t.Fatalf("the vote is %+v, %v", got, err)
				}
				mustClose(t, l)
			}
			if starts++; t.Failed() {
				return
			}
		}
	}
	if t.Logf("%d starts", starts); starts < 1000 {
		t.Error("the test does not test")
	}
}

// TestOldestSegmentEmptied: a log that has lost every batch of its oldest segment
// does not begin with the next one, as if there had never been more.
func TestOldestSegmentEmptied(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 4 << 10
	l := mustOpen(t, o)
	vote := wire.HardState{Term: 7, Vote: 2}
	var names []string
	for i := range wire.Index(4) { // a batch fills a segment
		submit(t, l, func(b *Batch) {
			if i == 1 {
				b.HardState(l.Group(9), vote)
			}
			b.Append(l.Group(1), block(1, 200*i+1, 1, 200))
		})
		name, _ := l.ActiveSegment()
		names = append(names, name)
	}
	submit(t, l, func(b *Batch) { b.Compact(l.Group(1), 600, 1) })
	mustClose(t, l)
	oldest, second := names[1], names[2]
	if !slices.Equal(names, slices.Compact(slices.Clone(names))) {
		t.Fatalf("batches are in %v", names)
	}
	zero := func(fs *vfs.MemFS, name string, bytes int) {
		content := readAll(t, fs, name)
		clear(content[:min(bytes, len(content))])
		rewriteFile(t, fs, name, content)
	}
	for _, test := range []struct {
		name   string
		damage func(*vfs.MemFS)
		lost   bool
	}{
		{"the header", func(fs *vfs.MemFS) { zero(fs, oldest, 8) }, false},
		{"the first sector", func(fs *vfs.MemFS) { zero(fs, oldest, SectorBytes) }, true},
		{"all", func(fs *vfs.MemFS) { zero(fs, oldest, 4<<10) }, true},
		{"all, and the next header", func(fs *vfs.MemFS) { zero(fs, oldest, 4<<10); zero(fs, second, 8) }, true},
	} {
		disk := fs.CrashClone(nil, vfs.AllLost)
		test.damage(disk)
		o := o
		o.FS, o.Recovery = disk, RecoverStrict
		if _, err := Open(o); !errors.As(err, new(*CorruptionError)) {
			t.Fatalf("%s: opened strictly: %v", test.name, err)
		}
		told := 0
		o.Recovery, o.Events.Damaged = RecoverCut, func(*CorruptionError, []wire.GroupID) { told++ }
		for round := range 2 {
			l := mustOpen(t, o)
			if round == 0 && told == 0 {
				t.Fatalf("%s: not reported", test.name)
			}
			for _, id := range []wire.GroupID{9, 77} { // 77 may have stood there only
				if err := l.Group(id).Err(); (err != nil) != test.lost {
					t.Fatalf("%s, round %d: group %d: %v", test.name, round, id, err)
				}
			}
			if got := l.Group(9).HardState(); !test.lost && got != vote {
				t.Fatalf("%s, round %d: the vote is %+v", test.name, round, got)
			}
			mustClose(t, l)
		}
	}
}

// TestDamageAtRest: a block that has gone bad is not served, and a rewrite that
// meets it says so, once. It keeps its segment until its group is marked, and the
// mark has what the group answers for until its log is begun anew.
func TestDamageAtRest(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	var told []wire.GroupID
	o.Events.Damaged = func(_ *CorruptionError, ids []wire.GroupID) { told = append(told, ids...) }
	l := mustOpen(t, o)
	name, offset := l.ActiveSegment()
	submit(t, l, func(b *Batch) {
		b.Append(l.Group(1), block(1, 1, 1, 2))
		b.Append(l.Group(3), block(3, 1, 1, 2))
	})
	if err := fs.FlipBit(name, offset+BatchHeaderBytes+50, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := entries(l.Group(1), 1, 3, 1000); !errors.As(err, new(*CorruptionError)) {
		t.Fatalf("reading a bad block: %v", err)
	}
	i := wire.Index(0)
	churn := func() {
		for range 600 {
			i++
			submit(t, l, func(b *Batch) {
				b.Append(l.Group(2), block(2, i, 1, 1))
				b.Compact(l.Group(2), i-1, 1)
			})
			for l.Maintain() {
				l.Step()
			}
		}
	}
	churn()
	var at *CorruptionError
	if g := l.Group(1); fmt.Sprint(told) != "[1]" || !errors.As(g.Hurt(), &at) || g.Err() != nil || g.Last() != 2 {
		t.Fatalf("told about %v, group 1: %v, %v, last entry %d", told, g.Hurt(), g.Err(), g.Last())
	}
	before := l.Stats().Segments
	submit(t, l, func(b *Batch) {
		b.HardState(l.Group(1), wire.HardState{Term: 1, Vote: 2})
		b.Wound(l.Group(1), 2, 1, at)
	})
	churn()
	if s := l.Stats(); s.Segments > 6 || s.Segments >= before {
		t.Fatalf("%d segments are kept, before the mark %d", s.Segments, before)
	}
	for round := range 3 { // the last one begins with a mark that was moved
		g := l.Group(1)
		if w, ok := g.Wound(); !ok || w.Index != 2 || w.Term != 1 || g.Err() == nil || g.HardState().Vote != 2 || g.First() != 3 {
			t.Fatalf("round %d: wound %+v, %v, first entry %d", round, w, g.Err(), g.First())
		}
		check(t, l.Group(3), 1, 1, 1)
		churn()
		mustClose(t, l)
		l = mustOpen(t, o)
	}
	// An entry of a later term stands for all that is committed of those before.
	submit(t, l, func(b *Batch) { b.Restart(l.Group(1), 1, 2) })
	for range 2 {
		if g := l.Group(1); g.Err() != nil || g.First() != 2 || g.Last() != 1 {
			t.Fatalf("begun anew: [%d, %d], %v", g.First(), g.Last(), g.Err())
		}
		mustClose(t, l)
		l = mustOpen(t, o)
	}
}

// TestMissingSegment: a log of which a segment is gone, be it the first, the
// last or one between, does not open.
func TestMissingSegment(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	o.SegmentBytes = 4 << 10
	l := mustOpen(t, o)
	for i := range wire.Index(40) {
		submit(t, l, func(b *Batch) { b.Append(l.Group(1), block(1, 30*i+1, 1, 30)) })
		maintain(l)
	}
	names := files(t, fs, "segment-")
	if len(names) < 5 {
		t.Fatalf("segments %v", names)
	}
	for _, name := range names {
		clone := fs.CrashClone(nil, vfs.ProcessDies)
		if err := clone.Remove(name); err != nil {
			t.Fatal(err)
		}
		o.FS = clone
		if _, err := Open(o); !errors.Is(err, ErrMissing) {
			t.Fatalf("without %s: %v", name, err)
		}
	}
}

// TestStaleBytes: batches of a former life of a recycled segment are there in
// full, and not one of them is taken for one of now.
func TestStaleBytes(t *testing.T) {
	fs := vfs.New(vfs.Options{})
	o := testOptions(fs)
	l := mustOpen(t, o)
	for i := range wire.Index(300) { // each the same size: old batches begin where new ones will
		submit(t, l, func(b *Batch) {
			b.Append(l.Group(1), block(1, i+1, 1, 1))
			b.Compact(l.Group(1), i, 1)
		})
		for l.Maintain() {
			l.Step()
		}
	}
	if l.Stats().Grown != 0 {
		t.Fatal("no segment was recycled")
	}
	name, offset := l.ActiveSegment()
	content := readAll(t, fs, name)
	if string(content[offset+8:offset+12]) != "MRL1" {
		t.Fatal("there are no stale bytes behind the tail")
	}
	o.FS = fs.CrashClone(nil, vfs.AllLost)
	o.Events.TailCut = func(segment uint64, offset int64) {
		t.Errorf("stale bytes are called a torn tail at %d of %d", offset, segment)
	}
	l = mustOpen(t, o)
	check(t, l.Group(1), 300, 1)
}
