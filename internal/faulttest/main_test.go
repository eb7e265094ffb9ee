//go:build linux

package faulttest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// full runs all rounds of all rigs, where the normal test runs a part of them.
var full = flag.Bool("faults.full", false, "run every round of every rig; takes hours")

// wholeRun is how many operations the histories of a normal run have at least.
const wholeRun = 100_000

func TestMain(m *testing.M) {
	MaybeChild()
	flag.Parse()
	if err := sideBySide(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	code := supervised(m.Run)
	if n := checked.Load(); code == 0 && n > 0 {
		fmt.Printf("%d operations in histories that are legal\n", n)
		if n < wholeRun && !testing.Short() && flag.Lookup("test.run").Value.String() == "" {
			fmt.Printf("fewer than %d: something was left out\n", wholeRun)
			code = 1
		}
	}
	os.Exit(code)
}

// sideBySide has more tests run at a time than there are processors, unless the
// command line says how many: they wait for time-outs and disks, most of the time.
func sideBySide() error {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
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
