package group

import (
	"testing"

	"multiraft/internal/allocs"
	"multiraft/wire"
)

// FuzzStep runs one replica of three through whatever the input says: messages
// with any fields, whole ones in their encoding, ticks, proposals, syncs,
// crashes. Nothing may panic, the disk must be written in order, commit must not
// go back, and memory must not depend on what a message claims.
func FuzzStep(f *testing.F) {
	f.Add([]byte{0, 1, 2, 1, 1, 0, 0, 0, 1, 1, 9, 8, 7})
	f.Add([]byte("\x02\x03\x01\x02\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"))
	var m []byte
	for k := wire.Append; k <= wire.MessageKinds; k++ {
		message := wire.Message{Kind: k, Group: 1, From: 2, To: 1, Term: 2, Index: 1, LogTerm: 1}
		m = append(append(m, 4), message.AppendTo(nil)...)
		m = append(m, 5, 6, 6)
	}
	f.Add(m)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<14 {
			return
		}
		// The driver of this test records what it does; an operation is a byte, and may
		// be 64 turns of a group with a window of messages to two peers.
		allocs.AtMost(t, 4<<20+uint64(len(data))<<12, func() {
			run := &fuzzRun{data: data, n: newCluster(members(3), Tuning{ElectionTicks: 10, MaxMessageBytes: 300, MaxCommittedBytes: 300}).nodes[0]}
			run.start()
			for len(run.data) > 0 {
				run.step(t)
			}
		})
	})
}

type fuzzRun struct {
	data   []byte
	n      *node
	commit wire.Index
}

func (r *fuzzRun) start() {
	r.commit = 0
	if err := r.n.start(0); err != nil {
		panic(err)
	}
}

// next takes a small number off the input.
func (r *fuzzRun) next() uint64 {
	if len(r.data) == 0 {
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	if b == 255 {
		return 1<<64 - 1 - r.next()
	}
	return uint64(b % 16)
}

func (r *fuzzRun) step(t *testing.T) {
	n := r.n
	switch r.next() {
	case 0, 1, 2, 3:
		m := r.message()
		_ = n.g.Step(&m) // any error will do
	case 4:
		var m wire.Message
		size, err := m.Decode(r.data)
		if err != nil {
			size = min(1, len(r.data))
		} else {
			_ = n.g.Step(&m) // any error will do
		}
		r.data = r.data[size:]
	case 5:
		n.g.Tick(n.g.now + r.next())
	case 6:
		for range 64 {
			if !n.ready() {
				break
			}
			n.persist()
		}
		n.c.net = nil
	case 7:
		n.ready()
		n.c.net = nil
	case 8:
		n.acknowledge(len(n.acks))
	case 9:
		n.sync(len(n.writes))
	case 10:
		_, _, _ = n.g.Propose(commands("p"), int(r.next())) // any error will do
	case 11:
		_ = n.g.ReadIndex(r.next()) // any error will do
	case 12:
		n.g.Unreachable(wire.ReplicaID(r.next()))
		n.g.Persisted(Ack{Seq: r.next(), Term: wire.Term(r.next()), Index: wire.Index(r.next())})
	case 13:
		n.g.Applied(wire.Index(r.next()))
	case 14:
		n.crash(0)
		r.start()
	case 15:
		_ = n.g.Campaign() // any error will do
	}
	if commit := n.g.Commit(); commit < r.commit || commit > n.g.LastIndex() {
		t.Fatalf("commit %d after %d, last %d", commit, r.commit, n.g.LastIndex())
	}
	r.commit = n.g.Commit()
	if d := n.g.log.durable; n.g.handed.last > min(r.commit, d) {
		t.Fatalf("handed out %d, commit %d, durable %d", n.g.handed.last, r.commit, d)
	}
}

// message makes a message with small numbers, and blocks that may fit.
func (r *fuzzRun) message() wire.Message {
	m := wire.Message{
		Kind: wire.MessageKind(r.next() + r.next()/8), Group: 1, From: wire.ReplicaID(1 + r.next()%4), To: 1,
		Term: wire.Term(r.next()), Index: wire.Index(r.next()), LogTerm: wire.Term(r.next()),
		Commit: wire.Index(r.next()), Hint: wire.Index(r.next()), Context: r.next(), Reject: r.next()%2 == 1,
	}
	index, term := m.Index+1, m.LogTerm
	for range r.next() % 4 {
		term += wire.Term(r.next() % 2)
		count := 1 + int(r.next()%3)
		kind := wire.EntryCommand
		if r.next() == 15 {
			kind = wire.EntryConfig
		}
		b := wire.NewBlock(nil)
		for range count {
			b = wire.AppendPayload(b, []byte{byte(term)})
		}
		b.Seal(1, index, max(term, 1), kind, count)
		m.Entries = append(m.Entries, b...)
		index += wire.Index(count) + wire.Index(r.next()/15)
	}
	return m
}
