// Package invariants holds what the other packages assert with.
//
//	-tags invariants ─┐
//	-race ────────────┴─▶ Enabled ──▶ if invariants.Enabled { … }   compiled in, else not there at all
//
// # Terms
//
// A violated invariant is a bug in this code, never a fault of a disk, a
// network or a user: those are errors. [Fail] says which rule broke, by the
// number it has in the doc.go of its package, and with which facts.
//
// # Invariants
//
//   - V1: nothing here costs anything when Enabled is false, except Fail, which
//     the few checks that protect data call in all builds.
//   - V2: nothing here has state: two stores in one process, and two runs of one
//     seed, do not see each other.
//
// # Concurrency
//
// Everything here may be called from any goroutine; a [Source] belongs to who
// passes it.
package invariants
