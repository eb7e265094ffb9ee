package main

import (
	"fmt"
	"slices"

	"multiraft/group"
	"multiraft/wire"
)

// memory is a log in memory, durable at once: what raft.MemoryStorage is to
// etcd's library. It keeps the blocks that it is given as they are, as the
// engine's log does until they are written.
type memory struct {
	hard     wire.HardState
	base     wire.Index // compacted up to here
	baseTerm wire.Term
	blocks   []wire.Block // behind base, contiguous
}

var _ group.Storage = (*memory)(nil)

func (l *memory) HardState() wire.HardState { return l.hard }
func (l *memory) First() wire.Index         { return l.base + 1 }

func (l *memory) Last() wire.Index {
	if n := len(l.blocks); n > 0 {
		return l.blocks[n-1].Last()
	}
	return l.base
}

// holder returns the place of the block that holds entry i.
func (l *memory) holder(i wire.Index) int {
	place, _ := slices.BinarySearchFunc(l.blocks, i, func(b wire.Block, i wire.Index) int {
		switch {
		case b.Last() < i:
			return -1
		case b.First() > i:
			return 1
		}
		return 0
	})
	return place
}

func (l *memory) Term(i wire.Index) (wire.Term, error) {
	switch {
	case i == l.base:
		return l.baseTerm, nil
	case i < l.base:
		return 0, wire.ErrCompacted
	case i > l.Last():
		return 0, wire.ErrUnavailable
	}
	return l.blocks[l.holder(i)].Term(), nil
}

func (l *memory) Blocks(lo, hi wire.Index, maxBytes int, dst []byte) ([]byte, error) {
	switch {
	case lo <= l.base:
		return nil, wire.ErrCompacted
	case lo >= hi || hi > l.Last()+1:
		return nil, wire.ErrUnavailable
	}
	start := len(dst)
	for i := l.holder(lo); i < len(l.blocks) && l.blocks[i].First() < hi; i++ {
		b := l.blocks[i].Cut(max(lo, l.blocks[i].First()), min(hi, l.blocks[i].Last()+1), new(wire.Arena))
		if len(dst) > start && len(dst)-start+len(b) > maxBytes {
			break
		}
		dst = append(dst, b...)
	}
	return dst, nil
}

// persist stores what a Ready hands out.
func (l *memory) persist(rd *group.Ready) error {
	l.hard = rd.HardState
	for _, b := range rd.Blocks {
		if b.First() != l.Last()+1 {
			return fmt.Errorf("block of entries from %d behind entry %d", b.First(), l.Last())
		}
		l.blocks = append(l.blocks, b)
	}
	return nil
}

// compact drops the entries up to index, which is the last of a block.
func (l *memory) compact(index wire.Index) error {
	term, err := l.Term(index)
	if err != nil {
		return err
	}
	kept := l.blocks
	for len(kept) > 0 && kept[0].Last() <= index {
		kept = kept[1:]
	}
	n := copy(l.blocks, kept)
	clear(l.blocks[n:])
	l.blocks = l.blocks[:n]
	l.base, l.baseTerm = index, term
	return nil
}

// shed lets go of the list of blocks when there are none, as [group.Group] lets go
// of its buffers when it is idle.
func (l *memory) shed() {
	if len(l.blocks) == 0 {
		l.blocks = nil
	}
}
