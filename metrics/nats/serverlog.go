package nats

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// serverLog gives what nats-server says to slog: its notices are details, its fatal errors reasons why it does not start.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex
	fatal string // the first
}

// died is the first fatal error, or empty.
func (l *serverLog) died() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

// Noticef logs a detail.
func (l *serverLog) Noticef(format string, v ...any) {
	l.log.Debug("nats: " + fmt.Sprintf(format, v...))
}

// Warnf logs a warning.
func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Plaintext passwords") { // they are given on the command line, not in a file of the server's
		return
	}
	l.log.Warn("nats: " + fmt.Sprintf(format, v...))
}

// Errorf logs an error.
func (l *serverLog) Errorf(format string, v ...any) {
	l.log.Error("nats: " + fmt.Sprintf(format, v...))
}

// Fatalf keeps the first error; start returns it.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == "" {
		l.fatal = fmt.Sprintf(format, v...)
	}
}

// Debugf is not called: debugging is off.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef is not called: tracing is off.
func (l *serverLog) Tracef(string, ...any) {}
