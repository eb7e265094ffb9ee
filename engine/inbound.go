package engine

import (
	"time"

	"go.uber.org/zap"

	"multiraft/batch"
	"multiraft/scheduler"
	"multiraft/wire"
)

// inbox is what handling one frame needs; recycled through Store.inboxes.
type inbox struct {
	reader batch.Reader
	free   *messageNode
	slots  []scheduler.Slot
	// Answers that need no turn leave together when the frame is handled.
	answer  wire.Message
	answers outboxes
}

// handleFrame sorts the messages of a frame into the mailboxes of their groups
// and wakes them all at once. The transport calls it; frames of one peer and
// lane come one after the other.
//
// Messages for groups that do not run here, from members that do not live on the
// sending store, or to a replica id that is not ours are dropped and counted:
// raft needs no message to arrive. Some may come from replicas that are no
// members here, see takesStranger.
//
//mr:hotpath
func (s *Store) handleFrame(from wire.StoreID, payload []byte) {
	in := s.inboxes.get()
	in.reader.Reset(payload)
	in.slots = in.slots[:0]
	s.mu.RLock()
	for {
		if in.free == nil {
			in.free = s.messages.get()
		}
		node := in.free
		ok, err := in.reader.Next(&node.message)
		if err != nil {
			s.metrics.badFrames.Add(1)
			s.badFrame(from, err)
			break
		}
		if !ok {
			break
		}
		if node.message.Kind > s.lastKind {
			s.metrics.badFrames.Add(1)
			s.badFrame(from, errUnspoken)
			break
		}
		r := s.groups[node.message.Group]
		if r == nil && asksForVote(node.message.Kind) {
			in.speakForGone(s, nil, from, &node.message)
			continue
		}
		if r == nil || node.message.Kind == wire.Join || node.message.Kind == wire.Rejoined {
			s.noMailbox(from, r, &node.message)
			continue
		}
		set := r.members.Load()
		node.stranger = 0
		at := set.place(node.message.From)
		if at < 0 && r.recovery != nil && r.recovery.Bars(node.message.From) {
			in.bar(s, r, from, &node.message)
			continue
		}
		if at < 0 && r.takesStranger(from, &node.message) {
			node.stranger = from
		} else if at < 0 || set.wire.Members[at].Store != from {
			s.metrics.strayMessages.Add(1)
			continue
		}
		if node.message.To < r.self && asksForVote(node.message.Kind) {
			in.speakForGone(s, r, from, &node.message)
			continue
		}
		if node.message.To != r.self && node.message.Kind != wire.Rejoin {
			s.metrics.strayMessages.Add(1)
			continue
		}
		if node.message.Kind == wire.Confirm && at >= 0 && r.confirms(&node.message) {
			in.confirm(s, int(set.peers[at]), &node.message)
			continue
		}
		if kind := node.message.Kind; kind == wire.Digest || kind == wire.DigestResponse {
			s.handleDigest(&in.answers, r, set, &node.message)
			continue
		}
		if kind := node.message.Kind; kind == wire.SnapshotChunk || kind == wire.SnapshotFetch {
			s.snaps.deliver(r, from, &node.message)
			continue
		}
		if n := int64(len(node.message.Entries)); n > 0 {
			// One that is larger than the whole budget passes when nothing else
			// waits, or its sender would repeat it for ever.
			if waiting := s.receiveBytes.Add(n); waiting > s.cfg.MaxReceiveBytes && waiting > n || s.unsynced() {
				s.receiveBytes.Add(-n)
				s.metrics.droppedAppends.Add(1)
				continue
			}
		}
		r.mu.Lock()
		if r.box.closed {
			r.mu.Unlock()
			s.receiveBytes.Add(-int64(len(node.message.Entries)))
			s.metrics.strayMessages.Add(1)
			continue
		}
		in.free = node.next
		node.next = nil
		if r.box.first == nil {
			r.box.first = node
			in.slots = append(in.slots, r.slot)
		} else {
			r.box.last.next = node
		}
		r.box.last = node
		r.mu.Unlock()
	}
	s.mu.RUnlock()
	s.sched.SetBatch(in.slots, flagMessage)
	in.answers.flush(s)
	s.inboxes.put(in)
}

// noMailbox takes what belongs into no mailbox.
//
// REQUIRES: s.mu is held, for reading at least.
func (s *Store) noMailbox(from wire.StoreID, r *replica, m *wire.Message) {
	switch {
	case m.Kind == wire.Rejoined:
		s.rejoined(from, m)
	case r != nil && r.recovery != nil && r.recovery.Bars(m.From):
		// Those left behind may have gone on among themselves, and added replicas.
		s.metrics.barredMessages.Add(1)
	case m.Kind != wire.Join || r != nil && m.To < r.self:
		s.metrics.strayMessages.Add(1)
	case r == nil:
		s.wantJoin(from, m)
	case m.To > r.self && !r.superseded.Load():
		r.supersede()
	}
}

// badFrame reports a frame whose rest was dropped, if not too many are.
func (s *Store) badFrame(from wire.StoreID, err error) {
	if ok, missed := s.badFrames.allow(time.Now()); ok {
		s.cfg.Logger.Warn("dropped the rest of a bad frame", zap.Uint64("from", uint64(from)), zap.Error(err), zap.Uint64("not logged", missed))
	}
}

// peerUp is called by the transport when a peer can be reached.
func (s *Store) peerUp(peer wire.StoreID, incarnation uint64, protocol uint16) {
	s.cfg.Logger.Info("peer store is connected", zap.Uint64("peer", uint64(peer)), zap.Uint64("incarnation", incarnation), zap.Uint16("protocol", protocol))
	s.dialects.speak(peer, min(protocol, s.cfg.MaxProtocol))
	s.links.note(peer, linkState{up: true})
	s.snaps.post(snapEvent{kind: snapPeerUp, store: peer})
}

// peerDown is called by the transport when a peer cannot be reached any more.
// Leaders then probe its replicas instead of sending ahead.
func (s *Store) peerDown(peer wire.StoreID, err error) {
	s.dialects.speak(peer, 0)
	s.links.note(peer, linkState{err: err})
	s.cfg.Logger.Info("peer store is disconnected", zap.Uint64("peer", uint64(peer)), zap.Error(err))
	var slots []scheduler.Slot
	s.mu.RLock()
	for _, r := range s.running() {
		for i, m := range r.members.Load().wire.Members {
			if m.Store != peer || m.Replica == r.self {
				continue
			}
			r.mu.Lock()
			r.box.order().unreachable |= 1 << i
			r.mu.Unlock()
			slots = append(slots, r.slot)
		}
	}
	s.mu.RUnlock()
	s.sched.SetBatch(slots, flagControl)
}
