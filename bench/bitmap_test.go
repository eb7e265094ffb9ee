package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A bitmap behaves like a set, whatever the order and the gaps.
func TestBitmapAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var b bitmap
		want := map[uint64]bool{}
		for range rng.IntN(200) {
			n := uint64(rng.IntN(1 + rng.IntN(5000)))
			if got := b.set(n); got == want[n] {
				t.Fatalf("set(%d) = %v, was there: %v", n, got, want[n])
			}
			want[n] = true
		}
		highest := uint64(0)
		for n := range want {
			if !b.has(n) {
				t.Fatalf("%d is missing", n)
			}
			highest = max(highest, n+1)
		}
		if b.count() != len(want) || b.limit() != highest {
			t.Fatalf("count %d, limit %d, want %d, %d", b.count(), b.limit(), len(want), highest)
		}
		if b.has(highest) || b.has(1<<40) {
			t.Fatal("has a number above its limit")
		}
		back := bitmapFrom(b.appendTo(nil))
		if back.count() != len(want) || back.limit() != highest {
			t.Fatal("encoding loses numbers")
		}
	}
}

func TestBitmapMissingAndAdd(t *testing.T) {
	var a, b bitmap
	for _, n := range []uint64{0, 63, 64, 100, 1000} {
		a.set(n)
	}
	for _, n := range []uint64{63, 100, 5} {
		b.set(n)
	}
	var got []uint64
	a.missing(b, func(n uint64) bool { got = append(got, n); return true })
	if want := []uint64{0, 64, 1000}; !slices.Equal(got, want) {
		t.Errorf("missing: got %v, want %v", got, want)
	}
	calls := 0
	a.missing(nil, func(uint64) bool { calls++; return false })
	if calls != 1 {
		t.Errorf("missing went on after false: %d calls", calls)
	}
	b.add(a)
	for _, n := range []uint64{0, 5, 63, 64, 100, 1000} {
		if !b.has(n) {
			t.Errorf("sum lacks %d", n)
		}
	}
	if b.count() != 6 {
		t.Errorf("sum has %d numbers, want 6", b.count())
	}
	var empty bitmap
	empty.add(nil)
	if empty.limit() != 0 || len(empty) != 0 {
		t.Error("adding nothing made something")
	}
}
