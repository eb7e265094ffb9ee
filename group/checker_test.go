package group

import (
	"errors"
	"maps"
	"slices"

	"multiraft/wire"
)

// checker looks at a cluster from outside and fails when it does what raft must
// not do (thesis, figure 3.2), or promises what is not on disk.
type checker struct {
	c      *cluster
	counts *counts
	fail   func(format string, args ...any)

	leaders   map[wire.Term]wire.ReplicaID
	votes     map[vote]wire.ReplicaID
	entries   map[wire.Index]map[wire.Term]identity
	committed []commitment // from index 1, once some replica knew
	seen      map[wire.ReplicaID]sight
	asked     map[uint64]question
	changes   map[wire.Index]*wire.Membership // in force somewhere, by index
	checks    int
}

// vote is the vote of a replica in a term.
type vote struct {
	voter wire.ReplicaID
	term  wire.Term
}

// identity is what an entry of some index and term must be wherever it is: what
// it says and the term of the entry in front of it. By induction this is log
// matching.
type identity struct {
	prevTerm wire.Term
	command  string
}

// commitment is a committed entry and the term of the leader that committed it.
type commitment struct {
	entry
	by wire.Term
}

// sight is how a replica was seen last.
type sight struct {
	term     wire.Term
	commit   wire.Index
	last     wire.Index
	lastTerm wire.Term
}

// question is a read and what was committed when it was asked.
type question struct {
	reader    wire.ReplicaID
	committed wire.Index
}

func newChecker(c *cluster, counts *counts, fail func(string, ...any)) *checker {
	return &checker{
		c: c, counts: counts, fail: fail,
		leaders: map[wire.Term]wire.ReplicaID{},
		votes:   map[vote]wire.ReplicaID{},
		entries: map[wire.Index]map[wire.Term]identity{},
		seen:    map[wire.ReplicaID]sight{},
		asked:   map[uint64]question{},
		changes: map[wire.Index]*wire.Membership{0: c.members},
	}
}

// check is called after each step.
func (k *checker) check() {
	for _, n := range k.c.nodes {
		if n.g == nil {
			continue
		}
		if err := n.g.Err(); err != nil {
			k.fail("%v", err)
		}
		k.checkRole(n)
		k.checkCommit(n)
		k.checkPromises(n)
		k.checkMembers(n)
		if index, _, ok := n.g.LeaseIndex(n.tick()); ok {
			k.counts.leases++
			if int(index) < len(k.committed) {
				k.fail("replica %d reads at %d by its lease, %d are committed", n.id, index, len(k.committed))
			}
		}
		k.look(n)
	}
	if k.checks++; k.checks%16 == 0 {
		k.scan()
	}
}

// checkRole checks election safety and leader completeness.
func (k *checker) checkRole(n *node) {
	term := n.g.Term()
	if n.g.Role() != Leader || k.leaders[term] == n.id {
		return
	}
	if other, ok := k.leaders[term]; ok {
		k.fail("replicas %d and %d lead term %d", other, n.id, term)
	}
	k.leaders[term] = n.id
	k.counts.leaders++
	for _, e := range k.committed {
		if e.by < term && e.index >= n.log.base && (e.index > n.g.LastIndex() || k.term(n, e.index) != e.term) {
			k.fail("replica %d leads term %d without entry %v, committed in term %d", n.id, term, e, e.by)
		}
	}
	k.scan()
}

// checkCommit checks that commit does not go back, that what is committed stays
// and is the same everywhere, and that it is on the disks of a quorum.
func (k *checker) checkCommit(n *node) {
	commit := n.g.Commit()
	if before := k.seen[n.id]; commit < before.commit || n.g.Term() < before.term {
		k.fail("replica %d went back from %+v to term %d, commit %d", n.id, before, n.g.Term(), commit)
	}
	if int(commit) > len(k.committed) {
		if n.g.Role() != Leader {
			k.fail("replica %d commits %d as a %s", n.id, commit, n.g.Role())
		}
		k.checkQuorum(n, commit)
	}
	for i := wire.Index(len(k.committed)) + 1; i <= commit; i++ {
		k.committed = append(k.committed, commitment{k.entry(n, i), n.g.Term()})
		k.counts.committed++
	}
	for i := max(k.seen[n.id].commit, n.log.base) + 1; i <= commit; i++ {
		if e := k.entry(n, i); e != k.committed[i-1].entry {
			k.fail("replica %d has %v committed, others %v", n.id, e, k.committed[i-1])
		}
	}
}

// checkQuorum checks that majorities have entry i of n's log on disk.
func (k *checker) checkQuorum(n *node, i wire.Index) {
	var have, incoming, outgoing, in, out int
	for _, member := range n.g.members.Members {
		role, other := member.Role, k.c.node(member.Replica)
		if other == nil {
			incoming += int(role & wire.Voter)
			outgoing += int(role & wire.Outgoing / wire.Outgoing)
			continue
		}
		term, err := other.log.Term(i)
		holds := 0
		if errors.Is(err, wire.ErrCompacted) || err == nil && term == k.term(n, i) {
			have++
			holds = 1
		}
		if role&wire.Voter != 0 {
			incoming++
			in += holds
		}
		if role&wire.Outgoing != 0 {
			outgoing++
			out += holds
		}
	}
	if in <= incoming/2 || outgoing > 0 && out <= outgoing/2 {
		k.fail("replica %d commits %d, on disk of %d: %d of %d and %d of %d voters", n.id, i, have, in, incoming, out, outgoing)
	}
}

// checkPromises checks a replica's view of its own disk, and of the others'.
func (k *checker) checkPromises(n *node) {
	g := n.g
	if d := g.log.durable; d > n.log.Last() || d >= n.log.base && k.term(n, d) != n.log.termOrZero(d) {
		k.fail("replica %d counts on %d entries on its disk, which ends at %d", n.id, d, n.log.Last())
	}
	if g.applied > g.handed.last || g.handed.last > min(g.commit, g.log.durable) {
		k.fail("G6: replica %d applied %d, handed out %d, commit %d, durable %d", n.id, g.applied, g.handed.last, g.commit, g.log.durable)
	}
	ld := g.leading
	if (ld != nil) != (g.role == Leader) {
		k.fail("replica %d is a %s", n.id, g.role)
	}
	if ld == nil {
		return
	}
	for slot := range g.members.Members {
		other := k.c.node(g.replica(slot))
		if other == nil {
			continue
		}
		if match := ld.match[slot]; other != n && (match >= ld.next[slot] || ld.next[slot] > g.log.last()+1) ||
			g.log.term2(match) != other.log.termOrZero(match) && match >= other.log.base && match >= n.log.base {
			// An entry is taken from a disk only for a newer leader.
			if other.log.hard.Term <= g.term {
				k.fail("G8: replica %d has match %d, next %d of replica %d, whose disk ends at %d", n.id, match, ld.next[slot], other.id, other.log.Last())
			}
		}
		if f := &ld.flights[slot]; f.bytes < 0 || int(f.count) > k.c.tuning.MaxInflightMessages {
			k.fail("inflights of replica %d: %+v", other.id, f)
		}
	}
	if ld.uncommittedBytes < 0 || g.commit == g.log.last() && ld.uncommittedBytes != 0 {
		k.fail("replica %d counts %d uncommitted bytes, commit %d, last %d", n.id, ld.uncommittedBytes, g.commit, g.log.last())
	}
}

// checkMembers checks that all replicas go through the same memberships, and that
// quorums of neighbouring ones meet.
func (k *checker) checkMembers(n *node) {
	m := n.g.members
	if n.g.joining || k.changes[m.Index] == m {
		return
	}
	if known, ok := k.changes[m.Index]; ok {
		if membersOf(known) != membersOf(m) {
			k.fail("replica %d has membership %d as %s, others as %s", n.id, m.Index, membersOf(m), membersOf(known))
		}
		return
	}
	var before, after *wire.Membership
	for index, other := range k.changes {
		if index < m.Index && (before == nil || index > before.Index) {
			before = other
		}
		if index > m.Index && (after == nil || index < after.Index) {
			after = other
		}
	}
	// One that only joiners went through may be between two that are known.
	if after == nil && before != nil && before.Index == k.newestChange(m.Index) {
		if !quorumsMeet(before, m) {
			k.fail("membership %s behind %s: their quorums need not meet", membersOf(m), membersOf(before))
		}
		k.counts.changes++
	}
	k.changes[m.Index] = m
}

// newestChange returns the last committed membership in front of entry i.
func (k *checker) newestChange(i wire.Index) wire.Index {
	for i--; i > 0; i-- {
		if k.committed[i-1].kind == wire.EntryConfig {
			break
		}
	}
	return i
}

// quorumsMeet says whether each quorum of a has a replica in each quorum of b, by
// trying all.
func quorumsMeet(a, b *wire.Membership) bool {
	var ids []wire.ReplicaID
	for _, m := range append(slices.Clone(a.Members), b.Members...) {
		if !slices.Contains(ids, m.Replica) {
			ids = append(ids, m.Replica)
		}
	}
	isQuorum := func(m *wire.Membership, set int) bool {
		for _, half := range []wire.MemberRole{wire.Voter, wire.Outgoing} {
			votes, have := 0, 0
			for _, member := range m.Members {
				if member.Role&half != 0 {
					votes++
					have += set >> slices.Index(ids, member.Replica) & 1
				}
			}
			if votes > 0 && have <= votes/2 {
				return false
			}
		}
		return true
	}
	for set := range 1 << len(ids) {
		if isQuorum(a, set) && isQuorum(b, (1<<len(ids)-1)&^set) {
			return false
		}
	}
	return true
}

// look remembers how a replica looks.
func (k *checker) look(n *node) {
	before, now := k.seen[n.id], sight{n.g.Term(), n.g.Commit(), n.g.LastIndex(), n.g.log.lastTerm()}
	if before.last > now.last || before.last >= n.log.base && k.term(n, before.last) != before.lastTerm {
		k.counts.truncations++
	}
	k.seen[n.id] = now
}

// scan checks log matching: equal entries everywhere are preceded by equal ones.
func (k *checker) scan() {
	for _, n := range k.c.nodes {
		if n.g == nil {
			continue
		}
		for i := n.log.base + 1; i <= n.g.LastIndex(); i++ {
			e := k.entry(n, i)
			id := identity{command: e.command}
			if i > 1 {
				id.prevTerm = k.term(n, i-1)
			}
			if k.entries[i] == nil {
				k.entries[i] = map[wire.Term]identity{}
			}
			if other, ok := k.entries[i][e.term]; ok && other != id {
				k.fail("replica %d: entry %v is %+v, elsewhere %+v", n.id, e, id, other)
			}
			k.entries[i][e.term] = id
		}
	}
}

// term returns the term of an entry of n's log, zero if it has none.
func (k *checker) term(n *node, i wire.Index) wire.Term { return n.g.log.term2(i) }

// term2 is term for checks: zero for an entry that is not there.
func (t *tail) term2(i wire.Index) wire.Term {
	term, err := t.term(i)
	if err != nil {
		return 0
	}
	return term
}

// termOrZero is Term for checks: zero for an entry that is not there.
func (l *memLog) termOrZero(i wire.Index) wire.Term {
	term, err := l.Term(i)
	if err != nil {
		return 0
	}
	return term
}

// entry returns an entry of n's log.
func (k *checker) entry(n *node, i wire.Index) entry {
	if i > n.g.log.base {
		live, at := n.g.log.live(), n.g.log.locate(i)
		block := live[at].block
		if at >= len(live)-int(n.g.log.open) {
			block = slices.Clone(block)
			block.Seal(1, live[at].first, live[at].term, wire.EntryCommand, int(live[at].last-live[at].first)+1)
		}
		for _, e := range entriesOf(block) {
			if e.index == i {
				return e
			}
		}
	}
	return entriesOf(n.log.entries[i-n.log.base-1].block)[0]
}

// crashed forgets what a replica that crashed knew.
func (k *checker) crashed(n *node) {
	delete(k.seen, n.id)
	maps.DeleteFunc(k.asked, func(_ uint64, q question) bool { return q.reader == n.id })
}

// restored notes that a replica was restored from a snapshot.
func (k *checker) restored(*node) { k.counts.restored++ }

// ask notes a read.
func (k *checker) ask(n *node, context uint64) {
	k.asked[context] = question{n.id, wire.Index(len(k.committed))}
}

// read checks that a read sees all that was committed when it was asked.
func (k *checker) read(n *node, r ReadState) {
	q, ok := k.asked[r.Context]
	if !ok || q.reader != n.id {
		k.fail("replica %d: read %d was never asked, or answered twice", n.id, r.Context)
	}
	delete(k.asked, r.Context)
	if r.Dropped {
		return
	}
	k.counts.reads++
	if r.Index < q.committed {
		k.fail("replica %d: read %d at %d, %d were committed", n.id, r.Context, r.Index, q.committed)
	}
}

// sent checks what a message promises against the disk of its sender.
func (k *checker) sent(n *node, m *wire.Message) {
	disk := n.log.hard
	switch {
	case m.Kind == wire.VoteResponse && !m.Reject, m.Kind == wire.Vote:
		candidate := m.From
		if m.Kind == wire.VoteResponse {
			candidate = m.To
		}
		v := vote{n.id, m.Term}
		if old, ok := k.votes[v]; ok && old != candidate {
			k.fail("replica %d voted for %d and %d in term %d", n.id, old, candidate, m.Term)
		}
		k.votes[v] = candidate
		if disk.Term < m.Term || disk.Term == m.Term && disk.Vote != candidate {
			k.fail("%s, hard state on disk is %+v", describe(m), disk)
		}
	case m.Kind == wire.AppendResponse && !m.Reject:
		if disk.Term < m.Term || n.log.Last() < m.Index {
			k.fail("%s, log on disk ends at %d, hard state %+v", describe(m), n.log.Last(), disk)
		}
		// An answer that left with its sync may be older than what the group has
		// learned since; it is about the disk of that moment.
		for i := n.log.First(); i <= m.Index && m.Term == n.g.Term(); i++ {
			if onDisk := n.log.termOrZero(i); onDisk != k.term(n, i) {
				k.fail("%s, entry %d has term %d on disk, %d in the group", describe(m), i, onDisk, k.term(n, i))
			}
		}
	case m.Kind == wire.Append || m.Kind == wire.Heartbeat:
		if k.leaders[m.Term] != 0 && k.leaders[m.Term] != m.From {
			k.fail("replicas %d and %d lead term %d", k.leaders[m.Term], m.From, m.Term)
		}
		if len(m.Entries) > k.c.tuning.MaxMessageBytes && len(entriesOf(m.Entries)) > 1 {
			k.fail("%s: %d bytes", describe(m), len(m.Entries))
		}
	}
}

// applied checks an entry that a machine is given.
func (k *checker) applied(n *node, e entry) {
	if int(e.index) > len(k.committed) || e != k.committed[e.index-1].entry {
		k.fail("replica %d applies %v, %d are committed: %v", n.id, e, len(k.committed), k.committed)
	}
	if e.index > n.log.Last() {
		k.fail("replica %d applies %v, its disk ends at %d", n.id, e, n.log.Last())
	}
	if len(n.rd.Committed) == 0 {
		k.counts.stored++
	}
}
