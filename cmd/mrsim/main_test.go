package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mrsim runs the command and returns what it wrote.
func mrsim(t *testing.T, args ...string) (code int, stdout, stderr string) {
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
		{"run", "unknown command"},
		{"--fast", "unknown flag: --fast"},
		{"--seed 1 --seeds 2", "--seed: goes without"},
		{"--seed 1 --from 2", "--seed: goes without"},
		{"--trace x", "--trace: needs --seed"},
		{"--seed 1 --trace - --json -", "cannot both be standard output"},
		{"--minutes 0", "--minutes: 0 must be above 0"},
		{"--minutes NaN", "--minutes: NaN must be above 0"},
		{"--minutes 1e9", "at most 1440"},
		{"--seeds 0", "Seeds: 0 must be at least 1"},
		{"--stores -1 --workers -1", "Stores: -1"},
		{"--stores -1 --workers -1", "Workers: -1"},
	} {
		code, stdout, stderr := mrsim(t, strings.Fields(tc.args)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, tc.want) {
			t.Errorf("mrsim %s: exit code %d\nstdout: %s\nstderr: %s", tc.args, code, stdout, stderr)
		}
	}
}

func TestHelp(t *testing.T) {
	code, stdout, _ := mrsim(t, "--help")
	if code != exitOK || !strings.Contains(stdout, "mrsim --seed 17") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}

// TestSeed shows that a seed and its flags decide the last line, and that reading
// along does not change it.
func TestSeed(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace.txt")
	hash := regexp.MustCompile(`hash [0-9a-f]{16}\n$`)
	code, first, stderr := mrsim(t, "--seed", "3", "--minutes", "0.05")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	_, second, _ := mrsim(t, "--seed", "3", "--minutes", "0.05", "--trace", trace)
	_, other, _ := mrsim(t, "--seed", "4", "--minutes", "0.05")
	got := hash.FindString(first)
	if got == "" || hash.FindString(second) != got || hash.FindString(other) == got {
		t.Errorf("the last lines of\n%s\n%s\n%s", first, second, other)
	}
	text, err := os.ReadFile(trace)
	if err != nil || !strings.Contains(string(text), "store 1 opens, life 1") {
		t.Errorf("%v, %d bytes of trace", err, len(text))
	}
}

// TestSeeds shows a campaign with its summary for programs and its progress.
func TestSeeds(t *testing.T) {
	code, stdout, stderr := mrsim(t, "--seeds", "3", "--from", "10", "--minutes", "0.02", "--stores", "3", "--groups", "1", "--replay", "2", "--json", "-")
	if code != exitOK {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	var sum struct {
		From, Seeds, Replayed, Stores, Groups int
		Counts                                map[string]uint64
		Violations                            []any
		ClusterHours                          float64 `json:"cluster_hours"`
	}
	if err := json.Unmarshal([]byte(stdout), &sum); err != nil {
		t.Fatalf("%v in\n%s", err, stdout)
	}
	if sum.From != 10 || sum.Seeds != 3 || sum.Replayed != 2 || sum.Stores != 3 || sum.Groups != 1 ||
		sum.Counts["frames sent"] == 0 || sum.Violations == nil || len(sum.Violations) > 0 || sum.ClusterHours <= 0 {
		t.Errorf("got %+v", sum)
	}
	if !strings.Contains(stderr, "3 of 3 seeds") {
		t.Errorf("no progress in %s", stderr)
	}
}

// TestInterrupt shows that an interrupted campaign tells what it has and that it
// was interrupted.
func TestInterrupt(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	var out, errs bytes.Buffer
	if code := execute(ctx, []string{"--seeds", "5"}, &out, &errs); code != exitOther || !strings.Contains(out.String(), "0 seeds") {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
}
