package raftlog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// sink collects what the log says about batches.
type sink struct {
	done []*Batch
	err  error
}

func (s *sink) Durable(batches []*Batch, err error) {
	s.done = append(s.done, batches...)
	if err != nil {
		s.err = err
	}
}

func testOptions(fsys FS) Options {
	return Options{
		FS: fsys, Dir: "/log", Cluster: 7, Store: 3,
		SegmentBytes: 16 << 10, MaxBatchBytes: 4 << 10,
		Serial: true, Rand: rand.New(rand.NewPCG(1, 2)).Uint64,
	}
}

func mustOpen(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	l.SetSink(&sink{})
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// submit makes the changes durable.
func submit(t testing.TB, l *Log, fill func(b *Batch)) {
	t.Helper()
	var b Batch
	fill(&b)
	s := &sink{}
	l.SetSink(s)
	l.Submit(&b)
	for l.Step() {
	}
	if s.err != nil || len(s.done) != 1 || s.done[0] != &b {
		t.Fatalf("batch is not durable: %d done, %v", len(s.done), s.err)
	}
}

// block returns a block of count entries; the commands say which they are.
func block(g wire.GroupID, first wire.Index, term wire.Term, count int) wire.Block {
	b := wire.NewBlock(nil)
	for i := range count {
		b = wire.AppendPayload(b, fmt.Appendf(nil, "%d/%d/%d", g, first+wire.Index(i), term))
	}
	b.Seal(g, first, term, wire.EntryCommand, count)
	return b
}

// entries reads [lo, hi) and returns the commands.
func entries(g *Group, lo, hi wire.Index, maxBytes int) ([]string, error) {
	b, err := g.Blocks(lo, hi, maxBytes, nil)
	if err != nil {
		return nil, err
	}
	var commands []string
	for next := lo; len(b) > 0; {
		block, rest, err := wire.ParseBlock(b)
		if err != nil {
			return nil, err
		}
		if block.First() != next || block.Group() != g.ID() {
			return nil, fmt.Errorf("block of group %d at %d, want group %d at %d", block.Group(), block.First(), g.ID(), next)
		}
		for payloads := block.Payloads(); len(payloads) > 0; next++ {
			var command []byte
			command, payloads, _ = wire.NextPayload(payloads)
			commands = append(commands, string(command))
		}
		b = rest
	}
	return commands, nil
}

// check compares a group with terms, a list of the terms of its entries from
// first on.
func check(t testing.TB, g *Group, first wire.Index, terms ...wire.Term) {
	t.Helper()
	last := first + wire.Index(len(terms)) - 1
	if g.First() != first || g.Last() != last {
		t.Fatalf("group %d has [%d, %d], want [%d, %d]", g.ID(), g.First(), g.Last(), first, last)
	}
	got, err := entries(g, first, last+1, 1<<30)
	if err != nil || len(got) != len(terms) {
		t.Fatalf("group %d: %d entries, want %d: %v", g.ID(), len(got), len(terms), err)
	}
	for i, term := range terms {
		index := first + wire.Index(i)
		if want := fmt.Sprintf("%d/%d/%d", g.ID(), index, term); got[i] != want {
			t.Fatalf("group %d entry %d: %s, want %s", g.ID(), index, got[i], want)
		}
		if got, err := g.Term(index); got != term || err != nil {
			t.Fatalf("group %d: term of %d is %d (%v), want %d", g.ID(), index, got, err, term)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	o := testOptions(vfs.New(vfs.Options{}))
	l := mustOpen(t, o)
	g, h := l.Group(1), l.Group(2)
	submit(t, l, func(b *Batch) {
		b.Meta(g, []byte("descriptor"))
		b.HardState(g, wire.HardState{Term: 1, Vote: 5})
		b.Append(g, block(1, 1, 1, 3))
		b.Append(h, block(2, 1, 1, 1))
	})
	submit(t, l, func(b *Batch) {
		b.Append(g, block(1, 4, 2, 2))
		b.HardState(g, wire.HardState{Term: 2, Vote: 6, Commit: 4})
	})
	for range 2 {
		g = l.Group(1)
		check(t, g, 1, 1, 1, 1, 2, 2)
		check(t, l.Group(2), 1, 1)
		if hs := g.HardState(); hs != (wire.HardState{Term: 2, Vote: 6, Commit: 4}) {
			t.Fatalf("hard state %+v", hs)
		}
		if string(g.Meta()) != "descriptor" {
			t.Fatalf("meta %q", g.Meta())
		}
		if _, err := g.Term(6); !errors.Is(err, wire.ErrUnavailable) {
			t.Fatalf("term behind the last: %v", err)
		}
		mustClose(t, l)
		l = mustOpen(t, o)
	}
	mustClose(t, l)
}
