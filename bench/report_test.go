package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"multiraft/engine"
)

// testReport is of a run in which nothing was special.
func testReport() *Report {
	verified := true
	r := &Report{
		Config: Config{Seed: 5}.WithDefaults(),
		Host:   Host{CPU: "cpu", Cores: 2, GOMAXPROCS: 2, Go: "go1", Sync: "real", SyncMicros: 100, FileSystem: "ext4"},
		Writes: 1000, Ops: 1000,
		Latency:         Latency{P50: 1000, P99: 2000, P999: 3000, Max: 4000},
		LeadersPerStore: []int{86, 85, 85},
		Verified:        &verified, VerifiedWrites: 1234,
	}
	r.setUsage(usage{seconds: 2, counts: counts{cpu: time.Second, hostCPU: 1200 * time.Millisecond, syncs: 60, allocs: 100, allocBytes: 5000, wireBytes: 40_000, logBytes: 90_000}})
	return r
}

func TestReportFigures(t *testing.T) {
	r := testReport()
	for _, f := range []struct {
		name      string
		got, want float64
	}{
		{"ops_per_s", r.OpsPerS, 500},
		{"syncs_per_s", r.SyncsPerS, 30},
		{"writes_per_sync", r.WritesPerSync, 1000 * 3 / 60.0},
		{"wire_bytes_per_op", r.WireBytesPerOp, 40},
		{"log_bytes_per_op", r.LogBytesPerOp, 90},
		{"cpu_ns_per_op", r.CPUNsPerOp, 1e6},
		{"cpu_cores", r.CPUCores, 0.5},
		{"other_cpu_cores", r.OtherCPUCores, 0.1},
		{"allocs_per_op", r.AllocsPerOp, 0.1},
		{"alloc_bytes_per_op", r.AllocBytesPerOp, 5},
	} {
		if f.got != f.want {
			t.Errorf("%s: got %v, want %v", f.name, f.got, f.want)
		}
	}
}

// A window without operations, syncs or time has figures that JSON can hold.
func TestReportOfNothing(t *testing.T) {
	r := &Report{Config: Config{}.WithDefaults()}
	r.setSyncs(newSyncTimer())
	r.setLoad(newTotals(), [failures]error{})
	r.setUsage(usage{})
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "Nothing was answered") {
		t.Error(b.String())
	}
}

func TestReportJSONHasItsFields(t *testing.T) {
	var b bytes.Buffer
	if err := testReport().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b.Bytes(), &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"config", "host", "ops", "ops_per_s", "latency_us", "syncs_per_s", "writes_per_sync", "wire_bytes_per_op",
		"log_bytes_per_op", "cpu_ns_per_op", "allocs_per_op", "alloc_bytes_per_op", "heap_start_bytes", "heap_bytes",
		"rss_bytes", "goroutines", "elections", "errors", "start_s", "leaders_per_store", "verified",
	} {
		if _, ok := fields[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	latency, _ := fields["latency_us"].(map[string]any)
	for _, name := range []string{"p50", "p99", "p999", "max"} {
		if _, ok := latency[name].(float64); !ok {
			t.Errorf("latency_us.%s is missing", name)
		}
	}
	if fields["verified"] != true {
		t.Errorf("verified is %v", fields["verified"])
	}
	if seed := fields["config"].(map[string]any)["seed"]; seed != 5.0 {
		t.Errorf("config.seed is %v", seed)
	}
}

func TestLatencyQuantiles(t *testing.T) {
	h := newHistogram()
	for i := int64(1); i <= 1000; i++ {
		if err := h.RecordValue(i * int64(time.Microsecond)); err != nil {
			t.Fatal(err)
		}
	}
	l := newLatency(h)
	for _, q := range []struct{ got, want float64 }{{l.P50, 500}, {l.P99, 990}, {l.P999, 999}, {l.Max, 1000}, {l.Mean, 500.5}} {
		if q.got < q.want*0.998 || q.got > q.want*1.003 {
			t.Errorf("got %v, want %v", q.got, q.want)
		}
	}
	if (newLatency(newHistogram()) != Latency{}) {
		t.Error("an empty histogram has latencies")
	}
}

func TestReportErrors(t *testing.T) {
	r := testReport()
	totals := newTotals()
	totals.errors[failBusy], totals.errors[failNotLeader] = 2, 3
	r.setErrors(totals, [failures]error{failBusy: engine.ErrBusy, failNotLeader: &engine.NotLeaderError{Group: 9}})
	if r.Errors != 5 || r.ErrorsByKind["busy"] != 2 || r.ErrorsByKind["not_leader"] != 3 {
		t.Errorf("%d errors, %v", r.Errors, r.ErrorsByKind)
	}
	if text := r.errorText(); !strings.Contains(text, "3 not_leader (group 9: not leader") || !strings.Contains(text, "2 busy (busy)") {
		t.Error(text)
	}
}

// The explanation names what limits, and what to try.
func TestExplain(t *testing.T) {
	const bytesLimit = "Bytes to the disk are the limit"
	for _, tc := range []struct {
		name   string
		change func(*Report)
		want   []string
	}{
		{"waiting", func(*Report) {}, []string{"500 writes a second over 256 groups", "Neither processors (25 % busy) nor disk", "--inflight 16384"}},
		{"waiting, sync", func(r *Report) { r.Config.Mode = ModeSync }, []string{"--clients 256"}},
		{"processor", func(r *Report) { r.CPUCores, r.WritesPerSync = 1.9, 500 }, []string{"The processors are the limit (95 % of 2 cores"}},
		{"processor in syncs", func(r *Report) { r.CPUCores, r.WritesPerSync = 1.9, 5 }, []string{"only 5.0 entries share one", "--inflight 16384"}},
		{"processor, no syncs", func(r *Report) { r.CPUCores, r.WritesPerSync, r.Host.Sync = 1.9, 5, "off" }, []string{"95 % of 2 cores", "Syncs were off"}},
		{"disk", func(r *Report) { r.SyncShare = 0.9 }, []string{"The disk is the limit", "90 % of the time", "--inflight 16384"}},
		{"disk, 250 KiB a sync", func(r *Report) { r.SyncShare, r.LogBytesPerOp = 0.9, 250*1024*30/500.0 }, []string{"250.0 KiB at a time", "--inflight 16384"}},
		{"disk, 256 KiB a sync", func(r *Report) { r.SyncShare, r.LogBytesPerOp = 0.9, 256*1024*30/500.0 }, []string{"256.0 KiB at a time", bytesLimit, "(7.5 MiB a second to all logs together)"}},
		{"disk, five times slower", func(r *Report) { r.SyncShare, r.SyncLatency.Mean = 0.9, 500 }, []string{"--inflight 16384"}},
		{"slow disk", func(r *Report) { r.SyncShare, r.SyncLatency.Mean = 0.9, 5000 }, []string{"5 ms on average here and 100 µs alone", bytesLimit}},
		{"processor, large syncs", func(r *Report) { r.CPUCores, r.WritesPerSync, r.LogBytesPerOp = 1.9, 5, 1<<20 }, []string{"The processors are the limit (95 % of 2 cores"}},
		{"memory", func(r *Report) { r.Host.Sync = "memory" }, []string{"file system in memory", "--dir"}},
		{"open loop, kept", func(r *Report) { r.Config.Rate = 500 }, []string{"The intended rate of 500 ops/s was kept", "--rate"}},
		{"open loop, not kept", func(r *Report) { r.Config.Rate, r.Backlog = 600, 77 }, []string{"was not kept", "77 were due"}},
		{"busy machine", func(r *Report) { r.OtherCPUCores = 0.7 }, []string{"took 0.7 cores meanwhile"}},
		{"elections", func(r *Report) { r.Elections = 3 }, []string{"3 elections under load"}},
		{"errors", func(r *Report) { r.Errors = 4 }, []string{"4 operations failed"}},
		{"reads", func(r *Report) { r.Config.Workload, r.Reads, r.Writes = WorkloadRead, 1000, 0 }, []string{"linearizable reads", "--clients 256 for the reads"}},
		{"processor, one store", func(r *Report) {
			r.Config.Stores, r.Config.Replicas, r.CPUCores, r.WritesPerSync = 1, 1, 1.9, 500
		}, []string{"Larger machines give more."}},
		{"one replica", func(r *Report) { r.Config.Stores, r.Config.Replicas = 1, 1 }, []string{"1 store in one process", "its group's only replica", "nothing was replicated"}},
		{"nothing", func(r *Report) { r.Ops, r.Partial = 0, true }, []string{"Nothing was answered", "interrupted"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := testReport()
			tc.change(r)
			text := strings.Join(r.Explain(), " ")
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in %q", want, text)
				}
			}
			if strings.Contains(text, bytesLimit) && strings.Contains(text, "try --") {
				t.Errorf("more in flight is both useless and advised: %q", text)
			}
			if limited := slices.Contains(tc.want, bytesLimit); limited != strings.Contains(text, bytesLimit) {
				t.Errorf("bytes are said to limit: %v, want %v", !limited, limited)
			}
		})
	}
}

func TestReportText(t *testing.T) {
	r := testReport()
	no := false
	r.Verified, r.TotalDifferences, r.KeptDir = &no, 12, "/kept"
	r.Differences = []Difference{{Kind: DifferenceLost, Group: 3, Store: 2, Count: 4, Sequence: 17}}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"500 ops/s", "NO: 12 differences", "group 3: store 2 lost 4 acknowledged writes, the first with sequence number 17",
		"and 11 more", "/kept", "86 85 85", "seed 5", "p99.9 3 ms"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if strings.HasPrefix(line, "Each") && len(line) > 100 {
			t.Errorf("not wrapped: %s", line)
		}
	}
}

func TestTexts(t *testing.T) {
	for _, tc := range [][2]string{
		{groupDigits(0), "0"}, {groupDigits(999), "999"}, {groupDigits(1000), "1,000"}, {groupDigits(1234567), "1,234,567"},
		{rateText(0.5), "0.50"}, {rateText(12.34), "12.3"}, {rateText(1234.5), "1,235"},
		{durationText(1500), "1.5 µs"}, {durationText(25 * time.Millisecond), "25 ms"}, {durationText(3 * time.Second), "3 s"},
		{bytesText(1023), "1023 B"}, {bytesText(1536), "1.5 KiB"}, {bytesText(3 << 30), "3.0 GiB"},
		{wrap("a bb ccc dddd", 6), "a bb\nccc\ndddd\n"},
		{joinInts([]int{1, 2}), "1 2"}, {plural(1, "store"), "1 store"}, {plural(0, "store"), "0 stores"},
	} {
		if tc[0] != tc[1] {
			t.Errorf("got %q, want %q", tc[0], tc[1])
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{fmt.Errorf("x: %w", &VerifyError{Differences: make([]Difference, 1), Total: 1}), 1},
		{errors.Join(ErrInterrupted, &VerifyError{Differences: make([]Difference, 2), Total: 2}), 1},
		{&engine.ConfigError{}, 2},
		{ErrInterrupted, 3},
		{errors.New("x"), 3},
	} {
		if got := ExitCode(tc.err); got != tc.want {
			t.Errorf("%v: got %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestDisplay(t *testing.T) {
	now := time.Unix(0, 0)
	show := func(terminal bool) string {
		var b strings.Builder
		d := NewDisplay(&b, terminal)
		d.now = func() time.Time { return now }
		step := func(after time.Duration, u Update) { now = now.Add(after); d.Update(u) }
		step(0, Update{Phase: PhaseNote, Text: "hello"})
		step(time.Millisecond, Update{Phase: PhaseStart, What: "groups", Done: 1, Total: 3})
		step(time.Millisecond, Update{Phase: PhaseStart, What: "groups", Done: 2, Total: 3}) // too soon
		step(time.Millisecond, Update{Phase: PhaseStart, What: "groups", Done: 3, Total: 3}) // the end is shown
		step(time.Millisecond, Update{Phase: PhaseStart, What: "groups", Done: 3, Total: 3}) // once
		step(time.Millisecond, Update{Phase: PhaseMeasure, Elapsed: time.Second, Of: 2 * time.Second, Rate: 1000, P50: time.Millisecond, P99: time.Second, Errors: 2})
		step(time.Second, Update{Phase: PhaseMeasure, Elapsed: 2 * time.Second, Of: 2 * time.Second, Rate: 2000})
		d.Close()
		return b.String()
	}
	plain := `hello
start    1 of 3 groups
start    3 of 3 groups
measure   1.0 s of 2s   1,000 ops/s   p50 1 ms   p99 1 s   2 errors
measure   2.0 s of 2s   2,000 ops/s
`
	if got := show(false); got != plain {
		t.Errorf("plain:\n%s\nwant:\n%s", got, plain)
	}
	const clear = "\r\x1b[K"
	terminal := clear + "hello\n" +
		clear + "start    1 of 3 groups" + clear + "start    3 of 3 groups\n" +
		clear + "measure   1.0 s of 2s   1,000 ops/s   p50 1 ms   p99 1 s   2 errors" +
		clear + "measure   2.0 s of 2s   2,000 ops/s\n"
	if got := show(true); got != terminal {
		t.Errorf("terminal:\n%q\nwant:\n%q", got, terminal)
	}
}
