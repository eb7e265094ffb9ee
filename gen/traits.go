package gen

// What artifacts ask the schema.

// kindNames returns the names of the kinds that satisfy want, in wire order.
func (s *Schema) kindNames(want func(Kind) bool) []string {
	var names []string
	for _, k := range s.Kinds {
		if want(k) {
			names = append(names, k.Name)
		}
	}
	return names
}

// termless reports whether messages of the kind have no term.
func (k Kind) termless() bool { return k.Term == TermRule{} }

// oldest returns the oldest version spoken.
func (s *Schema) oldest() int { return max(1, s.Oldest) }

// since returns the version that the kind came with.
func (k Kind) since() int {
	if k.Since == 0 {
		return 1
	}
	return k.Since
}

// use returns what the kind uses a field for, or "".
func (k Kind) use(field string) string {
	for _, u := range k.Carries {
		if u.Field == field {
			return u.As
		}
	}
	return ""
}

// fieldsOf returns the fields that the kind carries, in the order of Message.
func (s *Schema) fieldsOf(k Kind) []Field {
	var fields []Field
	for _, field := range s.Fields {
		if k.use(field.Name) != "" {
			fields = append(fields, field)
		}
	}
	return fields
}

// withForm returns the fields that have the form.
func withForm(fields []Field, form Form) []Field {
	var out []Field
	for _, field := range fields {
		if field.Form == form {
			out = append(out, field)
		}
	}
	return out
}

// Bytes of a message in front of the fields that depend on its kind.
const (
	headBytes  = 8
	idBytes    = 3 * 8 // group, from, to
	wordBytes  = 8
	termOffset = headBytes + idBytes
)

// fixedBytes is the size of a message of the kind without its tail.
func (s *Schema) fixedBytes(k Kind) int {
	n := termOffset + wordBytes*len(withForm(s.fieldsOf(k), Word))
	if !k.termless() {
		n += wordBytes
	}
	return n
}

// tail returns the field that kinds may carry as the rest of the message.
func (s *Schema) tail() (Field, bool) {
	tails := withForm(s.Fields, Tail)
	if len(tails) == 0 {
		return Field{}, false
	}
	return tails[0], true
}

// layout is a way to encode what follows the ids, shared by some kinds.
type layout struct {
	kinds    []string
	termless bool
	words    []Field
	tail     bool
	fixed    int
}

// layouts groups the kinds by layout, in order of their first kind. Kinds with
// nothing but the ids are left out.
func (s *Schema) layouts() []layout {
	var out []layout
	place := map[string]int{}
	for _, k := range s.Kinds {
		l := layout{
			kinds:    []string{k.Name},
			termless: k.termless(),
			words:    withForm(s.fieldsOf(k), Word),
			tail:     len(withForm(s.fieldsOf(k), Tail)) > 0,
			fixed:    s.fixedBytes(k),
		}
		if l.fixed == termOffset && !l.tail {
			continue
		}
		key := l.key()
		if i, ok := place[key]; ok {
			out[i].kinds = append(out[i].kinds, k.Name)
			continue
		}
		place[key] = len(out)
		out = append(out, l)
	}
	return out
}

// key is equal for equal layouts.
func (l layout) key() string {
	key := ""
	if l.termless {
		key = "termless "
	}
	for _, w := range l.words {
		key += w.Name + " "
	}
	if l.tail {
		key += "…"
	}
	return key
}

// tailKinds returns the kinds with a tail.
func (s *Schema) tailKinds() []string {
	return s.kindNames(func(k Kind) bool { return len(withForm(s.fieldsOf(k), Tail)) > 0 })
}

// slotBits is the size of the smallest unsigned integer with a bit per replica.
func (s *Schema) slotBits() int {
	for _, bits := range []int{8, 16, 32} {
		if s.MaxReplicas <= bits {
			return bits
		}
	}
	return 64
}
