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
	// ErrTLSConfig is wrapped by errors about what TCPConfig.TLS returns: from
	// NewTCP, and in a *HandshakeError later on.
	ErrTLSConfig = errors.New("transport: TLS configuration")
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
	HelloIncarnation    HelloField = 8  // from an earlier life of the peer, or from another process in the same
	HelloOwnIncarnation HelloField = 9  // meant for a later life of this store
	HelloProtocol       HelloField = 10 // no protocol version in common
	HelloLane           HelloField = 11 // no such lane, or not the one asked for
	HelloFrameCap       HelloField = 12 // a frame cap too small to work with
	HelloIdentity       HelloField = 13 // from another store than the certificate is of
)

var helloFieldNames = [...]string{
	HelloMagic: "magic", HelloChecksum: "checksum", HelloCluster: "cluster", HelloStore: "store", HelloSelf: "self",
	HelloPeer: "peer", HelloDirection: "direction", HelloIncarnation: "incarnation",
	HelloOwnIncarnation: "own incarnation", HelloProtocol: "protocol", HelloLane: "lane", HelloFrameCap: "frame cap", HelloIdentity: "identity",
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
	case HelloIdentity:
		values = fmt.Sprintf("the hello is from store %d, the certificate not", e.Got)
	case HelloMagic, HelloChecksum:
		values = fmt.Sprintf("got %#x, want %#x", e.Got, e.Want)
	}
	return fmt.Sprintf("transport: %s store %d at %s for its %s: %s", who, e.Peer, e.Addr, e.Field, values)
}

// HandshakeError tells why a connection could not be secured. It wraps the cause:
// [ErrTLSConfig], a [*CertificateError], or an error of crypto/tls.
type HandshakeError struct {
	Peer wire.StoreID // the store we dialled, 0 for a connection we accepted
	Addr string       // the other end of the connection
	Err  error
}

func (e *HandshakeError) Error() string {
	if e.Peer == 0 {
		return fmt.Sprintf("transport: handshake with %s: %v", e.Addr, e.Err)
	}
	return fmt.Sprintf("transport: handshake with store %d at %s: %v", e.Peer, e.Addr, e.Err)
}

func (e *HandshakeError) Unwrap() error { return e.Err }

// CertificateError says that a certificate does not speak for the store it is
// shown for.
type CertificateError struct {
	Got  []string // the names of stores in it
	Want string   // empty: one, and not more
}

func (e *CertificateError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("transport: certificate must name one store, names %q", e.Got)
	}
	return fmt.Sprintf("transport: certificate is for %q, not for %q", e.Got, e.Want)
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
