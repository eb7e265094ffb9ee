package gen

import (
	"fmt"

	. "github.com/dave/jennifer/jen"
)

// tables builds z_progress.go: sets of slots as bits, and the leader's table of
// members as arrays. Transitions between the states are written by hand.
func tables(s *Schema) *File {
	f := s.groupFile()
	f.Add(doc("MaxReplicas bounds the members of a group. Each has a slot below it while it is a member.",
		Const().Id("MaxReplicas").Op("=").Qual(s.wirePath(), "MaxReplicas")))
	replicaSet(f, s)

	var choices []choice
	for _, state := range s.Progress.States {
		choices = append(choices, choice{name: state.Name, doc: state.Doc})
	}
	enumeration(f, "progressState", "progressState is how a leader sends entries to a member.", choices)

	var fields []Code
	for _, c := range s.Progress.Columns {
		fields = append(fields, doc(c.Doc, Id(c.Name).Index(Id("MaxReplicas")).Add(s.typeOf(c.Type))))
	}
	for _, c := range s.Progress.Sets {
		fields = append(fields, doc(c.Doc, Id(c.Name).Id("replicaSet")))
	}
	f.Add(doc("progressTable is what a leader knows about the members, by slot. Columns rather than rows, because each round reads one fact of all.",
		Type().Id("progressTable").Struct(fields...)))
	tableTake(f, s)
	return f
}

// tableTake moves what is known about a member to another slot.
func tableTake(f *File, s *Schema) {
	var body []Code
	for _, c := range s.Progress.Columns {
		body = append(body, Id("p").Dot(c.Name).Index(Id("slot")).Op("=").Id("from").Dot(c.Name).Index(Id("at")))
	}
	for _, c := range s.Progress.Sets {
		set := func() *Statement { return Id("p").Dot(c.Name) }
		body = append(body,
			set().Op("=").Add(set()).Dot("without").Call(Id("slot")),
			If(Id("from").Dot(c.Name).Dot("has").Call(Id("at"))).Block(
				set().Op("=").Add(set()).Dot("with").Call(Id("slot"))))
	}
	f.Add(doc("take sets what is known about the member in slot to what from knows about the one at at.",
		pointerMethod("p", "progressTable", "take").Params(
			Id("slot").Int(), Id("from").Op("*").Id("progressTable"), Id("at").Int()).Block(body...)))
}

// typeOf is the type of a column, with names of package wire qualified.
func (s *Schema) typeOf(typ string) Code {
	if name, ok := cutWire(typ); ok {
		return Qual(s.wirePath(), name)
	}
	return Id(typ)
}

func cutWire(typ string) (string, bool) {
	const prefix = "wire."
	if len(typ) > len(prefix) && typ[:len(prefix)] == prefix {
		return typ[len(prefix):], true
	}
	return "", false
}

func replicaSet(f *File, s *Schema) {
	bits := s.slotBits()
	set := func(name string) *Statement { return method("s", "replicaSet", name) }
	bit := func() *Statement { return Lit(1).Op("<<").Uint().Call(Id("slot")) }
	f.Add(doc("replicaSet is a set of slots, a bit each. Walk it with\n\n\tfor slot := s.first(); slot < MaxReplicas; slot = s.next(slot) {",
		Type().Id("replicaSet").Id(fmt.Sprintf("uint%d", bits))))
	f.Add(doc("has reports whether slot is in the set."+hotpath,
		set("has").Params(Id("slot").Int()).Bool().Block(Return(Id("s").Op("&").Parens(bit()).Op("!=").Lit(0)))))
	f.Add(doc("with returns the set and slot."+hotpath,
		set("with").Params(Id("slot").Int()).Id("replicaSet").Block(Return(Id("s").Op("|").Add(bit())))))
	f.Add(doc("without returns the set except slot."+hotpath,
		set("without").Params(Id("slot").Int()).Id("replicaSet").Block(Return(Id("s").Op("&^").Parens(bit())))))
	f.Add(doc("count returns how many slots are in the set."+hotpath,
		set("count").Params().Int().Block(Return(Qual(bitsPath, fmt.Sprintf("OnesCount%d", bits)).Call(
			Id(fmt.Sprintf("uint%d", bits)).Call(Id("s")))))))
	f.Add(doc("first returns the lowest slot of the set, or one not below MaxReplicas when it is empty."+hotpath,
		set("first").Params().Int().Block(Return(Qual(bitsPath, fmt.Sprintf("TrailingZeros%d", bits)).Call(
			Id(fmt.Sprintf("uint%d", bits)).Call(Id("s")))))))
	f.Add(doc("next returns the lowest slot of the set above slot, or one not below MaxReplicas when there is none."+hotpath,
		set("next").Params(Id("slot").Int()).Int().Block(
			Return(Parens(Id("s").Op("&^").Parens(Lit(2).Op("<<").Uint().Call(Id("slot")).Op("-").Lit(1))).Dot("first").Call()))))
}
