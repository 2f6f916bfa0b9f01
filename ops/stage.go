package ops

// #include "csrc/ops.h"
import "C"

import (
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"
)

// Stage is where records wait for a GPU that does not keep them: in memory from which it copies by itself, beside what it
// computes. It is a data.Stage. Its methods may be called from any goroutine.
type Stage struct{ device *Device }

// Stage returns the device's. On a CPU Gather reads records where they are: there it is nil.
func (d *Device) Stage() *Stage {
	if d.IsCPU() {
		return nil
	}
	return &Stage{d}
}

// Room returns page-locked memory, outside Go's heap, and what frees it.
func (s *Stage) Room(bytes int) (memory []byte, free func(), err error) {
	var message [C.MP_ERR]C.char
	var room C.mp_tensor
	if err := check(C.mp_stage_room(C.int64_t(bytes), &room, &message[0]), "lock memory for images", &message); err != nil {
		return nil, nil, err
	}
	t := adopt(room)
	if memory, err = Bytes(t); err != nil {
		Free(t)
		return nil, nil, err
	}
	return memory, func() { Free(t) }, nil
}

// Filled starts to copy records, which lie in a Room from its beginning on, to the device. Gather of the same records uses the
// copy, until Emptied.
func (s *Stage) Filled(records []byte) error {
	if len(records) == 0 {
		return nil
	}
	var message [C.MP_ERR]C.char
	var copied *C.mp_stage
	from := unsafe.SliceData(records)
	status := C.mp_stage_copy(unsafe.Pointer(from), C.int64_t(len(records)), C.int(s.device.config.GPU), &copied, &message[0])
	if err := check(status, "copy images to "+s.device.String(), &message); err != nil {
		return err
	}
	s.device.staged.Store(from, copied)
	return nil
}

// Emptied gives up the copy of records.
func (s *Stage) Emptied(records []byte) {
	if copied, ok := s.device.staged.LoadAndDelete(unsafe.SliceData(records)); ok {
		C.mp_stage_free(copied.(*C.mp_stage))
	}
}

// there returns records on the device: those that it keeps, those on their way to it, or a copy made now.
func (s *Scope) there(records []byte) torch.Tensor {
	at := unsafe.SliceData(records)
	if kept, ok := s.device.kept.Load(at); ok {
		return kept.(torch.Tensor)
	}
	copied, ok := s.device.staged.Load(at)
	if !ok {
		return s.ToDevice(s.Wrap(records, Uint8, false, int64(len(records))))
	}
	message := s.message()
	var t C.mp_tensor
	if err := check(C.mp_stage_take(copied.(*C.mp_stage), &t, &message[0]), "images on "+s.device.String(), message); err != nil {
		s.Fail(err)
		return torch.Tensor{}
	}
	return s.own(adopt(t))
}
