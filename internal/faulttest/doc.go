// Package faulttest runs stores as real processes, over real files and sockets,
// and does to them what happens to machines: death, loss of power, disks that
// fail, fill up, lie or stand still, networks that lose, delay and spoil, and
// pauses. It holds what clients saw and what replicas hold against what was
// promised.
//
//	          ┌ Load ── clients ──┐ requests over a pipe  ┌ Process: one store ┐
//	History ◀─┤ invoke, return    ├──────────────────────▶│ engine, TCP, files │──▶ ext4 ──▶ loop device ──▶ Disk
//	   │      └───────────────────┘                       └─────────┬──────────┘             (a file, or served by FUSE)
//	   ▼                                                            └── Proxy, namespaces ──▶ other stores
//	porcupine, per key
//
// The process that is tested is never the one that judges: acknowledgements
// count when the parent has read them from the pipe, also after the child died.
//
// # Terms
//
// A rig is a way to make one kind of fault on a real machine: strace for what
// system calls return and for death at an exact call, a loop device with a real
// file system for power cuts, a loop device over a [Disk] for faults of blocks,
// network namespaces and a [Proxy] for faults of the network, namespaces for clocks
// that jump, control groups for pauses, slow disks and too little memory, and a
// [Death] that a store brings upon itself at an exact call of its own. A round is one
// fault and what follows it.
//
// # What is checked
//
//   - F1: what clients saw is linearizable, key by key. A write whose outcome is
//     unknown may take effect any time later, or never. As every key is read after
//     the last fault, a lost write shows as well.
//   - F2: after the last fault all replicas of a group hold the same commands in
//     the same order, and none twice. Where groups change their members, all
//     replicas are those that the newest membership names.
//   - F3: a store whose log failed refuses everything until it is opened again.
//   - F4: what a disk lost, moved or spoilt is never served: the replica has it, or
//     gets it from the others, by itself and while they serve, or is the only one
//     and says that its log is damaged.
//
// Rigs that the machine lacks a tool or a right for are skipped with the reason.
// It is a module of its own so that those who embed the engine do not inherit
// what it needs.
package faulttest
