package lint

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestRepository is the lint: it fails with all that the rules find.
func TestRepository(t *testing.T) {
	tree, err := Load(os.DirFS(root(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Check(tree) {
		t.Error(f)
	}
	// The rules must have had something to look at.
	if hot := countHot(tree); hot < 10 || len(tree.files) < 50 {
		t.Errorf("%d marked functions in %d files: is this the repository?", hot, len(tree.files))
	}
}

// root returns the directory of go.mod above the test.
func root(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}

// sample is a tree in one text: "-- name --" lines begin files. In Go files, a
// line that ends in "<- rule" must be found by that rule; the mark is taken off,
// so that it does not count as a comment that gives a reason.
func sample(t *testing.T, text string) (*Tree, []string) {
	t.Helper()
	fsys := fstest.MapFS{}
	var want []string
	for _, part := range strings.Split("\n"+text, "\n-- ")[1:] {
		name, body, ok := strings.Cut(part, " --\n")
		if !ok {
			t.Fatalf("a file without a name: %q", part)
		}
		lines := strings.Split(body, "\n")
		for i, line := range lines {
			before, rule, ok := strings.Cut(line, "<- ")
			if ok {
				lines[i] = strings.TrimRight(before, " ")
				want = append(want, fmt.Sprintf("%s:%d: %s", name, i+1, rule))
			}
		}
		fsys[name] = &fstest.MapFile{Data: []byte(strings.Join(lines, "\n"))}
	}
	tree, err := Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	return tree, want
}

// check runs one rule on a sample, and compares file, line and rule.
func check(t *testing.T, rule string, text string) {
	t.Helper()
	tree, want := sample(t, text)
	var got []string
	for _, f := range Check(tree) {
		if f.Rule == rule {
			got = append(got, fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Rule))
		}
	}
	slices.Sort(got)
	if len(want) == 0 {
		t.Fatal("a sample in which there is nothing to find")
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestImports(t *testing.T) {
	check(t, "imports", `
-- wire/a.go --
package wire

import _ "multiraft/group" <- imports
import _ "go.uber.org/zap/zapcore"
import _ "multiraft/internal/invariants"
-- group/a.go --
package group

import _ "multiraft/wire"
import _ "multiraft/internal/invariants"
import _ "multiraft/internal/vfs" <- imports
import _ "multiraft/raftlog" <- imports
import _ "multiraft" <- imports
-- group/a_test.go --
package group_test

import _ "multiraft/group"
import _ "multiraft/raftlog"
import _ "multiraft/internal/vfs"
import _ "multiraft/engine" <- imports
-- engine/a.go --
package engine

import _ "multiraft/group"
import _ "multiraft/wire"
import _ "multiraft/bench" <- imports
import _ "multiraft/gen" <- imports
-- gen/a.go --
package gen

import _ "github.com/dave/jennifer/jen"
import _ "multiraft/gen/schema"
import _ "multiraft/wire" <- imports
-- gen/schema/a.go --
package schema
-- bench/a.go --
package bench

import _ "multiraft/engine"
import _ "multiraft/bench/report"
import _ "multiraft/internal/vfs"
-- bench/report/a.go --
package report
-- cmd/x/a.go --
package main

import _ "multiraft/bench"
import _ "multiraft/wire"
import _ "multiraft/cmd/y" <- imports
-- internal/invariants/a.go --
package invariants

import _ "multiraft/wire" <- imports
-- internal/vfs/a.go --
package vfs

import _ "multiraft/raftlog"
import _ "multiraft/cmd/x" <- imports
-- mystery/a.go --
package mystery
-- engine/b.go --
package engine

import _ "multiraft/mystery" <- imports
`)
}

func TestPure(t *testing.T) {
	check(t, "pure", `
-- group/a.go --
package group

import (
	"errors"
	"math"
	"math/bits"
	"math/rand/v2" <- pure
	"net/http" <- pure
	"os" <- pure
	"sync/atomic" <- pure
	"time" <- pure

	"go.uber.org/zap" <- pure
)

func f() {
	go f() <- pure
}
-- group/a_test.go --
package group

import "time"
-- engine/a.go --
package engine

import "time"

func f() { go f() }
`)
}

func TestHotPath(t *testing.T) {
	check(t, "hotpath", `
-- internal/invariants/a.go --
package invariants

const Enabled = false

func Fail(rule, format string, facts ...any) {}
-- wire/a.go --
package wire

type Table map[int]int

type Sink interface{ Put(v any) }

func Any(v any) {}

func Bad(format string, facts ...any) error { return nil }

func Count(format string, facts ...any) int { return 0 }

func Each[T any](v T) {}
-- group/a.go --
package group

import (
	"fmt"
	clock "time"

	"multiraft/internal/invariants"
	"multiraft/wire"
)

type pair struct{ a, b int }

// hot does what it may not.
//
//mr:hotpath
func hot(t wire.Table, s wire.Sink, p pair, q *pair, f func()) error {
	for k := range t { <- hotpath
		use(k)
	}
	for i := range 3 {
		defer use(i) <- hotpath
	}
	defer use(1)
	for i := 0; i < 3; i++ {
		if i == 2 {
			defer use(i) <- hotpath
		}
	}
	fmt.Println("x") <- hotpath
	now := clock.Now() <- hotpath
	_ = now
	g := func() { fmt.Println(t) } <- hotpath
	g()
	go f() <- hotpath
	m := make(map[int]bool) <- hotpath
	c := make(chan int) <- hotpath
	l := wire.Table{1: 2} <- hotpath
	use(len(m) + len(c) + len(l))
	wire.Any(p) <- hotpath
	wire.Any(q)
	wire.Any(nil)
	wire.Any("constant")
	wire.Any(p.a) <- hotpath
	s.Put(p) <- hotpath
	use(any(p) == nil) <- hotpath
	wire.Each(p)
	invariants.Fail("S1", "x %d", p.a, q) <- hotpath
	if invariants.Enabled && p.a > 3 {
		invariants.Fail("S1", "x %d %v", p.a, p)
		for k := range t {
			fmt.Println(k)
		}
	} else {
		fmt.Println("x") <- hotpath
	}
	fmt.Println("x") // the last call there is
	// Once per start.
	fmt.Println("x")

	var clock pair
	clock.Now()
	return wire.Bad("this %d", p.a)
}

//mr:hotpath
func hotToo(p pair) (int, error) {
	if p.a > 1 {
		return 0, wire.Bad("this %d", p.a)
	}
	if err := wire.Bad("this %d", p.a); err != nil { <- hotpath
		return 0, err
	}
	return wire.Count("this %d", p.a), nil <- hotpath
}

func (pair) Now() {}

func use(int) {}

// cold is not marked.
func cold(t wire.Table) {
	for k := range t {
		fmt.Println(k)
	}
}
`)
}

func TestSleep(t *testing.T) {
	check(t, "sleep", `
-- engine/a_test.go --
package engine

import (
	"time"
	later "time"
)

func f() {
	time.Sleep(1) <- sleep
	later.Sleep(1) <- sleep
	bed.Sleep(1)
}
-- engine/a.go --
package engine

import "time"

func g() { time.Sleep(1) }
`)
}

func TestDiscard(t *testing.T) {
	check(t, "discard", `
-- engine/a.go --
package engine

func f() error {
	_ = f() <- discard
	_, _ = g() <- discard

	_ = f() // f only fails when it is Tuesday
	// f cannot fail here.
	_ = f()

	x, _ := g()
	_ = x
	_ = b[7]
	return nil
}

var _ = f()
`)
}

func TestErrors(t *testing.T) {
	check(t, "errors", `
-- engine/a.go --
package engine

var ErrBusy = errors.New("busy") <- errors

type (
	LostError struct{} <- errors
	errLocal struct{}
	Error struct{}
	Errand struct{}
)

var errLocked = errors.New("locked")
-- engine/errors.go --
package engine

var ErrClosed = errors.New("closed")

type KnownError struct{}
-- engine/a_test.go --
package engine

var ErrTest = errors.New("x")
`)
}

func TestGenerated(t *testing.T) {
	check(t, "generated", `
-- wire/z_a.go --
package wire <- generated
-- wire/z_b.go --
// Code generated by x. DO NOT EDIT.

package wire
-- wire/c.go --
// Code generated by x. DO NOT EDIT. <- generated

package wire
-- wire/d.go --
package wire
`)
}

func TestDoc(t *testing.T) {
	check(t, "doc", `
-- wire/doc.go --
// Package wire is.
package wire
-- wire/a.go --
// Package wire is also this. <- doc
package wire
-- group/a.go --
package group <- doc
-- engine/doc.go --
// This is engine. <- doc
package engine
-- batch/doc.go --
package batch <- doc
-- cmd/x/main.go --
// Command x does.
package main
-- cmd/y/main.go --
// Mrbench is not y. <- doc
package main
-- cmd/z/main.go --
package main <- doc
-- docs/a_test.go --
package docs
`)
}

func TestUnfinished(t *testing.T) {
	mark := "TO" + "DO"
	check(t, "unfinished", strings.ReplaceAll(`
-- a.go --
package a

// MARK: mend this. <- unfinished
var MARKER = 1
-- b.md --
There is a MARK left. <- unfinished
There are no MARKS.
-- .ci/run --
# MARK <- unfinished
-- image.svg --
MARK
`, "MARK", mark))
}

func TestMachine(t *testing.T) {
	check(t, "machine", strings.ReplaceAll(`
-- a.md --
Built in @home/somebody/src. <- machine
See @Users/me. <- machine
A relative docs@home/page is fine, and so is @homes and .@root/x.
-- a.go --
package a

const dir = "@root/x" <- machine
`, "@", "/"))
}

func TestLinks(t *testing.T) {
	check(t, "links", strings.ReplaceAll(`
-- README.md --
See [the log](docs/log.md), [its grid](docs/log.md#the-grid-of-a-batch), [here](#limits--numbers), [web](https://example.com/x),
and [nothing](docs/none.md), <- links
or [no heading](docs/log.md#grid), <- links
or [nothing here](#none), <- links
or [outside](../x.md), <- links
or [a directory](docs), and 'a[i](none.md)' in code.
# Limits & numbers
'''
[not a link](none.md)
# not a heading
'''
[fence](#not-a-heading) <- links
-- docs/log.md --
## The grid of a *batch*
Back to [the start](../README.md "title") or [not](README.md). <- links
`, "'", "`"))
}

func TestLoadRefusesWhatDoesNotParse(t *testing.T) {
	if _, err := Load(fstest.MapFS{"a.go": {Data: []byte("package")}}); err == nil {
		t.Fatal("no error")
	}
}

func TestLoadSkips(t *testing.T) {
	body := &fstest.MapFile{Data: []byte("not go")}
	tree, err := Load(fstest.MapFS{
		"go.mod": {Data: []byte("module multiraft")}, "a.go": {Data: []byte("package a")},
		"testdata/a.go": body, "nested/go.mod": body, "nested/a.go": body, ".git/a.go": body,
	})
	if err != nil || len(tree.files) != 1 {
		t.Fatalf("%d files, %v", len(tree.files), err)
	}
}

// countHot returns the number of marked functions.
func countHot(t *Tree) (n int) {
	for _, f := range t.files {
		for _, c := range f.syntax.Comments {
			for _, line := range c.List {
				if line.Text == hotMark {
					n++
				}
			}
		}
	}
	return n
}
