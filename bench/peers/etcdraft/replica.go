package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"

	"go.etcd.io/raft/v3"

	"multiraft/bench/peers/sample"
)

// A group begins with a snapshot that holds its configuration, which is how the
// library is told of it, and stands for one entry.
const (
	firstTerm  = 1
	firstIndex = 2 // of what comes behind it
)

// silent is shared by all replicas.
var silent = &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)}

// config is what differs between the operations.
type config struct {
	noCheckQuorum bool
}

// replica is a member of a group with its log and its state machine.
type replica struct {
	*raft.RawNode
	storage   *raft.MemoryStorage
	compacted uint64
	commits   int // commands applied
	sum       uint64
	applied   uint64
	// idle says that nothing came in since there was no Ready.
	idle bool
}

func newReplica(id uint64, voters int, cfg config) (*replica, error) {
	r := &replica{storage: raft.NewMemoryStorage(), compacted: firstIndex - 1, applied: firstIndex - 1}
	if err := r.storage.ApplySnapshot(newSnapshot(firstIndex-1, firstTerm, voters)); err != nil {
		return nil, err
	}
	if err := r.storage.SetHardState(newHardState(firstTerm, firstIndex-1)); err != nil {
		return nil, err
	}
	var err error
	r.RawNode, err = raft.NewRawNode(&raft.Config{
		ID: id, ElectionTick: 10, HeartbeatTick: 1,
		Storage:         r.storage,
		MaxSizePerMsg:   1 << 20,
		MaxInflightMsgs: 4096,
		CheckQuorum:     !cfg.noCheckQuorum,
		PreVote:         true,
		Logger:          silent,
	})
	return r, err
}

// ready takes one Ready, persists what it says, passes its messages on and
// applies what is committed.
func (r *replica) ready(send func(message) error) error {
	rd := r.Ready()
	if !raft.IsEmptyHardState(rd.HardState) {
		if err := r.storage.SetHardState(rd.HardState); err != nil {
			return err
		}
	}
	if len(rd.Entries) > 0 {
		if err := r.storage.Append(rd.Entries); err != nil {
			return err
		}
	}
	for _, m := range rd.Messages {
		if err := send(m); err != nil {
			return err
		}
	}
	r.apply(rd.CommittedEntries)
	r.Advance(rd)
	return nil
}

// apply is the state machine: it counts commands and adds up their beginnings.
func (r *replica) apply(entries []entry) {
	for i := range entries {
		e := &entries[i]
		if command := commandOf(e); len(command) > 0 {
			r.commits++
			r.sum += binary.LittleEndian.Uint64(command)
		}
		r.applied = placeOf(e)
	}
}

// drain takes Readys until there is none.
func (r *replica) drain(send func(message) error) error {
	for r.HasReady() {
		if err := r.ready(send); err != nil {
			return err
		}
	}
	return nil
}

// compact compacts the log when enough is applied.
func (r *replica) compact() error {
	if r.applied < r.compacted+sample.CompactEvery {
		return nil
	}
	r.compacted = r.applied
	return r.storage.Compact(r.applied)
}

// cluster is all replicas of a group, with messages handed over in memory.
type cluster struct {
	replicas []*replica // replica i+1 at i
	send     func(message) error
}

// newCluster makes a group of n voters, of which the first leads.
func newCluster(n int, cfg config) (*cluster, error) {
	c := new(cluster)
	c.send = func(m message) error {
		to := c.replicas[toOf(m)-1]
		to.idle = false
		return to.Step(m)
	}
	for i := range n {
		r, err := newReplica(uint64(i+1), n, cfg)
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
	if state := c.leader().BasicStatus().RaftState; state != raft.StateLeader {
		return nil, fmt.Errorf("replica 1 is %v", state)
	}
	return c, nil
}

func (c *cluster) leader() *replica { return c.replicas[0] }

// finish goes on until no replica has anything to do. As a host does, it asks only
// those that something was given to.
func (c *cluster) finish() error {
	c.leader().idle = false
	for busy := true; busy; {
		busy = false
		for _, r := range c.replicas {
			if r.idle {
				continue
			}
			if !r.HasReady() {
				r.idle = true
				continue
			}
			busy = true
			if err := r.ready(c.send); err != nil {
				return err
			}
		}
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
	for i, r := range c.replicas {
		if r.commits != want || r.sum != c.leader().sum {
			return fmt.Errorf("replica %d applied %d commands with sum %x, want %d with %x",
				i+1, r.commits, r.sum, want, c.leader().sum)
		}
	}
	return nil
}
