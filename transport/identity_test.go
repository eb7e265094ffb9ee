package transport

import (
	"crypto/x509"
	"errors"
	"math"
	"net/url"
	"testing"

	"multiraft/internal/allocs"
	"multiraft/internal/testca"
)

func TestParseIdentity(t *testing.T) {
	good := map[string]identity{
		"multiraft://cluster/7/store/1":                                       {7, 1},
		"multiraft://cluster/0/store/0":                                       {0, 0},
		"multiraft://cluster/18446744073709551615/store/18446744073709551615": {math.MaxUint64, math.MaxUint64},
	}
	for uri, want := range good {
		if got, ok := parseIdentity(uri); !ok || got != want {
			t.Errorf("%s: %+v, %v", uri, got, ok)
		}
	}
	bad := []string{
		"", "multiraft://", "multiraft://cluster/7", "multiraft://cluster/7/store/", "multiraft://cluster//store/1",
		"multiraft://cluster/7/store/1/", "multiraft://cluster/7/store/1?x=2", "multiraft://cluster/7/store/1#2",
		"multiraft://cluster/07/store/1", "multiraft://cluster/7/store/01", "multiraft://cluster/7/store/+1",
		"multiraft://cluster/7/store/-1", "multiraft://cluster/7/store/0x1", "multiraft://cluster/7/store/1_0",
		"multiraft://cluster/7/store/18446744073709551616", "multiraft://cluster/7/store/1/store/2",
		"multiraft://Cluster/7/store/1", "multiraft://u@cluster/7/store/1", "multiraft://cluster:1/7/store/1",
		"Multiraft://cluster/7/store/1", "spiffe://cluster/7/store/1", "multiraft://cluster/7/store/%31",
	}
	for _, uri := range bad {
		if got, ok := parseIdentity(uri); ok {
			t.Errorf("%s passes as %+v", uri, got)
		}
	}
}

// A certificate must name one store, whatever else it names.
func TestIdentityOfCertificate(t *testing.T) {
	ca := testca.New(t)
	one, two := StoreURI(testCluster, 1), StoreURI(testCluster, 2)
	cases := map[string]struct {
		uris []string
		ok   bool
	}{
		"one":           {[]string{one}, true},
		"one and other": {[]string{"spiffe://example/x", one}, true},
		"none":          {nil, false},
		"other":         {[]string{"spiffe://example/x"}, false},
		"two":           {[]string{one, two}, false},
		"twice":         {[]string{one, one}, false},
		"one bad":       {[]string{one, "multiraft://cluster/7/store/x"}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			pair := ca.Issue(one, func(template *x509.Certificate) {
				template.URIs = nil
				for _, uri := range c.uris {
					template.URIs = append(template.URIs, testca.URL(t, uri))
				}
			})
			id, err := identityOf(pair.Leaf)
			var fault *CertificateError
			switch {
			case c.ok && (err != nil || id != identity{testCluster, 1}):
				t.Errorf("%v, %v", id, err)
			case !c.ok && !errors.As(err, &fault):
				t.Errorf("%v, %v; want a *CertificateError", id, err)
			}
		})
	}
}

// What passes for a name has no second spelling, also not after a certificate
// has had its way with it.
func FuzzParseIdentity(f *testing.F) {
	for _, uri := range []string{"multiraft://cluster/7/store/1", "multiraft://cluster/07/store/1", "multiraft://cluster/7/store/%31"} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		var id identity
		var ok bool
		allocs.AtMost(t, 1<<10, func() { id, ok = parseIdentity(uri) }) // numbers, and the error of one
		if !ok {
			return
		}
		if StoreURI(id.cluster, id.store) != uri {
			t.Errorf("%q passes as %v", uri, id)
		}
		if u, err := url.Parse(uri); err != nil || u.String() != uri {
			t.Errorf("%q comes out of a certificate as %q, %v", uri, u, err)
		}
	})
}
