// Package scheduler runs very many raft groups on a few workers.
//
//	transport ─Set────────▶ ┌ word[slot] ──first set──▶ queue of a worker ┐         ┌ worker ┐
//	raftlog ───SetBatch───▶ │ flags │ state             FIFO of slots     │ ─round─▶│ take   │──▶ Processor
//	clients ───Set────────▶ └──▲──────────────────────────────▲───────────┘         └──┬──▲──┘
//	clock ─────Tick─▶ deadline[slot] <= now ──SetBatch─┘      ├──── Again, or set ─────┘  │
//	                                                          │     meanwhile             │
//	                                                          └──── half a queue, stolen ─┘
//
// A group is a dense slot number here. Flags say why it should run; they are
// set by anyone and merge until a worker takes them. A worker takes a round of
// up to RoundSize slots, hands them to the [Processor] in one call, and then
// lets go of each, or puts it back at the tail of its queue.
//
// # Terms
//
// A slot is idle, queued, running, or running and set again; its state is in
// the same word as its flags. A round is what one call of Process gets. A
// deadline is the tick at which a slot wants to be run if nothing else runs it
// before. A worker is parked while it has nothing to do. A recruit is a parked
// worker woken to steal from a queue that is not its own.
//
// # Invariants
//
//   - S1: a slot is on at most one queue and run by at most one worker.
//   - S2: a flag set while its slot runs causes one more run after it. What
//     happened before Set happens before the run that gets the flag.
//   - S3: a worker is parked only while its own queue is empty.
//   - S4: a queue is first in, first out, whoever takes from it; what is put
//     back goes to the tail.
//   - S5: outside of a scan of that page, the low bound of a page of deadlines
//     is at most the smallest deadline in it. So no deadline is missed, and a
//     page that is quiet is not read.
//
// # Concurrency
//
// Set, SetBatch, SetDeadline, Tick and Grow may be called from any goroutine,
// also from inside Process, and never wait for a round. Step of one worker is
// for one goroutine at a time: that of the worker after Start, the caller's
// when Start is not called. Process of one slot is never called concurrently.
//
// Locks: growMu and tickMu are taken before a queue's lock; no two queues are
// locked at once.
package scheduler
