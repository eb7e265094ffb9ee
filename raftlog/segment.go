package raftlog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"multiraft/internal/planted"
)

// segment is a file of the log that batches were written to, or will be next.
type segment struct {
	number uint32
	name   string // full path
	file   File
	// size is what the file was filled to. Batches are not written behind it,
	// except one that no segment could hold.
	size int64
	// used is where the last batch ended; live is the size of the records in it
	// that the index refers to. Only the writer changes them while the log is
	// open.
	used    atomic.Int64
	live    atomic.Int64
	batches atomic.Uint32 // written since Open
	// uncached says that its page cache was let go of. It belongs to Maintain.
	uncached bool
}

// segmentTable is an immutable list of segments, sorted by number. Readers load
// it without a lock; rotation and recycling put a new one in its place.
type segmentTable struct{ segments []*segment }

// get returns the segment with the number, nil when it is not there any more.
//
//mr:hotpath
func (t *segmentTable) get(number uint32) *segment {
	// Numbers are nearly dense: only recovery leaves gaps.
	segments := t.segments
	lo, hi := 0, len(segments)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if segments[mid].number < number {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(segments) && segments[lo].number == number {
		return segments[lo]
	}
	return nil
}

func (t *segmentTable) with(s *segment) *segmentTable {
	return &segmentTable{append(slices.Clone(t.segments), s)}
}

func (t *segmentTable) withoutFirst() *segmentTable {
	return &segmentTable{slices.Clone(t.segments[1:])}
}

// Names of the files in the directory. Numbers are 16 hexadecimal digits.
const (
	lockName         = "lock"
	segmentPrefix    = "segment-"
	sparePrefix      = "spare-"
	checkpointPrefix = "checkpoint-"
	temporarySuffix  = ".tmp" // of files that are not complete yet
)

// numberDigits is how many digits the number in a name has.
const numberDigits = 16

// numberedName returns the path of a file with a number.
func (o *Options) numberedName(prefix string, number uint64) string {
	var digits [numberDigits]byte
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = "0123456789abcdef"[number&15]
		number >>= 4
	}
	return o.path(prefix + string(digits[:]))
}

// parseName returns the number in a name made by numberedName.
func parseName(base, prefix string) (number uint64, ok bool) {
	digits, ok := strings.CutPrefix(base, prefix)
	if !ok || len(digits) != numberDigits {
		return 0, false
	}
	for _, c := range []byte(digits) {
		switch {
		case '0' <= c && c <= '9':
			number = number<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			number = number<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return number, true
}

const (
	// reserveSegments are kept ready so that the log, though it can grow no more
	// when the disk is full, still takes what elections and compaction write.
	reserveSegments = 2
	// maxSpares bounds what recycling keeps; more is given back to the disk.
	maxSpares = 4
	// fillPieceBytes is what one step of filling writes and syncs, small enough
	// that a batch behind it waits for well under a millisecond.
	fillPieceBytes = 1 << 20
)

// spares is the stock of files that are ready to become segments: of full size
// and written once, with zeros or with a former life. Writing to such a file
// needs no new space and no new metadata.
type spares struct {
	o *Options

	mu    sync.Mutex // guards ready
	ready []spare

	full atomic.Bool // no space for the reserve

	// The fields below belong to Maintain.
	next    uint64 // number of the next spare
	filling *spare
	filled  int64
}

// zeroPiece is never written to. It takes no memory: all of its pages are the
// system's one page of zeros.
var zeroPiece [fillPieceBytes]byte

type spare struct {
	name string
	file File
}

func (s *spares) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready)
}

func (s *spares) take() (spare, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.ready)
	if n == 0 {
		return spare{}, false
	}
	sp := s.ready[n-1]
	s.ready = s.ready[:n-1]
	return sp, true
}

func (s *spares) put(sp spare) {
	s.mu.Lock()
	s.ready = append(s.ready, sp)
	enough := len(s.ready) >= reserveSegments
	s.mu.Unlock()
	if enough {
		s.setFull(false)
	}
}

func (s *spares) setFull(full bool) {
	if s.full.Swap(full) != full {
		s.o.Events.DiskFull(full)
	}
}

// fill writes one piece of a new spare. It reports whether it did anything.
func (s *spares) fill() (bool, error) {
	if s.filling == nil {
		if s.count() >= reserveSegments {
			return false, nil
		}
		s.next++
		name := s.o.numberedName(sparePrefix, s.next)
		f, err := s.o.FS.Create(name + temporarySuffix)
		if err != nil {
			return false, s.fillFailed(err)
		}
		s.filling, s.filled = &spare{name, f}, 0
	}
	piece := zeroPiece[:min(fillPieceBytes, s.o.SegmentBytes-s.filled)]
	if _, err := s.filling.file.WriteAt(piece, s.filled); err != nil {
		return false, s.fillFailed(err)
	}
	if !s.o.NoSync {
		if err := s.filling.file.Sync(); err != nil {
			return false, s.fillFailed(err)
		}
	}
	s.filled += int64(len(piece))
	if s.filled < s.o.SegmentBytes {
		return true, nil
	}
	if err := s.rename(s.filling.name+temporarySuffix, s.filling.name); err != nil {
		return false, s.fillFailed(err)
	}
	s.put(*s.filling)
	s.filling = nil
	return true, nil
}

// rename gives a file another name, durably. Were two renames of a file to reach
// the disk in the wrong order, a crash between them would leave it with two
// names, and two segments would share its bytes.
func (s *spares) rename(from, to string) error {
	if err := s.o.FS.Rename(from, to); err != nil || s.o.NoSync || planted.Is(planted.SkipDirSync) {
		return err
	}
	return s.o.FS.SyncDir(s.o.Dir)
}

// fillFailed drops the spare that could not be filled. Nothing was in it, so
// this is no failure of the log.
func (s *spares) fillFailed(err error) error {
	if sp := s.filling; sp != nil {
		s.filling = nil
		err = errors.Join(err, sp.file.Close(), s.o.FS.Remove(sp.name+temporarySuffix))
	}
	if isDiskFull(err) || isOutOfFiles(err) {
		s.setFull(true)
		return nil
	}
	return fmt.Errorf("prepare a segment: %w", err)
}

// recycle makes a segment that nothing refers to a spare, or removes it when
// there are enough.
func (s *spares) recycle(seg *segment) error {
	size, err := seg.file.Size()
	if err != nil {
		return errors.Join(err, seg.file.Close())
	}
	if s.count() >= maxSpares || size < s.o.SegmentBytes {
		return errors.Join(seg.file.Close(), s.o.FS.Remove(seg.name))
	}
	if size > s.o.SegmentBytes {
		if err := seg.file.Truncate(s.o.SegmentBytes); err != nil {
			return errors.Join(err, seg.file.Close())
		}
	}
	s.next++
	name := s.o.numberedName(sparePrefix, s.next)
	if err := s.rename(seg.name, name); err != nil {
		return errors.Join(err, seg.file.Close())
	}
	s.put(spare{name, seg.file})
	return nil
}

// newSegment returns a segment that has no file yet.
func (s *spares) newSegment(number uint32) *segment {
	return &segment{number: number, name: s.o.numberedName(segmentPrefix, uint64(number)), size: s.o.SegmentBytes}
}

// activate makes a file the segment, durably. Without a spare the segment starts
// empty and grows, which is slower, but only until the next.
func (s *spares) activate(seg *segment) error {
	if sp, ok := s.take(); ok {
		if err := s.rename(sp.name, seg.name); err != nil {
			return errors.Join(err, sp.file.Close())
		}
		seg.file = sp.file
		return nil
	}
	f, err := s.o.FS.Create(seg.name)
	if isOutOfFiles(err) {
		return &noFileError{err}
	}
	if err != nil {
		return err
	}
	if !s.o.NoSync && !planted.Is(planted.SkipDirSync) {
		if err := s.o.FS.SyncDir(s.o.Dir); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	seg.file = f
	return nil
}

func (s *spares) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, sp := range s.ready {
		errs = append(errs, sp.file.Close())
	}
	s.ready = nil
	if sp := s.filling; sp != nil {
		s.filling = nil
		errs = append(errs, sp.file.Close(), s.o.FS.Remove(sp.name+temporarySuffix))
	}
	return errors.Join(errs...)
}

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, ErrDiskFull)
}
