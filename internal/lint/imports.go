package lint

import (
	"go/ast"
	"slices"
	"strconv"
	"strings"
)

// layers are the packages that make up the product, top first. A package may
// import what is in a lower row, and nothing of its own.
var layers = [][]string{
	{"cmd", "examples"},
	{"bench"},
	{"engine", "recovery"},
	{"scheduler", "batch", "raftlog", "transport", "group"},
	{"wire"},
}

// layerOf returns the row of a package by the first part of its path.
func layerOf(dir string) (int, bool) {
	top, _, _ := strings.Cut(dir, "/")
	i := slices.IndexFunc(layers, func(row []string) bool { return slices.Contains(row, top) })
	return i, i >= 0
}

// within says whether dir is top or below it.
func within(dir, top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }

// imports holds the arrow: cmd -> bench -> engine -> scheduler, batch, raftlog,
// transport, group -> wire.
func imports(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.files {
		for _, spec := range f.syntax.Imports {
			target, ours := importOf(spec)
			if !ours || target == f.Dir {
				continue
			}
			if why := importFault(f, target); why != "" {
				found = append(found, Finding{File: f.Path, Line: t.line(spec.Pos()), Text: why})
			}
		}
	}
	return found
}

// importOf returns the directory of an import, if it is of this module.
func importOf(spec *ast.ImportSpec) (string, bool) {
	name, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return "", false // the parser has checked it
	}
	if name == Module {
		return ".", true
	}
	return strings.CutPrefix(name, Module+"/")
}

// importFault says why f may not import the package in target, "" if it may.
func importFault(f *File, target string) string {
	arrow := f.Dir + " may not import " + target
	if within(target, "gen") || within(f.Dir, "gen") {
		if within(target, "gen") && within(f.Dir, "gen") {
			return ""
		}
		return arrow + ": the generator stands apart"
	}
	if target == "internal/invariants" || target == "internal/planted" {
		return ""
	}
	if within(f.Dir, "internal/invariants") || within(f.Dir, "internal/planted") || within(f.Dir, "internal/lint") {
		return arrow + ": it is a leaf"
	}
	to, toLayer := layerOf(target)
	from, fromLayer := layerOf(f.Dir)
	if !fromLayer { // internal, and what is in the root
		if toLayer && to == 0 {
			return arrow + ": commands and examples are imported by nobody"
		}
		return ""
	}
	if target == "internal/snapfile" && (within(f.Dir, "engine") || within(f.Dir, "recovery")) {
		return "" // a part of the product that no embedder names
	}
	if within(target, "internal") {
		// Fault injection and checkers are for tests, and for the tools that
		// are tests themselves.
		if f.Test || within(f.Dir, "bench") || within(f.Dir, "cmd") {
			return ""
		}
		return arrow + ": only tests and tools use it"
	}
	switch {
	case !toLayer:
		return arrow + ": it has no place among the layers"
	case to > from:
		return ""
	case f.Test && to == from && from > 0:
		return "" // a test may look to the side, never up
	}
	top, _, _ := strings.Cut(f.Dir, "/")
	if within(target, top) && from > 0 {
		return "" // a package and what is below it in the tree
	}
	return arrow + ": imports point down"
}

// impure are packages by which time, chance, or the world outside get in, or
// that only make sense with goroutines. What is below them counts too.
var impure = []string{
	"crypto/rand", "io/ioutil", "log", "math/rand", "net", "os", "path/filepath", "plugin", "sync", "syscall", "time",
}

// purity keeps group a deterministic step machine: no clock, no chance, no I/O,
// no lock, no goroutine, and nothing of other people.
func purity(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.files {
		if f.Test || !within(f.Dir, "group") {
			continue
		}
		for _, spec := range f.syntax.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // the parser has checked it
			}
			first, _, _ := strings.Cut(name, "/")
			if strings.Contains(first, ".") ||
				slices.ContainsFunc(impure, func(p string) bool { return within(name, p) }) {
				found = append(found, Finding{File: f.Path, Line: t.line(spec.Pos()),
					Text: "group is deterministic and may not import " + name})
			}
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				found = append(found, Finding{File: f.Path, Line: t.line(g.Pos()), Text: "group starts no goroutine"})
			}
			return true
		})
	}
	return found
}
