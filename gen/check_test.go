package gen

import (
	"testing"
)

// Goal: every rule of Check has a schema that breaks it, and the message says
// what and where. Method: each case breaks a sound schema in one or more ways;
// the messages are in testdata/faults.
func TestFaults(t *testing.T) {
	for name, breakIt := range map[string]func(*Schema){
		"empty": func(s *Schema) { *s = Schema{} },
		"head": func(s *Schema) {
			s.Module, s.Version, s.Oldest, s.MaxReplicas = "/example/", 70_000, 70_001, 65
		},
		"fields": func(s *Schema) {
			s.Fields = append(s.Fields,
				Field{Name: "lower", Type: "Index", Doc: "Lower is unexported."},
				Field{Name: "Group", Type: "GroupID", Doc: "Group is taken."},
				Field{Name: "Index", Type: "Index", Doc: "Index is there twice."},
				Field{Name: "Price", Type: "float64", Doc: "Price is no word"},
				Field{Name: "Rest", Form: Tail, Type: "Index", Doc: "Rest is a second tail, with a type."},
				Field{Name: "Shape", Form: 9, Doc: "Shape has a form of its own."},
			)
		},
		"too-many-fields": func(s *Schema) {
			for i := range maxWords {
				s.Fields = append(s.Fields, Field{Name: "W" + string(rune('a'+i)), Type: "uint64", Doc: "A word."})
			}
			for i := range maxFlags {
				s.Fields = append(s.Fields, Field{Name: "F" + string(rune('a'+i)), Form: Flag, Doc: "A flag."})
			}
		},
		"too-many-kinds": func(s *Schema) {
			for i := range maxKinds {
				s.Kinds = append(s.Kinds, Kind{Name: "K" + string(rune('a'+i/26)) + string(rune('a'+i%26)), Doc: "A kind."})
			}
		},
		"kinds": func(s *Schema) {
			s.Kinds = append(s.Kinds,
				Kind{Name: "Ask", Doc: "Ask is there twice."},
				Kind{Name: "Term", Doc: "Term is a type of package wire."},
				Kind{Name: "Some thing", Doc: "No identifier."},
				Kind{Name: "Unsaid"},
				Kind{Name: "Stray", Doc: "Stray carries too much.", Carries: []Use{{"Nothing", "?"}, {"Index", ""}, {"Index", "again"}}},
				Kind{Name: "Lost", Doc: "Lost is in no lane.", Lane: 5, Durability: 9, Term: ordinary},
			)
		},
		"versions": func(s *Schema) {
			s.Kinds[0].Since = -1
			s.Kinds = append(s.Kinds,
				Kind{Name: "Sixth", Since: 6, Doc: "Sixth is there since version 6."},
				Kind{Name: "Fifth", Since: 5, Doc: "Fifth is older than the kind in front of it."},
				Kind{Name: "First", Doc: "First is older still."},
				Kind{Name: "Eighth", Since: 8, Doc: "Eighth is newer than the schema."},
			)
		},
		"term-rules": func(s *Schema) {
			s.Kinds = append(s.Kinds,
				Kind{Name: "HalfHigh", Doc: "HalfHigh has half a rule.", Term: TermRule{Higher: Adopt}},
				Kind{Name: "HalfLow", Doc: "HalfLow has half a rule.", Term: TermRule{Lower: IgnoreOld}},
				Kind{Name: "Silent", Doc: "Silent leads without an answer.", Term: TermRule{AdoptLeader, IgnoreOld}},
				Kind{Name: "Refused", Doc: "Refused cannot say so.", Term: TermRule{KeepUnlessRejected, IgnoreOld}},
				Kind{Name: "Promise", Doc: "Promise has no term.", Durability: WaitsForLog},
			)
		},
		"columns": func(s *Schema) {
			s.Kinds = append(s.Kinds, Kind{Name: "Wide", Doc: "Wide is too wide.", Carries: []Use{{"Body", "bytes"}}, Lane: Bulk, Columnar: true})
		},
		"records": func(s *Schema) {
			s.Records = append(s.Records,
				Record{Name: "Seat", Recv: "S", Doc: "Seat is there twice."},
				Record{Name: "Shadow", Recv: "b", Doc: "Shadow has bad names.", Fields: []RecordField{
					{Name: "Src", Type: "Index", Doc: "Src is a variable."},
					{Name: "Type", Type: "Index", Doc: "Type is a keyword."},
					{Name: "B", Type: "Index", Doc: "B is the receiver."},
				}},
				Record{Name: "Mixed", Recv: "m", Doc: "Mixed", Fields: []RecordField{
					{Name: "Size", Type: "Index", Doc: "Size is a method."},
					{Name: "Early", Doc: "Early is not last.", List: &Repeated{Of: "Seat", Max: -1}},
					{Name: "Deep", Doc: "Deep holds lists.", List: &Repeated{Of: "Table"}},
					{Name: "Later", Type: "Index", Doc: "Later is unknown.", List: &Repeated{Of: "Later"}},
					{Name: "Later", Type: "string", Doc: "Later is there twice."},
					{Name: "Both", Type: "Index", Doc: "Both is two things.", Bits: &BitSet{Type: "Rights", Doc: "Rights are taken."}},
					{Name: "Many", Doc: "Many has nine bits.", Bits: &BitSet{Type: "Nine", Doc: "Nine bits.", Bits: []Bit{
						{"Bit1", "."}, {"Bit2", "."}, {"Bit3", "."}, {"Bit4", "."}, {"Bit5", "."}, {"Bit6", "."}, {"Bit7", "."}, {"Bit8", "."}, {"Speak", ""}}}},
				}},
			)
		},
		"handlers": func(s *Schema) {
			s.Roles = append(s.Roles,
				Role{"Busy", []Handler{{"ask", nil}, {"Ask", []string{"Nobody"}}, {"step", []string{"Ask"}}}},
				Role{"torn", []Handler{{"one", []string{"Ask"}}, {"two", []string{"Ask", "Poke"}}}},
			)
		},
		"progress": func(s *Schema) {
			s.Progress = Progress{
				States:  []State{{"probe", "probe tries."}, {"Probe", "Probe is exported."}, {"probe", "again"}},
				Columns: []Column{{"match", "wire.Message", "match is no word."}, {"match", "", "match is there twice."}},
				Sets:    []Column{{"match", "uint16", "match is a column."}},
			}
		},
		"networks": func(s *Schema) {
			s.Networks = []Network{
				{{0, 1}},
				{},
				{{0, 1}, {1, 2}},
				{{1, 0}, {2, 2}, {-1, 3}},
				networks()[4],
				networks()[5],
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := small()
			breakIt(s)
			outputs, err := Generate(s)
			if err == nil || len(outputs) != 0 {
				t.Fatalf("%d outputs, error %v", len(outputs), err)
			}
			golden(t, "faults/"+name+".golden", []byte(err.Error()+"\n"))
		})
	}
}

// The engine's own schema, and all awkward ones, have no fault.
func TestSoundSchemas(t *testing.T) {
	for name, s := range zoo() {
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A network that lacks any one comparator does not sort: the check sees each of
// them.
func TestCheckSeesEveryComparator(t *testing.T) {
	for i, network := range networks() {
		for at := range network {
			cut := append(append(Network{}, network[:at]...), network[at+1:]...)
			if _, ok := sortsAll(cut, i+1); ok {
				t.Errorf("network of %d sorts without comparator %d", i+1, at)
			}
		}
	}
}
