package transport

import (
	"encoding/binary"
	"io"
	"math/bits"
	"net"

	"github.com/cespare/xxhash/v2"
)

// A frame is a header and its payload, little-endian:
//
//	 0        4    5     6     8          16
//	┌────────┬────┬─────┬─────┬──────────┬─────────┐
//	│ length │lane│flags│zero │ checksum │ payload │
//	└────────┴────┴─────┴─────┴──────────┴─────────┘
//
// length is that of the payload. flags is 0. checksum is
//
//	xxhash64(payload) ^ mix(key + number*golden ^ first 8 bytes of the header)
//
// where number counts the frames of this direction of the connection from 0 and
// key comes from both hellos (see sessionKeys): a frame that is lost, repeated,
// moved, or from another connection or direction does not pass.
const frameHeaderBytes = 16

const (
	// readChunkBytes is the piece of memory received frames are carved from. It
	// bounds what one small frame that is kept can pin.
	readChunkBytes = 256 << 10
	// minReadBytes is the least room worth a read between frames.
	minReadBytes = 8 << 10
	// ownBufferBytes is the size above which a frame that does not fit into the
	// chunk gets memory of its own, so that at most half a chunk is moved to the
	// next one, or left unused.
	ownBufferBytes = readChunkBytes / 2
	// ownStepBytes is the size up to which a frame gets its memory at once. Stores
	// cut their frames below it, except for a single entry that is larger.
	ownStepBytes = 1 << 20
	// smallFrameBytes is the size up to which copying payloads together is cheaper
	// than handing the kernel one more piece.
	smallFrameBytes = 16 << 10
	// writeBufferBytes holds headers and small frames of one write. Any of them
	// fits an empty buffer.
	writeBufferBytes = 64 << 10
	// maxWriteBytes bounds one write, so that its deadline asks for progress and
	// not for bandwidth.
	maxWriteBytes = 1 << 20
)

const _ = uint(writeBufferBytes - frameHeaderBytes - smallFrameBytes)

// frameSeal makes the checksums of one direction of a connection.
type frameSeal struct {
	key    uint64
	number uint64
}

const golden = 0x9e3779b97f4a7c15

// next returns the checksum of the next frame.
//
//mr:hotpath
func (s *frameSeal) next(head uint64, payload []byte) uint64 {
	place := mix(s.key + s.number*golden ^ head)
	s.number++
	return xxhash.Sum64(payload) ^ place
}

// mix is the finalizer of splitmix64: each input bit reaches each output bit.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// sessionKeys ties the frames of a connection to the random numbers in its two
// hellos, and each direction to itself.
func sessionKeys(dialler, acceptor uint64) (fromDialler, fromAcceptor uint64) {
	key := mix(dialler ^ mix(bits.RotateLeft64(acceptor, 32)))
	return key, mix(key + golden)
}

// unsigned is for lengths and counts, which are not negative.
func unsigned(n int) uint64 { return uint64(n) } // #nosec G115 -- see above

// frameHead returns the first 8 bytes of a header. Frame caps keep lengths within
// 32 bits.
func frameHead(length int, lane Lane) uint64 {
	return unsigned(length) | uint64(lane)<<32
}

// frameWriter writes frames in few, large writes.
type frameWriter struct {
	dst    io.Writer
	lane   Lane
	seal   frameSeal
	before func() error // called ahead of each write, to move the deadline

	buf     []byte   // headers and small frames; never grows, as pieces points in
	copied  int      // prefix of buf that pieces covers already
	pieces  [][]byte // what to write, when there is a large payload in it
	pending int      // bytes in pieces
	vector  net.Buffers
}

func newFrameWriter(dst io.Writer, lane Lane, key uint64, before func() error) *frameWriter {
	return &frameWriter{dst: dst, lane: lane, seal: frameSeal{key: key}, before: before, buf: make([]byte, 0, writeBufferBytes)}
}

// write writes all frames. Their memory is free again when it returns.
//
//mr:hotpath
func (w *frameWriter) write(frames [][]byte) error {
	for _, payload := range frames {
		room := frameHeaderBytes
		small := len(payload) <= smallFrameBytes
		if small {
			room += len(payload)
		}
		if len(w.buf)+room > cap(w.buf) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		head := frameHead(len(payload), w.lane)
		w.buf = binary.LittleEndian.AppendUint64(w.buf, head)
		w.buf = binary.LittleEndian.AppendUint64(w.buf, w.seal.next(head, payload))
		if small {
			w.buf = append(w.buf, payload...)
			continue
		}
		if err := w.large(payload); err != nil {
			return err
		}
	}
	return w.flush()
}

// large queues a payload to be written from where it is, in pieces of at most
// maxWriteBytes.
//
//mr:hotpath
func (w *frameWriter) large(payload []byte) error {
	for len(payload) > 0 {
		w.cover()
		n := min(len(payload), maxWriteBytes)
		w.pieces = append(w.pieces, payload[:n])
		w.pending += n
		payload = payload[n:]
		if w.pending < maxWriteBytes {
			continue
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

// cover adds what was copied since the last large payload to the pieces.
func (w *frameWriter) cover() {
	if w.copied < len(w.buf) {
		w.pieces = append(w.pieces, w.buf[w.copied:])
		w.pending += len(w.buf) - w.copied
		w.copied = len(w.buf)
	}
}

//mr:hotpath
func (w *frameWriter) flush() error {
	if len(w.pieces) > 0 {
		w.cover()
	} else if len(w.buf) == 0 {
		return nil
	}
	err := w.before()
	switch {
	case err != nil:
	case len(w.pieces) == 0:
		_, err = w.dst.Write(w.buf)
	default:
		w.vector = net.Buffers(w.pieces)
		_, err = w.vector.WriteTo(w.dst)
		clear(w.pieces)
		w.pieces = w.pieces[:0]
	}
	w.buf, w.copied, w.pending = w.buf[:0], 0, 0
	return err
}

// frameReader splits a stream into frames. Payloads are handed out where they
// were read to; that memory is never written again.
type frameReader struct {
	src  io.Reader
	lane Lane
	cap  int // largest payload
	seal frameSeal

	chunk      []byte
	start, end int // bytes of chunk that were read and not handed out
}

func newFrameReader(src io.Reader, lane Lane, key uint64, maxFrameBytes int) *frameReader {
	return &frameReader{src: src, lane: lane, cap: maxFrameBytes, seal: frameSeal{key: key}}
}

// next returns the next payload. It returns io.EOF for a stream that ended
// between frames, io.ErrUnexpectedEOF for one that ended within, and a
// *FrameError for a bad frame. After an error it must not be called again.
//
//mr:hotpath
func (r *frameReader) next() ([]byte, error) {
	if err := r.fill(frameHeaderBytes); err != nil {
		return nil, err
	}
	head := binary.LittleEndian.Uint64(r.chunk[r.start:])
	sum := binary.LittleEndian.Uint64(r.chunk[r.start+8:])
	if err := r.check(head); err != nil {
		return nil, err
	}
	payload, err := r.payload(int(head & 0xffffffff)) // #nosec G115 -- within the cap, says check
	if err != nil {
		return nil, err
	}
	if want := r.seal.next(head, payload); want != sum {
		return nil, &FrameError{What: "checksum", Got: sum, Want: want}
	}
	return payload, nil
}

// check looks at all of the header but the checksum (T5).
func (r *frameReader) check(head uint64) error {
	length, lane, flags := head&0xffffffff, head>>32&0xff, head>>40
	switch {
	case length > unsigned(r.cap):
		return &FrameError{What: "length", Got: length, Want: unsigned(r.cap)}
	case lane != uint64(r.lane):
		return &FrameError{What: "lane", Got: lane, Want: uint64(r.lane)}
	case flags != 0:
		return &FrameError{What: "flags", Got: flags, Want: 0}
	}
	return nil
}

// payload takes a whole frame with a payload of the given length off the stream.
//
//mr:hotpath
func (r *frameReader) payload(length int) ([]byte, error) {
	size := frameHeaderBytes + length
	if size > len(r.chunk)-r.start && size > ownBufferBytes {
		return r.own(length)
	}
	if err := r.fill(size); err != nil {
		return nil, noEOF(err)
	}
	payload := r.chunk[r.start+frameHeaderBytes : r.start+size : r.start+size]
	r.start += size
	return payload, nil
}

// own reads a payload into memory of its own. What the chunk has of the frame
// was never handed out, so its room is used again. A large payload gets its
// memory as it arrives, twice what is there: a length alone costs ownStepBytes
// at most (T5).
func (r *frameReader) own(length int) ([]byte, error) {
	payload := make([]byte, min(length, ownStepBytes))
	have := copy(payload, r.chunk[r.start+frameHeaderBytes:r.end])
	r.end = r.start
	for {
		if _, err := io.ReadFull(r.src, payload[have:]); err != nil {
			return nil, noEOF(err)
		}
		have = len(payload)
		if have == length {
			return payload, nil
		}
		larger := make([]byte, min(length, 2*have))
		copy(larger, payload)
		payload = larger
	}
}

// fill reads until the chunk holds n bytes from start on, in a new chunk if they
// do not fit or if the rest is not worth a read.
//
// REQUIRES: n <= readChunkBytes.
//
//mr:hotpath
func (r *frameReader) fill(n int) error {
	for r.end-r.start < n {
		rest := len(r.chunk) - r.start
		if rest < n || r.start == r.end && rest < minReadBytes {
			chunk := make([]byte, readChunkBytes) // one per 256 KiB received
			r.end = copy(chunk, r.chunk[r.start:r.end])
			r.chunk, r.start = chunk, 0
		}
		got, err := r.src.Read(r.chunk[r.end:])
		r.end += got
		if err != nil && r.end-r.start < n {
			if err == io.EOF && r.end > r.start {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// noEOF is for ends of the stream within a frame.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
