package rpc

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"mp/allreduce"
)

// slotSize is the size of a slot in bytes.
const slotSize = 512 << 10

// An outbox is memory that a member writes and its right neighbour reads: a few slots that hold pieces on their way. It
// has no name that could outlive its process, and cannot shrink under its reader.
type outbox struct {
	file  int
	mem   []byte
	nonce []byte
	slot  int // bytes
}

// The nonce stands at the beginning, the slots after a page.
const (
	nonceSize   = 16
	slotsOffset = 4096
)

// offer is how the neighbour finds an outbox; it goes into the handshake.
type offer struct {
	Path  string
	Nonce []byte
	Size  int
}

// newOutbox makes an outbox of n slots.
func newOutbox(n, slot int) (*outbox, error) {
	file, err := unix.MemfdCreate("mp-ring", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	o := &outbox{file: file, slot: slot, nonce: make([]byte, nonceSize)}
	rand.Read(o.nonce)
	size := slotsOffset + n*slot
	if err = unix.Ftruncate(file, int64(size)); err == nil {
		_, err = unix.FcntlInt(uintptr(file), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		o.mem, err = unix.Mmap(file, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		unix.Close(file)
		return nil, fmt.Errorf("share %d bytes of memory: %w", size, err)
	}
	copy(o.mem, o.nonce)
	return o, nil
}

func (o *outbox) offer() *offer {
	return &offer{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), o.file), Nonce: o.nonce, Size: len(o.mem)}
}

func (o *outbox) close() {
	unix.Munmap(o.mem)
	unix.Close(o.file)
}

// slots keeps account of an outbox's slots: the right neighbour frees them in the order in which they were sent.
type slots struct {
	*outbox
	group *group
	free  []int         // the one used last is the warmest in the caches, and used next
	sent  []int         // in order
	back  chan struct{} // a token for each that the neighbour has done with
}

func newSlots(g *group, n int) (*slots, error) {
	o, err := newOutbox(n, slotSize)
	if err != nil {
		return nil, err
	}
	s := &slots{outbox: o, group: g, back: make(chan struct{}, n)}
	for i := range n {
		s.free = append(s.free, i)
	}
	return s, nil
}

// acquire returns a free slot's memory and its place, and waits until there is one.
func (s *slots) acquire(length int) ([]byte, uint64, error) {
	for {
		select {
		case <-s.back:
			s.free, s.sent = append(s.free, s.sent[0]), s.sent[1:]
			continue
		default:
		}
		if len(s.free) > 0 {
			break
		}
		select {
		case <-s.back:
			s.free, s.sent = append(s.free, s.sent[0]), s.sent[1:]
		case <-s.group.done:
			return nil, 0, s.group.failed()
		}
	}
	i := s.free[len(s.free)-1]
	s.free, s.sent = s.free[:len(s.free)-1], append(s.sent, i)
	at := slotsOffset + i*s.slot
	return s.mem[at:][:length], uint64(at), nil
}

// credits reads from the stream to the right neighbour which slots are free again.
func (s *slots) credits(stream grpc.ClientStream) {
	for {
		var f incoming
		if stream.RecvMsg(&f) != nil {
			return // the control stream knows why
		}
		n := f.offset
		f.free()
		for ; f.kind == frameCredit && n > 0 && n <= uint64(cap(s.back)); n-- {
			select {
			case s.back <- struct{}{}:
				continue
			default:
			}
			break
		}
		if f.kind != frameCredit || n > 0 {
			s.group.fail(&allreduce.PeerError{Rank: s.group.right.rank, Kind: allreduce.KindProtocol, Err: fmt.Errorf("frame of kind %q gives %d slots free that were not used", f.kind, n)})
			return
		}
	}
}

// open maps what a neighbour offers, for reading. Unmap it with unix.Munmap.
func (f *offer) open() ([]byte, error) {
	if f.Size <= slotsOffset || len(f.Nonce) != nonceSize {
		return nil, errors.New("an offer of shared memory makes no sense")
	}
	file, err := unix.Open(f.Path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.Path, err)
	}
	defer unix.Close(file)
	var stat unix.Stat_t
	if err := unix.Fstat(file, &stat); err != nil || stat.Size != int64(f.Size) {
		return nil, fmt.Errorf("%s has %d bytes, not %d: %w", f.Path, stat.Size, f.Size, os.ErrInvalid)
	}
	if seals, err := unix.FcntlInt(uintptr(file), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, fmt.Errorf("%s could shrink: %w", f.Path, os.ErrInvalid)
	}
	mem, err := unix.Mmap(file, 0, f.Size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Path, err)
	}
	if !bytes.Equal(mem[:nonceSize], f.Nonce) { // another machine's or container's process of that number
		unix.Munmap(mem)
		return nil, fmt.Errorf("%s is not what was offered: %w", f.Path, os.ErrInvalid)
	}
	return mem, nil
}
