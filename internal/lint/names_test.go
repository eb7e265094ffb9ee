package lint

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNamesOfTests holds that what docs/testing.md names in its tables is there:
// tests, fuzz targets and examples of the whole repository, nested modules too,
// and scenarios of the core. A name with a package in front is looked for there.
func TestNamesOfTests(t *testing.T) {
	top := root(t)
	text, err := os.ReadFile(filepath.Join(top, "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	there := testNames(t, os.DirFS(top))
	named := 0
	row := regexp.MustCompile(`(?m)^\|.*\|$`)
	name := regexp.MustCompile("`((?:\\w+\\.)?(?:Test|Fuzz|Example)\\w*|\\w+\\.txt)(?:/[^`]*)?`")
	for _, line := range row.FindAll(text, -1) {
		for _, m := range name.FindAllSubmatch(line, -1) {
			if named++; !there[string(m[1])] {
				t.Errorf("docs/testing.md names %s, which does not exist", m[1])
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d names in the tables of docs/testing.md", named)
	}
}

// testNames returns the functions in test files, with and without the base name of
// their directory in front, and the scenarios.
func testNames(t *testing.T, fsys fs.FS) map[string]bool {
	there := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func (\w+)\(`)
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case strings.HasSuffix(name, ".txt"):
			there[path.Base(name)] = true
		case strings.HasSuffix(name, "_test.go"):
			source, err := fs.ReadFile(fsys, name)
			if err != nil {
				return err
			}
			for _, m := range function.FindAllSubmatch(source, -1) {
				there[string(m[1])] = true
				there[path.Base(path.Dir(name))+"."+string(m[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return there
}
