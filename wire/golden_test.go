package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// goldenLines returns the lines of a file in testdata: a name, what the fields
// hold, and the bytes, in hexadecimal.
func goldenLines(t *testing.T, name string) [][3]string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var lines [][3]string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.Split(line, "|")
		if len(parts) != 3 {
			t.Fatalf("%s: %d parts in line %q", name, len(parts), line)
		}
		lines = append(lines, [3]string{strings.TrimSpace(parts[0]), strings.TrimSpace(parts[1]), strings.TrimSpace(parts[2])})
	}
	return lines
}

// fieldsText writes out the fields of a struct that are not zero, sorted by name,
// so that the text stays the same when fields are added.
func fieldsText(v reflect.Value) string {
	var fields []string
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Name, v.Field(i)
		if f.IsZero() || name == "Kind" {
			continue
		}
		text := fmt.Sprint(f.Interface())
		switch {
		case f.Type() == reflect.TypeFor[[]byte]():
			text = fmt.Sprintf("%q", f.Interface())
		case f.Kind() == reflect.Slice:
			var list []string
			for at := range f.Len() {
				list = append(list, "{"+fieldsText(f.Index(at))+"}")
			}
			text = strings.Join(list, ",")
		}
		fields = append(fields, name+"="+text)
	}
	slices.Sort(fields)
	return strings.Join(fields, " ")
}

// Goal: what stores of an older protocol send, and what they have stored, is
// understood as they meant it. Method: files with the bytes of every kind of
// message and record, written by the version that added it, which are never
// rewritten.
func TestGoldenMessages(t *testing.T) {
	for version := uint16(1); version <= ProtocolVersion; version++ {
		file := fmt.Sprintf("protocol%d.txt", version)
		t.Run(file, func(t *testing.T) {
			seen := map[MessageKind]bool{}
			records := map[string]record{"HardState": &HardState{}, "Member": &Member{}, "Membership": &Membership{}, "Descriptor": &Descriptor{}}
			for _, line := range goldenLines(t, file) {
				name, fields := line[0], line[1]
				golden, err := hex.DecodeString(line[2])
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				var got reflect.Value
				var again []byte
				if r := records[name]; r != nil {
					r := reflect.New(reflect.TypeOf(r).Elem()).Interface().(record)
					if n, err := r.Decode(golden); err != nil || n != len(golden) {
						t.Errorf("%s: Decode = %d, %v", name, n, err)
					}
					got, again = reflect.ValueOf(r).Elem(), r.AppendTo(nil)
				} else if name == "Block" {
					block, rest, err := ParseBlock(golden)
					if err != nil || len(rest) != 0 {
						t.Errorf("ParseBlock left %d bytes, %v", len(rest), err)
						continue
					}
					text := fmt.Sprintf("Count=%d First=%d Group=%d Kind=%d Last=%d Payloads=%q Term=%d",
						block.Count(), block.First(), block.Group(), block.Kind(), block.Last(), block.Payloads(), block.Term())
					if text != fields {
						t.Errorf("block has\n got %s\nwant %s", text, fields)
					}
					continue
				} else {
					var m Message
					if n, err := m.Decode(golden); err != nil || n != len(golden) {
						t.Errorf("%s: Decode = %d, %v", name, n, err)
					}
					if m.Kind.String() != name {
						t.Errorf("%s was understood as %s", name, m.Kind)
					}
					seen[m.Kind] = true
					got, again = reflect.ValueOf(m), m.AppendTo(nil)
				}
				if text := fieldsText(got); text != fields {
					t.Errorf("%s has\n got %s\nwant %s", name, text, fields)
				}
				if !bytes.Equal(again, golden) {
					t.Errorf("%s is encoded\n got %x\nwant %x", name, again, golden)
				}
			}
			first := MessageKind(1)
			if version > 1 {
				first = LastKind(version-1) + 1
			}
			for k := first; k <= LastKind(version); k++ {
				if !seen[k] {
					t.Errorf("no %s, which version %d added; a line of its sample:\n%s | %s | %x", k, version,
						k, fieldsText(reflect.ValueOf(sampleMessages[k-1])), sampleMessages[k-1].AppendTo(nil))
				}
			}
		})
	}
}
