package wire

import "testing"

func BenchmarkMessageAppendTo(b *testing.B) {
	for _, m := range sampleMessages {
		b.Run("kind="+m.Kind.String(), func(b *testing.B) {
			buf := make([]byte, 0, 4<<10)
			b.ReportAllocs()
			for b.Loop() {
				buf = m.AppendTo(buf[:0])
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkMessageDecode(b *testing.B) {
	for _, m := range sampleMessages {
		b.Run("kind="+m.Kind.String(), func(b *testing.B) {
			buf := m.AppendTo(nil)
			var got Message
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := got.Decode(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
