package raftlog

import (
	"errors"
	"io"
	"os"
)

// OSFS is the file system of the operating system. What it makes can be used by
// its owner only, and what it finds is restricted to that.
type OSFS struct{}

// Permissions of what the log makes.
const (
	dirMode  os.FileMode = 0o700
	fileMode os.FileMode = 0o600
)

var _ FS = OSFS{}

// MkdirAll makes dir, for its owner only. One that exists keeps its permissions: it may be a parent
// that holds other things.
func (OSFS) MkdirAll(dir string) error { return os.MkdirAll(dir, dirMode) }

// Restrict takes a directory that belongs to the log from everybody but its
// owner.
func (OSFS) Restrict(dir string) error { return restrictDir(dir) }

// Create makes an empty file.
func (OSFS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// Open opens a file that exists.
func (OSFS) Open(name string) (File, error) { return openOS(name, os.O_RDWR) }

// Remove deletes a file.
func (OSFS) Remove(name string) error { return os.Remove(name) }

// Rename gives a file a new name.
func (OSFS) Rename(from, to string) error { return os.Rename(from, to) }

// List returns the sorted names in dir.
func (OSFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// OpenDir opens a directory so that it can be synced when the process has no file
// descriptor left. It returns nil where directories are not synced.
func (OSFS) OpenDir(dir string) (dirSyncer, error) { return openDir(dir) }

// SyncDir makes the entries of dir durable.
func (OSFS) SyncDir(dir string) error { return syncDir(dir) }

// Lock takes an advisory lock on the file name, which it creates.
func (OSFS) Lock(name string) (io.Closer, error) {
	f, err := openOwn(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		// The file was only opened for the lock; its own error adds nothing.
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func openOS(name string, flags int) (File, error) {
	f, err := openOwn(name, flags)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// openOwn opens a file that only its owner may use, from here on.
func openOwn(name string, flags int) (*os.File, error) {
	// All names are made here, of numbers: none comes from a peer.
	f, err := os.OpenFile(name, flags, fileMode) // #nosec G304 -- see above
	if err != nil {
		return nil, err
	}
	if err := restrictFile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

type osFile struct{ *os.File }

func (f osFile) Sync() error { return dataSync(f.File) }

func (f osFile) DropCache() error { return dropCache(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
