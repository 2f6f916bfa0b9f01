package nats

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	client "github.com/nats-io/nats.go"
)

// ErrConfig is in the chain of every error that a configuration causes: trying again as it is does not help.
var ErrConfig = errors.New("bad NATS configuration")

// Credentials are what a NATS server asks for; the zero value is nothing. Nothing of them but the user's name and the
// file's is ever printed. At most one of User, Token and File is set.
type Credentials struct {
	User     string // with Password
	Password string
	Token    string
	File     string // path of a .creds file
}

// Validate reports what is wrong with c, as an ErrConfig.
func (c Credentials) Validate() error {
	set := 0
	for _, s := range []string{c.User, c.Token, c.File} {
		if s != "" {
			set++
		}
	}
	switch {
	case set > 1:
		return fmt.Errorf("%w: more than one of user, token and credentials file is given", ErrConfig)
	case c.User == "" && c.Password != "":
		return fmt.Errorf("%w: a password without a user", ErrConfig)
	}
	if c.File != "" {
		if _, err := os.ReadFile(c.File); err != nil {
			return fmt.Errorf("%w: read credentials file: %w", ErrConfig, err)
		}
	}
	return nil
}

// String says which kind of credentials c is, without secrets.
func (c Credentials) String() string {
	switch {
	case c.User != "":
		return "user " + c.User
	case c.Token != "":
		return "a token"
	case c.File != "":
		return "file " + c.File
	}
	return "none"
}

// GoString is String, so that %#v shows no secrets either.
func (c Credentials) GoString() string { return c.String() }

// LogValue is String for slog.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// options are what a connection needs to show c.
func (c Credentials) options() []client.Option {
	switch {
	case c.User != "":
		return []client.Option{client.UserInfo(c.User, c.Password)}
	case c.Token != "":
		return []client.Option{client.Token(c.Token)}
	case c.File != "":
		return []client.Option{client.UserCredentials(c.File)}
	}
	return nil
}

// checkURL refuses what is no list of NATS addresses. Its errors show no password.
func checkURL(list string) error {
	if strings.TrimSpace(list) == "" {
		return fmt.Errorf("%w: no URL is given, like nats://host:4222", ErrConfig)
	}
	for _, one := range strings.Split(list, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" {
			return fmt.Errorf("%w: %q is no URL like nats://host:4222", ErrConfig, redact(one))
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return fmt.Errorf("%w: %q begins with none of nats://, tls://, ws://, wss://", ErrConfig, redact(one))
		}
	}
	return nil
}

// redact is a list of URLs without what stands before an @.
func redact(list string) string {
	parts := strings.Split(list, ",")
	for i, one := range parts {
		one = strings.TrimSpace(one)
		if at := strings.LastIndexByte(one, '@'); at >= 0 {
			scheme, _, ok := strings.Cut(one, "://")
			if !ok || strings.ContainsAny(scheme, ":@") {
				scheme = "nats"
			}
			one = scheme + "://" + one[at+1:]
		}
		parts[i] = one
	}
	return strings.Join(parts, ",")
}
