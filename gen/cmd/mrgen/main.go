// Mrgen writes the files of a package that are generated from the schema in
// multiraft/gen. It is run by go generate; see docs/generator.md.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"multiraft/gen"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

const usage = `usage: mrgen -package wire|group [-out dir]

Mrgen writes the z_*.go files that are generated from the schema in multiraft/gen.
Files whose text does not change are left alone. A schema with faults is reported
with all of them, and nothing is written.

`

// run returns the exit code: 0 done, 1 failed, 2 not understood.
func run(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("mrgen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	pkg := flags.String("package", "", "the package to write `files` for: wire or group")
	out := flags.String("out", ".", "the `directory` to write to")
	flags.Usage = func() {
		say(stderr, usage)
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if flags.NArg() > 0 || (*pkg != "wire" && *pkg != "group") {
		flags.Usage()
		return 2
	}
	if err := write(*pkg, *out); err != nil {
		say(stderr, "mrgen: %v\n", err)
		return 1
	}
	return 0
}

// say tells people something.
func say(stderr io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(stderr, format, args...) // there is nobody else to tell
}

func write(pkg, dir string) error {
	outputs, err := gen.Generate(gen.Multiraft())
	if err != nil {
		return err
	}
	for _, o := range outputs {
		if o.Package != pkg {
			continue
		}
		path := filepath.Join(dir, o.Name)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, o.Text) { //gosec:disable G304 -- below the directory of the flag
			continue
		}
		if err := os.WriteFile(path, o.Text, 0o644); err != nil { //gosec:disable G306 -- source code, which everybody may read
			return err
		}
	}
	return nil
}
