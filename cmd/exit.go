package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"mp/attack"
	"mp/checkpoint"
	"mp/checkpoint/s3"
	"mp/coordinator"
	"mp/data"
	"mp/deploy"
	"mp/explain"
	"mp/job"
	"mp/metrics/nats"
	"mp/model"
	"mp/ops"
	"mp/ops/pixel"
	"mp/optim"
	"mp/report"
	"mp/worker"
	"mp/worker/errand"
)

// Exit codes; scripts and Kubernetes decide by them whether to start the process again.
const (
	exitDone     = 0
	exitFailed   = 1
	exitBadInput = 64 // bad configuration or data: the same command fails again
	exitDrained  = 85 // stopped on request with everything saved: start me again
)

// errDrained is returned by a verb that stopped on request and can go on where it stopped.
var errDrained = errors.New("drained on request: start the same command again")

// usageError is an error about the command line itself: an unknown verb or flag, wrong arguments, a bad value.
type usageError struct {
	verb string // whose help explains
	err  error
}

func (u usageError) Error() string { return fmt.Sprintf("%v; see `%s --help`", u.err, u.verb) }
func (u usageError) Unwrap() error { return u.err }

// badInput lists the errors of the lower rooms that mean: what was asked for or handed in is wrong.
func badInput() []error {
	return []error{job.ErrConfig, attack.ErrConfig, data.ErrData, checkpoint.ErrFormat, model.ErrConfig, optim.ErrConfig, ops.ErrNoDevice, pixel.ErrData,
		errCluster, s3.ErrConfig, explain.ErrConfig, coordinator.ErrConfig, coordinator.ErrBackup, nats.ErrConfig, worker.ErrRefused, errand.ErrRefused, report.ErrConfig, deploy.ErrConfig}
}

// exitCode maps an error to the process's exit code; the only place that does.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if errors.Is(err, errDrained) {
		return exitDrained
	}
	if errors.As(err, &usageError{}) {
		return exitBadInput
	}
	for _, bad := range badInput() {
		if errors.Is(err, bad) {
			return exitBadInput
		}
	}
	return exitFailed
}

// message is the text of an error for people.
func message(ctx context.Context, err error) string {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	text := err.Error()
	if errors.Is(err, ops.ErrOutOfMemory) && !strings.Contains(text, "--batch-size") {
		text += "; lower --batch-size"
	}
	return text
}
