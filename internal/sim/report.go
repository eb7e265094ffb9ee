package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is what became of a run.
type Report struct {
	Seed    uint64
	Shape   string
	Hash    uint64 // of everything that happened; equal for equal plans
	Events  uint64
	Virtual time.Duration
	Counts  Counts
}

// WriteText writes the summary for people: what was found, and what it rests on.
// The hash stands in the last line.
func (s *Summary) WriteText(w io.Writer) error {
	var b strings.Builder
	if s.Shape != "" {
		fmt.Fprintf(&b, "%s\n", s.Shape)
	}
	fmt.Fprintf(&b, "%v%12d  events\n", &s.Counts, s.Events)
	for i := range s.Found {
		f := &s.Found[i]
		fmt.Fprintf(&b, "%v\n    %s\n    to see it: %s --trace -\n", &f.Violation, f.Shape, f.Command)
	}
	fmt.Fprintf(&b, "%d seeds from %d, %d of them twice: %.2f cluster-hours in %.2f minutes of processor time, %.2f a minute; %v, %d MiB; violations: %d\n",
		s.Done, s.From, s.Replayed, s.Virtual.Hours(), s.CPU.Minutes(), s.Rate(), s.Wall.Round(time.Millisecond), s.Heap>>20, len(s.Found))
	fmt.Fprintf(&b, "hash %016x\n", s.Hash)
	_, err := io.WriteString(w, b.String())
	return err
}

// jsonSummary is a [Summary] as programs read it.
type jsonSummary struct {
	From              uint64            `json:"from"`
	Seeds             int               `json:"seeds"`
	Replayed          int               `json:"replayed"`
	FaultMinutes      float64           `json:"fault_minutes"`
	Stores            int               `json:"stores,omitempty"`
	Groups            int               `json:"groups,omitempty"`
	ClusterHours      float64           `json:"cluster_hours"`
	CPUMinutes        float64           `json:"cpu_minutes"`
	WallSeconds       float64           `json:"wall_seconds"`
	HoursPerCPUMinute float64           `json:"cluster_hours_per_cpu_minute"`
	HeapBytes         uint64            `json:"heap_bytes"`
	Events            uint64            `json:"events"`
	Hash              string            `json:"hash"`
	Counts            map[string]uint64 `json:"counts"`
	Violations        []jsonViolation   `json:"violations"`
}

type jsonViolation struct {
	Seed    uint64  `json:"seed"`
	Rule    string  `json:"rule"`
	Seconds float64 `json:"at_seconds"`
	What    string  `json:"what"`
	Shape   string  `json:"shape"`
	Command string  `json:"command"`
}

// WriteJSON writes the summary for programs.
func (s *Summary) WriteJSON(w io.Writer) error {
	out := jsonSummary{
		From: s.From, Seeds: s.Done, Replayed: s.Replayed, FaultMinutes: s.Plan.Faults.Minutes(), Stores: s.Plan.Stores, Groups: s.Plan.Groups,
		ClusterHours: s.Virtual.Hours(), CPUMinutes: s.CPU.Minutes(), WallSeconds: s.Wall.Seconds(), HoursPerCPUMinute: s.Rate(), HeapBytes: s.Heap,
		Events: s.Events, Hash: fmt.Sprintf("%016x", s.Hash), Counts: make(map[string]uint64), Violations: []jsonViolation{},
	}
	for n := range s.Counts {
		out.Counts[counter(n).String()] = s.Counts[n]
	}
	for i := range s.Found {
		f := &s.Found[i]
		out.Violations = append(out.Violations, jsonViolation{f.Seed, f.Rule, f.At.Seconds(), f.What, f.Shape, f.Command})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(out)
}
