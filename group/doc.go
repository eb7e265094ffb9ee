// Package group is one raft group on one replica, as a deterministic step
// machine: messages, ticks, proposals and acknowledgements go in, a [Ready]
// comes out. It does no I/O, starts no goroutine, takes no lock and reads no
// clock, so equal inputs give equal outputs.
//
//	            Clock, Tick ──▶ ┌─ Group ─────────────────────────────┐
//	messages ──▶ Step ────────▶ │ admit: term rules, leases           │
//	commands ──▶ Propose ─────▶ │ step:  role × kind ─▶ handler       │
//	reads ─────▶ ReadIndex ───▶ │                                     │ ──▶ Ready
//	                            │ tail ─── blocks not yet let go of   │      ├─ Messages   ─▶ transport
//	log ───────▶ Persisted ───▶ │ leading ─ progress of each member   │      ├─ Blocks     ─▶ log, then Persisted
//	machine ───▶ Applied ─────▶ │ reads ── rounds of read requests    │      ├─ Committed  ─▶ machine, then Applied
//	                            │ change ─ the membership in force    │      ├─ Reads      ─▶ readers
//	                            └──────────────▲──────────────────────┘      └─ Membership ─▶ where the host keeps it
//	                                           └ Storage: what is durable, and terms
//
// # Terms
//
// Words are those of the raft thesis. A member has a slot, its place in
// [wire.Membership]; tables and sets are indexed by slot. Entries come and go
// as blocks ([wire.Block]). An entry is stable once [Group.Persisted] has
// acknowledged it; it is handed out once it stood in [Ready.Committed]. The
// tail is the part of the log that is kept in memory. What a message promises
// must be durable before it leaves, so a replica *owes* answers until then.
//
// Pull, not push: nothing is formed when an input arrives. Inputs leave notes
// (this peer is behind, that answer is owed), and Ready turns notes into
// messages. Many proposals then make one block, and one append per peer; many
// appends make one answer; and an idle group holds no buffers.
//
// # Invariants
//
//   - G1: the term never goes back, and a replica votes at most once in a term.
//
//   - G2: a granted vote, a vote request and a candidate's vote for itself count
//     only once the hard state that holds them is durable.
//
//   - G3: an accepting append response covers only entries that are durable here
//     and known to equal the leader's; it leaves after the term is durable.
//
//   - G4: the leader counts itself only up to its own durable index.
//
//   - G5: commit never goes back and never passes the last entry. A leader
//     commits by counting only entries of its own term.
//
//   - G6: applied ≤ handed out ≤ commit, and only durable entries are handed out.
//
//   - G7: an entry at or below commit is never truncated or replaced.
//
//   - G8: match < next for each peer, and match never goes back while one leader
//     leads. A leader only appends to its log.
//
//   - G9: an acknowledgement that was issued before a truncation makes nothing at
//     or behind the truncation durable.
//
//   - G10: a term has at most one leader.
//
//   - G11: whatever a group keeps for others is bounded: the tail, the inflight
//     entries, pending reads, unsent answers.
//
//   - G12: what New finds in storage agrees with itself: applied and commit lie
//     within the log, the term is at least that of the last entry.
//
//   - G13: blocks are well formed, contiguous, of this group, and of terms that
//     fit their place.
//
//   - G14: the membership in force is that of the newest membership entry applied
//     here, or the one the group was made with when that is newer. It changes only
//     in Applied, and all replicas go through the same ones.
//
//   - G15: a leader appends a membership only once it has applied an entry of its
//     term and all memberships in front. So neighbouring memberships have quorums
//     that meet, and of several membership entries in one log all but the last are
//     committed. A replica does not campaign while one it knows to be committed is
//     not applied.
//
//   - G16: a read by lease sees all that was committed when it came. The lease ends
//     before any voter that granted it may grant a vote to another.
//
//   - G17: a group that was recovered from the loss of its quorum begins anew with
//     one membership entry, [Config.Floor]. No membership in front of it comes into
//     force any more, so who campaigns afterwards has that entry in its log, and
//     with it all that the recovery took for committed.
//
//   - G18: a wounded replica votes by the last entry that it may ever have
//     acknowledged, takes no entry, and goes on only from a snapshot whose last entry
//     is as far, by term and then by index.
//
// A broken invariant is a fault of this group alone: it stops, says so in
// [Group.Err] with a [*FaultError], and takes and gives nothing more. Nothing
// that comes from the network or from storage causes a panic.
//
// # Concurrency
//
// A Group belongs to one goroutine at a time. Storage is called from within
// Step, Tick, Ready and Persisted, for terms and for entries that have left the
// tail. The memory of blocks is never written again once they are sealed and is
// left to the garbage collector, so what Ready hands out stays valid for ever.
package group
