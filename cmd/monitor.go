package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"mp/job"
	"mp/trust"
)

// monitorHelp is the help of --monitor, wherever it is.
const monitorHelp = "HOST:PORT at which a supervisor asks /healthz (its loops turn) and /readyz (it belongs to the cluster), and Prometheus asks /metrics; in TLS where other machines reach it; empty: nowhere"

// monitor answers whoever looks after this process. It tells nothing that is secret, and asks for no token.
type monitor struct {
	ready atomic.Pointer[func() error]
	shown atomic.Pointer[vitals]
	who   atomic.Pointer[trust.Identity] // nil: not known yet
}

// identify says who this process is for the cluster: beyond this machine the monitor shows its certificate. Nil: nobody speaks
// TLS, or it is not known.
func (m *monitor) identify(who *trust.Identity) { m.who.Store(who) }

// config is the TLS of a monitor. Before the process has a certificate, which takes as long as joining does, it is known by one of
// its own making: whoever asks how a process is does not compare.
func (m *monitor) config() (*tls.Config, error) {
	nobody, err := trust.NewAuthority(trust.NewSecret(), time.Now)
	if err != nil {
		return nil, err
	}
	first, err := nobody.Page([]string{"localhost"})
	if err != nil {
		return nil, err
	}
	config := first.Public()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if who := m.who.Load(); who != nil {
			return who.Public(), nil
		}
		return nil, nil
	}
	return config, nil
}

// vitals are what a process shows of itself beside its readiness.
type vitals struct {
	healthy func(context.Context) error // nil, or why it should be started again; it returns before its context ends
	numbers http.Handler                // for Prometheus
}

// show says what health is from now on, and where numbers come from. Before, who answers is healthy, and has no numbers.
func (m *monitor) show(healthy func(context.Context) error, numbers http.Handler) {
	m.shown.Store(&vitals{healthy, numbers})
}

// healthWithin bounds a look at a process's health: Kubernetes waits for a second unless it is told otherwise.
const healthWithin = 900 * time.Millisecond

// watch says what readiness is from now on: nil, or why not. Before, the process is starting.
func (m *monitor) watch(ready func() error) { m.ready.Store(&ready) }

// monitorOptions say where a monitor listens.
type monitorOptions struct {
	address string // empty: nowhere
	plain   bool   // no TLS, even beyond this machine
}

// withMonitor serves a monitor while body runs. It listens before body begins, so that a start that takes long is not taken for a
// death.
func withMonitor(ctx context.Context, o monitorOptions, log *slog.Logger, body func(context.Context, *monitor) error) error {
	m := &monitor{}
	if o.address == "" {
		return body(ctx, m)
	}
	if _, _, err := net.SplitHostPort(o.address); err != nil {
		return fmt.Errorf("%w: --monitor %q: want HOST:PORT", job.ErrConfig, o.address)
	}
	l, err := net.Listen("tcp", o.address)
	if err != nil {
		return fmt.Errorf("listen for a supervisor (--monitor): %w", err)
	}
	if !o.plain && beyond(o.address) {
		config, err := m.config()
		if err != nil {
			return errors.Join(err, l.Close())
		}
		l = tls.NewListener(l, config)
	}
	server := &http.Server{Handler: m.routes(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	err = body(ctx, m)
	server.Close()
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		log.Warn("nobody could ask how this process is", "address", o.address, "reason", e)
	}
	return err
}

func (m *monitor) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthWithin)
		defer cancel()
		if s := m.shown.Load(); s != nil {
			if err := s.healthy(ctx); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if s := m.shown.Load(); s != nil {
			s.numbers.ServeHTTP(w, r)
			return
		}
		http.Error(w, "the process is starting", http.StatusServiceUnavailable)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		err := errors.New("the process is starting")
		if ready := m.ready.Load(); ready != nil {
			err = (*ready)()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	return mux
}
