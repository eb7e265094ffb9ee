package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"
)

// Run does one benchmark and returns its report.
//
// progress, unless nil, is told how far the run is; it may be called from any
// goroutine and must return quickly. When ctx ends under load the load stops,
// and the report of what was measured comes with [ErrInterrupted]. A failed
// verification returns the report and a [*VerifyError]. Faults of the
// configuration are [engine.ConfigError]s; nothing was done then.
//
// Run sets GOMAXPROCS and the garbage collector's target for its time when the
// configuration says so, and the figures are those of the whole process: do one
// run at a time, and nothing else beside it.
func Run(ctx context.Context, cfg Config, progress func(Update)) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Update) {}
	}
	if text := cfg.lowered(); text != "" {
		progress(Update{Phase: PhaseNote, Text: text})
	}
	cfg = cfg.WithDefaults()
	if cfg.Seed == 0 {
		// Short enough to be typed again.
		cfg.Seed = uint64(rand.Uint32()) + 1 //gosec:disable G404 -- which run it is, not a secret
	}
	defer tuneProcess(&cfg)()
	dir, err := newScratch(&cfg)
	if err != nil {
		return nil, err
	}
	r := &runner{cfg: cfg, dir: dir.dir, progress: progress, report: &Report{}}
	err = r.run(ctx)
	var verify *VerifyError
	if cfg.Keep || errors.As(err, &verify) {
		r.report.KeptDir = r.report.Host.Dir
	} else {
		err = errors.Join(err, dir.remove())
	}
	if !r.loaded {
		return nil, err
	}
	return r.report, err
}

// tuneProcess applies the settings that belong to the process and returns what
// undoes them.
func tuneProcess(cfg *Config) (restore func()) {
	var undo []func()
	if cfg.Procs > 0 {
		old := runtime.GOMAXPROCS(cfg.Procs)
		undo = append(undo, func() { runtime.GOMAXPROCS(old) })
	}
	if cfg.GCPercent > 0 {
		old := debug.SetGCPercent(cfg.GCPercent)
		undo = append(undo, func() { debug.SetGCPercent(old) })
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}

// runner is one run:
//
//	open stores ─▶ start groups ─▶ every group has a leader ─▶ heap_start
//	     ─▶ warm-up ─▶ window ─▶ wait for what is in flight ─▶ settle, verify ─▶ close
type runner struct {
	cfg      Config
	dir      string
	progress func(Update)
	report   *Report
	cluster  *cluster
	loaded   bool // the report has something to tell
}

func (r *runner) run(ctx context.Context) (err error) {
	rep := r.report
	rep.Config = r.cfg
	if rep.Host, err = describeHost(r.dir, r.cfg.NoSync); err != nil {
		return err
	}
	r.note("%s in %s (%s, one sync %.0f µs)", plural(r.cfg.Stores, "store"), rep.Host.Dir, orUnknown(rep.Host.FileSystem), rep.Host.SyncMicros)
	rep.HeapBaseBytes = liveHeap()
	began := time.Now()
	if r.cluster, err = openCluster(ctx, &r.cfg, r.dir, r.progress); err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, r.cluster.close()) }()
	if err := r.cluster.waitLeaders(ctx, r.progress); err != nil {
		return interrupted(ctx, err)
	}
	rep.StartSecs = time.Since(began).Seconds()
	rep.HeapStartBytes = liveHeap()
	rep.HeapStartPerReplica = max(0, float64(rep.HeapStartBytes)-float64(rep.HeapBaseBytes)) / float64(r.cfg.Groups*r.cfg.Replicas)
	rep.LeadersPerStore = r.cluster.leadersPerStore()

	l := newLoad(&r.cfg, r.cluster)
	err = r.load(ctx, l)
	rep.Unfinished = !l.stop(r.cfg.SettleTimeout)
	final := newTotals()
	final.merge(l.recorders)
	rep.setErrors(final, l.lastErrors())
	r.loaded = true
	if err != nil && !errors.Is(err, ErrInterrupted) {
		return err
	}
	if r.cfg.Verify {
		// An interrupted run is still verified; a second interrupt is the
		// command's to handle.
		err = errors.Join(err, r.verify(context.WithoutCancel(ctx), l))
	}
	return err
}

// interrupted names the reason when it is that ctx ended.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return err
}

func (r *runner) note(format string, args ...any) {
	r.progress(Update{Phase: PhaseNote, Text: fmt.Sprintf(format, args...)})
}

// load runs warm-up and window and fills in the report.
func (r *runner) load(ctx context.Context, l *load) error {
	rep := r.report
	sampler := newSampler(r.cluster)
	live := newTotals() // made before the window, as all buffers are
	before := sampler.take()
	rep.StartElections = before.elections
	l.start(ctx)
	err := r.wait(ctx, l, live, PhaseWarmup, max(r.cfg.Warmup, 0))
	if err != nil {
		rep.Partial = true
		return err
	}
	profile, err := startProfile(&r.cfg)
	if err != nil {
		return err
	}
	for _, rec := range l.recorders {
		rec.openWindow()
	}
	r.cluster.syncs.setOpen(true)
	from := sampler.take()
	err = r.wait(ctx, l, live, PhaseMeasure, r.cfg.Duration)
	for _, rec := range l.recorders {
		rec.closeWindow()
	}
	r.cluster.syncs.setOpen(false)
	to := sampler.take()
	rep.Partial = err != nil
	rep.Backlog = l.schedule.backlog(l.clock.now())
	err = errors.Join(err, profile.stop())
	rep.setMemory()
	rep.LeadersPerStore = r.cluster.leadersPerStore()
	live.merge(l.recorders)
	rep.setLoad(live, l.lastErrors())
	rep.setUsage(to.since(from))
	rep.setSyncs(r.cluster.syncs)
	rep.Elections = to.elections - before.elections
	return err
}

// progressInterval is how often the load is looked at while it runs. A look
// merges all histograms, some 100 µs each.
const progressInterval = 500 * time.Millisecond

// wait lets the load run for the given time and reports how it goes.
func (r *runner) wait(ctx context.Context, l *load, live *totals, phase Phase, d time.Duration) error {
	began := time.Now()
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	live.merge(l.recorders)
	last, lastAt := live.total, began
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return ErrInterrupted
		case <-end.C:
			return nil
		case now = <-tick.C:
		}
		if !l.alive() {
			return r.noneLeft(l)
		}
		live.merge(l.recorders)
		u := Update{
			Phase: phase, Elapsed: now.Sub(began), Of: d,
			Rate:   float64(live.total-last) / now.Sub(lastAt).Seconds(),
			Errors: live.errorCount(),
		}
		last, lastAt = live.total, now
		h := live.latency[opWrite]
		if r.cfg.Workload == WorkloadRead {
			h = live.latency[opRead]
		}
		if phase == PhaseMeasure && h.TotalCount() > 0 {
			u.P50, u.P99 = time.Duration(h.ValueAtQuantile(50)), time.Duration(h.ValueAtQuantile(99))
		}
		r.progress(u)
	}
}

// noneLeft says why no group can be loaded any more.
func (r *runner) noneLeft(l *load) error {
	for _, s := range r.cluster.stores {
		if err := s.Err(); err != nil {
			return &LoadError{Store: uint64(s.ID()), Err: err}
		}
	}
	return &LoadError{Err: l.lastErrors()[failStopped]}
}

// verify compares all replicas with each other and with what was acknowledged.
func (r *runner) verify(ctx context.Context, l *load) error {
	var found findings
	for _, d := range l.staleReads() {
		found.add(d)
	}
	if err := r.cluster.settle(ctx, r.progress, &found); err != nil {
		return err
	}
	active := r.cfg.activeGroups()
	for place := range r.cfg.Groups {
		var acked bitmap
		if place < active {
			acked = l.acked(place)
		}
		r.report.VerifiedWrites += uint64(acked.count())
		checkGroup(groupID(place), acked, r.cluster.states(place), &found)
		r.progress(Update{Phase: PhaseVerify, What: "groups compared", Done: place + 1, Total: r.cfg.Groups})
	}
	ok := found.total == 0
	r.report.Verified = &ok
	r.report.Differences, r.report.TotalDifferences = found.first, found.total
	return found.err()
}

// profile is the files of a window's profiles.
type profile struct {
	cpu       *os.File
	allocFile string
}

func startProfile(cfg *Config) (*profile, error) {
	p := &profile{allocFile: cfg.AllocProfile}
	if cfg.CPUProfile == "" {
		return p, nil
	}
	f, err := os.Create(cfg.CPUProfile)
	if err != nil {
		return nil, fmt.Errorf("processor profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("processor profile: %w", err), f.Close())
	}
	p.cpu = f
	return p, nil
}

// stop writes what startProfile began. The profile of allocations is of the
// whole run; the window is most of it.
func (p *profile) stop() (err error) {
	if p.cpu != nil {
		pprof.StopCPUProfile()
		err = p.cpu.Close()
	}
	if p.allocFile == "" {
		return err
	}
	f, createErr := os.Create(p.allocFile)
	if createErr != nil {
		return errors.Join(err, fmt.Errorf("allocation profile: %w", createErr))
	}
	return errors.Join(err, pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}
