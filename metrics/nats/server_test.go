package nats

import (
	"flag"
	"fmt"
	"net"
	"net/url"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"mp/metrics"
)

func TestCredentials(t *testing.T) {
	const secret = "s3cret-word"
	var log logText
	for _, c := range []Credentials{{User: "ann", Password: secret}, {Token: secret}} {
		t.Run(c.String(), func(t *testing.T) {
			config := DefaultServerConfig(t.TempDir())
			config.Credentials, config.Logger = c, log.logger()
			server, _ := startServer(t, config)
			wrong := DefaultSinkConfig(server.URL(), "j", "1")
			wrong.Credentials, wrong.Logger, wrong.FlushWithin = Credentials{User: c.User, Password: secret + "x"}, log.logger(), 0
			if c.Token != "" {
				wrong.Credentials = Credentials{Token: secret + "x"}
			}
			newSink(t, wrong).Emit(story("refused"))
			within(t, "the log says why", func() bool { return strings.Contains(log.String(), "NATS is away; metrics wait") })
			right := DefaultSinkConfig(server.URL(), "j", "1")
			right.Credentials = c
			newSink(t, right).Emit(story("taken"))
			m := &memory{}
			reader := DefaultRecorderConfig(server.URL(), "test")
			reader.Credentials = c
			startRecorder(t, reader, func(string) (metrics.Sink, error) { return m, nil })
			within(t, "the event", func() bool { return m.len() == 1 && m.all()[0].Story.Text == "taken" })
			user := url.User(c.Token)
			if c.User != "" {
				user = url.UserPassword(c.User, c.Password)
			}
			inURL := DefaultSinkConfig("nats://"+user.String()+"@"+strings.TrimPrefix(server.URL(), "nats://"), "j", "1")
			inURL.Logger = log.logger()
			newSink(t, inURL).Emit(story("taken too"))
			within(t, "the event of credentials in the URL", func() bool { return m.len() == 2 })
		})
	}
	c := Credentials{User: "ann", Password: secret}
	log.logger().Info("print", "credentials", c, "config", fmt.Sprintf("%v %+v %#v", c, c, SinkConfig{Credentials: Credentials{Token: secret}}))
	if strings.Contains(log.String(), secret) {
		t.Errorf("a secret is in the log:\n%s", log.String())
	}
}

// A server of others with accounts: a credentials file, and a stream that this program makes there.
func TestCredentialsFileOfAnExternalServer(t *testing.T) {
	key := func(make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		k, err := make()
		if err != nil {
			t.Fatal(err)
		}
		public, err := k.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return k, public
	}
	must := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	operator, operatorID := key(nkeys.CreateOperator)
	_, systemID := key(nkeys.CreateAccount)
	account, accountID := key(nkeys.CreateAccount)
	user, userID := key(nkeys.CreateUser)
	resolver := &server.MemAccResolver{}
	system := jwt.NewAccountClaims(systemID)
	ours := jwt.NewAccountClaims(accountID)
	ours.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: 4 << 30, Streams: 10, Consumer: 10}
	for _, a := range []*jwt.AccountClaims{system, ours} {
		if err := resolver.Store(a.Subject, must(a.Encode(operator))); err != nil {
			t.Fatal(err)
		}
	}
	external, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 1 << 20,
		TrustedOperators: []*jwt.OperatorClaims{jwt.NewOperatorClaims(operatorID)}, SystemAccount: systemID, AccountResolver: resolver,
	})
	if err != nil {
		t.Fatal(err)
	}
	external.Start()
	defer external.WaitForShutdown()
	defer external.Shutdown()
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(must(jwt.NewUserClaims(userID).Encode(account)), seed)
	if err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "mp.creds", file)

	sinkConfig := DefaultSinkConfig(external.ClientURL(), "j", "1")
	sinkConfig.Credentials.File = path
	newSink(t, sinkConfig).Emit(story("here"))
	m := &memory{}
	recorderConfig := DefaultRecorderConfig(external.ClientURL(), "test")
	recorderConfig.Credentials.File = path
	startRecorder(t, recorderConfig, func(string) (metrics.Sink, error) { return m, nil })
	within(t, "the event", func() bool { return m.len() == 1 })
}

// Nothing of the server library reaches into the process: no flags, and signals keep their meaning.
func TestServerLeavesTheProcessAlone(t *testing.T) {
	flag.VisitAll(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			t.Errorf("flag -%s is registered", f.Name)
		}
	})
	for _, sent := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(sent) { // by whoever started the tests, as nohup does; children inherit it
			continue
		}
		c := startChild(t, "server", t.TempDir())
		if err := c.cmd.Process.Signal(sent); err != nil {
			t.Fatal(err)
		}
		_ = c.cmd.Wait()
		if status := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != sent {
			t.Errorf("%v: got %v, want the process ended by it", sent, c.cmd.ProcessState)
		}
	}
}

func TestOneServerAStore(t *testing.T) {
	store := t.TempDir()
	startServer(t, DefaultServerConfig(store))
	second, err := NewServer(DefaultServerConfig(store))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v, want that the store is in use", err)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	config := DefaultServerConfig(t.TempDir())
	config.Listen = l.Addr().String()
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), config.Listen) {
		t.Errorf("got %v, want that %s is in use", err, config.Listen)
	}
	if s.URL() != "" {
		t.Errorf("URL: got %s of a server that never was", s.URL())
	}
}

// The bounds of a store may change from one start to the next, and are kept.
func TestOldEventsMakeRoom(t *testing.T) {
	store := t.TempDir()
	_, stop := startServer(t, DefaultServerConfig(store))
	stop()
	config := DefaultServerConfig(store)
	config.MaxBytes = 1 << 20
	server, _ := startServer(t, config)
	sink := newSink(t, DefaultSinkConfig(server.URL(), "j", "1"))
	for range 30 {
		sink.Emit(story(strings.Repeat("x", 100_000)))
	}
	within(t, "all are stored", func() bool { return streamState(t, server.URL()).LastSeq == 30 })
	if state := streamState(t, server.URL()); state.Bytes > 1<<20 || state.Msgs < 5 {
		t.Errorf("stored: got %d events in %d bytes, want the newest up to 1 MiB", state.Msgs, state.Bytes)
	}
}

func TestAdvertisedAddress(t *testing.T) {
	for _, c := range []struct{ advertise, want string }{
		{"", "nats://127.0.0.1:77"}, {"a.example", "nats://a.example:77"}, {"a.example:5", "nats://a.example:5"}, {"a.example:0", "nats://a.example:77"}, {"::1", "nats://[::1]:77"},
	} {
		s := &Server{c: ServerConfig{Advertise: c.advertise}}
		if got := s.urlAt("127.0.0.1", 77); got != c.want {
			t.Errorf("%q: got %s, want %s", c.advertise, got, c.want)
		}
	}
}
