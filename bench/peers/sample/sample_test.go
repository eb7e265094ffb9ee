package sample

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

var kept []byte

func TestTimerCountsTurns(t *testing.T) {
	turns := 0
	row := Row{PerOp: 2, Time: func(tm *Timer) error {
		for tm.Loop() {
			turns++
			tm.Stop()
			kept = make([]byte, 1<<10) // not measured
			tm.Start()
			kept = make([]byte, 64)
		}
		return nil
	}}
	r, err := row.Measure(5 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	// Two entries to a turn, which allocates once.
	if r.Allocs < 0.5 || r.Allocs > 0.6 || r.Bytes < 32 || r.Bytes > 64 || r.Value <= 0 || turns < 2 {
		t.Fatalf("%d turns, got %+v", turns, r)
	}
}

func TestTimerRefusesALoopThatEndsEarly(t *testing.T) {
	row := Row{Time: func(tm *Timer) error {
		for tm.Loop() {
			break
		}
		return nil
	}}
	if _, err := row.Measure(time.Second); err == nil {
		t.Fatal("no error")
	}
}

func TestLive(t *testing.T) {
	type thing [4096]byte
	got, err := Live(1000, func(int) (*thing, error) { return new(thing), nil })
	if err != nil || got < 4000 || got > 4200 { // other tests leave a little behind
		t.Fatalf("%v bytes, %v", got, err)
	}
	failed := errors.New("failed")
	if _, err := Live(1, func(int) (*thing, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Fatal(err)
	}
}

func TestRun(t *testing.T) {
	rows := map[string]Row{"a": {Heap: func() (float64, error) { return 7, nil }}}
	var out bytes.Buffer
	if err := run([]string{"-row", "a"}, rows, &out); err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Value != 7 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := run([]string{"-row", "b"}, rows, &out); err == nil || !strings.Contains(err.Error(), "must be one of a") {
		t.Fatal(err)
	}
}
