package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// bounds are what a stream keeps.
type bounds struct {
	bytes int64
	age   time.Duration
}

// duplicatesWindow is how long the server remembers identities of messages: a resend within it is not stored twice.
// It costs the server about 100 bytes a message.
const duplicatesWindow = 10 * time.Minute

// config is the stream with these bounds.
func (b bounds) config() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: streamName, Description: "what happens in runs of mp", Subjects: []string{streamSubjects},
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
		MaxBytes: b.bytes, MaxAge: b.age, Duplicates: min(duplicatesWindow, b.age), AllowDirect: true,
	}
}

// findStream returns the stream and makes it where it is missing. One that exists stays as its owner made it.
func findStream(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, streamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, bounds{bytes: defaultBytes, age: defaultAge}.config())
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // made by another since
			stream, err = js.Stream(ctx, streamName)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find stream %s: %w", streamName, err)
	}
	return stream, nil
}
