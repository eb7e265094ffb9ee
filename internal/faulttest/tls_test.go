//go:build linux

package faulttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"multiraft/internal/testca"
	"multiraft/transport"
	"multiraft/wire"
)

// certificates are the files with which stores prove who they are, and the
// authorities that sign them.
type certificates struct {
	t     *testing.T
	dir   string
	files []*TLSPaths // by store, less one
}

func newCertificates(t *testing.T, stores int, signer *testca.Authority) *certificates {
	t.Helper()
	c := &certificates{t: t, dir: t.TempDir()}
	for at := range stores {
		name := filepath.Join(c.dir, string(rune('a'+at)))
		c.files = append(c.files, &TLSPaths{Certificate: name + ".pem", Key: name + ".key", Authorities: name + ".authorities"})
		c.trust(storeAt(at), signer)
		c.issue(storeAt(at), signer)
	}
	return c
}

func (c *certificates) paths(id wire.StoreID) *TLSPaths { return c.files[id-1] }

// issue replaces the certificate and the key of a store, one file after the other,
// and returns the new serial number.
func (c *certificates) issue(id wire.StoreID, signer *testca.Authority) *big.Int {
	c.t.Helper()
	pair := signer.Issue(transport.StoreURI(defaultCluster, id))
	cert, key := testca.EncodePEM(c.t, pair)
	must(c.t, os.WriteFile(c.paths(id).Certificate, cert, 0o600))
	must(c.t, os.WriteFile(c.paths(id).Key, key, 0o600))
	return pair.Leaf.SerialNumber
}

// trust replaces the authorities that a store verifies peers by.
func (c *certificates) trust(id wire.StoreID, authorities ...*testca.Authority) {
	c.t.Helper()
	var all []byte
	for _, a := range authorities {
		all = append(all, a.PEM()...)
	}
	must(c.t, os.WriteFile(c.paths(id).Authorities, all, 0o600))
}

// presents waits until a store answers new connections with a certificate.
func (c *certificates) presents(p *Process, serial *big.Int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), settleTimeout)
	defer cancel()
	for {
		var got *big.Int
		dialer := tls.Dialer{Config: &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"multiraft"},
			InsecureSkipVerify: true, // who it is, is looked at here
			VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
				leaf, err := x509.ParseCertificate(raw[0])
				if err == nil {
					got = leaf.SerialNumber
				}
				return err
			},
		}}
		// The store wants a certificate of us, which comes after it has shown its own.
		if conn, err := dialer.DialContext(ctx, "tcp", p.hello.Text); err == nil {
			must(c.t, conn.Close())
		}
		if got != nil && got.Cmp(serial) == 0 {
			return
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			c.t.Fatalf("store presents certificate %v, not %v", got, serial)
		}
	}
}

// replace gives all stores new certificates, and waits until those that run show
// them.
func (c *certificates) replace(cluster *Cluster, signer *testca.Authority) {
	c.t.Helper()
	serials := make(map[wire.StoreID]*big.Int)
	for _, id := range cluster.Stores() {
		serials[id] = c.issue(id, signer)
	}
	for _, id := range cluster.Stores() {
		if p := cluster.Process(id); p != nil {
			c.presents(p, serials[id])
		}
	}
}

// TestTLSHistories has three processes that talk in mutual TLS, whose certificates
// and authority are replaced under load while connections are cut and stores die;
// and a store with the certificate of a stranger, whom nobody talks to.
func TestTLSHistories(t *testing.T) {
	t.Parallel()
	first := testca.New(t)
	certs := newCertificates(t, 3, first)
	c, l := newCluster(t, ClusterConfig{Dirs: dirs(t.TempDir(), 3), TLS: certs.paths}, 24)
	must(t, c.StartAll())
	l.Begin()
	t.Cleanup(l.End)
	answers(t, l, 300)
	cut := func() {
		for _, p := range c.proxies {
			p.Cut()
		}
		answers(t, l, 300)
	}
	signer := first
	rounds := pick(1, 1, 50)
	for round := range rounds {
		// Certificates run out soon, and are replaced.
		certs.replace(c, signer)
		cut()

		// A new authority: first everybody trusts both, then certificates are replaced,
		// then the old one goes. Somebody dies meanwhile.
		next := testca.New(t)
		for _, id := range c.Stores() {
			certs.trust(id, signer, next)
		}
		certs.replace(c, signer) // it is shown once the authorities are read too
		for _, id := range c.Stores() {
			certs.presents(c.Process(id), certs.issue(id, next))
			cut() // certificates of both are in use
		}
		dead := storeAt(round % 3)
		c.Kill(dead)
		for _, id := range c.Stores() {
			certs.trust(id, next)
		}
		certs.replace(c, next)
		answers(t, l, 300)
		must(t, c.Start(dead))
		signer = next
		cut()

		// A store whose certificate is of somebody else's authority, or of one that is
		// not trusted any more, is alone; the others do without it.
		for _, other := range []*testca.Authority{testca.New(t), first} {
			certs.presents(c.Process(dead), certs.issue(dead, other))
			for _, p := range c.proxies {
				p.Cut()
			}
			before := refused(t, c)
			answers(t, l, 300)
			refusedMore(t, c, before)
			if reads(t, c, dead) {
				t.Errorf("store %d was let in with the certificate of a stranger", dead)
			}
			certs.presents(c.Process(dead), certs.issue(dead, signer))
			readable(t, c, dead)
		}
	}
	l.End()
	verify(t, c, l)
	t.Logf("%d operations around %d rounds, %d connections refused", l.History.Len(), rounds, refused(t, c))
}

// refused returns how many connections all stores together have refused.
func refused(t *testing.T, c *Cluster) (n int64) {
	t.Helper()
	for _, id := range c.Stores() {
		h, err := c.Health(t.Context(), id)
		must(t, err)
		n += h.Health.Refused
	}
	return n
}

// refusedMore waits until more connections are refused than before.
func refusedMore(t *testing.T, c *Cluster, before int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for refused(t, c) == before {
		if err := pause(ctx, retryInterval); err != nil {
			t.Fatal("no connection was refused")
		}
	}
}

// reads tells whether a store can serve a read now: whether it is connected.
func reads(t *testing.T, c *Cluster, id wire.StoreID) bool {
	t.Helper()
	a, err := c.Process(id).Call(t.Context(), Request{Op: opState, Group: 1, Timeout: callTimeout})
	must(t, err)
	return a.Outcome == Done
}

// readable waits until a store serves reads of all groups.
func readable(t *testing.T, c *Cluster, id wire.StoreID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	for g := wire.GroupID(1); int(g) <= c.cfg.Groups; g++ {
		if _, err := c.ask(ctx, id, Request{Op: opState, Group: g, Timeout: settleTimeout}); err != nil {
			t.Fatalf("store %d, group %d: %v", id, g, err)
		}
	}
}
