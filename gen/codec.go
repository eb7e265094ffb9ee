package gen

import (
	"fmt"
	"strings"

	. "github.com/dave/jennifer/jen"
)

// codec builds z_codec.go: size, append-style encoder and borrowing decoder of
// Message. It leans on z_message.go, and on shape and checkHead of the
// hand-written wire/codec.go, which check whatever does not depend on a kind's
// fields.
func codec(s *Schema) *File {
	f := s.wireFile()
	flags := withForm(s.Fields, Flag)
	if len(flags) > 0 {
		var defs []Code
		for i, field := range flags {
			defs = append(defs, Id(flagName(field)).Op("=").Lit(1).Op("<<").Lit(i))
		}
		f.Add(doc("Bits of the flags byte.", consts(defs...)))
	}
	shapes(f, s)
	size(f, s)
	appendTo(f, s)
	decode(f, s)
	return f
}

func flagName(field Field) string { return "flag" + field.Name }

// messageGrid is drawn above the shapes; the rows of kinds follow it.
const messageGrid = `shapes says what the head of each kind of message may say. A message is

	 0      1       2      4      8       16     24   32     40
	┌──────┬───────┬──────┬──────┬───────┬──────┬────┬──────┬───────┬──────┐
	│ kind │ flags │ zero │ body │ group │ from │ to │ term │ words │ tail │
	└──────┴───────┴──────┴──────┴───────┴──────┴────┴──────┴───────┴──────┘

All numbers are little-endian. body counts the bytes behind it. Kinds without a term leave it out, and have their words at 32. The words of each kind:

`

func shapes(f *File, s *Schema) {
	var grid []string
	var items []Code
	width := 0
	for _, k := range s.Kinds {
		width = max(width, len(k.Name))
	}
	for _, k := range s.Kinds {
		fields := s.fieldsOf(k)
		values := []Code{Id("fixed").Op(":").Lit(s.fixedBytes(k))}
		row := ""
		if k.termless() {
			row = " (no term)"
		}
		for _, w := range withForm(fields, Word) {
			row += " " + w.Name
		}
		flags := &Statement{}
		for i, field := range withForm(fields, Flag) {
			if i > 0 {
				flags.Op("|")
			}
			flags.Id(flagName(field))
		}
		if len(*flags) > 0 {
			values = append(values, Id("flags").Op(":").Add(flags))
		}
		for _, field := range withForm(fields, Tail) {
			values = append(values, Id("tail").Op(":").True())
			row += " " + field.Name + "…"
		}
		grid = append(grid, strings.TrimRight(fmt.Sprintf("\t%-*s %s", width, k.Name, row), " "))
		items = append(items, Id(k.Name).Op(":").Values(values...))
	}
	f.Add(doc(messageGrid+strings.Join(grid, "\n"),
		Var().Id("shapes").Op("=").Index(Lit(256)).Id("shape").Add(lines(items...))))
}

func size(f *File, s *Schema) {
	text := "Size returns how many bytes AppendTo appends."
	fixed := Int().Call(Id("shapes").Index(Id("m").Dot("Kind")).Dot("fixed"))
	var body []Code
	if tail, ok := s.tail(); ok && len(s.tailKinds()) > 0 {
		body = []Code{
			Id("s").Op(":=").Op("&").Id("shapes").Index(Id("m").Dot("Kind")),
			If(Op("!").Id("s").Dot("tail")).Block(Return(Int().Call(Id("s").Dot("fixed")))),
			Return(Int().Call(Id("s").Dot("fixed")).Op("+").Len(Id("m").Dot(tail.Name))),
		}
	} else {
		body = []Code{Return(fixed)}
	}
	f.Add(doc(text+hotpath, pointerMethod("m", "Message", "Size").Params().Int().Block(body...)))
}

func appendTo(f *File, s *Schema) {
	text := "AppendTo appends the encoded message to dst. A message without a valid kind is nothing.\n\nREQUIRES: less than 4 GiB in all."
	body := []Code{
		Id("size").Op(":=").Id("m").Dot("Size").Call(),
		If(Id("size").Op("==").Lit(0)).Block(Return(Id("dst"))),
		Id("start").Op(":=").Len(Id("dst")),
		Id("dst").Op("=").Qual(slicesPath, "Grow").Call(Id("dst"), Id("size")).
			Index(Op(":").Id("start").Op("+").Id("size")),
		Id("out").Op(":=").Id("dst").Index(Id("start").Op(":")),
		Line(),
		declareLE(),
		arrayView("out", termOffset),
		Id("b").Index(Lit(0)).Op("=").Byte().Call(Id("m").Dot("Kind")),
	}
	body = append(body, putFlags(s)...)
	body = append(body,
		le("PutUint16").Call(from("b", 2), Lit(0)),
		le("PutUint32").Call(from("b", 4), Uint32().Call(Id("size").Op("-").Id("headBytes"))),
		putWord("Group", 8), putWord("From", 16), putWord("To", 24),
	)
	if cases := layoutCases(s, putLayout); len(cases) > 0 {
		body = append(body, Switch(Id("m").Dot("Kind")).Block(cases...))
	}
	body = append(body, Return(Id("dst")))
	f.Add(doc(text+hotpath, pointerMethod("m", "Message", "AppendTo").
		Params(Id("dst").Index().Byte()).Index().Byte().Block(body...)))
}

// arrayView is b := (*[n]byte)(slice): one check, and none for the accesses.
func arrayView(slice string, n int) Code {
	return Id("b").Op(":=").Parens(Op("*").Index(Lit(n)).Byte()).Call(Id(slice))
}

// putFlags sets the flags byte. A flag that is not of the kind is left out, as
// other fields are.
func putFlags(s *Schema) []Code {
	fields := withForm(s.Fields, Flag)
	if len(fields) == 0 {
		return []Code{Id("b").Index(Lit(1)).Op("=").Lit(0)}
	}
	out := []Code{Id("flags").Op(":=").Uint8().Call(Lit(0))}
	for _, field := range fields {
		out = append(out, If(Id("m").Dot(field.Name)).Block(
			Id("flags").Op("|=").Id(flagName(field)),
		))
	}
	return append(out, Id("b").Index(Lit(1)).Op("=").
		Id("flags").Op("&").Id("shapes").Index(Id("m").Dot("Kind")).Dot("flags"))
}

// putWord is le.PutUint64(b[offset:], uint64(m.Field)).
func putWord(field string, offset int) Code {
	return le("PutUint64").Call(from("b", offset), Uint64().Call(Id("m").Dot(field)))
}

// getWord is m.Field = Type(le.Uint64(b[offset:])).
func getWord(field, typ string, offset int) Code {
	value := le("Uint64").Call(from("b", offset))
	if typ != "uint64" {
		value = Id(typ).Call(value)
	}
	return Id("m").Dot(field).Op("=").Add(value)
}

// layoutCases is a case per layout whose body is made by build.
func layoutCases(s *Schema, build func(*Schema, layout) []Code) []Code {
	var cases []Code
	for _, l := range s.layouts() {
		cases = append(cases, Case(ids(l.kinds)...).Block(build(s, l)...))
	}
	return cases
}

func putLayout(s *Schema, l layout) []Code {
	var body []Code
	if l.fixed > termOffset {
		body = append(body, arrayView("out", l.fixed))
	}
	offset := termOffset
	if !l.termless {
		body = append(body, putWord("Term", offset))
		offset += wordBytes
	}
	for _, w := range l.words {
		put := putWord(w.Name, offset)
		if w.Type == "uint64" {
			put = le("PutUint64").Call(from("b", offset), Id("m").Dot(w.Name))
		}
		body = append(body, put)
		offset += wordBytes
	}
	if tail, ok := s.tail(); ok && l.tail {
		body = append(body, Copy(Id("out").Index(Lit(l.fixed).Op(":")), Id("m").Dot(tail.Name)))
	}
	return body
}

func decode(f *File, s *Schema) {
	text := `Decode sets m to the message at the start of src and returns its size. Every length, flag and reserved byte is checked; an error wraps [ErrBadMessage] and leaves m zero. Bytes behind the message are not looked at.`
	if tail, ok := s.tail(); ok && len(s.tailKinds()) > 0 {
		text += "\n\n" + tail.Name + " is borrowed from src (W3)."
	}
	body := []Code{
		Op("*").Id("m").Op("=").Id("Message").Values(),
		List(Id("n"), Err()).Op("=").Id("checkHead").Call(Id("src")),
		If(Err().Op("!=").Nil()).Block(Return(Lit(0), Err())),
		Line(),
		declareLE(),
		arrayView("src", termOffset),
		Id("m").Dot("Kind").Op("=").Id("MessageKind").Call(Id("b").Index(Lit(0))),
	}
	for _, field := range withForm(s.Fields, Flag) {
		body = append(body, Id("m").Dot(field.Name).Op("=").
			Id("b").Index(Lit(1)).Op("&").Id(flagName(field)).Op("!=").Lit(0))
	}
	body = append(body,
		getWord("Group", "GroupID", 8), getWord("From", "ReplicaID", 16), getWord("To", "ReplicaID", 24))
	if cases := layoutCases(s, getLayout); len(cases) > 0 {
		body = append(body, Switch(Id("m").Dot("Kind")).Block(cases...))
	}
	body = append(body, Return(Id("n"), Nil()))
	f.Add(doc(text+hotpath, pointerMethod("m", "Message", "Decode").
		Params(Id("src").Index().Byte()).Params(Id("n").Int(), Err().Error()).Block(body...)))
}

func getLayout(s *Schema, l layout) []Code {
	var body []Code
	if l.fixed > termOffset {
		body = append(body, arrayView("src", l.fixed))
	}
	offset := termOffset
	if !l.termless {
		body = append(body, getWord("Term", "Term", offset))
		offset += wordBytes
	}
	for _, w := range l.words {
		body = append(body, getWord(w.Name, w.Type, offset))
		offset += wordBytes
	}
	if tail, ok := s.tail(); ok && l.tail {
		body = append(body, If(Id("n").Op(">").Lit(l.fixed)).Block(
			Id("m").Dot(tail.Name).Op("=").Id("src").Index(Lit(l.fixed), Id("n"), Id("n")),
		))
	}
	return body
}
