package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mp/coordinator/web"
	"mp/job"
	"mp/mppb"
	"mp/trust"
)

// Words of --http beside HOST:PORT, and where the page is when nobody says otherwise.
const (
	httpNone    = "none"
	defaultHTTP = "127.0.0.1:7080"
)

// webFlags are how a verb is told where to serve the web page.
type webFlags struct {
	command *cobra.Command
	address string
}

func (f *webFlags) add(c *cobra.Command) {
	f.command = c
	c.Flags().StringVar(&f.address, "http", defaultHTTP, "HOST:PORT of the web page, or none; a free port where the default one is taken; beyond this machine it is TLS and needs --token")
}

// options is what the flags say. The default port may give way to another, one that was asked for may not.
func (f *webFlags) options(token string) (webOptions, error) {
	o := webOptions{address: f.address, token: token, giveWay: !f.command.Flags().Changed("http")}
	return o, o.validate()
}

// webOptions says where the page is served.
type webOptions struct {
	address string          // HOST:PORT; httpNone or empty: nowhere
	token   string          // the secret that it asks for; empty: none
	giveWay bool            // take a free port where that one is taken
	who     *trust.Identity // its certificate; nil: plain HTTP
}

// secured gives a page that other machines reach a certificate: of the authority if there is one, else that of the process, which
// may be nil.
func (o webOptions) secured(a *trust.Authority, own *trust.Identity, more ...string) (webOptions, error) {
	if !o.wanted() || !beyond(o.address) {
		return o, nil
	}
	if o.who = own; a == nil {
		return o, nil
	}
	hosts := []string{"localhost", "127.0.0.1", hostName()}
	for _, address := range append([]string{o.address}, more...) {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
			continue
		}
		hosts = append(hosts, host)
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return o, fmt.Errorf("list this machine's addresses for the web page's certificate: %w", err)
	}
	for _, address := range all {
		if network, ok := address.(*net.IPNet); ok {
			hosts = append(hosts, network.IP.String())
		}
	}
	slices.Sort(hosts)
	o.who, err = a.Page(slices.Compact(hosts))
	return o, err
}

func (o webOptions) wanted() bool { return o.address != "" && o.address != httpNone }

func (o webOptions) validate() error {
	if !o.wanted() {
		return nil
	}
	if _, _, err := net.SplitHostPort(o.address); err != nil {
		return fmt.Errorf("%w: --http %q: want HOST:PORT, or none", job.ErrConfig, o.address)
	}
	if o.token == "" && beyond(o.address) {
		return fmt.Errorf("%w: --http %s is reached from other machines, and the page can cancel jobs: give --token, which it asks for, or serve it on "+
			"127.0.0.1 and reach it with ssh -L 7080:127.0.0.1:7080", job.ErrConfig, o.address)
	}
	return nil
}

// ofSecret is secured for a page without a cluster around it: the secret that it asks for is what its authority follows from.
func (o webOptions) ofSecret() (webOptions, error) {
	if !o.wanted() || !beyond(o.address) {
		return o, nil
	}
	a, err := trust.NewAuthority(o.token, time.Now)
	if err != nil {
		return o, fmt.Errorf("%w: --token: %w", job.ErrConfig, err)
	}
	return o.secured(a, nil)
}

// known is how a person knows the page's certificate, which no browser does.
func (o webOptions) known() string {
	if o.who == nil {
		return ""
	}
	return "\n" + strings.Repeat(" ", 20) + "its certificate has SHA-256 " + o.who.Fingerprint()
}

// listen opens the port.
func (o webOptions) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", o.address)
	if errors.Is(err, syscall.EADDRINUSE) && o.giveWay {
		host, _, _ := net.SplitHostPort(o.address) // validate has seen it
		return net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("serve the web page: --http %s is taken by another program: choose another port, port 0 for a free one, or none", o.address)
	}
	if err != nil {
		return nil, fmt.Errorf("serve the web page: %w", err)
	}
	return l, nil
}

// pageURL is the address under which a person on this machine opens what listens there.
func (o webOptions) pageURL(l net.Listener) string {
	scheme := "http://"
	if o.who != nil {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return scheme + l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = hostName()
	}
	return scheme + net.JoinHostPort(host, port) + "/"
}

// endWithin bounds how long the end waits for browsers to take the last events.
const endWithin = 2 * time.Second

// serve serves the page on a port until ctx ends; browsers get the last events then.
func (o webOptions) serve(ctx context.Context, l net.Listener, page *web.Server, log *slog.Logger) error {
	server := &http.Server{Handler: page, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 16,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	failed := make(chan error, 1)
	go func() { failed <- serveHTTP(server, l, o.who) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the web page: %w", err)
	case <-ctx.Done():
	}
	page.Close()
	last, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	if server.Shutdown(last) != nil {
		server.Close() // a browser that takes nothing does not hold up the end
	}
	<-failed
	return nil
}

// serveHTTP serves with a certificate, or plainly where there is none.
func serveHTTP(s *http.Server, l net.Listener, who *trust.Identity) error {
	if who == nil {
		return s.Serve(l)
	}
	s.TLSConfig = who.Public()
	return s.ServeTLS(l, "", "")
}

// webJobs is the cluster as the page sees it.
type webJobs struct{ client *mppb.Client }

func (w webJobs) List(ctx context.Context) ([]web.Job, error) {
	var all []web.Job
	err := askLeader(ctx, w.client, func(ctx context.Context, c mppb.ClusterClient) error {
		reply, err := c.Jobs(ctx, &mppb.JobsRequest{})
		all = nil
		for _, j := range reply.GetJobs() {
			all = append(all, webJob(j))
		}
		return err
	})
	return all, err
}

func (w webJobs) Show(ctx context.Context, id string) (web.Detail, error) {
	var reply *mppb.JobDetail
	err := askLeader(ctx, w.client, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		reply, err = c.Show(ctx, &mppb.JobName{Id: id})
		return err
	})
	if err != nil {
		return web.Detail{}, err
	}
	d := web.Detail{Job: webJob(reply.Job)}
	for _, m := range reply.Workers {
		i := newWorkerInfo(m)
		d.Workers = append(d.Workers, web.Member{Worker: i.Worker, Name: i.Name, Host: i.Host, Device: i.Device, State: i.State, Phase: i.Phase})
	}
	all := newJobDetail(reply)
	d.Ledger, d.Checkpoints = all.Ledger, all.Checkpoints
	return d, nil
}

// steerVerbs are the page's words for what can be done with a job.
func steerVerbs() map[web.Verb]mppb.SteerRequest_Verb {
	return map[web.Verb]mppb.SteerRequest_Verb{
		web.Pause: mppb.SteerRequest_PAUSE, web.Resume: mppb.SteerRequest_RESUME, web.Drain: mppb.SteerRequest_DRAIN, web.Cancel: mppb.SteerRequest_CANCEL,
	}
}

func (w webJobs) Steer(ctx context.Context, id string, v web.Verb) (web.Job, error) {
	verb, ok := steerVerbs()[v]
	if !ok {
		return web.Job{}, fmt.Errorf("%w: %q is nothing that can be done with a job", web.ErrRefused, v)
	}
	ctx, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	var j *mppb.Job
	err := askLeader(ctx, w.client, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		j, err = c.Steer(ctx, &mppb.SteerRequest{Id: id, Verb: verb})
		return err
	})
	if errors.Is(err, errCluster) {
		return web.Job{}, fmt.Errorf("%w: %s", web.ErrRefused, strings.TrimPrefix(err.Error(), errCluster.Error()+": "))
	}
	if err != nil {
		return web.Job{}, err
	}
	return webJob(j), nil
}

func webJob(j *mppb.Job) web.Job {
	return web.Job{ID: j.Id, State: strings.ToLower(j.State.String()), Reason: j.Reason, Directory: j.Directory, Update: j.Update, Updates: j.Updates,
		SHA256: j.GetOutcome().GetSha256()}
}
