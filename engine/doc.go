// Package engine is the store: it runs the replicas of very many raft groups
// over one log, one worker pool and one connection per pair of stores and lane.
//
//	Propose ─▶ mailbox ─┐                       ┌─▶ log batch ─▶ raftlog ──acks──▶ mailbox
//	frames  ─▶ mailbox ─┼─▶ scheduler ─▶ worker ┼─▶ frame per peer store ─▶ transport
//	ticks   ─▶ deadline ┘     round      turn   └─▶ apply queue ─▶ applier ─▶ state machine,
//	                                                                completion of proposals
//
// A worker takes a round of runnable groups and gives each a turn: everything
// in its mailbox goes through the core ([multiraft/group]), and what the core
// hands out is gathered for the whole round into one log batch, one frame per
// peer store and one hand-off per applier.
//
// # Terms
//
// A turn is one pass of one group through a worker, a round the turns a worker
// takes together. The gate is what makes batching clock itself: while a log
// batch with own proposals is being synced, further proposals gather in their
// mailboxes, and all of them go into the next batch when that sync ends.
//
// # Invariants
//
//   - E1: a core is touched only by the worker that runs its slot, or under
//     the replica's turn lock.
//
//   - E2: everything a turn persists is in the round's log batch before
//     anything of a later turn of that group is; batches reach the log in the
//     order in which rounds of one group end.
//
//   - E3: a pending proposal completes exactly once, on its group's applier.
//
//   - E4: a state machine is called by one goroutine at a time.
//
//   - E5: while the gate is closed every mailbox with proposals is on the
//     gate's list or flagged to the scheduler.
//
//   - E6: while the read gate is closed every mailbox with reads is on its list or
//     flagged to the scheduler.
//
//   - E7: a Confirm is answered without a turn only in the published term of a
//     replica, which is stored before anything that it says in that term leaves.
//
//   - E8: what a machine is handed behind a membership entry comes after the log
//     has acknowledged that membership; a restart begins with one that is at least
//     as new as the machine's state.
//
//   - E9: a forwarded request is appended at most once, and refused only if it was
//     not appended.
//
//   - E10: with leases, the clock is read after the mailboxes were taken, and again after
//     a query that a lease answers.
//
//   - E11: a log is compacted only behind a snapshot, or the reported index of a
//     durable machine, that is durable. A file with the name of a snapshot holds
//     committed entries only.
//     From the log batch of an install on, its file is the newest of its group.
//
//   - E12: from the log batch of an install to Restore of the core nothing else of
//     that core is called; a start finishes an install whose file is whole.
//
//   - E13: what a majority made of a range of entries is a fact that outlasts terms. A
//     replica that made something else of it calls its machine no more, sends no
//     state, and is not started again.
//
//   - E14: a replica that may have forgotten a promise never runs again. A wounded one
//     begins as that until a snapshot that reaches as far as it ever acknowledged is
//     installed.
//
// # Concurrency
//
// All methods of [Store] and [Group] may be called from any goroutine. Close
// waits for everything the store started.
package engine
