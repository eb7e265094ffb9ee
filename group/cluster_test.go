package group

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"multiraft/wire"
)

// cluster is the replicas of one group, the network between them and their
// disks, all moved by hand. Scenarios and the schedule test drive it.
//
//	Ready ─▶ node.writes ──sync──▶ memLog, node.acks ──ack──▶ Persisted
//	      ├▶ cluster.net ──deliver──▶ Step
//	      └▶ node.machine ──────────▶ Applied
type cluster struct {
	members *wire.Membership
	tuning  Tuning
	now     uint64
	net     []wire.Message // in flight, oldest first
	nodes   []*node        // by slot
	longest []entry        // what the machine that is furthest has applied
	// sendsSnapshots makes hosts send the snapshots that they are asked for, in one
	// message.
	sendsSnapshots bool
	trace          func(format string, args ...any)
	observe        observer
	// deferAnswers has answers leave with the sync and not through the group.
	deferAnswers bool
}

// observer is told what happens, to check it.
type observer interface {
	sent(n *node, m *wire.Message)
	applied(n *node, e entry)
	read(n *node, r ReadState)
	restored(n *node)
}

// node is one replica with its disk and its machine.
type node struct {
	c       *cluster
	slot    int
	id      wire.ReplicaID
	g       *Group // nil while crashed
	rand    Rand
	log     *memLog
	rd      Ready
	writes  []write // handed out, not synced
	acks    []Ack   // synced, not acknowledged
	machine []entry
	config  Config // what start adds to
	gone    bool   // its host knows that it was removed
	joins   bool   // it was added to the group later
	// history is what Ready.Membership gave, oldest first; kept by a crash.
	history []*wire.Membership
	// keepApplying makes the machine apply at once what it is given.
	keepApplying bool
	// clock tells the tick by the clock of the node; nil: that of the cluster.
	clock func() uint64
	// tickNanos is how long its tick is, where schedules tell them apart.
	tickNanos uint64
}

// tick returns the current tick of a node.
func (n *node) tick() uint64 {
	if n.clock == nil {
		return n.c.now
	}
	return n.clock()
}

// write is what one Ready asked to persist.
type write struct {
	hard   wire.HardState
	blocks []wire.Block
	ack    Ack
	after  []wire.Message
}

// entry is one entry as tests look at it.
type entry struct {
	index   wire.Index
	term    wire.Term
	kind    wire.EntryKind
	command string
}

func (e entry) String() string {
	switch e.kind {
	case wire.EntryEmpty:
		return fmt.Sprintf("%d/%d", e.index, e.term)
	case wire.EntryCommand:
		if n := len(e.command); n > 16 {
			return fmt.Sprintf("%d/%d:%s*%d", e.index, e.term, e.command[:1], n)
		}
		return fmt.Sprintf("%d/%d:%s", e.index, e.term, e.command)
	}
	var m wire.Membership
	if _, err := m.Decode([]byte(e.command)); err != nil {
		return fmt.Sprintf("%d/%d(kind %d)", e.index, e.term, e.kind)
	}
	return fmt.Sprintf("%d/%d:%s", e.index, e.term, membersOf(&m))
}

// membersOf writes a membership: voters v, outgoing ones o, learners l.
func membersOf(m *wire.Membership) string {
	var words []string
	for _, member := range m.Members {
		word := fmt.Sprint(member.Replica)
		for role, letter := range []string{"v", "o", "l"} {
			if member.Role&(1<<role) != 0 {
				word += letter
			}
		}
		words = append(words, word)
	}
	return "{" + strings.Join(words, " ") + "}" + when(m.AutoLeave, " leaves")
}

// isGone says that a membership is without n, and that n was in one before.
func (n *node) isGone(m *wire.Membership) bool {
	if place(m, n.id) >= 0 {
		return false
	}
	for _, old := range append([]*wire.Membership{n.c.members}, n.history...) {
		if place(old, n.id) >= 0 {
			return true
		}
	}
	return false
}

// join adds a replica to the cluster that knows of no members.
func (c *cluster) join(id wire.ReplicaID) *node {
	n := &node{
		c: c, slot: len(c.nodes), id: id, joins: true,
		rand: fixedRand(3 * len(c.nodes)), log: &memLog{}, keepApplying: true,
	}
	n.config.Members = &wire.Membership{Members: []wire.Member{{Replica: id, Store: wire.StoreID(id), Role: wire.Learner}}}
	c.nodes = append(c.nodes, n)
	return n
}

// entriesOf lists the entries of concatenated blocks.
func entriesOf(blocks []byte) []entry {
	var list []entry
	for len(blocks) > 0 {
		b, rest, err := wire.ParseBlock(blocks)
		if err != nil {
			panic(err)
		}
		payloads := b.Payloads()
		for i := b.First(); i <= b.Last(); i++ {
			command, after, _ := wire.NextPayload(payloads)
			list = append(list, entry{i, b.Term(), b.Kind(), string(command)})
			payloads = after
		}
		blocks = rest
	}
	return list
}

// fixedRand always returns the same number, for time-outs that can be foretold.
type fixedRand uint64

func (r fixedRand) Uint64() uint64 { return uint64(r) }

func newCluster(members *wire.Membership, tuning Tuning) *cluster {
	c := &cluster{members: members, tuning: tuning.WithDefaults(), trace: func(string, ...any) {}}
	for slot, m := range members.Members {
		c.nodes = append(c.nodes, &node{
			c: c, slot: slot, id: m.Replica,
			rand: fixedRand(3 * slot), log: &memLog{}, keepApplying: true,
		})
	}
	return c
}

// start makes the group of a node from its disk. applied is what its machine
// has kept.
func (n *node) start(applied wire.Index) error {
	cfg := n.config
	if cfg.Members == nil {
		cfg.Members = n.c.members
	}
	if last := len(n.history) - 1; last >= 0 {
		cfg.Members = n.history[last]
	}
	cfg.Join = place(cfg.Members, n.id) < 0 || n.joins && len(n.history) == 0
	cfg.Group, cfg.Replica = 1, n.id
	if cfg.Tuning == nil {
		cfg.Tuning = &n.c.tuning
	}
	cfg.Storage, cfg.Rand, cfg.Now, cfg.Applied = n.log, n.rand, n.tick(), applied
	g, err := New(cfg)
	if err != nil {
		return err
	}
	n.g = g
	n.machine = n.machine[:min(len(n.machine), int(applied))]
	return nil
}

// crash loses what was handed out and not synced, except for the first keep
// writes.
func (n *node) crash(keep int) {
	for _, w := range n.writes[:keep] {
		n.log.write(w.hard, w.blocks)
	}
	n.g, n.writes, n.acks = nil, nil, nil
}

// ready takes one Ready and says whether there was one.
func (n *node) ready() bool {
	rd := &n.rd
	rd.DeferAnswers = n.c.deferAnswers
	if !n.g.Ready(rd) {
		return false
	}
	if rd.Seq != 0 {
		n.writes = append(n.writes, write{rd.HardState, slices.Clone(rd.Blocks), rd.Ack(), slices.Clone(rd.After)})
		if rd.SyncHardState {
			n.c.trace("%d: hard state term=%d vote=%d", n.id, rd.HardState.Term, rd.HardState.Vote)
		}
		if len(rd.Blocks) > 0 {
			n.c.trace("%d: persist #%d %v", n.id, rd.Seq, entriesOf(slices.Concat(blockBytes(rd.Blocks)...)))
		}
	}
	for i := range rd.Messages {
		n.c.send(n, &rd.Messages[i])
	}
	if rd.Membership != nil {
		n.history = append(n.history, rd.Membership)
	}
	n.takeCommitted(rd)
	for _, r := range rd.SnapshotTo {
		n.c.trace("%d: snapshot for %d", n.id, r)
		if n.c.sendsSnapshots {
			n.sendSnapshot(r)
		}
	}
	if rd.SnapshotOffer != nil {
		n.acceptSnapshot(rd.SnapshotOffer)
	}
	for _, r := range rd.Reads {
		if r.Dropped {
			n.c.trace("%d: read %d dropped", n.id, r.Context)
		} else {
			n.c.trace("%d: read %d at %d", n.id, r.Context, r.Index)
		}
		if n.c.observe != nil {
			n.c.observe.read(n, r)
		}
	}
	return true
}

func blockBytes(blocks []wire.Block) [][]byte {
	var list [][]byte
	for _, b := range blocks {
		list = append(list, b)
	}
	return list
}

// send puts a message on the network, as its codec leaves it.
func (c *cluster) send(n *node, m *wire.Message) {
	var got wire.Message
	if _, err := got.Decode(m.AppendTo(nil)); err != nil {
		panic(err)
	}
	if got.Entries == nil && m.Entries != nil || describe(&got) != describe(m) {
		panic(fmt.Sprintf("sent %s, decoded %s", describe(m), describe(&got)))
	}
	c.net = append(c.net, got)
	if c.observe != nil {
		c.observe.sent(n, m)
	}
}

// takeCommitted feeds the machine.
func (n *node) takeCommitted(rd *Ready) {
	first, last := rd.CommittedFirst, rd.CommittedLast
	if last < first {
		return
	}
	source, blocks := "", slices.Concat(blockBytes(rd.Committed)...)
	if len(rd.Committed) == 0 {
		source = " from storage"
		for lo := first; lo <= last; lo++ {
			var err error
			if blocks, err = n.log.Blocks(lo, lo+1, 1, blocks); err != nil {
				panic(err)
			}
		}
	}
	list := entriesOf(blocks)
	if skip := int(first - list[0].index); skip > 0 {
		list = list[skip:]
	}
	list = list[:last-first+1]
	n.c.trace("%d: apply%s %v", n.id, source, list)
	for i, e := range list {
		if e.index != first+wire.Index(i) {
			panic(fmt.Sprintf("entry %v at %d of a hand-out [%d, %d]", e, i, first, last))
		}
		if e.index <= wire.Index(len(n.machine)) {
			panic(fmt.Sprintf("replica %d: entry %v handed out twice", n.id, e))
		}
		if e.index == wire.Index(len(n.machine))+1 {
			n.machine = append(n.machine, e)
		}
		if n.c.observe != nil {
			n.c.observe.applied(n, e)
		}
	}
	if len(n.machine) > len(n.c.longest) {
		n.c.longest = slices.Clone(n.machine)
	}
	if n.keepApplying {
		n.g.Applied(last)
	}
}

// sendSnapshot sends the state of a node's machine to a peer, the membership as
// its data.
func (n *node) sendSnapshot(to wire.ReplicaID) {
	index := n.g.applied
	term, err := n.g.log.term(index)
	if err != nil {
		panic(err)
	}
	m := n.g.message(wire.Snapshot, to)
	m.Index, m.LogTerm, m.Context, m.Entries = index, term, uint64(index), n.g.members.AppendTo(nil)
	n.c.send(n, &m)
	n.g.SnapshotSent(to, index, true)
}

// acceptSnapshot installs what a node is offered, all at once.
func (n *node) acceptSnapshot(o *SnapshotOffer) {
	m := new(wire.Membership)
	if _, err := m.Decode(o.Data); err != nil || o.Index > 1<<16 {
		return // nobody has such a state
	}
	n.persist()
	if n.g.CanRestore(SnapshotState{Index: o.Index, Term: o.LogTerm, Members: m}) != nil {
		return // the entries came meanwhile
	}
	n.log.restart(o.Index, o.LogTerm)
	n.machine = make([]entry, o.Index) // scenarios may begin behind some entries
	copy(n.machine, n.c.longest)
	if m.Index > 0 {
		n.history = append(n.history, m)
	}
	if err := n.g.Restore(SnapshotState{Index: o.Index, Term: o.LogTerm, Members: m}); err != nil {
		panic(err)
	}
	if n.c.observe != nil {
		n.c.observe.restored(n)
	}
	n.c.trace("%d: restored from snapshot %s", n.id, indexAndTerm(o.Index, o.LogTerm))
}

// sync makes the oldest count writes durable without telling the group.
func (n *node) sync(count int) {
	for _, w := range n.writes[:count] {
		n.log.write(w.hard, w.blocks)
		n.acks = append(n.acks, w.ack)
		for i := range w.after {
			n.c.send(n, &w.after[i])
		}
	}
	n.writes = n.writes[count:]
}

// acknowledge tells the group of the oldest count synced writes.
func (n *node) acknowledge(count int) {
	for _, a := range n.acks[:count] {
		n.g.Persisted(a)
	}
	n.acks = n.acks[count:]
}

// persist syncs and acknowledges everything handed out.
func (n *node) persist() {
	n.sync(len(n.writes))
	n.acknowledge(len(n.acks))
}

// node returns the replica with an id, nil for none.
func (c *cluster) node(id wire.ReplicaID) *node {
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// deliver takes message i off the network and hands it to its receiver. A
// receiver that is down loses it.
func (c *cluster) deliver(i int) {
	m := c.net[i]
	c.net = slices.Delete(c.net, i, i+1)
	n := c.node(m.To)
	if n == nil || n.g == nil {
		return
	}
	c.trace("%s", describe(&m))
	n.step(&m)
}

func (n *node) step(m *wire.Message) {
	hadFault := n.g.Err() != nil
	if n.c.tuning.LeaseReads {
		n.g.Clock(n.tick()) // as leases require
	}
	err := n.g.Step(m)
	var fault *FaultError
	switch {
	case errors.As(err, &fault) && hadFault:
	case err != nil:
		n.c.trace("%d: error: %v", n.id, err)
	}
}

// settle runs the given nodes until nothing more happens among them. Messages
// to others stay on the network.
func (c *cluster) settle(ids ...wire.ReplicaID) {
	for busy, rounds := true, 0; busy; rounds++ {
		if rounds > 10_000 {
			panic("the cluster does not settle")
		}
		busy = false
		for _, n := range c.nodes {
			if n.g == nil || !slices.Contains(ids, n.id) {
				continue
			}
			for n.ready() {
				busy = true
			}
			n.persist()
			for n.ready() {
				busy = true
				n.persist()
			}
		}
		for i := 0; i < len(c.net); {
			m := &c.net[i]
			if n := c.node(m.To); slices.Contains(ids, m.To) && n.g != nil {
				c.deliver(i)
				busy = true
			} else {
				i++
			}
		}
	}
}

// tick advances the clock, one tick at a time, for all nodes that are up.
func (c *cluster) tick(count int, ids ...wire.ReplicaID) {
	for range count {
		c.now++
		for _, n := range c.nodes {
			if n.g != nil && slices.Contains(ids, n.id) {
				n.g.Tick(c.now)
			}
		}
	}
}

// all returns the ids of all members.
func (c *cluster) all() (ids []wire.ReplicaID) {
	for _, n := range c.nodes {
		ids = append(ids, n.id)
	}
	return ids
}

// leader returns the node that leads the highest term, nil if none does.
func (c *cluster) leader() (leader *node) {
	for _, n := range c.nodes {
		if n.g != nil && n.g.Err() == nil && n.g.Role() == Leader && (leader == nil || n.g.Term() > leader.g.Term()) {
			leader = n
		}
	}
	return leader
}

// describe writes a message as scenarios show it: entries as index/term.
func describe(m *wire.Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d->%d %s", m.From, m.To, m.Kind)
	if !isTermless(m.Kind) {
		fmt.Fprintf(&b, " term=%d", m.Term)
	}
	switch m.Kind {
	case wire.Snapshot:
		fmt.Fprintf(&b, " last=%d/%d", m.Index, m.LogTerm)
	case wire.SnapshotResponse:
		fmt.Fprintf(&b, " last=%d%s", m.Index, when(m.Reject, " refused"))
	case wire.Append:
		fmt.Fprintf(&b, " prev=%d/%d commit=%d entries=%v", m.Index, m.LogTerm, m.Commit, entriesOf(m.Entries))
	case wire.AppendResponse:
		if m.Reject {
			fmt.Fprintf(&b, " reject=%d hint=%d/%d", m.Index, m.Hint, m.LogTerm)
		} else {
			fmt.Fprintf(&b, " match=%d", m.Index)
		}
	case wire.Heartbeat:
		fmt.Fprintf(&b, " commit=%d", m.Commit)
		if m.Context != 0 {
			fmt.Fprintf(&b, " tick=%d", m.Context)
		}
	case wire.HeartbeatResponse:
		if m.Context != 0 {
			fmt.Fprintf(&b, " tick=%d", m.Context)
		}
	case wire.Confirm, wire.ConfirmResponse:
		fmt.Fprintf(&b, " round=%d", m.Context)
	case wire.PreVote, wire.Vote:
		fmt.Fprintf(&b, " last=%d/%d", m.Index, m.LogTerm)
		if m.Context == contextTransfer {
			b.WriteString(" transfer")
		}
	case wire.PreVoteResponse, wire.VoteResponse:
		if m.Reject {
			b.WriteString(" refused")
			if m.Commit > 0 {
				fmt.Fprintf(&b, " commit=%d/%d", m.Commit, m.LogTerm)
			}
		} else {
			b.WriteString(" granted")
		}
	case wire.Removed:
		fmt.Fprintf(&b, " membership=%d", m.Context)
	case wire.Transfer:
		fmt.Fprintf(&b, " target=%d", m.Hint)
	case wire.ReadIndex:
		fmt.Fprintf(&b, " context=%d", m.Context)
	case wire.ReadIndexResponse:
		fmt.Fprintf(&b, " context=%d", m.Context)
		if m.Reject {
			b.WriteString(" refused")
		} else {
			fmt.Fprintf(&b, " index=%d", m.Index)
		}
	}
	return b.String()
}
