package gen

import (
	"errors"
	"fmt"
	"go/token"
	"math/bits"
	"strings"
)

// Limits that the encoding and the generated types set.
const (
	maxVersion  = 1<<16 - 1
	maxKinds    = 255 // a byte, and zero is no kind
	maxFlags    = 8   // the flags byte
	maxWords    = 24  // the size of the fixed part is a byte
	maxBits     = 8   // a BitSet is a byte
	maxReplicas = 64  // a replicaSet is a word
	// maxNetwork keeps the exhaustive check of a network short, and is more
	// voters than anyone has.
	maxNetwork = 12
)

// Names that package wire takes by hand or for every schema. A field may not be
// called like a method of Message, nor a constant like another declaration, nor
// may what the methods of a record call their variables clash.
var (
	wireNames = set("GroupID", "StoreID", "ReplicaID", "Term", "Index", "Arena", "Block", "EntryKind",
		"EntryCommand", "EntryEmpty", "EntryConfig", "BlockHeaderBytes", "MaxBlockBytes",
		"ErrBadBlock", "ErrBadMessage", "ErrBadRecord", "ErrCompacted", "ErrUnavailable",
		"NewBlock", "PayloadBytes", "AppendPayload", "NextPayload", "NextPayloadOf", "BlockSize", "ParseBlock",
		"ProtocolVersion", "MinProtocolVersion", "MaxReplicas", "MessageKind", "MessageKinds", "LastKind", "Message", "Lane", "LaneCount", "Urgent", "Bulk")
	messageNames = set("Kind", "Group", "From", "To", "Term", "Size", "AppendTo", "Decode", "MarshalLogObject")
	recordNames  = set("Size", "AppendTo", "Decode")
	recordLocals = set("src", "dst", "le", "b", "n", "i", "err", "count")
	wordTypes    = set("GroupID", "StoreID", "ReplicaID", "Term", "Index", "uint64")
)

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, name := range names {
		m[name] = true
	}
	return m
}

// checker gathers faults, in the order of the schema.
type checker struct {
	schema *Schema
	faults []error
	taken  map[string]string // exported names of package wire, with who took them
}

// Check returns all faults of the schema, joined, or nil (N2).
func (s *Schema) Check() error {
	c := &checker{schema: s, taken: map[string]string{}}
	for name := range wireNames {
		c.taken[name] = "package wire"
	}
	c.head()
	c.fields()
	c.kinds()
	c.records()
	c.roles()
	c.progress()
	c.networks()
	return errors.Join(c.faults...)
}

// require notes a fault at a place of the schema unless ok.
func (c *checker) require(ok bool, where, rule string, args ...any) {
	if !ok {
		c.faults = append(c.faults, fmt.Errorf("%s: %s", where, fmt.Sprintf(rule, args...)))
	}
}

// documented requires a sentence that can stand above a declaration.
func (c *checker) documented(where, text string) {
	c.require(strings.HasSuffix(text, "."), where, "Doc %q is not a sentence", text)
}

// exported requires a name that users of a package may write.
func (c *checker) exported(where, name string) {
	c.require(token.IsIdentifier(name) && token.IsExported(name), where, "%q is not an exported name", name)
}

// unexported requires a name of the package's own.
func (c *checker) unexported(where, name string) {
	c.require(token.IsIdentifier(name) && !token.IsExported(name), where, "%q is not an unexported name", name)
}

// declare takes an exported name of package wire.
func (c *checker) declare(where, name string) {
	c.exported(where, name)
	by, taken := c.taken[name]
	c.require(!taken, where, "name is taken by %s", by)
	c.taken[name] = where
}

func (c *checker) head() {
	s := c.schema
	c.require(s.Module != "" && !strings.HasPrefix(s.Module, "/") && !strings.HasSuffix(s.Module, "/"),
		"Module", "%q is not an import path", s.Module)
	c.require(1 <= s.Version && s.Version <= maxVersion, "Version", "%d is not in [1, %d]", s.Version, maxVersion)
	c.require(0 <= s.Oldest && s.oldest() <= s.Version, "Oldest", "%d is not in [1, %d]", s.Oldest, s.Version)
	c.require(1 <= s.MaxReplicas && s.MaxReplicas <= maxReplicas, "MaxReplicas", "%d is not in [1, %d]", s.MaxReplicas, maxReplicas)
}

func (c *checker) fields() {
	seen := map[string]bool{}
	for _, f := range c.schema.Fields {
		where := "field " + f.Name
		c.exported(where, f.Name)
		c.documented(where, f.Doc)
		c.require(!seen[f.Name], where, "is there twice")
		c.require(!messageNames[f.Name], where, "every message has a field or method of this name")
		seen[f.Name] = true
		switch f.Form {
		case Word:
			c.require(wordTypes[f.Type], where, "%q is not the type of a word", f.Type)
		case Flag, Tail:
			c.require(f.Type == "", where, "only words have a type")
		default:
			c.require(false, where, "unknown form %d", f.Form)
		}
	}
	count := func(form Form) int { return len(withForm(c.schema.Fields, form)) }
	c.require(count(Word) <= maxWords, "fields", "%d words, at most %d", count(Word), maxWords)
	c.require(count(Flag) <= maxFlags, "fields", "%d flags, at most %d", count(Flag), maxFlags)
	c.require(count(Tail) <= 1, "fields", "%d tails, at most 1", count(Tail))
}

func (c *checker) kinds() {
	fields := map[string]Field{}
	for _, f := range c.schema.Fields {
		fields[f.Name] = f
	}
	n := len(c.schema.Kinds)
	c.require(1 <= n && n <= maxKinds, "kinds", "%d, not in [1, %d]", n, maxKinds)
	newest := 1
	for _, k := range c.schema.Kinds {
		where := "kind " + k.Name
		c.require(newest <= k.since() && k.since() <= c.schema.Version, where, "is there since version %d, not in [%d, %d]", k.since(), newest, c.schema.Version)
		newest = max(newest, k.since())
		c.declare(where, k.Name)
		c.documented(where, k.Doc)
		c.uses(where, k, fields)
		c.require(k.Lane == Urgent || k.Lane == Bulk, where, "unknown lane %d", k.Lane)
		c.termRule(where, k, fields)
		c.require(LeavesAtOnce <= k.Durability && k.Durability <= WaitsForLog, where, "unknown durability %d", k.Durability)
		c.require(k.Durability == LeavesAtOnce || !k.termless(), where, "has no term and so promises nothing, but waits for durability")
		if k.Columnar {
			c.require(k.Lane == Urgent, where, "columns travel in the urgent lane")
			c.require(len(withForm(c.schema.fieldsOf(k), Tail)) == 0, where, "columns have no tail")
		}
	}
}

func (c *checker) uses(where string, k Kind, fields map[string]Field) {
	seen := map[string]bool{}
	for _, u := range k.Carries {
		_, known := fields[u.Field]
		c.require(known, where, "carries unknown field %q", u.Field)
		c.require(!seen[u.Field], where, "carries %s twice", u.Field)
		c.require(u.As != "", where, "does not say what %s is for", u.Field)
		seen[u.Field] = true
	}
}

func (c *checker) termRule(where string, k Kind, fields map[string]Field) {
	if k.termless() {
		return
	}
	_, high := highTermChoices[k.Term.Higher]
	_, low := lowTermChoices[k.Term.Lower]
	c.require(high, where, "has no rule for higher terms")
	c.require(low, where, "has no rule for lower terms")
	c.require((k.Term.Higher == AdoptLeader) == (k.Term.Lower == AnswerOldLeader), where,
		"who leads a higher term is answered in a lower one, and nobody else")
	if k.Term.Higher == KeepUnlessRejected {
		carries := false
		for _, u := range k.Carries {
			carries = carries || u.Field == "Reject" && fields[u.Field].Form == Flag
		}
		c.require(carries, where, "adopts the term when rejected, but has no flag Reject")
	}
}

func (c *checker) records() {
	earlier := map[string]Record{}
	for _, r := range c.schema.Records {
		where := "record " + r.Name
		c.declare(where, r.Name)
		c.documented(where, r.Doc)
		c.unexported(where, r.Recv)
		c.require(!recordLocals[r.Recv], where, "its methods have a variable %s", r.Recv)
		c.require(len(r.Fields) > 0, where, "has no fields")
		seen := map[string]bool{}
		for i, f := range r.Fields {
			where := where + ": field " + f.Name
			c.exported(where, f.Name)
			c.documented(where, f.Doc)
			c.require(!seen[f.Name], where, "is there twice")
			c.require(!recordNames[f.Name], where, "every record has a method of this name")
			local := lowerFirst(f.Name)
			c.require(!recordLocals[local] && local != r.Recv && !token.IsKeyword(local), where, "its decoder cannot have a variable %s", local)
			seen[f.Name] = true
			c.recordField(where, f, i == len(r.Fields)-1, earlier)
		}
		earlier[r.Name] = r
	}
}

func (c *checker) recordField(where string, f RecordField, last bool, earlier map[string]Record) {
	switch {
	case f.Bits != nil:
		c.require(f.Type == "" && f.List == nil, where, "is more than one of word, bits and list")
		c.declare(where, f.Bits.Type)
		c.documented(where, f.Bits.Doc)
		n := len(f.Bits.Bits)
		c.require(1 <= n && n <= maxBits, where, "%d bits, not in [1, %d]", n, maxBits)
		for _, bit := range f.Bits.Bits {
			c.declare(where+": bit "+bit.Name, bit.Name)
			c.documented(where+": bit "+bit.Name, bit.Doc)
		}
	case f.List != nil:
		c.require(f.Type == "", where, "is more than one of word, bits and list")
		c.require(last, where, "a list is the last field")
		c.require(f.List.Max >= 0, where, "at most %d elements", f.List.Max)
		of, known := earlier[f.List.Of]
		c.require(known, where, "%q is not a record declared earlier", f.List.Of)
		_, nested := of.list()
		c.require(!nested, where, "elements have one size, %s holds a list", f.List.Of)
	default:
		c.require(wordTypes[f.Type] || f.Type == "bool", where, "%q is not the type of a word", f.Type)
	}
}

func (c *checker) roles() {
	c.require(len(c.schema.Roles) > 0, "roles", "there is none")
	every := map[string]string{} // kind to method
	c.handlers("every role", c.schema.EveryRole, every)
	seen := map[string]bool{}
	for _, r := range c.schema.Roles {
		where := "role " + r.Name
		c.exported(where, r.Name)
		c.require(!seen[r.Name], where, "is there twice")
		seen[r.Name] = true
		handled := map[string]string{}
		for kind, method := range every {
			handled[kind] = method
		}
		c.handlers(where, r.Handlers, handled)
	}
}

// handlers checks the handlers of a role and notes what they handle.
func (c *checker) handlers(where string, handlers []Handler, handled map[string]string) {
	known := map[string]bool{}
	for _, k := range c.schema.Kinds {
		known[k.Name] = true
	}
	for _, h := range handlers {
		c.unexported(where, h.Method)
		c.require(h.Method != "step" && h.Method != "ignored", where, "method %s is what calls the handlers", h.Method)
		c.require(len(h.Kinds) > 0, where, "%s handles nothing", h.Method)
		for _, kind := range h.Kinds {
			c.require(known[kind], where, "%s handles unknown kind %q", h.Method, kind)
			c.require(handled[kind] == "", where, "%s is handled by %s and by %s", kind, handled[kind], h.Method)
			handled[kind] = h.Method
		}
	}
}

func (c *checker) progress() {
	p := c.schema.Progress
	c.require(len(p.States) > 0, "progress", "there is no state")
	seen := map[string]bool{}
	for _, state := range p.States {
		c.column("progress state "+state.Name, state.Name, state.Doc, seen)
	}
	seen = map[string]bool{}
	for _, col := range p.Columns {
		where := "progress column " + col.Name
		c.column(where, col.Name, col.Doc, seen)
		name, qualified := cutWire(col.Type)
		c.require(qualified && wordTypes[name] || token.IsIdentifier(col.Type), where, "%q is not a type", col.Type)
	}
	for _, col := range p.Sets {
		where := "progress set " + col.Name
		c.column(where, col.Name, col.Doc, seen)
		c.require(col.Type == "", where, "a set has no type")
	}
}

func (c *checker) column(where, name, text string, seen map[string]bool) {
	c.unexported(where, name)
	c.documented(where, text)
	c.require(!seen[name], where, "is there twice")
	seen[name] = true
}

func (c *checker) networks() {
	n := len(c.schema.Networks)
	bound := min(c.schema.MaxReplicas, maxNetwork)
	c.require(n <= bound, "networks", "%d, at most %d", n, bound)
	for i, network := range c.schema.Networks[:min(n, maxNetwork)] {
		size := i + 1
		where := fmt.Sprintf("network of %d", size)
		inside := true
		for _, comp := range network {
			ok := 0 <= comp.A && comp.A < comp.B && comp.B < size
			c.require(ok, where, "comparator {%d, %d} is not within", comp.A, comp.B)
			inside = inside && ok
		}
		if !inside {
			continue
		}
		input, ok := sortsAll(network, size)
		c.require(ok, where, "does not sort %0*b", size, input)
		if ok {
			input, ok = selects(network, size)
			c.require(ok, where, "cut down, does not find the commit index of %0*b", size, input)
		}
	}
}

// sortsAll tries all inputs of zeros and ones, bit i being value i. A network
// that sorts those sorts everything (the 0-1 principle: Knuth, volume 3, section
// 5.3.4, theorem Z). It returns an input that comes out unsorted.
func sortsAll(network Network, n int) (counterexample uint, ok bool) {
	for input := range uint(1) << n {
		v := input
		for _, c := range network {
			a, b := v>>c.A&1, v>>c.B&1
			v = v&^(1<<c.A|1<<c.B) | (a&b)<<c.A | (a|b)<<c.B
		}
		ones := bits.OnesCount(input)
		if sorted := (uint(1)<<ones - 1) << (n - ones); v != sorted {
			return input, false
		}
	}
	return 0, true
}

// selects does the same for what is left of a network when only the deciding
// value counts. The principle holds for each output by itself.
func selects(network Network, n int) (counterexample uint, ok bool) {
	want := decisive(n)
	for input := range uint(1) << n {
		v := input
		for _, s := range prune(network, want) {
			a, b := v>>s.A&1, v>>s.B&1
			if s.low {
				v = v&^(1<<s.A) | (a&b)<<s.A
			}
			if s.high {
				v = v&^(1<<s.B) | (a|b)<<s.B
			}
		}
		expect := uint(0)
		if bits.OnesCount(input) >= n-want {
			expect = 1
		}
		if v>>want&1 != expect {
			return input, false
		}
	}
	return 0, true
}
