//go:build raft370

package main

import (
	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"multiraft/bench/peers/sample"
)

type (
	message = *raftpb.Message
	entry   = *raftpb.Entry
)

func newSnapshot(index, term uint64, voters int) *raftpb.Snapshot {
	conf := new(raftpb.ConfState)
	for id := range uint64(voters) {
		conf.Voters = append(conf.Voters, id+1)
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: conf, Index: &index, Term: &term}}
}

func newHardState(term, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: new(uint64), Commit: &commit}
}

func newEntries(first, term uint64, payload []byte, count int) []entry {
	entries := make([]entry, count)
	for i := range entries {
		index := first + uint64(i)
		entries[i] = &raftpb.Entry{Index: &index, Term: &term, Data: payload}
	}
	return entries
}

func newAppend(from, to, term, index, logTerm, commit uint64, entries []entry) message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: &from, To: &to, Term: &term,
		Index: &index, LogTerm: &logTerm, Commit: &commit, Entries: entries,
	}
}

func newAppendResponse(from, to, term uint64) message {
	return &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: &from, To: &to, Term: &term, Index: new(uint64)}
}

func newHeartbeat(from, to, term, commit uint64) message {
	return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &from, To: &to, Term: &term, Commit: &commit}
}

// proposer makes proposals. This version keeps the entries of one, so each gets
// new ones, all in one allocation.
type proposer struct {
	payload []byte
	n       int
	message message
	kept    []entry
}

func newProposer(n int) *proposer {
	from := uint64(1)
	return &proposer{
		payload: sample.Payload(1), n: n, kept: make([]entry, n),
		message: &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: &from},
	}
}

func (p *proposer) next() message {
	entries := make([]raftpb.Entry, p.n)
	for i := range entries {
		entries[i].Data = p.payload
		p.kept[i] = &entries[i]
	}
	p.message.Entries = p.kept
	return p.message
}

func kindOf(m message) raftpb.MessageType { return m.GetType() }
func toOf(m message) uint64               { return m.GetTo() }
func indexOf(m message) uint64            { return m.GetIndex() }
func setIndex(m *message, index uint64)   { *(*m).Index = index }
func entriesOf(m message) []entry         { return m.GetEntries() }
func placeOf(e *entry) uint64             { return (*e).GetIndex() }
func termOf(r *replica) uint64            { return r.BasicStatus().HardState.GetTerm() }

// commandOf returns the command in an entry, nil if it holds something else.
func commandOf(e *entry) []byte {
	if (*e).GetType() != raftpb.EntryNormal {
		return nil
	}
	return (*e).GetData()
}

func sizeOf(m message) int { return proto.Size(m) }

// marshal encodes m into buf, which is made anew when it is too small.
func marshal(buf []byte, m message) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(buf[:0], m)
}

func unmarshal(buf []byte) (message, error) {
	m := new(raftpb.Message)
	err := proto.Unmarshal(buf, m)
	return m, err
}
