package raftlog

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// dataSync leaves time stamps out, which spares a metadata write per sync. The
// writer, its only caller on the hot path, never closes a file it syncs.
func dataSync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		runtime.KeepAlive(f)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
	}
}

func dropCache(f *os.File) error {
	err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	runtime.KeepAlive(f)
	if err != nil {
		return &os.PathError{Op: "fadvise", Path: f.Name(), Err: err}
	}
	return nil
}
