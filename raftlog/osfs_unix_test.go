//go:build unix

package raftlog_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"multiraft/raftlog"
	"multiraft/wire"
)

// What the log makes is its owner's alone, and what it finds becomes so: files
// and their directory, but not what is above it.
func TestOnlyOwnerMayUseFiles(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "parent")
	dir := filepath.Join(parent, "log")
	open := func() {
		t.Helper()
		log, err := raftlog.Open(raftlog.Options{Dir: dir, Cluster: 1, Store: wire.StoreID(1), SegmentBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		log.Start()
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		files := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			} else {
				files++
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s: %v, want %v", path, got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if files == 0 {
			t.Error("there are no files")
		}
	}
	if err := os.Mkdir(parent, 0o755); err != nil { // #nosec G301 -- what is tested
		t.Fatal(err)
	}
	open()
	check()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chmod(path, 0o777) // #nosec G302 -- what is tested
	})
	if err != nil {
		t.Fatal(err)
	}
	open()
	check()
	info, err := os.Stat(parent)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o755 {
		t.Errorf("the parent became %v", info.Mode().Perm())
	}
}
