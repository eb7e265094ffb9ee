package recovery

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"multiraft/wire"
)

// Plan says what Apply is to do, to which stores, and what it costs. It is data: two
// plans are the same when their hashes are.
type Plan struct {
	Format  int    `json:"format"`
	Cluster uint64 `json:"cluster"`
	// Force is why groups with a quorum are recovered as well, empty when none is.
	Force  string      `json:"force,omitempty"`
	Stores []StorePlan `json:"stores"` // that were surveyed, by id
	Groups []GroupPlan `json:"groups"` // to be recovered, by id
	Left   []Left      `json:"left"`   // left alone, by id
}

// StorePlan names a store that was surveyed.
type StorePlan struct {
	Store wire.StoreID `json:"store"`
	UUID  string       `json:"uuid"`
}

// Left is a group that the plan does nothing about, or nothing more.
type Left struct {
	Group wire.GroupID `json:"group"`
	Why   string       `json:"why"`
}

// GroupPlan is the recovery of one group.
type GroupPlan struct {
	Group      wire.GroupID `json:"group"`
	Generation uint64       `json:"generation"`
	// Source is the replica whose log the others take over.
	Source wire.ReplicaID `json:"source"`
	// Before is the newest membership that is known to be in force, Pending are those
	// behind it that may have come into force without a survivor knowing.
	Before  Membership   `json:"before"`
	Pending []Membership `json:"pending,omitempty"`
	// Floor and Term are those of the entry with the members that go on.
	Floor wire.Index `json:"floor"`
	Term  wire.Term  `json:"term"`
	// Ceiling is the highest replica id that counts as given.
	Ceiling wire.ReplicaID `json:"ceiling"`
	// After are the members that go on.
	After []Member `json:"after"`
	// Lost are the members that are left behind, as far as they are known.
	Lost []Member `json:"lost"`

	// Committed is the last entry that a survivor knows to be committed. Those
	// behind it, up to Last, may have been or not, and are from now on.
	Committed wire.Index `json:"committed"`
	Last      wire.Index `json:"last"`
	// MayLose says that writes may have been acknowledged that no survivor holds, from
	// the entry behind Committed on. Otherwise every majority of those members has a
	// survivor, which holds what the majority has acknowledged.
	MayLose bool `json:"mayLose"`

	// Replicas are what becomes of the replicas on the stores that were surveyed, by
	// store.
	Replicas []ReplicaPlan `json:"replicas"`
	// Notes are what an operator should know before it is done.
	Notes []string `json:"notes,omitempty"`
}

// ReplicaPlan is what becomes of one replica.
type ReplicaPlan struct {
	Store   wire.StoreID   `json:"store"`
	Replica wire.ReplicaID `json:"replica"`
	Action  Action         `json:"action"`
	// Last and LastTerm are where its log ends, Mark is what it is like.
	Last     wire.Index `json:"last"`
	LastTerm wire.Term  `json:"lastTerm"`
	Mark     string     `json:"mark"`
	// Snapshot is set when the source's log has to be put behind a snapshot first.
	Snapshot *Snapshot `json:"snapshot,omitempty"`
}

// Action is what becomes of a replica.
type Action string

// Actions of a plan.
const (
	// Lead: it is the source.
	Lead Action = "lead"
	// Follow: it goes on, and takes over the source's log.
	Follow Action = "follow"
	// Bar: it is no member, or nobody knows that it is, and is not started again.
	Bar Action = "bar"
	// Leave: nothing is done about it.
	Leave Action = "leave"
)

const (
	// termLeap is by how much the floor's term passes those that survivors have seen:
	// more elections than others may have held since.
	termLeap = 1 << 20
	// replicaLeap is by how much the ceiling passes the ids that survivors know:
	// others may have given more.
	replicaLeap = 1 << 16
)

// Options of NewPlan.
type Options struct {
	// Groups names the groups to recover. Nil means all that have lost their quorum.
	Groups []wire.GroupID
	// Voters are the stores whose replicas shall vote, besides the source. Nil means
	// those that were voters. The others become learners, which can be promoted.
	Voters []wire.StoreID
	// Force is why groups that have a quorum shall be recovered as well. They must be
	// named in Groups. What members do that were not surveyed, and are alive, is lost.
	Force string
}

// NewPlan makes a plan from what all surviving stores hold. A store that is alive and
// was not surveyed counts as lost: its replicas are barred.
//
// It returns [ErrNothing] with a plan that tells why nothing is to be done, and
// [*ApartError] for a group whose survivors were recovered apart.
func NewPlan(surveys []*Survey, o Options) (*Plan, error) {
	surveys = slices.Clone(surveys)
	slices.SortFunc(surveys, func(a, b *Survey) int { return cmp.Compare(a.Store, b.Store) })
	if err := check(surveys, &o); err != nil {
		return nil, err
	}
	p := &Plan{Format: Format, Cluster: surveys[0].Cluster, Force: o.Force, Groups: []GroupPlan{}, Left: []Left{}}
	byGroup := make(map[wire.GroupID][]found)
	for _, s := range surveys {
		p.Stores = append(p.Stores, StorePlan{s.Store, s.UUID})
		for _, r := range s.Replicas {
			byGroup[r.Group] = append(byGroup[r.Group], found{store: s.Store, Replica: r})
		}
	}
	ids := make([]wire.GroupID, 0, len(byGroup))
	for id := range byGroup {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range o.Groups {
		if byGroup[id] == nil {
			return nil, &InputError{Group: id, What: "no store that was surveyed holds anything of it"}
		}
	}
	for _, id := range ids {
		if o.Groups != nil && !slices.Contains(o.Groups, id) {
			p.Left = append(p.Left, Left{id, "it was not asked for"})
			continue
		}
		group, why, err := planGroup(id, byGroup[id], &o)
		switch {
		case err != nil:
			return nil, err
		case why != "":
			p.Left = append(p.Left, Left{id, why})
		default:
			p.Groups = append(p.Groups, *group)
		}
	}
	if len(p.Groups) == 0 {
		return p, ErrNothing
	}
	return p, nil
}

// found is a replica and where it was found.
type found struct {
	store wire.StoreID
	Replica
	left bool // by the newest recovery of its group, whether it knows so or not
}

// counts says whether what a replica knows is about the group as it is now. Those that
// are gone or left behind know of another one.
func (r *found) counts() bool { return r.State != Gone && r.State != Barred && !r.left }

// findLeft finds the replicas that the newest recovery has left behind. They may have
// gone on since, so what they say of members and of what is committed is that of
// another group. It returns an [*ApartError] when there are two newest ones.
func findLeft(id wire.GroupID, replicas []found) error {
	var newest *found
	for i := range replicas {
		if r := &replicas[i]; r.counts() && (newest == nil || r.Generation > newest.Generation) {
			newest = r
		}
	}
	if newest == nil || newest.Generation == 0 {
		return nil
	}
	apart := ApartError{Group: id, Generation: newest.Generation}
	for i := range replicas {
		r := &replicas[i]
		switch {
		case !r.counts():
		case r.Generation < newest.Generation:
			// Survivors on whose stores the recovery was not carried out are known to it,
			// and who came later has an id above those that it barred.
			r.left = r.Replica.Replica <= newest.Ceiling && !slices.Contains(newest.Survivors, r.Replica.Replica)
		case r.Plan == newest.Plan:
			apart.One = append(apart.One, r.store)
		default:
			apart.Other = append(apart.Other, r.store)
		}
	}
	if apart.Other != nil {
		return &apart
	}
	return nil
}

// check looks at what does not concern a single group.
func check(surveys []*Survey, o *Options) error {
	if len(surveys) == 0 {
		return &InputError{What: "no store was surveyed"}
	}
	for i, s := range surveys {
		switch {
		case s.Format != Format:
			return &InputError{Store: s.Store, What: fmt.Sprintf("survey of format %d, want %d", s.Format, Format)}
		case s.Cluster != surveys[0].Cluster:
			return &InputError{Store: s.Store, What: fmt.Sprintf("it is of cluster %d, store %d of cluster %d", s.Cluster, surveys[0].Store, surveys[0].Cluster)}
		case i > 0 && s.Store == surveys[i-1].Store:
			return &InputError{Store: s.Store, What: "it was surveyed twice: which of the copies is the newer one is for you to say"}
		}
		for j, r := range s.Replicas {
			if r.Group == 0 || j > 0 && r.Group <= s.Replicas[j-1].Group {
				return &InputError{Store: s.Store, Group: r.Group, What: "groups of a survey must be in order"}
			}
		}
	}
	for _, id := range o.Voters {
		if !slices.ContainsFunc(surveys, func(s *Survey) bool { return s.Store == id }) {
			return &InputError{Store: id, What: "it shall have voters and was not surveyed"}
		}
	}
	if o.Force != "" && o.Groups == nil {
		return &InputError{What: "groups that are recovered by force must be named"}
	}
	return nil
}

// planGroup decides about one group. It returns why nothing is to be done, if so.
func planGroup(id wire.GroupID, replicas []found, o *Options) (p *GroupPlan, why string, err error) {
	p = &GroupPlan{Group: id, Generation: 1, Lost: []Member{}}
	if err := findLeft(id, replicas); err != nil {
		return nil, "", err
	}
	decided := wire.Index(0) // known to be committed, by whomever
	for i := range replicas {
		if !replicas[i].left {
			decided = max(decided, replicas[i].committed())
		}
		p.Generation = max(p.Generation, replicas[i].Generation+1)
	}
	p.Before, p.Pending = memberships(replicas)
	if len(p.Before.Members) == 0 {
		return nil, "nothing that was surveyed knows its members", nil
	}
	usable := p.usable(replicas)
	for _, r := range usable {
		p.Committed = max(p.Committed, r.committed())
	}
	in := func(id wire.ReplicaID) bool {
		return slices.ContainsFunc(usable, func(r *found) bool { return r.Replica.Replica == id })
	}
	switch quorum := p.Before.hasQuorum(in); {
	case quorum && o.Force == "" && o.Groups != nil:
		return nil, "", &QuorumError{id}
	case quorum && o.Force == "":
		why := "it has a quorum: start its stores"
		for _, m := range p.Pending {
			if !m.hasQuorum(in) {
				why += fmt.Sprintf("; the membership of entry %d, which is on its way, has none: should the group stop, plan again", m.Index)
			}
		}
		return nil, why, nil
	case quorum:
		p.Notes = append(p.Notes, "it has a quorum, and is recovered by force")
	case len(usable) == 0:
		return nil, "no replica that was surveyed can go on: bring back a disk, or begin anew from an exported snapshot", nil
	}
	lost := func(id wire.ReplicaID) bool { return !in(id) }
	for _, m := range append([]Membership{p.Before}, p.Pending...) {
		p.MayLose = p.MayLose || m.hasQuorum(lost)
	}
	if err := p.decide(usable, replicas, o); err != nil {
		return nil, "", err
	}
	if decided > p.Last {
		p.MayLose = true
		p.Notes = append(p.Notes, fmt.Sprintf("entries up to %d are known to be committed, by a replica that cannot go on: those behind %d are lost", decided, p.Last))
	}
	return p, "", nil
}

// memberships returns the newest one that is known to be committed, and those behind
// it that may be, oldest first.
//
// One that waits in a log is committed when the replica with that log knows so. When
// only others know entries up to there to be committed, and do not have it, it is
// what an older leader wrote: never in force, and to be replaced.
func memberships(replicas []found) (before Membership, pending []Membership) {
	decided := wire.Index(0) // as far as those know whose log can be read
	newer := func(m Membership) {
		if len(m.Members) > 0 && (len(before.Members) == 0 || m.Index > before.Index) {
			before = m
		}
	}
	for i := range replicas {
		r := &replicas[i]
		if !r.counts() {
			continue
		}
		newer(r.Members)
		if r.State == Damaged {
			continue
		}
		decided = max(decided, r.committed())
		for _, m := range r.Pending {
			if m.Index <= r.committed() {
				newer(m)
			} else {
				pending = append(pending, m)
			}
		}
	}
	pending = slices.DeleteFunc(pending, func(m Membership) bool { return m.Index <= max(decided, before.Index) })
	// Where two logs have different memberships at one index, both count.
	slices.SortStableFunc(pending, func(a, b Membership) int { return cmp.Compare(a.Index, b.Index) })
	return before, slices.CompactFunc(pending, func(a, b Membership) bool {
		return a.Index == b.Index && slices.Equal(a.Members, b.Members)
	})
}

// usable returns the replicas that can go on: sound members.
func (p *GroupPlan) usable(replicas []found) []*found {
	var usable []*found
	for i := range replicas {
		r := &replicas[i]
		if r.left || r.State != Whole && r.State != Joining {
			continue
		}
		if _, ok := p.member(r.Replica.Replica, r.store); ok {
			usable = append(usable, r)
		}
	}
	return usable
}

// member returns what a replica is in the membership in force, or may be in one
// that is on its way.
func (p *GroupPlan) member(id wire.ReplicaID, store wire.StoreID) (m Member, ok bool) {
	for _, in := range append([]Membership{p.Before}, p.Pending...) {
		if found, is := in.find(id); is && found.Store == store {
			m.Replica, m.Store, ok = id, store, true
			m.Voter = m.Voter || found.Voter || found.Outgoing
			m.Learner = m.Learner || found.Learner
		}
	}
	m.Learner = m.Learner && !m.Voter
	return m, ok
}

// decide fills in who goes on, and how.
func (p *GroupPlan) decide(usable []*found, replicas []found, o *Options) error {
	source := slices.MaxFunc(usable, func(a, b *found) int {
		aTerm, aLast := a.end()
		bTerm, bLast := b.end()
		am, _ := p.member(a.Replica.Replica, a.store)
		bm, _ := p.member(b.Replica.Replica, b.store)
		return cmp.Or(cmp.Compare(aTerm, bTerm), cmp.Compare(aLast, bLast), cmp.Compare(asInt(am.Voter), asInt(bm.Voter)),
			cmp.Compare(a.Commit, b.Commit), cmp.Compare(b.store, a.store))
	})
	_, p.Last = source.end()
	p.Source, p.Floor = source.Replica.Replica, p.Last+1
	if p.Committed > p.Last {
		return &InputError{Group: p.Group, What: fmt.Sprintf("entry %d is known to be committed, and the best log ends at %d: these disks are not of one history", p.Committed, p.Last)}
	}
	for i := range replicas {
		r := &replicas[i]
		p.Term = max(p.Term, r.Term)
		p.Ceiling = max(p.Ceiling, r.Replica.Replica, r.Members.MaxReplica, r.Ceiling)
		for _, m := range r.Pending {
			p.Ceiling = max(p.Ceiling, m.MaxReplica)
		}
	}
	if p.Term > math.MaxUint64-2*termLeap || p.Ceiling > math.MaxUint64-2*replicaLeap || p.Floor == 0 {
		return &InputError{Group: p.Group, What: "no numbers are left: this was not written by a store"}
	}
	p.Term += termLeap
	p.Ceiling += replicaLeap
	for i := range replicas {
		p.decideReplica(&replicas[i], source, slices.Contains(usable, &replicas[i]), o)
	}
	if len(p.After) > wire.MaxReplicas {
		return &InputError{Group: p.Group, What: fmt.Sprintf("%d replicas would go on, at most %d can", len(p.After), wire.MaxReplicas)}
	}
	p.findLost()
	p.note(source, usable)
	return nil
}

func (p *GroupPlan) decideReplica(r, source *found, usable bool, o *Options) {
	rp := ReplicaPlan{Store: r.store, Replica: r.Replica.Replica, Action: Leave, Mark: r.Mark}
	rp.LastTerm, rp.Last = r.LastTerm, r.Last
	m, _ := p.member(r.Replica.Replica, r.store)
	switch {
	case r == source:
		rp.Action = Lead
		m.Voter, m.Learner = true, false
		if r.ahead() {
			rp.Snapshot = r.Snapshot
		}
	case usable:
		rp.Action = Follow
		if o.Voters != nil {
			m.Voter = slices.Contains(o.Voters, r.store)
		}
		m.Learner = !m.Voter
	case r.State == Whole || r.State == Joining:
		rp.Action = Bar
	}
	if rp.Action == Lead || rp.Action == Follow {
		p.After = append(p.After, m)
	}
	p.Replicas = append(p.Replicas, rp)
}

// findLost lists the members that do not go on.
func (p *GroupPlan) findLost() {
	for _, m := range append([]Membership{p.Before}, p.Pending...) {
		for _, member := range m.Members {
			same := func(other Member) bool { return other.Replica == member.Replica }
			if !slices.ContainsFunc(p.After, same) && !slices.ContainsFunc(p.Lost, same) {
				p.Lost = append(p.Lost, member)
			}
		}
	}
}

// note says what is out of the ordinary.
func (p *GroupPlan) note(source *found, usable []*found) {
	note := func(format string, args ...any) { p.Notes = append(p.Notes, fmt.Sprintf(format, args...)) }
	if len(p.Pending) > 0 {
		note("a change of its members was on its way (entry %d): it is given up for the members below", p.Pending[0].Index)
	}
	if m, _ := p.member(p.Source, source.store); !m.Voter {
		note("the most advanced replica, %d on store %d, is a learner: it becomes a voter", p.Source, source.store)
	}
	if p.Generation > 1 {
		note("it was recovered before: this is recovery %d", p.Generation)
	}
	for _, problem := range source.Problems {
		note("store %d: %s", source.store, problem)
	}
	for _, r := range usable {
		if term, last := r.end(); r != source && last > p.Last {
			note("store %d has entries up to %d of term %d, which an older leader wrote and which cannot be committed: those that differ are dropped", r.store, last, term)
		}
	}
	for _, rp := range p.Replicas {
		if rp.Action == Bar {
			note("replica %d on store %d is no member: it is barred", rp.Replica, rp.Store)
		}
		if rp.Action == Leave && p.lost(rp.Store) {
			note("the replica on store %d cannot go on, and counts as lost: when the others serve, call RemoveGroup there, and AddReplica", rp.Store)
		}
	}
}

// lost says whether a store has a member that is left behind.
func (p *GroupPlan) lost(store wire.StoreID) bool {
	return slices.ContainsFunc(p.Lost, func(m Member) bool { return m.Store == store })
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Encode returns the plan as text for machines, the same for the same plan.
func (p *Plan) Encode() ([]byte, error) { return json.MarshalIndent(p, "", " ") }

// Hash returns the SHA-256 of the encoded plan, in hexadecimal.
func (p *Plan) Hash() (string, error) {
	b, err := p.Encode()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// confirmDigits is how much of the hash is typed: 64 bits, which nobody meets by
// chance.
const confirmDigits = 16

// Confirmation returns what Apply wants to be given: the beginning of the hash.
func (p *Plan) Confirmation() (string, error) {
	hash, err := p.Hash()
	if err != nil {
		return "", err
	}
	return hash[:confirmDigits], nil
}

// DecodePlan reads what Encode wrote.
func DecodePlan(b []byte) (*Plan, error) {
	p := new(Plan)
	if err := decode(b, p); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if p.Format != Format {
		return nil, fmt.Errorf("plan of format %d, want %d: %w", p.Format, Format, ErrFormat)
	}
	return p, nil
}

// decode reads JSON in which nothing is unknown: what a newer version says there
// might matter.
func decode(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows", ErrFormat)
	}
	return nil
}
