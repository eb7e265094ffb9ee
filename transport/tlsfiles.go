package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// reloadEvery is how often TLSFiles looks at its files at most: a flood of
// connections must not become a flood of reads.
const reloadEvery = time.Second

// TLSFiles is a provider for [TCPConfig].TLS that reads PEM files and notices
// when they change: give its Config method. New connections use what is in the
// files within a second; those that exist keep what they began with.
//
// Files may be replaced one after the other. Until they fit together again, what
// was read last stays in use.
type TLSFiles struct {
	// Certificate is the store's certificate followed by intermediates, Key its
	// private key, and Authorities the certificates that peers are verified by.
	Certificate, Key, Authorities string
	// Failed, when not nil, is told why changed files cannot be used. It is called
	// for each look at them, and must not call Config.
	Failed func(err error)

	now func() time.Time // nil means time.Now

	mu     sync.Mutex // guards the fields below
	looked time.Time
	read   [3][]byte // what config was made of
	config *tls.Config
}

// Config returns what the files hold, or held last when they cannot be used.
// What it returns must not be changed.
func (f *TLSFiles) Config() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now
	if f.now != nil {
		now = f.now
	}
	at := now()
	if f.config != nil && at.Sub(f.looked) < reloadEvery {
		return f.config, nil
	}
	f.looked = at
	err := f.reloadLocked()
	if f.config == nil {
		return nil, err
	}
	if err != nil && f.Failed != nil {
		f.Failed(err)
	}
	return f.config, nil
}

func (f *TLSFiles) reloadLocked() error {
	var read [3][]byte
	same := f.config != nil
	for i, name := range []string{f.Certificate, f.Key, f.Authorities} {
		content, err := os.ReadFile(name) // #nosec G304 -- named by the configuration
		if err != nil {
			return err
		}
		read[i] = content
		same = same && bytes.Equal(content, f.read[i])
	}
	if same {
		return nil
	}
	pair, err := tls.X509KeyPair(read[0], read[1])
	if err != nil {
		return fmt.Errorf("%s, %s: %w", f.Certificate, f.Key, err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(read[2]) {
		return fmt.Errorf("%s: %w", f.Authorities, errNoCertificate)
	}
	f.read = read
	f.config = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{pair},
		RootCAs:      authorities,
		ClientCAs:    authorities,
	}
	return nil
}

var errNoCertificate = errors.New("holds no certificate")
