package group

import (
	"slices"
	"strings"

	"multiraft/wire"
)

// directives are what scenarios are made of.
var directives map[string]func(*scenario, command)

func init() {
	directives = map[string]func(*scenario, command){
		"add-group":     (*scenario).addGroup,
		"apply":         (*scenario).apply,
		"campaign":      (*scenario).campaign,
		"change":        (*scenario).change,
		"clock":         (*scenario).clock,
		"compact":       (*scenario).compact,
		"crash":         (*scenario).crash,
		"deadline":      (*scenario).deadline,
		"deliver":       (*scenario).deliver,
		"drop":          (*scenario).drop,
		"forget":        (*scenario).forget,
		"hold-apply":    (*scenario).holdApply,
		"join":          (*scenario).join,
		"lease":         (*scenario).lease,
		"leave":         (*scenario).leave,
		"log":           (*scenario).log,
		"messages":      (*scenario).messages,
		"persist":       (*scenario).persist,
		"propose":       (*scenario).propose,
		"read":          (*scenario).read,
		"ready":         (*scenario).ready,
		"restart":       (*scenario).restart,
		"send-snapshot": (*scenario).sendSnapshot,
		"snapshot-sent": (*scenario).snapshotSent,
		"settle":        (*scenario).settle,
		"settled":       (*scenario).settled,
		"status":        (*scenario).status,
		"step":          (*scenario).step,
		"tick":          (*scenario).tick,
		"transfer":      (*scenario).transfer,
		"unreachable":   (*scenario).unreachable,
	}
}

// addGroup makes a group and starts its replicas. Each input line gives a
// replica its durable log and hard state; without term= that of the last entry
// is the term. Election time-outs are E, E+3, E+6, … ticks in order of members,
// E being election=.
//
//	add-group voters=(1,2,3) learners=(4) outgoing=(1) election=10 heartbeat=2
//	1: 1/1 2/1 3/2 term=3 vote=1 commit=2 compact=1 applied=1
//	----
//	ok
func (s *scenario) addGroup(cmd command) {
	membership := new(wire.Membership)
	add := func(list string, role wire.MemberRole) {
		if list == "" {
			return
		}
		for _, text := range strings.Split(list, ",") {
			id := wire.ReplicaID(s.number(cmd, text))
			i := slices.IndexFunc(membership.Members, func(m wire.Member) bool { return m.Replica == id })
			if i < 0 {
				i = len(membership.Members)
				membership.Members = append(membership.Members, wire.Member{Replica: id, Store: wire.StoreID(id)})
			}
			membership.Members[i].Role |= role
		}
	}
	add(cmd.keyed["voters"], wire.Voter)
	add(cmd.keyed["outgoing"], wire.Outgoing)
	add(cmd.keyed["learners"], wire.Learner)
	s.c = newCluster(membership, Tuning{
		ElectionTicks:       int(s.keyedNumber(cmd, "election", 10)),
		HeartbeatTicks:      int(s.keyedNumber(cmd, "heartbeat", 2)),
		MaxMessageBytes:     int(s.keyedNumber(cmd, "message-bytes", 0)),
		MaxInflightMessages: int(s.keyedNumber(cmd, "inflight", 0)),
		MaxInflightBytes:    int(s.keyedNumber(cmd, "inflight-bytes", 0)),
		MaxUncommittedBytes: int(s.keyedNumber(cmd, "uncommitted-bytes", 0)),
		MaxCommittedBytes:   int(s.keyedNumber(cmd, "committed-bytes", 0)),
		MaxTailBytes:        int(s.keyedNumber(cmd, "tail-bytes", 0)),
		StayWhenRemoved:     slices.Contains(cmd.args, "stay-when-removed"),
		LeaseReads:          slices.Contains(cmd.args, "leases"),
		DisablePreVote:      slices.Contains(cmd.args, "no-pre-vote"),
		DisableCheckQuorum:  slices.Contains(cmd.args, "no-check-quorum"),
	})
	s.c.trace = s.printf
	for id, p := range s.pairs(cmd, "priority") {
		for _, n := range s.c.nodes {
			if n.config.Priority == nil {
				n.config.Priority = map[wire.ReplicaID]uint8{}
			}
			n.config.Priority[wire.ReplicaID(id)] = uint8(p)
		}
	}
	applied := map[wire.ReplicaID]wire.Index{}
	for _, line := range cmd.input {
		id, rest, _ := strings.Cut(line, ":")
		n := s.c.node(wire.ReplicaID(s.number(cmd, id)))
		sub := parseCommand(s.t, "replica "+rest, cmd.line)
		s.fillLog(sub, n.log)
		applied[n.id] = wire.Index(s.keyedNumber(sub, "applied", uint64(n.log.base)))
	}
	for _, n := range s.c.nodes {
		if err := n.start(applied[n.id]); err != nil {
			s.printf("%d: %v", n.id, err)
		}
	}
}

// fillLog writes the log that an input line of add-group describes.
func (s *scenario) fillLog(cmd command, log *memLog) {
	for _, text := range cmd.args {
		index, term := s.indexTerm(cmd, text)
		b := commands("c" + text[:strings.Index(text, "/")])
		b.Seal(1, index, term, wire.EntryCommand, 1)
		log.write(wire.HardState{Term: term}, []wire.Block{b})
	}
	log.hard.Term = wire.Term(s.keyedNumber(cmd, "term", uint64(log.hard.Term)))
	log.hard.Vote = wire.ReplicaID(s.keyedNumber(cmd, "vote", 0))
	log.hard.Commit = wire.Index(s.keyedNumber(cmd, "commit", 0))
	if to := s.keyedNumber(cmd, "compact", 0); to > 0 {
		log.compact(wire.Index(to))
	}
}

// campaign makes a replica campaign.
//
//	campaign 1
//	----
//	ok
func (s *scenario) campaign(cmd command) {
	if err := s.node(cmd).g.Campaign(); err != nil {
		s.printf("%v", err)
	}
}

// propose proposes commands, as one block, or as one block each with apart.
//
//	propose 1 x y
//	----
//	4/2
func (s *scenario) propose(cmd command) {
	g := s.node(cmd).g
	batches := [][]string{cmd.args[1:]}
	if slices.Contains(cmd.args, "apart") {
		batches = nil
		for _, c := range cmd.args[1:] {
			if c != "apart" {
				batches = append(batches, []string{c})
			}
		}
	}
	if size := s.keyedNumber(cmd, "bytes", 0); size > 0 {
		batches = [][]string{{strings.Repeat("x", int(size))}}
	}
	for _, batch := range batches {
		first, term, err := g.Propose(commands(batch...), len(batch))
		if err != nil {
			s.printf("%v", err)
		} else {
			s.printf("%d/%d", first, term)
		}
	}
}

// change proposes another membership; stores have the ids of their replicas.
//
//	change 1 voters=(4,5) learners=(6) remove=(2) joint explicit if=7 exact
//	----
//	8/2
func (s *scenario) change(cmd command) {
	c := MembershipChange{IfIndex: wire.Index(s.keyedNumber(cmd, "if", 0)), Joint: slices.Contains(cmd.args, "joint"), Exact: slices.Contains(cmd.args, "exact")}
	if slices.Contains(cmd.args, "explicit") {
		c.Leave = LeaveExplicit
	}
	for _, part := range []struct {
		key string
		op  ChangeOp
	}{{"voters", AddVoter}, {"learners", AddLearner}, {"remove", Remove}} {
		if list, ok := cmd.keyed[part.key]; ok {
			for _, text := range strings.Split(list, ",") {
				id, store, found := strings.Cut(text, "@")
				if !found {
					store = id
				}
				c.Changes = append(c.Changes, Change{part.op, wire.ReplicaID(s.number(cmd, id)), wire.StoreID(s.number(cmd, store))})
			}
		}
	}
	s.proposed(s.node(cmd).g.ChangeMembers(c))
}

// lease shows at which index a replica may read, and for how many ticks; with
// clock=, as if that many ticks had passed that it was not told of.
//
//	lease 1
//	----
//	index=4 for 7
func (s *scenario) lease(cmd command) {
	now := s.c.now + s.keyedNumber(cmd, "clock", 0)
	if index, until, ok := s.node(cmd).g.LeaseIndex(now); ok {
		s.printf("index=%d for %d", index, until-now)
	} else {
		s.printf("none")
	}
}

// leave proposes to leave a joint configuration.
//
//	leave 1
//	----
//	9/2
func (s *scenario) leave(cmd command) { s.proposed(s.node(cmd).g.LeaveJoint()) }

func (s *scenario) proposed(index wire.Index, term wire.Term, err error) {
	if err != nil {
		s.printf("%v", err)
	} else {
		s.printf("%d/%d", index, term)
	}
}

// join starts a replica that is to be added to the group.
//
//	join 4
//	----
//	ok
func (s *scenario) join(cmd command) {
	if err := s.c.join(wire.ReplicaID(s.number(cmd, cmd.args[0]))).start(0); err != nil {
		s.printf("%v", err)
	}
}

// transfer has a replica, or its leader, hand over.
//
//	transfer 1 to=2
//	----
//	ok
func (s *scenario) transfer(cmd command) {
	if err := s.node(cmd).g.TransferLeader(wire.ReplicaID(s.keyedNumber(cmd, "to", 0))); err != nil {
		s.printf("%v", err)
	}
}

// forget makes a follower forget its leader.
//
//	forget 2
//	----
//	ok
func (s *scenario) forget(cmd command) {
	if err := s.node(cmd).g.ForgetLeader(); err != nil {
		s.printf("%v", err)
	}
}

// read asks a replica for a read index.
//
//	read 2 context=7
//	----
//	ok
func (s *scenario) read(cmd command) {
	if err := s.node(cmd).g.ReadIndex(s.keyedNumber(cmd, "context", 1)); err != nil {
		s.printf("%v", err)
	}
}

// tick advances the clock of all replicas that are up, or of some, a tick at a
// time; with jump=, by so many ticks at once.
//
//	tick 3 replicas=(1,2)
//	----
//	ok
func (s *scenario) tick(cmd command) {
	var ids []string
	if list, ok := cmd.keyed["replicas"]; ok {
		ids = strings.Split(list, ",")
	}
	if jump := s.keyedNumber(cmd, "jump", 0); jump > 1 {
		s.c.now += jump - 1
		s.c.tick(1, s.ids(cmd, ids)...)
		return
	}
	s.c.tick(int(s.number(cmd, cmd.args[0])), s.ids(cmd, ids)...)
}

// clock tells a replica the tick it is told late, some ticks on, without the
// work that is due.
//
//	clock 1 jump=100
//	----
//	ok
func (s *scenario) clock(cmd command) {
	s.c.now += s.keyedNumber(cmd, "jump", 1)
	s.node(cmd).g.Clock(s.c.now)
}

// ready takes one Ready of a replica, without persisting it.
//
//	ready 1
//	----
//	1: persist #2 [2/1:x]
//	1->2 Append term=1 prev=1/1 commit=1 entries=[2/1:x] (sent)
func (s *scenario) ready(cmd command) {
	n, before := s.node(cmd), len(s.c.net)
	if n.g.HasReady() != n.ready() {
		s.t.Fatalf("line %d: HasReady and Ready disagree", cmd.line)
	}
	for i := range s.c.net[before:] {
		s.printf("%s (sent)", describe(&s.c.net[before+i]))
	}
}

// persist syncs and acknowledges what a replica has handed out, or the oldest
// count= of it. With silent the acknowledgement stays away.
//
//	persist 1 count=1
//	----
//	ok
func (s *scenario) persist(cmd command) {
	n := s.node(cmd)
	n.sync(int(s.keyedNumber(cmd, "count", uint64(len(n.writes)))))
	if !slices.Contains(cmd.args, "silent") {
		n.acknowledge(len(n.acks))
	}
}

// apply acknowledges that everything handed out is applied; see hold-apply.
//
//	apply 1
//	----
//	ok
func (s *scenario) apply(cmd command) {
	n := s.node(cmd)
	n.g.Applied(wire.Index(len(n.machine)))
}

// holdApply stops a replica from acknowledging at once what it is given.
//
//	hold-apply 1
//	----
//	ok
func (s *scenario) holdApply(cmd command) { s.node(cmd).keepApplying = false }

// deliver delivers messages in flight that match: from=, to=, kind=, at most
// count=. The receivers do nothing else yet.
//
//	deliver to=2
//	----
//	1->2 Append term=1 prev=0/0 commit=0 entries=[1/1]
func (s *scenario) deliver(cmd command) {
	for i := range s.pick(cmd) {
		s.c.deliver(i)
	}
}

// drop loses messages in flight that match, as deliver.
//
//	drop from=1 to=3
//	----
//	1->3 Heartbeat term=1 commit=0
func (s *scenario) drop(cmd command) {
	for i := range s.pick(cmd) {
		s.printf("%s", describe(&s.c.net[i]))
		s.c.net = slices.Delete(s.c.net, i, i+1)
	}
}

// pick yields the place of each message in flight that matches. Its receiver
// takes that message off the network.
func (s *scenario) pick(cmd command) func(yield func(int) bool) {
	from, to := s.keyedNumber(cmd, "from", 0), s.keyedNumber(cmd, "to", 0)
	count := int(s.keyedNumber(cmd, "count", uint64(len(s.c.net))))
	return func(yield func(int) bool) {
		for i := 0; i < len(s.c.net) && count > 0; {
			m := &s.c.net[i]
			if from != 0 && m.From != wire.ReplicaID(from) || to != 0 && m.To != wire.ReplicaID(to) ||
				cmd.keyed["kind"] != "" && cmd.keyed["kind"] != m.Kind.String() {
				i++
				continue
			}
			count--
			if !yield(i) {
				return
			}
		}
	}
}

// messages shows what is in flight.
//
//	messages
//	----
//	1->2 Append term=1 prev=0/0 commit=0 entries=[1/1]
func (s *scenario) messages(command) {
	for i := range s.c.net {
		s.printf("%s", describe(&s.c.net[i]))
	}
}

// settle runs replicas until nothing more happens: readies, syncs, deliveries
// between them.
//
//	settle 1 2
//	----
//	1->2 Append term=1 prev=0/0 commit=0 entries=[1/1]
//	…
func (s *scenario) settle(cmd command) { s.c.settle(s.ids(cmd, cmd.args)...) }

// settled is settle without its output, for what a scenario is not about.
//
//	settled
//	----
//	ok
func (s *scenario) settled(cmd command) {
	s.settle(cmd)
	s.lines = nil
}

// crash stops a replica and loses what it has not synced, except for the oldest
// keep= writes.
//
//	crash 1 keep=1
//	----
//	ok
func (s *scenario) crash(cmd command) {
	s.node(cmd).crash(int(s.keyedNumber(cmd, "keep", 0)))
}

// restart starts a replica that is down, its machine holding applied=; with
// first-members its host has not stored memberships that are not applied.
//
//	restart 1 applied=2
//	----
//	ok
func (s *scenario) restart(cmd command) {
	if slices.Contains(cmd.args, "first-members") {
		s.node(cmd).history = nil
	}
	if err := s.node(cmd).start(wire.Index(s.keyedNumber(cmd, "applied", 0))); err != nil {
		s.printf("%v", err)
	}
}

// compact compacts a replica's durable log.
//
//	compact 1 to=4
//	----
//	ok
func (s *scenario) compact(cmd command) {
	s.node(cmd).log.compact(wire.Index(s.keyedNumber(cmd, "to", 0)))
}

// sendSnapshot sends the state of a replica's machine to a peer.
//
//	send-snapshot 1 to=3
//	----
//	ok
func (s *scenario) sendSnapshot(cmd command) {
	s.node(cmd).sendSnapshot(wire.ReplicaID(s.keyedNumber(cmd, "to", 0)))
}

// snapshotSent reports a snapshot that ended at index=, or with failed none.
//
//	snapshot-sent 1 to=3 failed
//	----
//	ok
func (s *scenario) snapshotSent(cmd command) {
	s.node(cmd).g.SnapshotSent(wire.ReplicaID(s.keyedNumber(cmd, "to", 0)),
		wire.Index(s.keyedNumber(cmd, "index", 0)), !slices.Contains(cmd.args, "failed"))
}

// unreachable tells a leader that a message to a peer was not delivered.
//
//	unreachable 1 peer=2
//	----
//	ok
func (s *scenario) unreachable(cmd command) {
	s.node(cmd).g.Unreachable(wire.ReplicaID(s.keyedNumber(cmd, "peer", 0)))
}

// deadline shows in how many ticks a replica has something to do by itself.
//
//	deadline 1
//	----
//	2
func (s *scenario) deadline(cmd command) {
	if d := s.node(cmd).g.Deadline(); d == never {
		s.printf("never")
	} else {
		s.printf("%d", int64(d-s.c.now))
	}
}

// step hands a replica a message made by hand. entries are index/term, each in
// a block of its own.
//
//	step Append from=1 to=2 term=3 prev=4/2 commit=4 entries=(5/3,6/3)
//	----
//	ok
func (s *scenario) step(cmd command) {
	m := wire.Message{
		Group:   1,
		From:    wire.ReplicaID(s.keyedNumber(cmd, "from", 0)),
		To:      wire.ReplicaID(s.keyedNumber(cmd, "to", 0)),
		Term:    wire.Term(s.keyedNumber(cmd, "term", 0)),
		Index:   wire.Index(s.keyedNumber(cmd, "index", 0)),
		Commit:  wire.Index(s.keyedNumber(cmd, "commit", 0)),
		Hint:    wire.Index(s.keyedNumber(cmd, "hint", 0)),
		Context: s.keyedNumber(cmd, "context", 0),
		Reject:  slices.Contains(cmd.args, "reject"),
	}
	for k := wire.Append; k <= wire.MessageKinds; k++ {
		if k.String() == cmd.args[0] {
			m.Kind = k
		}
	}
	if prev, ok := cmd.keyed["prev"]; ok {
		m.Index, m.LogTerm = s.indexTerm(cmd, prev)
	}
	if list := cmd.keyed["entries"]; list != "" {
		kind := wire.EntryCommand
		if slices.Contains(cmd.args, "config") {
			kind = wire.EntryConfig
		}
		for _, text := range strings.Split(list, ",") {
			index, term := s.indexTerm(cmd, text)
			b := commands("s" + text[:strings.Index(text, "/")])
			b.Seal(1, index, term, kind, 1)
			m.Entries = append(m.Entries, b...)
		}
	}
	s.c.node(m.To).step(&m)
}

// status shows what a replica is, and of a leader the progress of the others.
//
//	status 1
//	----
//	1: leader term=1 vote=1 leader=1 commit=1 applied=1 durable=1 last=1
//	  2: replicate match=1 next=2
func (s *scenario) status(cmd command) {
	for _, id := range s.ids(cmd, cmd.args) {
		n := s.c.node(id)
		if n.g == nil {
			s.printf("%d: down", id)
			continue
		}
		var st Status
		n.g.Status(&st)
		s.printf("%d: %s term=%d vote=%d leader=%d commit=%d applied=%d durable=%d last=%d",
			id, st.Role, st.Term, st.Vote, st.Leader, st.Commit, st.Applied, st.Durable, st.Last)
		if st.Members.Index != 0 || st.Joining || st.Removed {
			s.printf("  members %d: %s%s%s", st.Members.Index, membersOf(st.Members), when(st.Joining, " joining"), when(st.Removed, " removed"))
		}
		if st.Transferee != 0 {
			s.printf("  hands over to %d", st.Transferee)
		}
		if st.Err != nil {
			s.printf("  %v", st.Err)
		}
		for _, p := range st.Progress {
			s.printf("  %d: %s match=%d next=%d%s%s%s%s%s", p.Replica, p.State, p.Match, p.Next,
				when(p.Inflight > 0, " inflight"), when(p.Paused, " paused"),
				when(p.RecentActive, " active"), when(p.NeedsSnapshot, " needs-snapshot"),
				when(p.SendingSnapshot, " sending-snapshot"))
		}
	}
}

func when(ok bool, text string) string {
	if ok {
		return text
	}
	return ""
}

// log shows the durable log of replicas, and behind a bar what is not durable.
//
//	log 1
//	----
//	1: 1/1 2/1 | 3/1
func (s *scenario) log(cmd command) {
	for _, id := range s.ids(cmd, cmd.args) {
		n := s.c.node(id)
		var words []string
		if n.log.base > 0 {
			words = append(words, "(compacted)", indexAndTerm(n.log.base, n.log.baseTerm))
		}
		last := n.log.Last()
		if n.g != nil {
			last = n.g.LastIndex()
		}
		for i := n.log.base + 1; i <= last; i++ {
			if n.g != nil {
				if i == n.g.log.durable+1 {
					words = append(words, "|")
				}
				term, err := n.g.log.term(i)
				if err != nil {
					s.t.Fatal(err)
				}
				words = append(words, indexAndTerm(i, term))
				continue
			}
			words = append(words, indexAndTerm(i, n.log.entries[i-n.log.base-1].term))
		}
		s.printf("%d: %s", id, strings.Join(words, " "))
	}
}

func indexAndTerm(i wire.Index, t wire.Term) string {
	return strings.TrimSuffix(entry{index: i, term: t, kind: wire.EntryEmpty}.String(), ":")
}
