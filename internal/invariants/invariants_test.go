package invariants

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// caught runs f and returns the violation it panics with, nil if none.
func caught(t *testing.T, f func()) (v *Violation) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			err, ok := r.(error)
			if !ok || !errors.As(err, &v) {
				t.Fatalf("panic with %v, want a *Violation", r)
			}
		}
	}()
	f()
	return nil
}

func TestFailNamesRuleAndFacts(t *testing.T) {
	v := caught(t, func() { Fail("G4", "group %d: match %d", 7, 9) })
	if v == nil || v.Rule != "G4" || v.Facts != "group 7: match 9" {
		t.Fatalf("got %+v", v)
	}
	if got, want := v.Error(), "invariant G4 violated: group 7: match 9"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestCheckFailsOnlyWhenEnabled(t *testing.T) {
	if v := caught(t, func() { Check(true, "S1", "holds") }); v != nil {
		t.Fatalf("a condition that holds failed: %v", v)
	}
	v := caught(t, func() { Check(false, "S1", "broken") })
	if (v != nil) != Enabled {
		t.Fatalf("enabled=%v, violation %v", Enabled, v)
	}
}

func TestSometimesFollowsItsSource(t *testing.T) {
	count := func(seed uint64) (hits int) {
		source := rand.New(rand.NewPCG(seed, 0))
		for range 10_000 {
			if Sometimes(source, 30) {
				hits++
			}
		}
		return hits
	}
	hits := count(1)
	if !Enabled {
		if hits != 0 {
			t.Fatalf("%d hits though assertions are off", hits)
		}
		return
	}
	if hits < 2_500 || hits > 3_500 {
		t.Fatalf("%d hits in 10000, want about 3000", hits)
	}
	if again := count(1); again != hits {
		t.Fatalf("the same seed gave %d, then %d", hits, again)
	}
	if Sometimes(nil, 100) {
		t.Fatal("a chance without a source")
	}
}

func TestScribble(t *testing.T) {
	b := []byte("let go")
	Scribble(b)
	if changed := !bytes.Equal(b, []byte("let go")); changed != Enabled {
		t.Fatalf("enabled=%v, buffer %x", Enabled, b)
	}
	if Enabled && bytes.Count(b, []byte{scribble}) != len(b) {
		t.Fatalf("buffer %x", b)
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	ok := true
	if n := testing.AllocsPerRun(100, func() { Check(ok, "S1", "holds") }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
