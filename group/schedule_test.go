package group

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"multiraft/wire"
)

var (
	scheduleSeed  = flag.Uint64("schedule.seed", 0, "run this seed only, and print the schedule")
	scheduleSeeds = flag.Int("schedule.seeds", 200, "how many seeds to run")
)

// TestSchedules runs clusters through random schedules: messages are delivered
// in any order, lost and repeated, disks sync late and crash with what they have
// not synced, clocks jump, logs are compacted. The checker looks at every step.
// After that everything heals, and the group must work again.
//
// A failure names its seed; go test -run TestSchedules -schedule.seed=N replays
// it and prints every step.
func TestSchedules(t *testing.T) {
	if *scheduleSeed != 0 {
		newSchedule(t, *scheduleSeed).run()
		return
	}
	seeds := *scheduleSeeds
	if testing.Short() {
		seeds /= 10
	}
	var total counts
	for seed := uint64(1); seed <= uint64(seeds) && !t.Failed(); seed++ {
		s := newSchedule(t, seed)
		s.run()
		total.add(s.counts)
	}
	t.Logf("%d schedules: %+v", seeds, total)
	// A schedule that never elects, crashes or conflicts checks nothing.
	for what, n := range map[string]int{
		"leaders": total.leaders, "crashes": total.crashes, "committed": total.committed,
		"truncations": total.truncations, "changes": total.changes, "restored": total.restored, "leases": total.leases, "transfers": total.transfers, "reads": total.reads, "lost": total.lost, "stored": total.stored,
	} {
		if n < seeds/4 {
			t.Errorf("only %d %s in %d schedules", n, what, seeds)
		}
	}
}

// counts says what schedules have gone through.
type counts struct {
	leaders, crashes, committed, truncations, reads, lost, stored, changes, transfers, restored, leases int
}

func (c *counts) add(d counts) {
	c.leaders += d.leaders
	c.crashes += d.crashes
	c.committed += d.committed
	c.truncations += d.truncations
	c.reads += d.reads
	c.lost += d.lost
	c.stored += d.stored
	c.changes += d.changes
	c.restored += d.restored
	c.leases += d.leases
	c.transfers += d.transfers
}

// schedule is one random run and what the checker knows about it.
type schedule struct {
	t     *testing.T
	seed  uint64
	rand  *rand.Rand
	c     *cluster
	trail []string
	counts

	side      replicaSet // a partition: these on one side, the rest on the other
	proposals int
	asked     uint64 // reads
	checker   *checker
}

func newSchedule(t *testing.T, seed uint64) *schedule {
	s := &schedule{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 7)),
	}
	membership := members(1 + s.rand.IntN(5))
	if s.rand.IntN(4) == 0 && len(membership.Members) > 2 {
		// A joint membership with all members in both halves or in one, or as
		// learners.
		roles := []wire.MemberRole{wire.Voter, wire.Outgoing, wire.Voter | wire.Outgoing, wire.Learner}
		for i := range membership.Members[1:] {
			membership.Members[i+1].Role = roles[s.rand.IntN(len(roles))]
		}
	}
	pick := func(values ...int) int { return values[s.rand.IntN(len(values))] }
	s.c = newCluster(membership, Tuning{
		ElectionTicks:       10,
		HeartbeatTicks:      pick(1, 2, 3),
		MaxMessageBytes:     pick(1, 100, 200, 1<<20),
		MaxInflightMessages: pick(1, 2, 64),
		MaxInflightBytes:    pick(1, 200, 4<<20),
		MaxUncommittedBytes: pick(100, 1<<20),
		MaxCommittedBytes:   pick(1, 200, 4<<20),
		MaxTailBytes:        pick(1, 200, 256<<10),
		DisablePreVote:      s.rand.IntN(2) == 0,
		DisableCheckQuorum:  s.rand.IntN(2) == 0,
	})
	s.c.deferAnswers = s.rand.IntN(2) == 0
	s.c.tuning.LeaseReads = !s.c.tuning.DisableCheckQuorum && s.rand.IntN(2) == 0
	s.checker = newChecker(s.c, &s.counts, s.fail)
	s.c.observe = s.checker
	s.c.sendsSnapshots = true
	s.c.trace = func(format string, args ...any) { s.note(format, args...) }
	for _, n := range s.c.nodes {
		n.rand = rand.New(rand.NewPCG(seed, uint64(n.id)))
		n.keepApplying = s.rand.IntN(2) == 0
		if err := n.start(0); err != nil {
			s.fail("start: %v", err)
		}
	}
	return s
}

func (s *schedule) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if *scheduleSeed != 0 {
		s.t.Log(line)
	}
	if len(s.trail) == 60 {
		s.trail = slices.Delete(s.trail, 0, 1)
	}
	s.trail = append(s.trail, line)
}

func (s *schedule) fail(format string, args ...any) {
	s.t.Helper()
	for _, line := range s.trail {
		s.t.Log(line)
	}
	s.t.Fatalf("%s\nreplay: go test -run TestSchedules -schedule.seed=%d", fmt.Sprintf(format, args...), s.seed)
}

func (s *schedule) run() {
	defer func() {
		if r := recover(); r != nil {
			s.fail("panic: %v", r)
		}
	}()
	lossy := s.rand.IntN(3) // how bad network and disks are in this run
	for range 1000 + s.rand.IntN(2000) {
		n := s.c.nodes[s.rand.IntN(len(s.c.nodes))]
		if n.g == nil {
			if !n.gone && s.rand.IntN(4) == 0 {
				s.restart(n)
			}
			continue
		}
		s.act(n, lossy)
		s.checker.check()
	}
	s.heal()
}

// heal ends all faults. The group must then elect a leader, commit, tell all
// replicas, answer or drop all reads, and come to rest.
func (s *schedule) heal() {
	s.note("heal")
	s.side = 0
	for _, n := range s.c.nodes {
		if n.g == nil && !n.gone {
			s.restart(n)
		}
		n.keepApplying = true
	}
	var want wire.Index
	for round := range 3000 {
		s.c.now++
		for _, n := range s.c.nodes {
			if n.g == nil {
				continue
			}
			n.g.Tick(s.c.now)
			for n.ready() {
				s.checker.check()
			}
			n.persist()
			s.checker.check() // while the members are those that committed
			n.g.Applied(wire.Index(len(n.machine)))
			s.checker.check()
		}
		for range len(s.c.net) {
			s.c.deliver(0)
			s.checker.check()
		}
		leader := s.c.leader()
		if leader == nil {
			continue
		}
		if isJoint(leader.g.members) && !leader.g.members.AutoLeave {
			// Refused while it is on its way, which is as well.
			if _, _, err := leader.g.LeaveJoint(); err == nil {
				continue
			}
		}
		if round > 200 && want == 0 {
			if first, _, err := leader.g.Propose(commands("last"), 1); err == nil {
				want = first
			}
		}
		done := want > 0 && len(s.checker.asked) == 0
		for _, n := range s.c.nodes {
			done = done && (n.g == nil || place(leader.g.members, n.id) < 0 || len(n.machine) >= int(want) && n.log.Last() == leader.log.Last())
		}
		if done {
			s.checker.scan()
			return
		}
	}
	var st Status
	for _, n := range s.c.nodes {
		if n.g == nil {
			continue
		}
		n.g.Status(&st)
		s.note("%+v", st)
	}
	s.fail("no progress after healing: entry %d is wanted, reads %v are open", want, s.checker.asked)
}

// act does one random thing, most often with n, which is up.
func (s *schedule) act(n *node, lossy int) {
	switch roll := s.rand.IntN(1000); {
	case roll < 400:
		s.deliver(lossy)
	case roll < 650:
		if has, took := n.g.HasReady(), n.ready(); has != took && !(has && n.g.seesCompacted() && !n.g.HasReady()) {
			s.fail("replica %d: HasReady says %v, Ready %v", n.id, has, took)
		}
		if roll < 550 {
			n.persist()
		}
	case roll < 750:
		n.sync(s.rand.IntN(len(n.writes) + 1))
	case roll < 850:
		n.acknowledge(s.rand.IntN(len(n.acks) + 1))
	case roll < 895:
		s.tick(n)
	case roll < 940:
		// Most of them to leaders, old ones too, so that there is something to lose.
		for range 3 {
			if n.g == nil || n.g.Role() != Leader {
				n = s.c.nodes[s.rand.IntN(len(s.c.nodes))]
			}
		}
		if n.g != nil {
			s.propose(n)
		}
	case roll < 955:
		s.read(n)
	case roll < 975:
		n.g.Applied(wire.Index(s.rand.IntN(len(n.machine) + 1)))
	case roll < 977:
		n.g.Unreachable(s.c.nodes[s.rand.IntN(len(s.c.nodes))].id)
	case roll < 979:
		s.compact(n)
	case roll < 986:
		s.reign()
	case roll < 988:
		if lossy > 0 {
			s.crash(n)
		}
	case roll < 995:
		// Replicas on different sides do not hear each other for a while.
		s.side = replicaSet(0)
		if lossy > 0 && s.rand.IntN(3) > 0 {
			s.side = replicaSet(s.rand.Uint32())
			s.note("sides: %b", s.side&(1<<len(s.c.nodes)-1))
		}
	default:
		if err := n.g.Campaign(); err != nil && err != ErrNotVoter && err != ErrAwaitsChange && err != ErrPromised {
			s.fail("campaign: %v", err)
		}
	}
}

// seesCompacted says whether a peer needs entries that are compacted.
func (g *Group) seesCompacted() bool {
	return g.leading != nil && slices.Contains(g.leading.state[:], snapshot)
}

// deliver delivers, loses or repeats a message, one of the oldest.
func (s *schedule) deliver(lossy int) {
	if len(s.c.net) == 0 {
		return
	}
	i := s.rand.IntN(min(len(s.c.net), 1+s.rand.IntN(1+20*lossy)))
	m := &s.c.net[i]
	from, to := s.c.node(m.From), s.c.node(m.To)
	if to == nil {
		s.c.net = slices.Delete(s.c.net, i, i+1)
		return
	}
	switch roll := s.rand.IntN(40); {
	case roll < lossy, s.side.has(from.slot) != s.side.has(to.slot):
		s.note("lost: %s", describe(m))
		s.lost++
		s.c.net = slices.Delete(s.c.net, i, i+1)
	case roll < 2*lossy && len(s.c.net) < 200:
		s.c.net = append(s.c.net, *m)
		s.c.deliver(i)
	default:
		s.c.deliver(i)
	}
}

func (s *schedule) tick(n *node) {
	step := uint64(1)
	if s.rand.IntN(10) == 0 {
		step = 1 + s.rand.Uint64N(40)
	}
	s.c.now += step
	if s.rand.IntN(4) == 0 {
		n.g.Clock(s.c.now)
		return
	}
	n.g.Tick(s.c.now)
	if d := n.g.Deadline(); d <= s.c.now {
		s.fail("replica %d: deadline %d though tick %d is done", n.id, d, s.c.now)
	}
}

func (s *schedule) propose(n *node) {
	var cmds []string
	for range 1 + s.rand.IntN(4) {
		s.proposals++
		cmds = append(cmds, fmt.Sprintf("p%d", s.proposals))
	}
	first, term, err := n.g.Propose(commands(cmds...), len(cmds))
	switch {
	case err == nil:
		s.note("%d: proposes %v at %d/%d", n.id, cmds, first, term)
		if n.g.Role() != Leader || term != n.g.Term() || n.g.LastIndex() != first+wire.Index(len(cmds))-1 {
			s.fail("proposed at %d/%d by a %s", first, term, n.g.Role())
		}
	case err != ErrNotLeader && err != ErrBusy && err != ErrTransferring:
		s.fail("propose: %v", err)
	}
}

func (s *schedule) read(n *node) {
	s.asked++
	if err := n.g.ReadIndex(s.asked); err == nil {
		s.note("%d: asks for read %d", n.id, s.asked)
		s.checker.ask(n, s.asked)
	}
}

// reign has a leader change the membership or hand over, or a follower forget it.
func (s *schedule) reign() {
	i := slices.IndexFunc(s.c.nodes, func(n *node) bool { return n.g != nil && n.g.Role() == Leader })
	if i < 0 {
		return
	}
	leader := s.c.nodes[i]
	any := s.c.nodes[s.rand.IntN(len(s.c.nodes))]
	switch s.rand.IntN(8) {
	case 0, 1:
		if err := leader.g.TransferLeader(any.id); err == nil && any != leader {
			s.note("%d: hands over to %d", leader.id, any.id)
			s.transfers++
		}
	case 2:
		if any.g != nil {
			s.note("%d: forgets", any.id)
			_ = any.g.ForgetLeader() // it may have promised not to
		}
	case 3:
		if _, _, err := leader.g.LeaveJoint(); err == nil {
			s.note("%d: leaves", leader.id)
		}
	default:
		s.change(leader)
	}
}

// change proposes up to three changes at once. Most that make no sense are
// refused.
func (s *schedule) change(leader *node) {
	c := MembershipChange{Leave: LeaveMode(s.rand.IntN(2)), Joint: s.rand.IntN(4) == 0}
	highest := highestReplica(leader.g.members)
	for range 1 + s.rand.IntN(3) {
		ch := Change{Op: ChangeOp(1 + s.rand.IntN(3)), Replica: s.c.nodes[s.rand.IntN(len(s.c.nodes))].id}
		if len(s.c.nodes) < 7 && ch.Op != Remove && s.rand.IntN(2) == 0 {
			highest++
			ch.Replica, ch.Store = highest, wire.StoreID(highest)
		}
		c.Changes = append(c.Changes, ch)
	}
	index, term, err := leader.g.ChangeMembers(c)
	var refused *MembershipError
	switch {
	case err == nil:
		s.note("%d: changes %+v at %d/%d", leader.id, c, index, term)
		for _, ch := range c.Changes {
			if s.c.node(ch.Replica) == nil {
				n := s.c.join(ch.Replica)
				n.rand = rand.New(rand.NewPCG(s.seed, uint64(n.id)))
				s.restart(n)
			}
		}
	case !errors.As(err, &refused) && err != ErrTransferring:
		s.fail("change: %v", err)
	}
}

// compact compacts to something that the machine has applied and has kept. Peers
// that need it get a snapshot.
func (s *schedule) compact(n *node) {
	to := min(n.log.Last(), n.g.applied)
	if to <= n.log.base {
		return
	}
	to -= wire.Index(s.rand.Uint64N(min(8, uint64(to-n.log.base))))
	s.note("%d: compacts to %d", n.id, to)
	n.log.compact(to)
}

func (s *schedule) crash(n *node) {
	keep := s.rand.IntN(len(n.writes) + 1)
	s.note("%d: crashes, keeps %d of %d writes", n.id, keep, len(n.writes))
	s.crashes++
	n.crash(keep)
	s.checker.crashed(n)
}

// isKnown says whether a member that a membership leaves knows that it is
// committed. Before, a replica that it removes may be the only one that does, and
// so the only one whose vote lets the others go on.
func (s *schedule) isKnown(m *wire.Membership) bool {
	for _, n := range s.c.nodes {
		if n.g != nil && place(m, n.id) >= 0 && n.g.Commit() >= m.Index {
			return true
		}
	}
	return false
}

func (s *schedule) restart(n *node) {
	// A machine may have kept anything between the compaction and all it was
	// given.
	applied := n.log.base + wire.Index(s.rand.IntN(len(n.machine)-int(n.log.base)+1))
	// So may the host: any membership as new as that.
	for last := len(n.history) - 1; last > 0 && n.history[last].Index > applied && s.rand.IntN(2) == 0; last-- {
		n.history = n.history[:last]
	}
	if len(n.history) == 1 && n.history[0].Index > applied && s.rand.IntN(2) == 0 {
		n.history = nil
	}
	if last := len(n.history) - 1; last >= 0 && n.isGone(n.history[last]) && s.isKnown(n.history[last]) {
		s.note("%d: is gone for good", n.id)
		n.gone = true
		return
	}
	s.note("%d: restarts, applied %d of %d", n.id, applied, len(n.machine))
	if err := n.start(applied); err != nil {
		s.fail("restart: %v", err)
	}
}
