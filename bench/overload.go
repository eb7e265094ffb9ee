package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"multiraft/engine"
	"multiraft/wire"
)

// OverloadConfig is what [Overload] does. Of Config everything counts but Mode,
// Workload, Rate, Shed, Inflight and Verify, which it sets itself; Payload is 1024
// and InflightBytes 16 MiB when zero.
type OverloadConfig struct {
	Config
	// Factor is how many times the peak is offered. Zero means 4.
	Factor float64
	// MinRatio of the peak is what must be served meanwhile. Zero means 0.8.
	MinRatio float64
}

// WithDefaults returns a copy in which every zero value is replaced.
func (c OverloadConfig) WithDefaults() OverloadConfig {
	fill(&c.Factor, 4)
	fill(&c.MinRatio, 0.8)
	fill(&c.Payload, 1024)
	fill(&c.InflightBytes, 16<<20)
	c.Mode, c.Workload, c.Verify, c.Rate, c.Shed = ModeAsync, WorkloadWrite, true, 0, false
	// As many as the engine lets in keep it busy, and no longer than that.
	c.Inflight = max(1, int(c.InflightBytes/int64(wire.PayloadBytes(c.Payload))))
	c.Config = c.Config.WithDefaults()
	return c
}

// Validate reports all faults at once, as [Config.Validate] does.
func (c OverloadConfig) Validate() error {
	c = c.WithDefaults()
	faults := []error{c.Config.Validate()}
	if c.Factor < 1 || c.Factor > maxFactor || math.IsNaN(c.Factor) {
		faults = append(faults, &engine.ConfigError{Field: "Factor", Value: c.Factor, Rule: fmt.Sprintf("must be 1 to %d", maxFactor)})
	}
	if c.MinRatio < 0 || c.MinRatio > 1 || math.IsNaN(c.MinRatio) {
		faults = append(faults, &engine.ConfigError{Field: "MinRatio", Value: c.MinRatio, Rule: "must be 0 to 1"})
	}
	return errors.Join(faults...)
}

const (
	maxFactor = 100
	// minOffered is the share of what was to be offered below which a run proves
	// nothing.
	minOffered = 0.75
)

// OverloadReport is the result of [Overload].
type OverloadReport struct {
	Factor   float64 `json:"factor"`
	MinRatio float64 `json:"min_ratio"`
	// Peak is the closed loop that found out what can be sustained.
	Peak *Report `json:"peak"`
	// Overload is the open loop at Factor times that. Operations that were refused
	// are among its errors.
	Overload *Report `json:"overload"`
	// OfferedPerS operations were tried in a second, of which RefusedPerS were
	// refused at once. Those that the load itself came too late for are not counted.
	OfferedPerS float64 `json:"offered_per_s"`
	RefusedPerS float64 `json:"refused_per_s"`
	// Ratio is what was served under overload by what was at the peak.
	Ratio float64 `json:"ratio"`
	// Faults says in words what was not as it must be. None: the engine held.
	Faults []string `json:"faults,omitempty"`
}

// Overload measures what a cluster sustains in a closed loop, then offers a
// multiple of that in an open loop to a new one, and looks whether it goes on
// serving: refusals must cost little, nobody may be elected because heartbeats came
// too late, and what was acknowledged must be there. The report comes with an
// [*OverloadError] when that does not hold.
//
//	closed loop ── ops/s ──▶ × Factor ──▶ open loop ──▶ served / peak, refused, p99, elections
//
// Operations that are refused are gone: nobody tries them again, as the next ones
// are due already. Latency is of those that were served, from when they were due.
func Overload(ctx context.Context, cfg OverloadConfig, progress func(Update)) (*OverloadReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	r := &OverloadReport{Factor: cfg.Factor, MinRatio: cfg.MinRatio}
	var err error
	if r.Peak, err = Run(ctx, cfg.Config, progress); err != nil {
		return nil, fmt.Errorf("peak: %w", err)
	}
	over := cfg.Config
	over.Seed = r.Peak.Config.Seed
	over.Rate, over.Shed = max(1, r.Peak.OpsPerS*cfg.Factor), true
	// More than the engine lets in: what bounds it is to be the engine.
	over.Inflight += max(64, over.Inflight/8)
	if r.Overload, err = Run(ctx, over, progress); err != nil {
		return nil, fmt.Errorf("overload: %w", err)
	}
	r.judge()
	if len(r.Faults) > 0 {
		return r, &OverloadError{r.Faults}
	}
	return r, nil
}

// judge fills in what follows from the two reports.
func (r *OverloadReport) judge() {
	o := r.Overload
	r.Ratio = perUnit(o.OpsPerS, r.Peak.OpsPerS)
	r.RefusedPerS = perUnit(float64(o.RefusedInWindow), o.WindowSecs)
	r.OfferedPerS = o.OpsPerS + r.RefusedPerS
	fault := func(format string, args ...any) { r.Faults = append(r.Faults, fmt.Sprintf(format, args...)) }
	if r.Ratio < r.MinRatio {
		fault("%.0f ops/s were served, %.0f %% of the peak of %.0f", o.OpsPerS, 100*r.Ratio, r.Peak.OpsPerS)
	}
	if r.OfferedPerS < minOffered*r.Factor*r.Peak.OpsPerS {
		fault("only %.1f times the peak could be offered, as the load shares the processors with the stores; larger writes make room for it", perUnit(r.OfferedPerS, r.Peak.OpsPerS))
	}
	if o.Elections > 0 {
		fault("%d elections", o.Elections)
	}
	for _, kind := range slices.Sorted(maps.Keys(o.ErrorsByKind)) {
		n := o.ErrorsByKind[kind]
		if kind != failureNames[failBusy] && kind != failureNames[failNotLeader] {
			fault("%d operations ended in: %s", n, kind)
		}
	}
}

// WriteJSON writes the report as one JSON object.
func (r *OverloadReport) WriteJSON(w io.Writer) error { return writeJSON(w, r) }

// WriteText writes a summary for people.
func (r *OverloadReport) WriteText(w io.Writer) error {
	var b strings.Builder
	c, o := &r.Overload.Config, r.Overload
	fmt.Fprintf(&b, "%s of %d replicas, writes of %d bytes, at most %s in flight per store.\n",
		plural(c.Groups, "group"), c.Replicas, c.Payload, bytesText(uint64(c.InflightBytes)))
	fmt.Fprintf(&b, "Peak      %s ops/s, %s\n", rateText(r.Peak.OpsPerS), latencyText(r.Peak.Latency))
	fmt.Fprintf(&b, "Offered   %s ops/s, %.1f times that\n", rateText(r.OfferedPerS), perUnit(r.OfferedPerS, r.Peak.OpsPerS))
	fmt.Fprintf(&b, "Served    %s ops/s, %.0f %% of the peak, %s\n", rateText(o.OpsPerS), 100*r.Ratio, latencyText(o.Latency))
	fmt.Fprintf(&b, "Refused   %s ops/s at once\n", rateText(r.RefusedPerS))
	fmt.Fprintf(&b, "Elections %d; heap %s at the end, %s of the process in memory\n", o.Elections, bytesText(o.HeapBytes), bytesText(o.RSSBytes))
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "NOT as it must be: %s.\n", f)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxLag is by how much the open loop of an overload may be late: what is due for
// longer is left out, because it measures the load and not the engine.
const maxLag = 50 * time.Millisecond

// shed leaves out what is due for longer than maxLag.
func (s *schedule) shed(now int64) {
	least := s.due(now - int64(maxLag))
	for {
		claimed := s.claimed.Load()
		if claimed >= least || s.claimed.CompareAndSwap(claimed, least) {
			return
		}
	}
}
