// Package vfs is a file system in memory that fails the way disks do.
//
//	raftlog ──▶ hook ──▶ visible files ──Sync────▶ durable files ──┐
//	              │      visible names ──SyncDir─▶ durable names ──┤
//	              │            └── not synced ─────────────────────┤
//	              └── error, short write, lie, misdirection, delay ├──CrashClone──▶ what a
//	                                                               │                power cut
//	                                           seeded source ──────┘                left behind
//
// [MemFS] implements raftlog.FS. It remembers, sector by sector, what each file
// held when it was last synced, and which names were not made durable yet. From
// that, [MemFS.CrashClone] makes a state that the disk may be in after a power
// cut at this moment, and [MemFS.States] goes through them. [MemFS.Fork] is what
// the next process finds when only the process dies. A [Hook] sees every call
// first and may fail it.
//
// # Terms
//
// Visible is what calls see; durable is what surely survives. A sector is 512
// bytes, the unit that a disk writes. A pre-image is what a sector held before
// a write that was not synced. A dropped sector is one whose write-back failed:
// visible, taken for clean, and not on disk.
//
// # Invariants
//
//   - F1: what was synced survives every crash, whole; a name survives once its
//     directory was synced.
//   - F2: a sector that was not synced survives as one of: what it holds, what
//     it held before an unsynced write, a mixture, zeros or garbage, as far as
//     the options allow each.
//   - F3: a clone shares no state with its original that either can change.
//   - F4: equal calls with equal sources give equal results: nothing depends on
//     time, map order or addresses.
//
// # Concurrency
//
// All methods of MemFS and of its files may be called from any goroutine. The
// hook runs without the lock held, so it may call the file system and may
// block, which is how a disk hangs.
package vfs
