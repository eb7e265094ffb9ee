package gen

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Goal: the generated files in the tree are those that the schema gives, and
// there are no others. Method: generate into a directory, compare, and look for
// the marker in the whole module.
func TestFresh(t *testing.T) {
	outputs, err := Generate(Multiraft())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, o := range outputs {
		writeFile(t, filepath.Join(dir, o.Package, o.Name), o.Text)
	}

	made := map[string]bool{}
	for _, o := range outputs {
		path := filepath.Join(o.Package, o.Name)
		made[path] = true
		got, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Errorf("%v; run go generate ./...", err)
			continue
		}
		if !bytes.Equal(got, readFile(t, filepath.Join(dir, path))) {
			t.Errorf("%s is stale; run go generate ./...", path)
		}
	}
	for _, path := range markedFiles(t, "..") {
		if !made[path] {
			t.Errorf("%s is marked as generated, or named so, and nobody makes it", path)
		}
	}
}

// markedFiles lists the Go files below root that have the marker or the name of
// a generated file.
func markedFiles(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == "testdata" || name != ".." && strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		if strings.HasPrefix(d.Name(), "z_") || bytes.Contains(readFile(t, path), []byte("\n"+Marker+"\n")) ||
			bytes.HasPrefix(readFile(t, path), []byte(Marker+"\n")) {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			found = append(found, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The search finds files by marker and by name, and leaves others alone.
func TestMarkedFiles(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a", "orphan.go"), []byte(Marker+"\n\npackage a\n"))
	writeFile(t, filepath.Join(dir, "a", "z_forgotten.go"), []byte("package a\n"))
	writeFile(t, filepath.Join(dir, "a", "other.go"), []byte("package a\n\nconst text = `"+Marker+"`\n"))
	writeFile(t, filepath.Join(dir, "a", "testdata", "z_golden.go"), []byte(Marker+"\n"))
	got := strings.Join(markedFiles(t, dir), " ")
	if want := filepath.Join("a", "orphan.go") + " " + filepath.Join("a", "z_forgotten.go"); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
}
