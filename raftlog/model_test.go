package raftlog_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"multiraft/internal/vfs"
	. "multiraft/raftlog"
	"multiraft/wire"
)

// The model is a plain list of changes and what each group is after any number
// of them. Changes are made at random, as raft might make them; the log runs
// with tiny segments, so that rotation, recycling, rewriting and checkpoints
// happen all the time; now and then it is closed, killed, or loses power in the
// middle of a call. What is found then must be the state after some number of
// changes, at least all that were durable (L1), and reads must give exactly it.

type change struct {
	group   wire.GroupID
	kind    string // append, hard, meta, compact, restart, remove
	first   wire.Index
	count   int
	term    wire.Term
	hard    wire.HardState
	content string
}

type groupModel struct {
	compacted     wire.Index
	compactedTerm wire.Term
	terms         []wire.Term // from compacted+1 on
	hard          wire.HardState
	meta          string
	removed       bool
}

func (m *groupModel) last() wire.Index { return m.compacted + wire.Index(len(m.terms)) }

func (m *groupModel) term(i wire.Index) wire.Term {
	if i == m.compacted {
		return m.compactedTerm
	}
	return m.terms[i-m.compacted-1]
}

func (m *groupModel) apply(c change) {
	if m.removed {
		m.removed = false
	}
	switch c.kind {
	case "append":
		m.terms = slices.Clip(m.terms[:c.first-m.compacted-1])
		for range c.count {
			m.terms = append(m.terms, c.term)
		}
	case "hard":
		m.hard = c.hard
	case "meta":
		m.meta = c.content
	case "compact":
		if c.first > m.last() || m.term(c.first) != c.term {
			m.terms = nil
		} else {
			m.terms = slices.Clone(m.terms[c.first-m.compacted:])
		}
		m.compacted, m.compactedTerm = c.first, c.term
	case "restart":
		m.terms, m.compacted, m.compactedTerm = nil, c.first, c.term
	case "remove":
		*m = groupModel{removed: true}
	}
}

type model struct {
	groups  map[wire.GroupID]*groupModel
	changes []change // since base
	base    map[wire.GroupID]groupModel
}

func newModel() *model {
	return &model{groups: make(map[wire.GroupID]*groupModel), base: make(map[wire.GroupID]groupModel)}
}

func (m *model) group(id wire.GroupID) *groupModel {
	if m.groups[id] == nil {
		m.groups[id] = &groupModel{}
	}
	return m.groups[id]
}

func (m *model) add(c change) {
	m.changes = append(m.changes, c)
	m.group(c.group).apply(c)
}

// rebase makes the first n changes the base; later ones did not happen.
func (m *model) rebase(n int) {
	for _, c := range m.changes[:n] {
		g := m.base[c.group]
		g.apply(c)
		m.base[c.group] = g
	}
	m.changes = nil
	m.groups = make(map[wire.GroupID]*groupModel)
	for id, g := range m.base {
		g.terms = slices.Clone(g.terms)
		m.groups[id] = &g
	}
}

// diff compares a group with what it should be.
func (m *groupModel) diff(g *Group) error {
	if err := g.Err(); err != nil {
		return err
	}
	if g.First() != m.compacted+1 || g.Last() != m.last() {
		return fmt.Errorf("[%d, %d], want [%d, %d]", g.First(), g.Last(), m.compacted+1, m.last())
	}
	if g.HardState() != m.hard || string(g.Meta()) != m.meta || g.Removed() != m.removed {
		return fmt.Errorf("%+v %q %v, want %+v %q %v", g.HardState(), g.Meta(), g.Removed(), m.hard, m.meta, m.removed)
	}
	for i := m.compacted; i <= m.last(); i++ {
		if term, err := g.Term(i); err != nil || term != m.term(i) {
			return fmt.Errorf("term of %d is %d (%v), want %d", i, term, err, m.term(i))
		}
	}
	got, err := entries(g, g.First(), g.Last()+1, 1<<30)
	if err != nil {
		return err
	}
	for k, c := range got {
		i := m.compacted + 1 + wire.Index(k)
		if want := fmt.Sprintf("%d/%d/%d", g.ID(), i, m.term(i)); c != want {
			return fmt.Errorf("entry %d is %s, want %s", i, c, want)
		}
	}
	if len(got) != len(m.terms) {
		return fmt.Errorf("%d entries, want %d", len(got), len(m.terms))
	}
	return nil
}

func (m *model) diff(l *Log) error {
	for id, g := range m.groups {
		if err := g.diff(l.Group(id)); err != nil {
			return fmt.Errorf("group %d: %w", id, err)
		}
	}
	return nil
}

// random makes a change that a raft group may make.
func (m *model) random(r *rand.Rand, groups int) change {
	c := change{group: wire.GroupID(1 + min(r.IntN(groups), r.IntN(groups)))}
	g := m.group(c.group)
	last := g.last()
	lastTerm := g.term(last)
	switch n := r.IntN(100); {
	case n < 70:
		c.kind, c.count, c.first = "append", 1+r.IntN(1+r.IntN(8)), last+1
		c.term = max(lastTerm, 1)
		if r.IntN(4) == 0 {
			c.term += wire.Term(r.IntN(3))
		}
		if len(g.terms) > 0 && r.IntN(8) == 0 { // a new leader overwrites
			c.first = last - wire.Index(r.IntN(min(len(g.terms), 6)))
			c.term = max(lastTerm, 1) + 1
			if r.IntN(2) == 0 { // with entries of an older term than those there
				c.term = max(g.term(c.first-1), 1)
			}
		}
	case n < 80:
		c.kind = "hard"
		c.hard = wire.HardState{Term: lastTerm + wire.Term(r.IntN(3)), Vote: wire.ReplicaID(r.IntN(4)), Commit: last}
	case n < 83:
		c.kind, c.content = "meta", fmt.Sprintf("meta %d %s", r.IntN(1000), bytes.Repeat([]byte{'x'}, r.IntN(200)))
	case n < 97:
		c.kind = "compact"
		if len(g.terms) > 0 && r.IntN(10) > 0 {
			c.first = g.compacted + 1 + wire.Index(r.IntN(len(g.terms)))
			c.term = g.term(c.first)
		} else { // a snapshot
			c.first, c.term = last+1+wire.Index(r.IntN(5)), lastTerm+1
		}
	case n < 98:
		c.kind = "remove"
	case n < 99: // a snapshot of any term, in the middle of entries or behind them
		c.kind, c.first = "restart", g.compacted+1+wire.Index(r.IntN(len(g.terms)+5))
		c.term = 1 + wire.Term(r.IntN(int(lastTerm)+1))
	default:
		c.kind, c.count, c.first, c.term = "append", 40, last+1, max(lastTerm, 1)
	}
	return c
}

func (c change) addTo(b *Batch, g *Group) {
	switch c.kind {
	case "append":
		b.Append(g, block(c.group, c.first, c.term, c.count))
	case "hard":
		b.HardState(g, c.hard)
	case "meta":
		b.Meta(g, []byte(c.content))
	case "compact":
		b.Compact(g, c.first, c.term)
	case "restart":
		b.Restart(g, c.first, c.term)
	case "remove":
		b.Remove(g)
	}
}

// modelRun is one run of the model against a log.
type modelRun struct {
	t       *testing.T
	r       *rand.Rand
	o       Options
	fs      *vfs.MemFS
	l       *Log
	m       *model
	durable int // changes of m that were said to be durable
	sizes   []int
	maint   bool
	// promised is what durable was when the picture of the crash was taken.
	promised int
}

func (x *modelRun) Durable(batches []*Batch, err error) {
	if err != nil {
		x.t.Fatal(err)
	}
	for range batches {
		x.durable += x.sizes[0]
		x.sizes = x.sizes[1:]
	}
}

func (x *modelRun) submit() {
	var b Batch
	n := r1(x.r, 6)
	for range n {
		c := x.m.random(x.r, 6)
		x.m.add(c)
		c.addTo(&b, x.l.Group(c.group))
	}
	x.sizes = append(x.sizes, n)
	x.l.Submit(&b)
}

func r1(r *rand.Rand, n int) int { return 1 + r.IntN(n) }

// reopen opens what is on fs and finds out after how many changes it is.
func (x *modelRun) reopen(fs *vfs.MemFS, what string) {
	x.fs, x.o.FS = fs, fs
	l, err := Open(x.o)
	if err != nil {
		x.t.Fatalf("%s: %v", what, err)
	}
	var first error
	for n := len(x.m.changes); n >= x.durable; n-- {
		try := &model{groups: nil, base: map[wire.GroupID]groupModel{}, changes: x.m.changes}
		for id, g := range x.m.base {
			g.terms = slices.Clone(g.terms)
			try.base[id] = g
		}
		for id := range x.m.groups {
			if _, ok := try.base[id]; !ok {
				try.base[id] = groupModel{}
			}
		}
		try.rebase(n)
		if err := try.diff(l); err == nil {
			x.m, x.l, x.durable, x.sizes = try, l, 0, nil
			l.SetSink(x)
			return
		} else if first == nil || n == x.durable {
			first = err
		}
	}
	x.t.Fatalf("%s: no state between change %d (durable) and %d fits; at the durable one: %v",
		what, x.durable, len(x.m.changes), first)
}

// crashAt takes a picture of the disk in the middle of the k-th call from now.
func (x *modelRun) crashAt(k int, options vfs.CrashOptions) (fs **vfs.MemFS) {
	fs = new(*vfs.MemFS)
	at := x.fs.Calls() + uint64(k)
	x.fs.SetHook(func(op vfs.Op) vfs.Fault {
		if op.Call >= at && *fs == nil {
			*fs, x.promised = x.fs.CrashClone(x.r, options), x.durable
		}
		return vfs.Fault{}
	})
	return fs
}

func (x *modelRun) run(rounds int) {
	for range rounds {
		var crash **vfs.MemFS
		if x.r.IntN(10) == 0 {
			options := []vfs.CrashOptions{vfs.ProcessDies, vfs.AllLost, vfs.PowerFails, vfs.DiskFails}[x.r.IntN(4)]
			crash = x.crashAt(r1(x.r, 20), options)
		}
		for range r1(x.r, 8) {
			x.submit()
			for x.r.IntN(3) > 0 && x.l.Step() && (crash == nil || *crash == nil) {
			}
			for i := x.r.IntN(6); i > 0 && x.maint && (crash == nil || *crash == nil) && x.l.Maintain(); i-- {
			}
			if crash != nil && *crash != nil {
				break
			}
		}
		switch {
		case crash != nil:
			fs := *crash
			if fs == nil { // none of the calls was reached
				x.fs.SetHook(nil)
				fs, x.promised = x.fs.CrashClone(x.r, vfs.AllLost), x.durable
			}
			x.durable = x.promised
			x.reopen(fs, "crash")
		case x.r.IntN(20) == 0:
			if err := x.l.Close(); err != nil {
				x.t.Fatal(err)
			}
			if x.durable != len(x.m.changes) {
				x.t.Fatalf("%d of %d changes are durable after Close", x.durable, len(x.m.changes))
			}
			x.reopen(x.fs, "close")
		default:
			for x.l.Step() {
			}
			if err := x.m.diff(x.l); err != nil {
				x.t.Fatal(err)
			}
		}
	}
}

func TestModel(t *testing.T) {
	seeds, rounds := 40, 120
	if testing.Short() {
		seeds = 8
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			x := &modelRun{t: t, r: r, fs: vfs.New(vfs.Options{}), m: newModel(), maint: seed%4 != 0}
			x.o = testOptions(x.fs)
			x.o.SegmentBytes = int64(4+4*r.IntN(3)) << 10
			x.o.MaxBatchBytes = 1 << (10 + r.IntN(4))
			x.o.Serial = seed%2 == 0
			x.o.Events.Damaged = func(err *CorruptionError, groups []wire.GroupID) {
				if err.Segment != 0 { // a torn copy of the identity is no harm
					t.Errorf("sound bytes are called damaged: %v, groups %v", err, groups)
				}
			}
			x.o.Events.MaintainFailed = func(err error) { t.Error(err) }
			x.reopen(x.fs, "new")
			x.run(rounds)
		})
	}
}
