package engine

import (
	"errors"

	"multiraft/group"
	"multiraft/wire"
)

// remote is a request of another store: the pending objects of its commands, and
// who is told what became of them.
type remote struct {
	replica  *replica
	peer     int32          // the store of the origin, by its place in Store.peers
	origin   wire.ReplicaID // that asked
	context  uint64
	left     int
	pendings []Pending // Tag is the place in the request
	message  wire.Message
	results  []byte
}

// origin is a replica that has forwarded proposals to this one.
type origin struct {
	replica wire.ReplicaID
	context uint64 // of its newest request
}

// maxOrigins bounds how many of them are remembered.
const maxOrigins = 4 * group.MaxReplicas

// isNewRequest says whether a request cannot have been taken before, and notes
// that it was looked at. That is certain only of requests of the term that this
// replica led last since it was started.
func (r *replica) isNewRequest(m *wire.Message) bool {
	if m.Term != r.led {
		return false
	}
	if r.originsTerm != r.led {
		r.origins, r.originsTerm = r.origins[:0], r.led
	}
	for i := range r.origins {
		if o := &r.origins[i]; o.replica == m.From {
			isNew := m.Context > o.context
			o.context = max(o.context, m.Context)
			return isNew
		}
	}
	if len(r.origins) == maxOrigins {
		return false // replicas come and go, but not so many in one term
	}
	r.origins = append(r.origins, origin{m.From, m.Context})
	return true
}

// takeForwarded proposes the commands of another store. It tells whether they
// were appended.
func (w *worker) takeForwarded(r *replica, m *wire.Message) (own bool, err error) {
	count, ok := countPayloads(m.Entries)
	if !ok {
		return false, errBadForward
	}
	if !r.isNewRequest(m) {
		return false, nil
	}
	s, core := w.store, r.core
	if core.Role() != group.Leader || core.Term() != m.Term {
		w.refuseForwarded(r, m, refusedNotLeader)
		return false, nil
	}
	set := r.members.Load()
	at := set.place(m.From)
	bytes := int64(len(m.Entries))
	if at < 0 || set.peers[at] < 0 {
		return false, nil // it was removed in this turn
	}
	if !s.admitForwarded(r, bytes) {
		w.refuseForwarded(r, m, refusedBusy)
		return false, nil
	}
	block := wire.Block(w.arena.Alloc(wire.BlockHeaderBytes + len(m.Entries)))
	block = append(wire.NewBlock(block), m.Entries...)
	first, term, err := core.Propose(block, count)
	if err != nil {
		s.inflightBytes.Add(-bytes)
		r.inflightBytes.Add(-bytes)
		reason := refusedBusy
		if errors.Is(err, group.ErrTransferring) {
			reason = refusedTransferring
		}
		w.refuseForwarded(r, m, reason)
		return false, nil
	}
	q := s.remotes.get()
	q.replica, q.peer, q.origin, q.context, q.left = r, set.peers[at], m.From, m.Context, count
	pending := s.pendings.get()
	if cap(q.pendings) < count {
		q.pendings = make([]Pending, count)
	}
	q.pendings = q.pendings[:count]
	payloads := m.Entries
	for i := range q.pendings {
		command, rest, _ := wire.NextPayload(payloads) // countPayloads has seen it
		payloads = rest
		q.pendings[i] = Pending{Tag: uint64(i), notifier: q, bytes: int32(wire.PayloadBytes(len(command)))}
		pending = append(pending, &q.pendings[i])
	}
	tasks := &w.apply[r.applier.at]
	tasks.tasks = append(tasks.tasks, applyTask{kind: taskProposed, replica: r, pending: pending, first: first, term: term})
	s.metrics.proposals.Add(int64(count))
	return true, nil
}

// errBadForward is counted, and not told to anybody.
var errBadForward = errors.New("a forwarded proposal that is no list of commands")

// countPayloads counts length-prefixed payloads that fill b.
func countPayloads(b []byte) (count int, ok bool) {
	for len(b) > 0 {
		if _, b, ok = wire.NextPayload(b); !ok {
			return 0, false
		}
		count++
	}
	return count, count > 0
}

// admitForwarded counts a request in the budgets of proposals.
func (s *Store) admitForwarded(r *replica, bytes int64) bool {
	if r.inflightBytes.Add(bytes) > s.cfg.MaxGroupInflightBytes {
		r.inflightBytes.Add(-bytes)
		return false
	}
	if s.inflightBytes.Add(bytes) > s.cfg.MaxInflightBytes || s.log.DiskFull() {
		s.inflightBytes.Add(-bytes)
		r.inflightBytes.Add(-bytes)
		return false
	}
	return true
}

// refuseForwarded tells the origin that nothing was appended, and why.
func (w *worker) refuseForwarded(r *replica, m *wire.Message, reason wire.Index) {
	w.forward = wire.Message{
		Kind: wire.ProposeResponse, Group: r.id, From: r.self, To: m.From,
		Reject: true, Hint: reason, Context: m.Context,
	}
	w.store.address(&w.out, r, &w.forward)
}

// ProposalsDone sends results to the origin. It runs on the applier, whose step
// sends the frames.
func (q *remote) ProposalsDone(done []*Pending) {
	first, next := done[0].Tag, done[0].Tag
	for _, p := range done {
		if p.Tag != next || len(q.results) > 0 && len(q.results)+len(p.result.Data) > maxResultBytes {
			q.send(first)
			first = p.Tag
		}
		q.results = appendResult(q.results, statusOf(p), &p.result)
		next = p.Tag + 1
	}
	q.send(first)
	if q.left -= len(done); q.left == 0 {
		s := q.replica.store
		clear(q.pendings)
		q.replica, q.message = nil, wire.Message{}
		if cap(q.pendings) <= maxApplyEntries && cap(q.results) <= maxResultBytes {
			s.remotes.put(q)
		}
	}
}

// send sends the gathered results, which begin at a place in the request.
func (q *remote) send(first uint64) {
	r := q.replica
	q.message = wire.Message{
		Kind: wire.ProposeResponse, Group: r.id, From: r.self, To: q.origin,
		Hint: wire.Index(first), Context: q.context, Entries: q.results,
	}
	r.store.put(&r.applier.out, int(q.peer), &q.message)
	q.results, q.message = q.results[:0], wire.Message{}
}
