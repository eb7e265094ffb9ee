package group

import (
	"fmt"

	"multiraft/wire"
)

// memLog is a Storage in memory, with what has been written and not synced apart
// from what is durable.
type memLog struct {
	hard     wire.HardState
	base     wire.Index // compacted up to here
	entries  []memEntry // from base+1 on
	baseTerm wire.Term
	reads    int   // calls of Blocks
	err      error // what Blocks returns from now on
}

// memEntry is one entry as a block of its own.
type memEntry struct {
	term  wire.Term
	block wire.Block
}

func (l *memLog) HardState() wire.HardState { return l.hard }
func (l *memLog) First() wire.Index         { return l.base + 1 }
func (l *memLog) Last() wire.Index          { return l.base + wire.Index(len(l.entries)) }

func (l *memLog) Term(i wire.Index) (wire.Term, error) {
	switch {
	case i < l.base:
		return 0, fmt.Errorf("term of %d: %w", i, wire.ErrCompacted)
	case i == l.base:
		return l.baseTerm, nil
	case i > l.Last():
		return 0, fmt.Errorf("term of %d: %w", i, wire.ErrUnavailable)
	}
	return l.entries[i-l.base-1].term, nil
}

func (l *memLog) Blocks(lo, hi wire.Index, maxBytes int, dst []byte) ([]byte, error) {
	l.reads++
	if l.err != nil {
		return dst, l.err
	}
	if lo <= l.base {
		return nil, fmt.Errorf("entries from %d: %w", lo, wire.ErrCompacted)
	}
	if hi > l.Last()+1 || lo >= hi {
		return nil, fmt.Errorf("entries [%d, %d): %w", lo, hi, wire.ErrUnavailable)
	}
	start := len(dst)
	for i := lo; i < hi; i++ {
		b := l.entries[i-l.base-1].block
		if len(dst) > start && len(dst)-start+len(b) > maxBytes {
			break
		}
		dst = append(dst, b...)
	}
	return dst, nil
}

// write stores what a Ready says is to be persisted.
func (l *memLog) write(hs wire.HardState, blocks []wire.Block) {
	if hs != (wire.HardState{}) {
		l.hard = hs
	}
	var arena wire.Arena
	for _, b := range blocks {
		if b.First() > l.Last()+1 || b.First() <= l.base {
			panic(fmt.Sprintf("block [%d, %d] to a log of [%d, %d]", b.First(), b.Last(), l.First(), l.Last()))
		}
		l.entries = l.entries[:b.First()-l.base-1]
		for i := b.First(); i <= b.Last(); i++ {
			one := b
			if b.Count() > 1 {
				one = b.Cut(i, i+1, &arena)
			}
			l.entries = append(l.entries, memEntry{term: b.Term(), block: one})
		}
	}
}

// compact drops entries up to index.
func (l *memLog) compact(index wire.Index) {
	term, err := l.Term(index)
	if err != nil {
		panic(err)
	}
	l.entries = append([]memEntry(nil), l.entries[index-l.base:]...)
	l.base, l.baseTerm = index, term
}

// restart drops everything: a snapshot ends at index.
func (l *memLog) restart(index wire.Index, term wire.Term) {
	l.base, l.baseTerm, l.entries = index, term, nil
}

// members returns voters 1..n.
func members(n int) *wire.Membership {
	m := new(wire.Membership)
	for i := range n {
		m.Members = append(m.Members, wire.Member{Replica: wire.ReplicaID(i + 1), Store: wire.StoreID(i + 1), Role: wire.Voter})
	}
	return m
}

// commands returns an unsealed block with the given commands.
func commands(cmds ...string) wire.Block {
	b := wire.NewBlock(nil)
	for _, c := range cmds {
		b = wire.AppendPayload(b, []byte(c))
	}
	return b
}
