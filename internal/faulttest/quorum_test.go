//go:build linux

package faulttest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"multiraft/recovery"
	"multiraft/wire"
)

// acknowledged is a write that a client was told of.
type acknowledged struct {
	value uint64
	index wire.Index
}

// TestQuorumLoss kills two stores of three under load and takes their directories
// away, after the third was cut off for a while: they have acknowledged writes that it
// has never seen. mrrecover, on the directory that is left, has it serve alone. What
// is missing then is what the plan said may be. The dead come back and are barred,
// until they are given new replicas.
func TestQuorumLoss(t *testing.T) {
	t.Parallel()
	need(t, "go")
	tool := filepath.Join(t.TempDir(), "mrrecover")
	run(t, "go", "build", "-C", "../..", "-o", tool, "./cmd/mrrecover")
	lost, rounds := 0, pick(1, 1, 50)
	for range rounds {
		lost += losesQuorum(t, tool)
	}
	if lost == 0 {
		t.Error("no write was lost: the survivor had them all")
	}
}

func losesQuorum(t *testing.T, tool string) (lost int) {
	t.Helper()
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3)}, 16)
	var mu sync.Mutex // guards writes
	writes := make([][]acknowledged, c.cfg.Groups+1)
	l.Wrote = func(g wire.GroupID, value uint64, index wire.Index) {
		mu.Lock()
		writes[g] = append(writes[g], acknowledged{value, index})
		mu.Unlock()
	}
	must(t, c.StartAll())
	l.Begin()
	answers(t, l, 3000)
	weather(c, func(from, to wire.StoreID) Weather { return Weather{Swallow: from == 1 || to == 1} })
	answers(t, l, 300)
	away := filepath.Join(t.TempDir(), "away")
	must(t, os.Mkdir(away, 0o700))
	dead := []wire.StoreID{2, 3}
	moved := func(id wire.StoreID) string { return filepath.Join(away, filepath.Base(c.Dir(id))) }
	for _, id := range dead {
		c.Kill(id)
	}
	l.End()
	c.Kill(1)
	for _, id := range dead {
		must(t, os.Rename(c.Dir(id), moved(id)))
	}

	plan := recoverStore(t, tool, c.Dir(1))
	if len(plan.Groups) != c.cfg.Groups {
		t.Fatalf("the plan is about %d groups, want %d: %+v", len(plan.Groups), c.cfg.Groups, plan)
	}
	weather(c, func(wire.StoreID, wire.StoreID) Weather { return Weather{} })
	must(t, c.Start(1))
	then := l.Next() // what is lost was seen by clients before
	then.Moves = true
	then.Begin()
	t.Cleanup(then.End)
	answers(t, then, 500)
	certain := 0
	for at := range plan.Groups {
		p := &plan.Groups[at]
		gone := missing(t, c, p.Group, writes[p.Group])
		for _, w := range writes[p.Group] {
			if p.MayLose && w.index > p.Committed {
				continue
			}
			if certain++; slices.Contains(gone, w.value) {
				t.Errorf("group %d: the write of %d was acknowledged with entry %d and is gone; the plan says that those up to %d are there", p.Group, w.value, w.index, p.Committed)
			}
		}
		lost += len(gone)
	}
	if certain < 500 {
		t.Errorf("only %d writes were certain to be there", certain)
	}

	// Only one at a time: two are a majority of the old members until they are told.
	all := func(h Health) bool { return len(h.Barred) == c.cfg.Groups }
	for _, id := range dead {
		must(t, os.Rename(moved(id), c.Dir(id)))
		must(t, c.Start(id))
		until(t, c, id, "is barred from all groups", all)
		answers(t, then, 300)
	}
	c.Kill(2)
	must(t, c.Start(2))
	until(t, c, 2, "is barred from all groups", all)
	for _, id := range dead {
		moves(t, c, Request{Op: opAdd, Store: id})()
	}
	voters(t, c, 1, 2, 3)
	answers(t, then, 300)
	then.End()
	verify(t, c, then)
	t.Logf("%d acknowledged writes were certain to be there and are, %d that may be lost are; %d operations before and %d since",
		certain, lost, l.History.Len(), then.History.Len())
	return lost
}

// recoverStore does what docs/quorum-loss.md says, on the one store that is left.
func recoverStore(t *testing.T, tool, dir string) *recovery.Plan {
	t.Helper()
	tmp := t.TempDir()
	list, name := filepath.Join(tmp, "list.json"), filepath.Join(tmp, "plan.json")
	must(t, os.WriteFile(list, []byte(run(t, tool, "list", "--json", dir)), 0o600))
	text := run(t, tool, "plan", "--out", name, list)
	hash := regexp.MustCompile(`Confirmation: ([0-9a-f]{16})\b`).FindStringSubmatch(text)
	if hash == nil {
		t.Fatalf("no confirmation in\n%s", text)
	}
	b, err := os.ReadFile(name)
	must(t, err)
	p, err := recovery.DecodePlan(b)
	must(t, err)
	var result struct{ Changed []wire.GroupID }
	must(t, json.Unmarshal([]byte(run(t, tool, "apply", "--plan", name, "--confirm", hash[1], "--by", "TestQuorumLoss", dir)), &result))
	if len(result.Changed) != len(p.Groups) {
		t.Fatalf("mrrecover changed groups %d of\n%s", result.Changed, text)
	}
	if out, err := exec.Command(tool, "apply", "--plan", name, "--confirm", "0123456789abcdef", dir).CombinedOutput(); err == nil {
		t.Errorf("a plan was carried out with another confirmation:\n%s", out)
	}
	return p
}

// missing returns those values of writes that store 1 does not have.
func missing(t *testing.T, c *Cluster, g wire.GroupID, writes []acknowledged) []uint64 {
	t.Helper()
	q := Request{Op: opMissing, Group: g, Timeout: settleTimeout}
	for _, w := range writes {
		q.Values = append(q.Values, w.value)
	}
	a, err := c.ask(t.Context(), 1, q)
	must(t, err)
	return a.Values
}
