//go:build unix

package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func openDir(dir string) (dirSyncer, error) { return os.Open(dir) } //gosec:disable G304 -- as below

func syncDir(dir string) error {
	d, err := os.Open(dir) //gosec:disable G304 -- the directory that the embedder keeps the log in
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockFile takes a lock that conflicts with every other open file description,
// so that it also keeps two stores of one process apart.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", f.Name(), ErrLocked)
	}
	return err
}

// restrictDir takes dir from group and others. Where it is not ours to change, as
// a volume that was mounted for this process, that is left to who made it, unless
// everybody may write to it: then anybody could put another log in its place.
func restrictDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	mode := info.Mode()
	if mode.Perm()&^dirMode == 0 {
		return nil
	}
	err = os.Chmod(dir, mode.Perm()&dirMode)
	const everybodyWrites = 0o002
	if errors.Is(err, fs.ErrPermission) && mode.Perm()&everybodyWrites == 0 {
		return nil
	}
	return err
}

// restrictFile takes a file from group and others.
func restrictFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Mode().Perm()&^fileMode == 0 {
		return err
	}
	return f.Chmod(info.Mode().Perm() & fileMode)
}
