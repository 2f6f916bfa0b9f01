package ops

// #include "csrc/ops.h"
import "C"

import (
	"errors"
	"fmt"
	"time"
)

// Cost is what one of ATen's operations, or one kind of node of the backward pass, took while Profile looked.
type Cost struct {
	Name  string
	Calls int
	Self  time.Duration // without the operations that it called
}

// Profile runs f and returns what the operations took that any device of this process ran meanwhile, the dearest first, by
// libtorch's own observers. On a GPU that is the asking and not the work. One call at a time.
func Profile(f func() error) ([]Cost, error) {
	var message [C.MP_ERR]C.char
	fail := func() error { return fmt.Errorf("profile: %s", C.GoString(&message[0])) }
	if C.mp_profile_start(&message[0]) != C.MP_OK {
		return nil, fail()
	}
	err := f()
	var rows [256]C.mp_cost
	var n C.int
	if C.mp_profile_stop(&rows[0], C.int(len(rows)), &n, &message[0]) != C.MP_OK {
		return nil, errors.Join(err, fail())
	}
	if err != nil {
		return nil, err
	}
	costs := make([]Cost, n)
	for i := range costs {
		costs[i] = Cost{C.GoString(&rows[i].name[0]), int(rows[i].calls), time.Duration(rows[i].nanoseconds)}
	}
	return costs, nil
}
