package attack

import (
	"fmt"
	"math"
)

// Change is what an attack did to an image, as pictures of H x W x 3 bytes, RGB.
type Change struct {
	After      []byte  // the attacked image
	Difference []byte  // grey where nothing changed, amplified so that the largest change just fits
	Times      float64 // by how much it is amplified
	Most       float64 // the largest change of a value of 0 to 1
}

// rounding is the largest change of a value that float32 makes of itself.
const rounding = 1e-6

// NewChange compares a picture, H x W x 3 bytes, with the attacked image, 3 x H x W values of 0 to 1.
func NewChange(before []byte, planes []float32) Change {
	c := Change{After: make([]byte, len(before)), Difference: make([]byte, len(before))}
	pixels, far := len(before)/3, make([]float64, len(before))
	for p := range pixels {
		for k := range 3 {
			v := float64(planes[k*pixels+p])
			c.After[3*p+k] = byte(math.Round(255 * min(max(v, 0), 1)))
			far[3*p+k] = v - float64(before[3*p+k])/255
			c.Most = max(c.Most, math.Abs(far[3*p+k]))
		}
	}
	if c.Most < rounding {
		c.Most, far = 0, make([]float64, len(before))
	}
	c.Times = .5 / max(c.Most, rounding)
	for i, v := range far {
		c.Difference[i] = byte(math.Round(255 * (.5 + c.Times*v)))
	}
	return c
}

// String says how large the change is and how it is shown.
func (c Change) String() string {
	if c.Most == 0 {
		return "the image is as it was"
	}
	return fmt.Sprintf("x %.0f, at most %.2f/255", c.Times, 255*c.Most)
}
