package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"multiraft/internal/allocs"
)

// A decoder borrows (W3), and an error is a line of text. Whatever the bytes claim,
// it takes no more than that.
const errorBytes = 4 << 10

// Goal: whatever the bytes, Decode and the plain decoder agree, and what they
// accept is the one encoding of the message.
func FuzzMessageDecode(f *testing.F) {
	for _, m := range sampleMessages {
		buf := m.AppendTo(nil)
		f.Add(buf)
		f.Add(buf[:len(buf)-1])
		f.Add(append(buf, buf...))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var got Message
		var n int
		var err error
		allocs.AtMost(t, errorBytes, func() {
			got = Message{}
			n, err = got.Decode(src)
		})
		want, wantN, ok := plainDecode(src)
		if ok != (err == nil) || err != nil && !errors.Is(err, ErrBadMessage) {
			t.Fatalf("Decode error %v, plain decoder ok %t", err, ok)
		}
		if n != wantN || !reflect.DeepEqual(got, want) {
			t.Fatalf("Decode\n got %d %+v\nwant %d %+v", n, got, wantN, want)
		}
		if ok {
			if again := got.AppendTo(nil); !bytes.Equal(again, src[:n]) {
				t.Fatalf("encoded again\n got %x\nwant %x", again, src[:n])
			}
		}
	})
}

// Goal: both encoders agree on any message. Method: the bytes fill the fields
// of the struct, whether or not they are of the kind.
func FuzzMessageEncode(f *testing.F) {
	for _, m := range sampleMessages {
		f.Add(byte(m.Kind), byte(1), m.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, kind, flags byte, words []byte) {
		m := Message{Kind: MessageKind(kind)}
		v := reflect.ValueOf(&m).Elem()
		for i := 1; i < v.NumField(); i++ {
			switch field := v.Field(i); field.Kind() {
			case reflect.Bool:
				field.SetBool(flags&1 == 1)
				flags >>= 1
			case reflect.Uint64:
				if len(words) >= 8 {
					field.SetUint(binary.LittleEndian.Uint64(words))
					words = words[8:]
				}
			case reflect.Slice:
				field.SetBytes(words)
			}
		}
		if _, ok := plainLayouts[m.Kind]; !ok {
			if n := len(m.AppendTo(nil)); n != 0 {
				t.Fatalf("kind %d has %d bytes", kind, n)
			}
			return
		}
		got, want := m.AppendTo(nil), plainAppend(nil, &m)
		if !bytes.Equal(got, want) {
			t.Fatalf("%+v\n got %x\nwant %x", m, got, want)
		}
		var back Message
		if n, err := back.Decode(got); err != nil || n != m.Size() {
			t.Fatalf("%+v: Decode = %d, %v", m, n, err)
		}
	})
}

// Goal: a record decoder never panics, and what it accepts is the one encoding
// of the record.
func FuzzRecordDecode(f *testing.F) {
	for _, r := range sampleRecords {
		f.Add(r.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		for _, r := range sampleRecords {
			got := newRecord(r)
			var n int
			var err error
			// Of records only a Membership holds others: as many as MaxReplicas, each
			// as large in memory as it is encoded.
			allocs.AtMost(t, errorBytes+uint64(len(src)), func() { n, err = got.Decode(src) })
			if err != nil {
				if !errors.Is(err, ErrBadRecord) || n != 0 || !reflect.DeepEqual(got, newRecord(r)) {
					t.Fatalf("%T: Decode = %d, %v: %+v", r, n, err, got)
				}
				continue
			}
			if again := got.AppendTo(nil); !bytes.Equal(again, src[:n]) {
				t.Fatalf("%T: encoded again\n got %x\nwant %x", r, again, src[:n])
			}
		}
	})
}
