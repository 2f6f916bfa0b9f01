package coordinator

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// Keys of log lines.
const (
	keyNode   = "coordinator"
	keyTopic  = "topic"
	keyEvent  = "event"
	keyAdvice = "advice"
)

// newRaftLogger gives raft a logger whose every line is a Debug line of ours: what a person cares about is said in our words.
func newRaftLogger(to *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(raftLines{to})
	return l
}

type raftLines struct{ to *slog.Logger }

func (r raftLines) Accept(name string, level hclog.Level, msg string, args ...any) {
	if level >= hclog.Info && r.to.Enabled(context.Background(), slog.LevelDebug) {
		r.to.Debug(name+": "+msg, args...)
	}
}
