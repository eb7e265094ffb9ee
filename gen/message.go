package gen

import (
	"fmt"
	"strings"

	. "github.com/dave/jennifer/jen"
)

// message builds z_message.go: the kinds with their traits, lanes, and Message
// itself. The codec leans on the numbers of the kinds and on the fields.
func message(s *Schema) *File {
	f := s.wireFile()
	f.Add(doc("ProtocolVersion is the version of messages and records that the schema describes.",
		Const().Id("ProtocolVersion").Op("=").Lit(s.Version)))
	f.Add(doc("MinProtocolVersion is the oldest version that is spoken still.",
		Const().Id("MinProtocolVersion").Op("=").Lit(s.oldest())))
	f.Add(doc("The hand-written half of the package speaks the same version, or the index is out of bounds here.",
		Var().Id("_").Op("=").Index(Lit(1)).Struct().Values().Index(Id("ProtocolVersion").Op("-").Id("codecVersion"))))
	f.Add(doc("MaxReplicas bounds the members of a group.",
		Const().Id("MaxReplicas").Op("=").Lit(s.MaxReplicas)))
	messageKinds(f, s)
	kindVersions(f, s)
	lanes(f, s)
	messageStruct(f, s)
	return f
}

func messageKinds(f *File, s *Schema) {
	f.Add(doc("MessageKind says what a message means and which of its fields count. Zero is no kind.",
		Type().Id("MessageKind").Uint8()))
	var defs, names []Code
	for i, k := range s.Kinds {
		text := k.Doc
		if len(k.Carries) > 0 {
			text += "\n\n" + usesTable(s, k)
		}
		defs = append(defs, doc(text, Id(k.Name).Id("MessageKind").Op("=").Lit(i+1)))
		names = append(names, Id(k.Name).Op(":").Lit(k.Name))
	}
	f.Add(consts(defs...))
	f.Add(doc("MessageKinds is how many kinds there are. They are 1 to MessageKinds.",
		Const().Id("MessageKinds").Op("=").Lit(len(s.Kinds))))
	f.Var().Id("messageKindNames").Op("=").Index(Op("...")).String().Add(lines(names...))

	f.Add(doc("String returns the name of the kind.",
		method("k", "MessageKind", "String").Params().String().Block(
			If(Id("k").Op("==").Lit(0).Op("||").Id("k").Op(">").Id("MessageKinds")).Block(
				Return(Lit("MessageKind(").Op("+").Qual(strconvPath, "Itoa").Call(Int().Call(Id("k"))).Op("+").Lit(")")),
			),
			Return(Id("messageKindNames").Index(Id("k"))),
		)))

	text := "Columnar reports whether messages of this kind travel as columns, gathered over all groups of a frame." + hotpath
	columnar := s.kindNames(func(k Kind) bool { return k.Columnar })
	if len(columnar) == 0 {
		f.Add(doc(text, Func().Params(Id("MessageKind")).Id("Columnar").Params().Bool().Block(Return(False()))))
		return
	}
	f.Add(doc(text, method("k", "MessageKind", "Columnar").Params().Bool().Block(Return(oneOf("k", ids(columnar))))))
}

// kindVersions tells which kinds stores of a version know. New kinds go to the
// end, so one number tells it.
func kindVersions(f *File, s *Schema) {
	var body []Code
	for i := 1; i < len(s.Kinds); i++ {
		if since := s.Kinds[i].since(); since > s.Kinds[i-1].since() {
			body = append(body, If(Id("protocol").Op("<").Lit(since)).Block(Return(Id(s.Kinds[i-1].Name))))
		}
	}
	name := "protocol"
	if len(body) == 0 {
		name = "_"
	}
	body = append(body, Return(Id(s.Kinds[len(s.Kinds)-1].Name)))
	f.Add(doc("LastKind returns the last kind of messages that stores of a protocol version know. They know all kinds before it.",
		Func().Id("LastKind").Params(Id(name).Uint16()).Id("MessageKind").Block(body...)))
}

// usesTable lists the fields of a kind with their meanings, as preformatted
// lines in the order of Message.
func usesTable(s *Schema, k Kind) string {
	var rows []string
	width := 0
	for _, field := range s.fieldsOf(k) {
		width = max(width, len(field.Name))
	}
	for _, field := range s.fieldsOf(k) {
		rows = append(rows, fmt.Sprintf("\t%-*s  %s", width, field.Name, k.use(field.Name)))
	}
	return strings.Join(rows, "\n")
}

// oneOf is v == a || v == b ….
func oneOf(v string, values []Code) *Statement {
	out := &Statement{}
	for i, value := range values {
		if i > 0 {
			out.Op("||")
		}
		out.Id(v).Op("==").Add(value)
	}
	return out
}

func lanes(f *File, s *Schema) {
	f.Add(doc("Lane is the connection of a store pair that a message travels on. Order is kept within a lane only.",
		Type().Id("Lane").Uint8()))
	f.Add(consts(
		doc("Urgent messages are small and keep leaders alive.", Id("Urgent").Id("Lane").Op("=").Lit(0)),
		doc("Bulk messages carry entries.", Id("Bulk").Id("Lane").Op("=").Lit(1)),
	))
	f.Add(doc("LaneCount is how many lanes there are. They are 0 to LaneCount-1.",
		Const().Id("LaneCount").Op("=").Lit(2)))
	f.Add(doc("String returns the name of the lane.",
		method("l", "Lane", "String").Params().String().Block(
			Switch(Id("l")).Block(
				Case(Id("Urgent")).Block(Return(Lit("urgent"))),
				Case(Id("Bulk")).Block(Return(Lit("bulk"))),
			),
			Return(Lit("Lane(").Op("+").Qual(strconvPath, "Itoa").Call(Int().Call(Id("l"))).Op("+").Lit(")")),
		)))

	text := "Lane returns the lane that messages of this kind travel on." + hotpath
	bulk := s.kindNames(func(k Kind) bool { return k.Lane == Bulk })
	if len(bulk) == 0 {
		f.Add(doc(text, Func().Params(Id("MessageKind")).Id("Lane").Params().Id("Lane").Block(Return(Id("Urgent")))))
		return
	}
	f.Add(doc(text, method("k", "MessageKind", "Lane").Params().Id("Lane").Block(
		Switch(Id("k")).Block(Case(ids(bulk)...).Block(Return(Id("Bulk")))),
		Return(Id("Urgent")),
	)))
}

func messageStruct(f *File, s *Schema) {
	fields := []Code{Id("Kind").Id("MessageKind")}
	for _, field := range s.Fields {
		if field.Form == Flag {
			fields = append(fields, doc(field.Doc, Id(field.Name).Bool()))
		}
	}
	fields = append(fields,
		doc("Group is the group it is about.", Id("Group").Id("GroupID")),
		doc("From and To are replicas of the group.", List(Id("From"), Id("To")).Id("ReplicaID")),
		doc("Term is the sender's term. Kinds without one leave it out.", Id("Term").Id("Term")),
	)
	for _, field := range s.Fields {
		switch field.Form {
		case Word:
			fields = append(fields, doc(field.Doc, Id(field.Name).Id(field.Type)))
		case Tail:
			fields = append(fields, doc(field.Doc, Id(field.Name).Index().Byte()))
		}
	}
	f.Add(doc("Message is a message of any kind. Which fields count, and what they mean, depends on Kind; the others stay zero and are not encoded.",
		Type().Id("Message").Struct(fields...)))
}
