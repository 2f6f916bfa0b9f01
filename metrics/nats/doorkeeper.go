package nats

import (
	"crypto/tls"

	"github.com/nats-io/nats-server/v2/server"
)

// doorkeeper lets in whoever has come through a server's TLS, and holds some of them to reading.
type doorkeeper struct {
	readOnly func(tls.ConnectionState) bool // nil: nobody
}

// Check is NATS's question. Without TLS only this process itself connects.
func (d doorkeeper) Check(c server.ClientAuthentication) bool {
	s := c.GetTLSConnectionState()
	if s == nil || d.readOnly == nil || !d.readOnly(*s) {
		return true
	}
	// What a Follower needs: the stream's state, a consumer of its own, its messages, and answers.
	c.RegisterUser(&server.User{Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"$JS.API.STREAM.INFO." + streamName, "$JS.API.CONSUMER.CREATE." + streamName + ".>", "$JS.API.CONSUMER.MSG.NEXT." + streamName + ".*",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>", "mp.>"}},
	}})
	return true
}
