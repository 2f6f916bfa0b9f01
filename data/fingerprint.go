package data

// Fingerprint is 64 bits of an image's number: the finaliser of SplitMix64 (mix64) on id+1. Sums of fingerprints, modulo
// 2^64, tell multisets of images apart: what is missing from a sum and what is in it twice changes it. The coordinator
// computes the same function to prove that an epoch saw every image once.
func Fingerprint(id int32) uint64 { return mix64(uint64(id) + 1) }
