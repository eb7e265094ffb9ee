package snapfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"

	"multiraft/raftlog"
)

// Window is how far chunks may be ahead of the first that is missing.
const Window = 64

// Part is a snapshot that is being received. Its file stays when it is closed,
// and what is in it is found again by the next one of the same snapshot (P3).
//
//	           next            next+Window
//	─ complete ─┼─▪▪──▪─▪──────────┤
//	            ahead: a bit per chunk
type Part struct {
	dir   *Dir
	file  raftlog.File // nil when it is finished
	name  string
	info  Info
	total totaler // over the chunks before next

	next  uint64 // all chunks before are there
	ahead uint64 // bit k: chunk next+k is there, too; bit 0 is not set
	sums  [Window]uint64
	found bool // Resume has come to its end
	buf   []byte
	dirty int
}

// Receive opens what was received of a snapshot before, or begins with nothing.
// A file of that name that is of another snapshot is replaced. [Part.Resume] must
// be called until it is done.
func (d *Dir) Receive(info *Info) (*Part, error) {
	if err := d.prepare(); err != nil {
		return nil, err
	}
	p := &Part{dir: d, info: *info, name: d.file(Name{info.Group, info.Index}, partSuffix)}
	p.total.reset(&p.info)
	err := p.reopen()
	switch {
	case err != nil:
		return nil, err
	case p.file != nil:
		return p, nil
	}
	if p.file, err = d.fs.Create(p.name); err != nil {
		return nil, err
	}
	if _, err = p.file.WriteAt(p.info.header, 0); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	p.found = true
	return p, nil
}

// reopen opens the file when it is there and of this snapshot.
func (p *Part) reopen() error {
	file, err := p.dir.fs.Open(p.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	size, err := file.Size()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	head := make([]byte, len(p.info.header))
	if size < int64(len(head)) || readAt(file, head, 0) != nil || !bytes.Equal(head, p.info.header) {
		return file.Close()
	}
	p.file = file
	if err := p.again(head, 0); err != nil {
		return errors.Join(err, p.Close())
	}
	return nil
}

// again writes what was found in the file. It may be there for readers only: when a
// sync has failed, the pages count as clean and no other sync brings them to the
// disk.
func (p *Part) again(b []byte, offset int64) error {
	if _, err := p.file.WriteAt(b, offset); err != nil {
		return err
	}
	return p.written(len(b))
}

// written counts bytes that are not synced, and syncs when there are many.
func (p *Part) written(n int) error {
	if p.dirty += n; p.dirty < syncBytes || p.dir.noSync {
		return nil
	}
	p.dirty = 0
	return p.file.Sync()
}

// Resume looks whether the next chunk is there from before, and says whether
// that is all: the first that is not right ends it.
func (p *Part) Resume() (done bool, err error) {
	if p.found || p.file == nil {
		return true, nil
	}
	p.found = true
	if p.Complete() {
		return true, nil
	}
	size, err := p.file.Size()
	if err != nil {
		return true, err
	}
	n := p.info.RecordBytes(p.next)
	if p.info.offset(p.next)+int64(n) > size {
		return true, nil
	}
	if cap(p.buf) < n {
		p.buf = make([]byte, n)
	}
	record := p.buf[:n]
	if err := readAt(p.file, record, p.info.offset(p.next)); err != nil {
		return true, err
	}
	sum, err := p.info.checkChunk(p.next, record)
	if err != nil {
		return true, nil // it was not written to its end, and comes again
	}
	if err := p.again(record, p.info.offset(p.next)); err != nil {
		return true, err
	}
	p.total.add(sum)
	p.next++
	p.found = false
	return false, nil
}

// Info describes the snapshot. It must not be changed.
func (p *Part) Info() *Info { return &p.info }

// Complete says whether all chunks are there.
func (p *Part) Complete() bool { return p.next == p.info.Chunks }

// Next returns the first chunk that is missing, the number of chunks when none
// is.
func (p *Part) Next() uint64 { return p.next }

// Has says whether chunk n is there.
func (p *Part) Has(n uint64) bool {
	return n < p.next || n-p.next < Window && p.ahead&(1<<(n-p.next)) != 0
}

// Put checks a record and writes it to its place. One that is there already is
// dropped. After an error of the disk the part can only be closed or removed;
// after a [ErrChunk] or [ErrWindow] it is as it was.
func (p *Part) Put(n uint64, record []byte) error {
	switch {
	case p.file == nil:
		return ErrFinished
	case n >= p.info.Chunks:
		return fmt.Errorf("%w: chunk %d of %d", ErrChunk, n, p.info.Chunks)
	case p.Has(n):
		return nil
	case n-p.next >= Window:
		return fmt.Errorf("%w: chunk %d, the first missing is %d", ErrWindow, n, p.next)
	case len(record) != p.info.RecordBytes(n):
		return fmt.Errorf("%w: chunk %d has %d bytes, not %d", ErrChunk, n, len(record), p.info.RecordBytes(n))
	}
	sum, err := p.info.checkChunk(n, record)
	if err != nil {
		return err
	}
	if _, err := p.file.WriteAt(record, p.info.offset(n)); err != nil {
		return err
	}
	if err := p.written(len(record)); err != nil {
		return err
	}
	p.sums[n%Window] = sum
	p.ahead |= 1 << (n - p.next)
	ready := bits.TrailingZeros64(^p.ahead)
	for range ready {
		p.total.add(p.sums[p.next%Window])
		p.next++
	}
	p.ahead >>= ready
	return nil
}

// Commit makes the snapshot durable under its name. On an error other than
// [ErrIncomplete] there is none, and what was received is gone.
func (p *Part) Commit() error {
	switch {
	case p.file == nil:
		return ErrFinished
	case !p.Complete():
		return ErrIncomplete
	case p.total.sum() != p.info.total:
		err := &DamageError{p.name, p.info.FileBytes() - trailerBytes, fmt.Errorf("%w: the checksum over all chunks does not match", ErrTrailer)}
		return errors.Join(err, p.Remove())
	}
	if err := finish(p.dir, p.file, &p.info); err != nil {
		return errors.Join(err, p.Remove())
	}
	p.file = nil
	return p.dir.publish(p.name, Name{p.info.Group, p.info.Index})
}

// Close closes the part and leaves its file for later.
func (p *Part) Close() error {
	if p.file == nil {
		return nil
	}
	file := p.file
	p.file = nil
	return file.Close()
}

// Remove closes the part and drops what was received.
func (p *Part) Remove() error {
	if p.file == nil {
		return nil
	}
	// A file that was closed already says so; it is removed all the same.
	_ = p.file.Close()
	p.file = nil
	return p.dir.fs.Remove(p.name)
}
