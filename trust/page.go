package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Web pages have an authority of their own beside the cluster's: browsers know no Ed25519, and look for the name in the address
// instead of a role. It follows from the secret as well, so a browser that was told of it knows every page of the cluster.

// pageLife is how long a page's certificate lasts.
const pageLife = 90 * 24 * time.Hour

// pageKeyOf derives the key of the pages' authority.
func pageKeyOf(master []byte) (*ecdsa.PrivateKey, error) {
	for try := range 4 { // one number in four thousand million is no key
		seed, err := hkdf.Expand(sha256.New, master, fmt.Sprintf("authority of web pages %d", try), 32)
		if err != nil {
			return nil, fmt.Errorf("derive the key of web pages: %w", err)
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed); err == nil {
			return key, nil
		}
	}
	panic("trust: four numbers in a row are no keys")
}

// pageRoot is the certificate of the pages' authority.
func (a *Authority) pageRoot() (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprintf("mp pages %x", a.fingerprint())[:17]},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.pageKey.Public(), a.pageKey)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of web pages: %w", err)
	}
	return x509.ParseCertificate(der)
}

// PageCA is the certificate, in PEM, by which a browser knows the pages of this cluster.
func (a *Authority) PageCA() ([]byte, error) {
	root, err := a.pageRoot()
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), nil
}

// Page is who a web page is that browsers reach under some names or addresses of hosts. Use Public of it, and nothing else.
func (a *Authority) Page(hosts []string) (*Identity, error) {
	root, err := a.pageRoot()
	if err != nil {
		return nil, err
	}
	i := &Identity{now: a.now}
	i.local = func(held *tls.Certificate) (*tls.Certificate, error) {
		if held != nil && a.now().Before(dueAt(held.Leaf)) {
			return held, nil
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		template := &x509.Certificate{
			SerialNumber: serialNumber(), Subject: pkix.Name{CommonName: "mp"}, NotBefore: a.now().Add(-early), NotAfter: a.now().Add(pageLife),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		}
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				template.IPAddresses = append(template.IPAddresses, ip)
			} else {
				template.DNSNames = append(template.DNSNames, h)
			}
		}
		der, err := x509.CreateCertificate(rand.Reader, template, root, key.Public(), a.pageKey)
		if err != nil {
			return nil, fmt.Errorf("sign a web page's certificate: %w", err)
		}
		return certificate(der, root.Raw, key)
	}
	_, err = i.current()
	return i, err
}

// Public is the configuration for accepting connections of anybody, who then shows a password or nothing at all.
func (i *Identity) Public() *tls.Config {
	c := i.base()
	c.GetClientCertificate = nil
	return c
}

// Fingerprint is the SHA-256 of the certificate that is shown now, as browsers write it.
func (i *Identity) Fingerprint() string {
	c, err := i.current()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("% X", sha256.Sum256(c.Leaf.Raw))
}
