// Core measures the operations of package sample with multiraft/group and
// multiraft/wire.
package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"multiraft/bench/peers/sample"
	"multiraft/group"
	"multiraft/wire"
)

func main() { sample.Main("core", rows()) }

func rows() map[string]sample.Row {
	rows := map[string]sample.Row{
		sample.Replicate:      {Time: func(t *sample.Timer) error { return replicate(t, 1, 1) }},
		sample.ProposeCalls:   {Time: func(t *sample.Timer) error { return replicate(t, sample.Batch, 1) }, PerOp: sample.Batch},
		sample.ProposeBatch:   {Time: func(t *sample.Timer) error { return replicate(t, 1, sample.Batch) }, PerOp: sample.Batch},
		sample.FollowerAppend: {Time: followerAppend},
		sample.Heartbeat:      {Time: heartbeat},
		sample.Encode:         {Time: encode},
		sample.Decode:         {Time: decode},
		sample.IdleFollower:   {Heap: idleFollower},

		sample.CommitIndex + sample.Joint: {Time: jointCommitIndexOf},
	}
	for _, voters := range []int{3, 5, 7} {
		rows[sample.LeaderAcks+strconv.Itoa(voters)] = sample.Row{
			Time: func(t *sample.Timer) error { return leaderAcks(t, voters) },
		}
		rows[sample.CommitIndex+strconv.Itoa(voters)] = sample.Row{
			Time: func(t *sample.Timer) error { return commitIndexOf(t, voters) },
		}
	}
	return rows
}

// newBlock returns a block of n commands, not sealed, in memory of the arena.
func newBlock(arena *wire.Arena, n int, payload []byte) wire.Block {
	b := wire.NewBlock(arena.Alloc(wire.BlockHeaderBytes + n*wire.PayloadBytes(len(payload))))
	for range n {
		b = wire.AppendPayload(b, payload)
	}
	return b
}

// replicate takes calls proposals of n entries each through all three replicas.
func replicate(t *sample.Timer, calls, n int) error {
	c, err := newCluster(3, new(group.Tuning))
	if err != nil {
		return err
	}
	var arena wire.Arena
	payload, leader := sample.Payload(1), c.leader()
	ops := 0
	for t.Loop() {
		for range calls {
			if _, _, err := leader.Propose(newBlock(&arena, n, payload), n); err != nil {
				return err
			}
		}
		if err := c.finish(); err != nil {
			return err
		}
		ops++
	}
	return c.check(ops * calls * n)
}

// followerTerm is the term in which replica 2 leads replica 1.
const followerTerm = 2

// appendMessage returns an append of replica 2 to replica 1 with count entries
// behind index, which are in a block not sealed yet, that commits what is in
// front of them.
func appendMessage(index wire.Index, block wire.Block, count int) wire.Message {
	block.Seal(groupID, index+1, followerTerm, wire.EntryCommand, count)
	m := wire.Message{
		Kind: wire.Append, Group: groupID, From: 2, To: 1, Term: followerTerm,
		Index: index, LogTerm: followerTerm, Commit: index, Entries: block,
	}
	if index == 0 {
		m.LogTerm = 0 // there is no entry
	}
	return m
}

// followerAppend gives replica 1 appends of replica 2.
func followerAppend(t *sample.Timer) error {
	tuning := group.Tuning{}.WithDefaults()
	r, err := newReplica(1, members(3), &tuning)
	if err != nil {
		return err
	}
	payload := sample.Payload(1)
	appends := make([]wire.Message, 0, sample.AppendChunk)
	prepare := func(index wire.Index) {
		var arena wire.Arena
		appends = appends[:0]
		for range sample.AppendChunk {
			appends = append(appends, appendMessage(index, newBlock(&arena, sample.Batch, payload), sample.Batch))
			index += sample.Batch
		}
	}
	next, ops := 0, 0
	for t.Loop() {
		if next == len(appends) {
			t.Stop()
			prepare(r.LastIndex())
			next = 0
			t.Start()
		}
		m := &appends[next]
		if err := r.Step(m); err != nil {
			return err
		}
		acked := false
		for {
			more, err := r.ready()
			if err != nil {
				return err
			}
			if !more {
				break
			}
			for i := range r.rd.After {
				a := &r.rd.After[i]
				acked = acked || a.Kind == wire.AppendResponse && !a.Reject && a.Index == m.Index+sample.Batch
			}
		}
		if !acked {
			return fmt.Errorf("append behind %d is not acknowledged", m.Index)
		}
		if err := r.compact(); err != nil {
			return err
		}
		next++
		ops++
	}
	if want := (ops - 1) * sample.Batch; r.commits != want {
		return fmt.Errorf("%d commands are applied, want %d", r.commits, want)
	}
	return nil
}

// leaderAcks gives a leader the acknowledgements of entry by entry. The tick that
// tells the followers of the commit, see finish, is part of it; heartbeats that
// would be due anyway are not.
func leaderAcks(t *sample.Timer, voters int) error {
	c, err := newCluster(voters, &group.Tuning{
		HeartbeatTicks: 1 << 28, ElectionTicks: 1 << 29,
		MaxInflightMessages: 4096, DisableCheckQuorum: true,
	})
	if err != nil {
		return err
	}
	r, payload, term := c.leader(), sample.Payload(1), c.leader().Term()
	var arena wire.Arena
	ack := func(from wire.ReplicaID, index wire.Index) error {
		m := wire.Message{
			Kind: wire.AppendResponse, Group: groupID, From: from, To: 1, Term: term, Index: index,
		}
		return r.Step(&m)
	}
	prepare := func() error {
		for from := 2; from <= voters; from++ {
			if err := ack(wire.ReplicaID(from), r.LastIndex()); err != nil {
				return err
			}
		}
		if err := r.drain(); err != nil {
			return err
		}
		if err := r.compact(); err != nil {
			return err
		}
		for range sample.AckChunk {
			if _, _, err := r.Propose(newBlock(&arena, 1, payload), 1); err != nil {
				return err
			}
			if err := r.drain(); err != nil { // an append per entry, as there
				return err
			}
		}
		return nil
	}
	quorum := voters/2 + 1
	told, ops, now := 0, 0, c.now
	for t.Loop() {
		if r.Commit() == r.LastIndex() {
			t.Stop()
			if err := prepare(); err != nil {
				return err
			}
			t.Start()
		}
		index := r.Commit() + 1
		for from := 2; from <= quorum; from++ {
			if err := ack(wire.ReplicaID(from), index); err != nil {
				return err
			}
		}
		if r.Commit() != index {
			return fmt.Errorf("commit is %d, want %d", r.Commit(), index)
		}
		now++
		r.Tick(now)
		for {
			more, err := r.ready()
			if err != nil {
				return err
			}
			if !more {
				break
			}
			told += len(r.rd.Messages)
		}
		if r.applied != index {
			return fmt.Errorf("applied is %d, want %d", r.applied, index)
		}
		ops++
	}
	if told < ops*(quorum-1) {
		return fmt.Errorf("%d messages told of %d commits", told, ops)
	}
	return nil
}

// heartbeat makes a leader of three send its heartbeats.
func heartbeat(t *sample.Timer) error {
	c, err := newCluster(3, &group.Tuning{HeartbeatTicks: 1, DisableCheckQuorum: true})
	if err != nil {
		return err
	}
	r, now := c.leader(), c.now+1
	for t.Loop() {
		now++
		r.Tick(now)
		more, err := r.ready()
		if err != nil {
			return err
		}
		if !more || len(r.rd.Messages) != 2 || r.rd.Messages[1].Kind != wire.Heartbeat {
			return fmt.Errorf("%d messages, want two heartbeats", len(r.rd.Messages))
		}
	}
	return nil
}

// sealed returns an append of Batch entries that are one block, as a proposal of
// them is.
func sealed() wire.Message {
	const index, term = 1_000_000, 5
	block := newBlock(new(wire.Arena), sample.Batch, sample.Payload(1))
	block.Seal(groupID, index+1, term, wire.EntryCommand, sample.Batch)
	return wire.Message{
		Kind: wire.Append, Group: groupID, From: 1, To: 2, Term: term,
		Index: index, LogTerm: term, Commit: index, Entries: block,
	}
}

func encode(t *sample.Timer) error {
	m := sealed()
	var buf []byte
	for t.Loop() {
		buf = m.AppendTo(buf[:0])
	}
	if len(buf) != m.Size() {
		return fmt.Errorf("%d bytes, want %d", len(buf), m.Size())
	}
	return nil
}

// decode includes the check of the block, which finds every entry in it: decoding
// a message alone leaves that to the follower's Step.
func decode(t *sample.Timer) error {
	want := sealed()
	buf := want.AppendTo(nil)
	var m wire.Message
	for t.Loop() {
		if _, err := m.Decode(buf); err != nil {
			return err
		}
		block, rest, err := wire.ParseBlock(m.Entries)
		if err != nil || len(rest) != 0 || block.Count() != sample.Batch {
			return fmt.Errorf("%d entries, %d bytes behind them: %w", block.Count(), len(rest), err)
		}
	}
	if m.Index != want.Index || !slices.Equal(m.Entries, want.Entries) {
		return fmt.Errorf("decoded message differs")
	}
	return nil
}

// idle is what one follower takes. The Ready that it is served with is not in it:
// a host has one for many groups.
type idle struct {
	group *group.Group
	log   *memory
}

// idleFollower gives each follower a Membership of its own, although groups may
// share them.
func idleFollower() (float64, error) {
	tuning := group.Tuning{}.WithDefaults()
	payload := sample.Payload(1)
	return sample.Live(sample.IdleGroups, func(int) (idle, error) {
		r, err := newReplica(1, members(3), &tuning)
		if err != nil {
			return idle{}, err
		}
		for i := range wire.Index(sample.IdleEntries) {
			m := appendMessage(i, newBlock(new(wire.Arena), 1, payload), 1)
			if err := errors.Join(r.Step(&m), r.drain()); err != nil {
				return idle{}, err
			}
		}
		for range sample.IdleHeartbeats {
			m := wire.Message{Kind: wire.Heartbeat, Group: groupID, From: 2, To: 1, Term: followerTerm, Commit: sample.IdleEntries}
			if err := errors.Join(r.Step(&m), r.drain()); err != nil {
				return idle{}, err
			}
		}
		if r.commits != sample.IdleEntries {
			return idle{}, fmt.Errorf("%d commands are applied, want %d", r.commits, sample.IdleEntries)
		}
		if err := r.log.compact(r.applied); err != nil {
			return idle{}, err
		}
		r.log.shed()
		return idle{r.Group, r.log}, nil
	})
}
