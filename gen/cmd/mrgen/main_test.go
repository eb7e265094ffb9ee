package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRunWritesOnePackage(t *testing.T) {
	for _, pkg := range []string{"wire", "group"} {
		dir := t.TempDir()
		var stderr strings.Builder
		if code := run([]string{"-package", pkg, "-out", dir}, &stderr); code != 0 || stderr.Len() > 0 {
			t.Fatalf("%s: exit code %d: %s", pkg, code, stderr.String())
		}
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: wrote %v, %v", pkg, files, err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), "\npackage "+pkg+"\n") {
				t.Errorf("%s is not of package %s", filepath.Base(path), pkg)
			}
		}
	}
}

// A file whose text does not change keeps its time, so that builds stay cached;
// one that does is written.
func TestRunLeavesFreshFilesAlone(t *testing.T) {
	dir := t.TempDir()
	generate := func() {
		var stderr strings.Builder
		if code := run([]string{"-package", "group", "-out", dir}, &stderr); code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr.String())
		}
	}
	generate()
	fresh, stale := filepath.Join(dir, "z_tally.go"), filepath.Join(dir, "z_quorum.go")
	old := time.Unix(1_000_000_000, 0)
	if err := os.Chtimes(fresh, old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stale, []byte("package group\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	generate()
	if info, err := os.Stat(fresh); err != nil || !info.ModTime().Equal(old) {
		t.Errorf("fresh file was written: %v, %v", info.ModTime(), err)
	}
	if text, err := os.ReadFile(stale); err != nil || !strings.Contains(string(text), "commitIndex") {
		t.Errorf("stale file was not written: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "usage: mrgen"},
		{[]string{"-package", "engine"}, 2, "usage: mrgen"},
		{[]string{"-package", "wire", "more"}, 2, "usage: mrgen"},
		{[]string{"-pkg", "wire"}, 2, "flag provided but not defined"},
		{[]string{"-help"}, 0, "usage: mrgen"},
		{[]string{"-package", "wire", "-out", filepath.Join(t.TempDir(), "missing")}, 1, "mrgen: open "},
	} {
		var stderr strings.Builder
		if code := run(c.args, &stderr); code != c.code || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("mrgen %v: exit code %d, want %d; says %q, want %q", c.args, code, c.code, stderr.String(), c.want)
		}
	}
}
