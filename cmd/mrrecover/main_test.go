package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/transport"
	"multiraft/wire"
)

// mrrecover runs the command and returns what it wrote.
func mrrecover(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = execute(args, &out, &errs)
	return code, out.String(), errs.String()
}

// counter counts commands.
type counter struct{ n int }

func (c *counter) Apply(entries []engine.Entry) error { c.n += len(entries); return nil }
func (c *counter) Query(any) (any, error)             { return c.n, nil }

// world is three stores in one process.
type world struct {
	t       *testing.T
	dir     string
	network *transport.Network
	stores  map[wire.StoreID]*engine.Store
	failed  chan error
}

func (w *world) path(id wire.StoreID) string { return filepath.Join(w.dir, fmt.Sprint("store", id)) }

func (w *world) open(ids ...wire.StoreID) {
	w.t.Helper()
	for _, id := range ids {
		store, err := engine.Open(engine.Config{
			Cluster: 9, ID: id, Dir: w.path(id), Transport: w.network.Transport(id), TickInterval: 5 * time.Millisecond,
			SegmentBytes: 256 << 10, MaxCommandBytes: 1 << 10, Seed: uint64(id),
			Events: engine.Events{GroupFailed: func(err *engine.GroupFailedError) { w.failed <- err }},
		})
		if err != nil {
			w.t.Fatal(err)
		}
		w.stores[id] = store
		members := []engine.Member{{Replica: 1, Store: 1}, {Replica: 2, Store: 2}, {Replica: 3, Store: 3}}
		if _, err := store.StartGroup(w.ctx(), engine.GroupConfig{ID: 5, Members: members, StateMachine: new(counter)}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) close(ids ...wire.StoreID) {
	w.t.Helper()
	for _, id := range ids {
		if err := w.stores[id].Close(); err != nil {
			w.t.Error(err)
		}
		delete(w.stores, id)
	}
}

// ctx bounds one step; it is far above what any takes.
func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) write(id wire.StoreID, n int) {
	w.t.Helper()
	g, ok := w.stores[id].Group(5)
	if !ok {
		w.t.Fatal("the group does not run")
	}
	for range n {
		for {
			if err := g.WaitLeader(w.ctx()); err != nil {
				w.t.Fatal(err)
			}
			_, err := g.Propose(w.ctx(), []byte("x"))
			var other *engine.NotLeaderError
			if errors.As(err, &other) && w.stores[other.Store] != nil {
				g, _ = w.stores[other.Store].Group(5)
				continue
			}
			if err == nil {
				break
			}
			if errors.Is(err, context.DeadlineExceeded) {
				w.t.Fatal(err)
			}
		}
	}
}

// TestFromListToBarred does what docs/quorum-loss.md says, on real directories, and
// then has the dead stores come back.
func TestFromListToBarred(t *testing.T) {
	w := &world{
		t: t, dir: t.TempDir(), stores: map[wire.StoreID]*engine.Store{}, failed: make(chan error, 16),
		network: transport.NewNetwork(transport.NetworkConfig{Cluster: 9}),
	}
	w.open(1, 2, 3)
	w.write(1, 20)
	if code, _, stderr := mrrecover("list", w.path(1)); code != exitFailed || !strings.Contains(stderr, "locked") {
		t.Errorf("list of an open store: exit code %d, %s", code, stderr)
	}
	w.close(1, 2, 3)

	code, text, stderr := mrrecover("list", w.path(1), w.path(2))
	if code != exitOK || strings.Count(text, "whole") != 2 || !strings.Contains(text, "store 2 of cluster 9") {
		t.Errorf("list: exit code %d\n%s%s", code, text, stderr)
	}
	list, plan := filepath.Join(w.dir, "list.json"), filepath.Join(w.dir, "plan.json")
	code, text, _ = mrrecover("list", "--json", w.path(1))
	if code != exitOK {
		t.Fatalf("list --json: exit code %d", code)
	}
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, text, _ = mrrecover("plan", w.path(1), w.path(2)); code != exitNothing || !strings.Contains(text, "it has a quorum") {
		t.Errorf("plan with a quorum: exit code %d\n%s", code, text)
	}
	code, text, stderr = mrrecover("plan", "--out", plan, list)
	if code != exitOK || !strings.Contains(text, "LEFT BEHIND:     2 on store 2, 3 on store 3") || !strings.Contains(text, "MAY BE LOST") {
		t.Fatalf("plan: exit code %d\n%s%s", code, text, stderr)
	}
	if code, _, _ = mrrecover("plan", "--out", plan, list); code != exitFailed {
		t.Errorf("a plan was written over: exit code %d", code)
	}
	hash := regexp.MustCompile(`Confirmation: ([0-9a-f]{16})\n`).FindStringSubmatch(text)
	if hash == nil {
		t.Fatalf("no confirmation in\n%s", text)
	}
	if code, _, stderr = mrrecover("apply", "--plan", plan, "--confirm", "0123456789abcdef", w.path(1)); code != exitFailed || !strings.Contains(stderr, "confirmation") {
		t.Errorf("apply with another hash: exit code %d, %s", code, stderr)
	}
	for _, want := range []string{`"changed":[5],"doneBefore":[]`, `"changed":[],"doneBefore":[5]`} {
		if code, text, stderr = mrrecover("apply", "--plan", plan, "--confirm", hash[1], "--by", "a test", w.path(1)); code != exitOK || !strings.Contains(text, want) {
			t.Errorf("apply: exit code %d, want %s\n%s%s", code, want, text, stderr)
		}
	}

	w.open(1)
	w.write(1, 10)
	g, _ := w.stores[1].Group(5)
	if n, err := g.Read(w.ctx(), nil); err != nil || n.(int) < 30 {
		t.Errorf("%v of 30 writes, %v", n, err)
	}
	w.open(2, 3)
	var barred *engine.BarredError
	for range 2 {
		select {
		case err := <-w.failed:
			if !errors.As(err, &barred) {
				t.Errorf("failed: %v", err)
			}
		case <-w.ctx().Done():
			t.Fatal("nobody is barred")
		}
	}
	w.write(1, 1)
	w.close(1, 2, 3)
}

func TestUsage(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"", exitOK, ""},
		{"mend", exitUsage, "unknown command"},
		{"list", exitUsage, "at least 1 arg"},
		{"apply x", exitUsage, "--plan and --confirm"},
		{"list /nowhere", exitFailed, "not the directory of a store"},
		{"plan /nowhere", exitFailed, "no such file"},
		{"apply --plan /nowhere --confirm x y", exitFailed, "no such file"},
		{"list --json a b", exitFailed, "one directory at a time"},
	} {
		code, _, stderr := mrrecover(strings.Fields(tc.args)...)
		if code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("mrrecover %s: exit code %d\n%s", tc.args, code, stderr)
		}
	}
}
