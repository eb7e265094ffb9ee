//go:build invariants || race

package invariants

// Enabled says whether assertions are compiled in. It is a constant, so the
// compiler drops what stands behind it when it is false.
const Enabled = true
