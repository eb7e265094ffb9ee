package engine

import (
	"fmt"
	"sync"

	"multiraft/transport"
	"multiraft/wire"
)

// links is what the transport has told of the connections to peers, to tell those
// who wait for one.
type links struct {
	mu   sync.Mutex // guards the field below; a leaf lock
	list map[wire.StoreID]linkState
}

type linkState struct {
	up  bool
	err error // why it is not up, the last reason told
}

// maxLinks bounds the table: a hello may name any store.
const maxLinks = 1 << 12

func (l *links) note(peer wire.StoreID, state linkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.list[peer]; !known && len(l.list) >= maxLinks {
		return
	}
	if l.list == nil {
		l.list = make(map[wire.StoreID]linkState)
	}
	l.list[peer] = state
}

// refused notes why a peer is not connected. One that is has another connection.
func (l *links) refused(err *transport.HelloError) {
	l.mu.Lock()
	up := l.list[err.Peer].up
	l.mu.Unlock()
	if !up && err.Peer != 0 {
		l.note(err.Peer, linkState{err: err})
	}
}

// problem tells in words what is wrong with the connection to a peer, empty when
// it stands.
func (l *links) problem(peer wire.StoreID) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state, known := l.list[peer]; {
	case !known:
		return fmt.Sprintf("store %d was never connected", peer)
	case !state.up && state.err != nil:
		return fmt.Sprintf("store %d is not connected: %v", peer, state.err)
	case !state.up:
		return fmt.Sprintf("store %d is not connected", peer)
	}
	return ""
}
