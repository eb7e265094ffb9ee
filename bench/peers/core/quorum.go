package main

import (
	"fmt"
	_ "unsafe" // for go:linkname

	"multiraft/bench/peers/sample"
	"multiraft/wire"
)

// The quorum arithmetic of package group is not exported, and need not be. It is
// called here by its name in the linker, which fails to link when it changes. An
// empty file of assembly lets the compiler accept functions without a body.

//go:linkname commitIndex multiraft/group.commitIndex
func commitIndex(match *[wire.MaxReplicas]wire.Index, voters uint16) wire.Index

//go:linkname jointCommitIndex multiraft/group.jointCommitIndex
func jointCommitIndex(match *[wire.MaxReplicas]wire.Index, incoming, outgoing uint16) wire.Index

// matches are the match indexes of the members, in no order.
var matches = [wire.MaxReplicas]wire.Index{7, 3, 9, 1, 8, 2, 6}

var sink wire.Index

func commitIndexOf(t *sample.Timer, voters int) error {
	match, set := matches, uint16(1)<<voters-1
	for t.Loop() {
		sink = commitIndex(&match, set)
	}
	return checkCommit(map[int]wire.Index{3: 7, 5: 7, 7: 6}[voters])
}

func jointCommitIndexOf(t *sample.Timer) error {
	match := matches
	for t.Loop() {
		sink = jointCommitIndex(&match, 0b00111, 0b01011)
	}
	return checkCommit(3)
}

func checkCommit(want wire.Index) error {
	if sink != want {
		return fmt.Errorf("commit index is %d, want %d", sink, want)
	}
	return nil
}
