package worker

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/allreduce"
	"mp/allreduce/rpc"
	"mp/job"
	"mp/mppb"
	"mp/trust"
)

// door is where others reach this worker: peers its ring and its snapshots, by TCP and, from the same machine, by a unix socket;
// clients what it does for them beside its training.
type door struct {
	address string // host:port for peers
	socket  string // path for peers of this machine; empty: none
	machine string
	token   string
	tcp     func(context.Context, string) (net.Conn, error) // to other machines' workers; nil: plain
	log     *slog.Logger

	listeners []net.Listener
	server    *grpc.Server
	rings     *rpc.Server
	serving   sync.WaitGroup
	remove    string // folder of the socket, if it was made for it
}

// clientSilence is for how long a client may be silent: one that was stopped must not keep its place for ever. Rings look at their own
// silence.
const clientSilence = 30 * time.Second

// maxSocketPath is the longest path that every system takes for a unix socket.
const maxSocketPath = 100

// strangersWithin is how long a connection may take to say what it is.
const strangersWithin = 10 * time.Second

// listen takes the addresses; serve must follow, and close gives them back.
func listen(c NodeConfig) (*door, error) {
	d := &door{machine: c.Machine, token: c.Token, tcp: c.towards(trust.Worker), log: c.Logger, rings: rpc.NewServer()}
	for _, left := range []string{"made", "fetched"} { // by a process before
		if err := os.RemoveAll(filepath.Join(c.Scratch, left)); err != nil {
			return nil, fmt.Errorf("clear the scratch folder: %w", err)
		}
	}
	if err := os.MkdirAll(c.Scratch, 0o700); err != nil {
		return nil, fmt.Errorf("make the scratch folder: %w", err)
	}
	l, err := mppb.Listen(c.Listen, clientSilence)
	if err != nil {
		return nil, fmt.Errorf("listen for other workers at %s: %w; give another --listen: %w", c.Listen, err, job.ErrConfig)
	}
	if d.address = c.Advertise; d.address == "" {
		d.address = advertised(l.Addr(), c.Host)
	}
	if c.Trust != nil {
		l = tls.NewListener(l, c.Trust.Server(trust.Worker, trust.Client))
	}
	d.listeners = append(d.listeners, l)
	d.listenLocally(c.Scratch)
	d.server = grpc.NewServer(append(rpc.ServerOptions(), grpc.MaxRecvMsgSize(mppb.MaxMessageBytes), grpc.MaxSendMsgSize(mppb.MaxMessageBytes),
		grpc.Creds(mppb.Shown()), grpc.ConnectionTimeout(strangersWithin),
		mppb.NoKeepalive(), grpc.ChainStreamInterceptor(mppb.Patience(clientSilence, rpc.LinkMethod), d.admit))...)
	d.rings.Register(d.server)
	return d, nil
}

// advertised is a listener's address with the host's name where it listens on every interface.
func advertised(a net.Addr, host string) string {
	t, ok := a.(*net.TCPAddr)
	if !ok || !t.IP.IsUnspecified() || host == "" {
		return a.String()
	}
	return net.JoinHostPort(host, fmt.Sprint(t.Port))
}

// listenLocally opens the unix socket; without one, peers of this machine come by TCP.
func (d *door) listenLocally(scratch string) {
	path, err := filepath.Abs(filepath.Join(scratch, "peers.sock"))
	if err != nil || len(path) > maxSocketPath {
		folder, err := os.MkdirTemp("", "mp-")
		if err != nil {
			return
		}
		d.remove = folder
		path = filepath.Join(folder, "peers.sock")
	}
	_ = os.Remove(path) // of a process that was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		d.log.Info("no unix socket: peers of this machine come by TCP", "reason", err)
		return
	}
	if err := os.Chmod(path, 0o600); err != nil { // the folder may be an old one, and anybody's
		l.Close()
		d.log.Info("no unix socket: peers of this machine come by TCP", "reason", err)
		return
	}
	d.socket = path
	d.listeners = append(d.listeners, l)
}

// serve accepts peers and, where there are errands, clients.
func (d *door) serve(states mppb.PeerServer, errands mppb.ErrandsServer) {
	mppb.RegisterPeerServer(d.server, states)
	if errands != nil {
		mppb.RegisterErrandsServer(d.server, errands)
	}
	for _, l := range d.listeners {
		d.serving.Go(func() {
			if err := d.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				d.log.Warn("peers cannot reach this worker any more", "address", l.Addr().String(), "reason", err)
			}
		})
	}
}

func (d *door) close() {
	d.rings.Close()
	d.server.Stop()
	for _, l := range d.listeners {
		l.Close() // one that was never served is not the server's
	}
	d.serving.Wait()
	if d.remove != "" {
		os.RemoveAll(d.remove)
	}
}

// admit lets only those copy states and send errands who know the cluster's token. A ring's streams are admitted by its
// handshake.
func (d *door) admit(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	// Without TLS, and at the unix socket, which is this user's alone, nobody has a role.
	if p := mppb.CallerOf(stream.Context()); p != (trust.Party{}) && (p.Role == trust.Client) != (info.FullMethod == mppb.Errands_Attack_FullMethodName) {
		return status.Errorf(codes.PermissionDenied, "%s is not for a %s", info.FullMethod, p.Role)
	}
	if d.token != "" && (info.FullMethod == mppb.Peer_State_FullMethodName || info.FullMethod == mppb.Errands_Attack_FullMethodName) {
		got := metadata.ValueFromIncomingContext(stream.Context(), mppb.TokenKey)
		if len(got) != 1 || subtle.ConstantTimeCompare([]byte(got[0]), []byte(d.token)) != 1 {
			return status.Error(codes.Unauthenticated, "the token is missing or wrong: pass --token as the coordinators have it")
		}
	}
	return handler(srv, stream)
}

// reach is the address at which a member is nearest.
func (d *door) reach(m *mppb.Member) string {
	if m.UnixSocket != "" && m.Machine == d.machine {
		return "unix:" + m.UnixSocket
	}
	return m.Address
}

// dial returns a client of a member's Peer service.
func (d *door) dial(m *mppb.Member) (mppb.PeerClient, func() error, error) {
	target := d.reach(m)
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())} // TLS is in tcp
	if target == m.Address {
		target = "passthrough:///" + target
		if d.tcp != nil {
			options = append(options, grpc.WithContextDialer(d.tcp))
		}
	}
	conn, err := grpc.NewClient(target, append(options,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mppb.MaxMessageBytes)), grpc.WithChainStreamInterceptor(d.introduce))...)
	if err != nil {
		return nil, nil, fmt.Errorf("reach %s: %w", m.Name, err)
	}
	return mppb.NewPeerClient(conn), conn.Close, nil
}

// introduce sends the token.
func (d *door) introduce(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if d.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, mppb.TokenKey, d.token)
	}
	return streamer(ctx, desc, cc, method, opts...)
}

// rings forms groups between processes.
type rings struct {
	*door
	failAfter func() time.Duration // how long a peer may be silent
}

func (r rings) form(ctx context.Context, o order) (allreduce.Group, error) {
	members := make([]rpc.Member, len(o.view.Members))
	for i, m := range o.view.Members {
		members[i].Address = r.reach(m)
	}
	return r.rings.Form(ctx, rpc.Config{
		Job: o.view.Job, View: o.view.Number, Rank: o.rank, Members: members,
		Dial: r.tcp, FailAfter: r.failAfter(), Kernels: kernels(), Logger: r.log,
	})
}
