package transport

import (
	"crypto/x509"
	"strconv"
	"strings"

	"multiraft/wire"
)

// A certificate speaks for one store of one cluster, by one URI among its
// subject alternative names:
//
//	multiraft://cluster/7/store/1
//
// Numbers are decimal without leading zeros, so that each store has one
// spelling.
const (
	identityScheme  = "multiraft://"
	identityCluster = identityScheme + "cluster/"
	identityStore   = "/store/"
	// maxURI is the length of the longest name that a store can have.
	maxURI = len(identityCluster) + len("18446744073709551615") + len(identityStore) + len("18446744073709551615")
)

// identity is a store as its certificate names it.
type identity struct {
	cluster uint64
	store   wire.StoreID
}

func (id identity) String() string { return StoreURI(id.cluster, id.store) }

// StoreURI returns the subject alternative name that a certificate needs to
// speak for a store.
func StoreURI(cluster uint64, store wire.StoreID) string {
	return identityCluster + strconv.FormatUint(cluster, 10) + identityStore + strconv.FormatUint(uint64(store), 10)
}

// parseIdentity is the inverse of StoreURI. Anything else is not ok.
func parseIdentity(uri string) (id identity, ok bool) {
	rest, ok := strings.CutPrefix(uri, identityCluster)
	if !ok || len(uri) > maxURI {
		return id, false // the error of a number would be as long as the number
	}
	first, second, ok := strings.Cut(rest, identityStore)
	if !ok {
		return id, false
	}
	cluster, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		return id, false
	}
	store, err := strconv.ParseUint(second, 10, 64)
	if err != nil {
		return id, false
	}
	id = identity{cluster, wire.StoreID(store)}
	return id, id.String() == uri
}

// identityOf reads the store out of a certificate. A certificate that names none
// or several is a *CertificateError: whoever holds it must not pick.
func identityOf(cert *x509.Certificate) (identity, error) {
	var names []string
	for _, u := range cert.URIs {
		if s := u.String(); strings.HasPrefix(s, identityScheme) {
			names = append(names, s)
		}
	}
	if len(names) == 1 {
		if id, ok := parseIdentity(names[0]); ok {
			return id, nil
		}
	}
	return identity{}, &CertificateError{Got: names}
}
