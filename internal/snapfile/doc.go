// Package snapfile keeps the states of groups in files: writes them, proves them
// when they are read, and takes them in piece by piece from another store.
//
//	state machine ──Write──▶ Writer ──Commit──▶ name.snap ──File.Reader──▶ state machine
//	                        name.tmp               │
//	                                               └─File.Chunk──▶ network ──Part.Put──▶ name.part ──Commit──▶ name.snap
//
// # Terms
//
// A snapshot is the state of one group after one entry. Its file is a header, the
// state in chunks of equal size (the last may be shorter), and a trailer. The
// identity of a snapshot is the checksum of its header, in which a number stands
// that was drawn for it alone, so that two snapshots of the same entry are never
// mixed. A record is a chunk as it stands in the file, with its checksum; it
// travels as it is. [Info] is header and trailer without what is between them. The
// grids are in docs/snapshot-format.md.
//
// # Invariants
//
//   - P1: a file with the name of a snapshot is complete: it gets this name when
//     everything in it is durable.
//   - P2: no byte of a file can change without an error: each is covered by a
//     checksum that is seeded with the identity and, for a chunk, with its number.
//   - P3: a file that a crash or a cut connection left incomplete is worth what
//     its checksums prove, and no more.
//   - P4: nothing is allocated for a length that was not held against a bound.
//
// # Concurrency
//
// A [Dir] and a [File] may be used from any goroutine, a [Writer], a [Reader] and a
// [Part] from one at a time.
package snapfile
