package engine

import (
	"sync"
	"sync/atomic"

	"multiraft/wire"
)

// dialects are the protocol versions spoken with peers.
//
// The transport tells the version of a connection before anything comes in on it.
// A message of a kind that the version does not have is left out where it would go
// into a frame (Store.put). A version may fall between that and the sending of the
// frame, when the peer comes back as an older release: the transport drops what it
// had queued, and a frame that comes later yet is one bad frame for the peer.
type dialects struct {
	mu   sync.Mutex // guards the field below; a leaf lock
	list map[wire.StoreID]*dialect
}

// dialect is how to speak with one peer.
type dialect struct {
	last atomic.Uint32 // the last kind of messages that the peer knows
}

// oldestKind is the last kind that every peer knows.
var oldestKind = wire.LastKind(wire.MinProtocolVersion)

// has tells whether the peer knows a kind of messages.
//
//mr:hotpath
func (d *dialect) has(kind wire.MessageKind) bool { return uint32(kind) <= d.last.Load() }

// of returns the dialect of a peer. The transport and the memberships of groups
// name peers; both are few.
func (l *dialects) of(peer wire.StoreID) *dialect {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.list[peer]
	if d == nil {
		d = new(dialect)
		d.last.Store(uint32(oldestKind))
		if l.list == nil {
			l.list = make(map[wire.StoreID]*dialect)
		}
		l.list[peer] = d
	}
	return d
}

// knows tells whether a peer knows a kind of messages, and counts those it does not.
func (s *Store) knows(peer wire.StoreID, kind wire.MessageKind) bool {
	if kind <= oldestKind || s.dialects.of(peer).has(kind) {
		return true
	}
	s.metrics.unspokenMessages.Add(1)
	return false
}

// speak notes the protocol version that is spoken with a peer, zero when it is not
// known.
func (l *dialects) speak(peer wire.StoreID, protocol uint16) {
	l.of(peer).last.Store(uint32(wire.LastKind(max(protocol, wire.MinProtocolVersion))))
}
