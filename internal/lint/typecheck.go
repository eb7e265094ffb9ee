package lint

import (
	"go/ast"
	"go/types"
	"path"
	"strings"
)

// typeCheck finds out the types of the module's packages from their source
// alone. Packages of others stay empty: their types are unknown, and what
// depends on them is left alone (N1). That takes milliseconds; reading the
// standard library would take seconds and need a build cache.
func typeCheck(t *Tree) *types.Info {
	c := &checker{
		tree:   t,
		info:   &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object)},
		byDir:  make(map[string][]*ast.File),
		done:   make(map[string]*types.Package),
		active: make(map[string]bool),
	}
	for _, f := range t.files {
		if !f.Test {
			c.byDir[f.Dir] = append(c.byDir[f.Dir], f.syntax)
		}
	}
	for dir := range c.byDir { // the order makes no difference to the types
		c.check(dir)
	}
	return c.info
}

// checker checks packages in the order in which they import each other.
type checker struct {
	tree   *Tree
	info   *types.Info
	byDir  map[string][]*ast.File
	done   map[string]*types.Package // by import path
	active map[string]bool           // to get out of an import cycle
}

// Import implements types.Importer.
func (c *checker) Import(name string) (*types.Package, error) {
	dir := strings.TrimPrefix(strings.TrimPrefix(name, Module), "/")
	if (name == Module || strings.HasPrefix(name, Module+"/")) && len(c.byDir[dir]) > 0 && !c.active[dir] {
		return c.check(dir), nil
	}
	if p := c.done[name]; p != nil {
		return p, nil
	}
	p := types.NewPackage(name, path.Base(name))
	p.MarkComplete()
	c.done[name] = p
	return p, nil
}

func (c *checker) check(dir string) *types.Package {
	name := path.Join(Module, dir)
	if p := c.done[name]; p != nil {
		return p
	}
	c.active[dir] = true
	defer delete(c.active, dir)
	// Errors are expected, as half of the imports are empty, and files for other
	// systems are read along; the compiler is there to report the real ones.
	config := types.Config{Importer: c, Error: func(error) {}}
	p, err := config.Check(name, c.tree.fset, c.byDir[dir], c.info)
	if p == nil || err != nil && p.Scope() == nil {
		p = types.NewPackage(name, path.Base(name))
	}
	c.done[name] = p
	return p
}
