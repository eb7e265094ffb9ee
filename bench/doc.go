// Package bench measures a cluster of stores in one process and tests that it
// keeps its promises. It is what mrbench runs, and can be called from anywhere:
// a [Config] goes in, a [Report] comes out.
//
//	Config ─▶ Run ─▶ cluster: engine stores, real logs, TCP on loopback
//	                    ▲ propose, read       │ answers       │ state machines
//	                    │                     ▼               ▼
//	         load: routes, schedule ─▶ recorders ─▶ Report ◀─ verify
//	                                       └─▶ progress (Update, Display)
//
//	CrashConfig ─▶ Crash ─▶ child process: cluster, load ── acknowledgements, states ─▶ parent
//	                         ▲ kill, start again                                        └▶ CrashReport
//
// # Terms
//
// An operation is a write or a read. In a closed loop a new one starts when one
// is answered, in an open loop at its place in a schedule. The window is the
// measured time, after the warm-up. An operation is in the window when its
// answer is. The place of a group is its id less one, a sequence number counts
// the writes of a group; both are the benchmark's own.
//
// # Invariants
//
//   - B1: latency is never understated. It runs from before the submission, in
//     an open loop from the intended start, to after the notification.
//   - B2: a write is acknowledged only when the engine said so without an error.
//     An unknown outcome is an error and neither acknowledged nor looked for.
//   - B3: a sequence number is proposed at most once, so that one applied twice
//     is the engine's doing.
//   - B4: an operation costs the load no allocation, no channel (reads of mode
//     async aside), no map, and some 30 ns: it shares the processors with what
//     it measures.
//   - B5: a verified run compares state machines only when every replica has
//     applied all that is in the log of its leader.
//
// # Concurrency
//
// [Run] and [Crash] are each one call. They start goroutines and processes and
// wait for all of them. Progress may be called from any goroutine.
package bench
