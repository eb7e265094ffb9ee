package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"multiraft/wire"
)

// Inspection is the log of a store that is not open, as Open would find it. Nothing
// is written, so that a disk can be looked at before anybody decides about it.
type Inspection struct {
	log          *Log
	segmentBytes int64
}

// Inspect reads the log in a directory as [Open] does, up to where that begins to
// write, and holds its lock. Options need neither cluster nor store: they are those
// of the directory. What Open would refuse, Inspect refuses as well.
//
// A torn tail is left out, as Open would cut it, and damage marks its groups.
func Inspect(o Options) (*Inspection, error) {
	if o.FS == nil {
		o.FS = OSFS{}
	}
	found, err := PeekIdentity(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	o.Cluster, o.Store = found.Cluster, found.Store
	if o.SegmentBytes == 0 {
		if o.SegmentBytes, err = segmentBytesOf(o.FS, o.Dir); err != nil {
			return nil, err
		}
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.NoSync = true // what is only read need not be synced
	o = o.withDefaults()
	lock, err := o.FS.Lock(filepath.Join(o.Dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", o.Dir, err)
	}
	l := newLog(o, lock)
	r := recovery{l: l}
	if err := errors.Join(r.look(), r.close()); err != nil {
		return nil, errors.Join(fmt.Errorf("inspect %s: %w", o.Dir, err), l.closeFiles())
	}
	return &Inspection{log: l, segmentBytes: o.SegmentBytes}, nil
}

// Identity returns who the store is.
func (i *Inspection) Identity() Identity { return i.log.Identity() }

// SegmentBytes returns the size of the segments that the log was last opened with.
func (i *Inspection) SegmentBytes() int64 { return i.segmentBytes }

// Groups returns the sorted ids of all groups of which something is stored.
func (i *Inspection) Groups() []wire.GroupID { return i.log.Groups() }

// Group returns the handle of a group.
func (i *Inspection) Group(id wire.GroupID) *Group { return i.log.Group(id) }

// Close releases the directory.
func (i *Inspection) Close() error { return i.log.closeFiles() }

// PeekIdentity reads whose a directory is, without a lock: it may be open. An error
// that answers errors.Is with [io/fs.ErrNotExist] says that it is nobody's.
func PeekIdentity(fsys FS, dir string) (Identity, error) {
	if fsys == nil {
		fsys = OSFS{}
	}
	var copies [2]identityCopy
	var errs [2]error
	for i, name := range identityNames {
		errs[i] = readIdentity(fsys, filepath.Join(dir, name), &copies[i])
	}
	switch {
	case errs[0] == nil && (errs[1] != nil || copies[0].generation >= copies[1].generation):
		return copies[0].Identity, nil
	case errs[1] == nil:
		return copies[1].Identity, nil
	case errors.Is(errs[0], fs.ErrNotExist) && errors.Is(errs[1], fs.ErrNotExist):
		return Identity{}, fmt.Errorf("%s: not the directory of a store: %w", dir, fs.ErrNotExist)
	}
	return Identity{}, fmt.Errorf("%s: %w", dir, errors.Join(errs[:]...))
}

// segmentBytesOf returns the size of the spares in a directory, or of its segments:
// the smallest, as one large record makes one longer. Zero means that there is none.
func segmentBytesOf(fsys FS, dir string) (int64, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return 0, err
	}
	for _, prefix := range [...]string{sparePrefix, segmentPrefix} {
		smallest := int64(0)
		for _, base := range names {
			if _, ok := parseName(base, prefix); !ok {
				continue
			}
			f, err := fsys.Open(filepath.Join(dir, base))
			if err != nil {
				return 0, err
			}
			size, err := f.Size()
			if err = errors.Join(err, f.Close()); err != nil {
				return 0, err
			}
			if size >= minSegmentBytes && size <= maxSegmentBytes && (smallest == 0 || size < smallest) {
				smallest = size
			}
		}
		if smallest != 0 {
			return smallest, nil
		}
	}
	return 0, nil
}
