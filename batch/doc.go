// Package batch puts many messages into one frame and takes them out again.
//
//	worker ──Add──▶ Builder of a peer store ┬ bulk:   message, message, …            ──┐
//	                                        └ urgent: message, …, columns of heartbeats ├─Flush─▶ transport
//	                                                                                  ──┘
//	handler ◀──Next── Reader ◀── payload of a frame ◀───────────────────────────────────────────┘
//
// # Terms
//
// A payload is what a frame carries: sections, one behind the other. A section
// is a message as wire encodes it, or the columns of many messages of one kind.
// The grid is in docs/wire-format.md and above [columns].
//
// # Invariants
//
//   - B1: messages of a lane come out in the order in which they were added,
//     except that columnar ones come out behind the others of their frame, up to
//     the next TimeoutNow, which nothing that was added before comes behind. Among
//     themselves columnar messages of one kind keep their order too.
//   - B2: a payload exceeds the maximum only when it is a single message that
//     does.
//   - B3: a reader believes no count and no length before it is checked against
//     the bytes that are there, and what it yields borrows from the payload.
//   - B4: there is one encoding of a list of messages; bytes that say the same in
//     a longer way are refused.
//
// # Cost
//
// A message costs its encoding and nothing else; a heartbeat 6 to 7 bytes and 15
// to 25 ns on each side. Nothing is allocated in steady state: payload buffers
// come from the transport and go back to it.
//
// # Concurrency
//
// A Builder belongs to one worker, a Reader to one goroutine.
package batch
