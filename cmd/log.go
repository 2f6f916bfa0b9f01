package cmd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logger writes to standard error what is at least as grave as usual; --verbose tells more, --quiet only what is wrong.
func (e *env) logger(usual slog.Level) *slog.Logger {
	level := usual
	switch {
	case e.verbose:
		level -= slog.LevelInfo - slog.LevelDebug
	case e.quiet:
		level = max(level, slog.LevelWarn)
	}
	return slog.New(&lineHandler{out: e.stderr, level: level, mu: new(sync.Mutex)})
}

// lineHandler is a slog.Handler for people: the time of day, the message, then key=value.
type lineHandler struct {
	out   io.Writer
	level slog.Level
	with  string // attributes of the logger, ready to print
	group string // before keys, with its dot

	mu *sync.Mutex // of out, shared by all handlers that come of one
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.Format(time.TimeOnly) + "  ")
	if r.Level >= slog.LevelWarn {
		b.WriteString(strings.ToLower(r.Level.String()) + ": ")
	}
	b.WriteString(r.Message)
	b.WriteString(h.with)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(h.text(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.out, b.String())
	return err
}

// text prints one attribute with the space before it.
func (h *lineHandler) text(a slog.Attr) string {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		inner := lineHandler{group: h.group + a.Key + "."}
		var b strings.Builder
		for _, g := range v.Group() {
			b.WriteString(inner.text(g))
		}
		return b.String()
	}
	s := v.String()
	if s == "" || strings.ContainsAny(s, " \t\n\"=") {
		s = fmt.Sprintf("%q", s)
	}
	return " " + h.group + a.Key + "=" + s
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		n.with += h.text(a)
	}
	return &n
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	n := *h
	n.group += name + "."
	return &n
}
