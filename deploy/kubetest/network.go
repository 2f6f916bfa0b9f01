package kubetest

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Addresses of the network in which everything is. They are none of 127.0.0.0/8, which Kubernetes takes for no pod's.
const (
	nodeAddress = "10.77.0.1"
	nameServer  = "10.77.0.53"
)

// podAddress is the address of the pod with a number.
func podAddress(n int) string { return fmt.Sprintf("10.77.%d.%d", 1+n/250, 1+n%250) }

// aloneMark is in the environment of a process that has a network of its own.
const aloneMark = "KUBETEST_ALONE"

// EnterNetwork gives this process a network that no other has, with the addresses of the node and of its pods on the loopback
// device. To do so it starts the program anew in its own place, which comes here again: call it first. It needs root.
func EnterNetwork() error {
	if os.Getenv(aloneMark) == "" {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		runtime.LockOSThread() // this thread's network becomes the program's
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("leave the machine's network: %w", err)
		}
		return syscall.Exec(program, os.Args, append(os.Environ(), aloneMark+"=1"))
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(device string, request uint, value func(*unix.Ifreq) error) error {
		r, err := unix.NewIfreq(device)
		if err == nil {
			err = value(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, request, r)
		}
		if err != nil {
			return fmt.Errorf("set up %s: %w", device, err)
		}
		return nil
	}
	up := func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }
	if err := set("lo", unix.SIOCSIFFLAGS, up); err != nil {
		return err
	}
	if err := set("lo:1", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{10, 77, 0, 1}) }); err != nil {
		return err
	}
	return set("lo:1", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 0, 0}) })
}
