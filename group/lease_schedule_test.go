package group

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"multiraft/wire"
)

// TestLeaseSchedules runs groups with leases through time: every replica has a clock
// of its own, at one of the rates that MaxClockDrift allows and at any phase;
// messages take time, and some a lot of it; links fail one way or both; replicas
// stand still, hand over, crash and start again. In some schedules ticks and
// time-outs are not as long on all replicas, and each start may switch leases on or
// off. At each step everybody who may read
// by a lease must know all that is committed anywhere (G16).
//
// The test of the bugs that can be planted (-tags planted) shows that this finds a
// lease that is wrong in any of its parts.
func TestLeaseSchedules(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	var total leaseCounts
	for seed := uint64(1); seed <= seeds; seed++ {
		if err := runLeaseSchedule(seed, &total); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%+v", total)
	for what, n := range map[string]int{
		"leases": total.leases, "leaders": total.leaders, "restarts": total.restarts, "transfers": total.transfers, "commits": total.commits,
	} {
		if n < int(seeds) {
			t.Errorf("only %d %s in %d schedules", n, what, seeds)
		}
	}
}

type leaseCounts struct{ leases, leaders, restarts, transfers, commits int }

const (
	leaseGrain = 20   // steps of time in a tick of the fastest clock
	leaseSteps = 8000 // of a schedule
)

// flying is a message on its way.
type flying struct {
	at uint64
	m  wire.Message
}

// leaseSchedule is one run.
type leaseSchedule struct {
	rand    *rand.Rand
	c       *cluster
	time    uint64 // steps since the beginning
	flying  []flying
	down    map[[2]wire.ReplicaID]uint64 // links, and until when they fail
	still   map[wire.ReplicaID]uint64    // who stands still, and until when
	slow    uint64                       // how long messages take at most, mostly
	late    bool                         // answers to heartbeats often are
	calm    uint64                       // until when nothing more happens to the group
	cutOff  *node                        // by the leader, and campaigns
	ambush  uint64                       // until when it is waited for that; zero: no such plan
	mixed   bool                         // replicas are not configured alike
	longest map[wire.ReplicaID]uint64    // promise that was ever made, in nanoseconds
}

// start starts a replica, in mixed schedules with settings of its own.
func (s *leaseSchedule) start(n *node, applied wire.Index) error {
	tuning := s.c.tuning
	tuning.TickNanos = int64(n.tickNanos)
	n.config.Promised = (s.longest[n.id] + n.tickNanos - 1) / n.tickNanos
	if n.config.Promised > 0 {
		n.config.Promised++ // the tick of the start is not whole
	}
	if s.mixed {
		tuning.ElectionTicks = 10 + 10*s.rand.IntN(2)
		tuning.LeaseReads = s.rand.IntN(2) > 0
	}
	if tuning.LeaseReads {
		s.longest[n.id] = max(s.longest[n.id], uint64(tuning.ElectionTicks)*n.tickNanos)
	}
	n.config.Tuning = &tuning
	return n.start(applied)
}

// eager draws short time-outs: an election as early as may be is the hardest for a
// lease.
type eager struct{ r *rand.Rand }

func (e eager) Uint64() uint64 {
	if e.r.IntN(4) > 0 {
		return e.r.Uint64N(2)
	}
	return e.r.Uint64N(4)
}

func runLeaseSchedule(seed uint64, counts *leaseCounts) error {
	s := &leaseSchedule{rand: rand.New(rand.NewPCG(seed, 16)), down: map[[2]wire.ReplicaID]uint64{}, still: map[wire.ReplicaID]uint64{},
		longest: map[wire.ReplicaID]uint64{}}
	s.slow, s.late, s.mixed = 1+s.rand.Uint64N(8), s.rand.IntN(3) == 0, seed%2 == 0
	voters := 3 + 2*s.rand.IntN(2)
	s.c = newCluster(members(voters), Tuning{ElectionTicks: 10 + 10*s.rand.IntN(2), HeartbeatTicks: 1 + s.rand.IntN(2), LeaseReads: true,
		DisablePreVote: s.rand.IntN(2) == 0})
	for _, n := range s.c.nodes {
		rate := uint64(90 + 10*s.rand.IntN(2)) // percent of the fastest
		phase := s.rand.Uint64N(100 * leaseGrain)
		length := uint64(1)
		if s.mixed && seed%4 == 0 {
			length += s.rand.Uint64N(2)
		}
		n.tickNanos = length * 1000
		n.clock = func() uint64 { return 1 + (s.time*rate+phase)/(100*leaseGrain*length) }
		n.rand = eager{s.rand}
		if err := s.start(n, 0); err != nil {
			return err
		}
	}
	var committed wire.Index
	leads := map[wire.Term]bool{}
	for ; s.time < leaseSteps; s.time++ {
		if err := s.disturb(counts); err != nil {
			return err
		}
		s.deliver()
		for _, n := range s.c.nodes {
			if n.g == nil || s.still[n.id] > s.time {
				continue
			}
			n.g.Tick(n.tick())
			for n.ready() {
				n.persist()
			}
			s.launch()
			if err := n.g.Err(); err != nil {
				return err
			}
			if n.g.Role() == Leader && !leads[n.g.Term()] {
				leads[n.g.Term()] = true
				counts.leaders++
			}
			if n.g.Commit() > committed {
				committed = n.g.Commit()
				counts.commits++
			}
		}
		for _, n := range s.c.nodes {
			if n.g == nil {
				continue
			}
			if index, until, ok := n.g.LeaseIndex(n.tick()); ok {
				counts.leases++
				if index < committed {
					return fmt.Errorf("step %d: replica %d reads at %d by a lease until %d in tick %d, %d are committed",
						s.time, n.id, index, until, n.tick(), committed)
				}
			}
		}
	}
	return nil
}

// launch takes new messages off the cluster's network and gives each a time to
// arrive. Those of a link that fails never do.
func (s *leaseSchedule) launch() {
	for _, m := range s.c.net {
		if s.down[[2]wire.ReplicaID{m.From, m.To}] > s.time {
			continue
		}
		delay := 1 + s.rand.Uint64N(s.slow)
		if s.rand.IntN(10) == 0 {
			delay += s.rand.Uint64N(8 * leaseGrain)
		}
		if m.Kind == wire.HeartbeatResponse && s.late && s.rand.IntN(2) == 0 {
			delay += s.rand.Uint64N(uint64(s.c.tuning.ElectionTicks) * leaseGrain) // long after the promise
		}
		s.flying = append(s.flying, flying{s.time + delay, m})
	}
	s.c.net = s.c.net[:0]
}

// deliver hands over what has arrived, to those that do not stand still.
func (s *leaseSchedule) deliver() {
	rest := s.flying[:0]
	for _, f := range s.flying {
		if n := s.c.node(f.m.To); f.at > s.time || s.still[n.id] > s.time {
			rest = append(rest, f)
		} else if n.g != nil {
			n.step(&f.m)
		}
	}
	s.flying = rest
}

// disturb does something to the group, in few of the steps.
func (s *leaseSchedule) disturb(counts *leaseCounts) error {
	n := s.c.nodes[s.rand.IntN(len(s.c.nodes))]
	leader := s.c.leader()
	if leader != nil && s.rand.IntN(2) == 0 {
		n = leader
	}
	within := func(ticks uint64) uint64 { return s.time + leaseGrain/2 + s.rand.Uint64N(ticks*leaseGrain) }
	if s.time < s.ambush && leader != nil && leader != s.cutOff && s.cutOff.g != nil && s.cutOff.g.Role() != Follower && s.rand.IntN(4) == 0 {
		// Its requests for votes are on their way. Now the others start again, or are
		// told that their leader is gone, and do not hear it.
		s.ambush = 0
		for _, other := range s.c.nodes {
			if other == leader || other == s.cutOff || other.g == nil {
				continue
			}
			s.down[[2]wire.ReplicaID{leader.id, other.id}] = s.time + 8*leaseGrain
			if s.rand.IntN(2) == 0 {
				_ = other.g.ForgetLeader() // it may have promised not to
				continue
			}
			other.crash(len(other.writes))
			counts.restarts++
			if err := s.start(other, min(wire.Index(len(other.machine)), other.log.Last())); err != nil {
				return err
			}
		}
		return nil
	}
	if s.time < s.calm {
		return nil
	}
	switch roll := s.rand.IntN(1000); {
	case roll < 1: // the leader is cut off, and the others have nothing else to do than to elect one
		if leader != nil {
			s.calm = s.time + 2*uint64(s.c.tuning.ElectionTicks)*leaseGrain
			clear(s.down)
			for _, other := range s.c.nodes {
				s.down[[2]wire.ReplicaID{leader.id, other.id}] = s.calm
				s.down[[2]wire.ReplicaID{other.id, leader.id}] = s.calm
			}
		}
	case roll < 3:
		if leader != nil && n != leader && s.ambush < s.time {
			s.cutOff, s.ambush = n, s.time+uint64(s.c.tuning.ElectionTicks)*leaseGrain+s.rand.Uint64N(20*leaseGrain)
			s.down[[2]wire.ReplicaID{leader.id, n.id}] = s.ambush + 8*leaseGrain
		}
	case roll < 7: // nobody hears it, or it hears nobody, or both
		how, until := s.rand.IntN(3), within(30)
		for _, other := range s.c.nodes {
			if how != 0 {
				s.down[[2]wire.ReplicaID{n.id, other.id}] = until
			}
			if how != 1 {
				s.down[[2]wire.ReplicaID{other.id, n.id}] = until
			}
		}
	case roll < 11: // one link
		other := s.c.nodes[s.rand.IntN(len(s.c.nodes))]
		s.down[[2]wire.ReplicaID{n.id, other.id}] = within(30)
	case roll < 12:
		s.still[n.id] = within(20)
	case roll < 16: // crashes, and is back at once: its promises are forgotten
		if n.g == nil {
			return nil
		}
		n.crash(len(n.writes))
		counts.restarts++
		return s.start(n, min(wire.Index(len(n.machine)), n.log.Last()))
	case roll < 19:
		if leader != nil && leader.g.TransferLeader(n.id) == nil && leader != n {
			counts.transfers++
		}
	case roll < 25:
		if n.g != nil {
			_ = n.g.ForgetLeader() // it may have promised not to
		}
	case roll < 40:
		// Who is cut off shall not fall behind, or nobody would vote for it.
		if leader != nil && s.ambush < s.time {
			_, _, err := leader.g.Propose(commands("x"), 1)
			if err != nil && err != ErrTransferring && err != ErrBusy {
				return err
			}
		}
	}
	return nil
}
