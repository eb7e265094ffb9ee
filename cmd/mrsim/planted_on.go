//go:build planted

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"multiraft/internal/planted"
	"multiraft/internal/sim"
)

// plantedFlags adds what plants bugs.
func plantedFlags(f *pflag.FlagSet, o *options) {
	f.Var(plant{}, "planted", "plant this bug: "+strings.Join(planted.Names(), ", "))
	f.BoolVar(&o.hunt, "hunt", false, "plant one bug after the other and write a table of the seeds needed")
}

// plant is a flag that plants a bug.
type plant struct{}

func (plant) Set(name string) error { return planted.Plant(name) }
func (plant) String() string        { return "" }
func (plant) Type() string          { return "bug" }

// huntAll hunts all bugs with the seeds of the campaign.
func (o *options) huntAll(ctx context.Context) error {
	missed, err := sim.HuntAll(ctx, o.stdout, o.campaign)
	if err == nil && missed > 0 {
		err = fmt.Errorf("%d planted bugs were not found by %d seeds", missed, o.campaign.Seeds)
	}
	return err
}
