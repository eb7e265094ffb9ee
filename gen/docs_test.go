package gen

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The table of kinds in docs/generator.md says what the schema says; -rewrite
// updates it.
func TestDocumentedKinds(t *testing.T) {
	const path, begin, end = "../docs/generator.md", "<!-- kinds -->\n", "<!-- /kinds -->\n"
	text := string(readFile(t, path))
	before, rest, found := strings.Cut(text, begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no table of kinds", path)
	}
	want := before + begin + kindTable(Multiraft()) + end + after
	if *rewrite {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != want {
		t.Errorf("the table of kinds in %s is stale; run go test ./gen -rewrite", path)
	}
}

func kindTable(s *Schema) string {
	var b strings.Builder
	b.WriteString("\n| | kind | carries | lane | higher term | lower term | leaves | since |\n|---|---|---|---|---|---|---|---|\n")
	for i, k := range s.Kinds {
		var fields []string
		for _, f := range s.fieldsOf(k) {
			fields = append(fields, f.Name)
		}
		lane := []string{"urgent", "bulk"}[k.Lane]
		if k.Columnar {
			lane += ", columns"
		}
		higher, lower := "no term", "no term"
		if !k.termless() {
			higher, lower = highTermChoices[k.Term.Higher].name, lowTermChoices[k.Term.Lower].name
		}
		leaves := [...]string{"at once", "after hard state", "after log"}[k.Durability]
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s | %s | %d |\n",
			i+1, k.Name, strings.Join(fields, ", "), lane, higher, lower, leaves, k.since())
	}
	b.WriteString("\n")
	return b.String()
}

// The table of messages in docs/wire-format.md has the flags and words of each
// kind, in the order in which they are encoded.
func TestWireFormatTable(t *testing.T) {
	doc := string(readFile(t, "../docs/wire-format.md"))
	schema := Multiraft()
	spoken := strings.NewReplacer("LogTerm", "log term", "Index", "index", "Commit", "commit", "Hint", "hint", "Context", "context")
	for i, k := range schema.Kinds {
		cells := []string{fmt.Sprint(i+1, " ", k.Name), "", ""}
		if k.termless() {
			cells[1] = "no term"
		}
		var words []string
		for _, f := range schema.fieldsOf(k) {
			switch f.Form {
			case Flag:
				cells[1] = "R"
			case Word:
				words = append(words, spoken.Replace(f.Name))
			}
		}
		cells[2] = strings.Join(words, ", ")
		row := "\n| " + strings.Join(cells, " | ") + " |"
		if row = strings.ReplaceAll(row, "|  |", "| |"); !strings.Contains(doc, strings.ReplaceAll(row, "|  |", "| |")) {
			t.Errorf("docs/wire-format.md has no row %q", row)
		}
	}
}
