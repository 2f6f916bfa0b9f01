package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// What a stream keeps unless its owner says otherwise.
const (
	defaultBytes = 2 << 30
	defaultAge   = 30 * 24 * time.Hour
)

// ServerConfig says where an embedded server listens and what it keeps.
type ServerConfig struct {
	StoreDir    string      // directory of the stream; made if missing. One server at a time may use it
	Listen      string      // host:port; empty: 127.0.0.1:0. Port 0: any free one, the last one again if it is still free
	Advertise   string      // host or host:port that URL names; empty: where it listens
	Credentials Credentials // what clients must show: user and password, or a token; zero: nothing
	TLS         *tls.Config // asks clients for certificates; nil: plain TCP
	// ReadOnly says, with TLS, who may follow what happens and not tell anything. Nil: nobody is held to that.
	ReadOnly func(tls.ConnectionState) bool
	MaxBytes int64         // of events kept; older ones go first
	MaxAge   time.Duration // of events kept
	Logger   *slog.Logger  // nil: nothing is logged
}

// DefaultServerConfig keeps 2 GiB and 30 days of events in dir, for this machine only.
func DefaultServerConfig(dir string) ServerConfig {
	return ServerConfig{StoreDir: dir, Listen: "127.0.0.1:0", MaxBytes: defaultBytes, MaxAge: defaultAge}
}

// Validate reports what is wrong with c, as an ErrConfig.
func (c ServerConfig) Validate() error {
	host, _, err := c.listen()
	switch {
	case c.StoreDir == "":
		return fmt.Errorf("%w: no directory to keep metrics in", ErrConfig)
	case err != nil:
		return err
	case c.Advertise == "" && isWildcard(host):
		return fmt.Errorf("%w: NATS listens on every address of this machine: say by which name clients reach it", ErrConfig)
	case c.MaxBytes < 1<<20 || c.MaxAge < time.Minute:
		return fmt.Errorf("%w: metrics are kept up to %d bytes and %v: at least 1 MiB and a minute are needed", ErrConfig, c.MaxBytes, c.MaxAge)
	case c.Credentials.File != "":
		return fmt.Errorf("%w: an embedded server knows users, passwords and tokens, and no credentials files", ErrConfig)
	case c.TLS != nil && c.Credentials != (Credentials{}):
		return fmt.Errorf("%w: clients show certificates, and something else is asked for as well: one of the two is enough", ErrConfig)
	case c.Credentials.User != "" && c.Credentials.Password == "":
		return fmt.Errorf("%w: user %s without a password", ErrConfig, c.Credentials.User)
	}
	return c.Credentials.Validate()
}

// listen is where c listens.
func (c ServerConfig) listen() (host string, port int, err error) {
	where := c.Listen
	if where == "" {
		where = "127.0.0.1:0"
	}
	host, text, err := net.SplitHostPort(where)
	if err == nil {
		var p uint64
		p, err = strconv.ParseUint(text, 10, 16)
		port = int(p)
	}
	if err != nil {
		return "", 0, fmt.Errorf("%w: NATS cannot listen on %q, which is not host:port", ErrConfig, where)
	}
	return host, port, nil
}

func isWildcard(host string) bool { return host == "" || net.ParseIP(host).IsUnspecified() }

// Server is a NATS server with JetStream on disk inside this process. What a client was told is stored survives a kill
// of the process; a loss of power may take the last seconds. It registers no flags and handles no signals.
type Server struct {
	c         ServerConfig
	log       *slog.Logger
	lookEvery time.Duration // whether the store still takes events
	ready     chan struct{}
	url       string // written before ready is closed
}

// NewServer checks c. Nothing is opened before Run.
func NewServer(c ServerConfig) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Server{c: c, log: logger(c.Logger), lookEvery: time.Second, ready: make(chan struct{})}, nil
}

// Ready is closed once clients can connect. It stays open if Run returns before that.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// URL is where clients connect, without credentials; empty before Ready.
func (s *Server) URL() string {
	select {
	case <-s.ready:
		return s.url
	default:
		return ""
	}
}

// How Run looks after the server.
const (
	restartAfter = 500 * time.Millisecond
	listenWithin = 10 * time.Second
	storedWithin = 2 * time.Second // events that a power failure may take
	tlsWithin    = 5 * time.Second // a handshake of TLS
)

// Run serves until ctx ends, and returns nil then, or why it cannot. A store that a full disk has closed is opened again
// until there is room. Call Run once.
func (s *Server) Run(ctx context.Context) error {
	unlock, err := lockStore(s.c.StoreDir)
	if err != nil {
		return err
	}
	defer unlock()
	for said := ""; ; {
		running, err := s.start(ctx)
		if err == nil {
			err = s.watch(ctx, running)
			running.Shutdown()
			running.WaitForShutdown()
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case s.URL() == "":
			return err
		case err.Error() != said:
			said = err.Error()
			s.log.Error("NATS has stopped and is started again; metrics wait meanwhile", keyError, said)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restartAfter):
		}
	}
}

// watch returns without an error when ctx ends, and with one when the server stores nothing any more and a new one could:
// until then this one lets recorders read.
func (s *Server) watch(ctx context.Context, running *server.Server) error {
	look := time.NewTicker(s.lookEvery)
	defer look.Stop()
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		health := running.Healthz(&server.HealthzOptions{})
		if health.Status == "ok" {
			continue
		}
		err := s.room()
		if err == nil {
			return errors.New(health.Error)
		}
		if text := err.Error(); text != said {
			said = text
			s.log.Error("NATS stores nothing; make room on its disk, metrics wait meanwhile", keyError, said)
		}
	}
}

// room tries whether the store's disk takes a megabyte.
func (s *Server) room() error {
	path := filepath.Join(s.c.StoreDir, "room")
	defer os.Remove(path)
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		return fmt.Errorf("try store of metrics: %w", err)
	}
	return nil
}

// start returns a server that takes connections and has the stream.
func (s *Server) start(ctx context.Context) (*server.Server, error) {
	host, port, err := s.c.listen()
	if err != nil {
		return nil, err
	}
	chosen := port == 0
	if chosen {
		port = s.lastPort(host)
	}
	log := &serverLog{log: s.log}
	running, err := server.NewServer(s.options(host, port))
	if err != nil {
		return nil, fmt.Errorf("make NATS server: %w", err)
	}
	running.SetLoggerV2(log, false, false, false)
	running.Start()
	where := fmt.Sprintf("%s with store %s", net.JoinHostPort(host, strconv.Itoa(port)), s.c.StoreDir)
	if why := log.died(); why != "" {
		err = fmt.Errorf("start NATS on %s: %s", where, why)
	} else if !running.ReadyForConnections(listenWithin) {
		err = fmt.Errorf("start NATS on %s: it takes no connections after %v", where, listenWithin)
	} else {
		err = s.makeStream(ctx, running)
	}
	if err != nil {
		running.Shutdown()
		running.WaitForShutdown()
		return nil, err
	}
	if s.URL() == "" {
		at := running.Addr().(*net.TCPAddr)
		if chosen {
			s.rememberPort(at.Port)
		}
		s.url = s.urlAt(host, at.Port)
		close(s.ready)
		s.log.Info("NATS listens", keyURL, s.url)
		if s.c.Credentials == (Credentials{}) && s.c.TLS == nil && !at.IP.IsLoopback() {
			s.log.Warn("NATS takes connections from anyone who reaches it: give it a token", keyURL, s.url)
		}
	}
	return running, nil
}

// options are the server's, which listens on a free port if port is 0.
func (s *Server) options(host string, port int) *server.Options {
	if port == 0 {
		port = server.RANDOM_PORT
	}
	o := &server.Options{
		ServerName: "mp", Host: host, Port: port, NoSigs: true, DisableJetStreamBanner: true,
		JetStream: true, StoreDir: s.c.StoreDir, SyncInterval: storedWithin,
		JetStreamMaxMemory: 16 << 20,
		JetStreamMaxStore:  1 << 50, // the stream has a bound of its own, which may have been larger before
		Username:           s.c.Credentials.User, Password: s.c.Credentials.Password, Authorization: s.c.Credentials.Token,
	}
	if s.c.TLS != nil {
		o.TLSConfig, o.TLSTimeout = s.c.TLS, tlsWithin.Seconds()
		o.CustomClientAuthentication = doorkeeper{s.c.ReadOnly}
	}
	o.Cluster.NoAdvertise = true // clients reach it by URL, and by no other address
	return o
}

// makeStream makes the stream, or gives it the bounds of the configuration.
func (s *Server) makeStream(ctx context.Context, running *server.Server) error {
	nc, err := connection{
		url: "nats://" + running.Addr().String(), credentials: s.c.Credentials, name: "mp server", log: s.log, changed: make(chan struct{}, 1), inProcess: running,
	}.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("make stream %s: %w", streamName, err)
	}
	within, cancel := context.WithTimeout(ctx, listenWithin)
	defer cancel()
	if _, err := js.CreateOrUpdateStream(within, bounds{bytes: s.c.MaxBytes, age: s.c.MaxAge}.config()); err != nil {
		return fmt.Errorf("make stream %s in %s: %w", streamName, s.c.StoreDir, err)
	}
	return nil
}

// urlAt is what URL says.
func (s *Server) urlAt(host string, port int) string {
	scheme := "nats://"
	if s.c.TLS != nil {
		scheme = "tls://"
	}
	if s.c.Advertise == "" {
		return scheme + net.JoinHostPort(host, strconv.Itoa(port))
	}
	if _, p, err := net.SplitHostPort(s.c.Advertise); err == nil && p != "0" {
		return scheme + s.c.Advertise
	}
	name, _, err := net.SplitHostPort(s.c.Advertise)
	if err != nil {
		name = s.c.Advertise
	}
	return scheme + net.JoinHostPort(name, strconv.Itoa(port))
}

// PortFile, in the server's store, holds the port of the last start, so that clients find a restarted server.
const PortFile = "port"

// lastPort is the port of the last time if it is still free, else 0.
func (s *Server) lastPort(host string) int {
	text, err := os.ReadFile(filepath.Join(s.c.StoreDir, PortFile))
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil {
		return 0
	}
	if s.URL() != "" { // it is ours
		return int(port)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.FormatUint(port, 10)))
	if err != nil {
		return 0
	}
	l.Close()
	return int(port)
}

func (s *Server) rememberPort(port int) {
	if err := os.WriteFile(filepath.Join(s.c.StoreDir, PortFile), []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
		s.log.Warn("the port of NATS is not remembered: after a restart it has another", keyError, err.Error())
	}
}

// lockStore makes the directory and keeps other servers out of it until unlock.
func lockStore(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory for metrics: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store of metrics: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("store of metrics %s is in use by another process: stop it, or give this one another directory", dir)
		}
		return nil, fmt.Errorf("lock store of metrics %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
