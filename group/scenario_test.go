package group

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"multiraft/wire"
)

var rewrite = flag.Bool("rewrite", false, "write what scenarios print into their files; read every line of the diff")

// TestScenarios runs the text scenarios in testdata. A file is a list of
//
//	# comment
//	directive argument key=value key=(a,b)
//	input lines, for directives that take some
//	----
//	the output, up to an empty line
//
// The directives are the methods of scenario, each with an example.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScenario(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Fatalf("%s\n%s", file, firstDifference(got, string(text)))
			}
		})
	}
}

// firstDifference shows where two texts part, with a few lines before.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	i := 0
	for i < len(g) && i < len(w) && g[i] == w[i] {
		i++
	}
	excerpt := func(lines []string) string {
		return strings.Join(lines[max(0, min(i-4, len(lines))):min(i+6, len(lines))], "\n\t")
	}
	return fmt.Sprintf("line %d: got\n\t%s\nwant\n\t%s", i+1, excerpt(g), excerpt(w))
}

// command is one directive with its arguments.
type command struct {
	name  string
	args  []string // those without a key
	keyed map[string]string
	input []string
	line  int
}

// runScenario runs a scenario and returns it with the outputs that it gave.
func runScenario(t *testing.T, text string) string {
	s := &scenario{t: t}
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if line == "" || strings.HasPrefix(line, "#") {
			out.WriteString(line + "\n")
			continue
		}
		cmd := parseCommand(t, line, i+1)
		out.WriteString(line + "\n")
		for i++; i < len(lines) && lines[i] != "----"; i++ {
			cmd.input = append(cmd.input, lines[i])
			out.WriteString(lines[i] + "\n")
		}
		if i == len(lines) {
			t.Fatalf("line %d: %s has no ----", cmd.line, cmd.name)
		}
		for i+1 < len(lines) && lines[i+1] != "" {
			i++
		}
		out.WriteString("----\n" + s.run(cmd))
	}
	return out.String()
}

func parseCommand(t *testing.T, line string, number int) command {
	fields := strings.Fields(line)
	cmd := command{name: fields[0], keyed: map[string]string{}, line: number}
	for _, f := range fields[1:] {
		if key, value, ok := strings.Cut(f, "="); ok {
			cmd.keyed[key] = strings.Trim(value, "()")
		} else {
			cmd.args = append(cmd.args, f)
		}
	}
	if len(cmd.input) > 0 {
		t.Fatalf("line %d", number)
	}
	return cmd
}

// scenario is the state of a running scenario.
type scenario struct {
	t     *testing.T
	c     *cluster
	lines []string // the output of the current directive
}

func (s *scenario) printf(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// run runs one directive and returns its output, "ok" when it printed nothing.
func (s *scenario) run(cmd command) string {
	s.t.Helper()
	s.lines = nil
	handler, ok := directives[cmd.name]
	if !ok {
		s.t.Fatalf("line %d: unknown directive %s", cmd.line, cmd.name)
	}
	handler(s, cmd)
	if len(s.lines) == 0 {
		return "ok\n"
	}
	return strings.Join(s.lines, "\n") + "\n"
}

// number parses what a scenario gives as a number.
func (s *scenario) number(cmd command, text string) uint64 {
	s.t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		s.t.Fatalf("line %d: %s: %v", cmd.line, cmd.name, err)
	}
	return n
}

// keyedNumber returns a keyed number, fallback when the key is not there.
func (s *scenario) keyedNumber(cmd command, key string, fallback uint64) uint64 {
	s.t.Helper()
	if text, ok := cmd.keyed[key]; ok {
		return s.number(cmd, text)
	}
	return fallback
}

// pairs parses a keyed list of a:b.
func (s *scenario) pairs(cmd command, key string) map[uint64]uint64 {
	s.t.Helper()
	pairs := map[uint64]uint64{}
	if list, ok := cmd.keyed[key]; ok {
		for _, text := range strings.Split(list, ",") {
			a, b, _ := strings.Cut(text, ":")
			pairs[s.number(cmd, a)] = s.number(cmd, b)
		}
	}
	return pairs
}

// ids parses replica ids, all members when there are none.
func (s *scenario) ids(cmd command, texts []string) (ids []wire.ReplicaID) {
	s.t.Helper()
	for _, text := range texts {
		ids = append(ids, wire.ReplicaID(s.number(cmd, text)))
	}
	if len(ids) == 0 && s.c != nil {
		ids = s.c.all()
	}
	return ids
}

// node returns the node that the first argument names, which must be up.
func (s *scenario) node(cmd command) *node {
	s.t.Helper()
	if len(cmd.args) == 0 {
		s.t.Fatalf("line %d: %s: which replica?", cmd.line, cmd.name)
	}
	n := s.c.node(wire.ReplicaID(s.number(cmd, cmd.args[0])))
	if n == nil || n.g == nil && cmd.name != "restart" {
		s.t.Fatalf("line %d: %s: replica %s is not up", cmd.line, cmd.name, cmd.args[0])
	}
	return n
}

// indexTerm parses index/term.
func (s *scenario) indexTerm(cmd command, text string) (wire.Index, wire.Term) {
	s.t.Helper()
	index, term, ok := strings.Cut(text, "/")
	if !ok {
		s.t.Fatalf("line %d: %s: %q is not index/term", cmd.line, cmd.name, text)
	}
	return wire.Index(s.number(cmd, index)), wire.Term(s.number(cmd, term))
}
