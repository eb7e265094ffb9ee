package group

import (
	"math/rand/v2"
	"testing"

	"multiraft/wire"
)

// TestInflightsAgainstPlain compares the ring with a slice.
func TestInflightsAgainstPlain(t *testing.T) {
	for seed := uint64(1); seed <= 200; seed++ {
		r := rand.New(rand.NewPCG(seed, 5))
		tuning := Tuning{MaxInflightMessages: 1 + r.IntN(20), MaxInflightBytes: 1 + r.IntN(500)}.WithDefaults()
		var f inflights
		var plain []inflight
		last := wire.Index(0)
		for range 300 {
			switch r.IntN(8) {
			case 0, 1, 2, 3, 4:
				if !f.full(&tuning) {
					last += 1 + wire.Index(r.IntN(3))
					plain = append(plain, inflight{last, r.IntN(100)})
					f.add(last, plain[len(plain)-1].bytes)
				}
			case 5, 6:
				match := last - min(last, wire.Index(r.IntN(12)))
				f.freeTo(match)
				for len(plain) > 0 && plain[0].last <= match {
					plain = plain[1:]
				}
			case 7:
				f.shed()
				if r.IntN(8) == 0 {
					f.reset()
					plain = nil
				}
			}
			bytes := 0
			for _, p := range plain {
				bytes += p.bytes
			}
			if int(f.count) != len(plain) || f.bytes != bytes {
				t.Fatalf("seed %d: %d messages of %d bytes, want %d of %d", seed, f.count, f.bytes, len(plain), bytes)
			}
			if want := len(plain) >= tuning.MaxInflightMessages || bytes >= tuning.MaxInflightBytes; f.full(&tuning) != want {
				t.Fatalf("seed %d: full is %v with %d messages of %d bytes, tuning %+v", seed, !want, len(plain), bytes, tuning)
			}
			if len(f.ring) > 2*tuning.MaxInflightMessages+minInflightRing {
				t.Fatalf("seed %d: a ring of %d for %d messages", seed, len(f.ring), tuning.MaxInflightMessages)
			}
		}
	}
}

// TestInflightsCostNothingUnused: a peer that is never sent anything has no ring,
// and one that has been idle gives it back.
func TestInflightsCostNothingUnused(t *testing.T) {
	var f inflights
	f.freeTo(9)
	if f.ring != nil {
		t.Fatal("a ring before use")
	}
	f.add(1, 10)
	f.shed()
	if len(f.ring) != minInflightRing {
		t.Fatalf("a ring of %d for one message", len(f.ring))
	}
	f.freeTo(1)
	if f.shed(); f.ring != nil {
		t.Fatal("an idle ring was kept")
	}
}
