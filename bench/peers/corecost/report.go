package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"multiraft/bench/peers/sample"
)

// report is what a run found.
type report struct {
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Sample  string    `json:"sample"`
	Rows    []outcome `json:"rows"`
}

type machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPU  string `json:"cpu,omitempty"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
}

// figure is what one library needs for an operation: medians of the samples.
type figure struct {
	Library string          `json:"library"`
	Value   float64         `json:"value"`
	Allocs  float64         `json:"allocs"`
	Bytes   float64         `json:"bytes"`
	Samples []sample.Result `json:"samples"`
}

// outcome is one row of the table.
type outcome struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Unit     string   `json:"unit"`
	Figures  []figure `json:"figures"` // in the order of programs
	Ratio    float64  `json:"ratio"`   // the better opponent's figure, in ours
	Required string   `json:"required"`
	Short    []string `json:"short,omitempty"` // what falls short
}

// median of an odd number of values is the middle one, of an even number the
// mean of the two in the middle.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func newFigure(library string, samples []sample.Result) figure {
	column := func(of func(sample.Result) float64) float64 {
		values := make([]float64, len(samples))
		for i, s := range samples {
			values[i] = of(s)
		}
		return median(values)
	}
	return figure{
		Library: library,
		Value:   column(func(s sample.Result) float64 { return s.Value }),
		Allocs:  column(func(s sample.Result) float64 { return s.Allocs }),
		Bytes:   column(func(s sample.Result) float64 { return s.Bytes }),
		Samples: samples,
	}
}

// judge compares the first of the figures, which is ours, with the best of the
// others.
func judge(r row, figures []figure) outcome {
	ours, best := figures[0], math.Inf(1)
	for _, f := range figures[1:] {
		best = min(best, f.Value)
	}
	o := outcome{Name: r.name, Title: r.title, Unit: r.unit, Figures: figures, Ratio: best / ours.Value}
	var required []string
	short := func(format string, args ...any) { o.Short = append(o.Short, fmt.Sprintf(format, args...)) }
	if r.atMost > 0 {
		required = append(required, fmt.Sprintf("1/%g", r.atMost))
		if o.Ratio < r.atMost {
			short("%.3g %s is more than %.3g", ours.Value, r.unit, best/r.atMost)
		}
	}
	if r.limit > 0 {
		required = append(required, fmt.Sprintf("%g %s", r.limit, r.unit))
		if ours.Value > r.limit {
			short("%.3g %s is more than %g", ours.Value, r.unit, r.limit)
		}
	}
	if r.noAllocs {
		required = append(required, "0 allocs")
		if ours.Allocs > allocsTolerated {
			short("%.2f allocations", ours.Allocs)
		}
	}
	o.Required = strings.Join(required, ", ")
	return o
}

// short says how many rows fall short.
func (r *report) short() (n int) {
	for _, o := range r.Rows {
		if len(o.Short) > 0 {
			n++
		}
	}
	return n
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// writeText writes the table. Each figure is followed by its allocations.
func (r *report) writeText(w io.Writer) error {
	m := r.Machine
	cpu := m.CPU
	if cpu != "" {
		cpu = ", " + cpu
	}
	var b strings.Builder // takes every write
	fmt.Fprintf(&b, "%s/%s, %d CPUs%s, %s; medians of %d interleaved rounds of %s\n\n", m.OS, m.Arch, m.CPUs, cpu, m.Go, r.Rounds, r.Sample)
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = io.WriteString(tw, r.table()) // to the Builder
	_ = tw.Flush()                       // as above
	verdict := "all rows ok"
	if n := r.short(); n > 0 {
		verdict = fmt.Sprintf("%d of %d rows fall short", n, len(r.Rows))
	}
	fmt.Fprintf(&b, "\n%s\n", verdict)
	_, err := io.WriteString(w, b.String())
	return err
}

// table is the rows, with a tab behind each cell.
func (r *report) table() string {
	var b strings.Builder
	b.WriteString("operation\t")
	if len(r.Rows) > 0 {
		for _, f := range r.Rows[0].Figures {
			fmt.Fprintf(&b, "%s\t", f.Library)
		}
	}
	b.WriteString("ratio\trequired\t\n")
	for _, o := range r.Rows {
		fmt.Fprintf(&b, "%s\t", o.Title)
		for _, f := range o.Figures {
			fmt.Fprintf(&b, "%s\t", f.text(o.Unit))
		}
		verdict := "ok"
		if len(o.Short) > 0 {
			verdict = "short: " + strings.Join(o.Short, "; ")
		}
		fmt.Fprintf(&b, "1/%.1f\t%s\t%s\n", o.Ratio, o.Required, verdict)
	}
	return b.String()
}

// text is a figure as the table shows it: "3,399 ns 17".
func (f figure) text(unit string) string {
	if unit == heapBytes {
		return thousands(f.Value) + " " + unit
	}
	return fmt.Sprintf("%s %s %s", thousands(f.Value), unit, allocs(f.Allocs))
}

// allocs shows a tenth of an allocation, and less as none.
func allocs(n float64) string {
	if n <= allocsTolerated {
		return "0"
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0")
}

func thousands(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func thisMachine() machine {
	return machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version()}
}

// cpuModel is what Linux calls the processor; empty where that is not known.
func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
