package snapfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"multiraft/raftlog"
	"multiraft/wire"
)

// Name stands for the snapshot of one group at one entry. File names are made of
// these two numbers and of nothing else.
type Name struct {
	Group wire.GroupID
	Index wire.Index
}

const (
	wholeSuffix     = ".snap"
	partSuffix      = ".part"
	temporarySuffix = ".tmp"
)

func (n Name) base(suffix string) string {
	return fmt.Sprintf("%016x-%016x%s", uint64(n.Group), uint64(n.Index), suffix)
}

// parseName is the inverse of base. It accepts what base writes and nothing
// else.
func parseName(base string) (n Name, suffix string, ok bool) {
	if len(base) < 33 || base[16] != '-' {
		return Name{}, "", false
	}
	group, err := strconv.ParseUint(base[:16], 16, 64)
	if err != nil {
		return Name{}, "", false
	}
	index, err := strconv.ParseUint(base[17:33], 16, 64)
	if err != nil {
		return Name{}, "", false
	}
	n, suffix = Name{wire.GroupID(group), wire.Index(index)}, base[33:]
	return n, suffix, n.base(suffix) == base
}

// Dir is a directory of snapshots. It is made when the first is written.
type Dir struct {
	fs     raftlog.FS
	path   string
	noSync bool

	mu   sync.Mutex // guards made
	made bool
}

// Contents are what OpenDir found.
type Contents struct {
	// Whole are the complete snapshots, Parts those that were being received; both
	// by group and index.
	Whole, Parts []Name
	// Foreign are names that are not ours. They are left alone.
	Foreign []string
}

// OpenDir lists a directory and removes what writers left behind that did not
// come to their end. The names it returns are durable: a process may have been
// killed between giving one and syncing the directory. noSync leaves out every sync.
func OpenDir(fsys raftlog.FS, path string, noSync bool) (*Dir, Contents, error) {
	d := &Dir{fs: fsys, path: path, noSync: noSync}
	var c Contents
	names, err := fsys.List(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, c, nil
	}
	if err != nil {
		return nil, c, err
	}
	if !noSync {
		if err := errors.Join(fsys.SyncDir(filepath.Dir(path)), fsys.SyncDir(path)); err != nil {
			return nil, c, err
		}
	}
	for _, base := range names {
		name, suffix, ok := parseName(strings.TrimSuffix(base, temporarySuffix))
		switch {
		case ok && strings.HasSuffix(base, temporarySuffix):
			if err := fsys.Remove(filepath.Join(path, base)); err != nil {
				return nil, c, err
			}
		case ok && suffix == wholeSuffix:
			c.Whole = append(c.Whole, name)
		case ok && suffix == partSuffix:
			c.Parts = append(c.Parts, name)
		default:
			c.Foreign = append(c.Foreign, base)
		}
	}
	for _, list := range [][]Name{c.Whole, c.Parts} {
		slices.SortFunc(list, func(a, b Name) int {
			return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Index, b.Index))
		})
	}
	return d, c, nil
}

// List returns the complete snapshots in a directory, by group and index, and
// changes nothing. There are none where there is no directory.
func List(fsys raftlog.FS, path string) ([]Name, error) {
	names, err := fsys.List(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []Name
	for _, base := range names {
		if name, suffix, ok := parseName(base); ok && suffix == wholeSuffix {
			list = append(list, name)
		}
	}
	slices.SortFunc(list, func(a, b Name) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Index, b.Index))
	})
	return list, nil
}

// Path returns the name of the file of a complete snapshot in a directory.
func Path(dir string, n Name) string { return filepath.Join(dir, n.base(wholeSuffix)) }

// prepare makes the directory, durably.
func (d *Dir) prepare() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.made {
		return nil
	}
	if err := d.fs.MkdirAll(d.path); err != nil {
		return err
	}
	if !d.noSync {
		// Always, as a start that made it may have died before it was synced.
		if err := d.fs.SyncDir(filepath.Dir(d.path)); err != nil {
			return err
		}
	}
	d.made = true
	return nil
}

func (d *Dir) file(n Name, suffix string) string { return filepath.Join(d.path, n.base(suffix)) }

// publish gives a file that is complete and durable its name (P1). Where that
// does not succeed the file is gone, or nobody knows whether it is: nothing may
// rely on it, and the next start may find it.
func (d *Dir) publish(from string, n Name) error {
	to := d.file(n, wholeSuffix)
	if err := d.fs.Rename(from, to); err != nil {
		return errors.Join(err, d.fs.Remove(from))
	}
	if d.noSync {
		return nil
	}
	if err := d.fs.SyncDir(d.path); err != nil {
		return errors.Join(err, d.fs.Remove(to))
	}
	return nil
}

// Remove deletes a snapshot. One that is open can be read on, as far as the
// operating system lets it.
func (d *Dir) Remove(n Name) error { return d.remove(n, wholeSuffix) }

// RemovePart deletes what was received of a snapshot.
func (d *Dir) RemovePart(n Name) error { return d.remove(n, partSuffix) }

// remove does not sync the directory: a file that comes back after a crash is
// one that the next start deals with.
func (d *Dir) remove(n Name, suffix string) error {
	if err := d.fs.Remove(d.file(n, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
