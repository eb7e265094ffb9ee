// Package sim runs whole clusters of production stores on one goroutine, in
// virtual time, from one seed, under all faults it can think of, and holds each
// run against a plain model of what raft promises.
//
//	seed ─▶ shape ─▶ ┌ cluster ─────────────────────────────────────────────┐
//	                 │ agenda of events in virtual time                     │
//	    clients ───▶ │  ├ step ──▶ site: store (engine, raftlog, group, …)  │ ──▶ hash, trace
//	    nemesis ───▶ │  ├ tick ──▶   │        └─▶ volume (vfs) ─ crash      │
//	                 │  └ frame ─▶   └─▶ network ─ loss, delay, cuts        │ ──▶ checker ─▶ Violation
//	                 └──────────────────────────────────────────────────────┘
//
// A store is opened with [engine.OpenStepped]: it has no goroutine, and takes a
// step of a worker, an applier, the log or its background work only when an
// event says so. Frames, disk and randomness are the simulator's. So a run is a
// function of its [Plan], and any run can be had again, event for event.
//
// A run has two parts. First clients write and read while nemesis strikes. Then
// everything is healed, and the cluster has a bounded virtual time to elect
// leaders, accept a write in each group, answer everything that was asked, and
// bring all replicas to the same state; then all stores lose power at once, and
// have to do so again from what is on their disks.
//
// # Terms
//
// A site is a place in the cluster: a volume and, while one is up, a store. A
// life is the time from opening a store to its end. The shape of a run is what
// its seed decides at the beginning: size, tuning, quality of network and disks,
// kinds of faults. A strike is one fault, made by nemesis. The history of a
// group is the order in which state machines must see its commands.
//
// # Promises
//
// The checker ends a run at the first event that breaks one of these:
//
//   - M1: a term has at most one leader. Seen in frames and in statuses.
//   - M2: a replica votes for at most one candidate in a term, over all its lives.
//   - M3: entries with equal index and term are equal, and so are the terms in
//     front of them.
//   - M4: all state machines of a group are given the same commands in the same
//     order, each was proposed, and none is given twice.
//   - M5: a leader of a later term has every entry that was applied before.
//   - M6: term, committed and applied never go back within a life, and no replica
//     wakes up in an earlier term than it made promises in.
//   - M7: an acknowledged write is in the history with its result; one that was
//     refused or dropped never is.
//   - M8: operations are linearizable: each takes effect after everything that
//     was acknowledged or read before it began. Every operation tells its place
//     in the history, so this is one comparison.
//   - M9: every proposal and read is answered, once.
//   - M10: a store whose log failed sends nothing more.
//   - M11: nothing fails, and nobody is told of a failure, without a fault.
//   - M12: frames are well formed, come from and go to replicas that live there,
//     and do not change once sent.
//   - M13: a healed cluster goes on within a bounded time, and its replicas agree.
//   - M14: a term begins with a replica that votes for itself in it; all others
//     learn of it from a message. Pre-votes leave no trace.
//   - M15: what a vote or an acknowledgement promises is on the sender's disk when
//     it leaves, and is found there by every later life. So is what is applied.
//   - M16: a replica runs where it was added, and not again once it was removed; no
//     replica id is given twice; and an entry is committed by majorities of the voters
//     of its configuration, of both halves when that is joint. A replica that was lost
//     with its disk never speaks again, and no older copy of a disk is let in.
//   - M17: nobody leads for long on a disk that its store knows to hang.
//   - M18: a replica that waits for a state that it has lost does not lead, does not
//     campaign, and acknowledges no entries. What is damaged is repaired in the end.
//
// # Concurrency
//
// A run belongs to the goroutine that calls [Run]. Runs share nothing.
package sim
