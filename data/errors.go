package data

import (
	"errors"
	"fmt"
)

// ErrData marks, for errors.Is, every error of this package that the same command would meet again: a missing folder or
// list, a line that cannot be read, a label out of range, an image that is no 128x128 JPEG, a damaged or foreign pack, an
// archive that is unsafe to unpack. Errors without it, such as a full disk or a lost connection, may be worth a retry.
var ErrData = errors.New("bad data")

// dataError is an error that is ErrData without saying so in its text.
type dataError struct{ error }

func (e dataError) Is(target error) bool { return target == ErrData }
func (e dataError) Unwrap() error        { return e.error }

// badf is fmt.Errorf for errors that are ErrData.
func badf(format string, args ...any) error {
	return dataError{fmt.Errorf(format, args...)}
}
