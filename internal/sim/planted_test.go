//go:build planted

package sim

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multiraft/internal/planted"
)

var flagPlanted = flag.Bool("sim.planted", false, "hunt all planted bugs, not a few of them")

// quickBugs are found within a few seeds each, and are of all kinds.
var quickBugs = []string{
	"vote-twice", "vote-unsynced", "no-term-check", "commit-minority", "hint-as-match", "ack-early", "forget-hard-state",
	"apply-skips", "lost-is-dropped", "skip-sync", "drop-last-batch", "recycle-live", "read-before-applied", "compact-all",
}

// TestPlanted shows that each planted bug is found within 200 seeds, and that
// without a bug these seeds find nothing.
func TestPlanted(t *testing.T) {
	names := quickBugs
	if *flagPlanted {
		names = nil
		for _, i := range planted.List() {
			if i.Elsewhere == "" {
				names = append(names, i.Name)
			}
		}
	}
	c := Campaign{From: 1, Seeds: 200}
	for _, name := range names {
		needed, found, err := Hunt(context.Background(), name, c)
		switch {
		case err != nil:
			t.Fatal(err)
		case found == nil:
			t.Errorf("%s: not found by %d seeds", name, c.Seeds)
		case !strings.Contains(found.Command, "-tags planted") || !strings.Contains(found.Command, "--planted "+name):
			t.Errorf("%s: %q does not plant it", name, found.Command)
		default:
			t.Logf("%s: %d seeds, %v", name, needed, &found.Violation)
		}
	}
	if planted.Planted() != "" {
		t.Fatalf("%s is still planted", planted.Planted())
	}
	c.Seeds = 10
	if sum, err := c.Run(context.Background()); err != nil || len(sum.Found) > 0 {
		t.Errorf("without a bug: %v, %v", sum.Found, err)
	}
}

// TestPlantedNames shows that every bug has a name and a word on what it is, and
// that unknown names plant nothing.
func TestPlantedNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, i := range planted.List() {
		if i.Name == "" || i.What == "" || seen[i.Name] {
			t.Errorf("%+v", i)
		}
		seen[i.Name] = true
	}
	if err := planted.Plant("no such bug"); err == nil || planted.Planted() != "" {
		t.Errorf("%v, %q is planted", err, planted.Planted())
	}
}

// TestPlantedTable shows that docs/testing.md has every bug in its table, as HuntAll
// writes it.
func TestPlantedTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range planted.List() {
		if row := "| `" + i.Name + "` | " + i.What + " | "; !strings.Contains(string(text), row) {
			t.Errorf("no row that begins %q", row)
		}
	}
}
