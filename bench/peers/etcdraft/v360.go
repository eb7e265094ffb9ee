//go:build !raft370

package main

import (
	"go.etcd.io/raft/v3/raftpb"

	"multiraft/bench/peers/sample"
)

type (
	message = raftpb.Message
	entry   = raftpb.Entry
)

func newSnapshot(index, term uint64, voters int) raftpb.Snapshot {
	s := raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: index, Term: term}}
	for id := range uint64(voters) {
		s.Metadata.ConfState.Voters = append(s.Metadata.ConfState.Voters, id+1)
	}
	return s
}

func newHardState(term, commit uint64) raftpb.HardState {
	return raftpb.HardState{Term: term, Commit: commit}
}

func newEntries(first, term uint64, payload []byte, count int) []entry {
	entries := make([]entry, count)
	for i := range entries {
		entries[i] = entry{Index: first + uint64(i), Term: term, Data: payload}
	}
	return entries
}

func newAppend(from, to, term, index, logTerm, commit uint64, entries []entry) message {
	return message{
		Type: raftpb.MsgApp, From: from, To: to, Term: term,
		Index: index, LogTerm: logTerm, Commit: commit, Entries: entries,
	}
}

func newAppendResponse(from, to, term uint64) message {
	return message{Type: raftpb.MsgAppResp, From: from, To: to, Term: term}
}

func newHeartbeat(from, to, term, commit uint64) message {
	return message{Type: raftpb.MsgHeartbeat, From: from, To: to, Term: term, Commit: commit}
}

// proposer makes proposals. This version copies the entries of one, which can
// then be used again.
type proposer struct {
	payload []byte
	entries []entry
}

func newProposer(n int) *proposer {
	p := &proposer{payload: sample.Payload(1)}
	p.entries = newEntries(0, 0, p.payload, n)
	return p
}

func (p *proposer) next() message {
	return message{Type: raftpb.MsgProp, From: 1, Entries: p.entries}
}

func kindOf(m message) raftpb.MessageType { return m.Type }
func toOf(m message) uint64               { return m.To }
func indexOf(m message) uint64            { return m.Index }
func setIndex(m *message, index uint64)   { m.Index = index }
func entriesOf(m message) []entry         { return m.Entries }
func placeOf(e *entry) uint64             { return e.Index }
func termOf(r *replica) uint64            { return r.BasicStatus().Term }

// commandOf returns the command in an entry, nil if it holds something else.
func commandOf(e *entry) []byte {
	if e.Type != raftpb.EntryNormal {
		return nil
	}
	return e.Data
}

func sizeOf(m message) int { return m.Size() }

// marshal encodes m into buf, which is made anew when it is too small.
func marshal(buf []byte, m message) ([]byte, error) {
	size := m.Size()
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	n, err := m.MarshalToSizedBuffer(buf[:size])
	return buf[:n], err
}

func unmarshal(buf []byte) (message, error) {
	var m message
	err := m.Unmarshal(buf)
	return m, err
}
