package snapfile

import (
	"errors"
	"fmt"

	"multiraft/raftlog"
)

// syncBytes is how much is written between two syncs. The log of the store
// syncs on the same disk all the time, and would wait for all that is dirty.
const syncBytes = 4 << 20

// Writer makes a snapshot: Write the state, then Commit. It implements
// io.Writer. After an error all later calls return it; Abort is then all that is
// left to do.
type Writer struct {
	dir    *Dir
	file   raftlog.File // nil when it is finished
	name   string
	info   Info
	total  totaler
	record []byte // the chunk under construction, with room for its head
	dirty  int
	err    error
}

// Create begins a snapshot.
func (d *Dir) Create(meta Meta) (*Writer, error) {
	if meta.ChunkBytes == 0 {
		meta.ChunkBytes = DefaultChunkBytes
	}
	if err := meta.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	if err := d.prepare(); err != nil {
		return nil, err
	}
	w := &Writer{dir: d, info: Info{Meta: meta}, record: make([]byte, chunkHeadBytes, chunkHeadBytes+meta.ChunkBytes)}
	w.info.encodeHeader()
	w.total.reset(&w.info)
	w.name = d.file(Name{meta.Group, meta.Index}, wholeSuffix+temporarySuffix)
	var err error
	if w.file, err = d.fs.Create(w.name); err != nil {
		return nil, err
	}
	if _, err = w.file.WriteAt(w.info.header, 0); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w, nil
}

// Write appends to the state.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if w.file == nil {
			return n, ErrFinished
		}
		if len(w.record) == cap(w.record) {
			w.writeChunk()
			continue
		}
		k := min(len(p), cap(w.record)-len(w.record))
		w.record = append(w.record, p[:k]...)
		p, n = p[k:], n+k
	}
	return n, w.err
}

// writeChunk writes the chunk under construction.
func (w *Writer) writeChunk() {
	offset := w.info.offset(w.info.Chunks)
	w.total.add(w.info.sealChunk(w.info.Chunks, w.record))
	if _, w.err = w.file.WriteAt(w.record, offset); w.err != nil {
		return
	}
	w.info.Chunks++
	w.info.Bytes += uint64(len(w.record) - chunkHeadBytes)
	if w.info.Bytes > maxBytes {
		w.err = fmt.Errorf("%w: state of more than %d bytes", ErrTrailer, uint64(maxBytes))
		return
	}
	if w.dirty += len(w.record); w.dirty >= syncBytes && !w.dir.noSync {
		w.dirty = 0
		w.err = w.file.Sync()
	}
	w.record = w.record[:chunkHeadBytes]
}

// Commit completes the snapshot and makes it durable under its name. On an error
// there is none, and nothing is left to do.
func (w *Writer) Commit() (*Info, error) {
	if w.file == nil {
		return nil, ErrFinished
	}
	if len(w.record) > chunkHeadBytes && w.err == nil {
		w.writeChunk()
	}
	w.info.total = w.total.sum()
	if w.err == nil {
		w.err = finish(w.dir, w.file, &w.info)
	}
	if w.err != nil {
		return nil, errors.Join(w.err, w.Abort())
	}
	w.file = nil
	if w.err = w.dir.publish(w.name, Name{w.info.Group, w.info.Index}); w.err != nil {
		return nil, w.err
	}
	info := w.info
	return &info, nil
}

// finish writes the trailer behind the chunks, and makes the file durable.
// Unless there is an error it is closed then.
func finish(d *Dir, f raftlog.File, info *Info) error {
	if _, err := f.WriteAt(info.appendTrailer(nil), info.FileBytes()-trailerBytes); err != nil {
		return err
	}
	if !d.noSync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.DropCache(); err != nil {
		return err
	}
	return f.Close()
}

// Abort drops an unfinished snapshot. It does nothing to a finished one.
func (w *Writer) Abort() error {
	if w.file == nil {
		return nil
	}
	// A file that was closed already says so; it is removed all the same.
	_ = w.file.Close()
	w.file = nil
	if w.err == nil {
		w.err = ErrFinished
	}
	return w.dir.fs.Remove(w.name)
}
