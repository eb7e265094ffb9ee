package transport

import (
	"sync/atomic"

	"multiraft/wire"
)

// Lane is one of the streams to a peer; see [wire.Lane].
type Lane = wire.Lane

// Lanes is the number of lanes.
const Lanes = wire.LaneCount

// Handler receives what a transport has to tell. Its methods may block, which
// holds up the link the frame came on and, in time, its sender.
type Handler interface {
	// HandleFrame takes a frame. The payload is the handler's for ever: its memory
	// is never written again. T2: serial per (peer, lane), concurrent otherwise.
	HandleFrame(from wire.StoreID, payload []byte)
	// PeerUp tells that the first lane to the peer is connected, and which protocol
	// version is spoken until PeerDown: the newest that both sides know.
	PeerUp(peer wire.StoreID, incarnation uint64, protocol uint16)
	// PeerDown tells that the last lane to the peer is gone, and why. Each PeerUp
	// is followed by one PeerDown before the next PeerUp.
	PeerDown(peer wire.StoreID, err error)
}

// Transport moves frames between stores.
type Transport interface {
	// Start begins to connect and to deliver to h.
	Start(h Handler) error
	// Buffer returns an empty slice to build a payload in, recycled if possible.
	Buffer() []byte
	// Send queues a payload and takes ownership of it, whatever it returns. It
	// never blocks. A nil error does not mean that the frame arrives.
	Send(to wire.StoreID, lane Lane, payload []byte) error
	// Stats returns counters since the transport was made.
	Stats() Stats
	// Close drops what is queued, closes all connections and waits until no method
	// of the handler runs or will run.
	Close() error
}

// Stats counts what a transport did. Bytes include frame headers.
type Stats struct {
	Lanes [Lanes]LaneStats

	Connects         uint64 // connections whose hello both sides accepted
	HellosRefused    uint64 // by either side
	HandshakesFailed uint64 // connections that could not be secured
	BadFrames        uint64 // each cost its connection
	DialFailures     uint64
	AcceptFailures   uint64
	AcceptsRefused   uint64 // connections closed unread: too many came at a time
	Overflows        uint64 // connections closed before their hello: too many had none yet
}

// LaneStats counts the frames of one lane over all peers.
type LaneStats struct {
	FramesSent     uint64
	BytesSent      uint64
	FramesReceived uint64
	BytesReceived  uint64
	FramesDropped  uint64 // refused by Send, gone stale, or lost with a connection
}

// counters are the live form of Stats. Lanes are a cache line apart in each
// direction, as writers and readers of both lanes count at the same time.
type counters struct {
	lanes            [Lanes]laneCounters
	connects         atomic.Uint64
	hellosRefused    atomic.Uint64
	handshakesFailed atomic.Uint64
	badFrames        atomic.Uint64
	dialFailures     atomic.Uint64
	acceptFailures   atomic.Uint64
	acceptsRefused   atomic.Uint64
	overflows        atomic.Uint64
}

type laneCounters struct {
	framesSent     atomic.Uint64
	bytesSent      atomic.Uint64
	framesDropped  atomic.Uint64
	_              [40]byte
	framesReceived atomic.Uint64
	bytesReceived  atomic.Uint64
	_              [48]byte
}

func (c *counters) stats() Stats {
	s := Stats{
		Connects:         c.connects.Load(),
		HellosRefused:    c.hellosRefused.Load(),
		HandshakesFailed: c.handshakesFailed.Load(),
		BadFrames:        c.badFrames.Load(),
		DialFailures:     c.dialFailures.Load(),
		AcceptFailures:   c.acceptFailures.Load(),
		AcceptsRefused:   c.acceptsRefused.Load(),
		Overflows:        c.overflows.Load(),
	}
	for i := range s.Lanes {
		l := &c.lanes[i]
		s.Lanes[i] = LaneStats{
			FramesSent:     l.framesSent.Load(),
			BytesSent:      l.bytesSent.Load(),
			FramesReceived: l.framesReceived.Load(),
			BytesReceived:  l.bytesReceived.Load(),
			FramesDropped:  l.framesDropped.Load(),
		}
	}
	return s
}
