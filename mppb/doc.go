// Package mppb is the protocol: the only types that cross the network. mp.proto says what they mean; `make proto` writes the
// Go files from it.
package mppb

// Protocol is the version of the messages' meaning. Peers of another version are refused.
const Protocol = 1

// PartBytes is the largest data field of a FilePart or StatePart.
const PartBytes = 1 << 20

// MaxMessageBytes is the largest message that anyone accepts.
const MaxMessageBytes = 4 << 20

// WindowBytes is how much of a stream, and of a connection, may be on its way unread. A window of fixed size keeps gRPC from
// measuring the line with a ping for every message that arrives: signs of life would cost three times as much.
const WindowBytes = 4 << 20
