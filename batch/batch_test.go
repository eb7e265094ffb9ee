package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"multiraft/internal/allocs"
	"multiraft/wire"
)

// sent is what a Builder handed to send.
type sent struct {
	lane    wire.Lane
	payload []byte
}

func noBuffer() []byte { return nil }

func flush(t testing.TB, b *Builder) []sent {
	t.Helper()
	var out []sent
	err := b.Flush(func(lane wire.Lane, payload []byte) error {
		out = append(out, sent{lane, payload})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !b.Empty() {
		t.Fatal("not empty after Flush")
	}
	return out
}

func readAll(payload []byte) (messages []wire.Message, err error) {
	var r Reader
	r.Reset(payload)
	for {
		var m wire.Message
		ok, err := r.Next(&m)
		if !ok {
			return messages, err
		}
		messages = append(messages, m)
	}
}

func mustRead(t testing.TB, payload []byte) []wire.Message {
	t.Helper()
	messages, err := readAll(payload)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

// randomNumber is small most of the time, as real ones are, and sometimes as
// large as can be.
func randomNumber(r *rand.Rand) uint64 {
	switch r.IntN(8) {
	case 0:
		return r.Uint64()
	case 1:
		return math.MaxUint64
	case 2:
		return 0
	}
	return r.Uint64N(300)
}

// randomMessage fills the fields that travel: it encodes one with all fields set
// and takes what comes back.
func randomMessage(t testing.TB, r *rand.Rand, kind wire.MessageKind) wire.Message {
	t.Helper()
	full := wire.Message{
		Kind:    kind,
		Group:   wire.GroupID(randomNumber(r)),
		From:    wire.ReplicaID(r.Uint64N(3)),
		To:      wire.ReplicaID(r.Uint64N(3)),
		Term:    wire.Term(randomNumber(r)),
		LogTerm: wire.Term(randomNumber(r)),
		Index:   wire.Index(randomNumber(r)),
		Commit:  wire.Index(randomNumber(r)),
		Hint:    wire.Index(randomNumber(r)),
		Context: randomNumber(r),
		Entries: bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(200)),
	}
	var m wire.Message
	if _, err := m.Decode(full.AppendTo(nil)); err != nil {
		t.Fatal(err)
	}
	return m
}

// Every message of every kind comes out as it went in, on its lane and in the
// order that B1 promises, whatever the frame size; and no payload is larger than
// B2 allows.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := NewBuilder(noBuffer, MinFrameBytes+r.IntN(8<<10))
		for range 2 { // buffers of the first round are used again in the second
			var want [wire.LaneCount][1 + columnKinds][]wire.Message // plain, then by columns
			for range r.IntN(400) {
				kind := wire.MessageKind(1 + r.IntN(wire.MessageKinds))
				if r.IntN(2) == 0 {
					kind = columnar[r.IntN(columnKinds)]
				}
				m := randomMessage(t, r, kind)
				b.Add(&m)
				w := &want[kind.Lane()][columnsOf(kind)]
				*w = append(*w, m)
			}
			var got [wire.LaneCount][1 + columnKinds][]wire.Message
			for _, s := range flush(t, b) {
				messages := mustRead(t, s.payload)
				if len(s.payload) > b.max && len(messages) > 1 {
					t.Fatalf("seed %d: B2: %d messages in %d bytes, maximum %d", seed, len(messages), len(s.payload), b.max)
				}
				if len(messages) == 0 {
					t.Fatalf("seed %d: payload without a message", seed)
				}
				behind := false
				for _, m := range messages {
					if behind && !m.Kind.Columnar() && m.Kind != wire.TimeoutNow {
						t.Fatalf("seed %d: B1: %v behind columns", seed, m.Kind)
					}
					behind = m.Kind.Columnar()
					g := &got[s.lane][columnsOf(m.Kind)]
					*g = append(*g, m)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d:\ngot  %v\nwant %v", seed, got, want)
			}
		}
	}
}

// TestNothingComesBehindAnOrder: what was added before a TimeoutNow comes out before it.
func TestNothingComesBehindAnOrder(t *testing.T) {
	b := NewBuilder(noBuffer, 0)
	added := []wire.MessageKind{
		wire.Heartbeat, wire.Vote, wire.ConfirmResponse, wire.TimeoutNow, wire.Heartbeat, wire.TimeoutNow, wire.Confirm, wire.PreVote,
	}
	for i, kind := range added {
		b.Add(&wire.Message{Kind: kind, Group: wire.GroupID(i + 1)})
	}
	out := flush(t, b)
	if len(out) != 1 {
		t.Fatalf("%d frames", len(out))
	}
	var got []wire.GroupID
	for _, m := range mustRead(t, out[0].payload) {
		got = append(got, m.Group)
	}
	if want := []wire.GroupID{2, 1, 3, 4, 5, 6, 8, 7}; !slices.Equal(got, want) {
		t.Errorf("they come out as %v, want %v", got, want)
	}
}

func columnsOf(kind wire.MessageKind) int { return slices.Index(columnar[:], kind) + 1 }

// The schema decides which kinds are columnar; the columns here are written by
// hand. They must know the same kinds and carry all that a message carries.
func TestColumnsFollowSchema(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	kinds := 0
	for kind := wire.MessageKind(1); kind <= wire.MessageKinds; kind++ {
		if got, want := columnCount(kind) > 0, kind.Columnar(); got != want {
			t.Errorf("%v: columns %v, schema says %v", kind, got, want)
		}
		if !kind.Columnar() {
			continue
		}
		kinds++
		if kind.Lane() != wire.Urgent {
			t.Errorf("%v is not urgent, but columns are", kind)
		}
		for range 100 {
			want := randomMessage(t, r, kind)
			b := NewBuilder(noBuffer, 0)
			b.Add(&want)
			if got := mustRead(t, flush(t, b)[0].payload); !reflect.DeepEqual(got, []wire.Message{want}) {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
	}
	if kinds != columnKinds {
		t.Errorf("%d columnar kinds, the builder has columns for %d", kinds, columnKinds)
	}
}

func TestFlushSendsUrgentFirst(t *testing.T) {
	b := NewBuilder(noBuffer, MinFrameBytes)
	entries := make([]byte, MinFrameBytes)
	for range 3 {
		b.Add(&wire.Message{Kind: wire.Append, Group: 1, Term: 1, Entries: entries})
		b.Add(&wire.Message{Kind: wire.Vote, Group: 1, Term: 1})
	}
	var lanes []wire.Lane
	for _, s := range flush(t, b) {
		lanes = append(lanes, s.lane)
	}
	if want := []wire.Lane{wire.Urgent, wire.Bulk, wire.Bulk, wire.Bulk}; !slices.Equal(lanes, want) {
		t.Fatalf("lanes %v, want %v", lanes, want)
	}
}

// A refused payload must not hold up the others, nor come again.
func TestFlushTriesAllAndReturnsTheFirstError(t *testing.T) {
	b := NewBuilder(noBuffer, 0)
	b.Add(&wire.Message{Kind: wire.Append, Group: 1, Term: 1})
	b.Add(&wire.Message{Kind: wire.Vote, Group: 1, Term: 1})
	first, second := errors.New("first"), errors.New("second")
	results := []error{first, second}
	calls := 0
	err := b.Flush(func(wire.Lane, []byte) error {
		calls++
		return results[calls-1]
	})
	if calls != 2 || err != first {
		t.Fatalf("%d calls, error %v; want 2, %v", calls, err, first)
	}
	if got := flush(t, b); len(got) != 0 {
		t.Fatalf("%d payloads came again", len(got))
	}
}

func TestEmptyBuilder(t *testing.T) {
	b := NewBuilder(noBuffer, 0)
	if !b.Empty() || len(flush(t, b)) != 0 {
		t.Fatal("a new builder has something to send")
	}
	b.Add(&wire.Message{})
	if !b.Empty() || len(flush(t, b)) != 0 {
		t.Fatal("a message without a kind was encoded")
	}
	for _, kind := range []wire.MessageKind{wire.Heartbeat, wire.HeartbeatResponse, wire.Vote, wire.Append} {
		b.Add(&wire.Message{Kind: kind})
		if b.Empty() {
			t.Fatalf("empty with a %v in it", kind)
		}
		if got := flush(t, b); len(got) != 1 {
			t.Fatalf("%v: %d payloads, want 1", kind, len(got))
		}
	}
}

// A section with one heartbeat, byte by byte, as drawn in docs/wire-format.md.
func TestColumnsGolden(t *testing.T) {
	b := NewBuilder(noBuffer, 0)
	b.Add(&wire.Message{Kind: wire.Heartbeat, Group: 7, From: 1, To: 2, Term: 3, Commit: 300, Context: 5})
	b.Add(&wire.Message{Kind: wire.Heartbeat, Group: 6, From: 1, To: 3, Term: 4, Commit: 0, Context: 6})
	got := flush(t, b)[0].payload
	want := []byte{
		0x83, 2, // columns of kind 3, two messages
		2, 2, 4, 2, 2, 3, // sizes
		14, 1, // groups: +7, -1
		2, 1, // from: twice 1
		1, 2, 1, 3, // to: once 2, once 3
		3, 4, // terms
		5, 6, // contexts
		0xac, 2, 0, // commits: 300, 0
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

// malformed payloads, each with a part of the error that it must give.
func malformed() map[string]struct {
	payload []byte
	want    string
} {
	type bad = struct {
		payload []byte
		want    string
	}
	over := binary.AppendUvarint(nil, math.MaxUint64)
	return map[string]bad{
		"kind that has no columns": {[]byte{0x81, 1}, "byte 0: bad message: no columns of kind 1"},
		"kind that does not exist": {[]byte{0x80}, "no columns of kind 0"},
		"plain kind 0":             {make([]byte, 64), "byte 0: bad message: byte 0: unknown kind 0"},
		"no count":                 {[]byte{0x98}, "byte 1: bad message: bad count"},
		"long count":               {[]byte{0x98, 0x81, 0}, "bad count"},
		"no sizes":                 {[]byte{0x98, 1}, "byte 2: bad message: bad size of column 0"},
		"size without an end":      {[]byte{0x98, 1, 1, 2, 2, 1, 200}, "byte 6: bad message: bad size of column 4"},
		"column beyond the end":    {[]byte{0x98, 1, 1, 2, 2, 1, 99, 2}, "ends early, column has 2"},
		"huge size":                {append([]byte{0x98, 1}, append(over, 1, 1, 1, 1)...), "ends early, column has 18446744073709551615"},
		"count 0":                  {[]byte{0x98, 0, 0, 0, 0, 0, 0}, "impossible count 0"},
		"count beyond the columns": {[]byte{0x98, 9, 1, 2, 2, 1, 1, 2, 1, 1, 1, 1, 1, 0}, "impossible count 9"},
		"term column too short":    {[]byte{0x98, 1, 1, 2, 2, 0, 1, 2, 1, 1, 1, 1, 0}, "bad number"},
		"long number":              {[]byte{0x98, 1, 2, 2, 2, 1, 1, 0x82, 0, 1, 1, 1, 1, 1, 0}, "bad number"},
		"run of nothing":           {[]byte{0x98, 1, 1, 2, 2, 1, 1, 2, 0, 1, 1, 1, 1, 0}, "bad run"},
		"run beyond the count":     {[]byte{0x98, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 1, 1, 0}, "bad run"},
		"run without an id":        {[]byte{0x98, 1, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 0}, "bad run"},
		"bytes left in a column":   {[]byte{0x98, 1, 1, 2, 2, 1, 2, 2, 1, 1, 1, 1, 1, 0, 0}, "bytes are left in column 4"},
		"no run of hints":          {[]byte{0x84, 1, 1, 2, 2, 1, 1, 0, 2, 1, 1, 1, 1, 1, 0}, "bad run"},
		"bytes behind the hints":   {[]byte{0x84, 1, 1, 2, 2, 1, 1, 3, 2, 1, 1, 1, 1, 1, 0, 1, 5, 0}, "bytes are left in column 5"},
		"split run of hints": {[]byte{0x84, 2, 2, 2, 2, 2, 2, 4, 2, 2, 2, 1, 2, 1, 1, 1, 0, 0, 1, 5, 1, 5},
			"bad run, messages left 1"},
		"split run": {[]byte{0x98, 2, 2, 4, 2, 2, 2, 2, 2, 1, 5, 1, 5, 2, 1, 1, 1, 0, 0},
			"bad run, messages left 1"},
	}
}

func TestMalformed(t *testing.T) {
	for name, c := range malformed() {
		t.Run(name, func(t *testing.T) {
			var r Reader
			r.Reset(c.payload)
			var m wire.Message
			var err error
			for ok := true; ok; {
				ok, err = r.Next(&m)
			}
			if !errors.Is(err, wire.ErrBadMessage) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Fatalf("error %v, want %q in it", err, c.want)
			}
			if ok, again := r.Next(&m); ok || again != err {
				t.Fatalf("after an error: %v, %v; want the same error", ok, again)
			}
		})
	}
}

// Cutting a good payload anywhere gives an error or a shorter list of the same
// messages, never others.
func TestTruncated(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := NewBuilder(noBuffer, 0)
	for range 20 {
		m := randomMessage(t, r, wire.MessageKind(1+r.IntN(4)))
		b.Add(&m)
	}
	for _, s := range flush(t, b) {
		whole := mustRead(t, s.payload)
		for n := range s.payload {
			part, err := readAll(s.payload[:n])
			if err != nil && !errors.Is(err, wire.ErrBadMessage) {
				t.Fatalf("cut at %d: %v", n, err)
			}
			if len(part) >= len(whole) || !reflect.DeepEqual(part, whole[:len(part):len(part)]) && len(part) > 0 {
				t.Fatalf("cut at %d: other messages came out", n)
			}
		}
	}
}

func TestAllocs(t *testing.T) {
	pool := [][]byte{make([]byte, 0, 2*DefaultFrameBytes), make([]byte, 0, 2*DefaultFrameBytes)}
	buffer := func() []byte {
		last := pool[len(pool)-1]
		pool = pool[:len(pool)-1]
		return last
	}
	var r Reader
	read := 0
	send := func(lane wire.Lane, payload []byte) error {
		r.Reset(payload)
		var m wire.Message
		for {
			ok, err := r.Next(&m)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			read++
		}
		pool = append(pool, payload[:0])
		return nil
	}
	b := NewBuilder(buffer, DefaultFrameBytes)
	entries := make([]byte, 1<<10)
	const groups = 20
	allocs := testing.AllocsPerRun(100, func() {
		for g := range wire.GroupID(groups) {
			b.Add(&wire.Message{Kind: wire.Heartbeat, Group: g, From: 1, To: 2, Term: 3, Commit: 1 << 20, Context: 7})
			b.Add(&wire.Message{Kind: wire.HeartbeatResponse, Group: g, From: 1, To: 2, Term: 3, Context: 7})
			b.Add(&wire.Message{Kind: wire.AppendResponse, Group: g, From: 1, To: 2, Term: 3, Index: 9})
			b.Add(&wire.Message{Kind: wire.Append, Group: g, From: 1, To: 2, Term: 3, Index: 9, Entries: entries})
		}
		if err := b.Flush(send); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a batch, want 0", allocs)
	}
	if want := 101 * groups * 4; read != want {
		t.Errorf("read %d messages, want %d", read, want)
	}
}

// FuzzReader feeds arbitrary payloads. A reader must not panic; must end; must
// not yield more messages than there are bytes; and what it accepts in full must
// be, but for the order of sections, what a builder makes of it (B4).
func FuzzReader(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	b := NewBuilder(noBuffer, 0)
	for range 8 {
		for range 1 + r.IntN(12) {
			m := randomMessage(f, r, wire.MessageKind(1+r.IntN(wire.MessageKinds)))
			b.Add(&m)
		}
		for _, s := range flush(f, b) {
			f.Add(s.payload)
		}
	}
	for _, c := range malformed() {
		f.Add(c.payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		// A reader borrows. What it takes is the text of an error, however many
		// messages a section of columns claims to have.
		allocs.AtMost(t, 8<<10, func() {
			var r Reader
			var m wire.Message
			r.Reset(payload)
			for ok := true; ok; {
				ok, _ = r.Next(&m) // with an error, ok is false
			}
		})
		messages, err := readAll(payload)
		if err != nil && !errors.Is(err, wire.ErrBadMessage) {
			t.Fatalf("error of another kind: %v", err)
		}
		if len(messages) > len(payload) {
			t.Fatalf("%d messages out of %d bytes", len(messages), len(payload))
		}
		if err != nil || len(messages) == 0 {
			return
		}
		kind := messages[0].Kind
		for _, m := range messages {
			if m.Kind != kind {
				return
			}
		}
		if kind.Columnar() && payload[0]&columnsMark == 0 {
			return // plain, as no builder would
		}
		b := NewBuilder(noBuffer, 1<<30)
		for i := range messages {
			b.Add(&messages[i])
		}
		got := flush(t, b)
		if len(got) != 1 {
			t.Fatalf("%d payloads", len(got))
		}
		if again := mustRead(t, got[0].payload); !reflect.DeepEqual(again, messages) {
			t.Fatalf("not the same again:\ngot  %v\nwant %v", again, messages)
		}
		if len(got[0].payload) == len(payload) && !bytes.Equal(got[0].payload, payload) {
			t.Fatalf("B4: two encodings of one size:\n%v\n%v", payload, got[0].payload)
		}
	})
}
