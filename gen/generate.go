package gen

import (
	"bytes"
	"fmt"
	"strings"

	. "github.com/dave/jennifer/jen"
)

// Output is one generated file.
type Output struct {
	Package string // wire or group
	Name    string // of the file
	Text    []byte
}

// artifact is what one file is made by.
type artifact struct {
	pkg, name string
	build     func(*Schema) *File
}

// artifacts lists all there are, in order of what leans on what.
var artifacts = []artifact{
	{"wire", "z_message.go", message},
	{"wire", "z_codec.go", codec},
	{"wire", "z_records.go", recordFile},
	{"wire", "z_log.go", logging},
	{"wire", "z_codec_test.go", codecSamples},
	{"wire", "z_records_test.go", recordSamples},
	{"group", "z_dispatch.go", dispatch},
	{"group", "z_rules.go", rules},
	{"group", "z_progress.go", tables},
	{"group", "z_quorum.go", quorum},
	{"group", "z_tally.go", tallies},
}

// Generate returns all files made from the schema, or all faults of the schema.
// Equal schemas give equal bytes.
func Generate(s *Schema) ([]Output, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	var outputs []Output
	for _, a := range artifacts {
		var text bytes.Buffer
		if err := a.build(s).Render(&text); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", a.pkg, a.name, err)
		}
		outputs = append(outputs, Output{Package: a.pkg, Name: a.name, Text: s.groupImports(text.Bytes())})
	}
	return outputs, nil
}

// groupImports sets the imports apart as hand-written files have them: standard
// library, other modules, this module. The builder sorts them into one group.
func (s *Schema) groupImports(text []byte) []byte {
	const open, end = "\nimport (\n", "\n)\n"
	before, rest, found := strings.Cut(string(text), open)
	if !found {
		return text
	}
	imports, after, _ := strings.Cut(rest, end)
	var groups [3][]string
	for _, line := range strings.Split(imports, "\n") {
		path := strings.Trim(line[strings.Index(line, `"`):], `"`)
		first, _, _ := strings.Cut(path, "/")
		switch {
		case strings.HasPrefix(path, s.Module+"/"):
			groups[2] = append(groups[2], line)
		case strings.Contains(first, "."):
			groups[1] = append(groups[1], line)
		default:
			groups[0] = append(groups[0], line)
		}
	}
	var parts []string
	for _, group := range groups {
		if len(group) > 0 {
			parts = append(parts, strings.Join(group, "\n"))
		}
	}
	return []byte(before + open + strings.Join(parts, "\n\n") + end + after)
}
