package bench

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// A short overload on the real threads: what is served is verified, and the report adds
// up. How much is offered, served and refused is not looked at: that is a measurement,
// for a quiet machine. engine.TestOverloadIsRefused looks at refusals.
func TestOverload(t *testing.T) {
	cfg := OverloadConfig{
		Config: Config{Groups: 8, InflightBytes: minInflightBytes, Duration: 300 * time.Millisecond, Warmup: NoWarmup,
			Transport: TransportMemory, Dir: t.TempDir(), Seed: 1},
		Factor: 30, MinRatio: 1e-6,
	}
	r, err := Overload(t.Context(), cfg, nil)
	var fault *OverloadError
	if err != nil && !errors.As(err, &fault) {
		t.Fatal(err)
	}
	if r.Overload.Verified == nil || !*r.Overload.Verified || r.Overload.VerifiedWrites == 0 {
		t.Error("the run was not verified")
	}
	if refused := r.Overload.RefusedInWindow; refused > r.Overload.ErrorsByKind[failureNames[failBusy]] || (refused > 0) != (r.RefusedPerS > 0) {
		t.Errorf("%d refused in the window, %.0f/s; errors %v", refused, r.RefusedPerS, r.Overload.ErrorsByKind)
	}
	if want := 30 * r.Peak.OpsPerS; r.Overload.Config.Rate != want || !r.Overload.Config.Shed {
		t.Errorf("the open loop was to offer %.0f/s, want %.0f", r.Overload.Config.Rate, want)
	}
	if r.Ratio < 0 || r.OfferedPerS < r.Overload.OpsPerS {
		t.Errorf("%+v", r)
	}
	var text, json bytes.Buffer
	if err := errors.Join(r.WriteText(&text), r.WriteJSON(&json)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Peak ", "Offered ", "Served ", "Elections "} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text without %q:\n%s", want, &text)
		}
	}
	for _, want := range []string{`"offered_per_s"`, `"ratio"`, `"refused_per_s"`, `"peak"`} {
		if !strings.Contains(json.String(), want) {
			t.Errorf("JSON without %s", want)
		}
	}
}

// What makes a run count as failed.
func TestOverloadFaults(t *testing.T) {
	at := func(ops float64, refused uint64, change func(*Report)) []string {
		r := &OverloadReport{Factor: 4, MinRatio: 0.8, Peak: &Report{OpsPerS: 100}, Overload: &Report{OpsPerS: ops, RefusedInWindow: refused, WindowSecs: 1}}
		if change != nil {
			change(r.Overload)
		}
		r.judge()
		return r.Faults
	}
	if got := at(80, 320, nil); got != nil {
		t.Errorf("%q", got)
	}
	for want, got := range map[string][]string{
		"79 % of the peak":    at(79, 320, nil),
		"could be offered":    at(90, 100, nil),
		"1 elections":         at(80, 320, func(r *Report) { r.Elections = 1 }),
		"ended in: no_leader": at(80, 320, func(r *Report) { r.ErrorsByKind = map[string]uint64{failureNames[failNoLeader]: 2} }),
	} {
		if len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := (OverloadConfig{Factor: 0.5, MinRatio: 2}).Validate(); err == nil || !strings.Contains(err.Error(), "Factor") || !strings.Contains(err.Error(), "MinRatio") {
		t.Errorf("%v", err)
	}
}

func TestScheduleSheds(t *testing.T) {
	s := newSchedule(1000)
	s.shed(int64(time.Second))
	if first, n := s.claim(int64(time.Second), 1000); first < 949 || first > 952 || n < 49 || n > 52 {
		t.Errorf("operations from %d on, %d", first, n)
	}
	s.shed(int64(time.Second)) // nothing is late now
	if _, n := s.claim(int64(time.Second), 1000); n != 0 {
		t.Errorf("%d operations twice", n)
	}
}
