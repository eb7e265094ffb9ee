package batch

import (
	"encoding/binary"

	"multiraft/wire"
)

// Reader yields the messages of a payload. The zero value is a reader of an
// empty one.
type Reader struct {
	payload []byte
	at      int   // the next section
	err     error // sticky until Reset

	// The columns being read, when left > 0.
	left  int  // messages
	fresh bool // none was read yet
	kind  wire.MessageKind
	group wire.GroupID // of the message before
	// Of runs, length is what is left.
	from, to, hint run
	columns        [maxColumns]cursor

	bad int // where a number did not decode
}

// cursor is what is left of a column.
type cursor struct{ at, end int }

// Reset starts at the first message of a payload.
func (r *Reader) Reset(payload []byte) {
	*r = Reader{payload: payload}
}

// Next sets m to the next message. At the end, and after an error, ok is false.
// Errors wrap [wire.ErrBadMessage] and name the byte; they stay until Reset. What
// was yielded before an error is good.
//
// B3: m.Entries borrows from the payload.
//
//mr:hotpath
func (r *Reader) Next(m *wire.Message) (ok bool, err error) {
	if r.left == 0 {
		if r.err != nil || r.at == len(r.payload) {
			return false, r.err
		}
		if r.payload[r.at]&columnsMark == 0 {
			n, err := m.Decode(r.payload[r.at:])
			if err != nil {
				return false, r.fail(badMessage(r.at, err))
			}
			r.at += n
			return true, nil
		}
		if err := r.open(); err != nil {
			return false, r.fail(err)
		}
	}
	if err := r.row(m); err != nil {
		return false, r.fail(err)
	}
	return true, nil
}

func (r *Reader) fail(err error) error {
	r.err, r.left, r.at = err, 0, len(r.payload)
	return err
}

// open reads the head of a section of columns.
//
//mr:hotpath
func (r *Reader) open() error {
	r.kind = wire.MessageKind(r.payload[r.at] &^ columnsMark)
	n := columnCount(r.kind)
	if n == 0 {
		return badSection(r.at, "no columns of kind", uint64(r.kind))
	}
	head := cursor{at: r.at + 1, end: len(r.payload)}
	count, ok := r.uvarint(&head)
	if !ok {
		return badSection(head.at, "bad count of section at", uint64(r.at))
	}
	var sizes [maxColumns]uint64
	for i := range n {
		if sizes[i], ok = r.uvarint(&head); !ok {
			return badSection(head.at, "bad size of column", uint64(i))
		}
	}
	at := head.at
	for i := range n {
		if sizes[i] > uint64(len(r.payload)-at) {
			return badSection(at, "ends early, column has", sizes[i])
		}
		r.columns[i] = cursor{at: at, end: at + int(sizes[i])}
		at += int(sizes[i])
	}
	// Each message takes a byte of the group column at least.
	if count == 0 || count > sizes[groupColumn] {
		return badSection(r.at, "impossible count", count)
	}
	r.left, r.at, r.fresh = int(count), at, true
	r.group, r.from, r.to, r.hint = 0, run{}, run{}, run{}
	return nil
}

// row reads one message off the columns.
//
//mr:hotpath
func (r *Reader) row(m *wire.Message) error {
	delta, ok1 := r.uvarint(&r.columns[groupColumn])
	term, ok2 := r.uvarint(&r.columns[termColumn])
	context, ok3 := r.uvarint(&r.columns[contextColumn])
	commit, ok4 := uint64(0), true
	if r.kind == wire.Heartbeat {
		commit, ok4 = r.uvarint(&r.columns[ownColumn])
	}
	if !(ok1 && ok2 && ok3 && ok4) {
		return badSection(r.bad, "bad number, messages left", uint64(r.left))
	}
	if r.from.length == 0 && !r.nextRun(&r.from, &r.columns[fromColumn]) ||
		r.to.length == 0 && !r.nextRun(&r.to, &r.columns[toColumn]) ||
		r.kind == wire.HeartbeatResponse && !r.nextHint() {
		return badSection(r.bad, "bad run, messages left", uint64(r.left))
	}
	r.from.length--
	r.to.length--
	r.group += wire.GroupID(unzigzag(delta))
	r.left--
	r.fresh = false
	if r.left == 0 {
		if err := r.close(); err != nil {
			return err
		}
	}
	*m = wire.Message{
		Kind:    r.kind,
		Group:   r.group,
		From:    wire.ReplicaID(r.from.value),
		To:      wire.ReplicaID(r.to.value),
		Term:    wire.Term(term),
		Commit:  wire.Index(commit),
		Hint:    wire.Index(r.hint.value),
		Context: context,
	}
	return nil
}

// nextRun reads a run. B4: it must not continue the one before.
//
//mr:hotpath
func (r *Reader) nextRun(current *run, c *cursor) bool {
	at := c.at
	length, ok1 := r.uvarint(c)
	value, ok2 := r.uvarint(c)
	if !ok1 || !ok2 {
		return false
	}
	if length == 0 || length > uint64(r.left) || !r.fresh && value == current.value {
		r.bad = at
		return false
	}
	*current = run{value: value, length: length}
	return true
}

// nextHint counts the hint of a message, and reads its run if it is the first.
//
//mr:hotpath
func (r *Reader) nextHint() bool {
	if r.hint.length == 0 && !r.nextRun(&r.hint, &r.columns[ownColumn]) {
		return false
	}
	r.hint.length--
	return true
}

// close checks that a section was read to its end (B4). Runs were: they are
// bounded by the messages left.
//
//mr:hotpath
func (r *Reader) close() error {
	for i := range columnCount(r.kind) {
		if c := &r.columns[i]; c.at != c.end {
			return badSection(c.at, "bytes are left in column", uint64(i))
		}
	}
	return nil
}

// uvarint reads a number off a column. When there is none, or not a shortest
// one, ok is false and the cursor stays.
//
//mr:hotpath
func (r *Reader) uvarint(c *cursor) (v uint64, ok bool) {
	if c.at < c.end && r.payload[c.at] < 0x80 {
		c.at++
		return uint64(r.payload[c.at-1]), true
	}
	return r.longUvarint(c)
}

//mr:hotpath
func (r *Reader) longUvarint(c *cursor) (v uint64, ok bool) {
	v, n := binary.Uvarint(r.payload[c.at:c.end])
	if n <= 0 || n > 1 && r.payload[c.at+n-1] == 0 {
		r.bad = c.at
		return 0, false
	}
	c.at += n
	return v, true
}
