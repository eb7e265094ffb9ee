package raftlog

import (
	"errors"
	"io"
	"syscall"
)

// A process that has run out of file descriptors must not lose its log. What the
// log needs in order to go on, it has open from the start:
//
//	lock, segments   as long as they are there
//	spares           the files of the next segments; recycling keeps them open too
//	directory        to make renames durable
//
// What is left is a segment without a spare at hand, as when the reserve could not
// be filled: then the log goes on in the segment that it has, beyond its size, and
// tries again with each batch. Meanwhile the reserve is missing, so DiskFull is true
// and callers hold back.

// dirKeeper is an FS that syncs one directory through a descriptor that stays open.
type dirKeeper struct {
	FS
	dir  string
	open dirSyncer
}

// dirSyncer is a directory that is open. *os.File is one.
type dirSyncer interface {
	io.Closer
	Sync() error
}

// keepDir opens dir, if fsys can keep a directory open. Others are asked for each
// sync anew.
func keepDir(fsys FS, dir string) (FS, error) {
	opener, ok := fsys.(interface {
		OpenDir(dir string) (dirSyncer, error)
	})
	if !ok {
		return fsys, nil
	}
	open, err := opener.OpenDir(dir)
	if err != nil || open == nil {
		return fsys, err
	}
	return &dirKeeper{FS: fsys, dir: dir, open: open}, nil
}

// SyncDir makes the entries of dir durable.
func (k *dirKeeper) SyncDir(dir string) error {
	if dir == k.dir {
		return k.open.Sync()
	}
	return k.FS.SyncDir(dir)
}

// letDir closes what keepDir has opened.
func letDir(fsys FS) error {
	if k, ok := fsys.(*dirKeeper); ok {
		return k.open.Close()
	}
	return nil
}

// noFileError says that a file could not be made for want of a descriptor. Nothing
// has happened then.
type noFileError struct{ err error }

func (e *noFileError) Error() string { return e.err.Error() }
func (e *noFileError) Unwrap() error { return e.err }

func isOutOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
