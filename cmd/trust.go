package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"mp/job"
	"mp/trust"
)

// Words of --tls.
const (
	tlsAuto = "auto"
	tlsOn   = "on"
	tlsOff  = "off"
)

// trustFlags are how a process of a cluster shows who it is, and whom it believes.
type trustFlags struct {
	token string
	tls   string
	files trust.Files
}

func (f *trustFlags) add(flags *pflag.FlagSet, token string) {
	flags.StringVar(&f.token, "token", "", token)
	flags.StringVar(&f.tls, "tls", tlsAuto, "auto, on or off: speak TLS with certificates on both sides; auto: where anything is reached from another machine, or a join token is given")
	flags.StringVar(&f.files.CA, "tls-ca", "", "certificate of your own authority, instead of a token; its certificates say spiffe://DOMAIN/ROLE/NAME, see SECURITY.md; empty: none")
	flags.StringVar(&f.files.Cert, "tls-cert", "", "certificate that your authority gave this process; it is read again when it changes; empty: none")
	flags.StringVar(&f.files.Key, "tls-key", "", "key to --tls-cert; empty: none")
}

// tokenHelp says what --token is for whoever joins.
const tokenHelp = "what lets this process in: a join token, as a coordinator prints it or mp token makes it, or the cluster's secret; empty: none"

// wanted says whether to speak TLS, given where this process listens and whom it connects to.
func (f trustFlags) wanted(addresses ...string) (bool, error) {
	if err := f.files.Validate(); err != nil {
		return false, fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	given := f.files.Given() || trust.IsToken(f.token)
	switch f.tls {
	case tlsOn:
		return true, nil
	case tlsOff:
		if given {
			return false, fmt.Errorf("%w: --tls off, and a join token or certificate for TLS: leave one of them out", job.ErrConfig)
		}
		return false, nil
	case tlsAuto, "": // not from a command line
		return given || slices.ContainsFunc(addresses, beyond), nil
	}
	return false, fmt.Errorf("%w: --tls %q: choose auto, on or off", job.ErrConfig, f.tls)
}

// beyond says whether an address is one that other machines reach.
func beyond(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip := net.ParseIP(host)
	return host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// secret is the token that calls show: with certificates, none.
func (f trustFlags) secret(i *trust.Identity) string {
	if i != nil {
		return ""
	}
	return f.token
}

// shared is the cluster's secret, where --token is that.
func (f trustFlags) shared() string {
	if trust.IsToken(f.token) {
		return ""
	}
	return f.token
}

// identity is who this process is for the coordinators at some addresses, in one of the roles that would do; nil without TLS.
// Also is where else it is reached or listens. It asks until ctx ends; trouble is told why it takes long, and may be nil.
func (f trustFlags) identity(ctx context.Context, name string, coordinators, also []string, trouble func(error), roles ...trust.Role) (*trust.Identity, error) {
	secure, err := f.wanted(append(slices.Clone(coordinators), also...)...)
	if err != nil || !secure {
		return nil, err
	}
	where := strings.Join(coordinators, ", ")
	switch {
	case f.files.Given():
		i, err := f.files.Identity(time.Now)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", job.ErrConfig, err)
		}
		return i, fits(i.Party().Role, "--tls-cert", roles)
	case f.token == "":
		return nil, fmt.Errorf("%w: between machines mp speaks TLS: give --token, which the coordinator at %s printed or mp token makes there", job.ErrConfig, where)
	case trust.IsToken(f.token):
		t, err := trust.ParseToken(f.token)
		if err != nil {
			return nil, fmt.Errorf("%w: --token: %w", job.ErrConfig, err)
		}
		if err := fits(t.Role, "--token", roles); err != nil {
			return nil, err
		}
		i, err := trust.Joiner{Token: t, Name: name, Addresses: coordinators, Dial: trust.DialTCP, Now: time.Now, Trouble: trouble}.Enroll(ctx)
		if errors.Is(err, trust.ErrRefused) {
			err = fmt.Errorf("%w: %w", job.ErrConfig, err)
		}
		return i, err
	}
	a, err := trust.NewAuthority(f.token, time.Now)
	if err != nil {
		return nil, fmt.Errorf("%w: --token: %w", job.ErrConfig, err)
	}
	return a.Identity(trust.Party{Role: roles[0], Name: name})
}

// fits refuses what is for another role than is needed.
func fits(role trust.Role, flag string, roles []trust.Role) error {
	if slices.Contains(roles, role) {
		return nil
	}
	return fmt.Errorf("%w: %s is for a %s, and this needs one for a %s: mp token --role %s, where a coordinator runs", job.ErrConfig, flag, role, roles[0], roles[0])
}

// renewed keeps an identity's certificate fresh until stop is called; who may be nil.
func renewed(who *trust.Identity, log *slog.Logger) (stop func()) {
	if who == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		who.Run(ctx, func(err error) { log.Warn("the certificate could not be renewed; trying on", "reason", err) })
	})
	return func() {
		cancel()
		running.Wait()
	}
}
