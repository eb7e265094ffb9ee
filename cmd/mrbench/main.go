// Command mrbench measures a cluster of stores on this machine and tests that
// it keeps its promises. See docs/benchmarking.md, or run it with --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"multiraft/bench"
	"multiraft/engine"
	"multiraft/scheduler"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	go func() {
		<-ctx.Done()
		stop() // a second interrupt ends the process at once
	}()
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs the command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	usage := true // errors before a command begins are of usage
	begin := func(*cobra.Command, []string) { usage = false }
	root := newRoot(stdout, stderr)
	for _, command := range append(root.Commands(), root) {
		command.PreRun = begin
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return bench.ExitOK
	}
	if usage {
		say(stderr, "mrbench: %v\nmrbench --help shows commands and flags.\n", err)
		return bench.ExitUsage
	}
	say(stderr, "mrbench: %v\n", err)
	return bench.ExitCode(err)
}

// say tells people something.
func say(stderr io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(stderr, format, args...) // there is nobody else to tell
}

// warmupFlag is the one flag whose zero can be said in a configuration, as
// [bench.NoWarmup].
const warmupFlag = "warmup"

const snapshotsFlag = "snapshots"

// refuseZeros refuses a zero for a flag whose default is another value: in the
// configuration a zero selects that default, which is not what was typed. Each
// fault is an [*engine.ConfigError], as those of the configuration are.
func refuseZeros(f *pflag.FlagSet) error {
	var faults []error
	f.Visit(func(flag *pflag.Flag) {
		if flag.Name != warmupFlag && isZero(flag.Value.String()) && !isZero(flag.DefValue) {
			faults = append(faults, &engine.ConfigError{Field: "--" + flag.Name, Value: fmt.Sprintf("%q", flag.Value),
				Rule: "would select the default; leave the flag out for that"})
		}
	})
	return errors.Join(faults...)
}

// isZero says whether a flag's value, as the flag prints it, is the zero of its
// type: of numbers, of durations, or of texts.
func isZero(value string) bool {
	return value == "0" || value == "-0" || value == "0s" || value == ""
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "mrbench",
		Short: "measure many raft groups on this machine",
		Long: `mrbench runs stores of the multiraft engine in one process, with real logs and
TCP between them, puts load on their groups, and explains what came out.

Without a command it runs a benchmark of ten seconds with the defaults of
"mrbench run", in a scratch directory in the working directory that is removed
at the end. That directory should be on the disk that is to be measured.

Exit codes: 0 done and, if asked for, verified; 1 an acknowledged write was
lost or replicas differ; 2 a wrong flag or value; 3 anything else, an interrupt
among it.`,
		Example: `  mrbench
  mrbench run --groups 1000 --duration 10s --verify
  mrbench crash --rounds 10 --groups 200`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), bench.Config{}, "", stdout, stderr)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newRun(stdout, stderr), newOverload(stdout, stderr), newCrash(stdout, stderr), newCrashChild())
	return root
}

func newRun(stdout, stderr io.Writer) *cobra.Command {
	cfg := bench.Config{}.WithDefaults()
	var json string
	sync := true
	cmd := &cobra.Command{
		Use:   "run",
		Short: "run one benchmark",
		Long: `run opens stores, waits until every group has a leader, puts load on the groups,
and reports throughput, latency and what an operation cost.

Modes of writing: async keeps --inflight writes in flight per store from one
goroutine; sync runs --clients goroutines per store that each wait for their
write; batch keeps --inflight in flight per store in batches over many groups.
Reads are linearizable and done by --clients goroutines per store.

Without --rate the loop is closed: a new operation starts when one is answered.
With --rate it is open: operations start on a schedule, and latency counts from
the moment an operation was meant to start.`,
		Example: `  # what an application with 64 goroutines per store gets
  mrbench run --mode sync --clients 64

  # many groups, few of them busy, figures for a script
  mrbench run --groups 10000 --active 0.02 --json - | jq .ops_per_s

  # a long run whose logs stay short, verified through snapshots
  mrbench run --duration 1h --snapshots --verify

  # latency at a fixed load
  mrbench run --rate 100000 --duration 30s

  # nine reads to one write, and nothing acknowledged may be missing
  mrbench run --mode sync --workload mixed --read-ratio 0.9 --verify`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.NoSync = !sync
			if cmd.Flags().Changed(warmupFlag) && cfg.Warmup == 0 {
				cfg.Warmup = bench.NoWarmup
			}
			if err := errors.Join(refuseZeros(cmd.Flags()), cfg.Validate()); err != nil {
				return err
			}
			return run(cmd.Context(), cfg, json, stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	clusterFlags(f, &cfg)
	f.StringVar((*string)(&cfg.Mode), "mode", string(cfg.Mode), "how to write: async, sync or batch")
	f.IntVar(&cfg.Inflight, "inflight", cfg.Inflight, "operations in flight per store in modes async and batch")
	f.IntVar(&cfg.Clients, "clients", cfg.Clients, "goroutines per store in mode sync, and that read in mode async")
	f.IntVar(&cfg.Batch, "batch", cfg.Batch, "writes per batch in mode batch")
	f.StringVar((*string)(&cfg.Workload), "workload", string(cfg.Workload), "what to do: write, read or mixed")
	f.Float64Var(&cfg.ReadRatio, "read-ratio", cfg.ReadRatio, "share of reads in workload mixed")
	f.Float64Var(&cfg.Active, "active", cfg.Active, "share of the groups that get load")
	f.Float64Var(&cfg.Rate, "rate", cfg.Rate, "operations per second to start (open loop); 0 is a closed loop")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "measured time")
	f.DurationVar(&cfg.Warmup, warmupFlag, cfg.Warmup, "load before it, not measured")
	f.BoolVar(&sync, "sync", sync, "sync the log; false shows what syncs cost, and loses writes in a crash")
	f.BoolVar(&cfg.Verify, "verify", cfg.Verify, "check afterwards that every acknowledged write is on every replica")
	f.Uint64Var(&cfg.Snapshots, snapshotsFlag, cfg.Snapshots, fmt.Sprintf("have each group make a snapshot after so many writes, and compact its log; without a number %d", bench.DefaultSnapshots))
	f.Lookup(snapshotsFlag).NoOptDefVal = strconv.Itoa(bench.DefaultSnapshots)
	f.StringVar(&json, "json", "", "write the report as JSON to this file; - is standard output, and then nothing else goes there")
	f.IntVar(&cfg.Procs, "procs", cfg.Procs, "GOMAXPROCS; 0 leaves it")
	f.IntVar(&cfg.GCPercent, "gc-percent", cfg.GCPercent, "GOGC; 0 leaves it")
	f.StringVar(&cfg.CPUProfile, "cpu-profile", "", "write a processor profile of the measured time to this file")
	f.StringVar(&cfg.AllocProfile, "alloc-profile", "", "write a profile of allocations to this file")
	cfg = bench.Config{} // flags know their defaults by now; some depend on what is set
	return cmd
}

// clusterFlags are those of the stores, the same for all commands.
func clusterFlags(f *pflag.FlagSet, cfg *bench.Config) {
	f.IntVar(&cfg.Stores, "stores", cfg.Stores, "stores in this process")
	f.IntVar(&cfg.Groups, "groups", cfg.Groups, "raft groups")
	f.IntVar(&cfg.Replicas, "replicas", cfg.Replicas, "replicas of each group, at most one per store")
	f.IntVar(&cfg.Payload, "payload", cfg.Payload, "bytes per write")
	f.StringVar((*string)(&cfg.Transport), "transport", string(cfg.Transport), "between the stores: tcp (loopback) or mem (in the process)")
	f.StringVar(&cfg.Dir, "dir", cfg.Dir, "directory for the stores; default a scratch directory in the working directory")
	f.BoolVar(&cfg.Keep, "keep", cfg.Keep, "leave the stores' directories behind")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "seed of everything random; 0 picks one")
	f.Int64Var(&cfg.SegmentBytes, "segment-bytes", cfg.SegmentBytes, "size of a log segment; 0 leaves it to the engine")
	f.IntVar(&cfg.Workers, "workers", cfg.Workers, fmt.Sprintf("workers per store, at most %d; 0 leaves it to the engine", scheduler.MaxWorkers))
	f.IntVar(&cfg.Appliers, "appliers", cfg.Appliers, "appliers per store; 0 leaves it to the engine")
}

// reported does one piece of work that ends in a report, with progress for those who wait.
// A nil report is none.
func reported[R any, P interface {
	*R
	report
}](ctx context.Context, json string, stdout, stderr io.Writer, work func(context.Context, func(bench.Update)) (P, error)) error {
	out, err := openOutput(json, stdout, stderr)
	if err != nil {
		return err
	}
	display := bench.NewDisplay(stderr, isTerminal(stderr))
	result, err := work(ctx, display.Update)
	display.Close()
	if result == nil {
		return errors.Join(err, out.discard())
	}
	return errors.Join(err, out.write(result))
}

// run measures what a cluster gives.
func run(ctx context.Context, cfg bench.Config, json string, stdout, stderr io.Writer) error {
	return reported(ctx, json, stdout, stderr, func(ctx context.Context, update func(bench.Update)) (*bench.Report, error) {
		return bench.Run(ctx, cfg, update)
	})
}

func newOverload(stdout, stderr io.Writer) *cobra.Command {
	cfg := bench.OverloadConfig{}.WithDefaults()
	var json string
	cmd := &cobra.Command{
		Use:   "overload",
		Short: "offer several times what can be sustained, and see what is served",
		Long: `overload finds out what the stores sustain, with as many writes in flight as they
let in. Then it offers a multiple of that on a schedule, whether earlier writes
are done or not, and reports what was served, how long that took, and whether
anybody was elected, which would mean that heartbeats came too late. Writes that
the engine refuses are gone. What was acknowledged is verified.

When less than --min-ratio of the peak was served, or there was an election, the
exit code is 3.`,
		Example: `  mrbench overload
  mrbench overload --groups 4096 --payload 256 --json overload.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed(warmupFlag) && cfg.Warmup == 0 {
				cfg.Warmup = bench.NoWarmup
			}
			if err := errors.Join(refuseZeros(cmd.Flags()), cfg.Validate()); err != nil {
				return err
			}
			return reported(cmd.Context(), json, stdout, stderr, func(ctx context.Context, update func(bench.Update)) (*bench.OverloadReport, error) {
				return bench.Overload(ctx, cfg, update)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Float64Var(&cfg.Factor, "factor", cfg.Factor, "how many times the peak is offered")
	f.Float64Var(&cfg.MinRatio, "min-ratio", cfg.MinRatio, "share of the peak that must be served")
	f.Int64Var(&cfg.InflightBytes, "inflight-bytes", cfg.InflightBytes, "writes that the engine lets in per store, in bytes; what it lets in is what the last one waits for")
	clusterFlags(f, &cfg.Config)
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "measured time, of each of the two")
	f.DurationVar(&cfg.Warmup, warmupFlag, cfg.Warmup, "load before it, not measured")
	f.StringVar(&json, "json", "", "write the report as JSON to this file; - is standard output, and then nothing else goes there")
	cfg = bench.OverloadConfig{} // as in run
	return cmd
}

func newCrash(stdout, stderr io.Writer) *cobra.Command {
	cfg := bench.CrashConfig{}.WithDefaults()
	var json string
	cmd := &cobra.Command{
		Use:   "crash",
		Short: "kill stores under load and check that nothing acknowledged is lost",
		Long: `crash runs the stores in a child process under load, kills it with SIGKILL at a
random moment, starts it again over the same directories, and checks that every
acknowledged write is on every replica, that none was applied twice, and that
replicas agree. Then the load goes on, for as many rounds as asked for. In every
other round groups make snapshots, and the next process begins with them.

When something is lost the exit code is 1 and the directories are kept.`,
		Example: `  mrbench crash --rounds 10 --groups 200
  mrbench crash --rounds 100 --max-load 500ms --seed 7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Child = []string{self, crashChildCommand}
			if err := errors.Join(refuseZeros(cmd.Flags()), cfg.Validate()); err != nil {
				return err
			}
			return reported(cmd.Context(), json, stdout, stderr, func(ctx context.Context, update func(bench.Update)) (*bench.CrashReport, error) {
				return bench.Crash(ctx, cfg, update)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "times to kill")
	f.DurationVar(&cfg.MaxLoad, "max-load", cfg.MaxLoad, "longest time under load before a kill")
	clusterFlags(f, &cfg.Config)
	f.IntVar(&cfg.Inflight, "inflight", cfg.Inflight, "writes in flight per store")
	f.Uint64Var(&cfg.Snapshots, snapshotsFlag, cfg.Snapshots, "writes after which a group makes a snapshot, in every other round")
	f.StringVar(&json, "json", "", "write the report as JSON to this file; - is standard output, and then nothing else goes there")
	cfg = bench.CrashConfig{} // as in run
	return cmd
}

// crashChildCommand is how crash starts itself again.
const crashChildCommand = "crash-child"

func newCrashChild() *cobra.Command {
	return &cobra.Command{
		Use:    crashChildCommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			// An interrupt from the terminal is for the parent, which ends this.
			signal.Ignore(os.Interrupt)
			return bench.CrashChild(os.Stdin, os.NewFile(3, "acknowledgements"))
		},
	}
}

// report is what both commands end with.
type report interface {
	WriteJSON(io.Writer) error
	WriteText(io.Writer) error
}

// output is where a report goes: text to people, and JSON where asked for.
type output struct {
	text io.Writer
	json io.Writer // nil for none
	file *os.File  // that json is, unless it is standard output
	made bool      // the file was not there before
}

// openOutput opens the file for the JSON, so that one that cannot be written is
// told before the run and not after it. What the file holds stays until there is
// a report to take its place. When the JSON goes to standard output, people read
// standard error.
func openOutput(json string, stdout, stderr io.Writer) (*output, error) {
	switch json {
	case "":
		return &output{text: stdout}, nil
	case "-":
		return &output{text: stderr, json: stdout}, nil
	}
	_, err := os.Lstat(json)
	made := errors.Is(err, fs.ErrNotExist)
	f, err := os.OpenFile(json, os.O_WRONLY|os.O_CREATE, 0o666) //gosec:disable G302,G304 -- a report is for everybody, and goes where the flag says
	if err != nil {
		return nil, err
	}
	return &output{text: stdout, json: f, file: f, made: made}, nil
}

// write writes the report and closes the file.
func (o *output) write(r report) error {
	err := r.WriteText(o.text)
	if o.file != nil {
		err = errors.Join(err, truncate(o.file))
	}
	if o.json != nil {
		err = errors.Join(err, r.WriteJSON(o.json))
	}
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
	}
	return err
}

// discard closes the file without a report, and leaves none behind that was not
// there before.
func (o *output) discard() error {
	if o.file == nil {
		return nil
	}
	err := o.file.Close()
	if o.made {
		err = errors.Join(err, os.Remove(o.file.Name()))
	}
	return err
}

// truncate empties a file; a pipe or a terminal has nothing to be emptied.
func truncate(f *os.File) error {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	return f.Truncate(0)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
