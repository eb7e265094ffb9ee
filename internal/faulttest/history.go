package faulttest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// MaxConcurrent is how many operations on one key may be under way at a time, a
// write of unknown outcome included, as it is under way for ever. The checker's
// work grows exponentially with this number.
const MaxConcurrent = 8

// checkTimeout is far above what the check of a history takes; a verdict that is
// not reached by then is a failure.
const checkTimeout = 2 * time.Minute

// History records what clients did to registers and saw. Its methods may be
// called from any goroutine.
//
// Times are counted, not measured: each begin and end of an operation takes the
// next number, so that order is known exactly.
type History struct {
	clock atomic.Int64

	mu  sync.Mutex // guards ops
	ops []porcupine.Operation
}

// register is the input of an operation; its output is the value read.
type register struct {
	key   uint64
	write bool
	value uint64
}

// Begin returns the moment at which an operation begins. It must be taken before
// anything of the operation leaves the client.
func (h *History) Begin() int64 { return h.clock.Add(1) }

// Wrote records a write that was acknowledged.
func (h *History) Wrote(client int, key, value uint64, began int64) {
	h.add(porcupine.Operation{ClientId: client, Input: register{key: key, write: true, value: value}, Call: began, Return: h.clock.Add(1)})
}

// MayHaveWritten records a write of which nobody knows what became of it.
func (h *History) MayHaveWritten(client int, key, value uint64, began int64) {
	h.add(porcupine.Operation{ClientId: client, Input: register{key: key, write: true, value: value}, Call: began, Return: math.MaxInt64})
}

// Read records what a read returned. Reads that failed and writes that were
// refused have no effect and are not recorded.
func (h *History) Read(client int, key, value uint64, began int64) {
	h.add(porcupine.Operation{ClientId: client, Input: register{key: key}, Output: value, Call: began, Return: h.clock.Add(1)})
}

func (h *History) add(op porcupine.Operation) {
	h.mu.Lock()
	h.ops = append(h.ops, op)
	h.mu.Unlock()
}

// Before records in to what was known at a moment of the past: operations that
// had ended, and as unknown the writes that were under way, or began before a later
// moment, until.
func (h *History) Before(moment, until int64, to *History) {
	h.mu.Lock()
	defer h.mu.Unlock()
	to.clock.Store(h.clock.Load())
	for _, op := range h.ops {
		if op.Return > moment {
			if op.Call > until || !op.Input.(register).write {
				continue
			}
			op.Return = math.MaxInt64
		}
		to.ops = append(to.ops, op)
	}
}

// Len returns how many operations are recorded.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// HistoryError names a key whose history has no legal order.
type HistoryError struct {
	Key     uint64
	Verdict porcupine.CheckResult // Illegal or Unknown
	Ops     string                // one line each, by the time they began
}

func (e *HistoryError) Error() string {
	return fmt.Sprintf("key %d: the history is %v:\n%s", e.Key, e.Verdict, e.Ops)
}

// checked counts the operations of all histories that were found legal.
var checked atomic.Int64

// Check looks for a legal order of the operations of each key, and returns a
// [*HistoryError] for the first that has none.
//
// REQUIRES: no operation is under way.
func (h *History) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	byKey := make(map[uint64][]porcupine.Operation)
	for _, op := range h.ops {
		key := op.Input.(register).key
		byKey[key] = append(byKey[key], op)
	}
	keys := make([]uint64, 0, len(byKey))
	for key := range byKey {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		ops := byKey[key]
		if n := mostConcurrent(ops); n > MaxConcurrent {
			return fmt.Errorf("key %d: %d operations at a time, more than %d", key, n, MaxConcurrent)
		}
		if verdict := porcupine.CheckOperationsTimeout(registerModel, ops, checkTimeout); verdict != porcupine.Ok {
			return &HistoryError{Key: key, Verdict: verdict, Ops: describe(ops)}
		}
		checked.Add(int64(len(ops)))
	}
	return nil
}

// registerModel is one register that begins at zero.
var registerModel = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		in := input.(register)
		if in.write {
			return true, in.value
		}
		return output.(uint64) == state.(uint64), state
	},
}

// mostConcurrent returns how many operations were under way at most.
func mostConcurrent(ops []porcupine.Operation) int {
	type edge struct {
		at   int64
		step int
	}
	edges := make([]edge, 0, 2*len(ops))
	for _, op := range ops {
		edges = append(edges, edge{op.Call, 1}, edge{op.Return, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	most, now := 0, 0
	for _, e := range edges {
		now += e.step
		most = max(most, now)
	}
	return most
}

func describe(ops []porcupine.Operation) string {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range ops {
		in := op.Input.(register)
		until := fmt.Sprint(op.Return)
		if op.Return == math.MaxInt64 {
			until = "?"
		}
		if in.write {
			fmt.Fprintf(&b, "  %d–%s client %d writes %d\n", op.Call, until, op.ClientId, in.value)
		} else {
			fmt.Fprintf(&b, "  %d–%s client %d reads %d\n", op.Call, until, op.ClientId, op.Output)
		}
	}
	return b.String()
}
