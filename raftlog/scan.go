package raftlog

import (
	"errors"
	"fmt"
	"io"
)

// scan is what one segment says, before it is known what came before it. Scans
// of different segments can be made at the same time.
type scan struct {
	seg     *segment
	data    []byte // of the file, as far as it was read
	size    int64  // of the file
	batches []scannedBatch
	err     error // the segment could not be read, which says nothing about its content
}

// scannedBatch is a batch with a valid header.
type scannedBatch struct {
	header
	intact bool // the body is as well
}

// records returns the body of a batch, or as much of it as the file has.
func (s *scan) records(b *scannedBatch) []byte {
	return s.data[b.offset+batchHeaderBytes : min(int64(b.offset)+int64(b.length), int64(len(s.data)))]
}

// readPieceBytes is how far a scan reads ahead: it ends with the batches, not
// with the file.
const readPieceBytes = 1 << 20

// scanSegment finds the batches of a segment from the offset on. It goes on
// behind damage: every sector is tried. following is the
// sequence with which the next segment begins, 0 when that is not known; the
// scan ends in front of it.
func scanSegment(seg *segment, from int64, following uint64, hash *hasher, buf []byte) *scan {
	s := &scan{seg: seg}
	s.size, s.err = seg.file.Size()
	if s.err == nil && s.size > maxSegmentFileBytes {
		s.err = fmt.Errorf("%s: %d bytes are more than a segment can have", seg.name, s.size)
	}
	if s.err != nil {
		return s
	}
	s.data = buf[:0]
	if int64(cap(buf)) < s.size {
		s.data = make([]byte, 0, s.size)
	}
	// What is in front was not asked for; it stays whatever the buffer had.
	from = min(from, s.size)
	s.data = s.data[:from]

	segment := uint64(seg.number)
	for offset := from; offset+batchHeaderBytes <= s.size; {
		if !s.read(offset + batchHeaderBytes) {
			return s
		}
		var b scannedBatch
		err := b.decode(s.data[offset:], segment, uint32(offset), hash)
		switch {
		case err == nil:
		case !errors.Is(err, errNoBatch):
			s.err = fmt.Errorf("%s at offset %d: %w", seg.name, offset, err)
			return s
		default:
			if n := len(s.batches); following != 0 && n > 0 && s.batches[n-1].sequence+1 == following {
				return s
			}
			if offset = s.findHeader(offset+batchAlign, hash); offset < 0 {
				return s
			}
			continue
		}
		if following != 0 && b.sequence >= following {
			return s // cut by an earlier recovery, which went on in the next segment
		}
		end := offset + int64(b.length)
		if !s.read(min(end, s.size)) {
			return s
		}
		b.intact = end <= s.size && hash.sum(segment, b.offset, s.records(&b)) == b.bodySum
		s.batches = append(s.batches, b)
		offset = end
	}
	return s
}

// read makes sure that the data reaches to end.
func (s *scan) read(end int64) bool {
	have := int64(len(s.data))
	if have >= end {
		return true
	}
	end = min(max(end, have+readPieceBytes), s.size)
	n, err := s.seg.file.ReadAt(s.data[have:end], have)
	s.data = s.data[:have+int64(n)]
	if err != nil && !(errors.Is(err, io.EOF) && have+int64(n) == end) {
		s.err = fmt.Errorf("read %s: %w", s.seg.name, err)
		return false
	}
	return true
}

// findHeader returns the next place from offset on where a valid header is, -1
// when there is none or the segment cannot be read.
func (s *scan) findHeader(offset int64, hash *hasher) int64 {
	if !s.read(s.size) {
		return -1
	}
	var h header
	for ; offset+batchHeaderBytes <= s.size; offset += batchAlign {
		if h.decode(s.data[offset:], uint64(s.seg.number), uint32(offset), hash) == nil {
			return offset
		}
	}
	return -1
}

// scanner makes the scans of a list of segments, in order, ahead of who uses
// them. Only how many are made at a time depends on the number of goroutines.
type scanner struct {
	uuid      [16]byte
	segments  []*segment
	from      int64    // offset in the first one
	following []uint64 // sequence behind each
	parallel  int      // 0: in the caller's goroutine

	started int
	results []chan *scan
	buffers chan []byte
}

func (s *scanner) run(use func(*scan) error) (err error) {
	if s.parallel == 0 {
		hash := newHasher(s.uuid)
		var buf []byte
		for i := range s.segments {
			sc := s.scan(i, hash, buf)
			if sc.err != nil {
				return sc.err
			}
			if err := use(sc); err != nil {
				return err
			}
			buf = sc.data
		}
		return nil
	}

	// One more than run at a time, so that none waits for the caller.
	s.results = make([]chan *scan, len(s.segments))
	s.buffers = make(chan []byte, s.parallel+1)
	defer func() {
		for _, c := range s.results[:s.started] {
			if c != nil {
				<-c // the goroutine is done with the file
			}
		}
	}()
	for range s.parallel + 1 {
		s.buffers <- nil
		s.start()
	}
	for i := range s.segments {
		sc := <-s.results[i]
		s.results[i] = nil
		if sc.err != nil {
			return sc.err
		}
		if err := use(sc); err != nil {
			return err
		}
		s.buffers <- sc.data
		s.start()
	}
	return nil
}

// start scans the next segment in a goroutine that ends with the scan. run
// waits for all of them.
func (s *scanner) start() {
	i := s.started
	if i == len(s.segments) {
		return
	}
	s.started++
	result, buf := make(chan *scan, 1), <-s.buffers
	s.results[i] = result
	go func() { result <- s.scan(i, newHasher(s.uuid), buf) }()
}

func (s *scanner) scan(i int, hash *hasher, buf []byte) *scan {
	from := int64(0)
	if i == 0 {
		from = s.from
	}
	return scanSegment(s.segments[i], from, s.following[i], hash, buf)
}
