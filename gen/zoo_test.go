package gen

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// zoo has the engine's schema and awkward ones, each at some limit.
func zoo() map[string]*Schema {
	schemas := map[string]*Schema{
		"multiraft": Multiraft(),
		"small":     small(),
		"onekind":   oneKind(),
		"termless":  oneKind(),
		"tailonly":  oneKind(),
		"maxfields": maxFields(),
		"maxkinds":  oneKind(),
		"manyroles": manyRoles(),
	}
	s := schemas["termless"]
	s.Fields = []Field{{Name: "Number", Type: "uint64", Doc: "Number is a number."}}
	s.Kinds = []Kind{
		{Name: "Ping", Doc: "Ping has a field and no term.", Carries: []Use{{"Number", "any"}}},
		{Name: "Pong", Doc: "Pong has the same.", Carries: []Use{{"Number", "any"}}},
	}

	s = schemas["tailonly"]
	s.Fields = []Field{{Name: "Entries", Form: Tail, Doc: "Entries are bytes."}}
	s.Kinds = []Kind{{Name: "Carry", Doc: "Carry has a tail and nothing else.", Carries: []Use{{"Entries", "all"}}, Lane: Bulk}}

	s = schemas["maxkinds"]
	s.Kinds = nil
	for i := range maxKinds {
		s.Kinds = append(s.Kinds, Kind{Name: fmt.Sprintf("Kind%03d", i+1), Doc: "A kind.", Term: ordinary})
	}

	for name, s := range schemas {
		s.Module = "zoo/" + name
	}
	return schemas
}

// oneKind has as little as Check lets pass.
func oneKind() *Schema {
	return &Schema{
		Module:      "example",
		Version:     1,
		Kinds:       []Kind{{Name: "Poke", Doc: "Poke has no field and no term."}},
		Roles:       []Role{{"Follower", nil}},
		MaxReplicas: 1,
		Progress:    Progress{States: []State{{"probe", "probe is all there is."}}},
	}
}

// maxFields has the most words, flags and bits, and a kind that carries all.
func maxFields() *Schema {
	s := oneKind()
	s.Version = maxVersion
	all := Kind{Name: "All", Doc: "All carries everything.", Term: fromLeader}
	add := func(f Field) {
		s.Fields = append(s.Fields, f)
		all.Carries = append(all.Carries, Use{f.Name, "something"})
		s.Kinds = append(s.Kinds, Kind{Name: "Only" + f.Name, Doc: "One field.", Carries: []Use{{f.Name, "something"}}, Term: ordinary})
	}
	for i := range maxWords {
		add(Field{Name: fmt.Sprintf("Word%d", i), Type: []string{"uint64", "Index", "GroupID"}[i%3], Doc: "A word."})
	}
	for i := range maxFlags {
		add(Field{Name: fmt.Sprintf("Flag%d", i), Form: Flag, Doc: "A flag."})
	}
	add(Field{Name: "Rest", Form: Tail, Doc: "The rest."})
	slices.Reverse(all.Carries)
	s.Kinds = append(s.Kinds, all)

	set := &BitSet{Type: "Eight", Doc: "Eight has all bits."}
	for i := range maxBits {
		set.Bits = append(set.Bits, Bit{fmt.Sprintf("Bit%d", i), "A bit."})
	}
	s.Records = []Record{
		{Name: "Bits", Recv: "s", Doc: "Bits has nothing but bits.", Fields: []RecordField{{Name: "Set", Doc: "A set.", Bits: set}}},
		{Name: "Only", Recv: "o", Doc: "Only has nothing but a list.", Fields: []RecordField{{Name: "Items", Doc: "Items.", List: &Repeated{Of: "Bits", Max: 3}}}},
	}
	return s
}

// manyRoles has the most slots and the largest networks, and handlers in all
// combinations.
func manyRoles() *Schema {
	s := oneKind()
	s.MaxReplicas = maxReplicas
	for i := range 12 {
		s.Kinds = append(s.Kinds, Kind{Name: fmt.Sprintf("Kind%d", i), Doc: "A kind.", Term: fromLeader})
	}
	s.EveryRole = []Handler{{"always", []string{"Poke"}}}
	for i := range 20 {
		role := Role{Name: fmt.Sprintf("Role%d", i)}
		for k := range 12 {
			if (i+k)%3 == 0 {
				role.Handlers = append(role.Handlers, Handler{fmt.Sprintf("handle%d", k), []string{fmt.Sprintf("Kind%d", k)}})
			}
		}
		s.Roles = append(s.Roles, role)
	}
	// Bubble sort is a sorting network of any size.
	for n := 1; n <= maxNetwork; n++ {
		network := Network{}
		for end := n - 1; end > 0; end-- {
			for i := range end {
				network = append(network, Comparator{i, i + 1})
			}
		}
		s.Networks = append(s.Networks, network)
	}
	return s
}

// Goal: what is generated from any sound schema is vetted, compiles and works.
// Method: a module with a wire and a group package per schema, made of the
// generated files, the hand-written half of wire with its tests of the codec,
// and stubs for the handlers; the stubs say who was called.
func TestZoo(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a module")
	}
	dir := newModule(t)
	writeFile(t, filepath.Join(dir, "internal", "allocs", "allocs.go"), readFile(t, "../internal/allocs/allocs.go"))
	for name, s := range zoo() {
		writeWire(t, filepath.Join(dir, name, "wire"), s, s.Version)
		writeGroup(t, filepath.Join(dir, name, "group"), s)
	}
	for _, args := range [][]string{{"vet", "./..."}, {"test", "./..."}} {
		if out, err := goCommand(dir, args...); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// A schema of another version than the hand-written half does not compile.
func TestVersionsMustAgree(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a module")
	}
	for _, codecVersion := range []int{1, 3} {
		dir := newModule(t)
		s := oneKind()
		s.Module, s.Version = "zoo/versions", 2
		writeWire(t, filepath.Join(dir, "versions", "wire"), s, codecVersion)
		out, err := goCommand(dir, "build", "./...")
		if err == nil || !strings.Contains(out, "out of bounds") && !strings.Contains(out, "must not be negative") {
			t.Errorf("schema version 2, codec version %d: error %v\n%s", codecVersion, err, out)
		}
	}
}

// newModule makes an empty module that may use what the repository uses.
func newModule(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	mod := string(readFile(t, "../go.mod"))
	mod = regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(mod, "module zoo")
	writeFile(t, filepath.Join(dir, "go.mod"), []byte(mod))
	writeFile(t, filepath.Join(dir, "go.sum"), readFile(t, "../go.sum"))
	return dir
}

// goCommand runs the go command without network.
func goCommand(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// writeWire writes the generated and the hand-written half of package wire.
func writeWire(t *testing.T, dir string, s *Schema, codecVersion int) {
	t.Helper()
	writeOutputs(t, dir, s, "wire")
	for _, name := range []string{"ids.go", "errors.go", "codec.go", "oracle_test.go", "codec_test.go", "codec_fuzz_test.go"} {
		text := bytes.ReplaceAll(readFile(t, filepath.Join("../wire", name)), []byte(`"multiraft/internal/`), []byte(`"zoo/internal/`))
		writeFile(t, filepath.Join(dir, name), text)
	}
	ours := regexp.MustCompile(`(?m)^const codecVersion = \d+$`)
	version := readFile(t, "../wire/version.go")
	if !ours.Match(version) {
		t.Fatalf("wire/version.go does not say %s", ours)
	}
	writeFile(t, filepath.Join(dir, "version.go"),
		ours.ReplaceAll(version, fmt.Appendf(nil, "const codecVersion = %d", codecVersion)))
}

func writeOutputs(t *testing.T, dir string, s *Schema, pkg string) {
	t.Helper()
	outputs, err := Generate(s)
	if err != nil {
		t.Fatalf("%s: %v", s.Module, err)
	}
	for _, o := range outputs {
		if o.Package == pkg {
			writeFile(t, filepath.Join(dir, o.Name), o.Text)
		}
	}
}

// writeGroup writes the generated half of package group with stubs for the
// other, and a test of both.
func writeGroup(t *testing.T, dir string, s *Schema) {
	t.Helper()
	writeOutputs(t, dir, s, "group")
	writeFile(t, filepath.Join(dir, "oracle_test.go"),
		[]byte(strings.Replace(string(readFile(t, "../group/oracle_test.go")), "multiraft/wire", s.Module+"/wire", 1)))

	var stub, table strings.Builder
	fmt.Fprintf(&stub, "package group\n\nimport %q\n\ntype Role uint8\n\nconst (\n", s.Module+"/wire")
	handlers := map[string]bool{"ignored": true}
	for i, role := range s.Roles {
		fmt.Fprintf(&stub, "\t%s Role = %d\n", role.Name, i)
		for _, k := range s.Kinds {
			handler := handlerOf(s, role, k)
			handlers[handler] = true
			fmt.Fprintf(&table, "\t{%s, wire.%s, %q},\n", role.Name, k.Name, handler)
		}
	}
	stub.WriteString(")\n\ntype Group struct {\n\trole   Role\n\tcalled string\n}\n")
	for handler := range handlers {
		fmt.Fprintf(&stub, "\nfunc (g *Group) %s(m *wire.Message) error { g.called = %q; return nil }\n", handler, handler)
	}
	writeFile(t, filepath.Join(dir, "stub.go"), []byte(stub.String()))
	writeFile(t, filepath.Join(dir, "zoo_test.go"),
		[]byte(fmt.Sprintf(groupTest, s.Module+"/wire", table.String())))
}

// handlerOf reads the schema as plainly as can be.
func handlerOf(s *Schema, role Role, k Kind) string {
	for _, h := range append(slices.Clone(s.EveryRole), role.Handlers...) {
		if slices.Contains(h.Kinds, k.Name) {
			return h.Method
		}
	}
	return "ignored"
}

const groupTest = `package group

import (
	"math/rand/v2"
	"testing"

	%q
)

func TestDispatch(t *testing.T) {
	for _, c := range []struct {
		role Role
		kind wire.MessageKind
		want string
	}{
%s	} {
		g := Group{role: c.role}
		if err := g.step(&wire.Message{Kind: c.kind}); err != nil || g.called != c.want {
			t.Errorf("role %%d, %%s: called %%s, want %%s", c.role, c.kind, g.called, c.want)
		}
	}
}

func TestQuorum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	all := ^replicaSet(0) >> (replicaSet(0).first() - MaxReplicas)
	for range 20_000 {
		var match [MaxReplicas]wire.Index
		for i := range match {
			match[i] = wire.Index(r.Uint64N(2 * MaxReplicas))
		}
		voters := replicaSet(r.Uint64()&r.Uint64()) & all
		if got, want := commitIndex(&match, voters), plainCommitIndex(&match, voters); got != want {
			t.Fatalf("voters %%b of %%v: commit index %%d, want %%d", voters, match, got, want)
		}
		var votes tally
		plain := map[int]bool{}
		for _, slot := range slotsOf(replicaSet(r.Uint64()) & all) {
			plain[slot] = r.Uint64()&1 == 0
			votes.record(slot, plain[slot])
		}
		if got, want := votes.result(voters, voters>>1), plainResult(plain, voters, voters>>1); got != want {
			t.Fatalf("voters %%b, votes %%v: %%s, want %%s", voters, plain, got, want)
		}
	}
}

func TestRules(t *testing.T) {
	for k := wire.MessageKind(1); k != 0 && k <= wire.MessageKinds; k++ {
		higher, lower := termRuleOf(k)
		if higher.String() == "" || lower.String() == "" || durabilityOf(k).String() == "" {
			t.Errorf("%%s: rules %%d and %%d, durability %%d", k, higher, lower, durabilityOf(k))
		}
		if isTermless(k) && durabilityOf(k) != leavesAtOnce {
			t.Errorf("%%s has no term and waits", k)
		}
	}
}
`

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func writeFile(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
