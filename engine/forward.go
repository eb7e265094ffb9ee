package engine

import (
	"encoding/binary"
	"errors"

	"multiraft/group"
	"multiraft/wire"
)

// Forwarding carries proposals from a replica that does not lead to the one that
// does:
//
//	origin                                              leader
//	mailbox ─▶ forward ── Propose(term, context) ──▶ remote ─▶ core, log, machine
//	           └ waits ◀─ ProposeResponse(context) ─┴─ refused, or results as they come
//
// A command is appended at most once for each time it is proposed. The leader
// takes a request only in the term it was sent in and only if its context, which
// grows with each request of an origin, is new; what it does not take it refuses,
// or, when it cannot rule out that it did take it, leaves unanswered. The origin
// sends a request again, under a new context, only after a refusal. A request or an
// answer that is lost ends in ErrNoAnswer.

// forward is a block of proposals on its way to the leader.
type forward struct {
	block   wire.Block // as built: a header and payloads; kept to be sent again
	pending []*Pending // nil where the result has come
	left    int        // results that have not
	context uint64     // of the request; zero: to be sent
	after   uint64     // tick from which it may be sent
	expires uint64     // tick
}

// forwardElections is how many election time-outs a forwarded proposal waits.
const forwardElections = 3

// Reasons why a leader refuses a request, in ProposeResponse.Hint.
const (
	refusedNotLeader    wire.Index = 1
	refusedBusy         wire.Index = 2
	refusedTransferring wire.Index = 3
)

// hold keeps a block of proposals of a replica that does not lead, until
// sendForwards sends it.
func (w *worker) hold(r *replica, built wire.Block, pending []*Pending) {
	r.forwards = append(r.forwards, forward{block: built, pending: pending, left: len(pending),
		expires: w.store.now.Load() + uint64(forwardElections*w.store.electionTicks())})
}

// sendForwards sends what waits for a leader and gives up on what took too long.
// It returns when to look again, and whether proposals were appended here because
// this replica leads now.
func (w *worker) sendForwards(r *replica, now uint64) (deadline uint64, own bool) {
	s := w.store
	deadline = never
	kept := r.forwards[:0]
	list := r.forwards
	for i := range list {
		f := &list[i]
		switch lead := r.core.Leader(); {
		case f.context == 0 && r.core.Role() == group.Leader:
			own = w.propose(r, f.block, f.pending) || own
			continue
		case now >= f.expires:
			w.endForward(r, f, r.forwardExpired(f))
			continue
		case f.context == 0 && now < f.after:
			deadline = min(deadline, f.after)
		case f.context == 0 && lead != 0:
			f.context = s.readContext.Add(1)
			w.forward = wire.Message{
				Kind: wire.Propose, Group: r.id, From: r.self, To: lead, Term: r.core.Term(),
				Context: f.context, Entries: f.block[wire.BlockHeaderBytes:],
			}
			s.address(&w.out, r, &w.forward)
			s.metrics.forwarded.Add(int64(len(f.pending)))
		}
		deadline = min(deadline, f.expires)
		kept = append(kept, *f)
	}
	clear(list[len(kept):])
	if r.forwards = kept; len(kept) == 0 {
		r.forwards = nil
	}
	return deadline, own
}

// forwardExpired returns why a forwarded block ends without an answer.
func (r *replica) forwardExpired(f *forward) error {
	if f.context != 0 {
		return ErrNoAnswer
	}
	return r.notLeader() // it was refused, or never sent
}

// endForward completes what is left of a block with an error.
func (w *worker) endForward(r *replica, f *forward, err error) {
	rest := f.pending[:0]
	for _, p := range f.pending {
		if p != nil {
			rest = append(rest, p)
		}
	}
	q := &w.apply[r.applier.at]
	q.tasks = append(q.tasks, applyTask{kind: taskRefused, replica: r, pending: rest, err: err})
	w.store.blocks.put(f.block)
}

// endForwards completes everything that is forwarded with an error.
func (w *worker) endForwards(r *replica, err error) {
	for i := range r.forwards {
		w.endForward(r, &r.forwards[i], err)
	}
	r.forwards = nil
}

// forwardAnswered takes an answer of the leader.
func (w *worker) forwardAnswered(r *replica, m *wire.Message, now uint64) error {
	for i := range r.forwards {
		f := &r.forwards[i]
		if f.context != m.Context || f.context == 0 {
			continue
		}
		switch {
		case m.Reject && m.Hint == refusedBusy:
			w.endForward(r, f, ErrBusy)
		case m.Reject:
			// Nothing was appended. Whoever refused may not know of its successor
			// yet, or hand over at this moment.
			f.context, f.after = 0, now+1
			return nil
		default:
			if err := w.takeResults(r, f, m); err != nil || f.left > 0 {
				return err
			}
			w.store.blocks.put(f.block)
			w.store.pendings.put(f.pending)
		}
		r.forwards = append(r.forwards[:i], r.forwards[i+1:]...)
		return nil
	}
	return nil // given up before, or repeated
}

// takeResults completes those proposals of a block that an answer has results
// for, which begin at the place in Hint.
func (w *worker) takeResults(r *replica, f *forward, m *wire.Message) error {
	if m.Hint > wire.Index(len(f.pending)) {
		return errBadResults
	}
	done := w.store.pendings.get()
	at, rest := int(m.Hint), m.Entries
	for len(rest) > 0 {
		status, result, after, ok := nextResult(rest)
		if !ok || at == len(f.pending) {
			break
		}
		rest = after
		if p := f.pending[at]; p != nil {
			// The bytes belong to the frame, which is large.
			result.Data = append([]byte(nil), result.Data...)
			p.result, p.err = result, status.err()
			done = append(done, p)
			f.pending[at] = nil
			f.left--
		}
		at++
	}
	q := &w.apply[r.applier.at]
	q.tasks = append(q.tasks, applyTask{kind: taskResults, replica: r, pending: done})
	if len(rest) > 0 {
		return errBadResults
	}
	return nil
}

// errBadResults is counted, and not told to anybody.
var errBadResults = errors.New("results that do not fit their request")

// resultStatus says what became of one command.
type resultStatus uint8

const (
	resultApplied  resultStatus = iota
	resultLost                  // not known
	resultDropped               // it takes no effect
	resultTooLarge              // applied, and its result is not sent
	resultStatuses
)

func (s resultStatus) err() error {
	switch s {
	case resultLost:
		return ErrLeadershipLost
	case resultDropped:
		return ErrProposalDropped
	case resultTooLarge:
		return ErrResultTooLarge
	}
	return nil
}

// statusOf returns what the origin is told of a completed command.
func statusOf(p *Pending) resultStatus {
	switch {
	case p.err == nil && len(p.result.Data) > maxForwardedResult:
		return resultTooLarge
	case p.err == nil:
		return resultApplied
	case errors.Is(p.err, ErrProposalDropped):
		return resultDropped
	}
	// Whatever ended this replica, the command has a place in the log.
	return resultLost
}

const (
	// maxForwardedResult bounds the data of one result that travels.
	maxForwardedResult = 8 << 20
	// maxResultBytes cuts answers, except for a single larger result.
	maxResultBytes = 256 << 10
	// resultHeadBytes is what stands in front of the data of a result.
	resultHeadBytes = 1 + 8 + 4
)

// appendResult encodes the result of one command:
//
//	 0        1       9        13
//	┌────────┬───────┬────────┬──────┐
//	│ status │ value │ length │ data │
//	└────────┴───────┴────────┴──────┘
func appendResult(dst []byte, status resultStatus, result *Result) []byte {
	data := result.Data
	if status != resultApplied {
		data = nil
	}
	dst = append(dst, byte(status))
	dst = binary.LittleEndian.AppendUint64(dst, result.Value)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
	return append(dst, data...)
}

// nextResult is the inverse of appendResult; the data borrows from b.
func nextResult(b []byte) (status resultStatus, result Result, rest []byte, ok bool) {
	if len(b) < resultHeadBytes || resultStatus(b[0]) >= resultStatuses {
		return 0, Result{}, b, false
	}
	length := binary.LittleEndian.Uint32(b[9:])
	if uint64(length) > uint64(len(b)-resultHeadBytes) {
		return 0, Result{}, b, false
	}
	result.Value = binary.LittleEndian.Uint64(b[1:])
	end := resultHeadBytes + int(length)
	if length > 0 {
		result.Data = b[resultHeadBytes:end:end]
	}
	return resultStatus(b[0]), result, b[end:], true
}
