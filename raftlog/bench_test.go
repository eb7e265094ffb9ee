package raftlog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "multiraft/raftlog"
	"multiraft/wire"
)

// The benchmarks append blocks of entries of 16 bytes for 256 groups with each
// sync, and next to it, in the same run as the disk is noisy, write the same
// bytes to a file of written blocks with nothing but WriteAt and Sync.

const benchGroups = 256

// round fills one batch per sync.
type round struct {
	l      *Log
	groups []*Group
	batch  Batch
	next   wire.Index
	count  int
	space  []byte
	synced int
}

func (r *round) Durable(batches []*Batch, err error) {
	if err != nil {
		panic(err)
	}
	r.synced += len(batches)
}

func newRound(b testing.TB, o Options, count int) *round {
	r := &round{l: mustOpen(b, o), count: count, next: 1}
	for i := range benchGroups {
		r.groups = append(r.groups, r.l.Group(wire.GroupID(i+1)))
	}
	r.l.SetSink(r)
	return r
}

// fill makes the blocks of the next round. Sealing them is the leader's work and
// not measured.
func (r *round) fill() {
	command := []byte("sixteen byte cmd")
	size := wire.BlockHeaderBytes + r.count*wire.PayloadBytes(len(command))
	if cap(r.space) < benchGroups*size {
		r.space = make([]byte, benchGroups*size)
	}
	r.batch.Reset()
	for i, g := range r.groups {
		block := wire.NewBlock(r.space[i*size : i*size : (i+1)*size])
		for range r.count {
			block = wire.AppendPayload(block, command)
		}
		block.Seal(g.ID(), r.next, 1, wire.EntryCommand, r.count)
		r.batch.Append(g, block)
	}
	r.next += wire.Index(r.count)
}

func (r *round) sync() {
	r.l.Submit(&r.batch)
	for r.l.Step() {
	}
}

func (r *round) compact() {
	r.batch.Reset()
	for _, g := range r.groups {
		r.batch.Compact(g, r.next-1, 1)
	}
	r.sync()
	for r.l.Maintain() {
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, count := range []int{1, 16} {
		b.Run(fmt.Sprintf("entry=16B/groups=%d/entries=%d/sync=on", benchGroups, count), func(b *testing.B) {
			r := newRound(b, Options{Dir: b.TempDir(), Cluster: 1, Store: 1}, count)
			for r.l.Maintain() {
			}
			raw := newRaw(b)
			var logTime, rawTime time.Duration
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				r.fill()
				if n%512 == 511 {
					r.compact()
					r.fill()
				}
				bytes := r.l.Stats().Bytes
				start := time.Now()
				r.sync()
				logTime += time.Since(start)
				rawTime += raw.write(b, int(r.l.Stats().Bytes-bytes))
			}
			entries := float64(b.N * benchGroups * count)
			b.ReportMetric(entries/logTime.Seconds()/1e6, "Mentries/s")
			b.ReportMetric(entries/rawTime.Seconds()/1e6, "raw-Mentries/s")
			b.ReportMetric(logTime.Seconds()/rawTime.Seconds(), "log/raw")
			if err := r.l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkSubmit is the work of the processor alone: the disk takes no time.
func BenchmarkSubmit(b *testing.B) {
	for _, count := range []int{1, 16} {
		b.Run(fmt.Sprintf("entry=16B/groups=%d/entries=%d/sync=off", benchGroups, count), func(b *testing.B) {
			r := newRound(b, Options{FS: nullFS{}, Dir: "/log", Cluster: 1, Store: 1}, count)
			var spent time.Duration
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				r.fill()
				if n%512 == 511 {
					r.compact()
					r.fill()
				}
				start := time.Now()
				r.sync()
				spent += time.Since(start)
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N*benchGroups), "ns/block")
		})
	}
}

// raw writes to a file whose blocks were written before, round and round.
type raw struct {
	f      *os.File
	offset int64
	buf    []byte
}

const rawBytes = 64 << 20

func newRaw(b *testing.B) *raw {
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := f.Close(); err != nil {
			b.Error(err)
		}
	})
	r := &raw{f: f, buf: make([]byte, 4<<20)}
	for off := int64(0); off < rawBytes; off += 1 << 20 {
		if _, err := f.WriteAt(r.buf[:1<<20], off); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return r
}

func (r *raw) write(b *testing.B, n int) time.Duration {
	if r.offset+int64(n) > rawBytes {
		r.offset = 0
	}
	start := time.Now()
	if _, err := r.f.WriteAt(r.buf[:n], r.offset); err != nil {
		b.Fatal(err)
	}
	if err := DataSync(r.f); err != nil {
		b.Fatal(err)
	}
	r.offset += int64(n)
	return time.Since(start)
}

func BenchmarkOpen(b *testing.B) {
	for _, checkpoint := range []bool{false, true} {
		b.Run(fmt.Sprintf("groups=4096/blocks=200k/checkpoint=%v", checkpoint), func(b *testing.B) {
			o := Options{Dir: b.TempDir(), Cluster: 1, Store: 1, SegmentBytes: 4 << 20, NoSync: true}
			l := mustOpen(b, o)
			var batch Batch
			for i := wire.Index(1); i <= 50; i++ {
				batch.Reset()
				for id := range wire.GroupID(4096) {
					batch.Append(l.Group(id+1), block(id+1, i, 1, 1))
				}
				l.Submit(&batch)
				for l.Step() {
				}
				for checkpoint && l.Maintain() {
				}
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				l := mustOpen(b, o)
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCatchUp reads a log as a leader does for a follower that is far back.
func BenchmarkCatchUp(b *testing.B) {
	o := Options{Dir: b.TempDir(), Cluster: 1, Store: 1, NoSync: true}
	r := newRound(b, o, 1)
	const entries = 4000
	for r.next <= entries {
		r.fill()
		r.sync()
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		for lo := wire.Index(1); lo <= entries; {
			var err error
			if buf, err = r.groups[7].Blocks(lo, entries+1, 64<<10, buf[:0]); err != nil {
				b.Fatal(err)
			}
			for rest := buf; len(rest) > 0; {
				size, err := wire.BlockSize(rest)
				if err != nil {
					b.Fatal(err)
				}
				lo = wire.Block(rest[:size]).Last() + 1
				rest = rest[size:]
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*entries), "ns/entry")
}
