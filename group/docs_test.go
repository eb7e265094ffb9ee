package group

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestBehavioursNameTests holds that docs/testing.md names tests, fuzz targets,
// examples and scenarios that exist, of this package or of the one in front.
func TestBehavioursNameTests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\|.*\|$`).FindAll(text, -1)
	code := regexp.MustCompile("`((?:\\w+\\.)?(?:Test|Fuzz|Example)\\w*|\\w+\\.txt)`")
	there := make(map[string]bool)
	for name, directory := range map[string]string{"": ".", "engine.": filepath.Join("..", "engine")} {
		files, err := filepath.Glob(filepath.Join(directory, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (\w+)\(`).FindAllSubmatch(source, -1) {
				there[name+string(m[1])] = true
			}
		}
	}
	scenarios, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range scenarios {
		there[filepath.Base(file)] = true
	}
	named := 0
	for _, row := range rows {
		for _, m := range code.FindAllSubmatch(row, -1) {
			if named++; !there[string(m[1])] {
				t.Errorf("docs/testing.md names %s, which does not exist", m[1])
			}
		}
	}
	if named < 50 || len(scenarios) < 60 {
		t.Errorf("%d names, %d scenarios", named, len(scenarios))
	}
}
