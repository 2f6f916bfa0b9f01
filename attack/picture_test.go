package attack

import (
	"bytes"
	"testing"
)

func TestChangeIsShownAsLargeAsItFits(t *testing.T) {
	before := []byte{0, 100, 255, 50, 100, 200} // two pixels
	planes := make([]float32, 6)
	for i, b := range before {
		planes[i%3*2+i/3] = float32(b) / 255
	}
	if c := NewChange(before, planes); !bytes.Equal(c.After, before) || c.String() != "the image is as it was" || !bytes.Equal(c.Difference, bytes.Repeat([]byte{128}, 6)) {
		t.Errorf("no change: got %+v, %s", c, c)
	}
	planes[0] += 4. / 255  // red of the first
	planes[3] -= 2. / 255  // green of the second
	planes[4] += 10. / 255 // blue of the first, beyond white
	c := NewChange(before, planes)
	if want := []byte{4, 100, 255, 50, 98, 200}; !bytes.Equal(c.After, want) {
		t.Errorf("after: got %v, want %v", c.After, want)
	}
	if want := []byte{179, 128, 255, 128, 102, 128}; !bytes.Equal(c.Difference, want) || c.String() != "x 13, at most 10.00/255" {
		t.Errorf("difference: got %v, %s; want %v", c.Difference, c, want)
	}
}
