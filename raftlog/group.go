package raftlog

import (
	"fmt"
	"sync"

	"multiraft/internal/planted"
	"multiraft/wire"
)

// Group is the part of the log that belongs to one group: where its entries
// are, its hard state and its meta blob. It answers for what is durable; what
// is queued shows up when the writer has synced it.
//
// Methods may be called from any goroutine. A handle is valid as long as its
// log is, and costs under 200 bytes while the group is idle with one block.
type Group struct {
	log *Log
	id  wire.GroupID

	mu   sync.Mutex // guards the fields below; only Log.groupsMu is taken under it, to read
	hard wire.HardState
	meta string
	index
	// at holds the segment of each live control record, zero where there is
	// none. It is what the straggler rewrite and the account of live bytes need.
	at      [controlKinds]uint32
	removed bool
	damaged bool // the error is in Log.damage
	// wounded, of a damaged group: only entries are lost, and compacted is the last
	// one that may have been acknowledged. See Wound.
	wounded bool
	hurt    *CorruptionError // of a block that could not be copied, until blocks are dropped
}

// The control records of a group, of which the newest of each is live.
const (
	controlHard = iota
	controlMeta
	controlCompact
	controlFlag // tombstone or damage
	controlKinds
)

// ID returns the id of the group.
func (g *Group) ID() wire.GroupID { return g.id }

// HardState returns the durable hard state, zero when there is none.
func (g *Group) HardState() wire.HardState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hard
}

// Meta returns a copy of the blob stored by [Batch.Meta], nil when there is
// none.
func (g *Group) Meta() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.at[controlMeta] == 0 {
		return nil
	}
	return []byte(g.meta)
}

// Removed reports whether the group was removed by [Batch.Remove] and has not
// been written to since.
func (g *Group) Removed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.removed
}

// Err returns a [*CorruptionError] when entries or votes of the group were lost
// in a damaged part of the log. Such a group must not vote or acknowledge, but
// for what [Group.Wound] says; [Batch.Remove] takes the mark off.
func (g *Group) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.errLocked()
}

func (g *Group) errLocked() error {
	if !g.damaged {
		return nil
	}
	return fmt.Errorf("group %d: %w", g.id, g.log.damageOf(g.id))
}

// Wound is what is left of a group that has lost entries and nothing else: its
// hard state is the last one it was given, and so is what it knows of the end of
// its log. All entries are gone, be they damaged or not, and the log begins and
// ends behind Index. That is no more than a place to hold logs of others against:
// as a voter, the replica goes on as if it still held all it ever acknowledged.
//
// [Batch.Restart] behind a snapshot that reaches as far ends it.
type Wound struct {
	// Index and Term are those of the last entry that may have been acknowledged.
	Index wire.Index
	Term  wire.Term
	Err   *CorruptionError
}

// Wound reports whether the group has lost entries and nothing else.
func (g *Group) Wound() (w Wound, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.wounded {
		return w, false
	}
	return Wound{g.compacted, g.compactedTerm, g.log.damageOf(g.id)}, true
}

// Hurt returns what was found out about the entries since the log was opened, nil
// when nothing was: a block could not be copied to make room. It is served no more
// than others that are damaged, and keeps its segment until it is dropped.
func (g *Group) Hurt() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hurt == nil {
		return nil
	}
	return fmt.Errorf("group %d: %w", g.id, g.hurt)
}

// First returns the index of the first entry that is not compacted, which is
// one behind Last when there is none.
func (g *Group) First() wire.Index {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first()
}

// Last returns the index of the last durable entry.
func (g *Group) Last() wire.Index {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last()
}

// Term returns the term of entry i, which may be the last compacted one.
// Entries before are [wire.ErrCompacted], behind the last [wire.ErrUnavailable].
func (g *Group) Term(i wire.Index) (wire.Term, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.damaged && !(g.wounded && i == g.compacted):
		return 0, g.errLocked()
	case i < g.compacted:
		return 0, fmt.Errorf("group %d: term of entry %d: %w", g.id, i, wire.ErrCompacted)
	case i > g.last():
		return 0, fmt.Errorf("group %d: term of entry %d: %w", g.id, i, wire.ErrUnavailable)
	}
	return g.term(i), nil
}

// nextSingleSteps bounds the blocks that NextSingle looks at while it holds the
// lock.
const nextSingleSteps = 16 << 10

// NextSingle returns the first entry of [lo, hi) that may be alone in its block, hi
// when there is none. It looks at no block itself, and not at more of the index than
// it can in a moment: an entry that it stops at may be one of many.
func (g *Group) NextSingle(lo, hi wire.Index) wire.Index {
	g.mu.Lock()
	defer g.mu.Unlock()
	for steps, ref := range g.blocks[g.find(lo):] {
		switch first := max(ref.first, lo); {
		case first >= hi:
			return hi
		case ref.count == 1 || steps == nextSingleSteps:
			return first
		}
	}
	return hi
}

// stored reports whether the log holds anything of the group.
func (g *Group) stored() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at != [controlKinds]uint32{} || len(g.blocks) > 0
}

// controlBytes is the size of the record in which control k is stored.
func (g *Group) controlBytes(k int) uint32 {
	switch k {
	case controlHard:
		return hardStateBytes
	case controlMeta:
		return recordHeaderBytes + uint32(len(g.meta))
	case controlFlag:
		if g.wounded {
			return woundBytes
		}
	}
	return plainRecordBytes
}

// The apply methods below are the only ones that change a group. The writer
// calls them for what it has made durable, recovery for what it finds, so that
// both come to the same state. Each returns how many bytes it made live.
// REQUIRES: mu is held.

// applyBlock indexes a block of new entries.
//
//mr:hotpath
func (g *Group) applyBlock(ref blockRef, term wire.Term, acct account) uint32 {
	if g.removed {
		g.revive(acct)
	}
	if g.damaged {
		if g.wounded { // it was handed to the log before the mark, and may be acknowledged
			g.compacted, g.compactedTerm = ref.last(), term
		}
		return 0
	}
	if !g.append(ref, term, acct) {
		return 0
	}
	return ref.size
}

//mr:hotpath
func (g *Group) applyHardState(hs wire.HardState, segment uint32, acct account) uint32 {
	if g.removed {
		g.revive(acct)
	}
	g.hard = hs
	return g.moveControl(controlHard, segment, acct)
}

func (g *Group) applyMeta(blob string, segment uint32, acct account) uint32 {
	if g.removed {
		g.revive(acct)
	}
	g.dropControl(controlMeta, acct) // at its old size
	g.meta = blob
	return g.moveControl(controlMeta, segment, acct)
}

func (g *Group) applyCompact(to wire.Index, term wire.Term, segment uint32, acct account) uint32 {
	if g.removed {
		g.revive(acct)
	}
	if to < g.compacted {
		return 0 // the newer record says more
	}
	g.compact(to, term, acct)
	return g.moveControl(controlCompact, segment, acct)
}

// applyRestart needs nothing of what older records said: entries that it drops
// stand in front of it in the log, and so are never read again without it (L4).
// Once it is rewritten forward it has become a plain compaction, as nothing that
// it could drop is left then.
func (g *Group) applyRestart(to wire.Index, term wire.Term, segment uint32, acct account) uint32 {
	if g.removed {
		g.revive(acct)
	}
	// What is compacted is committed, so of two such places the one with the higher
	// index has the higher term. That of a wound need not be: an entry of a later
	// term stands for all that is committed of it, wherever it is.
	if to < g.compacted && term <= g.compactedTerm || g.wounded && term < g.compactedTerm {
		return 0 // the newer record says more
	}
	if g.wounded {
		g.dropControl(controlFlag, acct)
		g.damaged, g.wounded = false, false
	}
	g.drop(acct)
	g.compacted, g.compactedTerm = to, term
	return g.moveControl(controlCompact, segment, acct)
}

func (g *Group) applyRemove(segment uint32, acct account) uint32 {
	g.drop(acct)
	g.hard, g.meta = wire.HardState{}, ""
	g.compacted, g.compactedTerm = 0, 0
	for k := range g.at {
		g.dropControl(k, acct)
	}
	g.removed, g.damaged, g.wounded = true, false, false
	return g.moveControl(controlFlag, segment, acct)
}

// applyDamaged marks the group and drops its entries: some of them, or its
// vote, are lost, so none may be served, and they must not pin segments.
func (g *Group) applyDamaged(segment uint32, acct account) uint32 {
	if planted.Is(planted.GoOnDamaged) {
		return 0
	}
	g.drop(acct)
	g.dropControl(controlFlag, acct) // at its old size
	g.removed, g.damaged, g.wounded = false, true, false
	return g.moveControl(controlFlag, segment, acct)
}

// applyWound is applyDamaged for a group whose other records are known, and the
// last entry that it may have acknowledged. What was submitted for a group before
// it was removed does not bring it back.
func (g *Group) applyWound(last wire.Index, term wire.Term, segment uint32, acct account) uint32 {
	if g.removed || planted.Is(planted.GoOnDamaged) {
		return 0
	}
	g.drop(acct)
	g.dropControl(controlFlag, acct)
	g.damaged, g.wounded = true, true
	g.compacted, g.compactedTerm = last, term
	return g.moveControl(controlFlag, segment, acct)
}

func (g *Group) drop(acct account) {
	g.hurt = nil
	for _, ref := range g.blocks {
		acct.release(ref.segment, ref.size)
	}
	g.blocks, g.runs = nil, nil
}

// revive takes the tombstone off: the group begins anew, under another replica
// id.
func (g *Group) revive(acct account) {
	g.removed = false
	g.dropControl(controlFlag, acct)
}

func (g *Group) moveControl(k int, segment uint32, acct account) uint32 {
	g.dropControl(k, acct)
	g.at[k] = segment
	return g.controlBytes(k)
}

func (g *Group) dropControl(k int, acct account) {
	if g.at[k] != 0 {
		acct.release(g.at[k], g.controlBytes(k))
		g.at[k] = 0
	}
}
