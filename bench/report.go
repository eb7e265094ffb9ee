package bench

import (
	"encoding/json"
	"io"
	"runtime"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Report is the result of [Run]. Figures per op are over the whole process, so
// over all stores, and over all operations of the window, reads and writes.
type Report struct {
	Config Config `json:"config"`
	Host   Host   `json:"host"`
	// Partial is true when the run was interrupted: the window is shorter than
	// asked for, or empty.
	Partial bool `json:"partial"`

	// WindowSecs is the measured window; Ops were answered in it.
	WindowSecs float64 `json:"window_s"`
	Ops        uint64  `json:"ops"`
	Writes     uint64  `json:"writes"`
	Reads      uint64  `json:"reads"`
	OpsPerS    float64 `json:"ops_per_s"`
	// Latency of all operations, from submission (open loop: from the intended
	// start) to the notification.
	Latency      Latency  `json:"latency_us"`
	WriteLatency *Latency `json:"write_latency_us,omitempty"` // when there are both
	ReadLatency  *Latency `json:"read_latency_us,omitempty"`
	// Backlog counts operations of an open loop that were due and not started
	// at the end of the window. Their latency is in no histogram.
	Backlog int64 `json:"backlog"`

	SyncsPerS float64 `json:"syncs_per_s"` // all stores together
	// SyncLatency is how long those took, SyncShare the share of the window that
	// one store's log spent in them, on average.
	SyncLatency Latency `json:"sync_us"`
	SyncShare   float64 `json:"sync_share"`
	// WritesPerSync is how many log entries one sync made durable: each write is
	// an entry on every replica.
	WritesPerSync  float64 `json:"writes_per_sync"`
	WireBytesPerOp float64 `json:"wire_bytes_per_op"`
	LogBytesPerOp  float64 `json:"log_bytes_per_op"`
	WireFramesPerS float64 `json:"wire_frames_per_s"`

	CPUNsPerOp float64 `json:"cpu_ns_per_op"`
	CPUCores   float64 `json:"cpu_cores"` // in use on average
	// OtherCPUCores is what everything else on the machine used meanwhile.
	OtherCPUCores   float64 `json:"other_cpu_cores"`
	AllocsPerOp     float64 `json:"allocs_per_op"`
	AllocBytesPerOp float64 `json:"alloc_bytes_per_op"`
	GCCycles        uint64  `json:"gc_cycles"`
	GCCPUShare      float64 `json:"gc_cpu_share"` // of the processor time used

	// HeapBaseBytes is the live heap before the stores were opened,
	// HeapStartBytes when every group had a leader, both after a collection.
	HeapBaseBytes  uint64 `json:"heap_base_bytes"`
	HeapStartBytes uint64 `json:"heap_start_bytes"`
	// HeapStartPerReplica is the difference by replica, the benchmark's state
	// machine of some 120 bytes included.
	HeapStartPerReplica float64 `json:"heap_start_bytes_per_replica"`
	HeapBytes           uint64  `json:"heap_bytes"` // in use at the end of the window
	RSSBytes            uint64  `json:"rss_bytes"`
	Goroutines          int     `json:"goroutines"`

	// Elections counts campaigns from the start of the load to the end of the
	// window.
	Elections int64 `json:"elections"`
	// StartElections counts those before.
	StartElections int64 `json:"start_elections"`
	// SnapshotsMade counts those that state machines made in the window,
	// SnapshotsInstalled those that replicas took from others because they were
	// behind.
	SnapshotsMade      int64 `json:"snapshots_made"`
	SnapshotsInstalled int64 `json:"snapshots_installed"`
	// RefusedInWindow counts those that a budget of the engine refused.
	RefusedInWindow uint64 `json:"refused_in_window,omitempty"`
	// Errors counts failed operations from the start of the load on. Those with
	// an unknown outcome are not counted in Ops.
	Errors       uint64            `json:"errors"`
	ErrorsByKind map[string]uint64 `json:"errors_by_kind,omitempty"`
	// ErrorExamples is the last error of each kind.
	ErrorExamples map[string]string `json:"error_examples,omitempty"`
	// Unfinished is true when operations were still in flight when the time to
	// wait for them was over.
	Unfinished bool `json:"unfinished,omitempty"`

	// StartSecs is the time from the first store's opening until every group had
	// a leader.
	StartSecs       float64 `json:"start_s"`
	LeadersPerStore []int   `json:"leaders_per_store"`

	// Verified is nil when the run was not verified.
	Verified *bool `json:"verified"`
	// VerifiedWrites counts the acknowledged writes that were looked for.
	VerifiedWrites uint64 `json:"verified_writes,omitempty"`
	// Differences are the first ones found, TotalDifferences counts all.
	Differences      []Difference `json:"differences,omitempty"`
	TotalDifferences int          `json:"total_differences,omitempty"`
	// KeptDir is where the stores' directories were left.
	KeptDir string `json:"kept_dir,omitempty"`
}

// Latency in microseconds, with three significant digits. Max is the largest
// value rounded up to them.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

func newLatency(h *hdr.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	us := func(ns float64) float64 { return float64(int64(ns/100+0.5)) / 10 }
	return Latency{
		P50:  us(float64(h.ValueAtQuantile(50))),
		P99:  us(float64(h.ValueAtQuantile(99))),
		P999: us(float64(h.ValueAtQuantile(99.9))),
		Max:  us(float64(h.Max())),
		Mean: us(h.Mean()),
	}
}

// setLoad fills in what the recorders counted.
func (r *Report) setLoad(t *totals, examples [failures]error) {
	r.Writes, r.Reads = t.ops[opWrite], t.ops[opRead]
	r.Ops = r.Writes + r.Reads
	r.RefusedInWindow = t.refused
	if r.Writes > 0 && r.Reads > 0 {
		write, read := newLatency(t.latency[opWrite]), newLatency(t.latency[opRead])
		r.WriteLatency, r.ReadLatency = &write, &read
	}
	r.Latency = newLatency(t.all())
	r.setErrors(t, examples)
}

// setErrors fills in the errors, which go on counting after the window.
func (r *Report) setErrors(t *totals, examples [failures]error) {
	r.Errors = t.errorCount()
	if r.Errors == 0 {
		return
	}
	r.ErrorsByKind = make(map[string]uint64)
	r.ErrorExamples = make(map[string]string)
	for kind, n := range t.errors {
		if n > 0 {
			r.ErrorsByKind[failureNames[kind]] = n
		}
		if examples[kind] != nil {
			r.ErrorExamples[failureNames[kind]] = examples[kind].Error()
		}
	}
}

// setUsage fills in what the window cost. It needs the counts of setLoad.
func (r *Report) setUsage(u usage) {
	r.WindowSecs = u.seconds
	r.GCCycles = u.gcCycles
	r.OpsPerS = perUnit(float64(r.Ops), u.seconds)
	r.SyncsPerS = perUnit(float64(u.syncs), u.seconds)
	r.WireFramesPerS = perUnit(float64(u.wireFrames), u.seconds)
	r.WritesPerSync = perUnit(float64(r.Writes)*float64(r.Config.Replicas), float64(u.syncs))
	ops := float64(r.Ops)
	r.WireBytesPerOp = perUnit(float64(u.wireBytes), ops)
	r.LogBytesPerOp = perUnit(float64(u.logBytes), ops)
	r.CPUNsPerOp = perUnit(float64(u.cpu), ops)
	r.CPUCores = perUnit(u.cpu.Seconds(), u.seconds)
	r.OtherCPUCores = max(0, perUnit((u.hostCPU-u.cpu).Seconds(), u.seconds))
	r.AllocsPerOp = perUnit(float64(u.allocs), ops)
	r.AllocBytesPerOp = perUnit(float64(u.allocBytes), ops)
	r.GCCPUShare = perUnit(u.gcCPUSeconds, u.cpu.Seconds())
	r.SnapshotsMade, r.SnapshotsInstalled = u.made, u.installed
}

// setSyncs fills in what the syncs of the window took. It needs WindowSecs.
func (r *Report) setSyncs(t *syncTimer) {
	latency, total := t.result()
	r.SyncLatency = latency
	// Files that are made in the background are synced beside the log.
	r.SyncShare = min(1, perUnit(total.Seconds(), r.WindowSecs*float64(r.Config.Stores)))
}

// perUnit is a quotient that is 0, and not NaN, of nothing: JSON has no NaN.
func perUnit(sum, units float64) float64 {
	if units == 0 {
		return 0
	}
	return sum / units
}

// setMemory fills in what the process holds at the end of the window.
func (r *Report) setMemory() {
	r.HeapBytes = heapInUse()
	r.RSSBytes = residentBytes()
	r.Goroutines = runtime.NumGoroutine()
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// liveHeap collects garbage and returns what is left. The second collection
// takes what finalizers of the first let go.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	return heapInUse()
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error { return writeJSON(w, r) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// p50 returns the median as a duration.
func (l Latency) p50() time.Duration { return time.Duration(l.P50 * 1e3) }
