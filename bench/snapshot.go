package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"multiraft/engine"
	"multiraft/wire"
)

// snapshotMachine is a machine that makes snapshots, so that the log of its group
// is compacted. What a verification looks at is all in them: a replica that was
// restored and one that applied every command hold the same.
type snapshotMachine struct{ *machine }

var _ engine.Snapshotter = snapshotMachine{}

// The state as it is written, all numbers little-endian:
//
//	 0       8       16      24       32           40                48      56
//	┌───────┬───────┬───────┬────────┬────────────┬─────────────────┬───────┬──────────────────────┐
//	│ group │ index │ count │ digest │ duplicates │ first duplicate │ words │ words of the bitmap… │
//	└───────┴───────┴───────┴────────┴────────────┴─────────────────┴───────┴──────────────────────┘
const snapshotHeadBytes = 7 * 8

// errBadSnapshot is wrapped by every error about a state that makes no sense.
var errBadSnapshot = errors.New("bad snapshot of the benchmark's state machine")

// machineCopy is what Snapshot has captured.
type machineCopy struct {
	group wire.GroupID
	state replicaState
}

// Snapshot copies what the machine remembers: some bytes, and when the run is
// verified a bit per write.
func (m snapshotMachine) Snapshot() (io.WriterTo, error) {
	s := m.state()
	s.sequences = append(bitmap(nil), s.sequences[:(s.sequences.limit()+63)/64]...)
	return &machineCopy{m.group, s}, nil
}

// pieceWords is how much of a bitmap is written and read at a time.
const pieceWords = 4096

func (c *machineCopy) WriteTo(w io.Writer) (written int64, err error) {
	s := &c.state
	buf := make([]byte, 0, max(snapshotHeadBytes, 8*min(len(s.sequences), pieceWords)))
	for _, v := range []uint64{uint64(c.group), uint64(s.index), s.count, s.digest, s.duplicates, s.firstDuplicate, uint64(len(s.sequences))} {
		buf = binary.LittleEndian.AppendUint64(buf, v)
	}
	for words := s.sequences; ; {
		n, err := w.Write(buf)
		written += int64(n)
		if err != nil || len(words) == 0 {
			return written, err
		}
		buf = buf[:0]
		for _, word := range words[:min(len(words), pieceWords)] {
			buf = binary.LittleEndian.AppendUint64(buf, word)
		}
		words = words[len(buf)/8:]
	}
}

// Restore takes in what WriteTo wrote.
func (m snapshotMachine) Restore(index wire.Index, r io.Reader) error {
	var head [snapshotHeadBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return snapshotError(m.group, index, err)
	}
	value := func(at int) uint64 { return binary.LittleEndian.Uint64(head[8*at:]) }
	group, last, words := wire.GroupID(value(0)), wire.Index(value(1)), value(6)
	switch {
	case group != m.group:
		return snapshotError(m.group, index, fmt.Errorf("%w: it is of group %d", errBadSnapshot, group))
	case last > index:
		return snapshotError(m.group, index, fmt.Errorf("%w: entry %d is in it", errBadSnapshot, last))
	case words > maxSequence/64:
		return snapshotError(m.group, index, fmt.Errorf("%w: %d words of sequence numbers", errBadSnapshot, words))
	}
	var sequences bitmap
	buf := make([]byte, 8*min(words, pieceWords))
	for left := words; left > 0; left -= uint64(len(buf) / 8) {
		buf = buf[:8*min(left, pieceWords)]
		if _, err := io.ReadFull(r, buf); err != nil {
			return snapshotError(m.group, index, err)
		}
		sequences = append(sequences, bitmapFrom(buf)...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index, m.count, m.digest = last, value(2), value(3)
	m.duplicates, m.firstDuplicate, m.sequences = value(4), value(5), sequences
	m.restored = index
	return nil
}

func snapshotError(group wire.GroupID, index wire.Index, err error) error {
	return fmt.Errorf("group %d: restore at %d: %w", group, index, err)
}
