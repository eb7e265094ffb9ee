package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// FS is the small part of a file system that the log needs. The operating
// system's is [OSFS]; tests and the simulator pass one that loses, tears and
// refuses writes. Names are full paths. Errors answer errors.Is with
// [io/fs.ErrNotExist] and [io/fs.ErrExist].
//
// A new or renamed file is durable only once SyncDir of its directory has
// returned nil.
type FS interface {
	// MkdirAll makes dir and its parents where they are missing.
	MkdirAll(dir string) error
	// Create makes an empty file for reading and writing, in place of one that
	// may be there.
	Create(name string) (File, error)
	// Open opens a file that exists for reading and writing.
	Open(name string) (File, error)
	// Remove deletes a file.
	Remove(name string) error
	// Rename gives a file a new name, in place of a file that may have it.
	Rename(from, to string) error
	// List returns the base names of what is in dir, sorted.
	List(dir string) ([]string, error)
	// SyncDir makes the entries of dir durable.
	SyncDir(dir string) error
	// Lock takes the lock that name stands for and holds it until the closer is
	// closed or the process ends. A lock held elsewhere is [ErrLocked].
	Lock(name string) (io.Closer, error)
}

// File is an open file. Its methods may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes what was written, and the size, durable. After an error
	// nothing is known about any earlier write that was not synced.
	Sync() error
	// Size returns the current size in bytes.
	Size() (int64, error)
	// Truncate sets the size in bytes.
	Truncate(size int64) error
	// DropCache tells the system that the durable part of the file will hardly be
	// read soon, so that its memory can serve for something else. It is advice:
	// nothing depends on it.
	DropCache() error
}

// makeOwnDir makes the directory of a log. A file system that knows owners takes
// it from everybody else, also when it was there before.
func makeOwnDir(fsys FS, dir string) error {
	if err := makeDir(fsys, dir); err != nil {
		return err
	}
	if owned, ok := fsys.(interface{ Restrict(dir string) error }); ok {
		return owned.Restrict(dir)
	}
	return nil
}

// makeDir makes dir and what is missing above it, durably: level by level, each
// synced into its parent, so that a power cut never takes a log whose directory
// was not durable. The lowest level that is there already may have been made by
// a start that died before it was synced, so it is synced too.
func makeDir(fsys FS, dir string) error {
	levels := []string{filepath.Clean(dir)} // the lowest first
	for {
		top := levels[len(levels)-1]
		_, err := fsys.List(top)
		if err == nil {
			break
		}
		if parent := filepath.Dir(top); errors.Is(err, fs.ErrNotExist) && parent != top {
			levels = append(levels, parent)
			continue
		}
		return err
	}
	for i := len(levels) - 1; i >= 0; i-- {
		if err := fsys.MkdirAll(levels[i]); err != nil {
			return err
		}
		parent := filepath.Dir(levels[i])
		// What may not be read was not made here: whoever did saw to it.
		if err := fsys.SyncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("sync %s: %w", parent, err)
		}
	}
	return nil
}
