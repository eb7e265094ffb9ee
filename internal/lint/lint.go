package lint

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Module is the path of the module that the rules are for.
const Module = "multiraft"

// Finding is one place that breaks a rule.
type Finding struct {
	File string
	Line int
	Rule string
	Text string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Rule, f.Text)
}

// Tree is the files of a module, without nested modules and test data.
type Tree struct {
	fset  *token.FileSet
	files []*File
	texts []Text // Go files included
	paths map[string]bool
}

// File is one Go file.
type File struct {
	Path   string // from the root, with slashes
	Dir    string
	Test   bool
	syntax *ast.File
	// comments has the lines that a comment ends on, or that one stands on.
	comments map[int]bool
}

// Text is one file that people read.
type Text struct {
	Path  string
	Lines []string
}

// textEndings are the files whose text is checked.
var textEndings = []string{".go", ".md", ".sh", ".txt", ".yml", ".yaml", ".mod"}

// Load reads a tree. A Go file that does not parse is an error.
func Load(fsys fs.FS) (*Tree, error) {
	t := &Tree{fset: token.NewFileSet(), paths: make(map[string]bool)}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			t.paths[name] = true
			if skipDir(fsys, name) {
				return fs.SkipDir
			}
			return nil
		}
		t.paths[name] = true
		if !slices.Contains(textEndings, path.Ext(name)) && path.Dir(name) != ".ci" {
			return nil
		}
		return t.add(fsys, name)
	})
	return t, err
}

// skipDir says whether a directory is none of the rules' business.
func skipDir(fsys fs.FS, name string) bool {
	if name == "." {
		return false
	}
	switch path.Base(name) {
	case ".git", "testdata", "scratch", "vendor":
		return true
	}
	_, err := fs.Stat(fsys, path.Join(name, "go.mod"))
	return err == nil // a module of its own
}

func (t *Tree) add(fsys fs.FS, name string) error {
	src, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	t.texts = append(t.texts, Text{name, strings.Split(string(src), "\n")})
	if path.Ext(name) != ".go" {
		return nil
	}
	syntax, err := parser.ParseFile(t.fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := &File{
		Path: name, Dir: path.Dir(name), Test: strings.HasSuffix(name, "_test.go"),
		syntax: syntax, comments: make(map[int]bool),
	}
	for _, group := range syntax.Comments {
		for _, c := range group.List {
			f.comments[t.fset.Position(c.End()).Line] = true
		}
	}
	t.files = append(t.files, f)
	return nil
}

// line returns the line of a position.
func (t *Tree) line(pos token.Pos) int { return t.fset.Position(pos).Line }

// excused says whether a comment stands on the line, or ends on the one above:
// the reason why this place may differ.
func (t *Tree) excused(f *File, pos token.Pos) bool {
	line := t.line(pos)
	return f.comments[line] || f.comments[line-1]
}

// rules are all there is, in the order of their names.
var rules = []struct {
	name  string
	check func(*Tree) []Finding
}{
	{"discard", discards},
	{"doc", packageDocs},
	{"errors", sentinels},
	{"generated", generated},
	{"hotpath", hotPaths},
	{"imports", imports},
	{"links", links},
	{"machine", machinePaths},
	{"pure", purity},
	{"sleep", sleeps},
	{"unfinished", unfinished},
}

// Check runs all rules and returns what they find, ordered by place.
func Check(t *Tree) []Finding {
	var all []Finding
	for _, rule := range rules {
		for _, f := range rule.check(t) {
			f.Rule = rule.name
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Rule, b.Rule),
			strings.Compare(a.Text, b.Text))
	})
	return slices.Compact(all)
}
