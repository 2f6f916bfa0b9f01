//go:build !long

package worker

// everything says that tests try all combinations; here they try a few of each kind.
const everything = false
