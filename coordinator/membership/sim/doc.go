// Package sim lets membership decide about workers that do not exist: a deterministic simulation of a cluster, its network
// and its raft log in virtual time, without goroutines, in which workers and leaders die at the worst moments. After every
// event it checks what must hold. The same seed gives the same story on any machine.
//
// It owns no rule of membership: it calls State.Apply and Leader as package coordinator does. It must never read a clock or
// draw a random number that is not the seed's. Start reading at Run.
package sim
