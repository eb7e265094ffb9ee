package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"

	"multiraft/internal/allocs"
)

// commands returns n commands of different lengths, the first of them empty.
func commands(n int) [][]byte {
	var out [][]byte
	for i := range n {
		out = append(out, bytes.Repeat([]byte{byte('a' + i)}, i*3))
	}
	return out
}

// sealed makes a block of the commands.
func sealed(first Index, kind EntryKind, commands ...[]byte) Block {
	b := NewBlock(nil)
	for _, c := range commands {
		b = AppendPayload(b, c)
	}
	b.Seal(7, first, 5, kind, len(commands))
	return b
}

// payloadsOf walks a block.
func payloadsOf(t *testing.T, b Block) [][]byte {
	t.Helper()
	var out [][]byte
	rest := b.Payloads()
	for len(rest) > 0 {
		command, next, ok := NextPayload(rest)
		if !ok {
			t.Fatalf("payload %d is none", len(out))
		}
		out, rest = append(out, command), next
	}
	return out
}

func TestBlockRoundTrip(t *testing.T) {
	want := commands(4)
	b := sealed(11, EntryCommand, want...)
	got, rest, err := ParseBlock(append(bytes.Clone(b), "behind"...))
	if err != nil || string(rest) != "behind" || !bytes.Equal(got, b) || cap(got) != len(got) {
		t.Fatalf("ParseBlock = %x, %q, %v", got, rest, err)
	}
	if got.Group() != 7 || got.First() != 11 || got.Last() != 14 || got.Term() != 5 || got.Count() != 4 || got.Kind() != EntryCommand {
		t.Errorf("group %d, [%d, %d], term %d, count %d, kind %d",
			got.Group(), got.First(), got.Last(), got.Term(), got.Count(), got.Kind())
	}
	if fmt.Sprint(payloadsOf(t, got)) != fmt.Sprint(want) {
		t.Errorf("payloads %q, want %q", payloadsOf(t, got), want)
	}
	size := BlockHeaderBytes
	for _, c := range want {
		size += PayloadBytes(len(c))
	}
	if len(b) != size {
		t.Errorf("%d bytes, PayloadBytes say %d", len(b), size)
	}
}

// resum makes the checksum right again, so that what is behind it is tested.
func resum(b []byte) []byte {
	binary.LittleEndian.PutUint64(b, xxhash.Sum64(b[8:]))
	return b
}

// W2: each field of the header is refused when it cannot be true.
func TestParseBlockRefuses(t *testing.T) {
	le := binary.LittleEndian
	for name, spoil := range map[string]func(b []byte) []byte{
		"checksum":             func(b []byte) []byte { b[0]++; return b },
		"flipped payload":      func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"group 0":              func(b []byte) []byte { le.PutUint64(b[8:], 0); return resum(b) },
		"index 0":              func(b []byte) []byte { le.PutUint64(b[16:], 0); return resum(b) },
		"index overflows":      func(b []byte) []byte { le.PutUint64(b[16:], 1<<64-2); return resum(b) },
		"term 0":               func(b []byte) []byte { le.PutUint64(b[24:], 0); return resum(b) },
		"count 0":              func(b []byte) []byte { le.PutUint32(b[32:], 0); return resum(b) },
		"count too small":      func(b []byte) []byte { le.PutUint32(b[32:], 2); return resum(b) },
		"count too large":      func(b []byte) []byte { le.PutUint32(b[32:], 4); return resum(b) },
		"count absurd":         func(b []byte) []byte { le.PutUint32(b[32:], 1<<32-1); return resum(b) },
		"bytes too small":      func(b []byte) []byte { le.PutUint32(b[36:], le.Uint32(b[36:])-1); return b },
		"bytes behind the end": func(b []byte) []byte { le.PutUint32(b[36:], le.Uint32(b[36:])+1); return b },
		"bytes over the limit": func(b []byte) []byte { le.PutUint32(b[36:], MaxBlockBytes); return b },
		"kind 0":               func(b []byte) []byte { b[40] = 0; return resum(b) },
		"kind unknown":         func(b []byte) []byte { b[40] = 9; return resum(b) },
		"version":              func(b []byte) []byte { b[41]++; return resum(b) },
		"payload too long":     func(b []byte) []byte { le.PutUint32(b[BlockHeaderBytes:], 1<<32-1); return resum(b) },
	} {
		src := spoil(sealed(11, EntryCommand, commands(3)...))
		if b, rest, err := ParseBlock(src); !errors.Is(err, ErrBadBlock) || b != nil || rest != nil {
			t.Errorf("%s: ParseBlock = %x, %x, %v", name, b, rest, err)
		}
	}
	b := sealed(11, EntryCommand, commands(3)...)
	for n := range b {
		if _, _, err := ParseBlock(b[:n:n]); !errors.Is(err, ErrBadBlock) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

// Every cut of a block has the entries it names, and leaves the block alone (W1).
func TestCutOfEveryRange(t *testing.T) {
	const first, count = Index(11), 5
	all := commands(count)
	b := sealed(first, EntryCommand, all...)
	before := bytes.Clone(b)
	var arena Arena
	for lo := first; lo < first+count; lo++ {
		for hi := lo + 1; hi <= first+count; hi++ {
			cut, rest, err := ParseBlock(b.Cut(lo, hi, &arena))
			if err != nil || len(rest) != 0 || cut.First() != lo || cut.Last() != hi-1 || cut.Term() != b.Term() || cut.Group() != b.Group() {
				t.Fatalf("cut [%d, %d): [%d, %d], %v", lo, hi, cut.First(), cut.Last(), err)
			}
			if want := all[lo-first : hi-first]; fmt.Sprint(payloadsOf(t, cut)) != fmt.Sprint(want) {
				t.Errorf("cut [%d, %d): %q, want %q", lo, hi, payloadsOf(t, cut), want)
			}
		}
	}
	if !bytes.Equal(b, before) {
		t.Error("cutting changed the block")
	}
	if whole := b.Cut(first, first+count, &arena); &whole[0] != &b[0] {
		t.Error("a cut of everything is a copy")
	}
}

func FuzzParseBlock(f *testing.F) {
	f.Add([]byte(sealed(1, EntryEmpty, nil)))
	f.Add([]byte(sealed(11, EntryCommand, commands(4)...)))
	f.Add([]byte(sealed(1<<64-2, EntryConfig, []byte("config"))))
	f.Fuzz(func(t *testing.T, src []byte) {
		// A random sum is never right, so both sides of it are tried.
		for _, src := range [][]byte{src, withSum(src)} {
			var b Block
			var rest []byte
			var err error
			allocs.AtMost(t, errorBytes, func() { b, rest, err = ParseBlock(src) })
			if err != nil {
				if !errors.Is(err, ErrBadBlock) {
					t.Fatal(err)
				}
				continue
			}
			if len(b)+len(rest) != len(src) || b.Last() < b.First() {
				t.Fatalf("%d + %d of %d bytes, entries [%d, %d]", len(b), len(rest), len(src), b.First(), b.Last())
			}
			again := sealedAs(b, payloadsOf(t, b))
			reserved := b[42:BlockHeaderBytes]
			if bytes.Equal(reserved, make([]byte, len(reserved))) && !bytes.Equal(again, b) {
				t.Fatalf("sealed again\n got %x\nwant %x", again, b)
			}
			// The sum of a block picks the bit that is wrong now.
			flipped := bytes.Clone(b)
			bit := b.Sum() % uint64(8*len(b))
			flipped[bit/8] ^= 1 << (bit % 8)
			if _, _, err := ParseBlock(flipped); err == nil {
				t.Fatalf("bit %d of %x flipped unnoticed", bit, b)
			}
		}
	})
}

// FuzzPayloads walks bytes that are a list of payloads or not. Both ways of walking
// see the same, and what they took is what AppendPayload makes of the commands.
func FuzzPayloads(f *testing.F) {
	f.Add([]byte(sealed(1, EntryCommand, commands(4)...).Payloads()))
	f.Add([]byte{1, 0, 0, 0, 'x', 1, 0, 0, 0, 'y', 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 'x'})
	f.Fuzz(func(t *testing.T, src []byte) {
		allocs.AtMost(t, errorBytes, func() {
			for rest, ok := src, true; ok; {
				_, rest, ok = NextPayload(rest)
			}
		})
		var again []byte
		size := 0
		for rest := src; ; {
			command, after, ok := NextPayload(rest)
			guessed, guessedAfter, guessedOK := NextPayloadOf(rest, size)
			if guessedOK && (!ok || !bytes.Equal(guessed, command) || len(guessedAfter) != len(after)) {
				t.Fatalf("guessed %x in front of %x, there is %x in front of %x, %t", guessed, guessedAfter, command, after, ok)
			}
			if ok && !guessedOK && len(command) == size {
				t.Fatalf("%d bytes were guessed, and not found", size)
			}
			if !ok {
				if len(again)+len(rest) != len(src) || !bytes.Equal(again, src[:len(again)]) {
					t.Fatalf("took %x of %x", again, src)
				}
				return
			}
			again = AppendPayload(again, command)
			size, rest = len(command), after
		}
	})
}

// withSum makes the checksum of the block that src may start with right.
func withSum(src []byte) []byte {
	size, err := BlockSize(src)
	if err != nil || size > len(src) {
		return src
	}
	src = bytes.Clone(src)
	resum(src[:size])
	return src
}

// sealedAs makes a block with the header of b.
func sealedAs(b Block, commands [][]byte) Block {
	again := NewBlock(nil)
	for _, c := range commands {
		again = AppendPayload(again, c)
	}
	again.Seal(b.Group(), b.First(), b.Term(), b.Kind(), len(commands))
	return again
}

func TestBlockDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 1<<10)
	command := []byte("sixteen bytes...")
	var err error
	if n := testing.AllocsPerRun(100, func() {
		b := NewBlock(buf)
		b = AppendPayload(b, command)
		b = AppendPayload(b, command)
		b.Seal(7, 11, 5, EntryCommand, 2)
		_, _, err = ParseBlock(b)
	}); n != 0 || err != nil {
		t.Errorf("%v allocations, error %v", n, err)
	}
}

// What the arena hands out overlaps nothing, however it is filled.
func TestArenaHandsOutDisjointMemory(t *testing.T) {
	var arena Arena
	var blocks [][]byte
	for i := range 3000 {
		size := 1 + i*37%(arenaChunkBytes/3)
		b := arena.Alloc(size)
		if len(b) != 0 || cap(b) != size {
			t.Fatalf("Alloc(%d) has length %d and capacity %d", size, len(b), cap(b))
		}
		b = b[:size]
		for j := range b {
			if b[j] != 0 {
				t.Fatalf("Alloc(%d) of block %d has been used", size, i)
			}
			b[j] = byte(i)
		}
		blocks = append(blocks, b)
	}
	for i, b := range blocks {
		if b[0] != byte(i) || b[len(b)-1] != byte(i) {
			t.Fatalf("block %d was written over", i)
		}
	}
}

func BenchmarkBlockSeal(b *testing.B) {
	for _, count := range []int{1, 64} {
		b.Run(fmt.Sprintf("entry=16B/batch=%d", count), func(b *testing.B) {
			buf := make([]byte, 0, 8<<10)
			command := []byte("sixteen bytes...")
			b.ReportAllocs()
			for b.Loop() {
				block := NewBlock(buf)
				for range count {
					block = AppendPayload(block, command)
				}
				block.Seal(7, 11, 5, EntryCommand, count)
			}
		})
	}
}

// HasPayloads agrees with walking the payloads one by one, for payloads of one
// size and of many, and for bytes that are nearly payloads.
func TestHasPayloadsAgreesWithAWalk(t *testing.T) {
	walk := func(b []byte, count int) bool {
		for range count {
			var ok bool
			if _, b, ok = NextPayload(b); !ok {
				return false
			}
		}
		return count > 0 && len(b) == 0
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var b []byte
		count := 1 + r.IntN(5)
		size := r.IntN(4)
		for range count {
			if r.IntN(4) == 0 {
				size = r.IntN(4)
			}
			b = append(binary.LittleEndian.AppendUint32(b, uint32(size)), make([]byte, size)...)
		}
		if r.IntN(3) == 0 {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		if r.IntN(4) == 0 {
			count += r.IntN(3) - 1
		}
		if got, want := HasPayloads(b, count), walk(b, count); got != want {
			t.Fatalf("%x, %d payloads: %v, the walk says %v", b, count, got, want)
		}
	}
	// Counts that overflow when they are multiplied by a size.
	for _, count := range []int{1<<61 + 1, 1 << 62, math.MaxInt, -1, 0} {
		if HasPayloads([]byte{4, 0, 0, 0, 1, 2, 3, 4}, count) {
			t.Errorf("%d payloads in 8 bytes", count)
		}
	}
}

// NextPayloadOf must agree with NextPayload wherever it answers at all.
func TestNextPayloadOfAgreesWithNextPayload(t *testing.T) {
	whole := AppendPayload(AppendPayload(AppendPayload(nil, nil), []byte("abc")), []byte("d"))
	for at := range len(whole) + 1 {
		for end := at; end <= len(whole); end++ {
			b := whole[at:end]
			want, wantRest, wantOK := NextPayload(b)
			for size := range 8 {
				command, rest, ok := NextPayloadOf(b, size)
				if ok != (wantOK && len(want) == size) {
					t.Fatalf("% x, size %d: %v; NextPayload finds %q, %v", b, size, ok, want, wantOK)
				}
				if ok && (!bytes.Equal(command, want) || !bytes.Equal(rest, wantRest) || cap(command) != size) {
					t.Fatalf("% x, size %d: %q, % x; want %q, % x", b, size, command, rest, want, wantRest)
				}
				if !ok && !bytes.Equal(rest, b) {
					t.Fatalf("% x, size %d: rest % x", b, size, rest)
				}
			}
		}
	}
}
