package coordinator

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/mppb"
	"mp/trust"
)

// The first byte of what somebody says in TLS: a handshake, or that it is over before it began.
const (
	tlsHandshake = 0x16
	tlsAlert     = 0x15
)

// noProtocol is the alert of TLS that says so.
const noProtocol = "\x15\x03\x03\x00\x02\x02\x46"

// secure makes TLS of a connection. It returns nil when nothing is left to do with it: the other side is refused, or came to
// exchange a token.
func (d *door) secure(ctx context.Context, conn net.Conn) net.Conn {
	remote := conn.RemoteAddr().String()
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return nil
	}
	if first[0] != tlsHandshake {
		d.log.Warn("refused a connection without TLS", "remote", remote)
		if first[0] == http2Preface[0] || first[0] == raftMagic[0] { // one of ours, which takes this for what it is
			io.WriteString(conn, noProtocol)
		} else {
			io.WriteString(conn, badRequest+"This is a coordinator of mp: it speaks gRPC in TLS, and asks for a certificate.\n")
		}
		return nil
	}
	secure := tls.Server(&prefixed{Conn: conn, first: first}, d.trust)
	if err := secure.HandshakeContext(ctx); err != nil {
		d.log.Warn("refused a connection", "remote", remote, "error", err)
		return nil
	}
	if !trust.Joining(secure.ConnectionState()) {
		return secure
	}
	p, err := d.desk.Serve(secure)
	if err != nil {
		d.log.Warn("refused a join", "remote", remote, "error", err)
	} else {
		d.log.Info("gave a certificate", "remote", remote, "to", p.String())
	}
	secure.CloseWrite()
	return nil
}

// isCoordinator says whether the other side of a connection through the door has a coordinator's certificate.
func isCoordinator(conn net.Conn) bool {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return false
	}
	p, err := trust.PeerOf(secure.ConnectionState())
	return err == nil && p.Role == trust.Coordinator
}

// permissions say which roles may make a call; a coordinator may make every one. A call that is not here, nobody else may.
func permissions() map[string][]trust.Role {
	look := []trust.Role{trust.Viewer, trust.Client}
	change := []trust.Role{trust.Client}
	compute := []trust.Role{trust.Worker}
	return map[string][]trust.Role{
		healthpb.Health_Check_FullMethodName:  trust.Roles(), // whether it lives
		healthpb.Health_List_FullMethodName:   trust.Roles(),
		healthpb.Health_Watch_FullMethodName:  trust.Roles(),
		mppb.Control_Session_FullMethodName:   compute,
		mppb.Control_PutFile_FullMethodName:   compute,
		mppb.Control_HasFile_FullMethodName:   compute,
		mppb.Cluster_Backup_FullMethodName:    nil, // it is everything
		mppb.Cluster_Submit_FullMethodName:    change,
		mppb.Cluster_Steer_FullMethodName:     change,
		mppb.Cluster_Jobs_FullMethodName:      look,
		mppb.Cluster_Show_FullMethodName:      look,
		mppb.Cluster_Status_FullMethodName:    look,
		mppb.Cluster_Workers_FullMethodName:   look,
		mppb.Cluster_Events_FullMethodName:    look,
		mppb.Cluster_ListFiles_FullMethodName: look,
		mppb.Cluster_GetFile_FullMethodName:   append(look, trust.Worker), // a checkpoint to go on from
	}
}

// permit refuses a call that the caller's certificate is not for.
func permit(ctx context.Context, method string) error {
	role := mppb.CallerOf(ctx).Role
	if role == trust.Coordinator {
		return nil
	}
	name := method[strings.LastIndexByte(method, '/')+1:]
	if !slices.Contains(permissions()[method], role) {
		return status.Errorf(codes.PermissionDenied, "%s is not for a %s: use a token or certificate of another role", name, role)
	}
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(nodeKey)) > 0 {
		return status.Error(codes.PermissionDenied, fmt.Sprintf("a %s calls as if it were a coordinator", role))
	}
	return nil
}
