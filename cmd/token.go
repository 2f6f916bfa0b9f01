package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/coordinator"
	"mp/job"
	"mp/trust"
)

// longestToken bounds --valid.
const longestToken = 10 * 365 * 24 * time.Hour

// tokenMade is what `mp token --json` prints.
type tokenMade struct {
	Token   string    `json:"token"`
	Role    string    `json:"role"`
	Expires time.Time `json:"expires"`
}

// newTokenCommand returns `mp token`.
func newTokenCommand(e *env) *cobra.Command {
	var role, dir, secret string
	var ca bool
	var valid time.Duration
	c := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which a worker or client joins a cluster",
		Long: "Make a join token: whoever has it gets certificates of one role, which renew themselves, until it expires. Nothing is asked\n" +
			"of a coordinator: the cluster's secret is enough, from the --data-dir of one that drew it, or as it was given with --token.",
		Example: "  mp token --role worker\n  mp token --role viewer --valid 720h --data-dir /var/lib/mp",
		Args:    cobra.NoArgs,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&role, "role", string(trust.Worker), "worker; client: hand in and steer jobs; viewer: look at them; coordinator: learn the secret itself")
	f.DurationVar(&valid, "valid", printedFor, "how long the token can be used; certificates that it got go on being renewed")
	f.StringVar(&dir, "data-dir", coordinator.DefaultConfig().DataDir, "a coordinator's folder, which holds the cluster's secret")
	f.StringVar(&secret, "token", "", "the cluster's secret, where it is not in a folder; empty: the folder's")
	f.BoolVar(&ca, "ca", false, "print no token but the certificate, in PEM, by which browsers and curl --cacert know the cluster's web pages; it is no secret")
	c.RunE = func(*cobra.Command, []string) error {
		if !slices.Contains(trust.Roles(), trust.Role(role)) {
			return fmt.Errorf("%w: --role %q: choose worker, client, viewer or coordinator", job.ErrConfig, role)
		}
		if valid < time.Second || valid > longestToken {
			return fmt.Errorf("%w: --valid %s: choose from 1s to %s", job.ErrConfig, valid, longestToken)
		}
		if trust.IsToken(secret) {
			return fmt.Errorf("%w: --token is a join token, from which no others are made: it must be the cluster's secret", job.ErrConfig)
		}
		if secret == "" {
			var err error
			if secret, err = readSecret(filepath.Join(dir, secretFile)); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: %s holds no cluster's secret: give --data-dir as that of a coordinator of this machine, or the secret with --token", job.ErrConfig, strings.TrimSuffix(dir, "/"))
			} else if err != nil {
				return err
			}
		}
		a, err := trust.NewAuthority(secret, time.Now)
		if err != nil {
			return fmt.Errorf("%w: %w", job.ErrConfig, err)
		}
		if ca {
			text, err := a.PageCA()
			if err != nil {
				return err
			}
			_, err = e.stdout.Write(text)
			return err
		}
		t := a.Token(trust.Role(role), valid)
		if e.json {
			return e.printJSON(tokenMade{t.Text(), role, t.Expires.UTC()})
		}
		_, err = fmt.Fprintln(e.stdout, t.Text())
		return err
	}
	return c
}
