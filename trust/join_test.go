package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// cluster is a coordinator with a desk.
func cluster(t *testing.T, c *clock) (*Authority, *station) {
	t.Helper()
	a := authority(t, secret, c)
	return a, serve(t, identity(t, a, Coordinator).ServerWithDesk(Coordinator, Worker), NewDesk(a))
}

func TestATokenBecomesACertificate(t *testing.T) {
	now := newClock()
	a, s := cluster(t, now)
	token, err := ParseToken(a.Token(Worker, time.Hour).Text())
	if err != nil {
		t.Fatal(err)
	}
	i, err := joiner(s, token, now).Enroll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := <-s.got; err != nil {
		t.Fatal(err)
	}
	if p := i.Party(); p != (Party{Worker, "joiner"}) {
		t.Errorf("got a certificate for %v", p)
	}
	if here, there := s.hello(t, i.Over(DialTCP, Coordinator)); here != nil || there != nil {
		t.Errorf("got %v here and %v there", here, there)
	}
}

func TestCertificatesAreRenewedForAsLongAsItRuns(t *testing.T) {
	now := newClock()
	a, s := cluster(t, now)
	i, err := joiner(s, a.Token(Worker, time.Hour), now).Enroll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-s.got
	for range 5 { // each time long after the token has expired
		if due, until := i.Due().Sub(now.now()), Life/2; due > until || due < until-time.Hour {
			t.Fatalf("due in %v, want in about %v", due, until)
		}
		now.move(Life * 3 / 4)
		before, _ := i.current()
		if err := i.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-s.got; err != nil {
			t.Fatal(err)
		}
		if after, _ := i.current(); after.Leaf.SerialNumber.Cmp(before.Leaf.SerialNumber) == 0 || i.Party() != (Party{Worker, "joiner"}) {
			t.Fatalf("the same certificate, or another party (%v)", i.Party())
		}
		if here, there := s.hello(t, i.Over(DialTCP, Coordinator)); here != nil || there != nil {
			t.Fatalf("got %v here and %v there", here, there)
		}
	}
	now.move(2 * Life)
	if err := i.Renew(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the token expired") {
		t.Errorf("renewing after its end got %v, want a refusal", err)
	}
	<-s.got
	if _, err := i.Over(DialTCP, Coordinator)(t.Context(), s.address); err == nil || !strings.Contains(err.Error(), "this side's certificate has expired") {
		t.Errorf("an expired certificate of its own got %v", err)
	}
}

// TestRunRenewsWhenDue lets Run see a certificate that is due already.
func TestRunRenewsWhenDue(t *testing.T) {
	now := newClock()
	a, s := cluster(t, now)
	i, err := joiner(s, a.Token(Worker, time.Hour), now).Enroll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-s.got
	now.move(Life * 3 / 4)
	before, _ := i.current()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); i.Run(ctx, func(err error) { t.Error(err) }) }()
	if err := <-s.got; err != nil {
		t.Error(err)
	}
	for { // the answer is on its way
		if after, _ := i.current(); after != before {
			break
		}
	}
	cancel()
	<-done
}

func TestWhatTheDeskRefuses(t *testing.T) {
	now := newClock()
	a, s := cluster(t, now)
	other := authority(t, secret+"!", now)
	good := a.Token(Worker, time.Hour)
	promoted := good
	promoted.Role = Coordinator
	prolonged := good
	prolonged.Expires = good.Expires.Add(time.Hour)
	guessed := good
	guessed.proof[3] ^= 1
	expired := a.Token(Worker, -time.Second)
	foreign := other.Token(Worker, time.Hour)
	for name, c := range map[string]struct {
		token Token
		want  string
	}{
		"a role that it was not made for": {promoted, "not of this cluster"},
		"a longer life":                   {prolonged, "not of this cluster"},
		"a guess":                         {guessed, "not of this cluster"},
		"an expired token":                {expired, "the token expired at"},
		"another cluster's":               {foreign, "belongs to another cluster than the token"},
	} {
		if _, err := joiner(s, c.token, now).Enroll(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s got %v, want %q", name, err, c.want)
		}
		<-s.got
	}
	// Somebody in the coordinator's place with a certificate of the same authority.
	fake := serve(t, identity(t, a, Worker).ServerWithDesk(Worker), NewDesk(a))
	if _, err := joiner(fake, good, now).Enroll(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no coordinator") {
		t.Errorf("a worker that plays coordinator got %v", err)
	}
}

// joinConn opens a connection for a join, without its question.
func joinConn(t *testing.T, s *station) *tls.Conn {
	t.Helper()
	conn, err := handshake(t.Context(), DialTCP, s.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{joinProtocol}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func TestAJoinCannotBeReplayed(t *testing.T) {
	now := newClock()
	a, s := cluster(t, now)
	token := a.Token(Worker, time.Hour)
	key, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	first := joinConn(t, s)
	q := question{Request: key, Claim: token.claim()}
	if q.Proof, err = prove(token.proof, first.ConnectionState(), key); err != nil {
		t.Fatal(err)
	}
	var ok, again answer
	if err := errors.Join(send(first, q), receive(first, &ok)); err != nil || ok.Certificate == nil {
		t.Fatalf("the first time got %v, %q", err, ok.Refusal)
	}
	second := joinConn(t, s)
	if err := errors.Join(send(second, q), receive(second, &again)); err != nil || again.Certificate != nil || !strings.Contains(again.Refusal, "not of this cluster") {
		t.Errorf("the same bytes on another connection got %v, %q and %d bytes", err, again.Refusal, len(again.Certificate))
	}
	// And on its own connection, for another key.
	stolen, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	third := joinConn(t, s)
	if q.Proof, err = prove(token.proof, third.ConnectionState(), key); err != nil {
		t.Fatal(err)
	}
	q.Request = stolen
	again = answer{}
	if err := errors.Join(send(third, q), receive(third, &again)); err != nil || again.Certificate != nil {
		t.Errorf("a proof of another request got %v and %d bytes", err, len(again.Certificate))
	}
}

func TestJoinsThatAreNone(t *testing.T) {
	now := newClock()
	a, s := cluster(t, now)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // where weak keys are not even made
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	fine, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]struct{ bytes, want string }{
		"too long":        {"\xff\xff\xff\xff", "is the most"},
		"no JSON":         {"\x00\x00\x00\x02no", "invalid character"},
		"half a message":  {"\x00\x00\x00\x20{", "unexpected EOF"},
		"no request":      {framed(question{Claim: a.Token(Worker, time.Hour).claim()}), "cannot be read"},
		"a weak key":      {framed(question{Request: request, Claim: a.Token(Worker, time.Hour).claim()}), "not Ed25519"},
		"no proof":        {framed(question{Request: fine, Claim: a.Token(Coordinator, time.Hour).claim()}), "not of this cluster"},
		"no token":        {framed(question{Request: fine}), "needs a token, or a certificate"},
		"a strange claim": {framed(question{Request: fine, Claim: []byte("worker")}), "not one of this version"},
	} {
		conn := joinConn(t, s)
		io.WriteString(conn, text.bytes)
		conn.CloseWrite()
		if err := <-s.got; err == nil || !strings.Contains(err.Error(), text.want) {
			t.Errorf("%s: the desk says %v, want %q", name, err, text.want)
		}
	}
}

// newRequest is a certificate request of a new key.
func newRequest() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

func framed(q question) string {
	var b bytes.Buffer
	if err := send(&b, q); err != nil {
		panic(err)
	}
	return b.String()
}

func TestASecondCoordinatorGetsTheSecret(t *testing.T) {
	now := newClock()
	a, s := cluster(t, now)
	got, err := joiner(s, a.Token(Coordinator, time.Hour), now).Secret(t.Context())
	if err != nil || got != secret {
		t.Errorf("a coordinator got %d characters, %v", len(got), err)
	}
	if got, err := joiner(s, a.Token(Worker, time.Hour), now).Secret(t.Context()); err == nil || got != "" {
		t.Errorf("a worker got %d characters of the secret, %v", len(got), err)
	}
	// A certificate of a coordinator is not to be had by renewing, as its secret would come with it.
	i := identity(t, a, Coordinator)
	held, _ := i.current()
	j := joiner(s, a.Token(Coordinator, time.Hour), now)
	if _, _, got, err := j.ask(t.Context(), s.address, held); !errors.Is(err, ErrRefused) || got != "" {
		t.Errorf("renewing a coordinator's got %v", err)
	}
}

func TestJoinsAreLimited(t *testing.T) {
	now := newClock()
	l := newLimiter(now.now)
	count := func(host string) (n int) {
		for range 10 * joinBurst {
			if l.allow(host) {
				n++
			}
		}
		return n
	}
	if n := count("a"); n != joinBurst {
		t.Errorf("%d at once, want %d", n, joinBurst)
	}
	if n := count("b"); n != joinBurst {
		t.Errorf("another address has %d, want %d", n, joinBurst)
	}
	now.move(time.Second)
	if n := count("a"); n != joinPerSecond {
		t.Errorf("%d a second later, want %d", n, joinPerSecond)
	}
	now.move(-time.Hour) // a clock that is set back gives nothing away
	if n := count("a"); n != 0 {
		t.Errorf("%d after the clock was set back", n)
	}
	now.move(2 * time.Hour)
	for i := range 3 * mostAddresses {
		l.allow(fmt.Sprint(i))
	}
	if len(l.hosts) > mostAddresses+1 {
		t.Errorf("%d addresses are remembered, want %d at most", len(l.hosts), mostAddresses)
	}
}

func TestABusyDeskSaysSo(t *testing.T) {
	now := newClock()
	a := authority(t, secret, now)
	desk := NewDesk(a)
	s := serve(t, identity(t, a, Coordinator).ServerWithDesk(Worker), desk)
	for desk.limit.allow("127.0.0.1") {
	}
	ctx, cancel := context.WithCancel(t.Context())
	j := joiner(s, a.Token(Worker, time.Hour), now)
	j.Trouble = func(err error) {
		if errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "too many joins") {
			t.Errorf("got %v, want one that may pass", err)
		}
		now.move(time.Second)
	}
	if _, err := j.Enroll(ctx); err != nil { // the second time there is room
		t.Error(err)
	}
	cancel()
}

func TestTokens(t *testing.T) {
	now := newClock()
	a := authority(t, secret, now)
	for _, r := range Roles() {
		want := a.Token(r, time.Hour)
		got, err := ParseToken(want.Text())
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v", r, got, err)
		}
	}
	token := a.Token(Worker, time.Hour)
	text := token.Text()
	for name, bad := range map[string]string{
		"half": text[:len(text)/2], "nothing": "", "no prefix": text[4:], "not base64": tokenPrefix + "!!!!", "longer": text + "AAAA",
		"a role of tomorrow": tokenPrefix + base64.RawURLEncoding.EncodeToString(append([]byte{9}, make([]byte, claimSize-1+sha256.Size+16)...)),
	} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrToken) || len(bad) > 4 && strings.Contains(err.Error(), bad) {
			t.Errorf("%s: got %v, want ErrToken without the text", name, err)
		}
	}
	body := strings.TrimPrefix(text, tokenPrefix)
	for _, said := range []string{fmt.Sprint(token), fmt.Sprintf("%+v %#v", token, token), fmt.Sprintf("%v %#v", a, a)} {
		if strings.Contains(said, secret) || strings.Contains(said, body[len(body)-20:]) || strings.Contains(said, fmt.Sprint(token.proof)) {
			t.Errorf("%q shows a secret", said)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"node-7/cuda:1": "node-7_cuda:1", "": "unnamed", "a\nb": "a_b", "../../etc": ".._.._etc", strings.Repeat("x", 1000): strings.Repeat("x", maxName),
	} {
		got := Party{Worker, name}.clean()
		if got.Name != want {
			t.Errorf("%q became %q, want %q", name, got.Name, want)
		}
	}
}
