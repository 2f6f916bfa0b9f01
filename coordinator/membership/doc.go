// Package membership decides who is in, which view is in force, who computes which shard, and why. It is pure: it does no
// I/O, reads no clock, draws no random number and starts no goroutine, so that every decision can be replayed.
//
// It has two halves. State is what the coordinators replicate through raft: the same Commands in the same order make the
// same State, byte for byte. Leader is what only the leading coordinator knows and no log holds: who is connected, when it
// was last heard, how fast it is. Leader.Decide looks at both and says which Commands to propose. The coordinator's loop is:
//
//	something happens -> Leader.Arrive, Connected, Heard, Disconnected
//	Leader.Decide(now, state) -> commands -> raft -> State.Apply -> tell workers what changed -> Decide again
//
// Time that decides anything is the leader's own monotonic clock, handed in as a time.Duration since any fixed moment.
// Command.Time is a wall clock for people; nothing is decided by it.
//
// It must never import anything but the standard library's pure parts; the protocol's messages are translated by package
// coordinator. Start reading at Command, then State.Apply, then Leader.Decide. DESIGN.md has the reasons.
package membership
