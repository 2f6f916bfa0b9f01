package data

import "testing"

func TestFingerprintsTellMultisetsApart(t *testing.T) {
	var sum, twice uint64
	seen := map[uint64]bool{}
	for id := range int32(10_000) {
		f := Fingerprint(id)
		if f == 0 || seen[f] {
			t.Fatalf("image %d: %#x is 0 or another image's", id, f)
		}
		seen[f] = true
		sum += f
		if id != 17 {
			twice += f
		}
	}
	if twice += Fingerprint(18); twice == sum {
		t.Error("image 18 in the place of 17 goes unnoticed")
	}
}

// The coordinator has the same function; both are held to these numbers.
func TestFingerprintIsSplitMix64sFinaliser(t *testing.T) {
	for id, want := range map[int32]uint64{0: 0x5692161d100b05e5, 1: 0xdbd238973a2b148a, 2: 0x1e535eede31428f0, 99_999: 0x85d0387638d47bc6} {
		if got := Fingerprint(id); got != want {
			t.Errorf("image %d: got %#x, want %#x", id, got, want)
		}
	}
}
