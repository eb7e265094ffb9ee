package gen

import (
	. "github.com/dave/jennifer/jen"
)

// logging builds z_log.go: messages as fields of a structured log. It leans on
// z_message.go.
func logging(s *Schema) *File {
	f := s.wireFile()
	enc := func(adder, key string, value Code) Code {
		return Id("enc").Dot(adder).Call(Lit(key), value)
	}
	word := func(name string) Code { return Uint64().Call(Id("m").Dot(name)) }
	body := []Code{
		enc("AddString", "kind", Id("m").Dot("Kind").Dot("String").Call()),
		enc("AddUint64", "group", word("Group")),
		enc("AddUint64", "from", word("From")),
		enc("AddUint64", "to", word("To")),
	}
	for _, field := range withForm(s.Fields, Flag) {
		body = append(body, If(Id("m").Dot(field.Name)).Block(enc("AddBool", lowerFirst(field.Name), True())))
	}
	cases := layoutCases(s, func(s *Schema, l layout) []Code {
		var out []Code
		if !l.termless {
			out = append(out, enc("AddUint64", "term", word("Term")))
		}
		for _, w := range l.words {
			value := word(w.Name)
			if w.Type == "uint64" {
				value = Id("m").Dot(w.Name)
			}
			out = append(out, enc("AddUint64", lowerFirst(w.Name), value))
		}
		if tail, ok := s.tail(); ok && l.tail {
			out = append(out, enc("AddInt", lowerFirst(tail.Name)+"Bytes", Len(Id("m").Dot(tail.Name))))
		}
		return out
	})
	if len(cases) > 0 {
		body = append(body, Switch(Id("m").Dot("Kind")).Block(cases...))
	}
	body = append(body, Return(Nil()))
	f.Add(doc("MarshalLogObject adds what the message carries to enc; of long bytes, their number. It makes *Message a zapcore.ObjectMarshaler and never fails.",
		pointerMethod("m", "Message", "MarshalLogObject").
			Params(Id("enc").Qual(zapcorePath, "ObjectEncoder")).Error().Block(body...)))
	return f
}
