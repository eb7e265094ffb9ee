// Package planted holds bugs that are put into the product on purpose, to prove
// that the simulator finds such bugs.
//
//	-tags planted ──▶ Is(bug) == (bug was chosen by Plant)
//	otherwise ──────▶ Is(bug) == false, for the compiler too: nothing of it is in the binary
//
// A hook stands where a mistake would be made:
//
//	if !l.o.NoSync && !planted.Is(planted.SkipSync) {
//
// # Terms
//
// A bug is a mistake that a person could make in that line and that breaks a
// promise of the product, or, if the product has a guard against it, makes the
// guard say so.
//
// # Invariants
//
//   - P1: without the tag, Is is a constant.
//   - P2: one bug at a time is planted, in all stores of the process.
//
// # Concurrency
//
// Plant is called before stores are opened; Is from any goroutine.
package planted
