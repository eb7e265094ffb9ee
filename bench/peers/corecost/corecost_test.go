package main

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"multiraft/bench/peers/sample"
)

func TestRowsAreAllOperations(t *testing.T) {
	var got []string
	for _, r := range rows {
		got = append(got, r.name)
		if r.atMost == 0 && r.limit == 0 || r.unit == "" {
			t.Errorf("%s asks for nothing", r.name)
		}
	}
	if !slices.Equal(got, sample.Names()) {
		t.Fatalf("got %v, want %v", got, sample.Names())
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 2, 100}, 3},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestJudge(t *testing.T) {
	quarter := row{unit: nanoseconds, atMost: 4, noAllocs: true}
	heap := row{unit: heapBytes, limit: 768}
	for _, c := range []struct {
		name   string
		row    row
		ours   figure
		others []float64
		short  string
	}{
		{"the better opponent counts", quarter, figure{Value: 100}, []float64{1000, 400}, ""},
		{"a little too slow", quarter, figure{Value: 100}, []float64{1000, 399}, "100 ns is more than 99.8"},
		{"a chunk now and then", quarter, figure{Value: 1, Allocs: 0.04}, []float64{9}, ""},
		{"allocates", quarter, figure{Value: 1, Allocs: 0.5}, []float64{9}, "0.50 allocations"},
		{"at the limit", heap, figure{Value: 768}, []float64{1}, ""},
		{"above the limit", heap, figure{Value: 769}, []float64{9000}, "769 B is more than 768"},
	} {
		figures := []figure{c.ours}
		for _, v := range c.others {
			figures = append(figures, figure{Value: v})
		}
		if got := strings.Join(judge(c.row, figures).Short, "; "); got != c.short {
			t.Errorf("%s: got %q, want %q", c.name, got, c.short)
		}
	}
}

func TestReport(t *testing.T) {
	figures := []figure{
		newFigure("multiraft", []sample.Result{{Value: 70}, {Value: 50}, {Value: 60, Allocs: 0.01}}),
		newFigure("other", []sample.Result{{Value: 1234, Allocs: 17}}),
	}
	r := report{Rounds: 3, Rows: []outcome{
		judge(row{title: "fast", unit: nanoseconds, atMost: 4}, figures),
		judge(row{title: "slow", unit: nanoseconds, atMost: 40}, figures),
	}}
	var text, asJSON bytes.Buffer
	if err := r.writeText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"60.0 ns 0", "1,234 ns 17", "1/20.6", "1/40", "short: 60 ns is more than 30.9", "1 of 2 rows fall short",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
	if err := r.writeJSON(&asJSON); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(asJSON.Bytes(), &back); err != nil || len(back.Rows[0].Figures[0].Samples) != 3 || back.short() != 1 {
		t.Fatalf("%v: %s", err, asJSON.String())
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"-h", exitOK, "Exit codes"},
		{"-rounds 0", exitUsage, "-rounds"},
		{"-time 1ns", exitUsage, "-time"},
		{"-rows nothing-like-it", exitUsage, "matches none"},
		{"-rows (", exitUsage, "-rows"},
		{"-unknown", exitUsage, "not defined: -unknown"},
		{"more", exitUsage, "takes no arguments"},
	} {
		var out bytes.Buffer
		code := command(context.Background(), strings.Fields(c.args), &out, &out)
		if code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: exit code %d, %s", c.args, code, out.String())
		}
	}
}
