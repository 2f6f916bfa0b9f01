package worker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mp/mppb"
	"mp/ops"
)

// aNode is a node that belongs to a script.
func aNode(t *testing.T, sessions ...func(*call) error) *Node {
	t.Helper()
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(device.Close)
	p := packs(t)
	c := DefaultNodeConfig()
	c.Coordinators, c.Listen, c.Machine, c.Scratch = []string{perform(t, sessions...)}, "127.0.0.1:0", "m", t.TempDir()
	c.Device, c.Train, c.Val = device, p[0], p[1]
	n, err := NewNode(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhoIsAskedToLeaveGoes(t *testing.T) {
	welcome := func(o *call) error {
		if err := o.welcome(5); err != nil {
			return err
		}
		_, err := o.until(func(*mppb.Status) bool { return true })
		return err
	}
	leave := func(o *call) error {
		if _, err := o.until(func(s *mppb.Status) bool { return s.GetLeaving() }); err != nil {
			return err
		}
		return o.refuse(mppb.Refusal_DRAINED, "you may go")
	}
	for _, c := range []struct {
		name     string
		sessions func(now, asked chan struct{}) []func(*call) error // now is closed when the node is asked, asked after that
		patience time.Duration
		want     string
	}{
		{"before it belongs to anybody", func(now, _ chan struct{}) []func(*call) error {
			close(now)
			return nil
		}, time.Minute, "before anybody had need"},
		{"given leave", func(now, _ chan struct{}) []func(*call) error {
			return []func(*call) error{func(o *call) error {
				err := welcome(o)
				close(now)
				return errors.Join(err, leave(o))
			}}
		}, time.Minute, "you may go"},
		{"asked while the leader changes", func(now, asked chan struct{}) []func(*call) error {
			return []func(*call) error{welcome, func(o *call) error {
				close(now)
				<-asked
				return errors.Join(o.welcome(5), leave(o))
			}}
		}, time.Minute, "you may go"},
		{"never given leave", func(now, _ chan struct{}) []func(*call) error {
			return []func(*call) error{func(o *call) error {
				err := welcome(o)
				close(now)
				<-o.Context().Done()
				return err
			}}
		}, 100 * time.Millisecond, "nobody gave this worker leave"},
	} {
		t.Run(c.name, func(t *testing.T) {
			now, asked := make(chan struct{}), make(chan struct{})
			n := aNode(t, c.sessions(now, asked)...)
			n.patience = c.patience
			ended := make(chan error, 1)
			go func() { ended <- n.Run(t.Context()) }()
			<-now
			n.Drain()
			n.Drain()
			close(asked)
			if err := end(t, ended); !errors.Is(err, ErrDrained) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrDrained and %q", err, c.want)
			}
		})
	}
}
