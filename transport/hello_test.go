package transport

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cespare/xxhash/v2"

	"multiraft/internal/allocs"
)

func testHello() hello {
	return hello{
		minProtocol: 1, maxProtocol: 1, lane: 1, cluster: testCluster, from: 1, to: 2,
		incarnation: 5, met: 3, frameCap: 1 << 20, nonce: 99,
	}
}

func TestHelloRoundTrip(t *testing.T) {
	want := testHello()
	want.verdict = HelloProtocol
	b := want.encode()
	var got hello
	if err := got.decode(&b); err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	if !bytes.HasPrefix(b[:], []byte("mraft\r\n\x00")) {
		t.Errorf("magic is %q", b[:8])
	}
}

// Any flipped bit is noticed.
func TestHelloDamaged(t *testing.T) {
	h := testHello()
	for bit := range helloBytes * 8 {
		b := h.encode()
		b[bit/8] ^= 1 << (bit % 8)
		var got hello
		if err := got.decode(&b); err == nil {
			t.Fatalf("bit %d flipped unnoticed", bit)
		}
	}
}

func TestHelloCheck(t *testing.T) {
	own := hello{minProtocol: 2, maxProtocol: 3, cluster: testCluster, from: 2, incarnation: 4, frameCap: 1 << 20}
	cases := map[string]struct {
		change    func(h *hello)
		field     HelloField
		got, want uint64
	}{
		"good":                     {func(*hello) {}, 0, 0, 0},
		"cluster":                  {func(h *hello) { h.cluster++ }, HelloCluster, testCluster + 1, testCluster},
		"for another store":        {func(h *hello) { h.to = 3 }, HelloStore, 3, 2},
		"from ourselves":           {func(h *hello) { h.from = 2 }, HelloSelf, 2, 2},
		"met a later life of ours": {func(h *hello) { h.met = 5 }, HelloOwnIncarnation, 5, 4},
		"met this life of ours":    {func(h *hello) { h.met = 4 }, 0, 0, 0},
		"too old":                  {func(h *hello) { h.minProtocol, h.maxProtocol = 0, 1 }, HelloProtocol, 1, 2<<16 | 3},
		"too new":                  {func(h *hello) { h.minProtocol, h.maxProtocol = 4, 9 }, HelloProtocol, 4<<16 | 9, 2<<16 | 3},
		"overlap below":            {func(h *hello) { h.minProtocol, h.maxProtocol = 1, 2 }, 0, 0, 0},
		"overlap above":            {func(h *hello) { h.minProtocol, h.maxProtocol = 3, 7 }, 0, 0, 0},
		"range upside down":        {func(h *hello) { h.minProtocol, h.maxProtocol = 3, 2 }, HelloProtocol, 3<<16 | 2, 2<<16 | 3},
		"lane":                     {func(h *hello) { h.lane = Lanes }, HelloLane, Lanes, Lanes - 1},
		"frame cap":                {func(h *hello) { h.frameCap = minFrameCap - 1 }, HelloFrameCap, minFrameCap - 1, minFrameCap},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := testHello()
			h.minProtocol, h.maxProtocol = 2, 3
			c.change(&h)
			err := h.check(&own)
			if c.field == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || err.Field != c.field || err.Got != c.got || err.Want != c.want || err.Remote {
				t.Fatalf("got %+v, want field %v, %d against %d", err, c.field, c.got, c.want)
			}
		})
	}
}

// Each reason to refuse has a name, and the dialler learns both values of it.
func TestHelloRefusal(t *testing.T) {
	own := hello{minProtocol: 1, maxProtocol: 1, cluster: 1, from: 1, to: 2, incarnation: 3, met: 4, frameCap: 5, lane: 1}
	theirs := hello{minProtocol: 8, maxProtocol: 8, cluster: 9, from: 12, to: 1, incarnation: 10, met: 11, frameCap: 13, lane: 0}
	want := map[HelloField][2]uint64{
		HelloMagic: {}, HelloChecksum: {},
		HelloCluster: {9, 1}, HelloStore: {12, 2}, HelloSelf: {12, 1}, HelloPeer: {12, 1}, HelloDirection: {12, 1},
		HelloIncarnation: {11, 3}, HelloOwnIncarnation: {10, 4}, HelloProtocol: {8<<16 | 8, 1<<16 | 1},
		HelloLane: {0, 1}, HelloFrameCap: {13, 5},
	}
	names := map[string]bool{}
	for field := HelloMagic; field <= HelloFrameCap; field++ {
		theirs.verdict = field
		err := theirs.checkAnswer(&own)
		values, ok := want[field]
		if !ok || err == nil || err.Field != field || !err.Remote || [2]uint64{err.Got, err.Want} != values {
			t.Errorf("%v: got %+v, want %v", field, err, values)
		}
		names[field.String()] = true
	}
	if len(names) != len(want) {
		t.Errorf("%d names for %d fields", len(names), len(want))
	}
	if got := HelloField(200).String(); got != "field 200" {
		t.Errorf("an unknown verdict reads %q", got)
	}
}

// FuzzHello feeds arbitrary bytes, with a good checksum on demand. What decodes encodes to the same again, and
// check looks at all of it without a panic.
func FuzzHello(f *testing.F) {
	h := testHello()
	good := h.encode()
	f.Add(good[:], false)
	f.Add(good[:], true)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), false)
	own := hello{minProtocol: 1, maxProtocol: 1, cluster: testCluster, from: 2, to: 1, frameCap: 1 << 20}
	f.Fuzz(func(t *testing.T, in []byte, seal bool) {
		var b [helloBytes]byte
		copy(b[:], in)
		if seal { // past the checks that random bytes do not pass
			binary.LittleEndian.PutUint64(b[:], helloMagic)
			binary.LittleEndian.PutUint64(b[72:], xxhash.Sum64(b[:72]))
		}
		var h hello
		var err error
		allocs.AtMost(t, 4<<10, func() { // an error, at most
			if e := h.decode(&b); e != nil {
				err = e
			}
		})
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without a text")
			}
			return
		}
		again := h.encode()
		if !bytes.Equal(again[:72], b[:72]) {
			t.Fatalf("not the same again:\n%v\n%v", again, b)
		}
		for _, err := range []*HelloError{h.check(&own), h.checkAnswer(&own)} {
			if err != nil && err.Error() == "" {
				t.Fatal("an error without a text")
			}
		}
	})
}
