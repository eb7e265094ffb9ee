package sim

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/cespare/xxhash/v2"

	"multiraft/batch"
	"multiraft/engine"
	"multiraft/group"
	"multiraft/wire"
)

// rule is one of the promises that a run is held to, by its number in doc.go.
type rule string

const (
	ruleLeader   rule = "M1"  // one leader per term
	ruleVote     rule = "M2"  // one vote per replica and term
	ruleLog      rule = "M3"  // log matching
	ruleMachine  rule = "M4"  // state machine safety
	ruleComplete rule = "M5"  // leader completeness
	ruleForward  rule = "M6"  // commit, applied and term never go back
	ruleWrites   rule = "M7"  // acknowledged writes stay, refused ones never show
	ruleReads    rule = "M8"  // reads and writes are linearizable
	ruleAnswers  rule = "M9"  // every proposal and read is answered once
	ruleFailed   rule = "M10" // a store that failed says nothing more
	ruleErrors   rule = "M11" // nothing fails without a fault
	ruleFrames   rule = "M12" // frames are well formed and never change
	ruleRecovery rule = "M13" // a healed cluster goes on and agrees
	ruleTerms    rule = "M14" // a term begins with a vote for oneself
	ruleDurable  rule = "M15" // what was promised is found again after a restart
	ruleFitness  rule = "M17" // nobody leads for long on a disk that hangs
	ruleRepair   rule = "M18" // who lacks something does not pretend to have it
	ruleMembers  rule = "M16" // memberships follow from one another
	rulePanic    rule = "panic"
)

// Violation says which promise a run broke, when, and how.
type Violation struct {
	Seed uint64
	Rule string
	At   time.Duration // virtual
	What string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d: %s broken at %v: %s", v.Seed, v.Rule, v.At, v.What)
}

// checker is the reference model: what is known to have happened in each group,
// and so what must never happen again otherwise. It looks at frames as they
// leave, at what state machines are given, and at what clients are told. It is
// slow and plain where it can be.
type checker struct {
	c         *cluster
	groups    []model
	violation *Violation
	reader    batch.Reader
	message   wire.Message
}

// model is what is known of one group.
type model struct {
	leaders map[wire.Term]wire.ReplicaID
	votes   map[ballot]wire.ReplicaID
	// promised is the highest term in which each replica promised anything that
	// rests on a durable term.
	promised map[wire.ReplicaID]wire.Term
	maxTerm  wire.Term
	// acked is the newest acknowledgement of each replica, acks how far it was in
	// each term.
	acked map[wire.ReplicaID]acknowledgement
	acks  map[ackBallot]wire.Index
	// committed are entries of which a leader said that they are.
	committed map[wire.Index]commitment
	// judged is the highest commit index whose quorum was looked at, configs are the
	// memberships that leaders sent, in the order of their entries.
	judged  wire.Index
	configs []engine.Membership
	// begun are the terms of which somebody voted for himself.
	begun map[wire.Term]bool

	// asked holds in which life of its store a replica asked for a read index
	// under a context.
	asked map[question]uint32

	// entries holds, by index, every entry that was ever sent.
	entries [][]version
	// applied is the history: every command in the order in which the state
	// machines must see it. It only grows.
	applied []command
	// at tells where applied has the command of an index.
	at map[wire.Index]int
	// floor is how many commands a read that starts now must see.
	floor int
	// floors is how floor rose.
	floors []floorAt
}

type ackBallot struct {
	replica wire.ReplicaID
	term    wire.Term
}

type ballot struct {
	voter wire.ReplicaID
	term  wire.Term
}

// acknowledgement is how far a replica said in a term that its log is that of the
// leader, and durable.
type acknowledgement struct {
	term  wire.Term
	index wire.Index
}

// commitment is a committed entry.
type commitment struct {
	term  wire.Term
	bound wire.Term // the highest term seen when it was first known to be committed
}

type question struct {
	replica wire.ReplicaID
	context uint64
}

// version is an entry as some leader had it.
type version struct {
	term, before wire.Term // of the entry and of the one in front of it
	sum          uint64
	leads        wire.Term // of the last leader that said it has this version
}

// command is an entry that some state machine was given.
type command struct {
	index wire.Index
	term  wire.Term
	sum   uint64
	chain uint64    // of all sums up to here
	op    uint64    // that proposed it
	bound wire.Term // the highest term seen when it was first applied
}

func newChecker(c *cluster) *checker {
	k := &checker{c: c, groups: make([]model, len(c.shape.members))}
	for g := range k.groups {
		k.groups[g] = model{
			leaders: make(map[wire.Term]wire.ReplicaID), votes: make(map[ballot]wire.ReplicaID), begun: make(map[wire.Term]bool), configs: []engine.Membership{{Members: c.shape.members[g]}},
			acked: make(map[wire.ReplicaID]acknowledgement), acks: make(map[ackBallot]wire.Index), committed: make(map[wire.Index]commitment),
			promised: make(map[wire.ReplicaID]wire.Term), asked: make(map[question]uint32), at: make(map[wire.Index]int),
		}
	}
	return k
}

// fail records the first violation; it ends the run.
func (k *checker) fail(r rule, format string, args ...any) {
	if k.violation != nil {
		return
	}
	k.violation = &Violation{Seed: k.c.seed, Rule: string(r), At: k.c.now, What: fmt.Sprintf(format, args...)}
	k.c.note("VIOLATION of %s: %s", r, k.violation.What)
}

// sent looks at a frame as it leaves its store.
func (k *checker) sent(f *frame) {
	s := k.c.sites[f.from]
	if err := s.store.Err(); err != nil {
		k.fail(ruleFailed, "store %d sends to store %d after it failed: %v", f.from+1, f.to+1, err)
		return
	}
	if s.rolled {
		return // nobody listens
	}
	k.reader.Reset(f.payload)
	for {
		m := &k.message
		ok, err := k.reader.Next(m)
		if err != nil {
			k.fail(ruleFrames, "store %d sends store %d a frame that cannot be read: %v", f.from+1, f.to+1, err)
			return
		}
		if !ok {
			return
		}
		k.c.count(messagesSent)
		if k.c.trace.on() {
			k.c.note("%d ─▶ %d %s", f.from+1, f.to+1, describe(m))
		}
		k.look(f, m)
	}
}

// lives says whether a replica was ever placed on a site.
func (k *checker) lives(g int, replica wire.ReplicaID, site int) bool {
	home, ok := k.c.rosters[g].home[replica]
	return ok && home == site
}

// fromAndTo says whether a message comes from a replica of the store that sends it, and
// is for one of the store that it goes to. A store may ask for another replica without
// knowing which one it has lost, or whom to ask, and is answered itself.
func (k *checker) fromAndTo(f *frame, g int, m *wire.Message) bool {
	if handle := k.c.sites[f.from].groups[g]; handle != nil && (!k.lives(g, m.From, f.from) || !k.lives(g, m.To, f.to)) {
		k.c.learn(g, handle.Membership().Members)
	}
	return (k.lives(g, m.From, f.from) || m.From == 0 && m.Kind == wire.Rejoin) &&
		(k.lives(g, m.To, f.to) || m.To == 0 && (m.Kind == wire.Rejoin || m.Kind == wire.Rejoined))
}

// look looks at one message.
func (k *checker) look(f *frame, m *wire.Message) {
	g := groupOf(m.Group)
	if g < 0 || g >= len(k.groups) || !k.fromAndTo(f, g, m) {
		k.fail(ruleFrames, "store %d sends store %d a message that is not from and to replicas there: %s", f.from+1, f.to+1, describe(m))
		return
	}
	model, s := &k.groups[g], k.c.sites[f.from]
	refuses := m.Reject && (m.Kind == wire.PreVoteResponse || m.Kind == wire.VoteResponse)
	if refuses && m.LogTerm > 0 {
		k.proves(g, m)
	}
	if refuses && s.replicas[g] != m.From {
		return // a store says for one that is gone what was committed, and promises nothing
	}
	if k.c.rosters[g].dies(m.From) && m.Kind != wire.Rejoin {
		k.fail(ruleMembers, "store %d speaks for a replica that was lost with its disk: %s", f.from+1, describe(m))
		return
	}
	if k.c.loss != nil && k.c.loss.site == s {
		k.lacks(s, g, m)
	}
	switch m.Kind {
	case wire.Append, wire.Heartbeat, wire.Snapshot, wire.Quiesce:
		k.leads(g, m.From, m.Term)
	case wire.Vote:
		k.votes(g, m.From, m.Term, m.From)
	case wire.VoteResponse:
		if !m.Reject {
			k.votes(g, m.From, m.Term, m.To)
		}
	}
	switch m.Kind {
	case wire.Append:
		k.appends(g, m)
	case wire.AppendResponse:
		if !m.Reject {
			k.c.followed(m.To, g, m.Term)
		}
		if a := model.acked[m.From]; !m.Reject && (m.Term > a.term || m.Term == a.term && m.Index > a.index) {
			model.acked[m.From] = acknowledgement{m.Term, m.Index}
		}
		if b := (ackBallot{m.From, m.Term}); !m.Reject && m.Index > model.acks[b] {
			model.acks[b] = m.Index
		}
	case wire.ReadIndex:
		k.asks(g, m, s.life)
	}
	if m.Term > 0 && m.Kind != wire.PreVote && (m.Kind != wire.PreVoteResponse || m.Reject) && !model.begun[m.Term] {
		k.begins(s, g, m)
	}
	switch m.Kind {
	case wire.PreVote, wire.PreVoteResponse:
		return // their term is one that nobody has adopted
	case wire.Vote, wire.VoteResponse, wire.Append, wire.AppendResponse:
		if !m.Reject { // refusals promise nothing and leave at once
			model.promised[m.From] = max(model.promised[m.From], m.Term)
		}
		if !m.Reject && m.Kind != wire.Append {
			k.rests(f, g, m)
		}
	}
	model.maxTerm = max(model.maxTerm, m.Term)
}

// begins looks at the first message of a term. Who sends it must have voted for
// itself in it, whether or not that is durable by now: all others adopt a term
// from a message. One that has gone on to a higher term by now is believed.
func (k *checker) begins(s *site, g int, m *wire.Message) {
	k.groups[g].begun[m.Term] = true
	if s.groups[g] == nil {
		return
	}
	if st := s.groups[g].Status(); st.Term == m.Term && st.Err == nil && st.Vote != m.From {
		k.fail(ruleTerms, "group %d: replica %d is the first to speak in term %d and did not vote for itself: %s", m.Group, m.From, m.Term, describe(m))
	}
}

// leads notes that a replica leads a group in a term.
func (k *checker) leads(g int, replica wire.ReplicaID, term wire.Term) {
	model := &k.groups[g]
	switch other := model.leaders[term]; other {
	case 0:
		model.leaders[term] = replica
		k.c.count(leadersElected)
		k.c.elected(replica, g, term)
	case replica:
	default:
		k.fail(ruleLeader, "group %d: replicas %d and %d both lead in term %d", groupID(g), other, replica, term)
	}
}

// votes notes a vote.
func (k *checker) votes(g int, voter wire.ReplicaID, term wire.Term, candidate wire.ReplicaID) {
	model := &k.groups[g]
	b := ballot{voter, term}
	switch other := model.votes[b]; other {
	case 0:
		model.votes[b] = candidate
	case candidate:
	default:
		k.fail(ruleVote, "group %d: replica %d voted for %d and for %d in term %d", groupID(g), voter, other, candidate, term)
	}
}

// asks notes a request for a read index. An answer that was delayed must not be
// taken for that to a later request.
func (k *checker) asks(g int, m *wire.Message, life uint32) {
	asked, q := k.groups[g].asked, question{m.From, m.Context}
	if other, ok := asked[q]; ok && other != life {
		k.fail(ruleReads, "group %d: replica %d asks for a read index as %d in lives %d and %d of its store", groupID(g), m.From, m.Context, other, life)
	}
	asked[q] = life
}

// appends looks at the entries of an append: equal index and term mean equal
// entries and equal predecessors, and a leader has everything that was applied
// in earlier terms.
func (k *checker) appends(g int, m *wire.Message) {
	before, next := m.LogTerm, m.Index+1
	if m.Index > 0 {
		if v := k.version(g, m.Index, m.LogTerm); v != nil {
			v.leads = max(v.leads, m.Term)
		}
		k.commits(g, m, m.Index, m.LogTerm)
		k.complete(g, m.From, m.Term, m.Index, m.LogTerm)
	}
	for rest := m.Entries; len(rest) > 0; {
		block, more, err := wire.ParseBlock(rest)
		if err != nil || block.First() != next || block.Group() != m.Group {
			k.fail(ruleFrames, "group %d: replica %d sends entries from %d that are no blocks of it: %v", m.Group, m.From, next, err)
			return
		}
		rest = more
		kind, term := uint64(block.Kind()), block.Term()
		isNew := block.Kind() == wire.EntryConfig && k.version(g, next, term) == nil
		for payloads := block.Payloads(); ; next++ {
			payload, more, ok := wire.NextPayload(payloads)
			if !ok {
				break
			}
			payloads = more
			if isNew {
				k.configured(g, m, next, payload)
			}
			k.entry(g, m.From, next, version{term: term, before: before, sum: xxhash.Sum64(payload) ^ kind, leads: m.Term})
			k.commits(g, m, next, term)
			k.complete(g, m.From, m.Term, next, term)
			before = term
		}
	}
}

// entry notes an entry that a leader sent.
func (k *checker) entry(g int, leader wire.ReplicaID, index wire.Index, v version) {
	model := &k.groups[g]
	for wire.Index(len(model.entries)) <= index {
		model.entries = append(model.entries, nil)
	}
	for i := range model.entries[index] {
		old := &model.entries[index][i]
		if old.term != v.term {
			continue
		}
		old.leads = max(old.leads, v.leads)
		if old.before != v.before || old.sum != v.sum {
			k.fail(ruleLog, "group %d: replica %d sends another entry %d/%d than was sent before", groupID(g), leader, index, v.term)
		}
		return
	}
	model.entries[index] = append(model.entries[index], v)
}

// commits notes the entry up to which an append says that all is committed.
func (k *checker) commits(g int, m *wire.Message, index wire.Index, term wire.Term) {
	model := &k.groups[g]
	if index != m.Commit {
		return
	}
	if _, known := model.committed[index]; !known {
		model.committed[index] = commitment{term, max(model.maxTerm, m.Term)}
	}
	if index > model.judged && term == m.Term {
		model.judged = index
		k.judge(g, m, index)
	}
}

// proves holds a refusal against what is committed: those who hear it take its word.
func (k *checker) proves(g int, m *wire.Message) {
	model := &k.groups[g]
	if known, ok := model.committed[m.Commit]; !ok {
		model.committed[m.Commit] = commitment{m.LogTerm, max(model.maxTerm, m.Term)}
	} else if known.term != m.LogTerm {
		k.fail(ruleComplete, "group %d: entry %d of term %d is committed, not the one of %s", m.Group, m.Commit, known.term, describe(m))
	}
}

// judge holds an entry that a leader has committed in its term against what was
// acknowledged: majorities of the voters, both of the old ones and the new ones of a
// joint configuration, must have said in this term that they have it. The entry may
// have been committed under the membership in front of the one that is in force: one
// of the last few of lower index, of which some were replaced.
func (k *checker) judge(g int, m *wire.Message, index wire.Index) {
	model, s := &k.groups[g], k.c.sites[k.c.rosters[g].home[m.From]]
	if s.groups[g] == nil {
		return
	}
	current := s.groups[g].Membership()
	if k.hasQuorum(g, m, &current, index) {
		return
	}
	for left, at := 4, len(model.configs)-1; left > 0 && at >= 0; at-- {
		if config := &model.configs[at]; config.Index < current.Index {
			if k.hasQuorum(g, m, config, index) {
				return
			}
			left--
		}
	}
	k.fail(ruleMembers, "group %d: replica %d commits %d in term %d without majorities of %+v or of what was before: acknowledged are %+v",
		m.Group, m.From, index, m.Term, current, model.acked)
}

// configured notes a membership that a leader sent. Which of several at an index is
// in a log is not known here.
func (k *checker) configured(g int, m *wire.Message, index wire.Index, payload []byte) {
	model := &k.groups[g]
	var config wire.Membership
	if n, err := config.Decode(payload); err != nil || n != len(payload) {
		k.fail(ruleFrames, "group %d: replica %d sends a membership at %d that cannot be read: %v", m.Group, m.From, index, err)
		return
	}
	at := sort.Search(len(model.configs), func(i int) bool { return model.configs[i].Index > index })
	model.configs = slices.Insert(model.configs, at, engine.Membership{Index: index, Members: config.Members})
	k.c.learn(g, config.Members)
	k.c.reconfigured(g, m.From)
}

// changing says whether a membership was sent that the leader has yet to apply, or has
// applied so lately that it may be on its way to the log, and not in force yet.
func (k *checker) changing(g int, leader *engine.Status) bool {
	configs := k.groups[g].configs
	last := configs[len(configs)-1].Index
	return last > leader.Applied || last > leader.Membership && leader.Applied < last+16
}

func (k *checker) hasQuorum(g int, m *wire.Message, config *engine.Membership, index wire.Index) bool {
	for _, role := range [...]wire.MemberRole{wire.Voter, wire.Outgoing} {
		voters, have := 0, 0
		for _, member := range config.Members {
			if member.Role&role == 0 && (member.Role != 0 || role != wire.Voter) {
				continue
			}
			voters++
			if member.Replica == m.From {
				// Its own disk counts as any other does.
				if k.c.sites[k.c.rosters[g].home[m.From]].stepper.Stored(m.Group).Last() >= index {
					have++
				}
				continue
			}
			if k.groups[g].acks[ackBallot{member.Replica, m.Term}] >= index {
				have++
			}
		}
		if voters > 0 && 2*have <= voters {
			return false
		}
	}
	return true
}

// wakes holds what a replica knows when its life begins against what it promised
// in lives before.
func (k *checker) wakes(s *site, g int) {
	model, st := &k.groups[g], s.groups[g].Status()
	if st.Err != nil || s.rolled {
		return // audit has seen to it, or it knows of nothing
	}
	// In the same term nothing that was acknowledged is replaced.
	if a := model.acked[st.Self.Replica]; st.Term == a.term && st.Last < a.index {
		k.fail(ruleDurable, "group %d: store %d has entries up to %d, but acknowledged %d in term %d", groupID(g), s.at+1, st.Last, a.index, a.term)
	}
	if vote := model.votes[ballot{st.Self.Replica, st.Term}]; vote != 0 && st.Vote != vote {
		k.fail(ruleDurable, "group %d: store %d has voted for %d in term %d, but told %d that it had its vote", groupID(g), s.at+1, st.Vote, st.Term, vote)
	}
}

// version returns what was sent of an entry, nil for nothing.
func (k *checker) version(g int, index wire.Index, term wire.Term) *version {
	entries := k.groups[g].entries
	if index >= wire.Index(len(entries)) {
		return nil
	}
	for i := range entries[index] {
		if v := &entries[index][i]; v.term == term {
			return v
		}
	}
	return nil
}

// rests holds a message that promises something against the disk of its sender.
// The log counts as durable what it has synced, so this is about who asks the
// log; whether the log keeps its word shows after crashes.
func (k *checker) rests(f *frame, g int, m *wire.Message) {
	s := k.c.sites[f.from]
	stored := s.stepper.Stored(m.Group)
	if gone := new(engine.ReplicaRemovedError); s.groups[g] != nil && errors.As(s.groups[g].Err(), &gone) {
		return // written with what it promised: it votes no more, so nobody misses it
	}
	hs := stored.HardState()
	vote := wire.ReplicaID(0)
	switch m.Kind {
	case wire.Vote:
		vote = m.From
	case wire.VoteResponse:
		vote = m.To
	case wire.AppendResponse:
		// With a later term, the same sync may have made durable that a later leader
		// replaces the entries. It was elected without those who took them, so they
		// are too few to commit them.
		if m.Index < stored.First() || hs.Term > m.Term {
			break
		}
		term, err := stored.Term(m.Index)
		if m.Index > stored.Last() || err != nil {
			k.fail(ruleDurable, "group %d: store %d acknowledges %d in term %d, its disk has [%d,%d]: %v",
				m.Group, f.from+1, m.Index, m.Term, stored.First(), stored.Last(), err)
		} else if v := k.version(g, m.Index, term); v != nil && v.leads < m.Term {
			k.fail(ruleDurable, "group %d: store %d acknowledges %d in term %d, its disk has that of term %d", m.Group, f.from+1, m.Index, m.Term, term)
		}
	}
	if hs.Term < m.Term || hs.Term == m.Term && vote != 0 && hs.Vote != vote {
		k.fail(ruleDurable, "group %d: store %d promises something, its disk has term %d and a vote for %d: %s", m.Group, f.from+1, hs.Term, hs.Vote, describe(m))
	}
}

// appliesDurable holds the last entry of those that a machine was given against
// the disk under it: a machine that is ahead of its log cannot start again.
func (k *checker) appliesDurable(m *machine, e *engine.Entry) {
	stored := m.site.stepper.Stored(groupID(m.group))
	handle, gone := m.site.groups[m.group], new(engine.ReplicaRemovedError)
	if e.Index < stored.First() || handle == nil || errors.As(handle.Err(), &gone) {
		return // the log of one that was removed ends before its machine does
	}
	if term, err := stored.Term(e.Index); e.Index > stored.Last() || err != nil || term != e.Term {
		k.fail(ruleDurable, "group %d: store %d applies %d/%d, its disk has entries [%d,%d] and there one of term %d: %v",
			groupID(m.group), m.site.at+1, e.Index, e.Term, stored.First(), stored.Last(), term, err)
	}
}

// complete holds an entry in the log of a leader against what was applied.
func (k *checker) complete(g int, leader wire.ReplicaID, leads wire.Term, index wire.Index, term wire.Term) {
	model := &k.groups[g]
	if c, ok := model.committed[index]; ok && leads > c.bound && term != c.term {
		k.fail(ruleComplete, "group %d: replica %d leads term %d with entry %d/%d, but %d/%d was committed",
			groupID(g), leader, leads, index, term, index, c.term)
	}
	at, ok := model.at[index]
	if !ok {
		return
	}
	if a := &model.applied[at]; leads > a.bound && term != a.term {
		k.fail(ruleComplete, "group %d: replica %d leads term %d with entry %d/%d, but %d/%d was applied",
			groupID(g), leader, leads, index, term, index, a.term)
	}
}

// applies notes that the machine of a site was given its next command, and
// returns its place in the history.
func (k *checker) applies(m *machine, e *engine.Entry) (at int) {
	model := &k.groups[m.group]
	at = m.state.count
	id, ok := opOf(e.Command)
	sum := commandSum(e.Command)
	if e.Index <= m.state.last {
		k.fail(ruleForward, "group %d: store %d applies %d after %d", groupID(m.group), m.site.at+1, e.Index, m.state.last)
		return at
	}
	if at < len(model.applied) {
		if a := &model.applied[at]; a.index != e.Index || a.term != e.Term || a.sum != sum {
			k.fail(ruleMachine, "group %d: store %d applies %d/%d as its command %d, others applied %d/%d there (equal bytes: %v)",
				groupID(m.group), m.site.at+1, e.Index, e.Term, at, a.index, a.term, a.sum == sum)
		}
		return at
	}
	if !ok || id >= uint64(len(k.c.ops)) || k.c.ops[id].group != m.group {
		k.fail(ruleMachine, "group %d: store %d applies %d/%d, which nobody proposed", groupID(m.group), m.site.at+1, e.Index, e.Term)
		return at
	}
	op := k.c.ops[id]
	switch {
	case op.at >= 0:
		k.fail(ruleMachine, "group %d: store %d applies command %d at %d, which was applied as command %d already",
			groupID(m.group), m.site.at+1, id, e.Index, op.at)
	case op.state == opRefused:
		k.fail(ruleWrites, "group %d: store %d applies command %d at %d, of which its client was told that it never would be: %v",
			groupID(m.group), m.site.at+1, id, e.Index, op.err)
	}
	op.at = at
	if op.ended == 0 {
		op.ended = k.c.moment() // moved on by the answer, if one comes
	}
	chain := sum
	if at > 0 {
		chain = chained(model.applied[at-1].chain, sum)
	}
	model.at[e.Index] = at
	model.applied = append(model.applied, command{index: e.Index, term: e.Term, sum: sum, chain: chain, op: id, bound: max(model.maxTerm, e.Term)})
	return at
}

// restores holds a state that a machine was given against the history.
func (k *checker) restores(m *machine, index wire.Index) {
	model, st := &k.groups[m.group], &m.state
	switch {
	case st.last > index:
		k.fail(ruleMachine, "group %d: store %d is given a state of entry %d as that of %d", groupID(m.group), m.site.at+1, st.last, index)
	case st.count > len(model.applied) || st.count > 0 && model.applied[st.count-1].chain != st.chain:
		k.fail(ruleMachine, "group %d: store %d is given a state of %d commands that are not the history's", groupID(m.group), m.site.at+1, st.count)
	case st.count < len(model.applied) && model.applied[st.count].index <= index:
		k.fail(ruleMachine, "group %d: store %d is given a state up to %d that lacks the command at %d", groupID(m.group), m.site.at+1, index, model.applied[st.count].index)
	}
}

// chained is the digest of a history and one more command.
func chained(chain, sum uint64) uint64 { return (chain ^ sum) * 0x9e3779b97f4a7c15 }

// acknowledged holds a write that succeeded against the history.
func (k *checker) acknowledged(op *op, result engine.Result) {
	model := &k.groups[op.group]
	switch {
	case op.at < 0:
		k.fail(ruleWrites, "group %d: command %d is acknowledged and was not applied", groupID(op.group), op.id)
	case result.Value != uint64(op.at)+1:
		k.fail(ruleWrites, "group %d: command %d is acknowledged with the result of command %d of the history, it is %d",
			groupID(op.group), op.id, int64(result.Value)-1, op.at)
	case op.at < op.floor:
		k.fail(ruleReads, "group %d: command %d took effect as %d of the history, though %d were seen before it was proposed",
			groupID(op.group), op.id, op.at, op.floor)
	}
	k.raise(model, op.at+1)
}

// read holds the answer to a read against the history: everything that was
// acknowledged or read before it began must be in it.
func (k *checker) read(op *op, state machineState) {
	model := &k.groups[op.group]
	switch {
	case state.count < op.floor:
		k.fail(ruleReads, "group %d: a read on store %d sees %d commands, though %d were seen before it began",
			groupID(op.group), op.site+1, state.count, op.floor)
	case state.count > len(model.applied) || state.count > 0 && model.applied[state.count-1].chain != state.chain:
		k.fail(ruleReads, "group %d: a read on store %d sees %d commands that are not the history's", groupID(op.group), op.site+1, state.count)
	}
	k.raise(model, state.count)
}

// raise notes that a client knows of the first commands of a history.
func (k *checker) raise(model *model, floor int) {
	if floor > model.floor {
		model.floor = floor
		model.floors = append(model.floors, floorAt{k.c.now, floor})
	}
}

// floorAt is how many commands clients knew of from some moment on.
type floorAt struct {
	at    time.Duration
	floor int
}

// known returns how many commands clients knew of at a moment.
func (m *model) known(at time.Duration) int {
	n := sort.Search(len(m.floors), func(i int) bool { return m.floors[i].at >= at })
	if n == 0 {
		return 0
	}
	return m.floors[n-1].floor
}

// readOld holds the answer to a read that may be old against the history: it must
// be of it, and as young as it says.
func (k *checker) readOld(op *op, state machineState) {
	model, s := &k.groups[op.group], k.c.sites[op.site]
	if state.count > len(model.applied) || state.count > 0 && model.applied[state.count-1].chain != state.chain {
		k.fail(ruleReads, "group %d: a read on store %d sees %d commands that are not the history's", groupID(op.group), op.site+1, state.count)
	}
	if !op.aged {
		return
	}
	if known := model.known(k.c.now - s.tolerated(op.old)); state.count < known {
		k.fail(ruleReads, "group %d: a read on store %d sees %d commands and calls them at most %v old, though %d were seen by then",
			groupID(op.group), op.site+1, state.count, op.old, known)
	}
}

// audit holds what a replica says of itself against what it said before.
func (k *checker) audit(s *site, g int) {
	model, st, old := &k.groups[g], s.groups[g].Status(), &s.audits[g]
	if st.Err != nil {
		if s.excuses(st.Err) {
			s.ails(g, st.Self.Replica, st.Err)
			return
		}
		if gone := new(engine.ReplicaRemovedError); s.store.Err() == nil && !errors.As(st.Err, &gone) && !s.stopping[g] {
			k.fail(ruleErrors, "group %d: replica on store %d stopped: %v", groupID(g), s.at+1, st.Err)
		}
		return
	}
	if st.Term < old.term || st.Committed < old.committed || st.Applied < old.applied || st.Committed < st.Applied {
		k.fail(ruleForward, "group %d: store %d is at term %d, committed %d, applied %d after %d, %d, %d",
			groupID(g), s.at+1, st.Term, st.Committed, st.Applied, old.term, old.committed, old.applied)
	}
	*old = audit{st.Term, st.Committed, st.Applied}
	if s.rolled {
		return // nobody hears of what it says now, and what it promised is lost
	}
	model.begun[st.Term] = true // of a life before, perhaps, that told nobody
	if promised := model.promised[st.Self.Replica]; st.Term < promised {
		k.fail(ruleForward, "group %d: store %d is in term %d, but sent promises in term %d", groupID(g), s.at+1, st.Term, promised)
	}
	if st.Role == group.Leader {
		k.leads(g, st.Self.Replica, st.Term)
	}
}

// fitness holds a store that knows that its disk hangs to what follows: its leaders
// step down with their next heartbeat. A worker that waits for the disk itself says
// nothing, so that its leaders are lost as well.
func (k *checker) fitness(s *site) {
	if s.store.Fitness() != group.Hung || s.store.Err() != nil || slices.Contains(s.blocks, true) {
		s.unfit = 0
		return
	}
	if s.unfit++; s.unfit <= s.tuning.HeartbeatTicks+fitnessTicks+int(fitnessStall/s.tick) {
		return
	}
	for g, handle := range s.groups {
		if handle != nil && handle.IsLeader() && handle.Err() == nil && len(handle.Membership().Members) > 1 && !s.alone(g) {
			k.fail(ruleFitness, "group %d: store %d leads, though its disk has hung for %d ticks since it noticed", groupID(g), s.at+1, s.unfit)
		}
	}
}

// fitnessTicks and fitnessStall are how long a leader may take besides until it has
// heard of it and stepped down: its worker stalls at times.
const (
	fitnessTicks = 6
	fitnessStall = 200 * time.Millisecond
)

// alone says whether a replica is the only voter of its group.
func (s *site) alone(g int) bool {
	voters := 0
	for _, m := range s.groups[g].Membership().Members {
		if m.Role != wire.Learner {
			voters++
		}
	}
	return voters == 1 && s.votes(g)
}

// audit is what a replica said of itself.
type audit struct {
	term               wire.Term
	committed, applied wire.Index
}
