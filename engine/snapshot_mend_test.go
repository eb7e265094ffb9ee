package engine_test

import (
	"context"
	"slices"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/wire"
)

// impatient has its callers not wait: the test's goroutine does what they would
// wait for.
type impatient struct{ context.Context }

func (impatient) Done() <-chan struct{} { c := make(chan struct{}); close(c); return c }
func (impatient) Err() error            { return nil }

// copyFile copies a file of one disk to another.
func copyFile(t *testing.T, from, to *vfs.MemFS, name string) {
	t.Helper()
	f, err := from.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := to.MkdirAll("/store/snapshots"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, name, data)
}

// TestStartGivesUpWhatASnapshotContradicts: a durable machine needs no snapshot
// whose last entry the log has. One that reaches as far but holds other entries
// does not count, whatever is stored besides: those were never committed. Here
// the members of an interrupted install are stored, which say that entries were.
func TestStartGivesUpWhatASnapshotContradicts(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.durable = true
	c.mustOpen(0, 1, 2)
	c.write(1, 5)
	c.until("beginning", func() bool { return c.converged(5) })
	for at := c.leader(1); at != 2; at = c.leader(1) {
		if err := c.places[at].steps.TransferLeader(c.group(at, 1), 3); err != nil {
			t.Fatal(err)
		}
		c.tick(40)
	}
	alone := func(from, to wire.StoreID, _ *wire.Message) bool { return from != 3 && to != 3 }
	c.pass = alone
	for range 300 {
		if err := c.group(2, 1).ProposeAsync([]byte("lost"), engine.NewPending(&tally{})); err != nil {
			t.Fatal(err)
		}
		c.settle()
	}
	c.crash(2, vfs.ProcessDies)
	c.pass = nil
	c.write(1, 60)
	for range 9 - len(c.places) { // learner 9 is on a store that is never there
		c.places = append(c.places, &place{})
	}
	lead := c.leader(1)
	change := group.MembershipChange{Changes: []group.Change{{Op: group.AddLearner, Replica: 9, Store: 9}}}
	changed := false
	if err := c.group(lead, 1).ChangeMembersAsync(change, func(_ engine.Membership, err error) { changed = err == nil }); err != nil {
		t.Fatal(err)
	}
	c.until("changed", func() bool { return changed })
	c.write(1, 60)
	var index wire.Index
	if err := c.group(lead, 1).SnapshotAsync(func(i wire.Index, err error) { index = i }); err != nil {
		t.Fatal(err)
	}
	c.settle()
	m, p := c.group(lead, 1).Membership(), c.places[2]
	copyFile(t, c.places[lead].fs, p.fs, "/store/snapshots/"+c.places[lead].snapshotFiles(t)[0])

	l, err := raftlog.Open(raftlog.Options{FS: p.fs, Dir: "/store", Cluster: 7, Store: 3, SegmentBytes: 64 << 10, Serial: true})
	if err != nil {
		t.Fatal(err)
	}
	if last := l.Group(1).Last(); index == 0 || m.Index == 0 || last <= index {
		t.Fatalf("the log ends at %d, the snapshot at %d, members of %d", last, index, m.Index)
	}
	b := &raftlog.Batch{}
	b.Meta(l.Group(1), (&wire.Membership{Index: m.Index, Members: m.Members, MaxReplica: m.MaxReplica}).AppendTo((&wire.Descriptor{Replica: 3}).AppendTo(nil)))
	l.Submit(b)
	for l.Step() {
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	c.pass = alone
	c.mustOpen(2)
	c.tick(5)
	if slices.Contains(p.books[1].commands, "lost") {
		t.Fatal("applied what was never committed")
	}
	if st := c.group(2, 1).Status(); st.First != index+1 || st.Applied != index {
		t.Errorf("the replica did not begin behind the snapshot at %d: %+v", index, st)
	}
	c.pass = nil
	c.write(1, 2)
	c.until("all have the same", func() bool { return c.converged(127) })
}
