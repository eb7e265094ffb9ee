package transport

import (
	"errors"
	"fmt"

	"multiraft/wire"
)

var (
	// ErrBusy is returned by Send when the queue of the link is full. The frame is
	// dropped; raft sends again what matters.
	ErrBusy = errors.New("transport: queue is full")
	// ErrUnknownPeer is returned by Send to a store that was never introduced,
	// and to the store itself.
	ErrUnknownPeer = errors.New("transport: unknown peer")
	// ErrFrameTooLarge is returned by Send for a payload above MaxFrameBytes of
	// this store or of the connected peer.
	ErrFrameTooLarge = errors.New("transport: frame exceeds the frame cap")
	// ErrClosed is returned by every call after Close, and given to PeerDown when
	// Close is the reason.
	ErrClosed = errors.New("transport: closed")
	// ErrStarted is returned by a second Start.
	ErrStarted = errors.New("transport: already started")
	// ErrReplaced is given to PeerDown when the peer came back as a newer
	// incarnation, or on a newer connection, while the old one still looked alive.
	ErrReplaced = errors.New("transport: replaced by a newer connection")
	// ErrAddressChanged is given to PeerDown when the peer got another address.
	ErrAddressChanged = errors.New("transport: address of the peer changed")
	// ErrCut is given to PeerDown when [Network.Cut] is the reason.
	ErrCut = errors.New("transport: link is cut")
	// ErrBadFrame is wrapped by every [FrameError].
	ErrBadFrame = errors.New("transport: bad frame")
)

// HelloField names what two stores disagree about in a hello.
type HelloField uint8

// The numbers are part of the wire format: a refusal names its reason.
const (
	HelloMagic          HelloField = 1  // not a hello at all
	HelloChecksum       HelloField = 2  // damaged
	HelloCluster        HelloField = 3  // of another cluster
	HelloStore          HelloField = 4  // meant for, or answered by, another store
	HelloSelf           HelloField = 5  // from this very store
	HelloPeer           HelloField = 6  // from a store nobody introduced
	HelloDirection      HelloField = 7  // dialled by the store with the larger id
	HelloIncarnation    HelloField = 8  // from an earlier life of the peer
	HelloOwnIncarnation HelloField = 9  // meant for a later life of this store
	HelloProtocol       HelloField = 10 // no protocol version in common
	HelloLane           HelloField = 11 // no such lane, or not the one asked for
	HelloFrameCap       HelloField = 12 // a frame cap too small to work with
)

var helloFieldNames = [...]string{
	HelloMagic: "magic", HelloChecksum: "checksum", HelloCluster: "cluster", HelloStore: "store", HelloSelf: "self",
	HelloPeer: "peer", HelloDirection: "direction", HelloIncarnation: "incarnation",
	HelloOwnIncarnation: "own incarnation", HelloProtocol: "protocol", HelloLane: "lane", HelloFrameCap: "frame cap",
}

// String returns the name of the field.
func (f HelloField) String() string {
	if int(f) < len(helloFieldNames) && helloFieldNames[f] != "" {
		return helloFieldNames[f]
	}
	return fmt.Sprintf("field %d", uint8(f))
}

// HelloError tells why two stores refused to talk.
type HelloError struct {
	Field  HelloField
	Peer   wire.StoreID // the store the hello is from, 0 when it cannot be told
	Addr   string       // the other end of the connection
	Got    uint64       // the peer's value
	Want   uint64       // ours; a protocol range is min<<16 | max
	Remote bool         // the peer refused us; else we refused it
}

func (e *HelloError) Error() string {
	who := "refused"
	if e.Remote {
		who = "were refused by"
	}
	values := fmt.Sprintf("theirs is %d, ours %d", e.Got, e.Want)
	switch e.Field {
	case HelloProtocol:
		values = fmt.Sprintf("theirs is %d to %d, ours %d to %d", e.Got>>16, e.Got&0xffff, e.Want>>16, e.Want&0xffff)
	case HelloMagic, HelloChecksum:
		values = fmt.Sprintf("got %#x, want %#x", e.Got, e.Want)
	}
	return fmt.Sprintf("transport: %s store %d at %s for its %s: %s", who, e.Peer, e.Addr, e.Field, values)
}

// FrameError tells what is wrong with a frame. Its connection is closed, as what
// follows cannot be trusted either.
type FrameError struct {
	What string // "length", "lane", "flags" or "checksum"
	Got  uint64
	Want uint64 // the limit, for a length
}

func (e *FrameError) Error() string {
	return fmt.Sprintf("%v: %s %#x, want %#x", ErrBadFrame, e.What, e.Got, e.Want)
}

// Unwrap makes errors.Is(err, ErrBadFrame) true.
func (e *FrameError) Unwrap() error { return ErrBadFrame }
