package invariants

import "fmt"

// A Violation is what [Fail] and [Check] panic with: the number of the rule,
// as its package's doc.go has it ("S1"), and the facts.
type Violation struct {
	Rule  string
	Facts string
}

// Error is the text that the panic prints.
func (v *Violation) Error() string {
	return "invariant " + v.Rule + " violated: " + v.Facts
}

// Fail panics with a [Violation]. The facts name the group, replica, term and
// index where there are such. It works in all builds.
func Fail(rule, format string, facts ...any) {
	panic(&Violation{Rule: rule, Facts: fmt.Sprintf(format, facts...)})
}

// Check fails when ok is false and assertions are compiled in. It takes a
// constant text so that it can stand on a hot path; where facts are at hand,
// write
//
//	if invariants.Enabled && !ok {
//		invariants.Fail("G4", "group %d: match %d, next %d", …)
//	}
func Check(ok bool, rule, what string) {
	if Enabled && !ok {
		Fail(rule, "%s", what)
	}
}

// Source is where [Sometimes] takes its chance from: seeded by the test, so
// that a run can be repeated.
type Source interface {
	Uint64() uint64
}

// Sometimes is true in about percent of 100 calls when assertions are compiled
// in, and false otherwise or without a source. It sends tests down the rare way
// around a fast path, so that both ways stay alive.
func Sometimes(source Source, percent uint64) bool {
	return Enabled && source != nil && source.Uint64()%100 < percent
}

// scribble is no valid kind, flag, length or version anywhere in the project.
const scribble = 0xDB

// Scribble writes over a buffer that the caller's caller should have let go of,
// when assertions are compiled in. Who still reads it then notices.
func Scribble(b []byte) {
	if !Enabled {
		return
	}
	for i := range b {
		b[i] = scribble
	}
}
