package gen

import (
	"fmt"
	"strings"

	. "github.com/dave/jennifer/jen"
)

// recordFile builds z_records.go: structs that are stored, or sent inside of
// something else, with their codecs. It leans on badRecord and recordTooShort
// of the hand-written wire/codec.go.
func recordFile(s *Schema) *File {
	f := s.wireFile()
	for _, r := range s.Records {
		for _, field := range r.Fields {
			if field.Bits != nil {
				bitSet(f, field.Bits)
			}
		}
		recordStruct(f, s, r)
		recordSize(f, r)
		recordAppendTo(f, r)
		recordDecode(f, s, r)
	}
	return f
}

func (r Record) fixedConst() string { return lowerFirst(r.Name) + "Bytes" }

func (r Record) fixedBytes() int { return wordBytes * len(r.Fields) }

// list returns the counted list at the end, if there is one.
func (r Record) list() (RecordField, bool) {
	for _, field := range r.Fields {
		if field.List != nil {
			return field, true
		}
	}
	return RecordField{}, false
}

func (b *BitSet) mask() string { return lowerFirst(b.Type) + "Mask" }

func bitSet(f *File, b *BitSet) {
	f.Add(doc(b.Doc, Type().Id(b.Type).Uint8()))
	var defs []Code
	mask := &Statement{}
	for i, bit := range b.Bits {
		defs = append(defs, doc(bit.Doc, Id(bit.Name).Id(b.Type).Op("=").Lit(1<<i)))
		if i > 0 {
			mask.Op("|")
		}
		mask.Id(bit.Name)
	}
	f.Add(consts(defs...))
	f.Add(doc(b.mask()+" has all bits that mean something.", Const().Id(b.mask()).Op("=").Add(mask)))
}

// recordGrid draws the bytes of a record.
func recordGrid(r Record) string {
	var offsets, top, middle, bottom strings.Builder
	offsets.WriteString("\t ")
	for i, field := range r.Fields {
		cell := " " + lowerFirst(field.Name) + " "
		if field.List != nil {
			cell = " count │ " + lowerFirst(field.Name) + " … "
		}
		bar := strings.Repeat("─", len([]rune(cell)))
		if at := strings.Index(cell, "│"); at >= 0 {
			bar = strings.Repeat("─", at) + "*" + strings.Repeat("─", len([]rune(cell))-at-1)
		}
		offset := fmt.Sprint(i * wordBytes)
		offsets.WriteString(offset + strings.Repeat(" ", len([]rune(cell))+1-len(offset)))
		corner := [3]string{"┬", "│", "┴"}
		if i == 0 {
			corner = [3]string{"\t┌", "\t│", "\t└"}
		}
		top.WriteString(corner[0] + strings.ReplaceAll(bar, "*", "┬"))
		middle.WriteString(corner[1] + cell)
		bottom.WriteString(corner[2] + strings.ReplaceAll(bar, "*", "┴"))
	}
	return strings.Join([]string{
		strings.TrimRight(offsets.String(), " "), top.String() + "┐", middle.String() + "│", bottom.String() + "┘",
	}, "\n")
}

func recordStruct(f *File, s *Schema, r Record) {
	var fields []Code
	for _, field := range r.Fields {
		fields = append(fields, doc(field.Doc, Id(field.Name).Add(field.goType())))
	}
	f.Add(doc(r.Doc+"\n\n"+recordGrid(r), Type().Id(r.Name).Struct(fields...)))
	what := " is the size of an encoded "
	if list, ok := r.list(); ok {
		what = " is the size of an encoded " + r.Name + " without its " + lowerFirst(list.Name) + "."
	} else {
		what += r.Name + "."
	}
	f.Add(doc(r.fixedConst()+what, Const().Id(r.fixedConst()).Op("=").Lit(r.fixedBytes())))
}

func (field RecordField) goType() Code {
	switch {
	case field.Bits != nil:
		return Id(field.Bits.Type)
	case field.List != nil:
		return Index().Id(field.List.Of)
	}
	return Id(field.Type)
}

func recordSize(f *File, r Record) {
	text := "Size returns how many bytes AppendTo appends."
	list, ok := r.list()
	if !ok {
		f.Add(doc(text, Func().Params(Op("*").Id(r.Name)).Id("Size").Params().Int().
			Block(Return(Id(r.fixedConst())))))
		return
	}
	f.Add(doc(text, pointerMethod(r.Recv, r.Name, "Size").Params().Int().Block(
		Return(Id(r.fixedConst()).Op("+").Len(Id(r.Recv).Dot(list.Name)).Op("*").Id(lowerFirst(list.List.Of)+"Bytes")),
	)))
}

func recordAppendTo(f *File, r Record) {
	text := "AppendTo appends the encoded record to dst."
	recv := Id(r.Recv)
	body := []Code{declareLE()}
	put := func(value Code) Code {
		return Id("dst").Op("=").Add(le("AppendUint64")).Call(Id("dst"), value)
	}
	for _, field := range r.Fields {
		value := recv.Clone().Dot(field.Name)
		switch {
		case field.Type == "bool":
			body = append(body, put(Id("boolWord").Call(value)))
		case field.List != nil:
			body = append(body, put(Uint64().Call(Len(value))),
				For(Id("i").Op(":=").Range().Add(value)).Block(
					Id("dst").Op("=").Add(value.Clone()).Index(Id("i")).Dot("AppendTo").Call(Id("dst")),
				))
		case field.Type == "uint64":
			body = append(body, put(value))
		default:
			body = append(body, put(Uint64().Call(value)))
		}
	}
	body = append(body, Return(Id("dst")))
	if list, ok := r.list(); ok {
		text += "\n\nREQUIRES: at most " + list.List.bound() + " " + lowerFirst(list.Name) + "."
	}
	f.Add(doc(text+hotpath, pointerMethod(r.Recv, r.Name, "AppendTo").
		Params(Id("dst").Index().Byte()).Index().Byte().Block(body...)))
}

// bound is the largest count as Go text.
func (l *Repeated) bound() string {
	if l.Max == 0 {
		return "MaxReplicas"
	}
	return fmt.Sprint(l.Max)
}

func recordDecode(f *File, s *Schema, r Record) {
	list, hasList := r.list()
	text := "Decode sets " + r.Recv + " to the record at the start of src and returns its size. An error wraps [ErrBadRecord] and leaves " + r.Recv + " zero."
	if hasList {
		text += " " + list.Name + " is used again where it is large enough."
	}
	recv := Id(r.Recv)
	fail := func(offset int, what string, value Code) Code {
		return Return(Lit(0), Id("badRecord").Call(Lit(r.Name), Lit(offset), Lit(what), value))
	}
	reset := Op("*").Add(recv).Op("=").Id(r.Name).Values()
	var body []Code
	if hasList {
		body = append(body, Id(lowerFirst(list.Name)).Op(":=").Add(recv).Dot(list.Name).Index(Op(":").Lit(0)))
	}
	body = append(body, reset,
		If(Len(Id("src")).Op("<").Id(r.fixedConst())).Block(
			Return(Lit(0), Id("recordTooShort").Call(Lit(r.Name), Id(r.fixedConst()), Len(Id("src")))),
		),
		Line(),
		declareLE(),
		Id("b").Op(":=").Parens(Op("*").Index(Id(r.fixedConst())).Byte()).Call(Id("src")),
	)
	var checks, values []Code
	for i, field := range r.Fields {
		offset := i * wordBytes
		word := le("Uint64").Call(from("b", offset))
		local := lowerFirst(field.Name)
		switch {
		case field.Bits != nil:
			checks = append(checks,
				Id(local).Op(":=").Add(word),
				If(Id(local).Op("&^").Uint64().Call(Id(field.Bits.mask())).Op("!=").Lit(0)).Block(
					fail(offset, local+" has unknown bits", Id(local))))
			values = append(values, Id(field.Name).Op(":").Id(field.Bits.Type).Call(Id(local)))
		case field.Type == "bool":
			checks = append(checks,
				Id(local).Op(":=").Add(word),
				If(Id(local).Op(">").Lit(1)).Block(fail(offset, local+" is not 0 or 1", Id(local))))
			values = append(values, Id(field.Name).Op(":").Id(local).Op("==").Lit(1))
		case field.List != nil:
			bound := Code(Id("MaxReplicas"))
			if field.List.Max != 0 {
				bound = Lit(field.List.Max)
			}
			checks = append(checks,
				Id("count").Op(":=").Add(word),
				If(Id("count").Op(">").Add(bound)).Block(fail(offset, "too many "+local, Id("count"))))
		case field.Type == "uint64":
			values = append(values, Id(field.Name).Op(":").Add(word))
		default:
			values = append(values, Id(field.Name).Op(":").Id(field.Type).Call(word))
		}
	}
	body = append(body, checks...)
	if !hasList {
		body = append(body,
			Op("*").Add(recv).Op("=").Id(r.Name).Add(lines(values...)),
			Return(Id(r.fixedConst()), Nil()))
	} else {
		local, item := lowerFirst(list.Name), lowerFirst(list.List.Of)+"Bytes"
		values = append(values, Id(list.Name).Op(":").Id(local))
		body = append(body,
			Id("n").Op("=").Id(r.fixedConst()).Op("+").Int().Call(Id("count")).Op("*").Id(item),
			If(Len(Id("src")).Op("<").Id("n")).Block(
				Return(Lit(0), Id("recordTooShort").Call(Lit(r.Name), Id("n"), Len(Id("src"))))),
			Line(),
			Id(local).Op("=").Qual(slicesPath, "Grow").Call(Id(local), Int().Call(Id("count"))).Index(Op(":").Id("count")),
			For(Id("i").Op(":=").Range().Id(local)).Block(
				If(List(Id("_"), Err()).Op(":=").Id(local).Index(Id("i")).Dot("Decode").Call(
					Id("src").Index(Id(r.fixedConst()).Op("+").Id("i").Op("*").Id(item).Op(":"))),
					Err().Op("!=").Nil()).Block(
					Return(Lit(0), Qual(fmtPath, "Errorf").Call(Lit(r.Name+": "+local+"[%d]: %w"), Id("i"), Err()))),
			),
			Op("*").Add(recv).Op("=").Id(r.Name).Add(lines(values...)),
			Return(Id("n"), Nil()))
	}
	f.Add(doc(text, pointerMethod(r.Recv, r.Name, "Decode").
		Params(Id("src").Index().Byte()).Params(Id("n").Int(), Err().Error()).Block(body...)))
}
