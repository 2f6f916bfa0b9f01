package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"mp/job"
	"mp/ops"
)

// Fault is a failure that a worker makes itself, once, in a step, whether it has shards or not: the only door for faults that
// cannot be had from outside a process. It is for drills; what follows from it is what follows from the real error, which a
// step ends with in the same way.
type Fault struct {
	Kind   FaultKind
	Update int // updates done before
}

// FaultKind is what fails.
type FaultKind string

// Kinds of Fault.
const (
	FaultMemory    FaultKind = "memory"    // the device is asked for 64 TiB: what its allocator says to that
	FaultException FaultKind = "exception" // libtorch is asked for an impossible product: its own exception
	FaultDevice    FaultKind = "device"    // what a GPU says after a bad access. No GPU is asked: the text is made up
)

// errBadAccess is what libtorch says of a kernel that CUDA has stopped.
var errBadAccess = errors.New("CUDA error: an illegal memory access was encountered (made up by --fault)")

// ParseFault reads KIND@UPDATE; nothing is no fault. The error is job.ErrConfig.
func ParseFault(text string) (*Fault, error) {
	if text == "" {
		return nil, nil
	}
	kind, at, _ := strings.Cut(text, "@")
	update, err := strconv.Atoi(at)
	switch k := FaultKind(kind); {
	case err != nil || update < 0:
	case k == FaultMemory, k == FaultException, k == FaultDevice:
		return &Fault{k, update}, nil
	}
	return nil, fmt.Errorf("%w: fault %q: want %s, %s or %s, @ and a number of updates", job.ErrConfig, text, FaultMemory, FaultException, FaultDevice)
}

// strike returns the error of the fault once an update is reached; a nil Fault never does.
func (f *Fault) strike(d *ops.Device, done int) error {
	if f == nil || done < f.Update {
		return nil
	}
	return d.Do(context.Background(), func(s *ops.Scope) error {
		switch f.Kind {
		case FaultMemory:
			s.Zeros(ops.Float32, 1<<44)
		case FaultException:
			s.MatMul(s.Zeros(ops.Float32, 2, 3), s.Zeros(ops.Float32, 2, 3))
		case FaultDevice:
			s.Fail(errBadAccess)
		}
		return s.Err()
	})
}
