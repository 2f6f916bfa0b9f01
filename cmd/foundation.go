package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mp/coordinator"
	"mp/job"
	"mp/trust"
)

// secretFile, in a coordinator's --data-dir, holds the secret that it drew or was told.
const secretFile = "secret"

// How long the tokens last that a coordinator prints when it starts.
const (
	printedFor     = 24 * time.Hour
	coordinatorFor = time.Hour
)

// foundation is what a coordinator's certificates come from.
type foundation struct {
	authority *trust.Authority // nil: there is none here, because certificates come from elsewhere or nobody speaks TLS
	kept      bool             // its secret is in the data directory, and nobody was given it otherwise
}

// secure says whether a coordinator speaks TLS with others.
func (o *coordinatorOptions) secure() (bool, error) {
	all := []string{o.config.Listen}
	for _, a := range []string{o.config.Advertise, o.natsPort} {
		if a != "" {
			all = append(all, a)
		}
	}
	for _, p := range o.config.Peers {
		all = append(all, p.Address)
	}
	return o.trust.wanted(all...)
}

// layFoundation decides whether a coordinator speaks TLS, and gives it what it needs for that.
func layFoundation(ctx context.Context, o *coordinatorOptions, log *slog.Logger) (foundation, error) {
	var none foundation
	var others []string
	for _, p := range o.config.Peers {
		if p.ID != o.config.ID {
			others = append(others, p.Address)
		}
	}
	secure, err := o.secure()
	if err != nil {
		return none, err
	}
	o.config.Token = o.trust.token
	if !secure {
		return none, nil
	}
	o.config.Token = "" // certificates say who calls
	if o.trust.files.Given() {
		if o.config.Trust, err = o.trust.files.Identity(time.Now); err != nil {
			return none, fmt.Errorf("%w: %w", job.ErrConfig, err)
		}
		return none, fits(o.config.Trust.Party().Role, "--tls-cert", []trust.Role{trust.Coordinator})
	}
	f := foundation{kept: o.trust.token == "" || trust.IsToken(o.trust.token)}
	secret := o.trust.token
	if f.kept {
		if secret, err = keptSecret(ctx, o, others, log); err != nil {
			return none, err
		}
	}
	if f.authority, err = trust.NewAuthority(secret, time.Now); err != nil {
		return none, fmt.Errorf("%w: --token: %w", job.ErrConfig, err)
	}
	if o.config.Trust, err = f.authority.Identity(trust.Party{Role: trust.Coordinator, Name: o.config.ID}); err != nil {
		return none, err
	}
	o.config.Desk = trust.NewDesk(f.authority)
	return f, nil
}

// keptSecret is the cluster's secret from the data directory, or else from another coordinator for a token, or else a new one:
// the first of a list of coordinators draws it.
func keptSecret(ctx context.Context, o *coordinatorOptions, others []string, log *slog.Logger) (string, error) {
	path := filepath.Join(o.dataDir, secretFile)
	secret, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	switch {
	case trust.IsToken(o.trust.token):
		t, err := trust.ParseToken(o.trust.token)
		if err != nil {
			return "", fmt.Errorf("%w: --token: %w", job.ErrConfig, err)
		}
		if err := fits(t.Role, "--token", []trust.Role{trust.Coordinator}); err != nil {
			return "", err
		}
		if len(others) == 0 {
			return "", fmt.Errorf("%w: a coordinator's token is for one that joins others: name them with --peers", job.ErrConfig)
		}
		secret, err = trust.Joiner{
			Token: t, Name: o.config.ID, Addresses: others, Dial: trust.DialTCP, Now: time.Now,
			Trouble: func(err error) {
				log.Warn("waiting for another coordinator to say the cluster's secret", "reason", err)
			},
		}.Secret(ctx)
		if err != nil {
			return "", fmt.Errorf("learn the cluster's secret: %w", err)
		}
	case len(others) > 0 && o.config.Peers[0].ID != o.config.ID:
		return "", fmt.Errorf("%w: of several coordinators only the first, %s, draws a secret: give this one --token as that one prints it when it starts, "+
			"or all the same secret with --token", job.ErrConfig, o.config.Peers[0].ID)
	default:
		secret = trust.NewSecret()
	}
	return secret, writeSecret(path, secret)
}

// readSecret reads the file of a secret.
func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the cluster's secret: %w", err)
	}
	about, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read the cluster's secret: %w", err)
	}
	if about.Mode().Perm()&0o007 != 0 {
		return "", fmt.Errorf("%w: everybody on this machine can read the cluster's secret: chmod 600 %s", job.ErrConfig, path)
	}
	return string(text), nil
}

// writeSecret keeps a secret: all of it or nothing.
func writeSecret(path, secret string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep the cluster's secret: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), secretFile+"-*") // 0600
	if err != nil {
		return fmt.Errorf("keep the cluster's secret: %w", err)
	}
	_, err = f.WriteString(secret)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("keep the cluster's secret: %w", err)
	}
	return nil
}

// invitation is how others join, for people.
func (f foundation) invitation(c coordinator.Config, address string) []string {
	worker, client := "", ""
	switch {
	case f.kept:
		worker, client = " --token "+f.authority.Token(trust.Worker, printedFor).Text(), " --token "+f.authority.Token(trust.Client, printedFor).Text()
	case f.authority != nil:
		worker, client = " --token TOKEN", " --token TOKEN"
	case c.Trust != nil:
		worker = " --tls-ca F --tls-cert F --tls-key F"
		client = worker
	}
	lines := []string{"workers: mp worker --coordinator " + address + worker + " --data DIR", "jobs: mp submit --coordinator " + address + client}
	if c.Trust == nil {
		return []string{strings.Join(lines, "; ")}
	}
	switch {
	case f.kept && len(c.Peers) > 1:
		lines = append(lines, "other coordinators: mp coordinator --id ID --listen HOST:PORT --peers ... --token "+f.authority.Token(trust.Coordinator, coordinatorFor).Text())
		fallthrough
	case f.kept:
		lines = append(lines, "The tokens are secrets for a day, a coordinator's for an hour; mp token makes others. All of them end when the secret in --data-dir is replaced.")
	case f.authority != nil:
		lines = append(lines, "TOKEN is the secret that this coordinator was given or, better, what mp token makes of it.")
	}
	return lines
}
