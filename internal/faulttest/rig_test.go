//go:build linux

package faulttest

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newCluster makes a cluster that ends with the test, and clients for it.
func newCluster(t *testing.T, cfg ClusterConfig, clients int) (*Cluster, *Load) {
	t.Helper()
	c, err := NewCluster(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c, NewLoad(c, clients)
}

// dirs returns directories for n stores below dir.
func dirs(dir string, n int) []string {
	var list []string
	for at := range n {
		list = append(list, filepath.Join(dir, string(rune('a'+at))))
	}
	return list
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// verify heals a cluster, and checks what clients saw and what replicas hold.
func verify(t *testing.T, c *Cluster, l *Load) {
	t.Helper()
	must(t, c.Heal())
	if err := l.Verify(t.Context()); err != nil {
		t.Fatalf("after %d operations: %v", l.Done(), err)
	}
}

// answers waits for operations that a healthy cluster cannot fail to answer.
func answers(t *testing.T, l *Load, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	if err := l.Answers(ctx, n); err != nil {
		l.progressMu.Lock()
		defer l.progressMu.Unlock()
		var why strings.Builder
		for text, n := range l.refused {
			why.WriteString("\n  ")
			why.WriteString(text)
			_ = n
		}
		t.Fatalf("the cluster does not answer: %d of %d operations so far; refusals:%s", l.done, l.attempts, why.String())
	}
}

// shortly bounds what has to happen soon, and does so without a limit that a
// busy machine could miss.
const shortly = 30 * time.Second
