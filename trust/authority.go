package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// ErrSecret is returned by NewAuthority for a secret that somebody could guess.
var ErrSecret = errors.New("a cluster's secret needs 16 characters or more: whoever reaches a coordinator could try shorter ones at home")

// Life is how long a certificate lasts. It is renewed from half of that on.
const Life = 24 * time.Hour

// early is how long before its making a certificate is already good: clocks differ.
const early = 10 * time.Minute

// shortest is the length of the shortest secret that makes an authority.
const shortest = 16

// stretching is how often a guess at a secret has to be hashed.
const stretching = 200_000

// NewSecret draws a cluster's secret: 256 bits.
func NewSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// Authority signs a cluster's certificates and knows its join tokens. Both follow from the secret: whoever is given the same
// secret is the same authority, without a word between the two. Safe for concurrent use.
type Authority struct {
	key      ed25519.PrivateKey
	root     *x509.Certificate
	tokenKey []byte
	pageKey  *ecdsa.PrivateKey
	secret   string
	now      func() time.Time
}

// NewAuthority makes the authority of a secret; now is its clock.
func NewAuthority(secret string, now func() time.Time) (*Authority, error) {
	if len(secret) < shortest {
		return nil, ErrSecret
	}
	a := &Authority{secret: secret, now: now}
	master, err := pbkdf2.Key(sha256.New, secret, []byte("mp cluster 1"), stretching, 32)
	if err != nil {
		return nil, fmt.Errorf("stretch the cluster's secret: %w", err)
	}
	seed, err := hkdf.Expand(sha256.New, master, "certificate authority", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the authority's key: %w", err)
	}
	if a.tokenKey, err = hkdf.Expand(sha256.New, master, "join tokens", sha256.Size); err != nil {
		return nil, fmt.Errorf("derive the key of join tokens: %w", err)
	}
	a.key = ed25519.NewKeyFromSeed(seed)
	if a.pageKey, err = pageKeyOf(master); err != nil {
		return nil, err
	}
	// Nothing here may differ from one maker to the next: a token pins the certificate's hash.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mp cluster"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	return a, nil
}

// String hides the secret.
func (a *Authority) String() string { return fmt.Sprintf("authority %x", a.fingerprint()) }

// GoString is String, so that %#v shows no secret either.
func (a *Authority) GoString() string { return a.String() }

func (a *Authority) fingerprint() [sha256.Size]byte { return sha256.Sum256(a.root.Raw) }

func (a *Authority) roots() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.root)
	return p
}

// issue signs a certificate that says that whoever has the key to public is p.
func (a *Authority) issue(public crypto.PublicKey, p Party) ([]byte, error) {
	p = p.clean()
	now := a.now()
	template := &x509.Certificate{
		SerialNumber: serialNumber(), Subject: pkix.Name{CommonName: p.Name, OrganizationalUnit: []string{string(p.Role)}},
		NotBefore: now.Add(-early), NotAfter: now.Add(Life), URIs: []*url.URL{p.uri()},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if p.Role.serves() {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", p, err)
	}
	return der, nil
}

func serialNumber() *big.Int {
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] &= 0x7f
	return new(big.Int).SetBytes(serial)
}

// Identity is that of a process which knows the secret: it signs its own certificates.
func (a *Authority) Identity(p Party) (*Identity, error) {
	i := &Identity{roots: a.roots(), now: a.now}
	i.local = func(held *tls.Certificate) (*tls.Certificate, error) {
		if held != nil && a.now().Before(dueAt(held.Leaf)) {
			return held, nil
		}
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		der, err := a.issue(public, p)
		if err != nil {
			return nil, err
		}
		return certificate(der, a.root.Raw, key)
	}
	if _, err := i.current(); err != nil {
		return nil, err
	}
	return i, nil
}

// certificate puts a key and what was signed for it together.
func certificate(der, root []byte, key crypto.PrivateKey) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read a certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, root}, PrivateKey: key, Leaf: leaf}, nil
}

// dueAt is when a certificate should be renewed: half of its life is over.
func dueAt(c *x509.Certificate) time.Time { return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2) }
