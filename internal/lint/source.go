package lint

import (
	"go/ast"
	"path"
	"regexp"
	"strings"
)

// sleeps finds tests that wait for time to pass: they are slow on a good day
// and wrong on a bad one.
func sleeps(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.files {
		if !f.Test {
			continue
		}
		names := importNames(f)
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Sleep" {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); ok && names[id.Name] == "time" {
				found = append(found, Finding{File: f.Path, Line: t.line(sel.Pos()), Text: "a test may not sleep"})
			}
			return true
		})
	}
	return found
}

// discards finds results of calls that are thrown away without a word.
func discards(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.files {
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			a, ok := n.(*ast.AssignStmt)
			if !ok {
				return true
			}
			for _, lhs := range a.Lhs {
				if id, ok := lhs.(*ast.Ident); !ok || id.Name != "_" {
					return true
				}
			}
			for _, rhs := range a.Rhs {
				if _, ok := ast.Unparen(rhs).(*ast.CallExpr); ok && !t.excused(f, a.Pos()) {
					found = append(found, Finding{File: f.Path, Line: t.line(a.Pos()),
						Text: "a result is thrown away and no comment says why that is right"})
					break
				}
			}
			return true
		})
	}
	return found
}

// errorName is the name of an exported error: ErrClosed, or NotLeaderError.
var errorName = regexp.MustCompile(`^(Err[A-Z]\w*|[A-Z]\w*Error)$`)

// sentinels finds error values and types that are not in errors.go, where who
// writes a caller looks for them.
func sentinels(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.files {
		if f.Test || path.Base(f.Path) == "errors.go" || ast.IsGenerated(f.syntax) {
			continue
		}
		for _, decl := range f.syntax.Decls {
			if g, ok := decl.(*ast.GenDecl); ok {
				for _, name := range declared(g) {
					if errorName.MatchString(name.Name) {
						found = append(found, Finding{File: f.Path, Line: t.line(name.Pos()),
							Text: name.Name + " belongs in errors.go"})
					}
				}
			}
		}
	}
	return found
}

// declared returns the names of variables and types that a declaration makes.
func declared(g *ast.GenDecl) (names []*ast.Ident) {
	for _, spec := range g.Specs {
		switch spec := spec.(type) {
		case *ast.ValueSpec:
			names = append(names, spec.Names...)
		case *ast.TypeSpec:
			names = append(names, spec.Name)
		}
	}
	return names
}

// generated holds that a file is named z_ exactly if it says that it is
// generated.
func generated(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.files {
		marked, named := ast.IsGenerated(f.syntax), strings.HasPrefix(path.Base(f.Path), "z_")
		switch {
		case named && !marked:
			found = append(found, Finding{File: f.Path, Line: 1, Text: "a z_ file without the mark of generated code"})
		case marked && !named:
			found = append(found, Finding{File: f.Path, Line: 1, Text: "generated code goes into a z_ file"})
		}
	}
	return found
}

// packageDocs holds that every package has a doc.go with a package comment, and
// no second one elsewhere. A command may have it in main.go.
func packageDocs(t *Tree) []Finding {
	var found []Finding
	seen := make(map[string]bool)
	for _, f := range t.files {
		if f.Test {
			continue
		}
		home := "doc.go"
		if f.syntax.Name.Name == "main" && !t.paths[path.Join(f.Dir, home)] {
			home = "main.go"
		}
		isHome := path.Base(f.Path) == home
		if !isHome && f.syntax.Doc != nil {
			found = append(found, Finding{File: f.Path, Line: t.line(f.syntax.Doc.Pos()),
				Text: "the package comment belongs in " + home})
		}
		if isHome && !docNames(f) {
			found = append(found, Finding{File: f.Path, Line: 1,
				Text: "the package comment must be there and begin with the name of the package"})
		}
		if !seen[f.Dir] && !t.paths[path.Join(f.Dir, home)] {
			found = append(found, Finding{File: f.Path, Line: 1, Text: "the package has no " + home})
		}
		seen[f.Dir] = true
	}
	return found
}

// docNames says whether a package comment begins as godoc wants it.
func docNames(f *File) bool {
	first, _, _ := strings.Cut(f.syntax.Doc.Text(), "\n")
	if f.syntax.Name.Name == "main" {
		return strings.HasPrefix(first, "Command "+path.Base(f.Dir)) ||
			strings.HasPrefix(strings.ToLower(first), path.Base(f.Dir)+" ")
	}
	return strings.HasPrefix(first, "Package "+f.syntax.Name.Name+" ")
}
