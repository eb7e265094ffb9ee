package engine

import (
	"multiraft/raftlog"
	"multiraft/scheduler"
	"multiraft/transport"
	"multiraft/wire"
)

// A store is called by its log, its workers and its transport. Embedders see none
// of that: these types have the methods, and are the store.
type (
	logSink          struct{ s *Store }
	roundProcessor   struct{ s *Store }
	transportHandler struct{ s *Store }
)

var (
	_ raftlog.Sink        = logSink{}
	_ scheduler.Processor = roundProcessor{}
	_ transport.Handler   = transportHandler{}
)

// Durable implements raftlog.Sink.
//
//mr:hotpath
func (h logSink) Durable(batches []*raftlog.Batch, err error) { h.s.durable(batches, err) }

// Process implements scheduler.Processor.
//
//mr:hotpath
func (h roundProcessor) Process(at int, round []scheduler.Work) { h.s.process(at, round) }

// HandleFrame implements transport.Handler.
//
//mr:hotpath
func (h transportHandler) HandleFrame(from wire.StoreID, payload []byte) {
	h.s.handleFrame(from, payload)
}

// PeerUp implements transport.Handler.
func (h transportHandler) PeerUp(peer wire.StoreID, incarnation uint64, protocol uint16) {
	h.s.peerUp(peer, incarnation, protocol)
}

// PeerDown implements transport.Handler.
func (h transportHandler) PeerDown(peer wire.StoreID, err error) { h.s.peerDown(peer, err) }
