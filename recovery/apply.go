package recovery

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"multiraft/internal/snapfile"
	"multiraft/raftlog"
	"multiraft/wire"
)

// ApplyOptions are what Apply needs besides the plan.
type ApplyOptions struct {
	// Confirm is what [Plan.Confirmation] returns, typed by who has read the plan.
	Confirm string
	// Time goes into the record that is left in the directory of the store.
	Time time.Time
	// By goes there as well: who did it, in words.
	By string
}

// Result is what Apply did to one store.
type Result struct {
	Store wire.StoreID
	// Changed are the groups that were changed, Done those that were as planned
	// already, by an earlier call.
	Changed, Done []wire.GroupID // never nil
	// Record is the file with the plan and what became of it.
	Record string
}

// Apply does to one store what a plan says. The store must be as the plan found it:
// all groups that the plan is about are checked before anything is written.
//
// A call that ends in the middle, by an error or with the machine, has changed some
// of the groups; the next call goes on with the others. It is as well to call it
// again when it is done.
func (d Disk) Apply(p *Plan, o ApplyOptions) (*Result, error) {
	d = d.withDefaults()
	if p.Format != Format {
		return nil, fmt.Errorf("plan of format %d, want %d: %w", p.Format, Format, ErrFormat)
	}
	hash, err := p.Hash()
	if err != nil {
		return nil, err
	}
	if o.Confirm != hash[:confirmDigits] {
		return nil, ErrConfirm
	}
	work, err := d.prepare(p, hash)
	if err != nil {
		return nil, err
	}
	result := &Result{Store: work.store, Changed: []wire.GroupID{}, Done: []wire.GroupID{}, Record: filepath.Join(d.Dir, recordPrefix+hash[:confirmDigits]+recordSuffix)}
	entry := record{Hash: hash, Store: work.store, Begun: o.Time, By: o.By, Plan: p}
	if err := d.writeRecord(result.Record, &entry); err != nil {
		return nil, err
	}
	if err := d.change(work, result); err != nil {
		return nil, err
	}
	entry.Done = true
	return result, d.writeRecord(result.Record, &entry)
}

// task is what Apply does to one store.
type task struct {
	store        wire.StoreID
	cluster      uint64
	segmentBytes int64
	mark         uint64 // the plan's, in what is stored
	steps        []step
}

// step is what is done to one group.
type step struct {
	group   *GroupPlan
	replica ReplicaPlan
}

// prepare looks whether the store is as the plan found it. It changes nothing.
func (d Disk) prepare(p *Plan, hash string) (*task, error) {
	log, err := raftlog.Inspect(raftlog.Options{FS: d.FS, Dir: d.Dir})
	if err != nil {
		return nil, err
	}
	id := log.Identity()
	t := &task{store: id.Store, cluster: id.Cluster, segmentBytes: log.SegmentBytes()}
	planned := slices.Contains(p.Stores, StorePlan{id.Store, hex.EncodeToString(id.UUID[:])}) && p.Cluster == id.Cluster
	if !planned {
		err = fmt.Errorf("store %d of cluster %d: %w", id.Store, id.Cluster, ErrNotPlanned)
	}
	if err == nil {
		t.mark, err = strconv.ParseUint(hash[:confirmDigits], 16, 64)
	}
	for i := range p.Groups {
		g := &p.Groups[i]
		for _, r := range g.Replicas {
			if r.Store == id.Store && r.Action != Leave {
				t.steps = append(t.steps, step{g, r})
			}
		}
	}
	var names []snapfile.Name
	if err == nil {
		names, err = d.snapshots()
	}
	for _, s := range t.steps {
		if err == nil {
			_, err = s.check(t, log.Group(s.group.Group), names)
		}
	}
	return t, errors.Join(err, log.Close())
}

// check tells whether a step is done already. It returns a [*ChangedError] when it
// can be done no more. names are the snapshots of the store.
func (s *step) check(t *task, g logGroup, names []snapfile.Name) (done bool, err error) {
	stored, meta := new(wire.Stored), g.Meta()
	if len(meta) > 0 {
		if err := stored.Decode(meta); err != nil {
			return false, fmt.Errorf("store %d: group %d: %w", t.store, s.group.Group, err)
		}
	}
	switch {
	case t.mark == 0:
		return false, ErrConfirm // no plan has this hash
	case stored.Recovery.Plan == t.mark:
		return true, nil // it may have gone on since
	case markOf(g, meta, names) != s.replica.Mark:
		return false, &ChangedError{t.store, s.group.Group}
	}
	return false, nil
}

// change opens the log and writes what is to be changed, one group after the other.
func (d Disk) change(t *task, result *Result) (err error) {
	log, err := raftlog.Open(raftlog.Options{
		FS: d.FS, Dir: d.Dir, Cluster: t.cluster, Store: t.store, SegmentBytes: t.segmentBytes, Serial: true,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	sink := &outcome{}
	log.SetSink(sink)
	names, err := d.snapshots() // again: the store may have been open since prepare
	if err != nil {
		return err
	}
	for _, s := range t.steps {
		g := log.Group(s.group.Group)
		done, err := s.check(t, g, names)
		if err != nil {
			return err
		}
		if done {
			result.Done = append(result.Done, g.ID())
			continue
		}
		batch := new(raftlog.Batch)
		if err := s.fill(t, batch, g); err != nil {
			return fmt.Errorf("store %d: group %d: %w", t.store, g.ID(), err)
		}
		log.Submit(batch)
		for log.Step() {
		}
		if err := sink.err; err != nil {
			return err
		}
		result.Changed = append(result.Changed, g.ID())
	}
	return nil
}

// outcome hears what became of batches.
type outcome struct{ err error }

func (o *outcome) Durable(_ []*raftlog.Batch, err error) { o.err = errors.Join(o.err, err) }

// fill puts a step into a batch. Q5: all of it is in one batch of the log, as it is
// smaller than that may be.
func (s *step) fill(t *task, b *raftlog.Batch, g *raftlog.Group) error {
	stored, p := new(wire.Stored), s.group
	if err := stored.Decode(g.Meta()); err != nil {
		return err
	}
	after := wireMembers(p.After)
	stored.Descriptor.State &^= wire.Joining
	stored.Recovery = wire.Recovery{
		Generation: p.Generation, Index: p.Floor, Term: p.Term, Ceiling: p.Ceiling, Plan: t.mark, Survivors: after,
	}
	switch s.replica.Action {
	case Lead:
		if snap := s.replica.Snapshot; snap != nil {
			b.Restart(g, snap.Index, snap.Term)
		}
		m := wire.Membership{MaxReplica: p.Ceiling, Members: after}
		b.HardState(g, wire.HardState{Term: p.Term, Vote: p.Source, Commit: p.Floor})
		block := wire.AppendPayload(wire.NewBlock(nil), m.AppendTo(nil))
		block.Seal(p.Group, p.Floor, p.Term, wire.EntryConfig, 1)
		b.Append(g, block)
		stored.Members = m
		stored.Members.Index = p.Floor
	case Follow:
		// Q2: it waits for the floor as a learner.
		stored.Members.Members, stored.Members.AutoLeave = slices.Clone(after), false
		stored.Members.MaxReplica = p.Ceiling
		for i := range stored.Members.Members {
			m := &stored.Members.Members[i]
			m.Role = wire.Learner
			if m.Replica == p.Source {
				m.Role = wire.Voter
			}
		}
	case Bar:
		stored.Descriptor.State |= wire.Barred
	default:
		return fmt.Errorf("%w: action %q", ErrFormat, s.replica.Action)
	}
	b.Meta(g, stored.AppendTo(nil))
	return nil
}

// wireMembers returns the members that go on as the log has them.
func wireMembers(members []Member) []wire.Member {
	var list []wire.Member
	for _, m := range members {
		role := wire.Learner
		if m.Voter {
			role = wire.Voter
		}
		list = append(list, wire.Member{Replica: m.Replica, Store: m.Store, Role: role})
	}
	return list
}

// The record of a recovery, in the directory of the store. Its names must be those
// that engine takes for ours.
const (
	recordPrefix    = "recovery-"
	recordSuffix    = ".json"
	recordTemporary = ".tmp"
)

// record is what stays for an operator to read.
type record struct {
	Hash  string       `json:"hash"`
	Store wire.StoreID `json:"store"`
	Begun time.Time    `json:"begun"`
	By    string       `json:"by,omitempty"`
	Done  bool         `json:"done"`
	Plan  *Plan        `json:"plan"`
}

// writeRecord puts a record in the place of an older one, durably.
func (d Disk) writeRecord(name string, r *record) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	temporary := name + recordTemporary
	f, err := d.FS.Create(temporary)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.FS.Rename(temporary, name)
	}
	if err == nil {
		err = d.FS.SyncDir(d.Dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Records returns the plans that were applied to a disk, with whether they were
// carried out to their end, by hash. It takes no lock.
func (d Disk) Records() (done map[string]bool, err error) {
	d = d.withDefaults()
	names, err := d.FS.List(d.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	done = make(map[string]bool)
	for _, base := range names {
		if len(base) != len(recordPrefix)+confirmDigits+len(recordSuffix) || base[:len(recordPrefix)] != recordPrefix || filepath.Ext(base) != recordSuffix {
			continue
		}
		f, err := d.FS.Open(filepath.Join(d.Dir, base))
		if err != nil {
			return nil, err
		}
		var r record
		size, err := f.Size()
		if err == nil {
			err = json.NewDecoder(io.NewSectionReader(f, 0, size)).Decode(&r)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read %s: %w", base, err)
		}
		done[r.Hash] = r.Done
	}
	return done, nil
}
