package data

import (
	"image"
	"math"
)

// A synthetic class is a layout that its images share: two areas with a colour and a texture each, the height and slope
// of the line between them, and things of one shape and colour standing about it. Each image moves, scales, recolours
// and relights all of it, adds things that mean nothing, and noise. No single pixel tells the class: mean colours take a
// linear model part of the way, textures and shapes are for convolutions. All arithmetic on pixels is in integers, so an
// image has the same bytes on every machine.
type synthClass struct {
	areas   [2]synthArea // above and below the line
	horizon int          // row of the line at column 64
	slope   int          // rows in 128 columns
	thing   synthThing
	count   int // things in an image, about
}

// synthArea is a colour with a texture over it.
type synthArea struct {
	color, tint [3]int // tint is what the texture adds at its peaks
	kind        int
	turns       int // of the texture over the width of the image, in 1/16
	angle       int // of its waves, 1/65536 of a turn
}

// synthThing is a shape that stands about.
type synthThing struct {
	color [3]int
	shape int
	size  int // half its width in pixels
}

// Textures and shapes by number.
const (
	stripes = iota
	checks
	dots
	waves
	textures
)

const (
	disc = iota
	box
	triangle
	ring
	cross
	shapes
)

// newSynthClass draws the look of a class.
func newSynthClass(seed, class uint64) synthClass {
	r := NewRand(seed, class, purposeSynth)
	c := synthClass{horizon: 32 + r.IntN(64), slope: r.IntN(41) - 20, count: 1 + r.IntN(5)}
	for i := range c.areas {
		c.areas[i] = synthArea{kind: r.IntN(textures), turns: 16*3 + r.IntN(16*17), angle: r.IntN(1 << 15)}
		for k := range 3 {
			c.areas[i].color[k] = 80 + r.IntN(96)
			c.areas[i].tint[k] = r.IntN(71) - 35
		}
	}
	c.thing = randomThing(r)
	return c
}

func randomThing(r *Rand) synthThing {
	t := synthThing{shape: r.IntN(shapes), size: 6 + r.IntN(12)}
	for k := range 3 {
		t.color[k] = 20 + r.IntN(216)
	}
	return t
}

// painter paints images, one after another; it is not for concurrent use.
type painter struct {
	seed    uint64
	classes []synthClass
	sine    [1024]int // one turn, times 1<<14
	img     *image.RGBA
}

func newPainter(seed uint64, classes int) *painter {
	p := &painter{seed: seed, img: image.NewRGBA(image.Rect(0, 0, ImageSize, ImageSize))}
	for c := range classes {
		p.classes = append(p.classes, newSynthClass(seed, uint64(c)))
	}
	for i := range p.sine {
		p.sine[i] = int(math.Round(math.Sin(2*math.Pi*float64(i)/float64(len(p.sine))) * (1 << 14)))
	}
	return p
}

// sin of a turn of 1<<16, times 1<<14.
func (p *painter) sin(turn int) int { return p.sine[turn>>6&1023] }

// paint paints the image of a class that has these keys; the next call paints over it.
func (p *painter) paint(class int, keys ...uint64) *image.RGBA {
	r := NewRand(append([]uint64{p.seed, purposeSynth}, keys...)...)
	c := p.classes[class]
	mirrored := r.IntN(2) == 1
	horizon, slope := c.horizon+r.IntN(41)-20, c.slope+r.IntN(17)-8
	areas := [2]field{p.field(c.areas[0], r), p.field(c.areas[1], r)}
	for y := range ImageSize {
		for x := range ImageSize {
			at := x
			if mirrored {
				at = ImageSize - 1 - x
			}
			f := &areas[0]
			if y > horizon+(slope*(at-ImageSize/2))>>7 {
				f = &areas[1]
			}
			f.put(p, p.img.Pix[(y*ImageSize+x)*4:], at, y)
		}
	}
	for range r.IntN(3) {
		t := randomThing(r)
		p.stamp(t, r.IntN(ImageSize), r.IntN(ImageSize))
	}
	for range max(1, c.count+r.IntN(3)-1) {
		t := c.thing
		t.size = max(4, t.size*(192+r.IntN(128))/256)
		for k := range 3 {
			t.color[k] += r.IntN(81) - 40
		}
		p.stamp(t, r.IntN(ImageSize), horizon+r.IntN(41)-20)
	}
	p.light(r)
	return p.img
}

// field is an area as one image shows it.
type field struct {
	synthArea
	ux, uy, vx, vy, u0, v0 int // turns (of 1<<16) for each column and row, and at the corner
	fade                   int // grey levels lost from top to bottom
}

func (p *painter) field(a synthArea, r *Rand) field {
	f := field{synthArea: a, u0: r.IntN(1 << 16), v0: r.IntN(1 << 16), fade: r.IntN(61) - 20}
	for k := range 3 {
		f.color[k] += r.IntN(121) - 60
	}
	turns := a.turns * (218 + r.IntN(77)) / 256 // -15 % to +15 %
	angle := a.angle + r.IntN(1<<13) - 1<<12    // -22 to +22 degrees
	step := turns << 12 / ImageSize
	f.ux, f.uy = step*p.sin(angle+1<<14)>>14, step*p.sin(angle)>>14
	f.vx, f.vy = -f.uy, f.ux
	return f
}

// put colours one pixel.
func (f *field) put(p *painter, pix []byte, x, y int) {
	u, v := f.u0+x*f.ux+y*f.uy, f.v0+x*f.vx+y*f.vy
	level := 0
	switch f.kind {
	case stripes:
		level = p.sin(u)
	case checks:
		level = 1 << 14
		if (u^v)&(1<<15) != 0 {
			level = -level
		}
	case dots:
		if level = -1 << 12; p.sin(u)+p.sin(v) > 1<<14 {
			level = 1 << 14
		}
	case waves:
		level = p.sin(u + p.sin(v)>>1)
	}
	for k := range 3 {
		pix[k] = clamp(f.color[k] + f.tint[k]*level>>14 - f.fade*y>>7)
	}
}

// stamp draws a thing with its centre at (cx, cy).
func (p *painter) stamp(t synthThing, cx, cy int) {
	s := t.size
	for y := max(cy-s, 0); y <= min(cy+s, ImageSize-1); y++ {
		for x := max(cx-s, 0); x <= min(cx+s, ImageSize-1); x++ {
			if !t.covers(x-cx, y-cy) {
				continue
			}
			for k := range 3 {
				p.img.Pix[(y*ImageSize+x)*4+k] = clamp(t.color[k])
			}
		}
	}
}

// covers says whether a thing covers the point (x, y) seen from its centre, |x| and |y| at most its size.
func (t synthThing) covers(x, y int) bool {
	s := t.size
	switch t.shape {
	case disc:
		return x*x+y*y <= s*s
	case triangle:
		return 2*max(x, -x) <= y+s
	case ring:
		d := x*x + y*y
		return d <= s*s && 4*d >= s*s
	case cross:
		return 3*max(x, -x) <= s || 3*max(y, -y) <= s
	}
	return true // box
}

// light changes brightness and contrast of the whole image and adds noise.
func (p *painter) light(r *Rand) {
	gain, shift := 160+r.IntN(161), r.IntN(61)-30
	noise := 2 + r.IntN(7)
	for at := 0; at < len(p.img.Pix); at += 8 {
		word := r.Uint64()
		for k := at; k < at+8; k++ {
			if k&3 == 3 {
				p.img.Pix[k] = 255
				continue
			}
			// Two bytes a channel would be nearer to a bell; a byte whose nibbles are added is a triangle.
			n := int(word&15) + int(word>>4&15) - 15
			word >>= 8
			p.img.Pix[k] = clamp((int(p.img.Pix[k])-128)*gain>>8 + 128 + shift + n*noise>>2)
		}
	}
}

func clamp(v int) byte { return byte(max(0, min(255, v))) }
