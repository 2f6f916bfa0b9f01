package cmd

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// link is what happens to packets from one host to another. Its zero value is a good cable.
type link struct {
	loss  float64       // share of the packets that are lost; 1: cut
	delay time.Duration // of each packet
	rate  float64       // bytes a second, beyond which packets wait and then are lost; 0: no bound
	// touch may change a packet, and says whether it did: then it is not asked again. nil: nobody touches any.
	touch func(packet []byte) bool
}

// wire carries IPv4 packets between the hosts that are plugged into it, by the last byte of the address from 1 on. Its methods
// may be called from any goroutine.
type wire struct {
	done    chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex // guards what follows
	random *rand.Rand
	ends   []io.ReadWriter
	links  map[[2]int]link
	lanes  map[[2]int]*lane
}

// lane holds the packets of a link that are on their way.
type lane struct {
	parcels chan parcel
	free    time.Time // when the last parcel has left the sender, by the link's rate
}

// parcel is a packet and when it arrives.
type parcel struct {
	packet []byte
	due    time.Time
}

// laneRoom is how many packets wait for a slow link before they are lost.
const laneRoom = 2000

func newWire(seed uint64) *wire {
	return &wire{done: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 1)), links: map[[2]int]link{}, lanes: map[[2]int]*lane{}}
}

// plug adds the next host: reading gives the packets that it sends.
func (w *wire) plug(end io.ReadWriter) {
	w.mu.Lock()
	from := len(w.ends)
	w.ends = append(w.ends, end)
	w.mu.Unlock()
	w.running.Go(func() {
		room := make([]byte, 1<<16)
		for {
			n, err := end.Read(room)
			if err != nil {
				return
			}
			w.carry(from, room[:n])
		}
	})
}

// set says what happens from now on between two hosts, in both directions.
func (w *wire) set(a, b *host, l link) {
	w.setOneWay(a, b, l)
	w.setOneWay(b, a, l)
}

// setOneWay says what happens from now on to packets from one host to another.
func (w *wire) setOneWay(from, to *host, l link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[[2]int{from.index, to.index}] = l
}

// carry takes a packet to the host that it is for, or not. The packet is the caller's afterwards.
func (w *wire) carry(from int, packet []byte) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return // IPv6 looks for routers
	}
	to := int(packet[19]) - 1
	w.mu.Lock()
	defer w.mu.Unlock()
	if to < 0 || to >= len(w.ends) || to == from {
		return
	}
	key := [2]int{from, to}
	l := w.links[key]
	if l.loss > 0 && w.random.Float64() < l.loss {
		return
	}
	if l.touch != nil && l.touch(packet) {
		l.touch = nil
		w.links[key] = l
	}
	way := w.lanes[key]
	if way == nil && l.delay == 0 && l.rate == 0 {
		_, _ = w.ends[to].Write(packet) // a host that takes nothing loses it
		return
	}
	if way == nil {
		way = &lane{parcels: make(chan parcel, laneRoom)}
		w.lanes[key] = way
		w.running.Go(func() { w.deliver(way, w.ends[to]) })
	}
	now := time.Now()
	if way.free.Before(now) {
		way.free = now
	}
	if l.rate > 0 {
		way.free = way.free.Add(time.Duration(float64(len(packet)) / l.rate * float64(time.Second)))
	}
	select {
	case way.parcels <- parcel{append([]byte(nil), packet...), way.free.Add(l.delay)}:
	default:
	}
}

// deliver hands over the packets of a lane, each when it is due.
func (w *wire) deliver(way *lane, end io.Writer) {
	for {
		select {
		case p := <-way.parcels:
			if wait := time.Until(p.due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-w.done:
					return
				}
			}
			_, _ = end.Write(p.packet)
		case <-w.done:
			return
		}
	}
}

// close ends everything; the ends are closed already.
func (w *wire) close() {
	close(w.done)
	w.running.Wait()
}

// flip returns what changes one bit in the middle of the next full TCP segment from or to a port after some, and its checksum so that
// TCP does not see it: as faulty memory on the way does. told hears that it happened.
func flip(fromPort, toPort uint16, after int, told func()) func([]byte) bool {
	return func(packet []byte) bool {
		const protocolTCP, full = 6, 1200
		ip := int(packet[0]&15) * 4
		if packet[9] != protocolTCP || len(packet) < max(full, ip+20) {
			return false
		}
		t := packet[ip:]
		source, target := binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
		if fromPort != 0 && source != fromPort || toPort != 0 && target != toPort {
			return false
		}
		if after--; after >= 0 {
			return false
		}
		at := len(t) / 2 &^ 1
		word := t[at : at+2]
		before := binary.BigEndian.Uint16(word)
		binary.BigEndian.PutUint16(word, before^0x0400)
		binary.BigEndian.PutUint16(t[16:], resummed(binary.BigEndian.Uint16(t[16:]), before, before^0x0400))
		told()
		return true
	}
}

// resummed is a TCP checksum after one word of what it covers has changed (RFC 1624).
func resummed(sum, before, after uint16) uint16 {
	n := uint32(^sum) + uint32(^before) + uint32(after)
	n = n&0xffff + n>>16
	n = n&0xffff + n>>16
	return ^uint16(n)
}
