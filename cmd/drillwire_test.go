package cmd

import (
	"encoding/binary"
	"io"
	"testing"
	"time"
)

// plugged is an end of a wire in memory.
type plugged struct {
	sends chan []byte // closed: the end is
	gets  chan []byte
}

func (p plugged) Read(b []byte) (int, error) {
	packet, ok := <-p.sends
	if !ok {
		return 0, io.EOF
	}
	return copy(b, packet), nil
}

func (p plugged) Write(b []byte) (int, error) {
	p.gets <- append([]byte(nil), b...)
	return len(b), nil
}

// wired are n ends on one wire.
func wired(t *testing.T, n int) (*wire, []plugged, []*host) {
	w := newWire(1)
	var ends []plugged
	var hosts []*host
	for i := range n {
		e := plugged{make(chan []byte), make(chan []byte, 10_000)}
		w.plug(e)
		ends, hosts = append(ends, e), append(hosts, &host{index: i})
	}
	t.Cleanup(func() {
		for _, e := range ends {
			close(e.sends)
		}
		w.close()
	})
	return w, ends, hosts
}

// segment is a TCP segment to a host by its index, with a checksum that fits.
func segment(to, port, payload int) []byte {
	p := make([]byte, 40+payload)
	p[0], p[9], p[16], p[19] = 0x45, 6, 10, byte(to+1)
	binary.BigEndian.PutUint16(p[22:], uint16(port))
	for i := range payload {
		p[40+i] = byte(i * 7)
	}
	binary.BigEndian.PutUint16(p[36:], sumTCP(p))
	return p
}

// sumTCP is the TCP checksum of an IPv4 packet, computed from the beginning, with the field itself as nothing.
func sumTCP(p []byte) uint16 {
	var n uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			n += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	add(p[12:20])
	n += 6 + uint32(len(p)-20)
	add(p[20:36])
	add(p[38:])
	for n > 0xffff {
		n = n&0xffff + n>>16
	}
	return ^uint16(n)
}

func TestAWireLosesWhatItIsToldTo(t *testing.T) {
	w, ends, hosts := wired(t, 3)
	w.set(hosts[0], hosts[1], link{loss: 0.5})
	w.setOneWay(hosts[2], hosts[0], link{loss: 1})
	const n = 2000
	for range n {
		ends[0].sends <- segment(1, 1, 0)
		ends[0].sends <- segment(2, 1, 0)
		ends[2].sends <- segment(0, 1, 0)
	}
	ends[0].sends <- []byte{0x60}          // is no packet of IPv4
	ends[0].sends <- segment(77, 1, 0)     // is for nobody
	ends[0].sends <- segment(2, 1, 4)[:40] // the last one, taken when all before are
	ends[2].sends <- segment(0, 1, 4)[:40]
	if got := len(ends[1].gets); got < n*4/10 || got > n*6/10 {
		t.Errorf("at half a loss %d of %d packets came", got, n)
	}
	if got := len(ends[2].gets); got < n {
		t.Errorf("on a good cable %d of %d packets came", got, n)
	}
	if got := len(ends[0].gets); got != 0 {
		t.Errorf("over a cut cable %d packets came", got)
	}
}

func TestAWireKeepsOrderAndTime(t *testing.T) {
	w, ends, hosts := wired(t, 2)
	const delay, n, bytes = 30 * time.Millisecond, 20, 1040
	w.set(hosts[0], hosts[1], link{delay: delay, rate: 1e6})
	began := time.Now()
	for i := range n {
		p := segment(1, 1, bytes-40)
		p[40] = byte(i)
		ends[0].sends <- p
	}
	for i := range n {
		if p := <-ends[1].gets; p[40] != byte(i) {
			t.Fatalf("packet %d came as number %d", p[40], i)
		}
	}
	if took, least := time.Since(began), delay+n*bytes*time.Microsecond; took < least {
		t.Errorf("%d packets of %d bytes came after %s, want %s at least", n, bytes, took, least)
	}
}

func TestAFlippedBitKeepsTheChecksum(t *testing.T) {
	w, ends, hosts := wired(t, 2)
	flips := 0
	w.set(hosts[0], hosts[1], link{touch: flip(0, 7071, 1, func() { flips++ })})
	for _, c := range []struct {
		port, payload, bits int
	}{{7070, 1460, 0}, {7071, 100, 0}, {7071, 1460, 0}, {7071, 1460, 1}, {7071, 1460, 0}} {
		sent := segment(1, c.port, c.payload)
		ends[0].sends <- append([]byte(nil), sent...)
		got := <-ends[1].gets
		bits := 0
		for i := range got {
			if i == 36 || i == 37 {
				continue // the checksum
			}
			for x := got[i] ^ sent[i]; x != 0; x &= x - 1 {
				bits++
			}
		}
		if bits != c.bits {
			t.Errorf("port %d, %d bytes: %d bits differ, want %d", c.port, c.payload, bits, c.bits)
		}
		if want := sumTCP(got); binary.BigEndian.Uint16(got[36:]) != want {
			t.Errorf("port %d, %d bytes: the checksum is %04x, want %04x", c.port, c.payload, got[36:38], want)
		}
	}
	if flips != 1 {
		t.Errorf("told of %d flips, want 1", flips)
	}
}
