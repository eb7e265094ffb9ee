// Package testca makes certificate authorities and certificates for tests: in
// memory, of this minute, and trusted by nobody else.
//
//	ca := testca.New(t)
//	cfg.TLS = ca.Provider(transport.StoreURI(7, 1))
package testca
