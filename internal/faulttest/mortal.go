//go:build linux

package faulttest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"multiraft/raftlog"
)

// Death is a moment at which a store kills itself: at its calls that change the disk,
// counted from the one that makes the first file with a suffix. Where strace counts
// calls of each thread, this counts those of the process, and sees no others.
type Death struct {
	Suffix string
	// At is even for the moment before a call and odd for the one after it: 2 and 3
	// are the first call, which makes the file. Zero means never.
	At int64
}

// mortalFS is the files of the system until death.
type mortalFS struct {
	raftlog.OSFS
	death Death
	calls *atomic.Int64 // since the first file with the suffix; zero before it
}

var _ raftlog.FS = mortalFS{}

func newMortalFS(d Death) mortalFS { return mortalFS{death: d, calls: new(atomic.Int64)} }

// call makes one call that changes the disk.
func (m mortalFS) call(what, name string, do func() error) error {
	n := m.calls.Load()
	if n == 0 && !(what == "create" && strings.HasSuffix(name, m.death.Suffix)) {
		return do()
	}
	n = m.calls.Add(1)
	m.die(2*n, "before", what, name)
	err := do()
	m.die(2*n+1, "after", what, name)
	return err
}

// die does not return when it is time.
func (m mortalFS) die(now int64, when, what, name string) {
	if now != m.death.At {
		return
	}
	fmt.Fprintf(os.Stderr, "%s%s %s of a file %s\n", deathNote, when, what, kindOf(name))
	for {
		// It does not fail, and the process does not outlive it.
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
}

// deathNote begins the last line that a store writes.
const deathNote = "killed "

// kindOf is a file name without the numbers in it.
func kindOf(name string) string { return numbers.ReplaceAllString(filepath.Base(name), "#") }

var numbers = regexp.MustCompile("[0-9a-f]{16}|[0-9]+")

// Create makes a file.
func (m mortalFS) Create(name string) (f raftlog.File, err error) {
	err = m.call("create", name, func() error {
		f, err = m.OSFS.Create(name)
		return err
	})
	return mortalFile{f, m, name}.unless(err)
}

// Open opens a file.
func (m mortalFS) Open(name string) (raftlog.File, error) {
	f, err := m.OSFS.Open(name)
	return mortalFile{f, m, name}.unless(err)
}

// MkdirAll makes a directory.
func (m mortalFS) MkdirAll(dir string) error {
	return m.call("mkdir", dir, func() error { return m.OSFS.MkdirAll(dir) })
}

// Remove deletes a file.
func (m mortalFS) Remove(name string) error {
	return m.call("remove", name, func() error { return m.OSFS.Remove(name) })
}

// Rename gives a file another name.
func (m mortalFS) Rename(from, to string) error {
	return m.call("rename", from, func() error { return m.OSFS.Rename(from, to) })
}

// SyncDir makes names durable.
func (m mortalFS) SyncDir(dir string) error {
	return m.call("sync of names", dir, func() error { return m.OSFS.SyncDir(dir) })
}

// mortalFile is a file of a mortalFS.
type mortalFile struct {
	raftlog.File
	fs   mortalFS
	name string
}

// unless returns nothing after an error.
func (f mortalFile) unless(err error) (raftlog.File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// WriteAt writes.
func (f mortalFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.fs.call("write", f.name, func() error {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	return n, err
}

// Sync makes the file durable.
func (f mortalFile) Sync() error { return f.fs.call("sync", f.name, f.File.Sync) }

// Truncate changes the size.
func (f mortalFile) Truncate(size int64) error {
	return f.fs.call("truncate", f.name, func() error { return f.File.Truncate(size) })
}
