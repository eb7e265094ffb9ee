package batch

import "multiraft/wire"

// DefaultFrameBytes is the maximum size of a payload when none is given. A write
// of 64 KiB reaches the full bandwidth of a connection, and its buffer is small
// enough to stay in cache until it is used again.
const DefaultFrameBytes = 64 << 10

// MinFrameBytes is the least maximum: a few columnar messages must fit.
const MinFrameBytes = 1 << 10

const _ = uint(MinFrameBytes - columnKinds*(maxColumnsHeadBytes+2*maxRowBytes))

// columnar are the kinds that travel in columns, in the order in which they
// stand in a payload.
var columnar = [...]wire.MessageKind{wire.Heartbeat, wire.HeartbeatResponse, wire.Confirm, wire.ConfirmResponse}

const columnKinds = len(columnar)

// Builder gathers the messages of one worker for one peer store into payloads,
// per lane, until Flush.
type Builder struct {
	buffer func() []byte
	max    int
	lanes  [wire.LaneCount]laneBuilder

	// Columnar messages join the urgent payload when it is cut.
	columns [columnKinds]columns
}

type laneBuilder struct {
	payload []byte   // under construction; nil when nothing was added
	cut     [][]byte // complete
}

// NewBuilder returns a builder that takes its payload buffers from buffer, as
// [transport.Transport.Buffer] hands them out, and cuts payloads at
// maxFrameBytes. Zero means DefaultFrameBytes; less than MinFrameBytes is taken
// for that.
func NewBuilder(buffer func() []byte, maxFrameBytes int) *Builder {
	if maxFrameBytes == 0 {
		maxFrameBytes = DefaultFrameBytes
	}
	b := &Builder{buffer: buffer, max: max(maxFrameBytes, MinFrameBytes)}
	for at, kind := range columnar {
		b.columns[at].kind = kind
	}
	return b
}

// Add encodes a message; it keeps nothing of m. A message without a valid kind
// is nothing.
//
//mr:hotpath
func (b *Builder) Add(m *wire.Message) {
	switch m.Kind {
	case wire.Heartbeat:
		b.addRow(0, m)
	case wire.HeartbeatResponse:
		b.addRow(1, m)
	case wire.Confirm:
		b.addRow(2, m)
	case wire.ConfirmResponse:
		b.addRow(3, m)
	case wire.TimeoutNow:
		b.fit(wire.Urgent, m.Size())
		b.closeColumns()
		b.addPlain(wire.Urgent, m)
	default:
		lane := m.Kind.Lane()
		b.fit(lane, m.Size())
		b.addPlain(lane, m)
	}
}

// addPlain adds a message as wire encodes it.
//
//mr:hotpath
func (b *Builder) addPlain(lane wire.Lane, m *wire.Message) {
	l := &b.lanes[lane]
	if l.payload == nil {
		l.payload = b.buffer()
	}
	l.payload = m.AppendTo(l.payload)
}

// closeColumns puts the columns in front of what follows. A leader that leaves the group
// says what is committed, and has another one campaign: that one needs to know the first
// to win without the vote of who has left.
func (b *Builder) closeColumns() {
	l := &b.lanes[wire.Urgent]
	if l.payload == nil {
		l.payload = b.buffer()
	}
	for at := range b.columns {
		l.payload = b.columns[at].appendTo(l.payload)
	}
}

// addRow adds a message to the columns of its kind.
//
//mr:hotpath
func (b *Builder) addRow(at int, m *wire.Message) {
	b.fit(wire.Urgent, maxRowBytes+maxColumnsHeadBytes)
	b.columns[at].add(m)
}

// Empty tells whether there is nothing to flush.
func (b *Builder) Empty() bool {
	for lane := range b.lanes {
		if len(b.lanes[lane].cut) > 0 || b.size(wire.Lane(lane)) > 0 {
			return false
		}
	}
	return true
}

// Flush gives all payloads to send, urgent ones first, and starts anew. It tries
// all of them and returns the first error.
//
//mr:hotpath
func (b *Builder) Flush(send func(lane wire.Lane, payload []byte) error) error {
	var first error
	for i := range b.lanes {
		lane := wire.Lane(i)
		if b.size(lane) > 0 {
			b.cut(lane)
		}
		l := &b.lanes[i]
		for j, payload := range l.cut {
			if err := send(lane, payload); err != nil && first == nil {
				first = err
			}
			l.cut[j] = nil
		}
		l.cut = l.cut[:0]
	}
	return first
}

// Flush sends in the order of the lanes.
const _ = uint(wire.Bulk - wire.Urgent - 1)

// fit cuts the payload of a lane if n more bytes would exceed the maximum (B2).
//
//mr:hotpath
func (b *Builder) fit(lane wire.Lane, n int) {
	if size := b.size(lane); size > 0 && size+n > b.max {
		b.cut(lane)
	}
}

// size bounds the payload of a lane, were it cut now.
//
//mr:hotpath
func (b *Builder) size(lane wire.Lane) int {
	n := len(b.lanes[lane].payload)
	if lane == wire.Urgent {
		for at := range b.columns {
			n += b.columns[at].size()
		}
	}
	return n
}

// cut completes the payload of a lane.
//
//mr:hotpath
func (b *Builder) cut(lane wire.Lane) {
	l := &b.lanes[lane]
	if l.payload == nil {
		l.payload = b.buffer()
	}
	if lane == wire.Urgent {
		b.closeColumns()
	}
	l.cut = append(l.cut, l.payload)
	l.payload = nil
}
