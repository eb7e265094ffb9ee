package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"

	"multiraft/wire"
)

// nextProtocol is what both sides name in the handshake (ALPN), so that a
// certificate is of no use for a connection that some other service started.
const nextProtocol = "multiraft"

// security makes secured connections. It asks the provider anew for each, and
// keeps nothing, so that a certificate that was replaced is not used again.
type security struct {
	provide func() (*tls.Config, error)
	own     identity
}

// config returns a copy of what the provider gave with what is not up to it set:
// TLS 1.3, certificates of both sides, no resumption.
func (s *security) config() (*tls.Config, error) {
	given, err := s.provide()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTLSConfig, err)
	}
	if err := s.check(given); err != nil {
		return nil, err
	}
	c := given.Clone()
	c.MinVersion = tls.VersionTLS13
	c.NextProtos = []string{nextProtocol}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if c.ClientCAs == nil {
		c.ClientCAs = c.RootCAs
	}
	// A resumed session is not verified by this life's authorities. Connections
	// are few and last; their full handshake is cheap.
	c.SessionTicketsDisabled = true
	c.ClientSessionCache = nil
	return c, nil
}

// check reports all that is wrong with what a provider gave. Settings that would
// bypass a check, or be ignored, are faults: whoever set them expects them to
// work.
func (s *security) check(c *tls.Config) error {
	if c == nil {
		return fmt.Errorf("%w: the provider returned none", ErrTLSConfig)
	}
	var faults []error
	fault := func(bad bool, rule string) {
		if bad {
			faults = append(faults, fmt.Errorf("%w: %s", ErrTLSConfig, rule))
		}
	}
	fault(c.RootCAs == nil, "RootCAs: must hold the authority of the cluster")
	fault(len(c.Certificates) == 0 && (c.GetCertificate == nil || c.GetClientCertificate == nil),
		"Certificates: must hold this store's, or GetCertificate and GetClientCertificate must be set")
	fault(c.InsecureSkipVerify, "InsecureSkipVerify: must not be set")
	fault(c.MaxVersion != 0 && c.MaxVersion < tls.VersionTLS13, "MaxVersion: must allow TLS 1.3")
	fault(c.GetConfigForClient != nil, "GetConfigForClient: must be nil, the provider is asked for each connection")
	fault(c.VerifyPeerCertificate != nil, "VerifyPeerCertificate: must be nil, use VerifyConnection")
	if len(c.Certificates) > 0 {
		if err := s.checkOwn(&c.Certificates[0]); err != nil {
			faults = append(faults, fmt.Errorf("%w: Certificates: %w", ErrTLSConfig, err))
		}
	}
	return errors.Join(faults...)
}

// checkOwn looks whether a certificate speaks for this store, as peers will.
func (s *security) checkOwn(cert *tls.Certificate) error {
	leaf := cert.Leaf
	if leaf == nil {
		if len(cert.Certificate) == 0 {
			return errors.New("the first is empty")
		}
		var err error
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return err
		}
	}
	return s.own.match(leaf)
}

// match tells what speaks against a certificate as that of id.
func (id identity) match(cert *x509.Certificate) error {
	got, err := identityOf(cert)
	if err != nil {
		return err
	}
	if got != id {
		return &CertificateError{Got: []string{got.String()}, Want: id.String()}
	}
	return nil
}

// server secures a connection that was accepted and returns who is at the other
// end.
func (s *security) server(nc net.Conn) (*tls.Conn, identity, error) {
	c, err := s.config()
	if err != nil {
		return nil, identity{}, err
	}
	var peer identity
	further := c.VerifyConnection
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if err := checkProtocol(&state); err != nil {
			return err
		}
		var err error
		if peer, err = identityOf(state.PeerCertificates[0]); err != nil {
			return err
		}
		// Which store it is may be decided by the hello; see greetDialler.
		if peer.cluster != s.own.cluster {
			return &CertificateError{Got: []string{peer.String()}, Want: StoreURI(s.own.cluster, peer.store)}
		}
		if further != nil {
			return further(state)
		}
		return nil
	}
	conn := tls.Server(nc, c)
	if err := conn.Handshake(); err != nil {
		return nil, identity{}, err
	}
	return conn, peer, nil
}

// client secures a connection that was dialled to a store, which must prove to
// be that store.
func (s *security) client(nc net.Conn, store wire.StoreID) (*tls.Conn, error) {
	c, err := s.config()
	if err != nil {
		return nil, err
	}
	want := identity{s.own.cluster, store}
	further := c.VerifyConnection
	// What crypto/tls verifies besides the chain is the name of a host. Stores are
	// named by their ids, wherever they run, so that verifyServer takes its place.
	c.InsecureSkipVerify = true // #nosec G402 -- verifyServer does what this leaves out
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if err := checkProtocol(&state); err != nil {
			return err
		}
		chains, err := verifyServer(c, &state)
		if err != nil {
			return err
		}
		if err := want.match(state.PeerCertificates[0]); err != nil {
			return err
		}
		if further != nil {
			state.VerifiedChains = chains
			return further(state)
		}
		return nil
	}
	conn := tls.Client(nc, c)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return conn, nil
}

// verifyServer builds the chain from the certificate of a store we dialled to an
// authority, as crypto/tls does for the store that dials.
func verifyServer(c *tls.Config, state *tls.ConnectionState) ([][]*x509.Certificate, error) {
	options := x509.VerifyOptions{
		Roots:         c.RootCAs,
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if c.Time != nil {
		options.CurrentTime = c.Time()
	}
	for _, cert := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(cert)
	}
	chains, err := state.PeerCertificates[0].Verify(options)
	if err != nil {
		return nil, &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return chains, nil
}

func checkProtocol(state *tls.ConnectionState) error {
	if state.NegotiatedProtocol != nextProtocol {
		return fmt.Errorf("transport: the peer speaks %q, not %q", state.NegotiatedProtocol, nextProtocol)
	}
	return nil
}

// handshakeFailed counts and reports a connection that could not be secured.
// peer is the store we dialled, 0 when it dialled us.
func (t *TCP) handshakeFailed(nc net.Conn, peer wire.StoreID, err error) error {
	failure := &HandshakeError{Peer: peer, Addr: nc.RemoteAddr().String(), Err: err}
	t.counters.handshakesFailed.Add(1)
	// Who connects and leaves, as a probe of the port does, is no news. Nor are
	// connections that were closed on this side.
	if t.cfg.HandshakeFailed != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		t.cfg.HandshakeFailed(failure)
	}
	return failure
}

// isAlert tells whether the peer refused our part of a handshake. In TLS 1.3 it
// checks our certificate when the handshake has ended for us, so that its
// refusal arrives in the place of its hello.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// socket returns what is below the layers that this package puts on a
// connection.
func socket(nc net.Conn) net.Conn {
	for {
		switch c := nc.(type) {
		case *tls.Conn:
			nc = c.NetConn()
		case *guest:
			nc = c.Conn
		default:
			return nc
		}
	}
}
