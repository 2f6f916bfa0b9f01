package membership

import "testing"

// data.Fingerprint is held to the same numbers.
func TestFingerprintIsSplitMix64sFinaliser(t *testing.T) {
	for id, want := range map[int32]uint64{0: 0x5692161d100b05e5, 1: 0xdbd238973a2b148a, 2: 0x1e535eede31428f0, 99_999: 0x85d0387638d47bc6} {
		if got := Fingerprint(id); got != want {
			t.Errorf("image %d: got %#x, want %#x", id, got, want)
		}
	}
	if got, want := fingerprints(3), Fingerprint(0)+Fingerprint(1)+Fingerprint(2); got != want {
		t.Errorf("three images: got %#x, want %#x", got, want)
	}
}

// data.HoldOut is held to the same numbers.
func TestWhatIsHeldOutIsWhatWorkersHoldOut(t *testing.T) {
	for _, c := range []struct {
		size, n uint32
		want    uint64
	}{{10, 0, 0}, {10, 3, 0xdc6f45454b017445}, {45, 6, 0x9722fcefbabf19f2}, {100_000, 500, 0x8529bf8d94d4abe1}} {
		if got := heldOut(c.size, c.n); got != c.want {
			t.Errorf("%d of %d: got %#x, want %#x", c.n, c.size, got, c.want)
		}
	}
}
