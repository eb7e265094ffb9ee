// Command mrsim runs simulated clusters of production stores from seeds, and
// looks for a promise that one of them breaks. See docs/testing.md, or run it
// with --help.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"github.com/spf13/cobra"

	"multiraft/internal/sim"
)

// Exit codes.
const (
	exitOK        = 0
	exitViolation = 1 // a promise was broken
	exitUsage     = 2 // a wrong flag or value
	exitOther     = 3 // anything else, an interrupt among it
)

// softMemory is where the collector begins to run as often as it takes. What runs hold
// for certain is limited by --max-heap.
const softMemory = 1 << 30

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // runs are small and short-lived: room is cheaper than collecting
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(softMemory)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	go func() {
		<-ctx.Done()
		stop() // a second interrupt ends the process at once
	}()
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// errViolation says that the summary has violations.
var errViolation = errors.New("a promise was broken")

// execute runs the command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	usage := true // errors before the command begins are of usage
	cmd := newCommand(stdout, stderr, func() { usage = false })
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errViolation):
		say(stderr, "mrsim: %v\n", err)
		return exitViolation
	case usage:
		say(stderr, "mrsim: %v\nmrsim --help shows the flags.\n", err)
		return exitUsage
	}
	say(stderr, "mrsim: %v\n", err)
	return exitOther
}

// say tells people something.
func say(stderr io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(stderr, format, args...) // there is nobody else to tell
}

// options are the flags that are not of the campaign itself.
type options struct {
	seed                    uint64
	minutes                 float64
	json, trace, cpu        string
	quiet, singleSeed, hunt bool
	maxHeap                 uint64
	campaign                sim.Campaign
	stdout, stderr          io.Writer
	progressEvery           time.Duration
}

func newCommand(stdout, stderr io.Writer, begin func()) *cobra.Command {
	o := options{stdout: stdout, stderr: stderr, progressEvery: 5 * time.Second}
	c := &o.campaign
	cmd := &cobra.Command{
		Use:   "mrsim",
		Short: "look for broken promises in simulated clusters",
		Long: `mrsim runs whole clusters of production stores on one goroutine each, in virtual
time, under network, disk and process faults that a seed decides, and holds them
against a model of what raft promises.

A run is a function of its seed and flags, bit for bit: the last line is a hash
of everything that happened. Processor time is that of all runs together; a
cluster-hour is an hour in the virtual time of one cluster.

Exit codes: 0 all promises were kept; 1 one was broken; 2 a wrong flag or value;
3 anything else, an interrupt among it.`,
		Example: `  mrsim --seed 17 --trace trace.txt
  mrsim --seeds 300 --from 1000 --minutes 10 --json report.json
  mrsim --seeds 20 --stores 5 --groups 64`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.singleSeed = cmd.Flags().Changed("seed")
			if err := o.settle(cmd.Flags().Changed); err != nil {
				return err
			}
			begin()
			return o.run(cmd.Context())
		},
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	f := cmd.Flags()
	f.SortFlags = false
	f.Uint64Var(&o.seed, "seed", 0, "run this seed alone")
	f.IntVar(&c.Seeds, "seeds", 100, "how many seeds to run")
	f.Uint64Var(&c.From, "from", 1, "the first of them")
	f.Float64Var(&o.minutes, "minutes", 1./3, "virtual minutes under faults per seed")
	f.IntVar(&c.Plan.Stores, "stores", 0, "stores of each cluster; 0 leaves it to the seed")
	f.IntVar(&c.Plan.Groups, "groups", 0, "groups of each cluster; 0 leaves it to the seed")
	f.StringVar(&o.json, "json", "", "write the summary as JSON to this file; - is standard output, and then nothing else goes there")
	f.StringVar(&o.trace, "trace", "", "with --seed: write what happens, line by line, to this file; - is standard output")
	f.IntVar(&c.Workers, "workers", 0, "clusters to run at a time; 0 is one per processor")
	f.IntVar(&c.Replay, "replay", 0, "run every so manieth seed twice and compare; 0 runs none twice")
	f.IntVar(&c.MaxViolations, "max-violations", 0, "stop when so many seeds have failed; 0 is 20")
	f.Uint64Var(&o.maxHeap, "max-heap", 0, "end runs when the process holds so many MiB; 0 is 512 for each cluster at a time")
	f.BoolVar(&o.quiet, "quiet", false, "show no progress")
	f.StringVar(&o.cpu, "cpu-profile", "", "write a processor profile to this file")
	plantedFlags(f, &o)
	return cmd
}

// settle makes a campaign of the flags and says what is wrong with them.
func (o *options) settle(changed func(string) bool) error {
	var faults []error
	c := &o.campaign
	if o.singleSeed {
		if changed("seeds") || changed("from") {
			faults = append(faults, errors.New("--seed: goes without --seeds and --from"))
		}
		c.From, c.Seeds = o.seed, 1
	} else if o.trace != "" {
		faults = append(faults, errors.New("--trace: needs --seed"))
	}
	if o.trace == "-" && o.json == "-" {
		faults = append(faults, errors.New("--trace and --json: cannot both be standard output"))
	}
	if o.maxHeap > 1<<40 {
		faults = append(faults, fmt.Errorf("--max-heap: %d must be at most %d", o.maxHeap, uint64(1<<40)))
	}
	c.Plan.MaxHeap = o.maxHeap << 20
	const most = 24 * 60
	if !(o.minutes > 0 && o.minutes <= most) { // not a number is neither
		faults = append(faults, fmt.Errorf("--minutes: %v must be above 0 and at most %d", o.minutes, most))
	} else {
		c.Plan.Faults = time.Duration(o.minutes * float64(time.Minute)).Round(time.Millisecond)
	}
	return errors.Join(append(faults, c.Validate())...)
}

func (o *options) run(ctx context.Context) (err error) {
	c := &o.campaign
	closing := func(f io.Closer) { err = errors.Join(err, f.Close()) }
	if o.cpu != "" {
		f, err := os.Create(o.cpu)
		if err != nil {
			return err
		}
		defer closing(f)
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	text, jsonTo := o.stdout, io.Writer(nil)
	switch o.json {
	case "":
	case "-":
		text, jsonTo = o.stderr, o.stdout
	default:
		f, err := os.Create(o.json)
		if err != nil {
			return err
		}
		defer closing(f)
		jsonTo = f
	}
	var buffer *bufio.Writer
	switch o.trace {
	case "":
	case "-":
		buffer = bufio.NewWriter(o.stdout)
	default:
		f, err := os.Create(o.trace)
		if err != nil {
			return err
		}
		defer closing(f)
		buffer = bufio.NewWriter(f)
	}
	if buffer != nil {
		c.Plan.Trace = buffer
	}
	if !o.quiet && !o.singleSeed {
		c.Progress = o.progress()
	}
	if o.hunt {
		return o.huntAll(ctx)
	}
	sum, err := c.Run(ctx)
	if buffer != nil {
		err = errors.Join(err, buffer.Flush())
	}
	if err != nil {
		return err
	}
	err = sum.WriteText(text)
	if jsonTo != nil {
		err = errors.Join(err, sum.WriteJSON(jsonTo))
	}
	if len(sum.Found) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d of %d seeds", errViolation, len(sum.Found), sum.Done))
	}
	return errors.Join(err, ctx.Err())
}

// progress returns what tells people how far the campaign is, now and then.
func (o *options) progress() func(sim.Progress) {
	next := o.progressEvery
	return func(p sim.Progress) {
		if p.Wall < next && p.Done < p.Seeds {
			return
		}
		next = p.Wall + o.progressEvery
		say(o.stderr, "%v: %d of %d seeds, %.2f cluster-hours per CPU-minute, %d MiB, violations: %d\n",
			p.Wall.Round(time.Second), p.Done, p.Seeds, p.Rate, p.Heap>>20, p.Violations)
	}
}
