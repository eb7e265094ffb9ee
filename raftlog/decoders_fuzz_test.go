package raftlog

import (
	"bytes"
	"testing"

	"github.com/cespare/xxhash/v2"

	"multiraft/internal/allocs"
	"multiraft/wire"
)

// FuzzIdentity reads anything as a copy of the identity, with a right checksum on
// demand. What passes encodes to the same bytes, and to none that pass with a bit
// flipped.
func FuzzIdentity(f *testing.F) {
	c := identityCopy{generation: 7, reached: 9}
	c.Cluster, c.Store, c.UUID, c.Incarnation = 1, 2, [16]byte{3, 4}, 5
	f.Add(c.encode(), false)
	f.Add(c.encode(), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) == identityBytes {
			b = bytes.Clone(b)
			le.PutUint64(b, xxhash.Sum64(b[8:]))
		}
		var c identityCopy
		var err error
		allocs.AtMost(t, 4<<10, func() { err = c.decode(b) }) // an error
		if err != nil {
			return
		}
		again := c.encode()
		if le.PutUint16(b[14:], 0); !bytes.Equal(again[8:], b[8:]) { // reserved: not looked at
			t.Fatalf("encoded again\n got %x\nwant %x", again, b)
		}
		bit := le.Uint64(again) % (8 * identityBytes)
		again[bit/8] ^= 1 << (bit % 8)
		if c.decode(again) == nil {
			t.Fatalf("bit %d of %x flipped unnoticed", bit, again)
		}
	})
}

// FuzzRecords walks anything as the records of a batch. Each lies within the bytes,
// and decodes the same from its own bytes alone.
func FuzzRecords(f *testing.F) {
	block := wire.AppendPayload(wire.NewBlock(nil), []byte("command"))
	block.Seal(3, 5, 2, wire.EntryCommand, 1)
	b := appendControl(nil, kindHardState, 3, 1, 2, 8)
	b = sealedControl(le.AppendUint64(b, 4), 0)
	at := len(b)
	b = sealedControl(append(appendControl(b, kindMeta, 3, 0, 0, 4), "meta"...), at)
	b = append(b, block...)
	at = len(b)
	b = sealedControl(append(appendControl(b, kindMoved, 3, 1, 2, len(block)), block...), at)
	f.Add(b)
	f.Add(b[len(b)-at:])
	f.Fuzz(func(t *testing.T, b []byte) {
		allocs.AtMost(t, 4<<10, func() { // it borrows; an error
			var r record
			for rest := b; r.decode(rest) == nil; {
				rest = rest[r.size:]
			}
		})
		for rest := b; ; {
			var r, again record
			if r.decode(rest) != nil {
				return
			}
			if r.size < recordHeaderBytes || r.size > len(rest) || len(r.payload) > r.size || len(r.block) > r.size {
				t.Fatalf("%+v in %d bytes", r, len(rest))
			}
			if err := again.decode(rest[:r.size:r.size]); err != nil || again.size != r.size || again.kind != r.kind || !bytes.Equal(again.payload, r.payload) {
				t.Fatalf("%+v alone is %+v, %v", r, again, err)
			}
			if r.kind == kindHardState && r.hardState().Commit != wire.Index(le.Uint64(r.payload)) {
				t.Fatalf("%+v", r.hardState())
			}
			r.intact(rest)
			if r.kind == kindDamaged {
				r.wound()
			}
			rest = rest[r.size:]
		}
	})
}

// sealedControl ends the control record that begins at a place of b.
func sealedControl(b []byte, at int) []byte {
	le.PutUint64(b[at:], xxhash.Sum64(b[at+8:]))
	return b
}

// FuzzGroupImage reads anything as the groups of a checkpoint, behind its checksum.
// Blocks and runs are as large in memory as in the file.
func FuzzGroupImage(f *testing.F) {
	g := &Group{id: 3, hard: wire.HardState{Term: 2, Vote: 1, Commit: 4}, meta: "meta"}
	g.compacted, g.compactedTerm = 4, 1
	g.blocks = []blockRef{{first: 5, segment: 1, offset: 512, size: 90, count: 2}, {first: 7, segment: 2, offset: 512, size: 60, count: 1}}
	g.runs = []termRun{{5, 1}, {7, 2}}
	b := g.appendCheckpoint(nil, 9)
	f.Add(b)
	f.Add(g.appendCheckpoint(b, 10))
	f.Fuzz(func(t *testing.T, b []byte) {
		allocs.AtMost(t, uint64(16<<10+32*len(b)), func() {
			for rest := b; ; {
				var m groupImage
				var err error
				if rest, err = m.decode(rest); err != nil {
					return
				}
			}
		})
		for rest := b; ; {
			var m groupImage
			after, err := m.decode(rest)
			if err != nil {
				return
			}
			g := &m.state
			for i := range g.blocks {
				if i > 0 && g.blocks[i].first != g.blocks[i-1].last()+1 || g.blocks[i].last() <= g.compacted {
					t.Fatalf("blocks %+v behind %d", g.blocks, g.compacted)
				}
			}
			g.id = m.id
			if g.damaged {
				rest = after // where the damage is, the log knows
				continue
			}
			if again := g.appendCheckpoint(nil, m.known); len(again) != len(rest)-len(after) {
				t.Fatalf("%d bytes, encoded again %d", len(rest)-len(after), len(again))
			}
			rest = after
		}
	})
}
