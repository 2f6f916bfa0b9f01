// Package sim lets membership decide about workers that do not exist: a deterministic simulation of a cluster, its network
// and its raft log in virtual time, without goroutines, in which workers and leaders fail at the worst moments. After every
// event it checks what must hold. The same seed gives the same story on any machine.
//
// It owns no rule of membership: it calls State.Apply and Leader as package coordinator does, and its workers do what those
// of package worker do, with sums of hashes for gradients. It must never read a clock or draw a random number that is not
// the seed's. Start reading at Run; Crowd is the other thing in here, a thousand workers whose control plane is measured.
package sim
