package batch

import (
	"encoding/binary"

	"multiraft/wire"
)

// Messages of a columnar kind are gathered field by field:
//
//	┌──────┬───────┬─────────┬─────┬─────────┬──────────┬─────┬──────────┐
//	│ kind │ count │ bytes 1 │  …  │ bytes n │ column 1 │  …  │ column n │
//	└──────┴───────┴─────────┴─────┴─────────┴──────────┴─────┴──────────┘
//
// kind is one byte: the kind of the messages with the highest bit set. count, at
// least 1, and the size of each column are uvarints. The columns are, in this
// order:
//
//	group    count uvarints: zigzag of the difference to the group before, first to 0
//	from     runs: length and replica id, uvarints; neighbours differ
//	to       as from
//	term     count uvarints
//	context  count uvarints
//	commit   count uvarints; heartbeats only
//	hint     runs of length and number; responses to heartbeats only
//
// Groups run in any order: zigzag costs sorted ones one bit. All uvarints are as
// short as can be.

// columnsMark tells columns of a kind from a message of it.
const columnsMark = 0x80

// Relation to wire: no kind of message reaches into the mark.
const _ = uint(columnsMark - 1 - wire.MessageKinds)

// Order of the columns. A kind without a column of its own ends one column earlier.
const (
	groupColumn = iota
	fromColumn
	toColumn
	termColumn
	contextColumn
	ownColumn // commit of heartbeats, hint of their responses
	maxColumns
)

const (
	// maxRowBytes is the most that one message adds to its columns: three numbers,
	// and three runs of length and number.
	maxRowBytes = (3 + 3*2) * binary.MaxVarintLen64
	// maxColumnsHeadBytes is the most that stands in front of the columns.
	maxColumnsHeadBytes = 1 + (1+maxColumns)*binary.MaxVarintLen64
)

// columnCount returns how many columns messages of a kind have, 0 for kinds that
// do not travel in columns.
func columnCount(kind wire.MessageKind) int {
	switch kind {
	case wire.Heartbeat, wire.HeartbeatResponse:
		return maxColumns
	case wire.Confirm, wire.ConfirmResponse:
		return maxColumns - 1
	}
	return 0
}

// columns gathers messages of one kind. Its buffers stay for the next frame.
type columns struct {
	kind  wire.MessageKind
	count int
	group wire.GroupID // of the latest message
	from  run
	to    run
	hint  run
	bytes [maxColumns][]byte
}

// run is a replica id or another number that repeats, not yet written.
type run struct {
	value  uint64
	length uint64
}

// add appends one message.
//
//mr:hotpath
func (c *columns) add(m *wire.Message) {
	c.count++
	c.bytes[groupColumn] = appendUvarint(c.bytes[groupColumn], zigzag(uint64(m.Group-c.group)))
	c.group = m.Group
	c.repeat(fromColumn, &c.from, uint64(m.From))
	c.repeat(toColumn, &c.to, uint64(m.To))
	c.bytes[termColumn] = appendUvarint(c.bytes[termColumn], uint64(m.Term))
	c.bytes[contextColumn] = appendUvarint(c.bytes[contextColumn], m.Context)
	switch c.kind {
	case wire.Heartbeat:
		c.bytes[ownColumn] = appendUvarint(c.bytes[ownColumn], uint64(m.Commit))
	case wire.HeartbeatResponse:
		c.repeat(ownColumn, &c.hint, uint64(m.Hint))
	}
}

// repeat adds a number to the run of a column, or begins one with it.
//
//mr:hotpath
func (c *columns) repeat(column int, r *run, value uint64) {
	if value != r.value || r.length == 0 {
		c.bytes[column] = r.appendTo(c.bytes[column])
		*r = run{value: value}
	}
	r.length++
}

// size bounds what appendTo appends.
//
//mr:hotpath
func (c *columns) size() int {
	if c.count == 0 {
		return 0
	}
	n := maxColumnsHeadBytes + 3*2*binary.MaxVarintLen64 // the open runs
	for i := range c.bytes {
		n += len(c.bytes[i])
	}
	return n
}

// appendTo appends the section, if there is a message in it, and starts anew.
//
//mr:hotpath
func (c *columns) appendTo(dst []byte) []byte {
	if c.count == 0 {
		return dst
	}
	c.bytes[fromColumn] = c.from.appendTo(c.bytes[fromColumn])
	c.bytes[toColumn] = c.to.appendTo(c.bytes[toColumn])
	if c.kind == wire.HeartbeatResponse {
		c.bytes[ownColumn] = c.hint.appendTo(c.bytes[ownColumn])
	}
	n := columnCount(c.kind)
	dst = append(dst, byte(c.kind)|columnsMark)
	dst = binary.AppendUvarint(dst, uint64(c.count))
	for i := range n {
		dst = binary.AppendUvarint(dst, uint64(len(c.bytes[i])))
	}
	for i := range n {
		dst = append(dst, c.bytes[i]...)
		c.bytes[i] = c.bytes[i][:0]
	}
	c.count, c.group, c.from, c.to, c.hint = 0, 0, run{}, run{}, run{}
	return dst
}

func (r run) appendTo(dst []byte) []byte {
	if r.length == 0 {
		return dst
	}
	return binary.AppendUvarint(binary.AppendUvarint(dst, r.length), r.value)
}

// appendUvarint is binary.AppendUvarint with the case of one byte in line.
//
//mr:hotpath
func appendUvarint(dst []byte, v uint64) []byte {
	if v < 0x80 {
		return append(dst, byte(v))
	}
	return binary.AppendUvarint(dst, v)
}

// zigzag makes small numbers of small differences of either sign, given modulo
// 2^64; unzigzag takes it back.
func zigzag(d uint64) uint64 { return d<<1 ^ uint64(int64(d)>>63) }

func unzigzag(z uint64) uint64 { return z>>1 ^ -(z & 1) }
