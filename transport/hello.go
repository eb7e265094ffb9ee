package transport

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"multiraft/wire"
)

// A hello opens each direction of a connection, little-endian:
//
//	 0        8     10    12   13      14   16        24     32     40            48    56          64      72         80
//	┌────────┬─────┬─────┬────┬───────┬────┬─────────┬──────┬──────┬─────────────┬─────┬───────────┬───────┬──────────┐
//	│ magic  │ min │ max │lane│verdict│ tag│ cluster │ from │ to   │ incarnation │ met │ frame cap │ nonce │ checksum │
//	└────────┴─────┴─────┴────┴───────┴────┴─────────┴──────┴──────┴─────────────┴─────┴───────────┴───────┴──────────┘
//
// min and max are the protocol versions the sender speaks. verdict is 0 in the
// dialler's hello; in the answer it is 0 for accepted, else the [HelloField] the
// connection is refused for. tag tells apart two processes that take themselves for
// the same life: one of them has a copy of the disk of the other. It is random, and 0
// when the sender has none. incarnation is the sender's; met is the highest one of the
// receiver it has seen, 0 for none, and one more where it has seen that one in another
// process. frame cap is the largest payload the
// sender takes. nonce is random and goes into the checksum of each frame.
// checksum is the xxhash64 of the 72 bytes in front of it.
//
// The layout is fixed for all versions to come: a store must be able to refuse
// one that speaks another.
const helloBytes = 80

// helloMagic reads "mraft\r\n\x00" on the wire. Text protocols, and what mangles
// line ends or cuts at zeros, do not get past it.
const helloMagic = uint64('m') | 'r'<<8 | 'a'<<16 | 'f'<<24 | 't'<<32 | '\r'<<40 | '\n'<<48

// minFrameCap is the smallest frame cap two stores can work with.
const minFrameCap = 4 << 10

type hello struct {
	minProtocol, maxProtocol uint16
	lane                     Lane
	verdict                  HelloField
	tag                      uint16
	cluster                  uint64
	from, to                 wire.StoreID
	incarnation, met         uint64
	frameCap                 uint64
	nonce                    uint64
}

func (h *hello) encode() (b [helloBytes]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], helloMagic)
	le.PutUint16(b[8:], h.minProtocol)
	le.PutUint16(b[10:], h.maxProtocol)
	b[12] = byte(h.lane)
	b[13] = byte(h.verdict)
	le.PutUint16(b[14:], h.tag)
	le.PutUint64(b[16:], h.cluster)
	le.PutUint64(b[24:], uint64(h.from))
	le.PutUint64(b[32:], uint64(h.to))
	le.PutUint64(b[40:], h.incarnation)
	le.PutUint64(b[48:], h.met)
	le.PutUint64(b[56:], h.frameCap)
	le.PutUint64(b[64:], h.nonce)
	le.PutUint64(b[72:], xxhash.Sum64(b[:72]))
	return b
}

// decode reads a hello. It checks that it is one; whether it is welcome is for
// check to say.
func (h *hello) decode(b *[helloBytes]byte) *HelloError {
	le := binary.LittleEndian
	if got := le.Uint64(b[0:]); got != helloMagic {
		return &HelloError{Field: HelloMagic, Got: got, Want: helloMagic}
	}
	if got, want := le.Uint64(b[72:]), xxhash.Sum64(b[:72]); got != want {
		return &HelloError{Field: HelloChecksum, Got: got, Want: want}
	}
	*h = hello{
		minProtocol: le.Uint16(b[8:]),
		maxProtocol: le.Uint16(b[10:]),
		lane:        Lane(b[12]),
		verdict:     HelloField(b[13]),
		tag:         le.Uint16(b[14:]),
		cluster:     le.Uint64(b[16:]),
		from:        wire.StoreID(le.Uint64(b[24:])),
		to:          wire.StoreID(le.Uint64(b[32:])),
		incarnation: le.Uint64(b[40:]),
		met:         le.Uint64(b[48:]),
		frameCap:    le.Uint64(b[56:]),
		nonce:       le.Uint64(b[64:]),
	}
	return nil
}

// check tells what speaks against the hello of a peer, given our own. Who the
// peer is, and whether its incarnation is old, is checked by the caller.
func (h *hello) check(own *hello) *HelloError {
	refuse := func(field HelloField, got, want uint64) *HelloError {
		return &HelloError{Field: field, Peer: h.from, Got: got, Want: want}
	}
	switch {
	case h.cluster != own.cluster:
		return refuse(HelloCluster, h.cluster, own.cluster)
	case h.to != own.from:
		return refuse(HelloStore, uint64(h.to), uint64(own.from))
	case h.from == own.from:
		return refuse(HelloSelf, uint64(h.from), uint64(own.from))
	case h.met > own.incarnation:
		return refuse(HelloOwnIncarnation, h.met, own.incarnation)
	case h.minProtocol > own.maxProtocol || h.maxProtocol < own.minProtocol || h.minProtocol > h.maxProtocol:
		return refuse(HelloProtocol, protocolRange(h), protocolRange(own))
	case h.lane >= Lanes:
		return refuse(HelloLane, uint64(h.lane), Lanes-1)
	case h.frameCap < minFrameCap:
		return refuse(HelloFrameCap, h.frameCap, minFrameCap)
	}
	return nil
}

// checkAnswer is check for the answer to our hello. When the peer refused us,
// its verdict is the error.
func (h *hello) checkAnswer(own *hello) *HelloError {
	if h.verdict != 0 {
		return h.refusal(own)
	}
	if h.from != own.to {
		return &HelloError{Field: HelloStore, Peer: h.from, Got: uint64(h.from), Want: uint64(own.to)}
	}
	if h.lane != own.lane {
		return &HelloError{Field: HelloLane, Peer: h.from, Got: uint64(h.lane), Want: uint64(own.lane)}
	}
	return h.check(own)
}

// refusal names both values of the field the peer refused us for.
func (h *hello) refusal(own *hello) *HelloError {
	e := &HelloError{Field: h.verdict, Peer: h.from, Remote: true}
	switch h.verdict {
	case HelloCluster:
		e.Got, e.Want = h.cluster, own.cluster
	case HelloStore:
		e.Got, e.Want = uint64(h.from), uint64(own.to)
	case HelloSelf, HelloPeer, HelloDirection:
		e.Got, e.Want = uint64(h.from), uint64(own.from)
	case HelloIdentity:
		e.Got, e.Want = uint64(own.from), uint64(own.from) // what our certificate says, they know
	case HelloIncarnation:
		e.Got, e.Want = h.met, own.incarnation
	case HelloOwnIncarnation:
		e.Got, e.Want = h.incarnation, own.met
	case HelloProtocol:
		e.Got, e.Want = protocolRange(h), protocolRange(own)
	case HelloLane:
		e.Got, e.Want = uint64(h.lane), uint64(own.lane)
	case HelloFrameCap:
		e.Got, e.Want = h.frameCap, own.frameCap
	}
	return e
}

// protocol returns the version that two stores speak after they accepted each
// other's hello.
func (h *hello) protocol(own *hello) uint16 { return min(h.maxProtocol, own.maxProtocol) }

func protocolRange(h *hello) uint64 {
	return uint64(h.minProtocol)<<16 | uint64(h.maxProtocol)
}
