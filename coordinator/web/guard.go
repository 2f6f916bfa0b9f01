package web

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// policy lets a page load what this server embeds and nothing else; no script or style stands inside a page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'"

// guard refuses what must not be answered, and says how browsers have to treat the rest.
func (s *Server) guard(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusForbidden, "only a page of this server may ask for that")
	}))
	return cross.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		secret := strings.HasPrefix(r.URL.Path, "/api/") && r.URL.Path != "/api/login"
		switch {
		case s.cfg.Token == "" && !isThisMachine(r.Host):
			// Otherwise a page of any site could give its own name this machine's address and read and steer runs.
			fail(w, http.StatusForbidden, "%s is no name of this machine: open the page as localhost, or start mp with --token", r.Host)
		case secret && !s.login.knows(r):
			fail(w, http.StatusUnauthorized, "the cluster has a secret: give its token")
		default:
			next.ServeHTTP(w, r)
		}
	}))
}

// isThisMachine says whether a Host header names the machine that asks.
func isThisMachine(hostPort string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	if host = strings.Trim(host, "[]"); host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// login is who knows the secret. The cookie is made of it, so that it outlives this process, and does not tell it.
type login struct {
	token        string
	name, cookie string

	mu     sync.Mutex
	failed time.Time // when somebody last gave a wrong token
}

func newLogin(token string) *login {
	mark := func(what string) string {
		m := hmac.New(sha256.New, []byte(token))
		m.Write([]byte("mp web page " + what))
		return hex.EncodeToString(m.Sum(nil))
	}
	return &login{token: token, name: "mp-" + mark("name")[:8], cookie: mark("session")} // a name a cluster: ports share cookies
}

// knows says whether a request shows the secret, or none is asked for.
func (l *login) knows(r *http.Request) bool {
	if l.token == "" {
		return true
	}
	if word, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return same(word, l.token)
	}
	c, err := r.Cookie(l.name)
	return err == nil && same(c.Value, l.cookie)
}

func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b)) // equal lengths: nothing is learnt from the time it takes
	return hmac.Equal(x[:], y[:])
}

// betweenTries is how long nobody is let in after a wrong token.
const betweenTries = 500 * time.Millisecond

// serveLogin gives who knows the secret a cookie.
func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	l := s.login
	if l.token == "" {
		reply(w, struct{}{})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 1<<12)
	word := r.PostFormValue("token")
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case time.Since(l.failed) < betweenTries:
		fail(w, http.StatusTooManyRequests, "too many tries: wait a second")
	case !same(word, l.token):
		l.failed = time.Now()
		fail(w, http.StatusForbidden, "that is not the cluster's token")
	default:
		http.SetCookie(w, &http.Cookie{Name: l.name, Value: l.cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
			MaxAge: 30 * 24 * 3600})
		reply(w, struct{}{})
	}
}
