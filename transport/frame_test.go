package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/cespare/xxhash/v2"

	"multiraft/internal/allocs"
)

const (
	testKey      = 0x1234
	testFrameCap = 2 << 20
)

// encodeFrames writes payloads as one connection would.
func encodeFrames(t testing.TB, lane Lane, key uint64, payloads ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := newFrameWriter(&out, lane, key, func() error { return nil })
	if err := w.write(payloads); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// oddReader returns as many bytes at a time as it likes.
type oddReader struct {
	src io.Reader
	r   *rand.Rand
}

func (o oddReader) Read(p []byte) (int, error) {
	n := 1 + o.r.IntN(len(p))
	if o.r.IntN(4) == 0 {
		n = 1 + o.r.IntN(min(len(p), 20))
	}
	return o.src.Read(p[:n])
}

// Frames of all sizes around the limits of reader and writer come out as they
// went in, however the stream is chopped, and stay so while later ones are read.
func TestFramesRoundTrip(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 2))
		edges := []int{0, 1, smallFrameBytes, smallFrameBytes + 1, ownBufferBytes - frameHeaderBytes, ownBufferBytes - frameHeaderBytes + 1,
			readChunkBytes - frameHeaderBytes, readChunkBytes, maxWriteBytes, maxWriteBytes + 1, testFrameCap}
		var want [][]byte
		for i := range 60 {
			size := r.IntN(2000)
			if r.IntN(3) == 0 {
				size = edges[r.IntN(len(edges))]
			}
			payload := make([]byte, size)
			for j := range payload {
				payload[j] = byte(i + j)
			}
			want = append(want, payload)
		}
		stream := encodeFrames(t, 1, testKey, want...)
		var src io.Reader = bytes.NewReader(stream)
		switch seed % 3 {
		case 0:
			src = oddReader{src, r}
		case 1:
			src = iotest.DataErrReader(src)
		}
		reader := newFrameReader(src, 1, testKey, testFrameCap)
		var got [][]byte
		for range want {
			payload, err := reader.next()
			if err != nil {
				t.Fatalf("seed %d: frame %d: %v", seed, len(got), err)
			}
			got = append(got, payload)
		}
		if _, err := reader.next(); err != io.EOF {
			t.Fatalf("seed %d: at the end: %v", seed, err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("seed %d: frame %d of %d bytes is another", seed, i, len(want[i]))
			}
			if cap(got[i]) != len(got[i]) {
				t.Fatalf("seed %d: frame %d: an append would write into the next frame", seed, i)
			}
		}
	}
}

// A writer must not write more at a time than its deadline is meant for, nor
// more often than needed.
func TestFrameWriterWrites(t *testing.T) {
	var writes []int
	w := newFrameWriter(writerFunc(func(p []byte) (int, error) {
		writes = append(writes, len(p))
		return len(p), nil
	}), 0, testKey, func() error { return nil })
	small := make([]byte, 100)
	frames := make([][]byte, 100)
	for i := range frames {
		frames[i] = small
	}
	if err := w.write(frames); err != nil {
		t.Fatal(err)
	}
	if len(writes) != 1 {
		t.Errorf("100 small frames took %d writes", len(writes))
	}
	writes = nil
	if err := w.write([][]byte{small, make([]byte, 5*maxWriteBytes), small}); err != nil {
		t.Fatal(err)
	}
	for _, n := range writes {
		if n > maxWriteBytes {
			t.Errorf("a write of %d bytes", n)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFrameWriterErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, size := range []int{10, smallFrameBytes + 1, 3 * maxWriteBytes, writeBufferBytes} {
		w := newFrameWriter(writerFunc(func([]byte) (int, error) { return 0, broken }), 0, testKey, func() error { return nil })
		if err := w.write([][]byte{make([]byte, size)}); err != broken {
			t.Errorf("size %d: %v, want %v", size, err, broken)
		}
		w = newFrameWriter(io.Discard, 0, testKey, func() error { return broken })
		if err := w.write([][]byte{make([]byte, size)}); err != broken {
			t.Errorf("size %d, deadline: %v, want %v", size, err, broken)
		}
	}
}

// Whatever is changed in a stream of frames, the reader notices at the changed
// frame or earlier, and says what is wrong.
func TestFrameReaderRefuses(t *testing.T) {
	first, second := bytes.Repeat([]byte{1}, 40), bytes.Repeat([]byte{2}, 40)
	stream := func() []byte { return encodeFrames(t, 0, testKey, first, second) }
	const size = frameHeaderBytes + 40
	cases := map[string]struct {
		change func(b []byte) []byte
		good   int    // frames that come through
		what   string // of the FrameError; empty: the stream ends early
	}{
		"length beyond the cap": {func(b []byte) []byte { b[2] = 0xff; return b }, 0, "length"},
		"huge length":           {func(b []byte) []byte { copy(b, "\xff\xff\xff\xff"); return b }, 0, "length"},
		"length too short":      {func(b []byte) []byte { b[0]--; return b }, 0, "checksum"},
		"lane":                  {func(b []byte) []byte { b[4] = 1; return b }, 0, "lane"},
		"flags":                 {func(b []byte) []byte { b[5] = 1; return b }, 0, "flags"},
		"reserved":              {func(b []byte) []byte { b[7] = 1; return b }, 0, "flags"},
		"checksum":              {func(b []byte) []byte { b[8] ^= 1; return b }, 0, "checksum"},
		"payload":               {func(b []byte) []byte { b[size+20] ^= 1; return b }, 1, "checksum"},
		"repeated":              {func(b []byte) []byte { return append(b[:size:size], b[:size]...) }, 1, "checksum"},
		"lost":                  {func(b []byte) []byte { return b[size:] }, 0, "checksum"},
		"swapped":               {func(b []byte) []byte { return append(b[size:2*size:2*size], b[:size]...) }, 0, "checksum"},
		"cut in the header":     {func(b []byte) []byte { return b[:size+5] }, 1, ""},
		"cut in the payload":    {func(b []byte) []byte { return b[:size+30] }, 1, ""},
		"other connection":      {func([]byte) []byte { return encodeFrames(t, 0, testKey+1, first) }, 0, "checksum"},
		"zeros":                 {func([]byte) []byte { return make([]byte, 100) }, 0, "checksum"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := newFrameReader(bytes.NewReader(c.change(stream())), 0, testKey, 1<<16)
			for i := range c.good {
				if _, err := r.next(); err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
			}
			_, err := r.next()
			if c.what == "" {
				if err != io.ErrUnexpectedEOF {
					t.Fatalf("error %v, want %v", err, io.ErrUnexpectedEOF)
				}
				return
			}
			var bad *FrameError
			if !errors.As(err, &bad) || bad.What != c.what || !errors.Is(err, ErrBadFrame) {
				t.Fatalf("error %v, want one about the %s", err, c.what)
			}
		})
	}
}

func TestSessionKeysDiffer(t *testing.T) {
	seen := map[uint64]bool{}
	for dialler := range uint64(10) {
		for acceptor := range uint64(10) {
			a, b := sessionKeys(dialler, acceptor)
			if seen[a] || seen[b] || a == b {
				t.Fatalf("nonces %d and %d give keys of others", dialler, acceptor)
			}
			seen[a], seen[b] = true, true
		}
	}
}

// FuzzFrameReader feeds arbitrary streams. The reader must end, fail only in the
// ways it says, yield no more than it was given, and allocate no more than
// chunks for what was read and one frame at the cap (T5).
func FuzzFrameReader(f *testing.F) {
	f.Add(encodeFrames(f, 0, testKey, []byte("one"), nil, []byte("three")))
	f.Add(encodeFrames(f, 0, testKey, make([]byte, 70<<10)))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	const limit = 1 << 20
	f.Fuzz(func(t *testing.T, stream []byte) {
		var payloads [][]byte
		var err error
		read := func(stream []byte) {
			payloads = payloads[:0]
			r := newFrameReader(bytes.NewReader(stream), 0, testKey, limit)
			for {
				var payload []byte
				if payload, err = r.next(); err != nil {
					return
				}
				payloads = append(payloads, payload)
			}
		}
		// Frames that do not fit leave at most half a chunk unused. A frame of 16
		// bytes is a slice of 24 here, and the list of them grows.
		allocs.AtMost(t, uint64(6*len(stream)+2*readChunkBytes+limit+64<<10), func() { read(stream) })
		var bad *FrameError
		if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.As(err, &bad) {
			t.Fatalf("error of another kind: %v", err)
		}
		again := encodeFrames(t, 0, testKey, payloads...)
		if !bytes.HasPrefix(stream, again) {
			t.Fatalf("%d frames, encoded again:\n got %x\nfrom %x", len(payloads), again, stream)
		}
		// One bit of what was accepted is wrong now, somewhere: the frames in front of
		// it are the same, and the one with the bit ends the stream.
		if len(again) == 0 {
			return
		}
		want := slices.Clone(payloads)
		bit := xxhash.Sum64(again) % uint64(8*len(again))
		again[bit/8] ^= 1 << (bit % 8)
		read(again)
		if len(payloads) >= len(want) || err == io.EOF {
			t.Fatalf("bit %d of %x flipped unnoticed", bit, again)
		}
		for i := range payloads {
			if !bytes.Equal(payloads[i], want[i]) {
				t.Fatalf("bit %d of %x changes frame %d", bit, again, i)
			}
		}
	})
}

// T5: the length of a frame costs no memory before its bytes arrive.
func TestLengthAloneCostsLittle(t *testing.T) {
	const length = 512 << 20
	head := binary.LittleEndian.AppendUint64(nil, frameHead(length, 0))
	stream := append(binary.LittleEndian.AppendUint64(head, 0), make([]byte, 1000)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := newFrameReader(bytes.NewReader(stream), 0, testKey, length).next()
	runtime.ReadMemStats(&after)
	if err != io.ErrUnexpectedEOF {
		t.Errorf("got %v", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4*ownStepBytes {
		t.Errorf("%d bytes of memory for 1 KB received", grown)
	}
}
