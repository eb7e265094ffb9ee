package engine

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"multiraft/transport"
	"multiraft/wire"
)

// protocolLimiter is implemented by transports whose protocol version can be held
// back, as Config.MaxProtocol has it.
type protocolLimiter interface{ LimitProtocol(newest uint16) error }

// connectTransport returns the transport that the store was given, or one of its
// own.
func (s *Store) connectTransport() (transport.Transport, error) {
	given := s.cfg.Transport
	if given == nil {
		made, err := s.listenTCP()
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", s.cfg.Listen, err)
		}
		return made, nil
	}
	if s.cfg.MaxProtocol == wire.ProtocolVersion {
		return given, nil
	}
	limiter, ok := given.(protocolLimiter)
	if !ok {
		return nil, &ConfigError{Field: "MaxProtocol", Value: s.cfg.MaxProtocol, Rule: "needs a Transport with a method LimitProtocol"}
	}
	return given, limiter.LimitProtocol(s.cfg.MaxProtocol)
}

// listenTCP makes the transport of a store that was given none.
func (s *Store) listenTCP() (transport.Transport, error) {
	cfg := &s.cfg
	if cfg.TLS == nil && !isLoopback(cfg.Listen) {
		cfg.Logger.Warn("connections to peers are not secured: whoever reaches the address can speak for any store",
			zap.String("listen", cfg.Listen))
	}
	refused := &throttle{every: logEvery}
	return transport.NewTCP(transport.TCPConfig{
		Cluster:     cfg.Cluster,
		Store:       cfg.ID,
		Incarnation: s.log.Identity().Incarnation,
		Listen:      cfg.Listen,
		MaxProtocol: cfg.MaxProtocol,
		Peers:       cfg.Peers,
		TLS:         cfg.TLS,
		Limits:      cfg.Limits,
		Rand:        s.seeds.Uint64,
		HelloRefused: func(err *transport.HelloError) {
			s.links.refused(err)
			if ok, missed := refused.allow(time.Now()); ok {
				cfg.Logger.Warn("hello refused", zap.Error(err), zap.Uint64("not logged", missed))
			}
		},
		Outlived: s.outlived,
		HandshakeFailed: func(err *transport.HandshakeError) {
			if ok, missed := refused.allow(time.Now()); ok {
				cfg.Logger.Warn("connection could not be secured", zap.Error(err), zap.Uint64("not logged", missed))
			}
		},
	})
}

// logEvery spaces what strangers can make a store log.
const logEvery = time.Second

// throttle lets one event pass per interval and counts the others.
type throttle struct {
	every  time.Duration
	next   atomic.Int64 // when the next one may pass, in nanoseconds
	missed atomic.Uint64
}

// allow tells whether an event may pass, and how many did not since the last.
func (t *throttle) allow(now time.Time) (ok bool, missed uint64) {
	at, next := now.UnixNano(), t.next.Load()
	if at < next || !t.next.CompareAndSwap(next, at+int64(t.every)) {
		t.missed.Add(1)
		return false, 0
	}
	return true, t.missed.Swap(0)
}

// isLoopback tells whether an address to listen on is out of reach of other
// machines. Names other than localhost are not looked up.
func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false // Listen will say what is wrong with it
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
