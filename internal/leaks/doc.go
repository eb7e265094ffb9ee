// Package leaks fails the tests of a package that leave goroutines of this module
// behind: whoever starts one waits for it in Close.
//
//	TestMain ──▶ Main ──▶ tests ──▶ stacks of all goroutines ──▶ those of ours ──▶ exit code
//
// # Terms
//
// A goroutine is ours if this module is on its stack, or started it.
//
// # Invariants
//
//   - E1: only what stays is reported. What is about to end has time to.
//
// # Concurrency
//
// Main is called by TestMain, once.
package leaks
