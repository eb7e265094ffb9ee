//go:build linux

package faulttest

import (
	"flag"
	"os"
	"testing"
)

// full runs all rounds of all rigs, where the normal test runs a part of them.
var full = flag.Bool("faults.full", false, "run every round of every rig; takes about an hour")

func TestMain(m *testing.M) {
	MaybeChild()
	flag.Parse()
	os.Exit(m.Run())
}

// pick returns how many rounds a test makes.
func pick(short, normal, all int) int {
	switch {
	case *full:
		return all
	case testing.Short():
		return short
	}
	return normal
}
