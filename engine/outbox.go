package engine

import (
	"multiraft/batch"
	"multiraft/internal/planted"
	"multiraft/wire"
)

// outboxes gather messages to peer stores until they leave together: those of a
// round, or those that wait for a log batch.
type outboxes struct {
	boxes []outbox // by place in Store.peers
	dirty []int32  // the boxes with something in them
}

type outbox struct {
	builder *batch.Builder
	dialect *dialect
	send    func(lane wire.Lane, payload []byte) error
	dirty   bool
}

// address adds a message of r to the frame for the store its receiver lives on.
//
//mr:hotpath
func (s *Store) address(o *outboxes, r *replica, m *wire.Message) {
	set, place := r.members.Load(), int32(-1)
	if at := set.place(m.To); at >= 0 {
		place = set.peers[at]
	} else {
		place = s.strangerPeer(r, m.To)
	}
	if place < 0 {
		s.metrics.strayMessages.Add(1)
		return
	}
	s.put(o, int(place), m)
}

// put adds a message to the frame for the store at a place in Store.peers, unless
// that store does not know its kind.
//
//mr:hotpath
func (s *Store) put(o *outboxes, peer int, m *wire.Message) {
	for len(o.boxes) <= peer {
		o.boxes = append(o.boxes, s.newOutbox(len(o.boxes)))
	}
	box := &o.boxes[peer]
	if m.Kind > oldestKind && !planted.Is(planted.SpeakNewerKinds) && !box.dialect.has(m.Kind) {
		s.metrics.unspokenMessages.Add(1)
		return
	}
	box.builder.Add(m)
	if !box.dirty {
		box.dirty = true
		o.dirty = append(o.dirty, int32(peer))
	}
}

// putTo is put for a store whose place among the peers is not at hand. This store says
// nothing to itself.
func (s *Store) putTo(o *outboxes, to wire.StoreID, m *wire.Message) {
	s.sets.mu.Lock()
	peer := s.peerPlace(to)
	s.sets.mu.Unlock()
	if peer >= 0 {
		s.put(o, int(peer), m)
	}
}

// flush sends everything.
//
//mr:hotpath
func (o *outboxes) flush(s *Store) {
	for _, peer := range o.dirty {
		box := &o.boxes[peer]
		box.dirty = false
		if err := box.builder.Flush(box.send); err != nil {
			// What the transport has no room for is lost, which raft bears.
			s.metrics.droppedFrames.Add(1)
		}
	}
	o.dirty = o.dirty[:0]
}

// discard drops everything: what the messages promise did not become durable.
func (o *outboxes) discard() {
	for _, peer := range o.dirty {
		box := &o.boxes[peer]
		box.dirty = false
		if err := box.builder.Flush(drop); err != nil {
			panic(err) // drop returns none
		}
	}
	o.dirty = o.dirty[:0]
}

func drop(wire.Lane, []byte) error { return nil }

// newOutbox returns an outbox for the peer at the given place.
func (s *Store) newOutbox(peer int) outbox {
	to := (*s.peers.Load())[peer]
	return outbox{
		builder: batch.NewBuilder(s.transport.Buffer, maxFrameBytes),
		dialect: s.dialects.of(to),
		send: func(lane wire.Lane, payload []byte) error {
			return s.transport.Send(to, lane, payload)
		},
	}
}
