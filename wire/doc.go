// Package wire holds what stores say to each other and write to disk: ids,
// messages, blocks of entries, hard state, and their codecs.
//
//	command bytes ──AppendPayload──▶ block under construction ──Seal──▶ Block
//	                                                                     │ the same bytes
//	                                     log batch of every replica ◀────┼────▶ Append messages
//
//	Message ──AppendTo──▶ frame ──Decode──▶ Message (borrows from the frame)
//
// # Terms
//
// A block is a run of entries of one group, one term and one kind. Its bytes
// are built once, by the leader, and are what every replica sends, stores and
// applies. The index and term of an entry follow from its place in the block.
//
// # Invariants
//
//   - W1: a sealed block is never written to again.
//   - W2: no length read from bytes is used before it is checked against what
//     remains of them.
//   - W3: decoders borrow. What they return is valid as long as the input is;
//     who keeps it keeps the input alive.
//
// # Concurrency
//
// Everything here is a value or a pure function; an [Arena] belongs to one
// goroutine.
package wire
