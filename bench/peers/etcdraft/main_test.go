package main

import (
	"maps"
	"slices"
	"testing"
	"time"

	"multiraft/bench/peers/sample"
)

// Rows check what they measure: that entries are committed and applied, that
// answers come, that what is decoded is what was encoded.
func TestRows(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(rows())), slices.Sorted(slices.Values(sample.Names())); !slices.Equal(got, want) {
		t.Fatalf("rows are %v, want %v", got, want)
	}
	for name, row := range rows() {
		t.Run(name, func(t *testing.T) {
			r, err := row.Measure(time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if r.Value <= 0 {
				t.Fatalf("got %+v", r)
			}
		})
	}
}
