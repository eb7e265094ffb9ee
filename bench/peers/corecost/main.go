// Corecost compares what operations of this project's consensus core cost with
// what they cost in etcd's raft library, and says whether each is as much cheaper
// as it has to be:
//
//	go run -C bench/peers ./corecost
//
// Package sample says what each operation is. docs/benchmarks.md explains the
// figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"time"

	"multiraft/bench/peers/sample"
)

// Exit codes.
const (
	exitOK    = 0
	exitShort = 1 // a row falls short
	exitUsage = 2 // a flag is wrong; nothing was run
	exitOther = 3 // anything else, an interrupt among it
)

const usage = `corecost compares the cost of operations of the consensus core with that of the
same operations in etcd's raft library, versions 3.6.0 and 3.7.0.

Each sample is a process of its own. For each row, rounds of one sample per
library are run in turn, so that what disturbs the machine disturbs all alike;
figures are medians over the rounds. The ratio is to the better of the two
versions. Times are processor time of the measuring thread, where the system can
tell. Behind each time stand the allocations.

Exit codes: 0 all rows are as required; 1 a row falls short; 2 a wrong flag;
3 anything else, an interrupt among it.

Examples:
  go run -C bench/peers ./corecost
  go run -C bench/peers ./corecost -rounds 11 -time 1s -rows 'leader|heartbeat'
  go run -C bench/peers ./corecost -json -

Where the time of a row goes is shown by the program of one library:
  go run -C bench/peers ./core -row replicate -time 5s -cpuprofile cpu.prof

Flags:
`

// config is what the flags say.
type config struct {
	rounds   int
	duration time.Duration
	rows     *regexp.Regexp
	json     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		say(stderr, "corecost: %v\nA list of flags: -help\n", err)
		return exitUsage
	}
	r, err := measure(ctx, cfg, stderr)
	if err == nil {
		err = write(r, cfg.json, stdout, stderr)
	}
	switch {
	case err != nil:
		say(stderr, "corecost: %v\n", err)
		return exitOther
	case r.short() > 0:
		return exitShort
	}
	return exitOK
}

// say tells people something.
func say(to io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(to, format, args...) // there is nobody else to tell
}

// parse reads the flags. Help, when asked for, goes to stdout.
func parse(args []string, stdout io.Writer) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("corecost", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller says what is wrong
	flags.IntVar(&cfg.rounds, "rounds", 5, "samples per row and library")
	flags.DurationVar(&cfg.duration, "time", 200*time.Millisecond, "length of a sample")
	pattern := flags.String("rows", "", "measure only the rows whose name or title matches this regular `expression`")
	flags.StringVar(&cfg.json, "json", "", "write the report as JSON to this `file`, with all samples; - is standard output, and then the table goes to standard error")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(stdout)
		say(stdout, usage)
		flags.PrintDefaults()
	}
	if err != nil {
		return config{}, err
	}
	cfg.rows, err = regexp.Compile(*pattern)
	switch {
	case err != nil:
		return config{}, fmt.Errorf("-rows: %w", err)
	case flags.NArg() > 0:
		return config{}, fmt.Errorf("%q: takes no arguments", flags.Arg(0))
	case cfg.rounds < 1:
		return config{}, fmt.Errorf("-rounds: %d must be at least 1", cfg.rounds)
	case cfg.duration < time.Millisecond:
		return config{}, fmt.Errorf("-time: %v must be at least 1ms", cfg.duration)
	case len(chosen(cfg.rows)) == 0:
		return config{}, fmt.Errorf("-rows: %q matches none", *pattern)
	}
	return cfg, nil
}

func chosen(pattern *regexp.Regexp) (list []row) {
	for _, r := range rows {
		if pattern.MatchString(r.name) || pattern.MatchString(r.title) {
			list = append(list, r)
		}
	}
	return list
}

// measure builds the programs and takes all samples.
func measure(ctx context.Context, cfg config, progress io.Writer) (r *report, err error) {
	module, err := module(ctx)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "corecost-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	files := make([]string, len(programs))
	for i, p := range programs {
		say(progress, "build %s\n", p.library)
		if files[i], err = p.compile(ctx, module, tmp); err != nil {
			return nil, err
		}
	}
	r = &report{Machine: thisMachine(), Rounds: cfg.rounds, Sample: cfg.duration.String()}
	list := chosen(cfg.rows)
	for n, row := range list {
		samples := make([][]sample.Result, len(programs))
		for range cfg.rounds {
			for i, file := range files {
				s, err := run(ctx, file, row, cfg.duration)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", row.title, programs[i].library, err)
				}
				samples[i] = append(samples[i], s)
			}
		}
		figures := make([]figure, len(programs))
		for i, p := range programs {
			figures[i] = newFigure(p.library, samples[i])
		}
		o := judge(row, figures)
		r.Rows = append(r.Rows, o)
		say(progress, "%2d/%d %s: 1/%.1f\n", n+1, len(list), row.title, o.Ratio)
	}
	return r, nil
}

// write writes the table to standard output, and JSON where asked for. When that
// is standard output, people read standard error.
func write(r *report, json string, stdout, stderr io.Writer) error {
	switch json {
	case "":
		return r.writeText(stdout)
	case "-":
		return errors.Join(r.writeText(stderr), r.writeJSON(stdout))
	}
	f, err := os.Create(json) //gosec:disable G304 -- the report goes where the flag says
	if err != nil {
		return errors.Join(r.writeText(stdout), err)
	}
	return errors.Join(r.writeText(stdout), r.writeJSON(f), f.Close())
}
