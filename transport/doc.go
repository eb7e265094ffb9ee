// Package transport carries frames between stores. What is in a frame is not
// its business; that a frame arrives whole, unchanged, from the store it claims
// and in order, is.
//
//	Send ──▶ ┌ queue per (peer, lane) ┐ ──all that is queued──▶ writer ──one write──▶ ┐
//	         │ bounded in bytes       │                                               │ one connection
//	         └────────────────────────┘                                               │ per (pair, lane)
//	HandleFrame ◀── payload in place ◀── reader ◀── chunk of 256 KiB, never reused ◀──┘
//
// There are two implementations of [Transport] with one contract: [TCP], and
// [Network], which connects stores of one process without sockets and can cut
// links.
//
// # Terms
//
// A peer is another store. A lane is one of the two streams to a peer: urgent
// frames never wait behind bulk ones. A link is a lane to a peer; it exists
// as long as the peer is known and is connected or not. A frame is a header and
// a payload. A hello is the fixed-size greeting that opens a connection. Grids
// of both are in docs/wire-format.md and above their encoders.
//
// # Invariants
//
//   - T1: frames of a link arrive in the order in which they were sent, or not
//     at all. A frame is never delivered twice.
//   - T2: HandleFrame for one (peer, lane) is never called concurrently, and
//     only between PeerUp and PeerDown of that peer.
//   - T3: Send never blocks. What waits to be sent is bounded in bytes per link;
//     a link that is not connected keeps frames for two to four seconds at most.
//   - T4: nothing but a handshake and a hello is read from a connection until the
//     hello is accepted. Connections that have not got so far are bounded in
//     number, rate, bytes and time, see [Limits].
//   - T5: no length is believed before it is checked against the frame cap, and
//     memory for a large frame grows with what has arrived of it.
//   - T6: at most one connection serves a link. The newest wins, the older one
//     has delivered its last frame before the newer delivers its first.
//   - T7: a store never talks to two incarnations of a peer at a time, and never
//     to an older one after it met a newer one, nor, by TCP, to another process that
//     takes itself for the same one. A store whose disk counts lives from the beginning
//     again is older, until it takes one behind all of them (TCPConfig.Outlived).
//   - T8: with TLS, HandleFrame names the store that the certificate of the frame's
//     connection is for.
//   - T9: both lanes to a peer speak the protocol version that PeerUp told, and what
//     was queued while a newer one was spoken is not sent on a connection of an older.
//
// # Lost peers
//
// A connection whose peer vanished without a word is found in three ways. While
// bytes wait to be acknowledged, the kernel gives up after PeerTimeout
// (TCP_USER_TIMEOUT, on Linux) and a write that makes no progress for as long
// fails by its deadline (everywhere). While nothing is sent, TCP keep-alive
// probes every PeerTimeout/4 and gives up after four of them. A process that is
// stuck while its kernel answers is not found here; its groups miss heartbeats.
//
// # Trust
//
// With [TCPConfig].TLS both sides of a connection prove which store of which
// cluster they are, by a certificate that names it (see [StoreURI]), and the hello
// must say the same. docs/security.md tells what that is good for, how to make
// certificates and how to replace them.
//
// Without, a hello is a check against mistakes, not against attackers: whoever can
// reach the port and knows the cluster id can claim to be any store. Keep the
// network private then.
//
// # Concurrency
//
// Every method of a transport is safe from any goroutine. Send and Buffer may
// be called from within Handler methods; Close must not, as it waits for them.
// Locks are taken in this order: TCP.mu or Network.mu, peer.mu, frameQueue.mu,
// bufferPool.mu. door.mu is taken after TCP.mu, and with no other. No Handler method is called with a lock held.
package transport
