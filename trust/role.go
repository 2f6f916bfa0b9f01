package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Role is what a certificate lets its holder do.
type Role string

// The roles. A coordinator may do what anybody may; a viewer only looks.
const (
	Coordinator Role = "coordinator"
	Worker      Role = "worker"
	Client      Role = "client"
	Viewer      Role = "viewer"
)

// Roles lists them all. A token names one by its index: append only.
func Roles() []Role { return []Role{Coordinator, Worker, Client, Viewer} }

// serves says whether others connect to a role.
func (r Role) serves() bool { return r == Coordinator || r == Worker }

// Party is who a certificate speaks for.
type Party struct {
	Role Role
	Name string // for people
}

func (p Party) String() string { return fmt.Sprintf("%s %q", p.Role, p.Name) }

// maxName bounds what a party calls itself.
const maxName = 128

// clean makes a name one that certificates and logs can carry.
func (p Party) clean() Party {
	name := strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && !strings.ContainsRune(`"\/?#%`, r) {
			return r
		}
		return '_'
	}, p.Name)
	if name == "" {
		name = "unnamed"
	}
	return Party{p.Role, name[:min(len(name), maxName)]}
}

// uri is where a certificate says who it speaks for, in the form that SPIFFE gives such names.
func (p Party) uri() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "mp", Path: "/" + string(p.Role) + "/" + p.Name}
}

// errNoRole is in the chain of what partyOf returns for a certificate that names no role.
var errNoRole = errors.New("the certificate names no role: one of its URIs must be spiffe://DOMAIN/ROLE/NAME, with coordinator, worker, client or viewer as the role")

// partyOf reads who a certificate speaks for.
func partyOf(c *x509.Certificate) (Party, error) {
	for _, u := range c.URIs {
		role, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if u.Scheme == "spiffe" && slices.Contains(Roles(), Role(role)) {
			return Party{Role(role), name}.clean(), nil
		}
	}
	return Party{}, errNoRole
}
