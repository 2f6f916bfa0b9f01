package nats

import (
	"fmt"
	"strconv"
	"strings"

	"mp/metrics"
)

// The stream holds all subjects of four parts, mp.JOB.WORKER.KIND. Progress is published on a fifth part and thereby only
// passes by.
const (
	streamName     = "MP"
	streamSubjects = "mp.*.*.*"
	liveSubjects   = "mp.*.*." + liveSuffix
	liveSuffix     = string(metrics.KindProgress) + ".live"
)

// subjectOf is where events of a kind are published.
func subjectOf(job, worker string, kind metrics.Kind) string {
	if kind == metrics.KindProgress {
		return "mp." + escape(job) + "." + escape(worker) + "." + liveSuffix
	}
	return "mp." + escape(job) + "." + escape(worker) + "." + escape(string(kind))
}

// parseSubject is the job and the worker of a subject.
func parseSubject(subject string) (job, worker string, err error) {
	parts := strings.Split(subject, ".")
	if len(parts) < 4 || parts[0] != "mp" {
		return "", "", fmt.Errorf("subject %q is not mp.JOB.WORKER.KIND", subject)
	}
	if job, err = unescape(parts[1]); err == nil {
		worker, err = unescape(parts[2])
	}
	if err != nil {
		return "", "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return job, worker, nil
}

// messageID names an event for ever: session tells one life of a publisher from the next.
func messageID(job, worker, session string, sequence uint64) string {
	return escape(job) + "." + escape(worker) + "." + session + "." + strconv.FormatUint(sequence, 10)
}

// sequenceOf is the sequence in a message's identity, if it belongs to the publisher with this prefix.
func sequenceOf(id, prefix string) (uint64, bool) {
	text, ok := strings.CutPrefix(id, prefix)
	if !ok {
		return 0, false
	}
	sequence, err := strconv.ParseUint(text, 10, 64)
	return sequence, err == nil
}

// escape writes bytes that a part of a subject may not have, and %, as %XX.
func escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// unescape undoes escape.
func unescape(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", fmt.Errorf("%q ends within %%XX", text)
		}
		v, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%q has no hexadecimal number after %%", text)
		}
		b.WriteByte(byte(v))
		i += 2
	}
	return b.String(), nil
}
