package batch

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"multiraft/wire"
)

// heartbeats are those of a store with groups at work for a while: ids in the
// order of the run queue, or sorted; terms of a few elections; commit indexes up
// to a million.
func benchmarkHeartbeats(groups int, sorted bool) []wire.Message {
	r := rand.New(rand.NewPCG(1, 1))
	ids := make([]int, groups)
	for i := range ids {
		ids[i] = i
	}
	if !sorted {
		ids = r.Perm(groups)
	}
	messages := make([]wire.Message, groups)
	for i := range messages {
		messages[i] = wire.Message{
			Kind:    wire.Heartbeat,
			Group:   wire.GroupID(1 + ids[i]),
			From:    1,
			To:      2,
			Term:    wire.Term(1 + r.IntN(5)),
			Commit:  wire.Index(r.IntN(1_000_000)),
			Context: uint64(r.IntN(100)),
		}
	}
	return messages
}

const benchmarkGroups = 10_000

func BenchmarkHeartbeats(b *testing.B) {
	for _, sorted := range []bool{true, false} {
		messages := benchmarkHeartbeats(benchmarkGroups, sorted)
		name := fmt.Sprintf("groups=%d/sorted=%v", benchmarkGroups, sorted)
		var payload []byte
		b.Run(name+"/side=send", func(b *testing.B) {
			payload = make([]byte, 0, 1<<20)
			builder := NewBuilder(func() []byte { return payload[:0] }, 1<<20)
			keep := func(_ wire.Lane, p []byte) error { payload = p; return nil }
			b.ReportAllocs()
			for b.Loop() {
				for i := range messages {
					builder.Add(&messages[i])
				}
				if err := builder.Flush(keep); err != nil {
					b.Fatal(err)
				}
			}
			report(b, len(payload))
		})
		b.Run(name+"/side=receive", func(b *testing.B) {
			var r Reader
			var m wire.Message
			b.ReportAllocs()
			for b.Loop() {
				r.Reset(payload)
				read := 0
				for ok := true; ok; read++ {
					var err error
					if ok, err = r.Next(&m); err != nil {
						b.Fatal(err)
					}
				}
				if read != benchmarkGroups+1 {
					b.Fatalf("read %d", read-1)
				}
			}
			report(b, len(payload))
		})
	}
}

func report(b *testing.B, size int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchmarkGroups, "ns/heartbeat")
	b.ReportMetric(float64(size)/benchmarkGroups, "B/heartbeat")
}

// BenchmarkAppends is the bulk lane: messages with entries in them.
func BenchmarkAppends(b *testing.B) {
	for _, entries := range []int{64, 1 << 10, 16 << 10} {
		b.Run(fmt.Sprintf("entries=%dB", entries), func(b *testing.B) {
			m := wire.Message{Kind: wire.Append, Group: 1, From: 1, To: 2, Term: 3, Entries: make([]byte, entries)}
			var pool [][]byte
			builder := NewBuilder(func() []byte {
				if len(pool) == 0 {
					return nil
				}
				last := pool[len(pool)-1]
				pool = pool[:len(pool)-1]
				return last
			}, 0)
			recycle := func(_ wire.Lane, p []byte) error { pool = append(pool, p[:0]); return nil }
			const batch = 64
			b.SetBytes(batch * int64(entries))
			b.ReportAllocs()
			for b.Loop() {
				for range batch {
					builder.Add(&m)
				}
				if err := builder.Flush(recycle); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
