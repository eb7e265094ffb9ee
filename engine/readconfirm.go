package engine

import "multiraft/wire"

// confirms says whether a Confirm can be answered without a turn of the group (E7):
// this replica has said nothing in a higher term than the leader's that could have
// left the store, and so no newer leader can have counted on it before now. A
// replica or a store that has ended says nothing.
//
// The worker publishes a term in the turn that enters it, and what the replica
// says in that term leaves the store only after the turn. Everything else about the
// message, a term that is not known here or a leader that is not, is for the core.
//
//mr:hotpath
func (r *replica) confirms(m *wire.Message) bool {
	return wire.Term(r.published.Load()) == m.Term && r.state() == nil
}

// confirm puts the answer to a Confirm into the frame that goes back to peer.
//
//mr:hotpath
func (in *inbox) confirm(s *Store, peer int, m *wire.Message) {
	in.answer = wire.Message{
		Kind: wire.ConfirmResponse, Group: m.Group, From: m.To, To: m.From, Term: m.Term, Context: m.Context,
	}
	s.put(&in.answers, peer, &in.answer)
}
