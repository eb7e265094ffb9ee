//go:build planted

package sim

import (
	"context"
	"fmt"
	"io"

	"multiraft/internal/planted"
)

// plantedCommand is what a command that runs a plan again needs to plant the same
// bug: tags behind "go run", flags behind the program.
func plantedCommand() (tags, flags string) {
	if name := planted.Planted(); name != "" {
		flags = " --planted " + name
	}
	return " -tags planted", flags
}

// Hunt looks for a planted bug in the runs of a campaign's seeds. It returns how
// many seeds were needed and what they found, zero and nil when all of them did
// not find it. The bug is not planted any more when Hunt returns.
func Hunt(ctx context.Context, name string, c Campaign) (needed int, found *Found, err error) {
	if err := planted.Plant(name); err != nil {
		return 0, nil, err
	}
	defer func() { _ = planted.Plant("") }() // no name is always known
	c.MaxViolations = 1
	sum, err := c.Run(ctx)
	if err != nil || len(sum.Found) == 0 {
		return 0, nil, err
	}
	// Seeds begin in their order, so every lower one than the lowest has been run.
	found = &sum.Found[0]
	return int(found.Seed-c.From) + 1, found, ctx.Err()
}

// HuntAll hunts all planted bugs and writes, as a table for docs/testing.md, how
// many seeds each needed. It returns how many bugs were not found.
func HuntAll(ctx context.Context, w io.Writer, c Campaign) (missed int, err error) {
	if _, err := fmt.Fprintf(w, "| bug | what it is | seeds needed | broke |\n|---|---|---|---|\n"); err != nil {
		return 0, err
	}
	for _, bug := range planted.List() {
		if bug.Elsewhere != "" {
			if _, err := fmt.Fprintf(w, "| `%s` | %s | see `%s` | |\n", bug.Name, bug.What, bug.Elsewhere); err != nil {
				return missed, err
			}
			continue
		}
		needed, found, err := Hunt(ctx, bug.Name, c)
		if err != nil {
			return missed, err
		}
		seeds, rule := fmt.Sprint(needed), ""
		if found == nil {
			seeds = fmt.Sprintf("not in %d", c.Seeds)
			missed++
		} else {
			rule = found.Rule
		}
		if _, err := fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", bug.Name, bug.What, seeds, rule); err != nil {
			return missed, err
		}
	}
	return missed, nil
}
