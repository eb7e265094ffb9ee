// Command mrrecover brings groups back that have lost their quorum for good, on the
// disks of the stores that survived. See docs/quorum-loss.md, or run it with --help.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"multiraft/recovery"
	"multiraft/wire"
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// Exit codes.
const (
	exitOK      = 0
	exitFailed  = 1 // nothing was done, or not all
	exitUsage   = 2
	exitNothing = 3 // plan: no group has lost its quorum
)

// execute runs the command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	usage := true // errors before a command begins are of usage
	root := &cobra.Command{
		Use:   "mrrecover",
		Short: "Bring groups back that have lost their quorum for good",
		Long: `Bring groups back that have lost their quorum for good.

On each machine that survived, with its stores stopped:   mrrecover list --json DIR > FILE
On one of them, with all the files:                       mrrecover plan --out PLAN FILE...
On each machine again, when the plan was read:            mrrecover apply --plan PLAN --confirm HASH DIR

With all disks on one machine, plan takes directories as well as files.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newList(stdout), newPlan(stdout), newApply(stdout))
	for _, c := range root.Commands() {
		c.PreRun = func(*cobra.Command, []string) { usage = false }
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	// Where text for people cannot be written, the exit code has to do.
	_, _ = fmt.Fprintf(stderr, "mrrecover: %v\n", err)
	switch {
	case usage:
		// As above.
		_, _ = fmt.Fprintln(stderr, "mrrecover --help shows commands and flags.")
		return exitUsage
	case errors.Is(err, recovery.ErrNothing):
		return exitNothing
	}
	return exitFailed
}

func newList(stdout io.Writer) *cobra.Command {
	var asJSON, quick bool
	c := &cobra.Command{
		Use:   "list DIR...",
		Short: "Tell what stores hold; changes nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, dirs []string) error {
			if asJSON && len(dirs) > 1 {
				return errors.New("one directory at a time with --json: a file is about one store")
			}
			for _, dir := range dirs {
				s, err := survey(dir, quick)
				if err != nil {
					return err
				}
				if !asJSON {
					if err := s.Write(stdout); err != nil {
						return err
					}
					continue
				}
				b, err := s.Encode()
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(stdout, "%s\n", b); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "for plan, on this machine or another")
	quickFlag(c, &quick)
	return c
}

func quickFlag(c *cobra.Command, quick *bool) {
	c.Flags().BoolVar(quick, "quick", false, "do not read snapshots from one end to the other")
}

func survey(dir string, quick bool) (*recovery.Survey, error) {
	return recovery.Disk{Dir: dir, SkipSnapshots: quick}.Survey()
}

func newPlan(stdout io.Writer) *cobra.Command {
	var (
		out            string
		quick, replace bool
		groups, voters []uint
		options        recovery.Options
	)
	c := &cobra.Command{
		Use:   "plan FILE|DIR...",
		Short: "Say what is to be done, and what may be lost; changes nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, sources []string) error {
			for _, id := range groups {
				options.Groups = append(options.Groups, wire.GroupID(id))
			}
			for _, id := range voters {
				options.Voters = append(options.Voters, wire.StoreID(id))
			}
			var surveys []*recovery.Survey
			for _, source := range sources {
				s, err := read(source, quick)
				if err != nil {
					return err
				}
				surveys = append(surveys, s)
			}
			p, err := recovery.NewPlan(surveys, options)
			if p == nil {
				return err
			}
			if err == nil && out != "" {
				if err := write(out, p, replace); err != nil {
					return err
				}
			}
			return errors.Join(err, p.Write(stdout))
		},
	}
	c.Flags().StringVar(&out, "out", "", "file for apply")
	c.Flags().BoolVar(&replace, "replace", false, "write --out over a file that is there")
	c.Flags().UintSliceVar(&groups, "groups", nil, "only these groups")
	c.Flags().UintSliceVar(&voters, "voters", nil, "stores whose replicas shall vote, besides the one with the best log; others become learners")
	c.Flags().StringVar(&options.Force, "force", "", "recover --groups although they have a quorum, for this reason")
	quickFlag(c, &quick)
	return c
}

// read returns a survey: that of a directory, or one that list has written.
func read(source string, quick bool) (*recovery.Survey, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return survey(source, quick)
	}
	b, err := os.ReadFile(filepath.Clean(source))
	if err != nil {
		return nil, err
	}
	s, err := recovery.DecodeSurvey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return s, nil
}

// write writes a plan, and not over another one by mistake.
func write(name string, p *recovery.Plan, replace bool) error {
	b, err := p.Encode()
	if err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if replace {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(filepath.Clean(name), flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

func newApply(stdout io.Writer) *cobra.Command {
	var name string
	var options recovery.ApplyOptions
	c := &cobra.Command{
		Use:   "apply --plan FILE --confirm HASH DIR...",
		Short: "Carry out a plan on the stores of this machine",
		Long: `Carry out a plan on the stores of this machine, which must be stopped.

The hash is what plan has printed. Run it on every store that the plan was made from
before any of them is started. It may be run again, and must be when it was cut off.`,
		Args: func(c *cobra.Command, dirs []string) error {
			if name == "" || options.Confirm == "" {
				return errors.New("--plan and --confirm must be given")
			}
			return cobra.MinimumNArgs(1)(c, dirs)
		},
		RunE: func(_ *cobra.Command, dirs []string) error {
			b, err := os.ReadFile(filepath.Clean(name))
			if err != nil {
				return err
			}
			p, err := recovery.DecodePlan(b)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			options.Time = time.Now().UTC()
			for _, dir := range dirs {
				result, err := recovery.Disk{Dir: dir}.Apply(p, options)
				if err != nil {
					return fmt.Errorf("%s: %w", dir, err)
				}
				line := struct {
					Store   wire.StoreID   `json:"store"`
					Changed []wire.GroupID `json:"changed"`
					Done    []wire.GroupID `json:"doneBefore"`
					Record  string         `json:"record"`
				}{result.Store, result.Changed, result.Done, result.Record}
				if err := json.NewEncoder(stdout).Encode(line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&name, "plan", "", "file that plan has written")
	c.Flags().StringVar(&options.Confirm, "confirm", "", "hash of the plan, typed by who has read it")
	c.Flags().StringVar(&options.By, "by", "", "who does this, for the record")
	return c
}
