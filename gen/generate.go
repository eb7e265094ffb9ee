package gen

import (
	"bytes"
	"fmt"
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
		outputs = append(outputs, Output{Package: a.pkg, Name: a.name, Text: text.Bytes()})
	}
	return outputs, nil
}
