package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"multiraft/wire"
)

// What a child of [Crash] writes to its parent is a sequence of records:
//
//	 0  1      4        8
//	┌──┬──────┬────────┬──────┐
//	│k │ zero │ length │ body │     k is the kind, length that of the body, little-endian
//	└──┴──────┴────────┴──────┘
//
// In this order: differences found while catching up, a state per replica, the
// end of the states, then ceilings and acknowledgements mixed. Nothing is ever
// answered, so the parent can kill the child between any two bytes.
type recordKind uint8

const (
	// recordState is what one replica's machine holds: place of the group and
	// number of the store (u32 each), index, count, digest, duplicates, first
	// duplicate, index of the snapshot it began with (u64 each), then the words of the bitmap of sequence numbers.
	recordState recordKind = iota + 1
	// recordDifference is a Difference as JSON.
	recordDifference
	recordStatesEnd
	// recordCeiling says that sequence numbers below it (u64) may be used from
	// now on. The child writes it before it uses them.
	recordCeiling
	// recordAcks is a run of acknowledged writes: place of the group (u32) and
	// sequence number (u64) each.
	recordAcks
)

const (
	recordHeaderBytes = 8
	stateHeadBytes    = 2*4 + 6*8
	ackBytes          = 4 + 8
	// pipeBufferBytes are read at a time.
	pipeBufferBytes = 64 << 10
	// maxRecordBytes holds a bitmap of half a billion sequence numbers.
	maxRecordBytes = 64 << 20
	// maxSequence bounds what a bitmap is grown for.
	maxSequence = (maxRecordBytes - stateHeadBytes) * 8
)

// errBadRecord is wrapped by every error about bytes in the pipe that make no
// sense.
var errBadRecord = errors.New("bad record from the child")

// pipeWriter writes records. It is safe for concurrent use; a record is one
// write, so records of several goroutines do not mix.
type pipeWriter struct {
	mu  sync.Mutex
	out io.Writer
}

// write completes buf, which begins with room for the header, and writes it.
func (w *pipeWriter) write(kind recordKind, buf []byte) error {
	clear(buf[:recordHeaderBytes])
	buf[0] = byte(kind)
	binary.LittleEndian.PutUint32(buf[4:], uint32(len(buf)-recordHeaderBytes))
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.out.Write(buf)
	return err
}

// newRecord returns buf emptied, with room for the header.
func newRecord(buf []byte) []byte {
	var header [recordHeaderBytes]byte
	return append(buf[:0], header[:]...)
}

func appendState(buf []byte, place int, s *replicaState) []byte {
	le := binary.LittleEndian
	buf = le.AppendUint32(buf, uint32(place))
	buf = le.AppendUint32(buf, uint32(s.store))
	for _, v := range []uint64{uint64(s.index), s.count, s.digest, s.duplicates, s.firstDuplicate, uint64(s.restored)} {
		buf = le.AppendUint64(buf, v)
	}
	return s.sequences.appendTo(buf)
}

func decodeState(body []byte) (place uint32, s replicaState, err error) {
	if len(body) < stateHeadBytes || (len(body)-stateHeadBytes)%8 != 0 {
		return 0, s, fmt.Errorf("%w: state of %d bytes", errBadRecord, len(body))
	}
	le := binary.LittleEndian
	place = le.Uint32(body)
	s.store = wire.StoreID(le.Uint32(body[4:]))
	s.index = wire.Index(le.Uint64(body[8:]))
	s.count = le.Uint64(body[16:])
	s.digest = le.Uint64(body[24:])
	s.duplicates = le.Uint64(body[32:])
	s.firstDuplicate = le.Uint64(body[40:])
	s.restored = wire.Index(le.Uint64(body[48:]))
	s.sequences = bitmapFrom(body[stateHeadBytes:])
	return place, s, nil
}

func appendAck(buf []byte, place uint32, sequence uint64) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, place)
	return binary.LittleEndian.AppendUint64(buf, sequence)
}

// decodeAcks adds acknowledged writes to acked. Sequence numbers must be below
// ceiling.
func decodeAcks(body []byte, acked []bitmap, ceiling uint64) (n uint64, err error) {
	if len(body)%ackBytes != 0 {
		return 0, fmt.Errorf("%w: acknowledgements of %d bytes", errBadRecord, len(body))
	}
	for ; len(body) > 0; body = body[ackBytes:] {
		place, sequence := binary.LittleEndian.Uint32(body), binary.LittleEndian.Uint64(body[4:])
		if int(place) >= len(acked) || sequence >= ceiling {
			return n, fmt.Errorf("%w: acknowledgement of write %d to group %d, ceiling %d", errBadRecord, sequence, groupID(int(place)), ceiling)
		}
		if !acked[place].set(sequence) {
			return n, fmt.Errorf("%w: write %d to group %d acknowledged twice", errBadRecord, sequence, groupID(int(place)))
		}
		n++
	}
	return n, nil
}

func decodeCeiling(body []byte) (uint64, error) {
	if len(body) != 8 {
		return 0, fmt.Errorf("%w: ceiling of %d bytes", errBadRecord, len(body))
	}
	ceiling := binary.LittleEndian.Uint64(body)
	if ceiling > maxSequence {
		return 0, fmt.Errorf("%w: ceiling %d", errBadRecord, ceiling)
	}
	return ceiling, nil
}

// pipeReader reads records.
type pipeReader struct {
	in   *bufio.Reader
	body []byte
}

func newPipeReader(r io.Reader) *pipeReader {
	return &pipeReader{in: bufio.NewReaderSize(r, pipeBufferBytes)}
}

// next returns the next record. The body is valid until the next call. At the
// end of the pipe it returns io.EOF, within a record io.ErrUnexpectedEOF.
func (r *pipeReader) next() (recordKind, []byte, error) {
	var header [recordHeaderBytes]byte
	if _, err := io.ReadFull(r.in, header[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(header[4:])
	if n > maxRecordBytes {
		return 0, nil, fmt.Errorf("%w: %d bytes", errBadRecord, n)
	}
	// Room is made as bytes arrive, whatever the length says.
	r.body = r.body[:0]
	for len(r.body) < int(n) {
		have := len(r.body)
		r.body = slices.Grow(r.body, min(int(n)-have, max(have, pipeBufferBytes)))
		r.body = r.body[:min(int(n), cap(r.body))]
		if _, err := io.ReadFull(r.in, r.body[have:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	return recordKind(header[0]), r.body, nil
}
