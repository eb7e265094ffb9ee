package recovery

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"multiraft/internal/snapfile"
	"multiraft/raftlog"
	"multiraft/wire"
)

// Format is the version of surveys and plans. A program refuses those of another.
const Format = 1

// Survey is what one store holds.
type Survey struct {
	Format      int          `json:"format"`
	Cluster     uint64       `json:"cluster"`
	Store       wire.StoreID `json:"store"`
	UUID        string       `json:"uuid"`
	Incarnation uint64       `json:"incarnation"`
	Replicas    []Replica    `json:"replicas"` // by group
}

// Replica is what a store holds of one group.
type Replica struct {
	Group   wire.GroupID   `json:"group"`
	Replica wire.ReplicaID `json:"replica"`
	State   State          `json:"state"`

	Term   wire.Term      `json:"term"`
	Vote   wire.ReplicaID `json:"vote"`
	Commit wire.Index     `json:"commit"` // known to be committed at least

	First    wire.Index `json:"first"` // entry in the log
	Last     wire.Index `json:"last"`
	LastTerm wire.Term  `json:"lastTerm"`

	// Members is the membership that was applied last, Pending are those of entries
	// behind it, which may be committed or not.
	Members Membership   `json:"members"`
	Pending []Membership `json:"pending,omitempty"`

	// Snapshot is the newest one that is sound.
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	// Generation counts the recoveries that the replica has survived, Ceiling bounds
	// the ids that the last of them barred.
	Generation uint64         `json:"generation,omitempty"`
	Ceiling    wire.ReplicaID `json:"ceiling,omitempty"`
	// Plan is the confirmation of the plan of that recovery, Survivors who it had go on.
	Plan      string           `json:"plan,omitempty"`
	Survivors []wire.ReplicaID `json:"survivors,omitempty"`
	// Problems are for an operator to read. The state says what they mean.
	Problems []string `json:"problems,omitempty"`
	// Mark changes with everything above that Apply builds on.
	Mark string `json:"mark"`
}

// State is what a replica is good for.
type State string

// States of replicas.
const (
	// Whole: it can go on.
	Whole State = "whole"
	// Joining: it was added, and has not heard of a membership that it is in.
	Joining State = "joining"
	// Gone: it was removed, and left a tombstone.
	Gone State = "gone"
	// Barred: a recovery left it behind.
	Barred State = "barred"
	// Damaged: entries or promises of it are lost, so it counts as lost itself.
	Damaged State = "damaged"
	// Diverged: its state machine has another state than those of a majority, so it is
	// not started again and counts as lost. What its log says is right.
	Diverged State = "diverged"
)

// Membership is a configuration of a group.
type Membership struct {
	Index      wire.Index     `json:"index"` // of the entry that made it
	MaxReplica wire.ReplicaID `json:"maxReplica"`
	Members    []Member       `json:"members"`
}

// Member is one replica of a membership. A voter of both halves of a joint
// configuration is Voter and Outgoing.
type Member struct {
	Replica  wire.ReplicaID `json:"replica"`
	Store    wire.StoreID   `json:"store"`
	Voter    bool           `json:"voter,omitempty"`
	Outgoing bool           `json:"outgoing,omitempty"`
	Learner  bool           `json:"learner,omitempty"`
}

// Snapshot is a file with the state up to an entry.
type Snapshot struct {
	Index wire.Index `json:"index"`
	Term  wire.Term  `json:"term"`
	Bytes uint64     `json:"bytes"`
	// Ahead: the log does not hold that entry. The store ended in the middle of
	// installing the snapshot, and a start would put the log behind it.
	Ahead bool `json:"ahead,omitempty"`
}

// end is where the log of a replica ends once its store has started.
func (r *Replica) end() (wire.Term, wire.Index) {
	if r.ahead() {
		return r.Snapshot.Term, r.Snapshot.Index
	}
	return r.LastTerm, r.Last
}

// ahead says whether the snapshot takes the place of the log.
func (r *Replica) ahead() bool { return r.Snapshot != nil && r.Snapshot.Ahead }

// committed is what the replica knows to be committed. A snapshot holds nothing
// else.
func (r *Replica) committed() wire.Index {
	known := max(r.Commit, r.First-1, r.Members.Index)
	if r.Snapshot != nil {
		known = max(known, r.Snapshot.Index)
	}
	return known
}

// Disk is the directory of a store that is not open.
type Disk struct {
	// FS replaces the operating system's files.
	FS  raftlog.FS
	Dir string
	// SkipSnapshots leaves out reading snapshots from one end to the other, which
	// takes as long as the disk needs for their bytes. Their heads are looked at.
	SkipSnapshots bool
}

func (d Disk) withDefaults() Disk {
	if d.FS == nil {
		d.FS = raftlog.OSFS{}
	}
	return d
}

const (
	// snapshotDir is where engine keeps snapshots.
	snapshotDir = "snapshots"
	// outlivedFile is what engine leaves in a directory that is known to be an older copy.
	outlivedFile = "outlived"
)

// Survey looks at a disk. It writes nothing, and returns [raftlog.ErrLocked] for a
// store that is open.
func (d Disk) Survey() (*Survey, error) {
	d = d.withDefaults()
	log, err := raftlog.Inspect(raftlog.Options{FS: d.FS, Dir: d.Dir})
	if err != nil {
		return nil, err
	}
	s, err := d.survey(log)
	return s, errors.Join(err, log.Close())
}

func (d Disk) survey(log *raftlog.Inspection) (*Survey, error) {
	id := log.Identity()
	s := &Survey{
		Format: Format, Cluster: id.Cluster, Store: id.Store, UUID: hex.EncodeToString(id.UUID[:]), Incarnation: id.Incarnation,
		Replicas: []Replica{},
	}
	names, err := d.snapshots()
	if err != nil {
		return nil, err
	}
	files, err := d.FS.List(d.Dir)
	if err != nil {
		return nil, err
	}
	isCopy := slices.Contains(files, outlivedFile)
	for _, group := range log.Groups() {
		r, ok, err := d.replica(log.Group(group), names, id.Cluster)
		if err != nil {
			return nil, fmt.Errorf("store %d: group %d: %w", id.Store, group, err)
		}
		if isCopy && r.State != Gone {
			r.State = Damaged
			r.Problems = append(r.Problems, "the directory is an older copy of the store's: what was promised since is not in there")
		}
		if ok {
			s.Replicas = append(s.Replicas, r)
		}
	}
	return s, nil
}

// logGroup is what recovery reads of a group, of an open log or an inspected one.
type logGroup interface {
	ID() wire.GroupID
	HardState() wire.HardState
	Meta() []byte
	First() wire.Index
	Last() wire.Index
	Term(wire.Index) (wire.Term, error)
	Blocks(lo, hi wire.Index, maxBytes int, dst []byte) ([]byte, error)
	NextSingle(lo, hi wire.Index) wire.Index
	Err() error
}

// replica describes a group. It returns false for one of which nothing is known.
func (d Disk) replica(g logGroup, names []snapfile.Name, cluster uint64) (r Replica, ok bool, err error) {
	stored, hs := new(wire.Stored), g.HardState()
	r = Replica{
		Group: g.ID(), State: Whole, Term: hs.Term, Vote: hs.Vote, Commit: hs.Commit, First: g.First(), Last: g.Last(),
	}
	meta := g.Meta()
	r.Mark = markOf(g, meta, names)
	problem := func(state State, format string, args ...any) {
		r.State = state
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
	switch {
	case len(meta) == 0 && g.Err() == nil:
		return r, false, nil // written to and given up before it was started
	case len(meta) == 0:
		problem(Damaged, "%v", g.Err())
		return r, true, nil
	}
	if err := stored.Decode(meta); err != nil {
		problem(Damaged, "stored descriptor: %v", err)
		return r, true, nil
	}
	r.Replica, r.Members = stored.Descriptor.Replica, membershipOf(&stored.Members)
	r.setRecovery(&stored.Recovery)
	if err := g.Err(); err != nil {
		problem(Damaged, "%v", err)
		return r, true, nil
	}
	switch state := stored.Descriptor.State; {
	case state&wire.Gone != 0:
		r.State = Gone
		return r, true, nil
	case state&wire.Lost != 0:
		problem(Damaged, "it has forgotten what it promised, and waits for another to take its place")
		return r, true, nil
	case state&wire.Barred != 0:
		r.State = Barred
	case state&wire.Diverged != 0:
		problem(Diverged, "its state machine has another state than those of a majority")
	case state&wire.Joining != 0:
		r.State = Joining
	}
	if r.LastTerm, err = g.Term(r.Last); err != nil {
		return r, false, err
	}
	// Those in front of the floor were passed over for good (group, G17).
	if err := r.readPending(g, max(stored.Members.Index+1, stored.Recovery.Index)); err != nil {
		problem(Damaged, "%v", err)
		return r, true, nil
	}
	r.findSnapshot(d, g, names, cluster)
	return r, true, nil
}

func (r *Replica) setRecovery(from *wire.Recovery) {
	if r.Generation = from.Generation; r.Generation == 0 {
		return
	}
	r.Ceiling, r.Plan = from.Ceiling, fmt.Sprintf("%0*x", confirmDigits, from.Plan)
	for _, m := range from.Survivors {
		r.Survivors = append(r.Survivors, m.Replica)
	}
}

// pendingBytes is how much of a log is read at a time.
const pendingBytes = 1 << 20

// readPending finds the memberships of entries from one on.
func (r *Replica) readPending(g logGroup, from wire.Index) error {
	for next := max(from, r.First); next <= r.Last; {
		if next = g.NextSingle(next, r.Last+1); next > r.Last {
			return nil // a membership is alone in its block
		}
		blocks, err := g.Blocks(next, r.Last+1, pendingBytes, nil)
		if err != nil {
			return err
		}
		for len(blocks) > 0 {
			block, rest, err := wire.ParseBlock(blocks)
			if err != nil {
				return err
			}
			if block.Kind() == wire.EntryConfig {
				m, err := pendingOf(block)
				if err != nil {
					return fmt.Errorf("membership of entry %d: %w", block.First(), err)
				}
				r.Pending = append(r.Pending, m)
			}
			next, blocks = block.Last()+1, rest
		}
	}
	return nil
}

func pendingOf(block wire.Block) (Membership, error) {
	payload, _, ok := wire.NextPayload(block.Payloads())
	if !ok {
		return Membership{}, wire.ErrBadBlock
	}
	m := new(wire.Membership)
	if _, err := m.Decode(payload); err != nil {
		return Membership{}, err
	}
	m.Index = block.First()
	return membershipOf(m), nil
}

// findSnapshot takes the newest snapshot that is sound.
func (r *Replica) findSnapshot(d Disk, g logGroup, names []snapfile.Name, cluster uint64) {
	for i := len(names) - 1; i >= 0; i-- {
		if names[i].Group != r.Group {
			continue
		}
		info, err := d.openSnapshot(names[i])
		if err == nil && info.Cluster != cluster {
			err = fmt.Errorf("it is of cluster %d", info.Cluster)
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				r.Problems = append(r.Problems, fmt.Sprintf("snapshot at %d: %v", names[i].Index, err))
			}
			continue
		}
		r.Snapshot = &Snapshot{Index: info.Index, Term: info.Term, Bytes: info.Bytes}
		if info.Index < r.First {
			break
		}
		term, err := g.Term(info.Index) // none behind the end
		if r.Snapshot.Ahead = err != nil || term != info.Term; r.Snapshot.Ahead {
			// What it does not know of the log's memberships was never committed.
			r.Pending = nil
			if info.Members.Index > r.Members.Index {
				r.Members = membershipOf(&info.Members)
			}
		}
		break
	}
	if r.First > 1 && (r.Snapshot == nil || r.Snapshot.Index < r.First-1) {
		r.Problems = append(r.Problems, fmt.Sprintf("entries in front of %d are compacted and no snapshot holds them: only a state machine that keeps its state itself can go on from here", r.First))
	}
}

// snapshots lists those that are complete.
func (d Disk) snapshots() ([]snapfile.Name, error) {
	return snapfile.List(d.FS, filepath.Join(d.Dir, snapshotDir))
}

func (d Disk) openSnapshot(name snapfile.Name) (*snapfile.Info, error) {
	file, err := snapfile.OpenFile(d.FS, snapfile.Path(filepath.Join(d.Dir, snapshotDir), name))
	if err != nil {
		return nil, err
	}
	info := *file.Info()
	if !d.SkipSnapshots {
		err = file.Verify()
	}
	return &info, errors.Join(err, file.Close())
}

// markOf returns what changes with a group. A snapshot that was received and not
// installed has changed nothing in the log yet, so the names of those that there are
// count as well; what is in them does not, as a look at it may be left out.
func markOf(g logGroup, meta []byte, names []snapfile.Name) string {
	sum, hs, last := xxhash.New(), g.HardState(), g.Last()
	// An error has no term, and shows as zero; damage shows in what is left.
	term, _ := g.Term(last)
	b := hs.AppendTo(append([]byte(nil), meta...))
	for _, v := range [...]uint64{uint64(g.First()), uint64(last), uint64(term)} {
		b = strconv.AppendUint(append(b, ' '), v, 10)
	}
	if g.Err() != nil {
		b = append(b, '!')
	}
	for _, name := range names {
		if name.Group == g.ID() {
			b = strconv.AppendUint(append(b, '+'), uint64(name.Index), 10)
		}
	}
	_, _ = sum.Write(b) // documented never to fail
	return strconv.FormatUint(sum.Sum64(), 16)
}

func membershipOf(m *wire.Membership) Membership {
	out := Membership{Index: m.Index, MaxReplica: m.MaxReplica, Members: []Member{}}
	for _, member := range m.Members {
		out.MaxReplica = max(out.MaxReplica, member.Replica)
		out.Members = append(out.Members, Member{
			Replica: member.Replica, Store: member.Store,
			Voter: member.Role&wire.Voter != 0, Outgoing: member.Role&wire.Outgoing != 0, Learner: member.Role&wire.Learner != 0,
		})
	}
	return out
}

// Encode returns the survey as text for machines.
func (s *Survey) Encode() ([]byte, error) { return json.MarshalIndent(s, "", " ") }

// DecodeSurvey reads what Encode wrote.
func DecodeSurvey(b []byte) (*Survey, error) {
	s := new(Survey)
	if err := decode(b, s); err != nil {
		return nil, fmt.Errorf("survey: %w", err)
	}
	if s.Format != Format {
		return nil, fmt.Errorf("survey of format %d, want %d: %w", s.Format, Format, ErrFormat)
	}
	return s, nil
}
