package group

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"multiraft/wire"
)

// plainTail is what a tail must amount to: a slice of entries.
type plainTail struct {
	terms    []wire.Term // of entry i+1
	commands []string
}

func (p *plainTail) term(i wire.Index) wire.Term {
	if i == 0 {
		return 0
	}
	return p.terms[i-1]
}

// TestTailAgainstPlain runs random appends, truncations, hand-outs, late syncs
// and releases against a tail and a slice, and asks both everything.
func TestTailAgainstPlain(t *testing.T) {
	for seed := uint64(1); seed <= 300; seed++ {
		r := &tailRun{t: t, rand: rand.New(rand.NewPCG(seed, 3)), seed: seed, disk: &memLog{}, term: 1}
		r.tail.storage = r.disk
		r.tail.restore(0, 0)
		for range 120 {
			r.step()
			r.check()
		}
	}
}

type tailRun struct {
	t      *testing.T
	rand   *rand.Rand
	seed   uint64
	tail   tail
	disk   *memLog
	plain  plainTail
	writes []write // handed out, not synced
	seq    uint64
	term   wire.Term
	next   int // the next command
	arena  wire.Arena
}

func (r *tailRun) step() {
	switch last := int(r.tail.last()); r.rand.IntN(8) {
	case 0, 1:
		r.append()
	case 2:
		if last > 0 && r.rand.IntN(3) == 0 {
			r.truncate(1 + r.rand.IntN(last))
		}
	case 3:
		r.handOut()
	case 4:
		for range r.rand.IntN(len(r.writes) + 1) {
			w := r.writes[0]
			r.writes = r.writes[1:]
			r.disk.write(w.hard, w.blocks)
			r.tail.persisted(w.ack.Seq, w.ack.Index, w.ack.Term)
		}
	case 5:
		r.tail.release(r.tail.durable, r.rand.IntN(300))
	case 6, 7:
		r.propose()
	}
}

// append adds a block, which may overlap what is there in front.
func (r *tailRun) append() {
	r.tail.seal(1, 0, nil)
	if r.rand.IntN(3) == 0 {
		r.term++
	}
	overlap := 0
	for overlap < len(r.plain.terms) && r.rand.IntN(3) == 0 && r.plain.terms[len(r.plain.terms)-1-overlap] == r.term {
		overlap++
	}
	start := len(r.plain.terms) - overlap
	cmds := append([]string(nil), r.plain.commands[start:]...)
	for range 1 + r.rand.IntN(4) {
		r.next++
		cmds = append(cmds, fmt.Sprintf("c%d", r.next))
	}
	b := commands(cmds...)
	b.Seal(1, wire.Index(start+1), r.term, wire.EntryCommand, len(cmds))
	r.tail.append(r.tail.last()+1, b)
	for _, c := range cmds[overlap:] {
		r.plain.terms = append(r.plain.terms, r.term)
		r.plain.commands = append(r.plain.commands, c)
	}
}

// propose adds a block of the current term that is not sealed.
func (r *tailRun) propose() {
	cmds := make([]string, 1+r.rand.IntN(4))
	for i := range cmds {
		r.next++
		cmds[i] = fmt.Sprintf("c%d", r.next)
		r.plain.terms = append(r.plain.terms, r.term)
		r.plain.commands = append(r.plain.commands, cmds[i])
	}
	r.tail.propose(r.term, commands(cmds...), len(cmds))
}

// seal joins blocks, no more than fit, and no fewer.
func (r *tailRun) seal() {
	live, maxBytes := r.tail.live(), r.rand.IntN(300)
	sealed := len(live) - int(r.tail.open)
	single := map[wire.Index]bool{} // where a block began and ended
	for _, ref := range live[sealed:] {
		single[ref.first], single[ref.last+1] = true, true
	}
	r.tail.seal(1, maxBytes, &r.arena)
	for i, ref := range r.tail.live()[sealed:] {
		b := ref.block
		if b.First() != ref.first || b.Last() != ref.last || b.Term() != ref.term || !single[ref.first] || !single[ref.last+1] {
			r.fatalf("sealed [%d, %d] of term %d for %+v", b.First(), b.Last(), b.Term(), ref)
		}
		inner := false
		for at := ref.first + 1; at <= ref.last; at++ {
			inner = inner || single[at]
		}
		if inner && len(b) > maxBytes {
			r.fatalf("joined to %d bytes, at most %d are wanted", len(b), maxBytes)
		}
		first := ref.first + 1
		for !single[first] {
			first++
		}
		if i > 0 && len(r.tail.live()[sealed+i-1].block)+len(b.Cut(ref.first, first, &r.arena))-wire.BlockHeaderBytes <= maxBytes {
			r.fatalf("entry %d fits the block in front", ref.first)
		}
	}
}

func (r *tailRun) truncate(from int) {
	r.tail.seal(1, 0, nil)
	if err := r.tail.truncate(wire.Index(from), r.seq); err != nil {
		r.t.Fatal(err)
	}
	r.plain.terms = r.plain.terms[:from-1]
	r.plain.commands = r.plain.commands[:from-1]
	r.term++ // what replaces it is of another leader
	r.append()
}

// handOut is what Ready does.
func (r *tailRun) handOut() {
	if r.tail.handed == r.tail.last() {
		return
	}
	r.seal()
	r.seq++
	w := write{ack: Ack{Seq: r.seq}}
	live := r.tail.live()
	for i := r.tail.locate(r.tail.handed + 1); i < len(live); i++ {
		b := r.tail.materialize(&live[i], &r.arena)
		w.blocks = append(w.blocks, b)
		w.ack.Index, w.ack.Term = b.Last(), b.Term()
	}
	r.tail.handed = r.tail.last()
	r.writes = append(r.writes, w)
}

func (r *tailRun) fatalf(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("seed %d: %s", r.seed, fmt.Sprintf(format, args...))
}

func (r *tailRun) check() {
	r.t.Helper()
	t, p := &r.tail, &r.plain
	last := wire.Index(len(p.terms))
	if t.last() != last || t.lastTerm() != p.term(last) {
		r.fatalf("last %d/%d, want %d/%d", t.last(), t.lastTerm(), last, p.term(last))
	}
	if t.durable > t.handed || t.handed > last || t.base > t.durable {
		r.fatalf("base %d, durable %d, handed %d, last %d", t.base, t.durable, t.handed, last)
	}
	bytes := 0
	for _, ref := range t.live() {
		bytes += len(ref.block)
	}
	if bytes != t.bytes {
		r.fatalf("%d bytes in memory, counted %d", bytes, t.bytes)
	}
	for i := wire.Index(0); i <= last; i++ {
		if term, err := t.term(i); err != nil || term != p.term(i) {
			r.fatalf("term of %d: %d, %v, want %d", i, term, err, p.term(i))
		}
		// What counts as durable is on disk, as it is now in the log.
		if i > 0 && i <= t.durable && (i > r.disk.Last() || r.disk.termOrZero(i) != p.term(i)) {
			r.fatalf("entry %d of term %d counts as durable, disk has term %d", i, p.term(i), r.disk.termOrZero(i))
		}
	}
	if _, err := t.term(last + 1); !errors.Is(err, wire.ErrUnavailable) {
		r.fatalf("term behind the last: %v", err)
	}
	if len(r.writes) == 0 && t.handed == last && t.durable != last {
		r.fatalf("all is synced, durable %d of %d", t.durable, last)
	}
	r.checkEntries(last)
	r.checkConflicts(last)
}

// checkEntries reads from a random entry on, as appends do.
func (r *tailRun) checkEntries(last wire.Index) {
	if last == 0 || r.tail.open > 0 {
		return
	}
	lo, maxBytes := 1+wire.Index(r.rand.IntN(int(last))), 1+r.rand.IntN(400)
	bytes, hi, err := r.tail.entries(lo, maxBytes, &r.arena)
	if err != nil {
		r.fatalf("entries from %d: %v", lo, err)
	}
	list := entriesOf(bytes)
	if len(bytes) > maxBytes && len(list) > 1 || hi != lo+wire.Index(len(list)) {
		r.fatalf("entries [%d, %d): %d in %d bytes, at most %d wanted", lo, hi, len(list), len(bytes), maxBytes)
	}
	for i, e := range list {
		at := int(lo) + i
		if want := (entry{wire.Index(at), r.plain.terms[at-1], wire.EntryCommand, r.plain.commands[at-1]}); e != want {
			r.fatalf("entry %v, want %v", e, want)
		}
	}
}

// checkConflicts compares the searches by halving with plain ones.
func (r *tailRun) checkConflicts(last wire.Index) {
	index := wire.Index(r.rand.IntN(int(last) + 1))
	term := wire.Term(r.rand.IntN(int(r.term) + 2))
	want := index
	for want > 0 && r.plain.term(want) > term {
		want--
	}
	if got, gotTerm := r.tail.conflictHint(index, term); got != want || gotTerm != r.plain.term(want) {
		r.fatalf("conflictHint(%d, %d) = %d/%d, want %d/%d", index, term, got, gotTerm, want, r.plain.term(want))
	}
	if index == 0 {
		return
	}
	hi := index + wire.Index(r.rand.IntN(6))
	first := index
	for first <= min(hi, last) && r.plain.term(first) == term {
		first++
	}
	if got, err := r.tail.firstConflict(index, hi, term); err != nil || got != first {
		r.fatalf("firstConflict(%d, %d, %d) = %d, %v, want %d", index, hi, term, got, err, first)
	}
}

// TestTailReportsStorageFaults: blocks from storage that are not what was asked
// for are not sent.
func TestTailReportsStorageFaults(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"nothing":  nil,
		"garbage":  []byte("this is not a block, though it is as long as a header of one"),
		"gap":      blocks(t, "3/1"),
		"too much": blocks(t, "2/1 3/1 4/1 5/1 6/1"),
		"torn":     blocks(t, "2/1")[:wire.BlockHeaderBytes+2],
	} {
		tl := tail{storage: &wrongLog{memLog{}, bytes}}
		tl.restore(5, 1)
		if _, _, err := tl.entries(2, 1000, new(wire.Arena)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	tl := tail{storage: &wrongLog{memLog{}, blocks(t, "2/1 3/1")}}
	tl.restore(5, 1)
	if got, hi, err := tl.entries(2, 1000, new(wire.Arena)); err != nil || hi != 4 || len(entriesOf(got)) != 2 {
		t.Errorf("right blocks: %d bytes, hi %d, %v", len(got), hi, err)
	}
}

// wrongLog returns the same bytes whatever is asked.
type wrongLog struct {
	memLog
	bytes []byte
}

func (l *wrongLog) Blocks(_, _ wire.Index, _ int, dst []byte) ([]byte, error) {
	return append(dst, l.bytes...), nil
}
