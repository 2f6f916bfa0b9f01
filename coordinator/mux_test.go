package coordinator

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// openDoor returns a running door of node "b".
func openDoor(t *testing.T) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(l, Config{ID: "b", Token: "secret", FailAfter: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	ctx, cancel := contextOf(t)
	go func() { done <- d.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

func call(t *testing.T, d *door) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", d.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestDoorHandsOn(t *testing.T) {
	d := openDoor(t)
	for _, c := range []struct {
		lane  *lane
		begin func(net.Conn) error
		want  string
	}{
		{d.grpc, func(c net.Conn) error { _, err := io.WriteString(c, http2Preface+"rest"); return err }, http2Preface + "rest"},
		{d.raft, func(c net.Conn) error {
			if err := introduce(c, "b", hideToken("secret"), 10*time.Second); err != nil {
				return err
			}
			_, err := io.WriteString(c, "raft")
			return err
		}, "raft"},
	} {
		conn := call(t, d)
		done := make(chan error, 1)
		go func() { done <- c.begin(conn) }()
		got, err := c.lane.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		text := make([]byte, len(c.want))
		if _, err := io.ReadFull(got, text); err != nil || string(text) != c.want {
			t.Errorf("got %q, %v; want %q", text, err, c.want)
		}
		got.Close()
	}
}

func TestDoorRefuses(t *testing.T) {
	d := openDoor(t)
	for _, c := range []struct{ id, token, want string }{
		{"b", "other", "another token"},
		{"c", "secret", "another coordinator"},
	} {
		if err := introduce(call(t, d), c.id, hideToken(c.token), 10*time.Second); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with token %s: got %v, want %q", c.id, c.token, err, c.want)
		}
	}
	old := call(t, d)
	io.WriteString(old, raftMagic+"\x00"+strings.Repeat("x", greetingSize-len(raftMagic)-1))
	answer := make([]byte, 1)
	if _, err := io.ReadFull(old, answer); err != nil || verdict(answer[0]) != wrongProtocol {
		t.Errorf("another version: got %v, %v", answer, err)
	}
	web := call(t, d)
	io.WriteString(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := bufio.NewReader(web).ReadString('\n'); err != nil || !strings.Contains(line, "400") {
		t.Errorf("a browser got %q, %v", line, err)
	}
	silent := call(t, d)
	begun := time.Now()
	if _, err := io.ReadAll(silent); err != nil || time.Since(begun) > 5*time.Second {
		t.Errorf("a silent connection ended after %s with %v", time.Since(begun), err)
	}
}
