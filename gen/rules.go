package gen

import (
	. "github.com/dave/jennifer/jen"
)

// choice is one value of a generated enumeration. Without a label, its name is
// what String returns.
type choice struct{ name, doc, label string }

var highTermChoices = map[HighTermRule]choice{
	Adopt:              {"adopt", "adopt: become follower in the new term, with no leader known.", ""},
	AdoptLeader:        {"adoptLeader", "adoptLeader: become follower in the new term; the sender leads it.", ""},
	KeepTerm:           {"keepTerm", "keepTerm: handle the message and stay in the own term.", ""},
	KeepUnlessRejected: {"keepUnlessRejected", "keepUnlessRejected: keepTerm, but adopt when the message has Reject.", ""},
}

var lowTermChoices = map[LowTermRule]choice{
	IgnoreOld:       {"ignoreOld", "ignoreOld: drop the message.", ""},
	AnswerOldLeader: {"answerOldLeader", "answerOldLeader: drop it and tell the sender, who still believes to lead, the newer term.", ""},
	RefuseOld:       {"refuseOld", "refuseOld: answer with a refusal in the newer term.", ""},
}

var durabilityChoices = map[Durability]choice{
	LeavesAtOnce:      {"leavesAtOnce", "leavesAtOnce promises nothing.", ""},
	WaitsForHardState: {"waitsForHardState", "waitsForHardState promises a term or a vote, which must be durable first.", ""},
	WaitsForLog:       {"waitsForLog", "waitsForLog promises entries, which must be durable first.", ""},
}

// rules builds z_rules.go: what a receiver does with a term that is not its own,
// and what must be durable before a message leaves. The code that acts on the
// rules is written by hand.
func rules(s *Schema) *File {
	f := s.groupFile()
	enumeration(f, "highTermRule", "highTermRule is what a receiver does with a message of a higher term.",
		[]choice{highTermChoices[Adopt], highTermChoices[AdoptLeader], highTermChoices[KeepTerm], highTermChoices[KeepUnlessRejected]})
	enumeration(f, "lowTermRule", "lowTermRule is what a receiver does with a message of a lower term.",
		[]choice{lowTermChoices[IgnoreOld], lowTermChoices[AnswerOldLeader], lowTermChoices[RefuseOld]})
	enumeration(f, "durability", "durability is what must be on disk before a message leaves.",
		[]choice{durabilityChoices[LeavesAtOnce], durabilityChoices[WaitsForHardState], durabilityChoices[WaitsForLog]})

	kind := Id("k").Qual(s.wirePath(), "MessageKind")
	f.Add(doc("isTermless reports whether messages of kind k have no term. They are handled in any."+hotpath,
		Func().Id("isTermless").Params(kind).Bool().Block(
			s.kindSwitch(func(k Kind) string {
				if k.termless() {
					return "true"
				}
				return ""
			}, func(string) Code { return Return(True()) }, Return(False()))...,
		)))

	f.Add(doc("termRuleOf returns what to do with a message of kind k whose term is higher or lower than the receiver's.\n\nREQUIRES: !isTermless(k)."+hotpath,
		Func().Id("termRuleOf").Params(kind.Clone()).
			Params(Id("higher").Id("highTermRule"), Id("lower").Id("lowTermRule")).Block(
			s.kindSwitch(func(k Kind) string {
				if k.termless() || k.Term == ordinary {
					return ""
				}
				return highTermChoices[k.Term.Higher].name + ", " + lowTermChoices[k.Term.Lower].name
			}, func(rules string) Code { return Return(Id(rules)) },
				Return(Id("adopt"), Id("ignoreOld")))...,
		)))

	f.Add(doc("durabilityOf returns what must be durable before a message of kind k leaves."+hotpath,
		Func().Id("durabilityOf").Params(kind.Clone()).Id("durability").Block(
			s.kindSwitch(func(k Kind) string {
				if k.Durability == LeavesAtOnce {
					return ""
				}
				return durabilityChoices[k.Durability].name
			}, func(d string) Code { return Return(Id(d)) }, Return(Id("leavesAtOnce")))...,
		)))
	return f
}

// enumeration declares a small type with its values from 0 and its String.
func enumeration(f *File, name, text string, choices []choice) {
	f.Add(doc(text, Type().Id(name).Uint8()))
	var defs, names []Code
	for i, c := range choices {
		def := Id(c.name)
		if i == 0 {
			def.Id(name).Op("=").Iota()
		}
		defs = append(defs, doc(c.doc, def))
		label := c.label
		if label == "" {
			label = c.name
		}
		names = append(names, Lit(label))
	}
	f.Add(consts(defs...))
	table := name + "Names"
	f.Var().Id(table).Op("=").Index(Op("...")).String().Add(lines(names...))
	recv := name[:1]
	f.Add(doc("String returns the name of "+recv+".",
		method(recv, name, "String").Params().String().Block(
			If(Int().Call(Id(recv)).Op(">=").Len(Id(table))).Block(
				Return(Lit(name+"(").Op("+").Qual(strconvPath, "Itoa").Call(Int().Call(Id(recv))).Op("+").Lit(")")),
			),
			Return(Id(table).Index(Id(recv))),
		)))
}

// kindSwitch is a switch over k with a case for each answer that of gives other
// than "", and what follows when no case applies.
func (s *Schema) kindSwitch(of func(Kind) string, result func(string) Code, otherwise Code) []Code {
	var answers []string
	kinds := map[string][]string{}
	for _, k := range s.Kinds {
		answer := of(k)
		if answer == "" {
			continue
		}
		if kinds[answer] == nil {
			answers = append(answers, answer)
		}
		kinds[answer] = append(kinds[answer], k.Name)
	}
	var cases []Code
	for _, answer := range answers {
		cases = append(cases, Case(s.wireIDs(kinds[answer])...).Block(result(answer)))
	}
	if len(cases) == 0 {
		return []Code{otherwise}
	}
	return []Code{Switch(Id("k")).Block(cases...), otherwise}
}
