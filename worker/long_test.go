//go:build long

package worker

// everything says that tests try all combinations: make drills.
const everything = true
