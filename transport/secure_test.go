package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"multiraft/internal/testca"
	"multiraft/wire"
)

// failures gathers what HandshakeFailed is told.
type failures chan *HandshakeError

func (f failures) add(err *HandshakeError) {
	select {
	case f <- err:
	default: // as in refusals
	}
}

func (f failures) await(t testing.TB) *HandshakeError {
	t.Helper()
	select {
	case err := <-f:
		return err
	case <-time.After(patience):
		t.Fatal("no handshake failed")
		return nil
	}
}

// secureServer is newServer with certificates of ca.
func secureServer(t *testing.T, ca *testca.Authority, change func(cfg *TCPConfig)) (*server, failures) {
	t.Helper()
	failed := make(failures, 64)
	return newServer(t, func(cfg *TCPConfig) {
		cfg.TLS = ca.Provider(StoreURI(testCluster, 2))
		cfg.HandshakeFailed = failed.add
		if change != nil {
			change(cfg)
		}
	}), failed
}

// rawConfig is what a good store 1 dials store 2 with.
func rawConfig(ca *testca.Authority, change ...func(template *x509.Certificate)) *tls.Config {
	c := ca.Config(StoreURI(testCluster, 1), change...)
	c.NextProtos = []string{nextProtocol}
	c.InsecureSkipVerify = true // the server is what is tested, it is not doubted
	return c
}

// greetSecured says hello over TLS. The error is that of the handshake, which for
// a refused certificate comes with the answer.
func greetSecured(t *testing.T, addr string, c *tls.Config, h hello) (*tls.Conn, hello, error) {
	t.Helper()
	var answer hello
	nc := tls.Client(dialRaw(t, addr), c)
	if err := nc.Handshake(); err != nil {
		return nc, answer, err
	}
	b := h.encode()
	if _, err := nc.Write(b[:]); err != nil {
		return nc, answer, err
	}
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return nc, answer, err
	}
	if err := answer.decode(&b); err != nil {
		t.Fatal(err)
	}
	return nc, answer, nil
}

// A store with a certificate of the cluster, for itself, gets in, and its frames
// are its own.
func TestSecuredConnection(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, nil)
	h := rawHello()
	nc, answer, err := greetSecured(t, s.Addr(), rawConfig(ca), h)
	if err != nil || answer.verdict != 0 {
		t.Fatalf("verdict %v, %v", answer.verdict, err)
	}
	if state := nc.ConnectionState(); state.Version != tls.VersionTLS13 {
		t.Errorf("version %x", state.Version)
	}
	s.await(upEvent)
	key, _ := sessionKeys(h.nonce, answer.nonce)
	large := testPayload(nil, 0, 1, 700<<10) // many records
	if _, err := nc.Write(encodeFrames(t, 0, key, []byte{0, 'a'}, large)); err != nil {
		t.Fatal(err)
	}
	if e := s.await(frameEvent); e.peer != 1 || string(e.payload) != "\x00a" {
		t.Errorf("got %+v", e)
	}
	if e := s.await(frameEvent); !bytes.Equal(e.payload, large) {
		t.Errorf("got %d bytes", len(e.payload))
	}
	// Where it lives is known now.
	if d := s.door; d.familiar[addressOf(nc.LocalAddr())] != 1 {
		t.Errorf("familiar are %v", d.familiar)
	}
}

// Who does not prove to be a store of the cluster gets no word in.
func TestHandshakesRefused(t *testing.T) {
	ca, stranger := testca.New(t), testca.New(t)
	now := time.Now()
	template := func(f func(template *x509.Certificate)) func(*tls.Config) {
		return func(c *tls.Config) { c.Certificates = rawConfig(ca, f).Certificates }
	}
	named := func(uris ...string) func(*tls.Config) {
		return template(func(cert *x509.Certificate) {
			cert.URIs = nil
			for _, uri := range uris {
				cert.URIs = append(cert.URIs, testca.URL(t, uri))
			}
		})
	}
	var mismatch *CertificateError
	var unverified *tls.CertificateVerificationError
	cases := map[string]struct {
		change func(c *tls.Config)
		want   any // a target of errors.As, or nil
	}{
		"no certificate":   {func(c *tls.Config) { c.Certificates = nil }, nil},
		"of another":       {func(c *tls.Config) { c.Certificates = rawConfig(stranger).Certificates }, &unverified},
		"expired":          {template(func(cert *x509.Certificate) { cert.NotAfter = now.Add(-time.Minute) }), &unverified},
		"not yet valid":    {template(func(cert *x509.Certificate) { cert.NotBefore = now.Add(time.Minute) }), &unverified},
		"for servers only": {template(func(cert *x509.Certificate) { cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), &unverified},
		"of nobody":        {named(), &mismatch},
		"of two":           {named(StoreURI(testCluster, 1), StoreURI(testCluster, 3)), &mismatch},
		"of other cluster": {named(StoreURI(testCluster+1, 1)), &mismatch},
		"misspelt":         {named("multiraft://cluster/193/store/01"), &mismatch},
		"TLS 1.2":          {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, nil},
		"no protocol":      {func(c *tls.Config) { c.NextProtos = nil }, nil},
		"other protocol":   {func(c *tls.Config) { c.NextProtos = []string{"h2"} }, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, failed := secureServer(t, ca, nil)
			config := rawConfig(ca)
			c.change(config)
			nc, _, err := greetSecured(t, s.Addr(), config, rawHello())
			if err == nil {
				t.Fatal("got an answer to the hello")
			}
			failure := failed.await(t)
			if failure.Peer != 0 || failure.Addr != nc.LocalAddr().String() {
				t.Errorf("reported %+v", failure)
			}
			if c.want != nil && !errors.As(failure, c.want) {
				t.Errorf("failed with %v", failure)
			}
			mustClose(t, s)
			s.none(upEvent)
			if got := s.Stats(); got.HandshakesFailed != 1 || got.Connects != 0 {
				t.Errorf("stats %+v", got)
			}
		})
	}
}

// A store may speak for itself only, also to those that trust its certificate.
func TestStoreSpeaksForItselfOnly(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, func(cfg *TCPConfig) { cfg.Store, cfg.TLS = 4, ca.Provider(StoreURI(testCluster, 4)) })
	h := rawHello()
	h.from, h.to = 3, 4 // a known peer, but the certificate is of store 1
	_, answer, err := greetSecured(t, s.Addr(), rawConfig(ca), h)
	if err != nil || answer.verdict != HelloIdentity {
		t.Errorf("verdict %v, %v", answer.verdict, err)
	}
	refusal := s.refused.await(t)
	if refusal.Field != HelloIdentity || refusal.Peer != 1 || refusal.Got != 3 || refusal.Want != 1 {
		t.Errorf("reported %+v", refusal)
	}
	mustClose(t, s)
	s.none(upEvent)
}

// What is no handshake at all ends the connection, whoever sends it.
func TestGarbageInsteadOfHandshake(t *testing.T) {
	ca := testca.New(t)
	plain := rawHello()
	b := plain.encode()
	cases := map[string][]byte{
		"plain hello":   b[:],
		"text":          bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 20),
		"zeros":         make([]byte, 1000),
		"large records": bytes.Repeat([]byte{22, 3, 1, 0xff, 0xff}, 20_000),
		// A ClientHello that says it is 16 MiB long.
		"large hello": append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0xff, 0xff, 0xff}, make([]byte, 1<<20)...),
	}
	for name, bytes := range cases {
		t.Run(name, func(t *testing.T) {
			s, failed := secureServer(t, ca, nil)
			nc := dialRaw(t, s.Addr())
			// The server may close before it has taken all of it.
			_, _ = nc.Write(bytes)
			if failure := failed.await(t); failure.Peer != 0 {
				t.Errorf("failed with %v", failure)
			}
			if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays open")
			}
			if _, answer, err := greetSecured(t, s.Addr(), rawConfig(ca), rawHello()); err != nil || answer.verdict != 0 {
				t.Errorf("others get verdict %v, %v", answer.verdict, err)
			}
		})
	}
}

// A peer that proves who it is and asks for a frame that is too large, or sends
// another's, is cut off as over plain TCP.
func TestBadFrameOverTLS(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, nil)
	h := rawHello()
	nc, answer, err := greetSecured(t, s.Addr(), rawConfig(ca), h)
	if err != nil {
		t.Fatal(err)
	}
	s.await(upEvent)
	key, _ := sessionKeys(h.nonce, answer.nonce)
	b := encodeFrames(t, 0, key, []byte{0, 'a'})
	b[3] = 0xff
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
	if e := s.await(downEvent); !errors.Is(e.err, ErrBadFrame) {
		t.Errorf("down with %v", e.err)
	}
}

// A store that is dialled is checked as strictly as one that dials.
func TestDiallerChecksCertificate(t *testing.T) {
	ca, stranger := testca.New(t), testca.New(t)
	var mismatch *CertificateError
	var unverified *tls.CertificateVerificationError
	cases := map[string]struct {
		config *tls.Config
		want   any
	}{
		"of another":       {stranger.Config(StoreURI(testCluster, 2)), &unverified},
		"other store":      {ca.Config(StoreURI(testCluster, 3)), &mismatch},
		"other cluster":    {ca.Config(StoreURI(testCluster+1, 2)), &mismatch},
		"for clients only": {ca.Config(StoreURI(testCluster, 2), func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), &unverified},
		"expired":          {ca.Config(StoreURI(testCluster, 2), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), &unverified},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			c.config.NextProtos = []string{nextProtocol}
			listener, err := tls.Listen("tcp", "127.0.0.1:0", c.config)
			if err != nil {
				t.Fatal(err)
			}
			serving := make(chan struct{})
			t.Cleanup(func() { closeListener(t, listener); <-serving })
			go func() {
				defer close(serving)
				for {
					nc, err := listener.Accept()
					if err != nil {
						return
					}
					if n, _ := nc.Read(make([]byte, 1)); n > 0 {
						t.Error("the hello came all the same")
					}
					closeConn(nc)
				}
			}()
			failed := make(failures, 64)
			tr := newTestTCP(t, TCPConfig{
				Cluster: testCluster, Store: 1, TLS: ca.Provider(StoreURI(testCluster, 1)), HandshakeFailed: failed.add,
				Peers: map[wire.StoreID]string{2: listener.Addr().String()},
			})
			r := mustStart(t, tr)
			failure := failed.await(t)
			if failure.Peer != 2 || !errors.As(failure, c.want) || !strings.Contains(failure.Error(), "store 2") {
				t.Errorf("failed with %v", failure)
			}
			mustClose(t, tr)
			r.none(upEvent)
		})
	}
}

// The dialler learns that its certificate was refused.
func TestDiallerLearnsOfRefusal(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, func(cfg *TCPConfig) {
		config := ca.Config(StoreURI(testCluster, 2))
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.VerifiedChains) == 0 {
				t.Error("the hook is asked about a certificate that was not verified")
			}
			return errors.New("revoked")
		}
		cfg.TLS = func() (*tls.Config, error) { return config, nil }
	})
	failed := make(failures, 64)
	tr := newTestTCP(t, TCPConfig{
		Cluster: testCluster, Store: 1, TLS: ca.Provider(StoreURI(testCluster, 1)), HandshakeFailed: failed.add,
		Peers: map[wire.StoreID]string{2: s.Addr()},
	})
	mustStart(t, tr)
	if failure := failed.await(t); failure.Peer != 2 || !strings.Contains(failure.Error(), "bad certificate") {
		t.Errorf("failed with %v", failure)
	}
	if got := tr.Stats(); got.DialFailures != 0 || got.HandshakesFailed == 0 {
		t.Errorf("stats %+v", got)
	}
}

// The hook of the dialler sees the chains too.
func TestDiallerHookSeesChains(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, nil)
	config := ca.Config(StoreURI(testCluster, 1))
	var chains atomic.Int64
	config.VerifyConnection = func(state tls.ConnectionState) error {
		chains.Store(int64(len(state.VerifiedChains)))
		return nil
	}
	tr := newTestTCP(t, TCPConfig{
		Cluster: testCluster, Store: 1, TLS: func() (*tls.Config, error) { return config, nil },
		Peers: map[wire.StoreID]string{2: s.Addr()},
	})
	mustStart(t, tr).await(upEvent)
	if got := chains.Load(); got != 1 {
		t.Errorf("%d chains", got)
	}
}

// What a provider returns must be fit for use when a transport is made, and at
// each connection; a fault then is that connection's alone.
func TestProviderFaults(t *testing.T) {
	ca := testca.New(t)
	uri := StoreURI(testCluster, 2)
	broken := errors.New("no key today")
	with := func(change func(c *tls.Config)) func() (*tls.Config, error) {
		c := ca.Config(uri)
		change(c)
		return func() (*tls.Config, error) { return c, nil }
	}
	cases := map[string]struct {
		provide func() (*tls.Config, error)
		word    string
	}{
		"error":       {func() (*tls.Config, error) { return nil, broken }, "no key today"},
		"nil":         {func() (*tls.Config, error) { return nil, nil }, "none"},
		"authority":   {with(func(c *tls.Config) { c.RootCAs = nil }), "RootCAs"},
		"certificate": {with(func(c *tls.Config) { c.Certificates = nil }), "Certificates"},
		"empty":       {with(func(c *tls.Config) { c.Certificates[0] = tls.Certificate{} }), "Certificates"},
		"no leaf":     {with(func(c *tls.Config) { c.Certificates[0] = ca.Issue(StoreURI(1, 1)); c.Certificates[0].Leaf = nil }), "cluster/1/"},
		"other store": {with(func(c *tls.Config) { c.Certificates[0] = ca.Issue(StoreURI(testCluster, 3)) }), "store/3"},
		"unverified":  {with(func(c *tls.Config) { c.InsecureSkipVerify = true }), "InsecureSkipVerify"},
		"old":         {with(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), "MaxVersion"},
		"two hooks": {with(func(c *tls.Config) {
			c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return nil }
		}), "VerifyPeerCertificate"},
		"per client": {with(func(c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
		}), "GetConfigForClient"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			_, err := NewTCP(TCPConfig{Cluster: testCluster, Store: 2, TLS: c.provide})
			if !errors.Is(err, ErrTLSConfig) || !strings.Contains(err.Error(), c.word) {
				t.Errorf("got %v", err)
			}
		})
	}
	if !errors.Is((&HandshakeError{Err: broken}), broken) {
		t.Error("the cause is lost")
	}
	t.Run("later", func(t *testing.T) {
		var bad atomic.Bool
		config := ca.Config(uri)
		s, failed := secureServer(t, ca, func(cfg *TCPConfig) {
			cfg.TLS = func() (*tls.Config, error) {
				if bad.Load() {
					return nil, broken
				}
				return config, nil
			}
		})
		bad.Store(true)
		if _, _, err := greetSecured(t, s.Addr(), rawConfig(ca), rawHello()); err == nil {
			t.Error("connected")
		}
		if failure := failed.await(t); !errors.Is(failure, broken) || !errors.Is(failure, ErrTLSConfig) {
			t.Errorf("failed with %v", failure)
		}
		bad.Store(false)
		if _, answer, err := greetSecured(t, s.Addr(), rawConfig(ca), rawHello()); err != nil || answer.verdict != 0 {
			t.Errorf("verdict %v, %v", answer.verdict, err)
		}
	})
}

// Certificates and authorities are replaced while the store runs: connections
// that exist stay, new ones are held to what is new.
func TestLiveReload(t *testing.T) {
	old, next := testca.New(t), testca.New(t)
	var current atomic.Pointer[tls.Config]
	current.Store(old.Config(StoreURI(testCluster, 2)))
	s, failed := secureServer(t, old, func(cfg *TCPConfig) {
		cfg.TLS = func() (*tls.Config, error) { return current.Load(), nil }
	})
	h := rawHello()
	existing, answer, err := greetSecured(t, s.Addr(), rawConfig(old), h)
	if err != nil {
		t.Fatal(err)
	}
	s.await(upEvent)

	current.Store(next.Config(StoreURI(testCluster, 2)))
	if _, _, err := greetSecured(t, s.Addr(), rawConfig(old), rawHello()); err == nil {
		t.Error("a certificate of the authority that was replaced still opens connections")
	}
	if failure := failed.await(t); failure.Peer != 0 {
		t.Errorf("failed with %v", failure)
	}
	key, _ := sessionKeys(h.nonce, answer.nonce)
	if _, err := existing.Write(encodeFrames(t, 0, key, []byte{0, 'a'})); err != nil {
		t.Fatal(err)
	}
	s.await(frameEvent)
	h.lane = wire.Bulk
	nc, answer, err := greetSecured(t, s.Addr(), rawConfig(next), h)
	if err != nil || answer.verdict != 0 {
		t.Fatalf("verdict %v, %v", answer.verdict, err)
	}
	if got := nc.ConnectionState().PeerCertificates[0]; !bytes.Equal(got.Raw, current.Load().Certificates[0].Certificate[0]) {
		t.Error("a new connection got the old certificate")
	}
	mustClose(t, s)
	if n := len(s.events); n != 1 {
		t.Errorf("%d events besides, want the end at Close", n)
	}
}

// No session is resumed: its peer would not be verified again.
func TestNoResumption(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, nil)
	config := rawConfig(ca)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	h := rawHello()
	for i := range 3 {
		h.incarnation = uint64(i + 1)
		nc, answer, err := greetSecured(t, s.Addr(), config, h)
		if err != nil || answer.verdict != 0 {
			t.Fatalf("verdict %v, %v", answer.verdict, err)
		}
		if nc.ConnectionState().DidResume {
			t.Fatal("a session was resumed")
		}
	}
}

// A handshake is bounded in time, however busy it looks.
func TestSlowHandshake(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, func(cfg *TCPConfig) { cfg.HelloTimeout = 50 * time.Millisecond })
	nc := dialRaw(t, s.Addr())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection stays open")
		}
	}()
	// A record that never gets done, a byte at a time.
	record := append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb}, make([]byte, 0x3ffb)...)
	for i := range record {
		if _, err := nc.Write(record[i : i+1]); err != nil {
			break
		}
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
		}
	}
	<-ended
}

// Close does not wait for a peer that reads nothing, as a goodbye of TLS would.
func TestCloseOfStuckPeerOverTLS(t *testing.T) {
	ca := testca.New(t)
	s, _ := secureServer(t, ca, nil)
	if _, _, err := greetSecured(t, s.Addr(), rawConfig(ca), rawHello()); err != nil {
		t.Fatal(err)
	}
	s.await(upEvent)
	for s.Send(1, 0, make([]byte, 64<<10)) == nil {
	}
	mustClose(t, s)
}

func TestTLSFiles(t *testing.T) {
	dir := t.TempDir()
	name := func(base string) string { return filepath.Join(dir, base) }
	write := func(base string, content []byte) {
		t.Helper()
		if err := os.WriteFile(name(base), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(0, 0)
	var failed []error
	files := &TLSFiles{
		Certificate: name("cert"), Key: name("key"), Authorities: name("ca"),
		Failed: func(err error) { failed = append(failed, err) },
		now:    func() time.Time { return at },
	}
	if c, err := files.Config(); err == nil || c != nil {
		t.Fatalf("without files: %v, %v", c, err)
	}
	config := func() *tls.Config {
		t.Helper()
		c, err := files.Config()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ca := testca.New(t)
	first, second := ca.Issue(StoreURI(testCluster, 2)), ca.Issue(StoreURI(testCluster, 2))
	cert, key := testca.EncodePEM(t, first)
	write("cert", cert)
	write("key", key)
	write("ca", pem.EncodeToMemory(&pem.Block{Type: "NOTHING"}))
	if _, err := files.Config(); !errors.Is(err, errNoCertificate) {
		t.Fatalf("without an authority: %v", err)
	}
	write("ca", ca.PEM())
	c := config()
	secure := &security{provide: files.Config, own: identity{testCluster, 2}}
	if err := secure.check(c); err != nil {
		t.Error(err)
	}
	// Between looks, and when nothing changed, it stays the same.
	cert, key = testca.EncodePEM(t, second)
	write("cert", cert)
	if config() != c {
		t.Error("looked again at once")
	}
	// A certificate without its key is not taken.
	at = at.Add(reloadEvery)
	if config() != c || len(failed) != 1 {
		t.Errorf("half a pair: failed with %v", failed)
	}
	write("key", key)
	at = at.Add(reloadEvery)
	next := config()
	if next == c || !bytes.Equal(next.Certificates[0].Certificate[0], second.Certificate[0]) || len(failed) != 1 {
		t.Errorf("the new pair is not in use; failed with %v", failed)
	}
	at = at.Add(reloadEvery)
	if config() != next {
		t.Error("files that did not change were read anew")
	}
	if err := os.Remove(name("ca")); err != nil {
		t.Fatal(err)
	}
	at = at.Add(reloadEvery)
	if config() != next || len(failed) != 2 || !errors.Is(failed[1], os.ErrNotExist) {
		t.Errorf("a file that is gone: failed with %v", failed)
	}
}

var _ net.Conn = (*guest)(nil)
