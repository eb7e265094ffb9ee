package bench

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multiraft/engine"
)

// quick is a run of a fraction of a second. Syncs are off because a slow disk
// would make it slow; that acknowledged means synced is tested in the engine.
func quick(t *testing.T) Config {
	return Config{
		Groups: 6, Inflight: 64, Clients: 4, Batch: 16, Duration: 150 * time.Millisecond, Warmup: NoWarmup,
		NoSync: true, SegmentBytes: 4 << 20, Verify: true, Dir: t.TempDir(), Seed: 11,
	}
}

func TestRun(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
	}{
		{"async", func(*Config) {}},
		{"sync", func(c *Config) { c.Mode = ModeSync }},
		{"batch", func(c *Config) { c.Mode = ModeBatch }},
		{"async mixed", func(c *Config) { c.Workload, c.ReadRatio = WorkloadMixed, 0.5 }},
		{"sync mixed", func(c *Config) { c.Mode, c.Workload, c.ReadRatio = ModeSync, WorkloadMixed, 0.5 }},
		{"sync read", func(c *Config) { c.Mode, c.Workload = ModeSync, WorkloadRead }},
		{"async open loop", func(c *Config) { c.Rate = 2000 }},
		{"sync open loop", func(c *Config) { c.Mode, c.Rate = ModeSync, 2000 }},
		{"batch open loop", func(c *Config) { c.Mode, c.Rate = ModeBatch, 5000 }},
		{"in memory", func(c *Config) { c.Transport = TransportMemory }},
		{"few of many stores", func(c *Config) { c.Stores, c.Replicas, c.Active = 4, 2, 0.5 }},
		{"snapshots", func(c *Config) { c.Snapshots, c.Duration = 20, 500*time.Millisecond }},
		{"one store", func(c *Config) { c.Stores = 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := quick(t)
			tc.change(&cfg)
			report, err := Run(context.Background(), cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			cfg = report.Config
			if report.Verified == nil || !*report.Verified {
				t.Error("not verified")
			}
			if (report.Writes > 0) != (cfg.Workload != WorkloadRead) || (report.Reads > 0) != cfg.reads() || report.Ops != report.Reads+report.Writes {
				t.Errorf("%d ops, %d writes, %d reads", report.Ops, report.Writes, report.Reads)
			}
			if report.VerifiedWrites < report.Writes {
				t.Errorf("%d writes in the window, %d verified", report.Writes, report.VerifiedWrites)
			}
			if report.Latency.P50 <= 0 || report.Latency.P50 > report.Latency.Max {
				t.Errorf("latency %+v", report.Latency)
			}
			leaders := 0
			for _, n := range report.LeadersPerStore {
				leaders += n
			}
			if leaders != cfg.Groups || len(report.LeadersPerStore) != cfg.Stores {
				t.Errorf("leaders per store: %v", report.LeadersPerStore)
			}
			if report.Partial || report.Unfinished || report.StartSecs <= 0 || report.HeapStartBytes == 0 || report.WindowSecs < cfg.Duration.Seconds() {
				t.Errorf("%+v", report)
			}
			if cfg.Rate > 0 && report.OpsPerS > 3*cfg.Rate {
				t.Errorf("%v ops/s at a rate of %v", report.OpsPerS, cfg.Rate)
			}
			if (report.SnapshotsMade > 0) != (cfg.Snapshots > 0) {
				t.Errorf("%d snapshots made", report.SnapshotsMade)
			}
			if left, err := filepath.Glob(filepath.Join(cfg.Dir, "*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if _, err := json.Marshal(report); err != nil {
				t.Error(err)
			}
		})
	}
}

// An interrupt ends the load, and what was measured is reported and verified.
func TestRunInterrupted(t *testing.T) {
	cfg := quick(t)
	cfg.Duration = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	report, err := Run(ctx, cfg, func(u Update) {
		if u.Phase == PhaseMeasure {
			cancel()
		}
	})
	if !errors.Is(err, ErrInterrupted) || ExitCode(err) != ExitOther {
		t.Fatal(err)
	}
	if report == nil || !report.Partial || report.Ops == 0 || report.Verified == nil || !*report.Verified {
		t.Errorf("%+v", report)
	}
}

func TestRunInterruptedBeforeLoad(t *testing.T) {
	cfg := quick(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	report, err := Run(ctx, cfg, nil)
	if report != nil || !errors.Is(err, ErrInterrupted) {
		t.Errorf("%v, %v", report, err)
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Stores that are there already are neither used nor removed.
func TestRunRefusesUsedDirectory(t *testing.T) {
	cfg := quick(t)
	if err := os.Mkdir(filepath.Join(cfg.Dir, "store-2"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Run(context.Background(), cfg, nil)
	var fault *engine.ConfigError
	if !errors.As(err, &fault) || fault.Field != "Dir" || ExitCode(err) != ExitUsage {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "store-2")); err != nil {
		t.Error(err)
	}
}

func TestRunKeeps(t *testing.T) {
	cfg := quick(t)
	cfg.Keep, cfg.Stores, cfg.Groups = true, 1, 1
	report, err := Run(context.Background(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(report.KeptDir, "store-1")); err != nil {
		t.Error(err)
	}
}

// A write that was counted as acknowledged and is nowhere is found in a run of
// real stores, too, and so is a read that missed one.
func TestRunFindsPlantedLoss(t *testing.T) {
	cfg := quick(t).WithDefaults()
	progress := func(Update) {}
	c, err := openCluster(context.Background(), &cfg, cfg.Dir, progress)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.waitLeaders(context.Background(), progress); err != nil {
		t.Fatal(err)
	}
	l := newLoad(&cfg, c)
	l.start(context.Background())
	for l.sequences[3].Load() < 100 {
		if !l.pause(time.Millisecond) {
			t.Fatal("stopped")
		}
	}
	if !l.stop(cfg.SettleTimeout) {
		t.Fatal("operations are left")
	}
	r := &runner{cfg: cfg, cluster: c, progress: progress, report: &Report{}}
	if err := r.verify(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	l.recorders[0].acked[3].set(1_000_000)
	l.recorders[1].staleRead(Difference{Kind: DifferenceStale, Group: 1, Store: 2, Count: 1})
	err = r.verify(context.Background(), l)
	var verify *VerifyError
	if !errors.As(err, &verify) || verify.Total != 4 {
		t.Fatalf("got %v", err)
	}
	if d := verify.Differences[0]; d.Kind != DifferenceStale {
		t.Errorf("first difference %v", d)
	}
	for i, d := range verify.Differences[1:] {
		if d.Kind != DifferenceLost || d.Group != groupID(3) || d.Sequence != 1_000_000 || d.Count != 1 || int(d.Store) != i+1 {
			t.Errorf("difference %v", d)
		}
	}
	if *r.report.Verified {
		t.Error("verified")
	}
}

// Replicas that never catch up are a finding, told with how far each is.
func TestSettleGivesUp(t *testing.T) {
	cfg := quick(t).WithDefaults()
	cfg.Groups, cfg.SettleTimeout = 1, 1
	progress := func(Update) {}
	c, err := openCluster(context.Background(), &cfg, cfg.Dir, progress)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.waitLeaders(context.Background(), progress); err != nil {
		t.Fatal(err)
	}
	if err := c.stores[2].StopGroup(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	var found findings
	if err := c.settle(context.Background(), progress, &found); err != nil {
		t.Fatal(err)
	}
	if found.total != 1 || found.first[0].Kind != DifferenceBehind || !strings.Contains(found.first[0].Detail, "store 3") {
		t.Errorf("found %+v", found)
	}
}

func TestStartTimeout(t *testing.T) {
	cfg := quick(t)
	cfg.StartTimeout = 1
	report, err := Run(context.Background(), cfg, nil)
	var start *StartError
	if !errors.As(err, &start) || start.Groups != cfg.Groups || report != nil {
		t.Errorf("%v, %v", report, err)
	}
}

func TestScratchInWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	cfg := Config{}.WithDefaults()
	s, err := newScratch(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(storeDir(s.dir, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob("*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDescribeHost(t *testing.T) {
	h, err := describeHost(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	if h.Cores < 1 || h.Go == "" || h.SyncMicros <= 0 || h.Sync != "off" || !filepath.IsAbs(h.Dir) {
		t.Errorf("%+v", h)
	}
	if _, err := describeHost(filepath.Join(t.TempDir(), "missing"), false); err == nil {
		t.Error("a directory that is not there was measured")
	}
}
