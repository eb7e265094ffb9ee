package gen

import (
	. "github.com/dave/jennifer/jen"
)

// codecSamples builds z_codec_test.go: a message of each kind, and the layouts
// as data for the plain codec. The tests, fuzz tests, gates and benchmarks that
// use them are the same for every schema and written by hand.
func codecSamples(s *Schema) *File {
	f := s.wireFile()
	var samples, layouts []Code
	for _, k := range s.Kinds {
		next := 0
		number := func() Code { next++; return Lit(next) }
		fields := []Code{
			Id("Kind").Op(":").Id(k.Name),
			Id("Group").Op(":").Add(number()), Id("From").Op(":").Add(number()), Id("To").Op(":").Add(number()),
		}
		if !k.termless() {
			fields = append(fields, Id("Term").Op(":").Add(number()))
		}
		var words []Code
		layout := []Code{Id("term").Op(":").Lit(!k.termless())}
		for _, w := range withForm(s.fieldsOf(k), Word) {
			fields = append(fields, Id(w.Name).Op(":").Add(number()))
			words = append(words, Lit(w.Name))
		}
		if len(words) > 0 {
			layout = append(layout, Id("words").Op(":").Index().String().Values(words...))
		}
		flags := make([]Code, 0, maxFlags)
		for _, field := range withForm(s.Fields, Flag) {
			if k.use(field.Name) == "" {
				flags = append(flags, Lit(""))
				continue
			}
			fields = append(fields, Id(field.Name).Op(":").True())
			flags = append(flags, Lit(field.Name))
		}
		if len(withForm(s.fieldsOf(k), Flag)) > 0 {
			layout = append(layout, Id("flags").Op(":").Index().String().Values(flags...))
		}
		for _, t := range withForm(s.fieldsOf(k), Tail) {
			fields = append(fields, Id(t.Name).Op(":").Index().Byte().Call(Lit("borrowed")))
			layout = append(layout, Id("tail").Op(":").Lit(t.Name))
		}
		samples = append(samples, Values(fields...))
		layouts = append(layouts, Id(k.Name).Op(":").Values(layout...))
	}
	f.Add(doc("sampleMessages has a message of each kind, in which every field of the kind has a value of its own.",
		Var().Id("sampleMessages").Op("=").Index(Op("...")).Id("Message").Add(lines(samples...))))
	f.Add(doc("plainLayouts says which fields the kinds have, for the plain codec.",
		Var().Id("plainLayouts").Op("=").Map(Id("MessageKind")).Id("plainLayout").Add(lines(layouts...))))
	return f
}

// recordSamples builds z_records_test.go: one of each record.
func recordSamples(s *Schema) *File {
	f := s.wireFile()
	byName := map[string]Record{}
	var samples []Code
	for _, r := range s.Records {
		byName[r.Name] = r
		samples = append(samples, Op("&").Id(r.Name).Add(r.sample(byName)))
	}
	f.Add(doc("sampleRecords has one of each record, in which every field has a value of its own.",
		Var().Id("sampleRecords").Op("=").Index(Op("...")).Id("record").Add(lines(samples...))))
	return f
}

// sample is a composite literal of the record, without its type.
func (r Record) sample(byName map[string]Record) Code {
	var values []Code
	for i, field := range r.Fields {
		var value Code
		switch {
		case field.Bits != nil:
			value = Id(field.Bits.Bits[len(field.Bits.Bits)-1].Name)
		case field.List != nil:
			value = Index().Id(field.List.Of).Values(byName[field.List.Of].sample(byName))
		case field.Type == "bool":
			value = True()
		default:
			value = Lit(i + 1)
		}
		values = append(values, Id(field.Name).Op(":").Add(value))
	}
	return Values(values...)
}
