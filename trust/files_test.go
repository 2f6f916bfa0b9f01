package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// write puts a fresh certificate of a role into a folder, as somebody else's tools would, with a time of its own.
func write(t *testing.T, a *Authority, dir string, role Role, stamp time.Time) Files {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.issue(public, Party{role, "own"})
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for path, b := range map[string]*pem.Block{
		f.CA: {Type: "CERTIFICATE", Bytes: a.root.Raw}, f.Key: {Type: "PRIVATE KEY", Bytes: pkcs8}, f.Cert: {Type: "CERTIFICATE", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestOwnCertificatesAreReadAgain(t *testing.T) {
	now := newClock()
	a := authority(t, secret, now)
	dir := t.TempDir()
	f := write(t, a, dir, Worker, now.now())
	i, err := f.Identity(now.now)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, identity(t, a, Coordinator).Server(Worker), nil)
	first, _ := i.current()
	if again, _ := i.current(); again != first || i.Party() != (Party{Worker, "own"}) {
		t.Errorf("got another certificate of an unchanged file, or %v", i.Party())
	}
	now.move(2 * Life)
	write(t, a, dir, Worker, now.now())
	if here, there := s.hello(t, i.Over(DialTCP, Coordinator)); here != nil || there != nil {
		t.Errorf("after the files were renewed: %v here, %v there", here, there)
	}
	if err := os.Remove(f.Cert); err != nil { // in the middle of being replaced: the last one still does
		t.Fatal(err)
	}
	if here, there := s.hello(t, i.Over(DialTCP, Coordinator)); here != nil || there != nil {
		t.Errorf("while the file is away: %v here, %v there", here, there)
	}
}

func TestFilesThatWillNotDo(t *testing.T) {
	now := newClock()
	a := authority(t, secret, now)
	dir := t.TempDir()
	f := write(t, a, dir, Worker, now.now())
	nobody := filepath.Join(dir, "nobody.pem")
	if err := os.WriteFile(nobody, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files Files
		want  string
	}{
		"no file":           {Files{CA: dir + "/none", Cert: f.Cert, Key: f.Key}, "no such file"},
		"no PEM":            {Files{CA: f.Key, Cert: f.Cert, Key: f.Key}, "holds no certificate"},
		"another's key":     {Files{CA: f.CA, Cert: nobody, Key: f.Key}, "does not match"},
		"a key for the two": {Files{CA: f.CA, Cert: f.Key, Key: f.Key}, "certificate"},
	} {
		if _, err := c.files.Identity(now.now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if err := (Files{CA: "x"}).Validate(); err == nil {
		t.Error("one of three files is enough")
	}
	if err := (Files{}).Validate(); err != nil || (Files{}).Given() {
		t.Errorf("no files got %v", err)
	}
	if _, err := partyOf(a.root); err != errNoRole {
		t.Errorf("a certificate without a role got %v", err)
	}
}
