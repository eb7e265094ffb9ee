// Package lint holds the rules of this project that a program can check. They
// run as a test, so that `go test ./...` is all it takes.
//
//	repository ──Load──▶ Tree: parsed files, texts ──▶ rule ──▶ findings ──▶ test fails
//	bad samples ─────────────────▲                                └────────▶ test of the rule passes
//
// # Terms
//
// A rule is a function from a [Tree] to findings. Layers are the packages in
// the order in which they may import each other. A marked function has the
// directive //mr:hotpath.
//
// # Invariants
//
//   - N1: a rule reports only what it is sure of. What needs judgement is for
//     the reader of a change, not for a rule that people learn to get around.
//   - N2: every rule has a sample that it must find, and one next to it that it
//     must let pass.
//
// # Concurrency
//
// Everything runs on the caller's goroutine. A Tree is not changed after Load.
package lint
