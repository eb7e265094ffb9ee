package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
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
		return []string{"run", "--groups", "3", "--duration", "50ms", "--warmup", "0s", "--sync=false", "--verify", "--snapshots",
			"--segment-bytes", "4194304", "--dir", t.TempDir(), "--json", json}
	}
	check := func(data string) {
		t.Helper()
		var report bench.Report
		if err := json.Unmarshal([]byte(data), &report); err != nil {
			t.Fatalf("%v in %s", err, data)
		}
		if report.Verified == nil || !*report.Verified || report.Config.Groups != 3 || report.Config.Snapshots != bench.DefaultSnapshots || report.Config.Warmup != bench.NoWarmup {
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
}

// A report that cannot be written is told before any store is opened.
func TestUnwritableJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "missing", "report.json")
	for _, command := range []string{"run", "crash"} {
		code, stdout, stderr := mrbench(t, command, "--dir", t.TempDir(), "--json", file)
		if code != bench.ExitOther || stdout != "" || !strings.HasPrefix(stderr, "mrbench: open "+file) {
			t.Errorf("%s: exit code %d\nstdout: %s\nstderr: %s", command, code, stdout, stderr)
		}
	}
}

// A run that ends without a report takes no earlier one away, and leaves no
// empty file. One that ends with a report leaves nothing of the earlier.
func TestJSONFileWithoutReport(t *testing.T) {
	dir := t.TempDir()
	fresh, earlier := filepath.Join(dir, "fresh"), filepath.Join(dir, "earlier")
	if err := os.WriteFile(earlier, []byte("earlier"), 0o666); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, file := range []string{fresh, earlier} {
		args := []string{"run", "--groups", "3", "--segment-bytes", "4194304", "--dir", t.TempDir(), "--json", file}
		if code := execute(ctx, args, io.Discard, io.Discard); code != bench.ExitOther {
			t.Fatalf("interrupted before the load: exit code %d", code)
		}
	}
	if _, err := os.Stat(fresh); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the new file: %v", err)
	}
	if data, err := os.ReadFile(earlier); err != nil || string(data) != "earlier" {
		t.Errorf("the earlier report: %q, %v", data, err)
	}

	out, err := openOutput(earlier, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.write(short{}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(earlier); err != nil || string(data) != "{}" {
		t.Errorf("the report in place of an earlier one: %q, %v", data, err)
	}
}

// short is a report of two bytes.
type short struct{}

func (short) WriteJSON(w io.Writer) error { return writeString(w, "{}") }
func (short) WriteText(w io.Writer) error { return writeString(w, "{}") }

func writeString(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

// Fewer replicas than the default are no surprise.
func TestRunOnOneStore(t *testing.T) {
	args := []string{"run", "--stores", "1", "--groups", "3", "--duration", "50ms", "--warmup", "0s", "--sync=false",
		"--segment-bytes", "4194304"}
	const told = "1 replica of each group instead of 3"
	code, stdout, stderr := mrbench(t, append(args, "--dir", t.TempDir())...)
	if code != 0 || !strings.Contains(stderr, told) || !strings.Contains(stdout, "3 groups of 1 replica,") {
		t.Errorf("exit code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
	code, _, stderr = mrbench(t, append(args, "--dir", t.TempDir(), "--replicas", "1")...)
	if code != 0 || strings.Contains(stderr, told) {
		t.Errorf("as asked for: exit code %d, stderr: %s", code, stderr)
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
