package mppb

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unansweredFor makes the connections of a listener end when what was sent has not been acknowledged for d.
func unansweredFor(d time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if refused := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		}); refused != nil {
			return refused
		}
		return err
	}
}
