package snapfile

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"multiraft/raftlog"
)

// File is a complete snapshot that is open for reading.
type File struct {
	file raftlog.File
	name string
	info Info
}

// Open opens a snapshot of the directory.
func (d *Dir) Open(n Name) (*File, error) {
	f, err := OpenFile(d.fs, d.file(n, wholeSuffix))
	if err != nil {
		return nil, err
	}
	if f.info.Group != n.Group || f.info.Index != n.Index {
		err := &DamageError{f.name, 0, fmt.Errorf("%w: it is of group %d at %d", ErrHeader, f.info.Group, f.info.Index)}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// OpenFile opens a snapshot of any name. What it says of itself is checked, and
// that the file has the size for it, not the chunks in it.
func OpenFile(fsys raftlog.FS, name string) (*File, error) {
	file, err := fsys.Open(filepath.Clean(name))
	if err != nil {
		return nil, err
	}
	f := &File{file: file, name: name}
	if err := f.load(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// load reads header and trailer.
func (f *File) load() error {
	size, err := f.file.Size()
	if err != nil {
		return err
	}
	head := make([]byte, min(size, headerFixedBytes+maxMembersBytes+sumBytes))
	if err := readAt(f.file, head, 0); err != nil {
		return err
	}
	if _, err := f.info.decodeHeader(head); err != nil {
		return &DamageError{f.name, 0, err}
	}
	at := size - trailerBytes
	if at < int64(len(f.info.header)) {
		return &DamageError{f.name, size, ErrTrailer}
	}
	var tail [trailerBytes]byte
	if err := readAt(f.file, tail[:], at); err != nil {
		return err
	}
	if err := f.info.decodeTrailer(tail[:]); err != nil {
		return &DamageError{f.name, at, err}
	}
	if f.info.FileBytes() != size {
		return &DamageError{f.name, at, fmt.Errorf("%w: file of %d bytes must have %d", ErrTrailer, size, f.info.FileBytes())}
	}
	return nil
}

// readAt fills b from a place where the file has as much.
func readAt(f raftlog.File, b []byte, offset int64) error {
	n, err := f.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Info describes the snapshot. It must not be changed.
func (f *File) Info() *Info { return &f.info }

// Chunk reads the record of chunk n into buf, if that is large enough, and
// checks it.
func (f *File) Chunk(n uint64, buf []byte) (record []byte, err error) {
	record, _, err = f.chunk(n, buf)
	return record, err
}

func (f *File) chunk(n uint64, buf []byte) (record []byte, sum uint64, err error) {
	if n >= f.info.Chunks {
		return nil, 0, fmt.Errorf("%w: chunk %d of %d", ErrChunk, n, f.info.Chunks)
	}
	size := f.info.RecordBytes(n)
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	record = buf[:size]
	if err := readAt(f.file, record, f.info.offset(n)); err != nil {
		return nil, 0, err
	}
	if sum, err = f.info.checkChunk(n, record); err != nil {
		return nil, 0, &DamageError{f.name, f.info.offset(n), err}
	}
	return record, sum, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Reader returns a reader of the state. It checks what it reads; the end of the
// state is only reported when all of it was right.
func (f *File) Reader() *Reader {
	r := &Reader{file: f}
	r.total.reset(&f.info)
	return r
}

// Verify reads the whole file and checks all of it.
func (f *File) Verify() error {
	for r := f.Reader(); ; {
		if err := r.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// Reader reads the state in a snapshot. It implements io.Reader.
type Reader struct {
	file  *File
	buf   []byte
	rest  []byte // of the chunk in buf
	next  uint64
	total totaler
}

// Read reads what follows of the state.
func (r *Reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.rest) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n = copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// fill reads the next chunk.
func (r *Reader) fill() error {
	info := &r.file.info
	if r.next == info.Chunks {
		if r.total.sum() != info.total {
			return &DamageError{r.file.name, info.FileBytes() - trailerBytes, fmt.Errorf("%w: the checksum over all chunks does not match", ErrTrailer)}
		}
		return io.EOF
	}
	record, sum, err := r.file.chunk(r.next, r.buf)
	if err != nil {
		return err
	}
	r.buf, r.rest = record, record[chunkHeadBytes:]
	r.total.add(sum)
	r.next++
	return nil
}

// CopyTo writes the file as it is, checking every chunk on the way.
func (f *File) CopyTo(w io.Writer) error {
	if _, err := w.Write(f.info.header); err != nil {
		return err
	}
	for r := f.Reader(); ; {
		err := r.fill()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			_, err = w.Write(r.buf)
		}
		if err != nil {
			return err
		}
	}
	_, err := w.Write(f.info.appendTrailer(nil))
	return err
}
