package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multiraft/bench"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == crashChildCommand {
		main() // as crash starts it again
	}
	os.Exit(m.Run())
}

// mrbench runs the command and returns what it wrote.
func mrbench(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string // in standard error
	}{
		{"walk", `unknown command "walk"`},
		{"extra arguments", `unknown command "extra"`},
		{"run now", `unknown command "now"`},
		{"run --fast", "unknown flag: --fast"},
		{"run --groups many", "--groups"},
		{"run --groups 0", `--groups: "0" would select the default`},
		{"run --groups -1", "Groups: -1 must be 1 to"},
		{"run --payload 4 --verify --mode quick", "Payload: 4 must be at least 8"},
		{"run --payload 4 --verify --mode quick", "Mode: quick must be"},
		{"run --stores 2 --replicas 3", "Replicas: 3 must not exceed Stores (2)"},
		{"run --warmup -1s", "Warmup: -1s"},
		{"run --duration 0s", `--duration: "0s" would select`},
		{"run --duration 0", `--duration: "0s" would select`},
		{"run --active -0", `--active: "-0" would select`},
		{"run --mode=", `--mode: "" would select`},
		{"run --workers 129", "Workers: 129 must be 0 to 128"},
		{"crash --max-load 0s", `--max-load: "0s" would select`},
		{"crash --payload -1 --rounds 0", "Payload: -1"},
		{"crash --rounds 0", `--rounds: "0" would select the default`},
		{"crash --max-load 1ns", "MaxLoad: 1ns"},
	} {
		code, stdout, stderr := mrbench(t, strings.Fields(tc.args)...)
		if code != bench.ExitUsage || stdout != "" || !strings.Contains(stderr, tc.want) {
			t.Errorf("mrbench %s: exit code %d\nstdout: %s\nstderr: %s", tc.args, code, stdout, stderr)
		}
	}
}

// A zero that is refused does not hide what else is wrong.
func TestUsageNamesAllFaults(t *testing.T) {
	_, _, stderr := mrbench(t, "run", "--mode", "foo", "--workload", "bar", "--payload", "-1", "--inflight", "0", "--duration", "0s")
	for _, want := range []string{"--inflight: ", "--duration: ", "Mode: foo ", "Workload: bar ", "Payload: -1 "} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is not in %s", want, stderr)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"--help", "help run", "run --help", "crash --help"} {
		code, stdout, _ := mrbench(t, strings.Fields(args)...)
		if code != 0 || !strings.Contains(stdout, "mrbench crash --rounds") && !strings.Contains(stdout, "mrbench run --") {
			t.Errorf("mrbench %s: exit code %d\n%s", args, code, stdout)
		}
	}
	if _, stdout, _ := mrbench(t, "--help"); strings.Contains(stdout, crashChildCommand) {
		t.Error("help shows the hidden command")
	}
}

// With --json - standard output is one JSON object, and people read standard
// error. With a file both get theirs.
func TestRunWritesJSON(t *testing.T) {
	quick := func(json string) []string {
		return []string{"run", "--groups", "3", "--duration", "50ms", "--warmup", "0s", "--sync=false", "--verify",
			"--segment-bytes", "4194304", "--dir", t.TempDir(), "--json", json}
	}
	check := func(data string) {
		t.Helper()
		var report bench.Report
		if err := json.Unmarshal([]byte(data), &report); err != nil {
			t.Fatalf("%v in %s", err, data)
		}
		if report.Verified == nil || !*report.Verified || report.Config.Groups != 3 || report.Config.Warmup != bench.NoWarmup {
			t.Errorf("%s", data)
		}
	}
	code, stdout, stderr := mrbench(t, quick("-")...)
	if code != 0 || !strings.Contains(stderr, "ops/s") {
		t.Fatalf("exit code %d, stderr %s", code, stderr)
	}
	check(stdout)

	file := filepath.Join(t.TempDir(), "report.json")
	code, stdout, _ = mrbench(t, quick(file)...)
	if code != 0 || !strings.Contains(stdout, "ops/s") {
		t.Fatalf("exit code %d, stdout %s", code, stdout)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	check(string(data))

	if code, _, stderr := mrbench(t, quick(filepath.Join(t.TempDir(), "missing", "report.json"))...); code != bench.ExitOther || !strings.Contains(stderr, "missing") {
		t.Errorf("a report that cannot be written: exit code %d, stderr %s", code, stderr)
	}
}

func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("starts stores in processes that it kills")
	}
	code, stdout, stderr := mrbench(t, "crash", "--rounds", "1", "--groups", "3", "--max-load", "50ms", "--inflight", "16",
		"--segment-bytes", "4194304", "--dir", t.TempDir())
	if code != 0 || !strings.Contains(stdout, "No acknowledged write was lost") || !strings.Contains(stderr, "round 1/1") {
		t.Errorf("exit code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
}
