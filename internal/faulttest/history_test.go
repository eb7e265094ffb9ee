package faulttest

import (
	"errors"
	"testing"

	"github.com/anishathalye/porcupine"
)

// The checker must see what it is there to see.
func TestHistoryFindsFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(h *History)
		ok   bool
	}{
		{"write and read", func(h *History) {
			h.Wrote(1, 1, 5, h.Begin())
			h.Read(1, 1, 5, h.Begin())
		}, true},
		{"an unknown write that took effect late", func(h *History) {
			h.MayHaveWritten(1, 1, 5, h.Begin())
			h.Read(2, 1, 0, h.Begin())
			h.Read(2, 1, 5, h.Begin())
		}, true},
		{"a lost write", func(h *History) {
			h.Wrote(1, 1, 5, h.Begin())
			h.Read(1, 1, 0, h.Begin())
		}, false},
		{"a stale read", func(h *History) {
			h.Wrote(1, 1, 5, h.Begin())
			h.Wrote(1, 1, 6, h.Begin())
			h.Read(2, 1, 5, h.Begin())
		}, false},
		{"a value from nowhere", func(h *History) { h.Read(1, 1, 9, h.Begin()) }, false},
		{"an unknown write that comes and goes", func(h *History) {
			h.MayHaveWritten(1, 1, 5, h.Begin())
			h.Read(2, 1, 5, h.Begin())
			h.Read(2, 1, 0, h.Begin())
		}, false},
		{"concurrent writes, both orders seen", func(h *History) {
			a, b := h.Begin(), h.Begin()
			h.Read(3, 1, 7, h.Begin())
			h.Read(3, 1, 6, h.Begin())
			h.Read(3, 1, 7, h.Begin())
			h.Wrote(1, 1, 6, a)
			h.Wrote(2, 1, 7, b)
		}, false},
		{"the same on two keys", func(h *History) {
			h.Wrote(1, 1, 6, h.Begin())
			h.Wrote(1, 2, 7, h.Begin())
			h.Read(2, 1, 6, h.Begin())
			h.Read(2, 2, 7, h.Begin())
		}, true},
	} {
		var h History
		c.make(&h)
		err := h.Check()
		var found *HistoryError
		if c.ok != (err == nil) || !c.ok && (!errors.As(err, &found) || found.Verdict != porcupine.Illegal) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestHistoryBoundsConcurrency(t *testing.T) {
	var h History
	for i := range uint64(MaxConcurrent + 1) {
		h.MayHaveWritten(1, 1, i+1, h.Begin())
	}
	if err := h.Check(); err == nil {
		t.Error("more operations at a time than can be checked were taken")
	}
}

// TestHistoryBefore cuts a history off between two flushes of a disk: what was
// acknowledged is certain, what began before the second one may be there, and nothing
// later is.
func TestHistoryBefore(t *testing.T) {
	for value, legal := range []bool{false, true, true, true, false} { // zero is what was there before
		var h, then History
		h.Wrote(1, 1, 1, h.Begin())
		second := h.Begin()
		moment := h.Begin()
		h.Wrote(2, 1, 2, second)
		third := h.Begin()
		until := h.Begin()
		h.Wrote(3, 1, 3, third)
		h.Wrote(4, 1, 4, h.Begin())
		h.Before(moment, until, &then)
		then.Read(5, 1, uint64(value), then.Begin())
		if err := then.Check(); (err == nil) != legal {
			t.Errorf("a read of %d after the cut: %v", value, err)
		}
	}
}
