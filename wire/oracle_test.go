package wire

import (
	"encoding/binary"
	"reflect"
)

// plainLayout says which fields messages of a kind have, by name. Flags stand
// for bits 0, 1, … and may be "", which is a bit of other kinds.
type plainLayout struct {
	term         bool
	words, flags []string
	tail         string
}

// plainAppend is AppendTo without any specialisation: the layout is data and
// the fields are found by name.
func plainAppend(dst []byte, m *Message) []byte {
	layout := plainLayouts[m.Kind]
	v := reflect.ValueOf(m).Elem()
	le := binary.LittleEndian

	var body []byte
	for _, name := range layout.wordNames() {
		body = le.AppendUint64(body, v.FieldByName(name).Uint())
	}
	if layout.tail != "" {
		body = append(body, v.FieldByName(layout.tail).Bytes()...)
	}
	var flags byte
	for bit, name := range layout.flags {
		if name != "" && v.FieldByName(name).Bool() {
			flags |= 1 << bit
		}
	}
	dst = append(dst, byte(m.Kind), flags, 0, 0)
	dst = le.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...)
}

// plainDecode is Decode without any specialisation.
func plainDecode(src []byte) (m Message, n int, ok bool) {
	if len(src) < 8 {
		return Message{}, 0, false
	}
	layout, known := plainLayouts[MessageKind(src[0])]
	le := binary.LittleEndian
	size := 8 + uint64(le.Uint32(src[4:]))
	if !known || src[2] != 0 || src[3] != 0 || uint64(len(src)) < size {
		return Message{}, 0, false
	}
	m.Kind = MessageKind(src[0])
	v := reflect.ValueOf(&m).Elem()
	body := src[8:size]
	for bit := range 8 {
		if src[1]>>bit&1 == 0 {
			continue
		}
		if bit >= len(layout.flags) || layout.flags[bit] == "" {
			return Message{}, 0, false
		}
		v.FieldByName(layout.flags[bit]).SetBool(true)
	}
	for _, name := range layout.wordNames() {
		if len(body) < 8 {
			return Message{}, 0, false
		}
		v.FieldByName(name).SetUint(le.Uint64(body))
		body = body[8:]
	}
	if len(body) > 0 {
		if layout.tail == "" {
			return Message{}, 0, false
		}
		v.FieldByName(layout.tail).SetBytes(body)
	}
	return m, int(size), true
}

// wordNames are all words of the kind, in their order on the wire.
func (l plainLayout) wordNames() []string {
	names := []string{"Group", "From", "To"}
	if l.term {
		names = append(names, "Term")
	}
	return append(names, l.words...)
}

// record is what all records do.
type record interface {
	Size() int
	AppendTo(dst []byte) []byte
	Decode(src []byte) (n int, err error)
}

// newRecord returns a zero record of the same type.
func newRecord(r record) record {
	return reflect.New(reflect.TypeOf(r).Elem()).Interface().(record)
}
