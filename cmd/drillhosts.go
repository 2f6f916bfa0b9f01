package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// hosts are machines of their own as far as names and networks go: network namespaces, each with one interface, a TUN device,
// whose packets a wire in this process carries to the others. So TCP and all below it are the kernel's own, and what a cable
// or a switch does to packets is ours: no qdisc, no packet filter and no program is needed, but root and /dev/net/tun are.
// Everything is gone when this process is.
type hosts struct {
	wire *wire
	all  map[string]*host
}

// host is one of them.
type host struct {
	name  string
	index int // on the wire
	ip    netip.Addr
	space *os.File // its network namespace
	tun   *os.File
}

// observer is the host from which a drill calls the cluster; nothing happens to its packets.
const observer = "observer"

// errNoHosts is wrapped where this process may not make hosts.
var errNoHosts = errors.New("hosts of their own need root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and /dev/net/tun")

// newHosts begins a network on which only the observer is. Close it.
func newHosts(seed uint64) (*hosts, error) {
	h := &hosts{wire: newWire(seed), all: map[string]*host{}}
	if _, err := h.at(observer); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// Ports of the processes on a host, which has no others.
const (
	coordinatorPort = 7070
	workerPort      = 7071
)

// address is where a host's process listens.
func (h *host) address(port uint16) string { return netip.AddrPortFrom(h.ip, port).String() }

// at is the host with a name, made if it is not there.
func (h *hosts) at(name string) (*host, error) {
	if known := h.all[name]; known != nil {
		return known, nil
	}
	n := len(h.all) + 1
	if n > 250 {
		return nil, fmt.Errorf("host %q: 250 are enough", name)
	}
	x := &host{name: name, index: n - 1, ip: netip.AddrFrom4([4]byte{10, 77, 0, byte(n)})}
	err := elsewhere(func() error { return x.build() })
	if err != nil {
		return nil, fmt.Errorf("make host %q: %w: %w", name, err, errNoHosts)
	}
	h.all[name] = x
	h.wire.plug(x.tun)
	return x, nil
}

// elsewhere runs f on a thread that ends with it, and so may be in other namespaces.
func elsewhere(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks it
		done <- f()
	}()
	return <-done
}

// build makes the namespace and what is in it. The thread stays in it.
func (h *host) build() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if h.space, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	const device = "eth0"
	change := func(fd int, request uint, name string, set func(*unix.Ifreq) error) {
		if err != nil {
			return
		}
		var r *unix.Ifreq
		if r, err = unix.NewIfreq(name); err == nil {
			if err = set(r); err == nil {
				if err = unix.IoctlIfreq(fd, request, r); err != nil {
					err = fmt.Errorf("set up %s: %w", name, err)
				}
			}
		}
	}
	short := func(v uint16) func(*unix.Ifreq) error {
		return func(r *unix.Ifreq) error { r.SetUint16(v); return nil }
	}
	change(fd, unix.TUNSETIFF, device, short(unix.IFF_TUN|unix.IFF_NO_PI))
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	h.tun = os.NewFile(uintptr(fd), device) // after TUNSETIFF: only then it can be polled
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	address := func(ip []byte) func(*unix.Ifreq) error {
		return func(r *unix.Ifreq) error { return r.SetInet4Addr(ip) }
	}
	change(s, unix.SIOCSIFADDR, device, address(h.ip.AsSlice()))
	change(s, unix.SIOCSIFNETMASK, device, address([]byte{255, 255, 255, 0}))
	change(s, unix.SIOCSIFTXQLEN, device, func(r *unix.Ifreq) error { r.SetUint32(5000); return nil })
	change(s, unix.SIOCSIFFLAGS, device, short(unix.IFF_UP|unix.IFF_RUNNING))
	change(s, unix.SIOCSIFFLAGS, "lo", short(unix.IFF_UP|unix.IFF_RUNNING))
	return err
}

// enter puts this thread, which must end soon after, on the host: what it starts is there, under the host's name.
func (h *host) enter() error {
	if err := unix.Setns(int(h.space.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter host %q: %w", h.name, err)
	}
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("enter host %q: %w", h.name, err)
	}
	return unix.Sethostname([]byte(h.name))
}

// dial connects from the observer's host.
func (h *hosts) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = elsewhere(func() error {
		if err := unix.Setns(int(h.all[observer].space.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// close ends the network; processes on it stay, without one.
func (h *hosts) close() {
	for _, x := range h.all {
		_ = x.tun.Close() // ends the wire's reading
	}
	h.wire.close()
	for _, x := range h.all {
		_ = x.space.Close()
	}
}
