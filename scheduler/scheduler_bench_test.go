package scheduler

import (
	"fmt"
	"testing"
)

func noProcess(int, []Work) {}

// One slot set and run at a time: the floor of a wake-up without parking.
func BenchmarkSetStep(b *testing.B) {
	s := newScheduler(b, 1, 0, 1<<20, noProcess)
	b.ReportAllocs()
	slot := Slot(0)
	for b.Loop() {
		s.Set(slot&(1<<20-1), 1)
		s.Step(0)
		slot += 97
	}
}

// A full round, per slot.
func BenchmarkRound(b *testing.B) {
	for _, slots := range []int{512, 1 << 20} {
		b.Run(fmt.Sprintf("slots=%d/round=512", slots), func(b *testing.B) {
			s := newScheduler(b, 1, 512, slots, noProcess)
			b.ReportAllocs()
			slot, n := Slot(0), 0
			for b.Loop() {
				s.Set(slot%Slot(slots), 1)
				slot += 97
				if n++; n == 512 {
					s.Step(0)
					n = 0
				}
			}
		})
	}
}

func BenchmarkSetBatch(b *testing.B) {
	for _, workers := range []int{1, 2, 16} {
		b.Run(fmt.Sprintf("batch=1024/workers=%d", workers), func(b *testing.B) {
			s := newScheduler(b, workers, 1024, 1<<20, noProcess)
			batch := make([]Slot, 1024)
			for i := range batch {
				batch[i] = Slot(i * 97 % (1 << 20))
			}
			b.ReportAllocs()
			for b.Loop() {
				s.SetBatch(batch, 1)
				for w := range workers {
					s.Step(w)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/slot")
		})
	}
}

func BenchmarkSetDeadline(b *testing.B) {
	s := newScheduler(b, 1, 0, 1<<20, noProcess)
	b.ReportAllocs()
	tick := uint64(0)
	for b.Loop() {
		tick++
		s.SetDeadline(Slot(tick*97)&(1<<20-1), tick)
	}
}

// A tick over a million slots: pages quiet; pages that must be read though
// nothing in them is due; and one slot in twenty due, run and set again.
func BenchmarkTick(b *testing.B) {
	const slots = 1 << 20
	far := func(b *testing.B) *Scheduler {
		s := newScheduler(b, 1, 512, slots, noProcess)
		for slot := Slot(0); slot < slots; slot++ {
			s.SetDeadline(slot, 1<<60+uint64(slot))
		}
		return s
	}
	b.Run("slots=1Mi/pages=quiet", func(b *testing.B) {
		s := far(b)
		b.ReportAllocs()
		now := uint64(0)
		for b.Loop() {
			now++
			s.Tick(now, 1)
		}
	})
	b.Run("slots=1Mi/pages=read", func(b *testing.B) {
		s := far(b)
		b.ReportAllocs()
		now := uint64(0)
		for b.Loop() {
			now++
			for _, pg := range s.pages.load() {
				pg.low.Store(now)
			}
			s.Tick(now, 1)
		}
	})
	b.Run("slots=1Mi/due=5%", func(b *testing.B) {
		s := newScheduler(b, 1, 512, slots, noProcess)
		for slot := Slot(0); slot < slots; slot++ {
			s.SetDeadline(slot, uint64(slot%20))
		}
		now := uint64(0)
		s.processor = processorFunc(func(_ int, round []Work) {
			for _, w := range round {
				s.SetDeadline(w.Slot, now+20)
			}
		})
		b.ReportAllocs()
		for b.Loop() {
			s.Tick(now, 1)
			for s.Step(0) {
			}
			now++
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(s.Stats().Slots), "ns/due")
	})
}

// Set from one goroutine, run by workers that park in between: what a wake-up
// costs when the store is nearly idle.
func BenchmarkWake(b *testing.B) {
	done := make(chan struct{})
	s := newScheduler(b, 2, 0, 2, func(int, []Work) { done <- struct{}{} })
	s.Start()
	b.ReportAllocs()
	for b.Loop() {
		s.Set(0, 1)
		<-done
	}
}
