package group

import "testing"

// Goal: the tally agrees with counting in maps. Method: all configurations of
// up to 3+3 voters, all patterns of granted, refused and missing votes.
func TestTallyOfAllSmallConfigurations(t *testing.T) {
	const slots = 6
	sets := smallSets()
	for number := range power(3, slots) {
		var votes tally
		plain := map[int]bool{}
		for slot, rest := 0, number; slot < slots; slot, rest = slot+1, rest/3 {
			if answer := rest % 3; answer != 0 {
				votes.record(slot, answer == 1)
				plain[slot] = answer == 1
			}
		}
		for _, incoming := range sets {
			for _, outgoing := range sets {
				if got, want := votes.result(incoming, outgoing), plainResult(plain, incoming, outgoing); got != want {
					t.Fatalf("voters %06b && %06b, votes %v: %s, want %s", incoming, outgoing, plain, got, want)
				}
			}
		}
	}
}

// A voter that answers twice, because an answer was duplicated or forged, is
// counted once and cannot change its mind.
func TestTallyKeepsTheFirstAnswer(t *testing.T) {
	for _, first := range []bool{true, false} {
		var votes tally
		votes.record(3, first)
		before := votes
		votes.record(3, !first)
		if votes != before {
			t.Errorf("first %t: %+v became %+v", first, before, votes)
		}
	}
}

func FuzzTally(f *testing.F) {
	f.Add(uint16(0b111), uint16(0), uint16(0b11), uint16(0b100))
	f.Add(uint16(0b11111), uint16(0b1111100), uint16(0b10101), uint16(0b1001010))
	f.Add(uint16(1<<16-1), uint16(1<<15), uint16(1<<8-1), uint16(0))
	f.Fuzz(func(t *testing.T, in, out, granted, refused uint16) {
		var votes tally
		plain := map[int]bool{}
		for slot := range MaxReplicas {
			if replicaSet(granted | refused).has(slot) {
				plain[slot] = replicaSet(granted).has(slot)
				votes.record(slot, plain[slot])
			}
		}
		incoming, outgoing := replicaSet(in), replicaSet(out)
		if got, want := votes.result(incoming, outgoing), plainResult(plain, incoming, outgoing); got != want {
			t.Fatalf("voters %016b && %016b, votes %v: %s, want %s", in, out, plain, got, want)
		}
	})
}

func TestTallyDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		var votes tally
		votes.record(0, true)
		votes.record(1, false)
		sinkResult = votes.result(0b111, 0b110)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
