package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"go.uber.org/zap/zapcore"
)

// Goal: every kind of message comes back as it was sent, and looks as the plain
// codec would have it. Method: the samples set every field of their kind.
func TestMessageRoundTrip(t *testing.T) {
	prefix := []byte("before")
	for _, m := range sampleMessages {
		t.Run(m.Kind.String(), func(t *testing.T) {
			buf := m.AppendTo(bytes.Clone(prefix))
			if !bytes.HasPrefix(buf, prefix) {
				t.Fatalf("AppendTo changed what was there: %q", buf)
			}
			buf = buf[len(prefix):]
			if want := plainAppend(nil, &m); !bytes.Equal(buf, want) {
				t.Errorf("encoded\n got %x\nwant %x", buf, want)
			}
			if len(buf) != m.Size() {
				t.Errorf("Size is %d, encoded are %d bytes", m.Size(), len(buf))
			}
			got := fullMessage() // nothing of a message before may stay
			n, err := got.Decode(append(buf, "behind"...))
			if err != nil || n != len(buf) {
				t.Fatalf("Decode = %d, %v; want %d", n, err, len(buf))
			}
			if !reflect.DeepEqual(got, m) {
				t.Errorf("decoded\n got %+v\nwant %+v", got, m)
			}
		})
	}
}

// fullMessage has all fields set that any kind has.
func fullMessage() Message {
	var full Message
	to := reflect.ValueOf(&full).Elem()
	for _, m := range sampleMessages {
		from := reflect.ValueOf(m)
		for i := range from.NumField() {
			if !from.Field(i).IsZero() {
				to.Field(i).Set(from.Field(i))
			}
		}
	}
	return full
}

// Fields that are not of the kind must not reach the wire.
func TestMessageCarriesFieldsOfItsKindOnly(t *testing.T) {
	for _, m := range sampleMessages {
		full := fullMessage()
		full.Kind = m.Kind
		var got Message
		if _, err := got.Decode(full.AppendTo(nil)); err != nil {
			t.Fatalf("%s: %v", m.Kind, err)
		}
		v := reflect.ValueOf(got)
		for i := range v.NumField() {
			if !v.Field(i).IsZero() && reflect.ValueOf(m).Field(i).IsZero() {
				t.Errorf("%s: %s came through", m.Kind, v.Type().Field(i).Name)
			}
		}
	}
}

// W2: a message that ends early is refused wherever it ends.
func TestDecodeRefusesEveryPrefix(t *testing.T) {
	for _, m := range sampleMessages {
		buf := m.AppendTo(nil)
		for n := range buf {
			refused(t, buf[:n:n], "%s cut to %d bytes", m.Kind, n)
		}
	}
}

func TestDecodeRefusesBadHeads(t *testing.T) {
	for _, m := range sampleMessages {
		buf := m.AppendTo(nil)
		fixed, tail := int(shapes[m.Kind].fixed), shapes[m.Kind].tail
		change := func(at int, value byte) []byte {
			bad := bytes.Clone(buf)
			bad[at] = value
			return bad
		}
		refused(t, change(0, 0), "%s: kind 0", m.Kind)
		for kind := MessageKinds + 1; kind <= 255; kind++ {
			refused(t, change(0, byte(kind)), "%s: kind %d", m.Kind, kind)
		}
		for bit := range 8 {
			if shapes[m.Kind].flags>>bit&1 == 0 {
				refused(t, change(1, buf[1]|1<<bit), "%s: flag %d", m.Kind, bit)
			}
		}
		refused(t, change(2, 1), "%s: reserved byte 2", m.Kind)
		refused(t, change(3, 0x80), "%s: reserved byte 3", m.Kind)

		withBody := func(size int) []byte {
			bad := append(bytes.Clone(buf), make([]byte, 64)...)
			binary.LittleEndian.PutUint32(bad[4:], uint32(size-headBytes))
			return bad
		}
		refused(t, withBody(headBytes), "%s: no body", m.Kind)
		refused(t, withBody(fixed-1), "%s: body one byte short", m.Kind)
		if !tail {
			refused(t, withBody(fixed+1), "%s: one trailing byte", m.Kind)
		}
		refused(t, withBody(1<<32-1+headBytes), "%s: body of 4 GiB", m.Kind)
	}
}

// refused requires that src is no message, with an error of the right family,
// and that nothing of it is left in the message.
func refused(t *testing.T, src []byte, what string, args ...any) {
	t.Helper()
	m := fullMessage()
	n, err := m.Decode(src)
	if !errors.Is(err, ErrBadMessage) || n != 0 {
		t.Errorf(what+": Decode = %d, %v", append(args, n, err)...)
	}
	if !reflect.DeepEqual(m, Message{}) {
		t.Errorf(what+": left %+v", append(args, m)...)
	}
}

// W3: what is decoded borrows, and has no capacity to grow over what is behind.
func TestDecodeBorrows(t *testing.T) {
	for _, m := range sampleMessages {
		if !shapes[m.Kind].tail {
			continue
		}
		buf := append(m.AppendTo(nil), "behind"...)
		var got Message
		if _, err := got.Decode(buf); err != nil {
			t.Fatal(err)
		}
		v := reflect.ValueOf(got).FieldByName(plainLayouts[m.Kind].tail)
		if v.Cap() != v.Len() {
			t.Errorf("%s: capacity %d behind length %d", m.Kind, v.Cap(), v.Len())
		}
		if &v.Bytes()[0] != &buf[shapes[m.Kind].fixed] {
			t.Errorf("%s: copied", m.Kind)
		}
	}
}

func TestInvalidKindIsNothing(t *testing.T) {
	m := fullMessage()
	for kind := range 256 {
		if 1 <= kind && kind <= MessageKinds {
			continue
		}
		m.Kind = MessageKind(kind)
		if m.Size() != 0 || len(m.AppendTo(nil)) != 0 {
			t.Errorf("%s: has %d bytes", m.Kind, m.Size())
		}
	}
}

func TestTraitsOfEveryKind(t *testing.T) {
	seen := map[string]bool{}
	for k := MessageKind(1); k <= MessageKinds && k != 0; k++ {
		if k.String() == "" || seen[k.String()] {
			t.Errorf("kind %d: name %q", k, k)
		}
		seen[k.String()] = true
		if k.Lane() >= LaneCount {
			t.Errorf("%s: lane %d", k, k.Lane())
		}
		if k.Columnar() && (k.Lane() != Urgent || shapes[k].tail) {
			t.Errorf("%s cannot travel as columns", k)
		}
	}
	if len(sampleMessages) != MessageKinds {
		t.Errorf("%d samples of %d kinds", len(sampleMessages), MessageKinds)
	}
}

// A log line has every field that the message carries.
func TestMessageMarshalLogObject(t *testing.T) {
	for _, m := range sampleMessages {
		enc := zapcore.NewMapObjectEncoder()
		if err := m.MarshalLogObject(enc); err != nil {
			t.Fatal(err)
		}
		layout := plainLayouts[m.Kind]
		want := 1 + len(layout.wordNames())
		for _, flag := range layout.flags {
			if flag != "" {
				want++
			}
		}
		if layout.tail != "" {
			want++
		}
		if len(enc.Fields) != want || enc.Fields["kind"] != m.Kind.String() || enc.Fields["to"] != uint64(m.To) {
			t.Errorf("%s: logged %v, want %d fields", m.Kind, enc.Fields, want)
		}
	}
}

func TestMessageCodecDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 4<<10)
	for _, m := range sampleMessages {
		var got Message
		var err error
		if n := testing.AllocsPerRun(100, func() {
			buf = m.AppendTo(buf[:0])
			_, err = got.Decode(buf)
		}); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, error %v", m.Kind, n, err)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range sampleRecords {
		buf := r.AppendTo(nil)
		if len(buf) != r.Size() {
			t.Errorf("%T: Size is %d, encoded are %d bytes", r, r.Size(), len(buf))
		}
		got := newRecord(r)
		n, err := got.Decode(append(buf, "behind"...))
		if err != nil || n != len(buf) || !reflect.DeepEqual(got, r) {
			t.Errorf("%T: Decode = %d, %v: %+v, want %+v", r, n, err, got, r)
		}
		for size := range buf {
			n, err := got.Decode(buf[:size:size])
			if !errors.Is(err, ErrBadRecord) || n != 0 || !reflect.DeepEqual(got, newRecord(r)) {
				t.Errorf("%T cut to %d bytes: Decode = %d, %v: %+v", r, size, n, err, got)
			}
		}
	}
}

func TestRecordCodecDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 4<<10)
	for _, r := range sampleRecords {
		got := newRecord(r)
		var err error
		if n := testing.AllocsPerRun(100, func() {
			buf = r.AppendTo(buf[:0])
			_, err = got.Decode(buf)
		}); n != 0 || err != nil {
			t.Errorf("%T: %v allocations, error %v", r, n, err)
		}
	}
}
