package transport

import (
	"os"
	"strings"
	"testing"
)

// The grids above the encoders and in docs/wire-format.md must be the same.
func TestGridsInDocs(t *testing.T) {
	doc, err := os.ReadFile("../docs/wire-format.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for line := range strings.Lines(string(doc)) {
		lines[strings.TrimSpace(line)] = true
	}
	for _, file := range []string{"hello.go", "frame.go", "../batch/columns.go", "../wire/block.go", "../wire/z_codec.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		grid := 0
		for line := range strings.Lines(string(source)) {
			line = strings.TrimSpace(strings.TrimPrefix(line, "//"))
			if !strings.ContainsAny(line, "┌│└") {
				continue
			}
			grid++
			if !lines[line] {
				t.Errorf("%s: not in the document: %s", file, line)
			}
		}
		if grid != 3 {
			t.Errorf("%s: %d lines of a grid, want 3", file, grid)
		}
	}
}
