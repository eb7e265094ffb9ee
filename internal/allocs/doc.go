// Package allocs bounds the memory that a call may take. It is for fuzz targets:
// whatever the input claims, what is allocated for it must follow from the bytes
// that are there.
//
//	f ──▶ cheap counter ── within ──▶ done
//	            └───────── above ───▶ f again, exactly measured ── each time above ──▶ fatal
//
// # Terms
//
// What a call allocates is the sum over its whole course, whether or not it was
// freed on the way: it bounds what is in use at any moment, and does not depend on
// when the collector runs.
//
// # Invariants
//
//   - K1: nothing but f is reported. Other goroutines allocate too, so a measurement
//     above the ceiling counts only if each repetition is.
//   - K2: what is above the ceiling by more than slack is reported, if f does the
//     same each time. What is above it by less is reported when the cheap counter
//     happens to count earlier calls too, as it does sooner or later.
//
// # Concurrency
//
// Calls may run side by side, but see what the others allocate.
package allocs
