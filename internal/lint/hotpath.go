package lint

import (
	"go/ast"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strconv"
)

// hotMark is the directive above a function of the hot path.
const hotMark = "//mr:hotpath"

// hotPaths checks marked functions for what surely costs more than the hot path
// may. It looks at one function at a time; what that calls is held by the
// allocation tests. Code behind invariants.Enabled is not there in production
// and is let pass; so is a line with a comment, which gives the reason.
func hotPaths(t *Tree) []Finding {
	info := typeCheck(t)
	var found []Finding
	for _, f := range t.files {
		names := importNames(f)
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && isHot(fn) && fn.Body != nil {
				h := &hotWalk{tree: t, file: f, info: info, imports: names, name: fn.Name.Name, fails: fails(fn)}
				ast.Walk(h, fn.Body)
				found = append(found, h.found...)
			}
		}
	}
	return found
}

// isHot says whether a function is marked.
func isHot(fn *ast.FuncDecl) bool {
	return fn.Doc != nil && slices.ContainsFunc(fn.Doc.List, func(c *ast.Comment) bool { return c.Text == hotMark })
}

// importNames returns the import path by the name that a file uses for it.
func importNames(f *File) map[string]string {
	names := make(map[string]string)
	for _, spec := range f.syntax.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has checked it
		}
		if spec.Name != nil {
			names[spec.Name.Name] = name
		} else {
			names[path.Base(name)] = name
		}
	}
	return names
}

// coldPackages have nothing that a hot path may call.
var coldPackages = []string{"fmt", "log", "log/slog", "reflect", "go.uber.org/zap", "go.uber.org/zap/zapcore"}

// clockReads cost 50 ns each.
var clockReads = []string{"Now", "Since", "Until"}

// hotWalk visits the body of one marked function.
type hotWalk struct {
	tree    *Tree
	file    *File
	info    *types.Info
	imports map[string]string
	name    string
	fails   bool          // the last result of the function is an error
	loops   int           // loops around the node
	refusal *ast.CallExpr // makes the error that is returned
	found   []Finding
}

// fails says whether the last result of a function is an error.
func fails(fn *ast.FuncDecl) bool {
	results := fn.Type.Results
	if results == nil || len(results.List) == 0 {
		return false
	}
	id, ok := results.List[len(results.List)-1].Type.(*ast.Ident)
	return ok && id.Name == "error"
}

func (h *hotWalk) report(pos token.Pos, what string) {
	if h.tree.excused(h.file, pos) {
		return
	}
	h.found = append(h.found, Finding{File: h.file.Path, Line: h.tree.line(pos), Text: h.name + " is hot: " + what})
}

// Visit implements ast.Visitor.
func (h *hotWalk) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.IfStmt:
		if h.assertsOnly(n.Cond) {
			if n.Else != nil {
				ast.Walk(h, n.Else)
			}
			return nil
		}
	case *ast.ForStmt:
		return h.inLoop(n.Body, n.Init, n.Cond, n.Post)
	case *ast.RangeStmt:
		if h.isMap(n.X) {
			h.report(n.Pos(), "it ranges over a map")
		}
		return h.inLoop(n.Body, n.X)
	case *ast.DeferStmt:
		if h.loops > 0 {
			h.report(n.Pos(), "a defer in a loop allocates")
		}
	case *ast.GoStmt:
		h.report(n.Pos(), "it starts a goroutine")
	case *ast.FuncLit:
		h.report(n.Pos(), "it makes a closure")
		return nil
	case *ast.CompositeLit:
		if h.isMap(n) {
			h.report(n.Pos(), "it makes a map")
		}
	case *ast.ReturnStmt:
		// Where an error is made, the hot path has ended, and the facts may be
		// boxed for it.
		if h.fails && len(n.Results) > 0 {
			if call, ok := ast.Unparen(n.Results[len(n.Results)-1]).(*ast.CallExpr); ok {
				h.refusal = call
			}
		}
	case *ast.CallExpr:
		h.call(n)
	}
	return h
}

// inLoop walks the parts of a loop, and ends the walk of the loop itself.
func (h *hotWalk) inLoop(body *ast.BlockStmt, head ...ast.Node) ast.Visitor {
	for _, n := range head {
		switch n := n.(type) {
		case ast.Expr:
			if n != nil {
				ast.Walk(h, n)
			}
		case ast.Stmt:
			if n != nil {
				ast.Walk(h, n)
			}
		}
	}
	h.loops++
	ast.Walk(h, body)
	h.loops--
	return nil
}

// assertsOnly says whether a condition holds only with assertions compiled in.
func (h *hotWalk) assertsOnly(cond ast.Expr) bool {
	switch e := cond.(type) {
	case *ast.ParenExpr:
		return h.assertsOnly(e.X)
	case *ast.BinaryExpr:
		return e.Op == token.LAND && (h.assertsOnly(e.X) || h.assertsOnly(e.Y))
	case *ast.SelectorExpr:
		return h.packageOf(e) == Module+"/internal/invariants" && e.Sel.Name == "Enabled"
	}
	return false
}

// packageOf returns the import path that a selector selects from, "" if it is
// none.
func (h *hotWalk) packageOf(e *ast.SelectorExpr) string {
	id, ok := e.X.(*ast.Ident)
	if !ok {
		return ""
	}
	if obj := h.info.Uses[id]; obj != nil {
		if _, ok := obj.(*types.PkgName); !ok {
			return "" // a variable that hides the package
		}
	}
	return h.imports[id.Name]
}

// call checks one call.
func (h *hotWalk) call(n *ast.CallExpr) {
	switch fun := ast.Unparen(n.Fun).(type) {
	case *ast.SelectorExpr:
		switch p := h.packageOf(fun); {
		case slices.Contains(coldPackages, p):
			h.report(n.Pos(), "it calls "+p+"."+fun.Sel.Name)
			return
		case p == "time" && slices.Contains(clockReads, fun.Sel.Name):
			h.report(n.Pos(), "it reads the clock")
			return
		}
	case *ast.Ident:
		if fun.Name == "make" && len(n.Args) > 0 {
			switch h.underlying(n.Args[0]).(type) {
			case *types.Map:
				h.report(n.Pos(), "it makes a map")
			case *types.Chan:
				h.report(n.Pos(), "it makes a channel")
			}
			return
		}
	}
	if n != h.refusal {
		h.boxing(n)
	}
}

// boxing reports arguments that become interface values on the way, as far as
// the types are known: a value that is not a pointer is copied to the heap.
func (h *hotWalk) boxing(n *ast.CallExpr) {
	if tv, ok := h.info.Types[n.Fun]; ok && tv.IsType() {
		if len(n.Args) == 1 && isInterface(tv.Type) && h.boxes(n.Args[0]) {
			h.report(n.Pos(), "it boxes a value")
		}
		return
	}
	sig, ok := h.underlying(n.Fun).(*types.Signature)
	if !ok {
		return
	}
	for i, arg := range n.Args {
		var param types.Type
		switch last := sig.Params().Len() - 1; {
		case sig.Variadic() && i >= last && !n.Ellipsis.IsValid():
			param = sig.Params().At(last).Type().(*types.Slice).Elem()
		case i <= last:
			param = sig.Params().At(i).Type()
		default:
			continue
		}
		if isInterface(param) && h.boxes(arg) {
			h.report(arg.Pos(), "it boxes a value")
		}
	}
}

// boxes says whether turning e into an interface value allocates: not for
// pointers and the like, nor for constants, nor for what is an interface.
func (h *hotWalk) boxes(e ast.Expr) bool {
	tv, ok := h.info.Types[e]
	if !ok || tv.Type == nil || tv.Value != nil || tv.IsNil() {
		return false
	}
	switch u := tv.Type.Underlying().(type) {
	case *types.Pointer, *types.Interface, *types.Chan, *types.Map, *types.Signature:
		return false
	case *types.Basic:
		return u.Kind() != types.Invalid && u.Kind() != types.UnsafePointer
	case *types.Struct:
		return u.NumFields() > 0
	}
	return true
}

// isInterface says whether t is an interface and not a type parameter, whose
// calls box nothing.
func isInterface(t types.Type) bool {
	if _, ok := t.(*types.TypeParam); ok {
		return false
	}
	return types.IsInterface(t)
}

// underlying returns what is known of the type of e, nil if nothing.
func (h *hotWalk) underlying(e ast.Expr) types.Type {
	if tv, ok := h.info.Types[e]; ok && tv.Type != nil {
		return tv.Type.Underlying()
	}
	return nil
}

func (h *hotWalk) isMap(e ast.Expr) bool {
	_, ok := h.underlying(e).(*types.Map)
	return ok
}
