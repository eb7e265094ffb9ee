package engine

import (
	"errors"
	"io"
	"slices"
	"testing"

	"multiraft/internal/snapfile"
	"multiraft/internal/vfs"
	"multiraft/transport"
	"multiraft/wire"
)

// nowhere is a transport without peers.
type nowhere struct{}

func (nowhere) Start(transport.Handler) error              { return nil }
func (nowhere) Close() error                               { return nil }
func (nowhere) Stats() transport.Stats                     { return transport.Stats{} }
func (nowhere) Buffer() []byte                             { return nil }
func (nowhere) Send(wire.StoreID, wire.Lane, []byte) error { return nil }

// pausing is a machine with a constant state, that has something done while it
// writes it.
type pausing struct {
	during func()
	fail   error
}

func (p *pausing) Apply([]Entry) error            { return nil }
func (p *pausing) Query(any) (any, error)         { return nil, nil }
func (p *pausing) Snapshot() (io.WriterTo, error) { return p, nil }

func (p *pausing) Restore(_ wire.Index, r io.Reader) error {
	_, err := io.ReadAll(r)
	return err
}

func (p *pausing) WriteTo(w io.Writer) (int64, error) {
	if p.during != nil {
		p.during()
	}
	if p.fail != nil {
		return 0, p.fail
	}
	n, err := w.Write([]byte("state"))
	return int64(n), err
}

// noPendings wants to know of no proposal.
type noPendings struct{}

func (noPendings) ProposalsDone([]*Pending) {}

// TestDiscardLeavesOwnSnapshots: a received snapshot is not wanted any more, and
// the group is writing one of the same entry, which gets the same name. Whichever
// comes first, what the log is compacted behind stays; and when the group's own
// comes to nothing, the received one goes.
func TestDiscardLeavesOwnSnapshots(t *testing.T) {
	for _, c := range []struct {
		name   string
		fail   error
		offset wire.Index // of the received one from the own one
		files  int
	}{
		{"same entry", nil, 0, 1},
		{"same entry, own one fails", errors.New("no paper"), 0, 0},
		{"another entry", nil, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.New(vfs.Options{})
			machine := &pausing{}
			open := func() (*Store, *Stepper, *Group) {
				s, d, err := OpenStepped(Config{Cluster: 1, ID: 1, Dir: "/s", Seed: 1, FS: fs, Transport: nowhere{}, Workers: 1, Appliers: 1,
					KeepEntries: 1, SnapshotEntries: 100_000})
				if err != nil {
					t.Fatal(err)
				}
				g, err := s.StartGroup(t.Context(), GroupConfig{ID: 1, Members: []Member{{Replica: 1, Store: 1}}, StateMachine: machine})
				if err != nil {
					t.Fatal(err)
				}
				return s, d, g
			}
			s, d, g := open()
			run := func() {
				for again := true; again; {
					again = false
					for _, did := range []bool{d.Worker(0), d.Log(), d.Applier(0), d.Snapshots(), d.Events()} {
						again = did || again
					}
				}
			}
			for range 20 {
				d.Tick()
				run()
			}
			for range 50 {
				if err := g.ProposeAsync([]byte("x"), NewPending(noPendings{})); err != nil {
					t.Fatal(err)
				}
				run()
			}
			own := wire.Index(g.replica.applied.Load())
			received := snapfile.Name{Group: 1, Index: own + c.offset}
			machine.fail = c.fail
			machine.during = func() {
				// What beginInstall does with a snapshot that holds nothing new, whose
				// file came before.
				if err := writeSnapshot(fs, received); err != nil {
					t.Fatal(err)
				}
				s.snaps.post(snapEvent{kind: snapDiscard, group: 1, index: received.Index})
				s.snaps.step()
			}
			var made error
			if err := g.SnapshotAsync(func(_ wire.Index, err error) { made = err }); err != nil {
				t.Fatal(err)
			}
			run()
			if !errors.Is(made, c.fail) {
				t.Fatal(made)
			}
			names, err := fs.List("/s/snapshots")
			if err != nil || len(names) != c.files {
				t.Errorf("files %v (%v), want %d", names, err, c.files)
			}
			if first := g.Status().First; (first > 1) != (c.fail == nil) {
				t.Errorf("the log begins at %d", first)
			}
			// Nor is a suspect snapshot removed, before there is another one.
			if c.fail == nil {
				s.snaps.mu.Lock()
				s.snaps.files[1].bad = true
				s.snaps.mu.Unlock()
				s.snaps.discard(snapfile.Name{Group: 1, Index: own})
				if after, err := fs.List("/s/snapshots"); err != nil || !slices.Equal(names, after) {
					t.Errorf("files %v (%v), want %v", after, err, names)
				}
			}
			machine.fail = nil
			fs = fs.CrashClone(nil, vfs.ProcessDies)
			open()
		})
	}
}

// writeSnapshot writes a file that nobody knows of, and which did not come by the
// way on which a store makes its own.
func writeSnapshot(fs *vfs.MemFS, name snapfile.Name) error {
	dir, _, err := snapfile.OpenDir(fs, "/elsewhere", false)
	if err != nil {
		return err
	}
	w, err := dir.Create(snapfile.Meta{
		Cluster: 1, Store: 2, Group: name.Group, Index: name.Index, Term: 1, Nonce: 5, ChunkBytes: 512,
		Members: wire.Membership{Members: []Member{{Replica: 1, Store: 1}}, MaxReplica: 1},
	})
	if err != nil {
		return err
	}
	if _, err := w.Commit(); err != nil {
		return err
	}
	names, err := fs.List("/elsewhere")
	if err != nil || len(names) != 1 {
		return errors.Join(err, errors.New("one file was written"))
	}
	return fs.Rename("/elsewhere/"+names[0], "/s/snapshots/"+names[0])
}
