package engine

import (
	"math"
	"math/bits"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/zap"

	"multiraft/wire"
)

// The replicas of a group are compared range by range. A range is the entries
// (last-every, last], last being a multiple of every, so that all replicas have the
// same ones:
//
//	applier: results ──fold──▶ hash ──end of a range──▶ own digest ──Digest──▶ leader
//	leader:  digests of voters ──a majority is the same──▶ DigestResponse ──▶ all members
//	anybody: own digest ≠ that of the majority ──▶ diverged (divergence.go)
//
// The hash begins anew with each range, so that nothing of it has to be stored, and
// a replica that starts within a range takes part from the next one. What a machine
// says of its whole state ([Digester]) is compared apart from it.
//
// What a majority made of a range is a fact that no term and no leadership can
// change. So digests are handled outside of the core, whoever gets them counts them,
// and it does no harm when they are lost, late or repeated: what no majority was
// heard of is told again, to the next leader as well.

// digest is what a replica made of a range.
type digest struct {
	hash  uint64 // over the results of its entries
	state uint64 // what the machine says of its state at the end; zero: nothing
}

// digests are what a replica knows of its own ranges and those of others.
type digests struct {
	every    wire.Index
	digester Digester // nil when the machine is none

	// The fields up to mu are the applier's.
	last  wire.Index // of the range under way
	whole bool       // its first entry was seen here
	hash  uint64     // over its results so far

	mu     sync.Mutex // guards the fields below; a leaf lock
	ranges []compared // the last ones, by their number modulo keptRanges; nil before the first
	agreed wire.Index // end of the last range of which a majority made the same as this replica
	spare  []vote
}

// compared is one range.
type compared struct {
	last     wire.Index // zero: none
	own      digest
	majority digest
	hasOwn   bool
	decided  bool   // majority.hash is known
	differ   bool   // it was told that there is no majority
	votes    []vote // of others
}

// vote is the digest of another replica.
type vote struct {
	replica wire.ReplicaID
	digest
}

const (
	// keptRanges is how many ranges a replica remembers. One that is further behind
	// others is compared once it has caught up.
	keptRanges = 8
	// retellAfter is for how many ranges a replica waits before it tells a digest
	// again that it has heard of no majority for.
	retellAfter = 2
)

// newDigests returns what the group's configuration asks for, nil when its replicas
// are not compared.
func (s *Store) newDigests(cfg *GroupConfig) *digests {
	if s.cfg.NoDigests || cfg.NoDigests {
		return nil
	}
	d := &digests{every: wire.Index(s.cfg.DigestEntries)}
	d.digester, _ = cfg.StateMachine.(Digester)
	return d
}

// begin forgets the range under way: the machine has the state at index, from
// wherever. It returns what becomes of applyState.stop.
func (d *digests) begin(index wire.Index) (stop wire.Index) {
	if d == nil {
		return math.MaxUint64
	}
	d.last, d.whole, d.hash = (index/d.every+1)*d.every, index%d.every == 0, 0
	return d.stop()
}

// stop is the index that no call of Apply goes beyond.
func (d *digests) stop() wire.Index {
	if d.digester == nil {
		return math.MaxUint64
	}
	return d.last
}

// Constants of xxhash64, whose step for eight bytes mixes what is folded in.
const (
	prime1 = 0x9e3779b185ebca87
	prime2 = 0xc2b2ae3d27d4eb4f
	prime3 = 0x165667b19e3779f9
	prime4 = 0x85ebca77c2b2ae63
)

// fold takes the results of entries into the hash, up to the end of the range. It
// returns how many there were.
//
//mr:hotpath
func (d *digests) fold(entries []Entry) int {
	last, h := d.last, d.hash
	for i := range entries {
		e := &entries[i]
		if e.Index > last {
			d.hash = h
			return i
		}
		// All of this but the last line is off the chain from entry to entry.
		v := uint64(e.Index)*prime1 ^ bits.RotateLeft64(e.Result.Value*prime3, 32)
		if len(e.Result.Data) > 0 {
			v ^= xxhash.Sum64(e.Result.Data) * prime4
		}
		v = bits.RotateLeft64(v*prime2, 31) * prime1
		h = bits.RotateLeft64(h^v, 27)*prime1 + prime4
	}
	d.hash = h
	return len(entries)
}

// noteResults follows the machine, which has applied everything up to last.
//
//mr:hotpath
func (a *applier) noteResults(r *replica, d *digests, last wire.Index) bool {
	rest := a.entries[d.fold(a.entries):]
	for last >= d.last {
		if !a.endRange(r, d) {
			return false
		}
		rest = rest[d.fold(rest):]
	}
	return true
}

// endRange tells what came of a range and begins the next. It returns false when
// the machine failed.
func (a *applier) endRange(r *replica, d *digests) bool {
	if d.whole {
		own := digest{hash: d.hash}
		if d.digester != nil {
			// gather has seen to it that the machine is just there.
			state, err := digestOf(d.digester)
			if err != nil {
				r.fail(err)
				return false
			}
			own.state = max(1, state)
		}
		a.tellDigest(r, d, own)
	}
	d.last, d.whole, d.hash = d.last+d.every, true, 0
	r.apply.stop = d.stop()
	return true
}

// digestOf calls Digest and turns a panic into an error.
func digestOf(machine Digester) (state uint64, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return machine.Digest(), nil
}

// tellDigest tells the leader what this replica made of the range that ends, and
// of one more that it has heard nothing about.
func (a *applier) tellDigest(r *replica, d *digests, own digest) {
	set, lead := r.members.Load(), wire.ReplicaID(r.lead.Load())
	d.mu.Lock()
	did := d.close(d.last, own)
	if lead == r.self {
		counted := d.count(set, r.self, d.last)
		counted.differ = max(counted.differ, did.differ)
		did = counted
	}
	again, retell := d.oldest(d.last)
	d.mu.Unlock()
	a.store.afterDigest(&a.out, r, set, did)
	if lead == r.self || lead == 0 {
		return // the next leader is told when it is known
	}
	a.store.sendDigest(&a.out, r, set, lead, d.last, own)
	if retell {
		a.store.sendDigest(&a.out, r, set, lead, again.last, again.own)
	}
}

// tellNewLeader tells a leader that has just become known what no majority was
// heard of.
func (w *worker) tellNewLeader(r *replica, lead wire.ReplicaID) {
	d, set := r.digests, r.members.Load()
	if d == nil || lead == 0 {
		return
	}
	d.mu.Lock()
	var open []compared
	for i := range d.ranges {
		if c := &d.ranges[i]; c.hasOwn && !c.decided {
			open = append(open, *c)
		}
	}
	d.mu.Unlock()
	for _, c := range open {
		if lead != r.self {
			w.store.sendDigest(&w.out, r, set, lead, c.last, c.own)
			continue
		}
		d.mu.Lock()
		did := d.count(set, r.self, c.last)
		d.mu.Unlock()
		w.store.afterDigest(&w.out, r, set, did)
	}
}

// sendDigest tells a member what this replica made of a range.
func (s *Store) sendDigest(o *outboxes, r *replica, set *memberSet, to wire.ReplicaID, last wire.Index, own digest) {
	s.putDigest(o, r, set, to, &wire.Message{
		Kind: wire.Digest, Index: last, Commit: last - r.digests.every, Hint: wire.Index(own.state), Context: own.hash,
	})
}

// putDigest addresses a message to a member. A leader that is none, here, is told
// nothing: the next one will be.
func (s *Store) putDigest(o *outboxes, r *replica, set *memberSet, to wire.ReplicaID, m *wire.Message) {
	if at := set.place(to); at >= 0 && set.peers[at] >= 0 {
		m.Group, m.From, m.To = r.id, r.self, to
		s.put(o, int(set.peers[at]), m)
	}
}

// handleDigest takes what a member says about a range, without a turn.
//
// REQUIRES: m is from a member in set.
func (s *Store) handleDigest(o *outboxes, r *replica, set *memberSet, m *wire.Message) {
	d := r.digests
	if r.state() != nil {
		return // a store that has failed is silent
	}
	if d == nil || m.Index%d.every != 0 || m.Index-m.Commit != d.every {
		return // stores differ in what they compare
	}
	said := digest{hash: m.Context, state: uint64(m.Hint)}
	d.mu.Lock()
	var did digestNews
	if m.Kind == wire.DigestResponse {
		did = d.decide(m.Index, said)
	} else {
		did = d.vote(set, r.self, m.Index, vote{m.From, said})
	}
	d.mu.Unlock()
	s.afterDigest(o, r, set, did)
}

// digestNews is what follows from a digest once the lock is released.
type digestNews struct {
	last     wire.Index
	majority digest
	all      bool           // tell all members what the majority made
	to       wire.ReplicaID // tell this one; zero: nobody
	diverged bool           // this replica made something else
	differ   wire.Index     // end of a range that no majority agrees about; zero: none
}

// afterDigest does what follows from a digest.
func (s *Store) afterDigest(o *outboxes, r *replica, set *memberSet, did digestNews) {
	answer := wire.Message{
		Kind: wire.DigestResponse, Index: did.last, Commit: did.last - r.digests.every,
		Hint: wire.Index(did.majority.state), Context: did.majority.hash,
	}
	if did.all {
		for i := range set.wire.Members {
			s.putDigest(o, r, set, set.wire.Members[i].Replica, &answer)
		}
	} else if did.to != 0 {
		s.putDigest(o, r, set, did.to, &answer)
	}
	if did.differ != 0 {
		s.replicasDiffer(r, did.differ)
	}
	if did.diverged {
		r.diverge(did.last)
	}
}

// replicasDiffer reports that replicas have diverged and nobody can tell which.
func (s *Store) replicasDiffer(r *replica, last wire.Index) {
	s.metrics.undecidedDigests.Add(1)
	s.cfg.Logger.Error("replicas made different things of the same entries, and no majority the same",
		zap.Uint64("group", uint64(r.id)), zap.Uint64("after", uint64(last-r.digests.every)), zap.Uint64("up to", uint64(last)))
	if s.cfg.Events.ReplicasDiffer != nil {
		s.events.note(r, noticeDiffer)
	}
}

// at returns the range that ends at last, nil when it is too long ago. In the place
// of an older one it is new, and differ is the end of that when it was left
// undecided.
//
// REQUIRES: d.mu is held.
func (d *digests) at(last wire.Index) (c *compared, differ wire.Index) {
	if d.ranges == nil {
		d.ranges = make([]compared, keptRanges)
	}
	c = &d.ranges[uint64(last/d.every)%keptRanges]
	switch {
	case c.last == last:
		return c, 0
	case c.last > last:
		return nil, 0
	}
	if !c.decided && !c.differ && c.differs() {
		differ = c.last
	}
	d.settle(c)
	*c = compared{last: last}
	return c, differ
}

// settle lets go of the votes about a range.
func (d *digests) settle(c *compared) {
	if cap(c.votes) > cap(d.spare) {
		d.spare = c.votes[:0]
	}
	c.votes = nil
}

// differs tells whether two digests of a range are known that are not the same.
func (c *compared) differs() bool {
	for i := range c.votes {
		if c.hasOwn && c.votes[i].hash != c.own.hash || c.votes[i].hash != c.votes[0].hash {
			return true
		}
	}
	return false
}

// close notes what this replica made of a range.
//
// REQUIRES: d.mu is held.
func (d *digests) close(last wire.Index, own digest) (did digestNews) {
	c, differ := d.at(last)
	if c == nil {
		return did // others are far ahead
	}
	c.own, c.hasOwn = own, true
	did = d.compare(c)
	did.differ = differ
	return did
}

// compare holds what this replica made of a range against what a majority did.
//
// REQUIRES: d.mu is held.
func (d *digests) compare(c *compared) (did digestNews) {
	did.last, did.majority = c.last, c.majority
	switch {
	case !c.hasOwn || !c.decided:
	case c.own.hash != c.majority.hash || c.own.state != 0 && c.majority.state != 0 && c.own.state != c.majority.state:
		did.diverged = true
	default:
		d.agreed = max(d.agreed, c.last)
	}
	return did
}

// decide notes what a majority made of a range. What it says of the state may come
// later.
//
// REQUIRES: d.mu is held.
func (d *digests) decide(last wire.Index, majority digest) (did digestNews) {
	c, differ := d.at(last)
	if c == nil {
		return did
	}
	c.majority.hash, c.decided = majority.hash, true
	if majority.state != 0 {
		c.majority.state = majority.state
	}
	did = d.compare(c)
	did.differ = differ
	return did
}

// vote notes what another replica made of a range.
//
// REQUIRES: d.mu is held.
func (d *digests) vote(set *memberSet, self wire.ReplicaID, last wire.Index, v vote) (did digestNews) {
	c, differ := d.at(last)
	if c == nil {
		return did
	}
	at := slices.IndexFunc(c.votes, func(o vote) bool { return o.replica == v.replica })
	switch {
	case at >= 0:
		c.votes[at] = v
	case len(c.votes) < wire.MaxReplicas:
		if c.votes == nil {
			c.votes, d.spare = d.spare, nil
		}
		c.votes = append(c.votes, v)
	}
	did = d.count(set, self, last)
	did.differ = max(did.differ, differ)
	if c.decided {
		did.to = v.replica
	}
	return did
}

// count looks whether a majority of voters made the same of a range.
//
// REQUIRES: d.mu is held.
func (d *digests) count(set *memberSet, self wire.ReplicaID, last wire.Index) (did digestNews) {
	c, differ := d.at(last)
	if c == nil {
		return did
	}
	var space [wire.MaxReplicas + 1]vote
	all := append(space[:0], c.votes...)
	if c.hasOwn {
		all = append(all, vote{self, c.own})
	}
	was, wasDecided, states := c.majority, c.decided, uint64(0)
	several := false // states that differ are known
	for _, v := range all {
		if set.isMajority(set.placesOf(all, func(o digest) bool { return o.hash == v.hash })) {
			c.majority.hash, c.decided = v.hash, true
		}
		if v.state == 0 {
			continue
		}
		if set.isMajority(set.placesOf(all, func(o digest) bool { return o.state == v.state })) {
			c.majority.state = v.state
		}
		several = several || states != 0 && states != v.state
		states = v.state
	}
	did = d.compare(c)
	did.all = c.decided && (!wasDecided || c.majority.state != was.state)
	did.differ = differ
	everybody := set.isEveryVoter(set.placesOf(all, func(digest) bool { return true }))
	if everybody && !c.differ && (!c.decided || several && c.majority.state == 0) {
		c.differ, did.differ = true, last
	}
	return did
}

// placesOf returns the places of the members, as bits, whose digest is as wanted.
func (m *memberSet) placesOf(votes []vote, wanted func(digest) bool) (places uint32) {
	for i := range votes {
		if at := m.place(votes[i].replica); at >= 0 && wanted(votes[i].digest) {
			places |= 1 << at
		}
	}
	return places
}

// halves counts the voters of the configuration that is coming and of the one that
// is going, and those of them at the given places.
func (m *memberSet) halves(places uint32) (all, there [2]int) {
	for at := range m.wire.Members {
		for half, role := range [2]wire.MemberRole{wire.Voter, wire.Outgoing} {
			if m.wire.Members[at].Role&role == 0 {
				continue
			}
			all[half]++
			there[half] += int(places >> at & 1)
		}
	}
	return all, there
}

// isMajority tells whether the members at the given places decide: more than half
// of the voters of each configuration in force.
func (m *memberSet) isMajority(places uint32) bool {
	all, there := m.halves(places)
	return 2*there[0] > all[0] && (all[1] == 0 || 2*there[1] > all[1])
}

// isEveryVoter tells whether there is no voter but those at the given places.
func (m *memberSet) isEveryVoter(places uint32) bool {
	all, there := m.halves(places)
	return all == there
}

// oldest returns a range that this replica has told of a while ago and heard nothing
// about since.
//
// REQUIRES: d.mu is held.
func (d *digests) oldest(last wire.Index) (c compared, ok bool) {
	for i := range d.ranges {
		o := &d.ranges[i]
		if o.hasOwn && !o.decided && o.last+retellAfter*d.every <= last && (!ok || o.last < c.last) {
			c, ok = *o, true
		}
	}
	return c, ok
}

// lastAgreed returns the end of the last range of which a majority made the same as
// this replica.
func (r *replica) lastAgreed() wire.Index {
	d := r.digests
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.agreed
}
