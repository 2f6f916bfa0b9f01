package mppb

import (
	"syscall"
	"time"
)

// userTimeout is TCP_USER_TIMEOUT, which package syscall does not have: see tcp(7).
const userTimeout = 18

// unansweredFor makes the connections of a listener end when what was sent has not been acknowledged for d.
func unansweredFor(d time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if refused := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(d.Milliseconds()))
		}); refused != nil {
			return refused
		}
		return err
	}
}
