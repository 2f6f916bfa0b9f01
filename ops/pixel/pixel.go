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
#cgo noescape mpp_gather
#cgo nocallback mpp_gather
#cgo noescape mpp_gather_u8
#cgo nocallback mpp_gather_u8
#include "csrc/pixel.h"
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"
)

// Side is the width and height of the images of MiniPlaces, and RecordBytes the size of one decoded.
const (
	Side        = 128
	RecordBytes = Side * Side * 3
)

// ErrData is in the chain of errors about the bytes given: truncated, damaged, another format or another size.
var ErrData = errors.New("bad image data")

// ErrArgument is in the chain of errors about what was asked for, such as an image that no batch holds.
var ErrArgument = errors.New("bad argument")

// message is the buffer into which the C library writes what went wrong.
type message [C.MPP_ERROR_BYTES]C.char

func (m *message) buffer() *C.char { return &m[0] }

// check turns the status of a call of the C library into an error.
func (m *message) check(doing string, status C.int) error {
	if status == C.MPP_OK {
		return nil
	}
	text := m.text()
	switch status {
	case C.MPP_DATA:
		return fmt.Errorf("%s: %w: %s", doing, ErrData, text)
	case C.MPP_ARGUMENT:
		return fmt.Errorf("%s: %w: %s", doing, ErrArgument, text)
	}
	return fmt.Errorf("%s: %s", doing, text)
}

func (m *message) text() string {
	b := unsafe.Slice((*byte)(unsafe.Pointer(m)), len(m))
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	return string(b)
}
