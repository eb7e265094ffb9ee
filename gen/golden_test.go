package gen

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files in testdata")

// golden compares got with a file in testdata, or rewrites the file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs, read the difference after -rewrite\n got:\n%s\nwant:\n%s", path, got, want)
	}
}

// small is a schema with one of everything, whose output is short enough to
// read: what the builders print for each trait.
func small() *Schema {
	return &Schema{
		Module:  "example",
		Version: 7,
		Oldest:  2,
		Fields: []Field{
			{Name: "Reject", Form: Flag, Doc: "Reject marks a refusal."},
			{Name: "Index", Type: "Index", Doc: "Index is a place in the log."},
			{Name: "Context", Type: "uint64", Doc: "Context comes back."},
			{Name: "Body", Form: Tail, Doc: "Body is borrowed."},
		},
		Kinds: []Kind{
			{Name: "Ask", Doc: "Ask asks.", Carries: []Use{{"Index", "where"}, {"Context", "which"}}, Term: fromLeader, Columnar: true},
			{Name: "Answer", Doc: "Answer answers.", Carries: []Use{{"Index", "where"}, {"Reject", "no"}}, Term: TermRule{KeepUnlessRejected, IgnoreOld}, Durability: WaitsForLog},
			{Name: "Carry", Doc: "Carry carries.", Carries: []Use{{"Body", "what"}}, Lane: Bulk},
			{Name: "Poke", Doc: "Poke wakes."},
		},
		Records: []Record{
			{Name: "Seat", Recv: "s", Doc: "Seat is a place.", Fields: []RecordField{
				{Name: "Replica", Type: "ReplicaID", Doc: "Replica sits there."},
				{Name: "Right", Doc: "Right is what it may do.", Bits: &BitSet{Type: "Rights", Doc: "Rights is a set of bits.",
					Bits: []Bit{{"Speak", "Speak is to propose."}, {"Elect", "Elect is to vote."}}}},
			}},
			{Name: "Table", Recv: "t", Doc: "Table has seats.", Fields: []RecordField{
				{Name: "Open", Type: "bool", Doc: "Open is true before noon."},
				{Name: "Seats", Doc: "Seats are in a row.", List: &Repeated{Of: "Seat"}},
			}},
		},
		EveryRole: []Handler{{"poke", []string{"Poke"}}},
		Roles: []Role{
			{"Idle", nil},
			{"Busy", []Handler{{"ask", []string{"Ask"}}, {"take", []string{"Answer", "Carry"}}}},
		},
		MaxReplicas: 5,
		Progress: Progress{
			States:  []State{{"probe", "probe tries."}, {"stream", "stream streams."}},
			Columns: []Column{{"match", "wire.Index", "match is what it has."}, {"sent", "uint64", "sent counts."}},
			Sets:    []Column{{"active", "", "active holds the living."}},
		},
		Networks: networks()[:3],
	}
}

// The text of every artifact, for a schema with one of everything.
func TestGolden(t *testing.T) {
	s := small()
	s.Kinds[2].Since, s.Kinds[3].Since = 3, 7
	outputs, err := Generate(s)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range outputs {
		name := strings.TrimSuffix(strings.TrimPrefix(o.Name, "z_"), ".go")
		golden(t, filepath.Join(name, o.Package+".golden"), o.Text)
		seen[filepath.Join("testdata", name)] = true
	}
	dirs, err := filepath.Glob("testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if !seen[dir] && dir != filepath.Join("testdata", "faults") {
			t.Errorf("%s belongs to no artifact", dir)
		}
	}
}

// N1: equal schemas give equal bytes. Maps are walked in another order each
// time, so a few rounds would show one that leaks into the text.
func TestGenerateIsDeterministic(t *testing.T) {
	first, err := Generate(Multiraft())
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := Generate(Multiraft())
		if err != nil {
			t.Fatal(err)
		}
		for i := range first {
			if !bytes.Equal(first[i].Text, again[i].Text) {
				t.Fatalf("%s/%s differs between runs", first[i].Package, first[i].Name)
			}
		}
	}
}

// N3: tools take the files for generated, and everything exported in them is
// documented.
func TestOutputIsMarkedAndDocumented(t *testing.T) {
	for name, schema := range zoo() {
		outputs, err := Generate(schema)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, o := range outputs {
			where := name + ": " + o.Package + "/" + o.Name
			file, err := parser.ParseFile(token.NewFileSet(), o.Name, o.Text, parser.ParseComments)
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			if !ast.IsGenerated(file) || !bytes.HasPrefix(o.Text, []byte(Marker+"\n")) {
				t.Errorf("%s: not marked as generated", where)
			}
			if !strings.HasPrefix(o.Name, "z_") {
				t.Errorf("%s: name does not start with z_", where)
			}
			for _, decl := range file.Decls {
				for _, undocumented := range exportedWithoutDoc(decl) {
					t.Errorf("%s: %s has no doc comment", where, undocumented)
				}
			}
		}
	}
}

// exportedWithoutDoc names what a declaration exports without saying what it is.
func exportedWithoutDoc(decl ast.Decl) []string {
	var names []string
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil {
					names = append(names, s.Names[0].Name)
				}
			}
		}
	}
	return names
}
