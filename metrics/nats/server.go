package nats

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// ServerConfig says where an embedded server listens and what it keeps.
type ServerConfig struct {
	StoreDir    string        // directory of the stream; made if missing. One server at a time may use it
	Listen      string        // host:port; empty: 127.0.0.1:0. Port 0: any free one
	Advertise   string        // host:port that URL names; empty: where it listens
	Credentials Credentials   // what clients must show: user and password, or a token; zero: nothing
	MaxBytes    int64         // of events kept; older ones go first
	MaxAge      time.Duration // of events kept
	Logger      *slog.Logger  // nil: nothing is logged
}

// DefaultServerConfig keeps 2 GiB and 30 days of events in dir, for this machine only.
func DefaultServerConfig(dir string) ServerConfig {
	return ServerConfig{StoreDir: dir, Listen: "127.0.0.1:0", MaxBytes: 2 << 30, MaxAge: 30 * 24 * time.Hour}
}

// Validate reports what is wrong with c, as an ErrConfig.
func (c ServerConfig) Validate() error { return c.Credentials.Validate() }

// Server is a NATS server with JetStream on disk inside this process. What a client was told is stored survives a kill
// of the process; a loss of power may take the last seconds.
type Server struct {
	c     ServerConfig
	ready chan struct{}
	url   string
}

// NewServer checks c. Nothing is opened before Run.
func NewServer(c ServerConfig) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Server{c: c, ready: make(chan struct{})}, nil
}

// Run serves until ctx ends, and returns nil then, or why it cannot. Call it once.
func (s *Server) Run(ctx context.Context) error { return errors.ErrUnsupported }

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
