// Package raftlog is the log that all groups of a store share.
//
//	workers ──Submit──▶ queue ──▶ Step: encode ─▶ WriteAt ─▶ Sync ─▶ index ──▶ Sink.Durable
//	                                              │                    │
//	                                   segment files (recycled)     Group: First, Last, Term, Blocks
//	                                              │                    │
//	                              Maintain: fill, recycle, rewrite, checkpoint
//	                                              │
//	                                   Open: scan, cut or mark, seal
//
// # Terms
//
// A batch is what one write and one sync make durable, for any number of groups;
// a [Batch] is what one caller submits, and many of them go into one. A record
// is a part of a batch: a block of entries, or a control record with hard state,
// meta blob, compaction, restart, tombstone, damage mark or moved block. A segment
// is a file with batches in it; a spare is a file that is ready to become one. A
// record is live while the index refers to it. A straggler is an old segment with
// a small live part. The reserve are the spares kept for a full disk. A seal is a
// batch without records, which proves the one before it.
//
// # Invariants
//
//   - L1: changes become durable in the order they were submitted. A crash leaves
//     a prefix of them, and all of those that Durable has named. It parts no
//     control records of one group that stand side by side in one [Batch], unless
//     they are too many for one batch.
//   - L2: a batch is valid only where it was written: its checksums are seeded
//     with the store, the segment and the offset. Segment numbers are never used
//     twice, so stale bytes never pass. A record of a damaged batch counts only if
//     sums in the header prove that it was written with it.
//   - L3: what a valid header proves durable is never cut in silence. If it is
//     damaged, the groups concerned have an error, or the log does not open.
//     It has no error for what it still says: a wound names the newest hard state,
//     and no entry that was acknowledged is behind the one that it names.
//   - L4: the log is read as well from any later start. What a record says depends
//     on nothing that older records said, so the oldest segment without live data
//     can go, and only the oldest goes.
//   - L5: the entries of a group follow each other without a hole.
//   - L6: a failed write or sync is final. Nothing after it is called durable.
//   - L7: nothing is written behind a tail that was not proven, and nothing is
//     built upon it: recovery goes on in a new segment, which begins with a copy
//     of the last batch, under the same sequence, unless something proves it.
//
// # Concurrency
//
// Submit, Seal, Stats, Progress, Err, DiskFull and everything of a [Group] may be called
// from any goroutine. Step belongs to one goroutine, Maintain to one, which may
// be another; Start provides both. The index is changed by Step only, under the
// lock of one group at a time; readers hold that lock to look up places, not
// while they read the disk.
package raftlog
