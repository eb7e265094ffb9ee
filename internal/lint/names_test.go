package lint

import (
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
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

// TestFaultRows holds that docs/testing.md has each of the 40 rows of the fault model
// once, in order, and that a row names a test.
func TestFaultRows(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## The fault model\n")
	if !ok {
		t.Fatal("docs/testing.md has no fault model")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	const rows = 40
	row := regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$`)
	test := regexp.MustCompile("`\\w+\\.(Test|Fuzz)\\w+(/[^`]*)?`")
	found := row.FindAllStringSubmatch(section, -1)
	if len(found) != rows {
		t.Errorf("%d rows, want %d", len(found), rows)
	}
	for i, m := range found {
		if m[1] != strconv.Itoa(i+1) {
			t.Errorf("row %s is where %d belongs", m[1], i+1)
		}
		if !test.MatchString(m[4]) {
			t.Errorf("row %s names no test", m[1])
		}
	}
}

// TestFuzzTargets holds that each target bounds what its input may cost, but for those
// that decode nothing, that inputs of it are committed, and that docs/testing.md names it.
func TestFuzzTargets(t *testing.T) {
	decodeNothing := map[string]bool{"FuzzMessageEncode": true, "FuzzCommitIndex": true, "FuzzTally": true}
	top := root(t)
	text, err := os.ReadFile(filepath.Join(top, "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Fuzzing\n")
	section, _, _ = strings.Cut(section, "\n## ")
	tree, err := Load(os.DirFS(top))
	if err != nil {
		t.Fatal(err)
	}
	targets := 0
	for _, file := range tree.files {
		for _, decl := range file.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") || !strings.HasSuffix(file.Path, "_test.go") {
				continue
			}
			targets++
			name := path.Base(file.Dir) + "." + fn.Name.Name
			if !strings.Contains(section, "`"+name+"`") {
				t.Errorf("docs/testing.md does not say what %s is for", name)
			}
			if inputs, err := filepath.Glob(filepath.Join(top, file.Dir, "testdata", "fuzz", fn.Name.Name, "*")); err != nil || len(inputs) == 0 {
				t.Errorf("no inputs of %s are committed (%v): see .ci/corpus", name, err)
			}
			bounded := false
			ast.Inspect(fn, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				bounded = bounded || ok && (call.Sel.Name == "AtMost" || call.Sel.Name == "ReadMemStats")
				return true
			})
			if !bounded && !decodeNothing[fn.Name.Name] {
				t.Errorf("%s does not bound what an input may cost (allocs.AtMost)", name)
			}
		}
	}
	if targets < 20 {
		t.Errorf("only %d fuzz targets", targets)
	}
}
