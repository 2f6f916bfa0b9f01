// Package pixel owns what happens to pixels between a JPEG and a model: decoding, resizing, and one pass that gathers
// records, warps, colours and normalises them. Its C (csrc/, built into libmppixel by make) needs libjpeg-turbo and
// nothing of libtorch.
//
// It must never import a room of this module: data stands on it. Pixels are uint8 RGB, interleaved, rows from the top
// (HWC). Start reading at Gather, then at Warp; csrc/warp.h is the arithmetic of one pixel, for CPU and GPU alike.
package pixel

/*
#cgo CFLAGS: -O2
#cgo LDFLAGS: -lmppixel
#include "csrc/pixel.h"
*/
import "C"

import (
	"errors"
	"fmt"
)

// Side is the width and height of the images of MiniPlaces, and RecordBytes the size of one decoded.
const (
	Side        = 128
	RecordBytes = Side * Side * 3
)

// ErrData is in the chain of errors about the bytes given: truncated, damaged, another format or another size.
var ErrData = errors.New("bad image data")

// errArgument is in the chain of errors about the call itself; the caller has a bug.
var errArgument = errors.New("bad argument")

// call runs one function of the C library, which writes a message into the buffer it gets when its status is not 0.
func call(doing string, f func(message *C.char) C.int) error {
	var message [C.MPP_ERROR_BYTES]C.char
	status := f(&message[0])
	if status == C.MPP_OK {
		return nil
	}
	text := C.GoString(&message[0])
	switch status {
	case C.MPP_DATA:
		return fmt.Errorf("%s: %w: %s", doing, ErrData, text)
	case C.MPP_ARGUMENT:
		return fmt.Errorf("%s: %w: %s", doing, errArgument, text)
	}
	return fmt.Errorf("%s: %s", doing, text)
}
