package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"multiraft/bench/peers/sample"
	"multiraft/group"
	"multiraft/wire"
)

// groupID is the one group there is.
const groupID = 7

// replica is a member of a group with its log and its state machine.
type replica struct {
	*group.Group
	log     *memory
	rd      group.Ready
	commits int // commands applied
	sum     uint64
	applied wire.Index
	// idle says that nothing came in since there was no Ready, or a quiet one.
	idle bool
}

// members returns the voters 1 to n.
func members(n int) *wire.Membership {
	m := new(wire.Membership)
	for i := range n {
		m.Members = append(m.Members, wire.Member{
			Replica: wire.ReplicaID(i + 1), Store: wire.StoreID(i + 1), Role: wire.Voter,
		})
	}
	return m
}

// newReplica makes a replica without a log. tuning has its defaults filled in.
func newReplica(id wire.ReplicaID, members *wire.Membership, tuning *group.Tuning) (*replica, error) {
	r := &replica{log: new(memory)}
	r.rd.DeferAnswers = true
	var err error
	r.Group, err = group.New(group.Config{
		Group: groupID, Replica: id, Members: members, Tuning: tuning,
		Storage: r.log, Rand: rand.New(rand.NewPCG(uint64(id), 0)), //gosec:disable G404 -- runs are to be alike
	})
	return r, err
}

// ready takes one Ready, persists what it says, applies what is committed, and
// says whether there was one. Its messages are left to the caller: those that had
// to wait for the log may leave now, too.
func (r *replica) ready() (bool, error) {
	rd := &r.rd
	if !r.HasReady() || !r.Ready(rd) {
		return false, r.Err()
	}
	if rd.Seq != 0 {
		if err := r.log.persist(rd); err != nil {
			return false, err
		}
		r.Persisted(rd.Ack())
		r.idle = rd.Quiet
	}
	if rd.CommittedLast >= rd.CommittedFirst {
		if len(rd.Committed) == 0 {
			return false, fmt.Errorf("entries [%d, %d] are not in memory", rd.CommittedFirst, rd.CommittedLast)
		}
		r.apply(rd)
		r.Applied(rd.CommittedLast)
	}
	return true, nil
}

// apply is the state machine: it counts commands and adds up their beginnings.
// The first and the last block may reach beyond what is committed.
func (r *replica) apply(rd *group.Ready) {
	for _, b := range rd.Committed {
		if b.Kind() != wire.EntryCommand {
			continue
		}
		last, rest := min(b.Last(), rd.CommittedLast), b.Payloads()
		var command []byte
		for i := b.First(); i <= last; i++ {
			var ok bool
			if command, rest, ok = wire.NextPayloadOf(rest, len(command)); !ok {
				command, rest, _ = wire.NextPayload(rest)
			}
			if i >= rd.CommittedFirst {
				r.commits++
				r.sum += binary.LittleEndian.Uint64(command)
			}
		}
	}
	r.applied = rd.CommittedLast
}

// drain takes Readys until there is none, and drops their messages.
func (r *replica) drain() error {
	for {
		if more, err := r.ready(); err != nil || !more {
			return err
		}
	}
}

// compact compacts the log when enough is applied.
func (r *replica) compact() error {
	if r.applied < r.log.base+sample.CompactEvery {
		return nil
	}
	return r.log.compact(r.applied)
}

// cluster is all replicas of a group, with messages handed over in memory.
type cluster struct {
	replicas []*replica // replica i+1 at i
	now      uint64
}

// newCluster makes a group of n voters, of which the first leads.
func newCluster(n int, tuning *group.Tuning) (*cluster, error) {
	c := new(cluster)
	filled := tuning.WithDefaults()
	shared := members(n)
	for i := range n {
		r, err := newReplica(wire.ReplicaID(i+1), shared, &filled)
		if err != nil {
			return nil, err
		}
		c.replicas = append(c.replicas, r)
	}
	if err := c.leader().Campaign(); err != nil {
		return nil, err
	}
	if err := c.finish(); err != nil {
		return nil, err
	}
	if c.leader().Role() != group.Leader {
		return nil, fmt.Errorf("replica 1 is %v", c.leader().Role())
	}
	return c, nil
}

func (c *cluster) leader() *replica { return c.replicas[0] }

// settle goes on until no replica has anything to do. As a host does, it asks
// only those that something was given to.
func (c *cluster) settle() error {
	for busy := true; busy; {
		busy = false
		for _, r := range c.replicas {
			if r.idle {
				continue
			}
			more, err := r.ready()
			if err != nil {
				return err
			}
			if !more {
				r.idle = true
				continue
			}
			busy = true
			for i := range r.rd.Messages {
				if err := c.deliver(&r.rd.Messages[i]); err != nil {
					return err
				}
			}
			for i := range r.rd.After {
				if err := c.deliver(&r.rd.After[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// deliver hands over a message.
func (c *cluster) deliver(m *wire.Message) error {
	to := c.replicas[m.To-1]
	to.idle = false
	return to.Step(m)
}

// finish settles, and then lets a tick pass: the leader tells followers of a
// commit with the next append, or in the next tick if there is none, while etcd's
// library tells them with a message at once. So that all replicas have applied all
// entries when an operation ends, here as there, that tick is part of it.
func (c *cluster) finish() error {
	c.leader().idle = false
	if err := c.settle(); err != nil {
		return err
	}
	c.now++
	for _, r := range c.replicas[1:] {
		r.Clock(c.now)
	}
	c.leader().Tick(c.now)
	c.leader().idle = false
	if err := c.settle(); err != nil {
		return err
	}
	for _, r := range c.replicas {
		if err := r.compact(); err != nil {
			return err
		}
	}
	return nil
}

// check says whether every replica has applied want commands.
func (c *cluster) check(want int) error {
	for _, r := range c.replicas {
		if r.commits != want || r.sum != c.leader().sum {
			return fmt.Errorf("replica %d applied %d commands with sum %x, want %d with %x",
				r.Replica(), r.commits, r.sum, want, c.leader().sum)
		}
	}
	return nil
}
