// Package gen writes the code of packages wire and group that follows from the
// message schema.
//
//	schema.go ──Check──▶ all faults at once
//	    │
//	    └──artifacts, one file each──▶ builder chains ──Render──▶ z_*.go
//	                                                                │ leans on
//	                                     hand-written code ◀────────┘
//
// # Terms
//
// The schema is the Go value that [Multiraft] returns. An artifact is one
// generated file. A kind is a kind of message, a trait anything the schema says
// about it.
//
// # Invariants
//
//   - N1: equal schemas give equal bytes, on any machine, from any directory.
//   - N2: nothing is printed from a schema that has a fault.
//   - N3: a generated file starts with [Marker], and is made by an artifact.
//
// # Concurrency
//
// Everything here is a pure function of the schema.
//
// Builder chains are made with github.com/dave/jennifer, imported without a
// qualifier, so that a chain reads like the code it makes.
package gen
