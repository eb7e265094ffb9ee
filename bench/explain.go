package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText writes the report for people: a table, what it means, and what to
// try next.
func (r *Report) WriteText(out io.Writer) error {
	var b strings.Builder
	if r.Partial {
		b.WriteString("Interrupted: what follows is of the time until then.\n\n")
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range r.table() {
		_, _ = fmt.Fprintf(t, "%s\t%s\n", row[0], row[1]) // a strings.Builder takes every write
	}
	_ = t.Flush() // as above
	for _, d := range r.Differences {
		fmt.Fprintf(&b, "\n  %v", d)
	}
	if more := r.TotalDifferences - len(r.Differences); more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	if len(r.Differences) > 0 {
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, paragraph := range r.Explain() {
		b.WriteString(wrap(paragraph, 90) + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *Report) table() [][2]string {
	c, h := &r.Config, &r.Host
	rows := [][2]string{
		{"machine", fmt.Sprintf("%s, %d cores, %s, kernel %s, %s, GOMAXPROCS %d", orUnknown(h.CPU), h.Cores, bytesText(h.MemoryBytes), orUnknown(h.Kernel), h.Go, h.GOMAXPROCS)},
		{"disk", fmt.Sprintf("%s on %s, syncs are %s, one alone takes %.0f µs", h.Dir, orUnknown(h.FileSystem), syncText(h.Sync), h.SyncMicros)},
		{"setting", r.setting()},
		{"start", fmt.Sprintf("%.2f s until all %d groups had a leader, then on stores %s", r.StartSecs, c.Groups, joinInts(r.LeadersPerStore))},
		{"", ""},
		{"throughput", fmt.Sprintf("%s ops/s (%s in %.1f s%s)", rateText(r.OpsPerS), groupDigits(r.Ops), r.WindowSecs, r.mixText())},
		{"latency", latencyText(r.Latency)},
	}
	if r.ReadLatency != nil {
		rows = append(rows,
			[2]string{"  of writes", latencyText(*r.WriteLatency)},
			[2]string{"  of reads", latencyText(*r.ReadLatency)})
	}
	rows = append(rows, [][2]string{
		{"log", fmt.Sprintf("%s syncs/s, %.1f entries each, %.0f B per op; a sync took p50 %s, p99 %s; %.0f %% of the time was in one", rateText(r.SyncsPerS), r.WritesPerSync, r.LogBytesPerOp,
			durationText(time.Duration(r.SyncLatency.P50*1e3)), durationText(time.Duration(r.SyncLatency.P99*1e3)), 100*r.SyncShare)},
		{"wire", fmt.Sprintf("%s frames/s, %.0f B per op", rateText(r.WireFramesPerS), r.WireBytesPerOp)},
		{"processor", fmt.Sprintf("%.0f ns per op, %.2f cores in use (others on this machine %.2f), %.1f %% of it for the garbage collector", r.CPUNsPerOp, r.CPUCores, r.OtherCPUCores, 100*r.GCCPUShare)},
		{"allocations", fmt.Sprintf("%.3f per op, %.1f B per op", r.AllocsPerOp, r.AllocBytesPerOp)},
		{"memory", fmt.Sprintf("%s heap at the start (%.0f B per replica), %s at the end, %s resident, %d goroutines", bytesText(r.HeapStartBytes), r.HeapStartPerReplica, bytesText(r.HeapBytes), bytesText(r.RSSBytes), r.Goroutines)},
		{"elections", fmt.Sprintf("%d since the load began", r.Elections)},
		{"errors", r.errorText()},
	}...)
	if c.Snapshots > 0 {
		rows = append(rows, [2]string{"snapshots", fmt.Sprintf("%s made, after every %s writes of a group; %d taken from other replicas",
			groupDigits(uint64(r.SnapshotsMade)), groupDigits(c.Snapshots), r.SnapshotsInstalled)})
	}
	if c.Rate > 0 {
		rows = append(rows, [2]string{"backlog", fmt.Sprintf("%d operations were due and not started", r.Backlog)})
	}
	switch {
	case r.Verified == nil:
		rows = append(rows, [2]string{"verified", "not asked for"})
	case *r.Verified:
		rows = append(rows, [2]string{"verified", fmt.Sprintf("yes: %s acknowledged writes are on every replica, and replicas agree", groupDigits(r.VerifiedWrites))})
	default:
		rows = append(rows, [2]string{"verified", fmt.Sprintf("NO: %d differences, see below", r.TotalDifferences)})
	}
	if r.KeptDir != "" {
		rows = append(rows, [2]string{"kept", r.KeptDir})
	}
	return rows
}

func (r *Report) setting() string {
	c := &r.Config
	text := fmt.Sprintf("%s over %s, %s", plural(c.Stores, "store"), transportText(c.Transport), plural(c.Groups, "group"))
	if active := c.activeGroups(); active < c.Groups {
		text += fmt.Sprintf(" (%d under load)", active)
	}
	text += fmt.Sprintf(" of %s, %d B, %s %s", plural(c.Replicas, "replica"), c.Payload, c.Mode, c.Workload)
	switch c.Mode {
	case ModeSync:
		text += fmt.Sprintf(", %d clients per store", c.Clients)
	case ModeBatch:
		text += fmt.Sprintf(", %d in flight per store in batches of %d", c.Inflight, c.Batch)
	case ModeAsync:
		text += fmt.Sprintf(", %d in flight per store", c.Inflight)
		if c.reads() {
			text += fmt.Sprintf(", %d readers", c.Clients)
		}
	}
	if c.Rate > 0 {
		text += fmt.Sprintf(", %s ops/s intended", rateText(c.Rate))
	}
	return text + fmt.Sprintf(", seed %d", c.Seed)
}

func (r *Report) mixText() string {
	if r.Reads == 0 || r.Writes == 0 {
		return ""
	}
	return fmt.Sprintf(", %.0f %% reads", 100*float64(r.Reads)/float64(r.Ops))
}

func (r *Report) errorText() string {
	if r.Errors == 0 {
		return "none"
	}
	var parts []string
	for _, name := range failureNames {
		if n := r.ErrorsByKind[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s)", n, name, r.ErrorExamples[name]))
		}
	}
	return strings.Join(parts, "; ")
}

// Explain says in plain words what limits the result and what to try next. It
// judges from the figures alone, by these rules:
//
//   - processors nearly all in use, by this process: the processor limits;
//   - else the stores sync back to back: the disk limits, by its bytes when
//     syncs are large or take far longer than a small one, else by their number;
//   - else, in a closed loop, operations wait for answers: latency limits, and
//     by Little's law more in flight gives more.
func (r *Report) Explain() []string {
	if r.Ops == 0 {
		return []string{"Nothing was answered in the measured window" + r.nothingBecause()}
	}
	text := []string{r.summary(), r.limit()}
	if caveat := r.caveats(); caveat != "" {
		text = append(text, caveat)
	}
	return text
}

func (r *Report) nothingBecause() string {
	switch {
	case r.Errors > 0:
		return "; the errors above say why."
	case r.Partial:
		return ": it was interrupted before."
	}
	return "."
}

func (r *Report) summary() string {
	c := &r.Config
	what := "writes"
	durable := fmt.Sprintf("Each write was in the log of a majority of its %d replicas and applied before it counted.", c.Replicas)
	if c.Replicas == 1 {
		durable = "Each write was in the log of its group's only replica and applied before it counted; nothing was replicated."
	}
	switch c.Workload {
	case WorkloadRead:
		what, durable = "linearizable reads", "Each read saw everything acknowledged before it began."
	case WorkloadMixed:
		what = "operations"
	}
	return fmt.Sprintf("%s in one process answered %s %s a second over %s; half of them took less than %s, one in a hundred more than %s. %s",
		plural(c.Stores, "store"), rateText(r.OpsPerS), what, plural(c.activeGroups(), "group"), durationText(r.Latency.p50()), durationText(time.Duration(r.Latency.P99*1e3)), durable)
}

// The rules of Explain.
const (
	busyProcessors = 0.85      // share of the usable cores
	busyDisk       = 0.7       // share of the time one log spends in syncs
	othersBusy     = 0.2       // cores
	slowDisk       = 5         // times what a small sync took before the run
	fewPerSync     = 64        // entries; a sync costs the processor as much as some hundred writes
	largeSync      = 256 << 10 // bytes from which on a sync takes longer the larger it is
)

// bytesPerSync is how much one sync of a log made durable.
func (r *Report) bytesPerSync() float64 {
	return perUnit(r.LogBytesPerOp*r.OpsPerS, r.SyncsPerS)
}

func (r *Report) limit() string {
	c, h := &r.Config, &r.Host
	cores := float64(min(h.Cores, h.GOMAXPROCS))
	// A thread that sleeps in a sync does not use its processor, so this is a
	// share of processors and not of threads.
	used := r.CPUCores / max(cores, 1)
	if c.Rate > 0 {
		return r.openLoop(used)
	}
	switch {
	case used >= busyProcessors && r.Writes > 0 && r.WritesPerSync < fewPerSync && r.bytesPerSync() < largeSync && h.Sync != "off":
		return fmt.Sprintf("The processors are the limit (%.0f %% busy), and syncs are a good part of that: only %.1f entries share one. %s",
			100*used, r.WritesPerSync, r.advice("More in flight per store lets more writes share a sync"))
	case used >= busyProcessors:
		return fmt.Sprintf("The processors are the limit (%.0f %% of %.0f cores busy, %.0f ns for each operation on all stores together). More in flight would mostly add latency; less of it gives nearly the same throughput at lower latency. Larger machines%s give more.",
			100*used, cores, r.CPUNsPerOp, r.spreading("machines"))
	case r.SyncShare >= busyDisk:
		return r.disk()
	default:
		return fmt.Sprintf("Neither processors (%.0f %% busy) nor disk are used up: operations wait for each other. By Little's law throughput is what is in flight (%s) divided by latency. %s",
			100*used, groupDigits(uint64(r.inflight())), r.advice("More in flight gives more"))
	}
}

// disk explains a run in which the logs sync back to back. As long as syncs are
// small each costs the same, and sharing them is what helps; from some size on
// the disk is busy with bytes, which sharing does not make fewer.
func (r *Report) disk() string {
	h := &r.Host
	text := fmt.Sprintf("The disk is the limit: each store's log is in a sync for %.0f %% of the time, %.0f entries and %s at a time. ",
		100*r.SyncShare, r.WritesPerSync, bytesText(uint64(r.bytesPerSync())))
	slow := h.SyncMicros > 0 && r.SyncLatency.Mean > slowDisk*h.SyncMicros
	if slow {
		text += fmt.Sprintf("A sync took %s on average here and %s alone, before the run: large syncs and several at once take longer, and so do spells in which others use the disk; repeat the run to tell. ",
			durationText(time.Duration(r.SyncLatency.Mean*1e3)), durationText(time.Duration(h.SyncMicros*1e3)))
	}
	if slow || r.bytesPerSync() >= largeSync {
		return text + fmt.Sprintf("Bytes to the disk are the limit (%s a second to all logs together), and not how many syncs there are: more in flight only adds latency. Smaller writes give more, and so do faster disks%s.",
			bytesText(uint64(r.LogBytesPerOp*r.OpsPerS)), r.spreading("disks"))
	}
	return text + r.advice("Syncs of this size cost nearly the same, so more in flight gives more")
}

// spreading is what else helps against a limit of what all stores share, when
// there is more than one of them.
func (r *Report) spreading(shared string) string {
	text := ""
	if r.Config.Replicas > 1 {
		text += ", fewer replicas (--replicas)"
	}
	if r.Config.Stores > 1 {
		text += ", or stores on " + shared + " of their own"
	}
	return text
}

// advice is what to change for more throughput in this mode.
func (r *Report) advice(why string) string {
	c := &r.Config
	switch c.Mode {
	case ModeSync:
		return fmt.Sprintf("%s: try --clients %d, or --mode async, which needs no goroutine per operation.", why, 4*c.Clients)
	case ModeBatch:
		return fmt.Sprintf("%s: try --inflight %d.", why, 4*c.Inflight)
	}
	if c.Workload != WorkloadWrite {
		return fmt.Sprintf("%s: try --inflight %d, and --clients %d for the reads.", why, 4*c.Inflight, 4*c.Clients)
	}
	return fmt.Sprintf("%s: try --inflight %d.", why, 4*c.Inflight)
}

// inflight is how many operations are in flight over all stores in a closed loop.
func (r *Report) inflight() int {
	c := &r.Config
	if c.Mode == ModeSync {
		return c.Clients * c.Stores
	}
	return c.Inflight * c.Stores
}

// keptUp is the share of the intended rate from which on it counts as kept.
const keptUp = 0.99

func (r *Report) openLoop(used float64) string {
	if r.OpsPerS >= keptUp*r.Config.Rate {
		return fmt.Sprintf("The intended rate of %s ops/s was kept, with %.0f %% of the processors busy. Raise --rate until latency climbs to see how much room there is.",
			rateText(r.Config.Rate), 100*used)
	}
	return fmt.Sprintf("The intended rate of %s ops/s was not kept: operations queued (%s were due and not started), and their waiting is part of the latency above. Lower --rate to what is sustained, or see without --rate what the limit is.",
		rateText(r.Config.Rate), groupDigits(uint64(r.Backlog)))
}

// caveats are what makes the figures say less than they seem to.
func (r *Report) caveats() string {
	var list []string
	switch r.Host.Sync {
	case "off":
		list = append(list, "Syncs were off: a crash of the machine would have lost acknowledged writes, and the figures are not those of a durable log.")
	case "memory":
		list = append(list, "The stores lie on a file system in memory: syncs cost nothing and keep nothing. Name a directory on a disk with --dir.")
	}
	if r.OtherCPUCores >= othersBusy {
		list = append(list, fmt.Sprintf("Other processes, or other machines on the same host, took %.1f cores meanwhile, so the stores had less than this machine has: repeat the run when it is idle.", r.OtherCPUCores))
	}
	if r.Elections > 0 {
		list = append(list, fmt.Sprintf("There were %d elections under load: leaders were too busy, or the disk too slow, to be heard in time. Throughput and latency include their cost.", r.Elections))
	}
	if r.Errors > 0 {
		list = append(list, fmt.Sprintf("%s operations failed; they are not in the figures.", groupDigits(r.Errors)))
	}
	if r.Unfinished {
		list = append(list, "Some operations were still without an answer long after the load had ended.")
	}
	if r.Config.Transport == TransportMemory {
		list = append(list, "The stores handed frames over in memory; over a network each costs more.")
	}
	return strings.Join(list, " ")
}

func latencyText(l Latency) string {
	d := func(us float64) string { return durationText(time.Duration(us * 1e3)) }
	return fmt.Sprintf("p50 %s   p99 %s   p99.9 %s   max %s", d(l.P50), d(l.P99), d(l.P999), d(l.Max))
}

func transportText(t Transport) string {
	if t == TransportMemory {
		return "memory"
	}
	return "loopback TCP"
}

func syncText(s string) string {
	switch s {
	case "off":
		return "OFF"
	case "memory":
		return "NOT REAL (memory)"
	}
	return "real"
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// plural is a number with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func joinInts(list []int) string { return strings.Trim(fmt.Sprint(list), "[]") }

// wrap breaks a paragraph into lines of at most the given width.
func wrap(text string, width int) string {
	var b strings.Builder
	line := 0
	for i, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case line+1+n > width:
			b.WriteString("\n")
			line = 0
		default:
			b.WriteString(" ")
			line++
		}
		b.WriteString(word)
		line += n
	}
	return b.String() + "\n"
}
