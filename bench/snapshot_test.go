package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"

	"multiraft/engine"
	"multiraft/wire"
)

// far is a sequence number that a snapshot needs more than one piece for.
const far = (pieceWords + 100) * 64

// captured returns a machine with some writes and what its snapshot wrote.
func captured(t *testing.T) (*machine, []byte) {
	t.Helper()
	m := newMachine(7, true)
	if err := m.Apply(testEntries(2, 0, 1, 5, far, 1)); err != nil {
		t.Fatal(err)
	}
	w, err := snapshotMachine{m}.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	// What is applied after the capture is not in it.
	if err := m.Apply(testEntries(10, 2, 6)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if n, err := w.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("%d bytes written, %d there: %v", n, b.Len(), err)
	}
	return m, b.Bytes()
}

// A machine that was restored and applies the rest holds what one holds that
// applied everything, and still notices what was applied before.
func TestSnapshotMachine(t *testing.T) {
	m, b := captured(t)
	other := newMachine(7, true)
	if err := other.Apply(testEntries(1, 99)); err != nil { // it is replaced, not added to
		t.Fatal(err)
	}
	if err := (snapshotMachine{other}).Restore(8, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if err := other.Apply(testEntries(10, 2, 6)); err != nil {
		t.Fatal(err)
	}
	want, got := m.state(), other.state()
	if got.restored != 8 || got.duplicates != 1 || got.firstDuplicate != 1 {
		t.Errorf("%+v", got)
	}
	got.restored = 0
	for _, n := range []uint64{0, 1, 2, 5, 6, far} {
		if !got.sequences.has(n) {
			t.Errorf("write %d is missing", n)
		}
	}
	if n := got.sequences.count(); n != want.sequences.count() {
		t.Errorf("%d writes, want %d", n, want.sequences.count())
	}
	got.sequences, want.sequences = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, n := range []uint64{5, far} {
		before := other.state().duplicates
		if err := other.Apply(testEntries(other.state().index+1, n)); err != nil || other.state().duplicates != before+1 {
			t.Errorf("write %d once more: %v, %d duplicates", n, err, other.state().duplicates)
		}
	}
	if err := (snapshotMachine{other}).Restore(8, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if err := other.Apply(testEntries(6, 50)); err == nil {
		t.Error("an entry that is in the snapshot was applied after it")
	}
}

func TestSnapshotMachineRefusesNonsense(t *testing.T) {
	_, b := captured(t)
	restore := func(b []byte, index wire.Index) error {
		return snapshotMachine{newMachine(7, true)}.Restore(index, bytes.NewReader(b))
	}
	for _, cut := range []int{0, 8, snapshotHeadBytes - 1, snapshotHeadBytes, snapshotHeadBytes + 8*pieceWords, len(b) - 1} {
		if err := restore(b[:cut], 8); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	if err := restore(b, 5); !errors.Is(err, errBadSnapshot) {
		t.Errorf("with entries behind its index: %v", err)
	}
	for at, value := range map[int]uint64{0: 8, 6: maxSequence/64 + 1} {
		bad := bytes.Clone(b)
		binary.LittleEndian.PutUint64(bad[8*at:], value)
		if err := restore(bad, 8); !errors.Is(err, errBadSnapshot) {
			t.Errorf("number %d is %d: %v", at, value, err)
		}
	}
	w, err := snapshotMachine{newMachine(7, true)}.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteTo(fullWriter{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("to a full disk: %v", err)
	}
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// Stores whose logs are compacted come back with what they had, from snapshots,
// and logs are as short as they should be.
func TestClusterRestartsFromSnapshots(t *testing.T) {
	const groups, rounds, every = 3, 20, 20
	cfg := Config{Groups: groups, Snapshots: every, NoSync: true, SegmentBytes: 4 << 20, Verify: true,
		Dir: t.TempDir(), Seed: 5, Transport: TransportMemory}.WithDefaults()
	ctx, silent := context.Background(), func(Update) {}
	open := func() *cluster {
		c, err := openCluster(ctx, &cfg, cfg.Dir, silent)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.waitLeaders(ctx, silent); err != nil {
			t.Fatal(errors.Join(err, c.close()))
		}
		return c
	}
	look := func(c *cluster) (all []string, restored int) {
		var found findings
		if err := c.settle(ctx, silent, &found); err != nil || found.err() != nil {
			t.Fatal(err, found.err())
		}
		for place := range groups {
			states := c.states(place)
			checkGroup(groupID(place), nil, states, &found)
			for _, s := range states {
				all = append(all, fmt.Sprint(s.store, s.index, s.count, s.digest, s.sequences.count()))
				if s.restored > 0 {
					restored++
				}
			}
		}
		if found.err() != nil {
			t.Fatal(found.err())
		}
		return all, restored
	}

	c := open()
	sequence := uint64(0)
	for range rounds {
		for place := range groups {
			var batch engine.Batch
			g := c.replicas(place)[c.leader(place)-1]
			for range every {
				batch.Add(g, binary.LittleEndian.AppendUint64(nil, sequence))
				sequence++
			}
			if err := errors.Join(g.Store().ProposeBatch(&batch), batch.Wait(ctx), batch.Err()); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, _ := look(c)
	for place := range groups {
		for _, g := range c.replicas(place) {
			// Those that are made by themselves may be on their way still.
			if _, err := g.Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	c = open()
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	after, restored := look(c)
	if restored != groups*cfg.Replicas {
		t.Errorf("%d of %d replicas began with a snapshot", restored, groups*cfg.Replicas)
	}
	// Only the index of the last command is remembered, so elections do not show.
	if !reflect.DeepEqual(after, before) {
		t.Errorf("after the restart:\n%q\nbefore:\n%q", after, before)
	}
	for place := range groups {
		for i, g := range c.replicas(place) {
			if st := g.Status(); st.Last-st.First > rounds*every/2 {
				t.Errorf("group %d, store %d: entries %d to %d are in the log", groupID(place), i+1, st.First, st.Last)
			}
		}
	}
}
