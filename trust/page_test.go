package trust

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"
)

// A browser that was told of a cluster's certificate knows its pages under their names, and no other's.
func TestBrowsersKnowAPage(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	authority := func(secret string) *Authority {
		a, err := NewAuthority(secret, clock)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ours := authority("the secret of a cluster of tests")
	page, err := ours.Page([]string{"gpu7.example", "10.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	visit := func(host string, a *Authority) error {
		text, err := a.PageCA()
		if err != nil {
			t.Fatal(err)
		}
		known := x509.NewCertPool()
		if !known.AppendCertsFromPEM(text) {
			t.Fatalf("no certificate in %q", text)
		}
		here, there := net.Pipe()
		defer here.Close()
		defer there.Close()
		server := tls.Server(there, page.Public())
		go server.Handshake()
		return tls.Client(here, &tls.Config{ServerName: host, RootCAs: known, Time: clock}).HandshakeContext(t.Context())
	}
	again := authority("the secret of a cluster of tests") // another process of the cluster, or its next life
	for _, host := range []string{"gpu7.example", "10.0.0.1", "::1"} {
		if err := visit(host, again); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := visit("gpu8.example", ours); err == nil {
		t.Error("another name was taken for the page's")
	}
	if err := visit("gpu7.example", authority("the secret of another cluster")); err == nil {
		t.Error("another cluster's page was taken for this one's")
	}
	before := page.Fingerprint()
	now = now.Add(pageLife / 3)
	if page.Fingerprint() != before || len(strings.Fields(before)) != 32 {
		t.Errorf("the certificate %q is replaced early", before)
	}
	now = now.Add(pageLife)
	if page.Fingerprint() == before {
		t.Error("the certificate is not replaced")
	}
	if err := visit("gpu7.example", ours); err != nil {
		t.Errorf("with the next certificate: %v", err)
	}
}
