package snapfile_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"multiraft/internal/snapfile"
	"multiraft/wire"
)

// Files that each version of the format wrote once are read for ever. A version is
// never written again. To add one, bump the version and run
//
//	go test ./internal/snapfile -run TestGolden -golden.write=v2
var goldenWrite = flag.String("golden.write", "", "TestGolden: write a file of this version, which must be new")

// goldenMeta is what is said of the snapshot in all golden files.
func goldenMeta() snapfile.Meta {
	m := meta()
	m.Members = wire.Membership{Index: 88, AutoLeave: true, MaxReplica: 5, Members: []wire.Member{
		{Replica: 1, Store: 2, Role: wire.Voter}, {Replica: 3, Store: 4, Role: wire.Learner}, {Replica: 5, Store: 6, Role: wire.Voter | wire.Outgoing},
	}}
	return m
}

// TestGolden reads the file of each version: as a snapshot, and as chunks that are
// received.
func TestGolden(t *testing.T) {
	if *goldenWrite != "" {
		disk := newFS(t)
		d, _ := openDir(t, disk)
		mustWrite(t, d, goldenMeta(), state(1300))
		name := filepath.Join("testdata/golden", *goldenWrite+".snap")
		if _, err := os.Stat(name); err == nil {
			t.Fatalf("%s is there already", name)
		}
		if err := os.WriteFile(name, readFile(t, disk, path(".snap")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	versions, err := filepath.Glob("testdata/golden/*.snap")
	if err != nil || len(versions) == 0 {
		t.Fatalf("%d versions, %v", len(versions), err)
	}
	for _, version := range versions {
		t.Run(filepath.Base(version), func(t *testing.T) {
			b, err := os.ReadFile(version)
			if err != nil {
				t.Fatal(err)
			}
			disk := newFS(t)
			d, _ := openDir(t, disk)
			if err := disk.MkdirAll(dirName); err != nil {
				t.Fatal(err)
			}
			replaceFile(t, disk, path(".snap"), b)
			if got, err := read(d); err != nil || !bytes.Equal(got, state(1300)) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			info, chunks := records(t, d)
			if got, want := fmt.Sprintf("%+v", info.Meta), fmt.Sprintf("%+v", goldenMeta()); got != want {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
			received, _ := openDir(t, newFS(t))
			if err := receive(received, info, chunks); err != nil {
				t.Fatal(err)
			}
			if got, err := read(received); err != nil || !bytes.Equal(got, state(1300)) {
				t.Fatalf("received %d bytes, %v", len(got), err)
			}
		})
	}
}
