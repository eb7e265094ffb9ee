package sim

import (
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// cluster is one run.
type cluster struct {
	plan   Plan
	seed   uint64
	shape  shape
	now    time.Duration
	agenda agenda
	trace  trace
	counts Counts

	sites   []*site
	network *network
	check   *checker
	clients []*client
	rosters []*roster // by group
	ops     []*op     // by id
	moments int64
	command []byte

	faults, clientRandom, machines, plantRandom, operator, repairs random

	loss    *loss       // what happened to a whole disk, until it is mended
	coups   int         // leaders yet to be elected that will fall
	falls   []wire.Term // by group, of a leader that falls once somebody follows it
	schisms int         // memberships yet to be sent that will meet a split

	// After the faults.
	calm    bool
	probes  []*op // the last write to each group in this part of the calm
	answers int   // operations before this one need no answer any more
	cutOnce bool  // the last power cut was made
	over    bool
}

// Run simulates a cluster. The error is a [*Violation] when the cluster broke a
// promise, and what Validate says when the plan cannot be run.
func Run(p Plan) (Report, error) {
	if err := p.Validate(); err != nil {
		return Report{Seed: p.Seed}, err
	}
	p = p.withDefaults()
	c := &cluster{plan: p, seed: p.Seed, shape: drawShape(p), trace: trace{out: p.Trace}}
	c.faults = newRandom(p.Seed, streamFaults)
	c.clientRandom = newRandom(p.Seed, streamClients)
	c.machines = newRandom(p.Seed, streamMachines)
	c.plantRandom = newRandom(p.Seed, streamPlants)
	c.operator = newRandom(p.Seed, streamOperator)
	c.repairs = newRandom(p.Seed, streamRepairs)
	c.falls = make([]wire.Term, len(c.shape.members))
	for _, members := range c.shape.members {
		c.rosters = append(c.rosters, newRoster(members))
	}
	c.network = newNetwork(c)
	c.check = newChecker(c)
	report := Report{Seed: p.Seed, Shape: c.shape.String()}
	c.note("seed %d: %s", p.Seed, report.Shape)
	c.begin()
	for c.check.violation == nil && !c.over {
		e, ok := c.agenda.next()
		if !ok {
			c.check.fail(ruleRecovery, "nothing happens any more")
			break
		}
		c.now = max(c.now, e.at)
		if report.Events++; c.plan.MaxHeap > 0 && report.Events%memoryEvents == 0 {
			c.weigh()
		}
		c.happen(&e)
	}
	c.mixVolumes()
	if p.History != nil {
		c.tellHistory()
	}
	report.Hash, report.Virtual, report.Counts = c.trace.hash, c.now, c.counts
	if c.check.violation != nil {
		return report, c.check.violation
	}
	return report, nil
}

// begin puts the first events on the agenda.
func (c *cluster) begin() {
	for at := range c.shape.stores {
		c.sites = append(c.sites, newSite(c, at))
	}
	for _, s := range c.sites {
		c.later(c.faults.between(0, 500*time.Millisecond), s.open)
	}
	for at := range c.shape.clients {
		cl := newClient(c, at)
		c.clients = append(c.clients, cl)
		c.wake(cl, c.clientRandom.around(c.shape.think))
	}
	c.nemesis()
	c.operate()
	c.duels()
	c.later(c.plan.Faults, c.becalm)
}

func (c *cluster) count(n counter) { c.counts[n]++ }

// later puts something rare on the agenda.
func (c *cluster) later(d time.Duration, call func()) {
	c.agenda.add(event{at: c.now + d, kind: eventCall, arg: c.agenda.calls.put(call)})
}

// happen lets an event happen. A panic of what it calls is a violation like any
// other, with its stack.
func (c *cluster) happen(e *event) {
	defer func() {
		if v := recover(); v != nil {
			c.check.fail(rulePanic, "%v\n%s", v, debug.Stack())
		}
	}()
	c.trace.mix(uint64(e.at)<<4 ^ uint64(e.kind))
	c.trace.mix(uint64(e.site)<<32 ^ uint64(e.life)<<8 ^ uint64(e.arg))
	switch e.kind {
	case eventCall:
		c.agenda.calls.take(e.arg)()
		for _, s := range c.sites {
			s.look()
		}
		return
	case eventClient:
		if cl := c.clients[e.arg]; e.life == cl.turn {
			c.act(cl)
		}
		return
	}
	s := c.sites[e.site]
	if s.paused {
		s.held = append(s.held, *e)
		return
	}
	if e.kind == eventDeliver {
		f := c.agenda.frames.take(e.arg)
		c.network.arrive(&f)
		s.poke()
		s.look()
		return
	}
	if s.store == nil || e.life != s.life {
		return
	}
	switch e.kind {
	case eventStep:
		if s.hung && (s.writes(int(e.arg)) || s.blocks[e.arg]) {
			c.count(stepsHung)
			s.stuck = append(s.stuck, *e)
			return
		}
		s.step(int(e.arg))
	case eventTick:
		s.ticks()
	case eventDown:
		c.network.down(s, int(e.arg))
		s.poke()
	}
	s.look()
}

// becalm ends all faults. From here on the cluster has a bounded time to show
// that it works.
func (c *cluster) becalm() {
	c.note("calm")
	c.calm = true
	c.network.mend()
	for _, s := range c.sites {
		if s.rolled || s.rotten && !(c.shape.repairs && c.repairs.chance(0.7)) {
			s.wipe()
		}
		s.slow = 1
		s.resume()
		s.goOn()
		s.volume.crashIn, s.volume.failSyncIn, s.volume.failWriteIn = 0, 0, 0
		s.volume.fill(0)
		if s.store == nil {
			s.openLater()
		}
	}
	c.settle()
}

// settle waits until every group has accepted a write and all its replicas
// agree. Then all stores lose power at once, and once more: what they agreed on
// must not have been in memory only.
func (c *cluster) settle() {
	c.probes = make([]*op, len(c.shape.members))
	deadline := c.now + c.shape.calm()
	var poll func()
	poll = func() {
		if c.loss == nil && c.awaits() {
			c.upgrade()
		}
		waits := c.probe()
		switch {
		case waits == "" && c.cutOnce:
			c.over = true
		case waits == "":
			c.note("the cluster agrees")
			c.cutOnce = true
			c.powerCut()
			c.settle()
		case c.now > deadline:
			c.check.fail(ruleRecovery, "%v after the faults: %s", c.shape.calm(), waits)
		default:
			c.later(100*time.Millisecond, poll)
		}
	}
	poll()
}

// probe writes to the groups that have not accepted a write yet and returns what
// the cluster still lacks.
func (c *cluster) probe() (waits string) {
	lacks := func(format string, args ...any) {
		if waits == "" {
			waits = fmt.Sprintf(format, args...)
		}
	}
	for g := range c.shape.members {
		last := c.probes[g]
		if last == nil || last.state != opDone {
			lacks("group %d has not accepted a write, last answer: %v\n%s", groupID(g), probeError(last), c.statuses(g))
		}
		if last == nil || last.state == opRefused || last.state == opUnknown || last.life != c.sites[last.site].life {
			c.probeGroup(g)
		}
		if why := c.disagree(g); why != "" {
			lacks("group %d: %s\n%s", groupID(g), why, c.statuses(g))
		}
	}
	for _, s := range c.sites {
		if s.store != nil && s.store.Metrics().Repairing > 0 {
			lacks("store %d has %d replicas to repair", s.at+1, s.store.Metrics().Repairing)
		}
	}
	for _, o := range c.ops[c.answers:] {
		if s := c.sites[o.site]; o.state == opWaiting && s.life == o.life {
			lacks("group %d: operation %d (read %v) on store %d has no answer\n%s", groupID(o.group), o.id, o.read, o.site+1, c.statuses(o.group))
			break
		}
		c.answers++
	}
	return waits
}

func probeError(o *op) error {
	if o == nil {
		return nil
	}
	return o.err
}

// disagree says what keeps the members of a group from being all there and in one
// state, and nobody else from being there.
func (c *cluster) disagree(g int) string {
	c.start(g)
	leader, st := c.leading(g)
	if leader == nil {
		return "no leader"
	}
	if isJoint(st.Members) {
		if !c.rosters[g].busy() {
			c.ask(leader, g, "leave the joint configuration", func(done func(engine.Membership, error)) error {
				return leader.groups[g].LeaveJointAsync(done)
			}, nil)
		}
		return "its configuration is joint"
	}
	if c.loss != nil && !(c.loss.mended[g] || c.shape.repairs && c.isWhole(c.loss, g)) {
		return fmt.Sprintf("the replica on store %d is not replaced", c.loss.site.at+1)
	}
	for _, m := range st.Members {
		if c.loss == nil && c.rosters[g].dies(m.Replica) {
			// It was being added when the disk that it was to be on was lost.
			if !c.rosters[g].busy() {
				c.ask(leader, g, "remove who was lost", func(done func(engine.Membership, error)) error {
					return leader.groups[g].ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{{Op: group.Remove, Replica: m.Replica}}}, done)
				}, nil)
			}
			return fmt.Sprintf("replica %d was lost", m.Replica)
		}
	}
	want, members := len(c.check.groups[g].applied), make([]wire.ReplicaID, len(c.sites))
	for _, m := range st.Members {
		members[siteOf(m.Store)] = m.Replica
	}
	for _, s := range c.sites {
		if s.store != nil && members[s.at] == 0 && s.groups[g] != nil && (!s.votes(g) || c.knowsNobody(s, g)) {
			// It asks nobody for votes who is still there, so nobody tells it that it was
			// removed while it was cut off. It is the operator's to stop, as are all others
			// that believe that it is a member.
			s.stopGroup(g)
		}
	}
	for _, s := range c.sites {
		member := members[s.at]
		switch {
		case s.store == nil:
			return fmt.Sprintf("store %d is not up", s.at+1)
		case s.replicas[g] != member:
			return fmt.Sprintf("store %d runs replica %d, not %d", s.at+1, s.replicas[g], member)
		case member == 0:
			continue
		case s.groups[g].Membership().Index != st.Membership:
			return fmt.Sprintf("store %d has the membership of %d, not of %d", s.at+1, s.groups[g].Membership().Index, st.Membership)
		}
		if state := s.machines[g].state; state.count != want || want > 0 && state.chain != c.check.groups[g].applied[want-1].chain {
			return fmt.Sprintf("store %d has applied %d commands of %d", s.at+1, state.count, want)
		}
	}
	return ""
}

// knowsNobody says whether no other replica runs that the one on a site knows for a member.
func (c *cluster) knowsNobody(s *site, g int) bool {
	return !slices.ContainsFunc(s.groups[g].Membership().Members, func(m engine.Member) bool {
		other := c.sites[siteOf(m.Store)]
		return other != s && other.store != nil && other.groups[g] != nil && other.replicas[g] == m.Replica
	})
}

// probeGroup proposes a write to whoever says that it leads.
func (c *cluster) probeGroup(g int) {
	if s, _ := c.leading(g); s != nil {
		o := c.newOp(g, s.at, false)
		c.probes[g] = o
		c.write(o, 8)
	}
}

// statuses is what the replicas of a group say of themselves.
func (c *cluster) statuses(g int) string {
	text := ""
	for _, s := range c.sites {
		if s.store == nil {
			text += fmt.Sprintf("    store %d is down\n", s.at+1)
			continue
		}
		if s.groups[g] == nil {
			continue
		}
		st := s.groups[g].Status()
		text += fmt.Sprintf("    store %d: replica %d, %v, term %d, leader %d, log [%d,%d], committed %d, applied %d, members %v at %d, progress %+v, error %v\n",
			s.at+1, st.Self.Replica, st.Role, st.Term, st.Leader.Store, st.First, st.Last, st.Committed, st.Applied, st.Members, st.Membership, st.Progress, st.Err)
	}
	return text
}

// mixVolumes adds to the hash what is on the disks.
func (c *cluster) mixVolumes() {
	for _, s := range c.sites {
		s.volume.SetHook(nil)
		c.mixDir(s.volume.MemFS, "/store")
	}
}

func (c *cluster) mixDir(m *vfs.MemFS, dir string) {
	names, err := m.List(dir)
	if err != nil {
		return // never made
	}
	for _, name := range names {
		f, err := m.Open(dir + "/" + name)
		if err != nil {
			continue // a directory
		}
		size, _ := f.Size()
		content := make([]byte, size)
		if _, err := f.ReadAt(content, 0); err != nil && err != io.EOF {
			content = []byte(err.Error())
		}
		c.trace.mix(xxhash.Sum64String(name))
		c.trace.mix(xxhash.Sum64(content))
		_ = f.Close() // nothing was written
	}
}
