package trust

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// tokenPrefix begins every join token, and no secret that is taken for one.
const tokenPrefix = "mp1_"

// ErrToken is in the chain of what ParseToken returns.
var ErrToken = errors.New("bad join token")

// Token lets whoever has it get certificates of one role until it expires. It pins the authority, so that nobody else can
// answer in its place, and proves itself without being sent. Nothing is kept of it: every holder of the cluster's secret can
// make one and check one.
type Token struct {
	Role    Role
	Expires time.Time // whole seconds

	id          [8]byte
	fingerprint [sha256.Size]byte // of the authority's certificate
	proof       [16]byte          // follows from the above and the cluster's secret
}

// Token makes a join token for a role.
func (a *Authority) Token(role Role, validFor time.Duration) Token {
	t := Token{Role: role, Expires: time.Unix(a.now().Add(validFor).Unix(), 0), fingerprint: a.fingerprint()}
	rand.Read(t.id[:])
	t.proof = a.proofOf(t)
	return t
}

// claim is what of a token may be sent.
func (t Token) claim() []byte {
	b := []byte{byte(slices.Index(Roles(), t.Role))}
	b = binary.BigEndian.AppendUint32(b, uint32(t.Expires.Unix()))
	return append(b, t.id[:]...)
}

const claimSize = 1 + 4 + 8

// parseClaim is the reverse of claim.
func parseClaim(b []byte) (Token, error) {
	if len(b) != claimSize || int(b[0]) >= len(Roles()) {
		return Token{}, fmt.Errorf("%w: it is not one of this version of mp", ErrToken)
	}
	t := Token{Role: Roles()[b[0]], Expires: time.Unix(int64(binary.BigEndian.Uint32(b[1:])), 0)}
	copy(t.id[:], b[5:])
	return t, nil
}

// proofOf is the secret part of a token.
func (a *Authority) proofOf(t Token) (p [16]byte) {
	m := hmac.New(sha256.New, a.tokenKey)
	m.Write(t.claim())
	copy(p[:], m.Sum(nil))
	return p
}

// Text is what a person pastes. It is a secret until the token expires.
func (t Token) Text() string {
	b := append(t.claim(), t.fingerprint[:]...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, t.proof[:]...))
}

// String hides the secret.
func (t Token) String() string {
	return fmt.Sprintf("a token for a %s, until %s", t.Role, t.Expires.UTC().Format(time.DateTime))
}

// GoString is String, so that %#v shows no secret either.
func (t Token) GoString() string { return t.String() }

// IsToken tells a join token from a cluster's secret.
func IsToken(text string) bool { return strings.HasPrefix(text, tokenPrefix) }

// ParseToken reads Text. Its error, an ErrToken, does not repeat it.
func ParseToken(text string) (Token, error) {
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	b, err := base64.RawURLEncoding.DecodeString(rest)
	if !ok || err != nil || len(b) != claimSize+sha256.Size+16 {
		return Token{}, fmt.Errorf("%w: it is damaged or only a part of one: paste the whole word that begins with %s", ErrToken, tokenPrefix)
	}
	t, err := parseClaim(b[:claimSize])
	copy(t.fingerprint[:], b[claimSize:])
	copy(t.proof[:], b[claimSize+sha256.Size:])
	return t, err
}
