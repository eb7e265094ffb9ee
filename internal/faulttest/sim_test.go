package faulttest

import (
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"

	"multiraft/internal/sim"
)

// list is a group of the simulator as a client sees it: a row of commands, and how
// often it was read since the last one.
type list struct {
	length int
	digest uint64
	reads  int
}

// listOp is an operation on a list. A write knows how many reads of the whole
// history saw the list just before it.
type listOp struct {
	sim.Operation
	reads int
}

// listModel knows nothing of raft, and nothing of how the simulator's own checker
// comes to its verdict. Every operation tells its place, so in a legal history
// there is no choice but between reads of one place, and any will do, however many
// operations are under way at a time.
var listModel = porcupine.Model{
	Init: func() any { return list{} },
	Step: func(state, input, _ any) (bool, any) {
		s, op := state.(list), input.(listOp)
		if op.Read {
			return op.Length == s.length && op.Digest == s.digest, list{s.length, s.digest, s.reads + 1}
		}
		return op.Length == s.length+1 && op.reads == s.reads, list{s.length + 1, sim.Extended(s.length, s.digest, op.Digest), 0}
	},
}

// checkLists looks for a legal order of the operations on each group.
func checkLists(ops []sim.Operation) (group int, verdict porcupine.CheckResult) {
	byGroup := make(map[int][]porcupine.Operation)
	var groups []int
	type place struct{ group, length int }
	reads := make(map[place]int)
	for _, op := range ops {
		if op.Read {
			reads[place{op.Group, op.Length}]++
		}
	}
	for _, op := range ops {
		if byGroup[op.Group] == nil {
			groups = append(groups, op.Group)
		}
		byGroup[op.Group] = append(byGroup[op.Group], porcupine.Operation{
			ClientId: op.Client, Input: listOp{op, reads[place{op.Group, op.Length - 1}]}, Call: op.Began, Return: op.Ended})
	}
	slices.Sort(groups)
	for _, g := range groups {
		if verdict := porcupine.CheckOperationsTimeout(listModel, byGroup[g], checkTimeout); verdict != porcupine.Ok {
			return g, verdict
		}
		checked.Add(int64(len(byGroup[g])))
	}
	return 0, porcupine.Ok
}

// TestSimulatorHistories checks what the clients of simulated clusters saw.
func TestSimulatorHistories(t *testing.T) {
	goal := 10_000
	if testing.Short() {
		goal = 2_000
	}
	total, seeds := 0, uint64(0)
	for total < goal {
		seeds++
		var ops []sim.Operation
		plan := sim.Plan{Seed: seeds, History: func(op sim.Operation) { ops = append(ops, op) }}
		if _, err := sim.Run(plan); err != nil {
			t.Fatal(err)
		}
		if g, verdict := checkLists(ops); verdict != porcupine.Ok {
			t.Fatalf("seed %d: the history of group %d is %v; %s", seeds, g, verdict, plan.Command())
		}
		total += len(ops)
	}
	t.Logf("%d operations of %d simulated clusters", total, seeds)
}

// The checker must see a list that lost a command, and a read of the past.
func TestSimulatorHistoriesFindFaults(t *testing.T) {
	one, two := uint64(11), uint64(22)
	both := sim.Extended(1, one, two)
	for _, c := range []struct {
		name string
		ops  []sim.Operation
		want porcupine.CheckResult
	}{
		{"in order", []sim.Operation{
			{Began: 1, Ended: 2, Length: 1, Digest: one},
			{Began: 3, Ended: 4, Length: 2, Digest: two},
			{Began: 5, Ended: 6, Read: true, Length: 2, Digest: both}}, porcupine.Ok},
		{"a stale read", []sim.Operation{
			{Began: 1, Ended: 2, Length: 1, Digest: one},
			{Began: 3, Ended: 4, Length: 2, Digest: two},
			{Began: 5, Ended: 6, Read: true, Length: 1, Digest: one}}, porcupine.Illegal},
		{"a lost command", []sim.Operation{
			{Began: 1, Ended: 2, Length: 1, Digest: one},
			{Began: 3, Ended: 4, Length: 1, Digest: two}}, porcupine.Illegal},
		{"another command", []sim.Operation{
			{Began: 1, Ended: 2, Length: 1, Digest: one},
			{Began: 3, Ended: 4, Read: true, Length: 1, Digest: two}}, porcupine.Illegal},
	} {
		if _, verdict := checkLists(c.ops); verdict != c.want {
			t.Errorf("%s: %v", c.name, verdict)
		}
	}
}
