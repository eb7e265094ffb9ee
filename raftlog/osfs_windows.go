package raftlog

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// syncDir does nothing: directories cannot be flushed here, and the file
// system journals its names.
func syncDir(string) error { return nil }

func openDir(string) (dirSyncer, error) { return nil, nil }

func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return fmt.Errorf("%s: %w", f.Name(), ErrLocked)
	}
	return err
}

// restrictDir and restrictFile do nothing: who may use what follows from the
// directory above, which is for who runs the store to choose.
func restrictDir(string) error { return nil }

func restrictFile(*os.File) error { return nil }
