package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"
)

// Files are the paths of certificates that another authority gives out, in PEM.
type Files struct {
	CA   string // certificates of the authorities that are trusted
	Cert string // this process's certificate, and what is between it and the authority
	Key  string // the key to it
}

// Given says whether any path is.
func (f Files) Given() bool { return f != Files{} }

// Validate reports what is missing.
func (f Files) Validate() error {
	if f.Given() && (f.CA == "" || f.Cert == "" || f.Key == "") {
		return errors.New("of --tls-ca, --tls-cert and --tls-key all three are needed, or none")
	}
	return nil
}

// Identity reads the files. Certificate and key are read again when the certificate's file has changed, so whoever renews
// them need not restart anything; the authorities are read once.
func (f Files) Identity(now func() time.Time) (*Identity, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	i := &Identity{roots: x509.NewCertPool(), now: now}
	if !i.roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", f.CA)
	}
	var read time.Time // modification time of what was read; guarded by the identity's lock
	i.local = func(held *tls.Certificate) (*tls.Certificate, error) {
		about, err := os.Stat(f.Cert)
		if err != nil {
			return nil, fmt.Errorf("look for a newer certificate: %w", err)
		}
		if held != nil && about.ModTime().Equal(read) {
			return held, nil
		}
		c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("read certificate %s with key %s: %w", f.Cert, f.Key, err)
		}
		if _, err := partyOf(c.Leaf); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", f.Cert, err)
		}
		read = about.ModTime()
		return &c, nil
	}
	if _, err := i.current(); err != nil {
		return nil, err
	}
	return i, nil
}
