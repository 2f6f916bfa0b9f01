package data

import (
	"fmt"
	"path"
	"strings"

	"mp/ops/pixel"
)

// Preview says which images to look at, and how varied.
type Preview struct {
	Pack   *Pack
	IDs    []int32
	Recipe Recipe
	Seed   uint64
	Epoch  int
	Step   int  // for the mixing of a batch
	Size   int  // side of the pictures in pixels
	Shards int  // into which a batch is cut before it is mixed; 0 is 1
	Draws  bool // notes say what was drawn
}

// Tiles returns the pictures as a network would see them in training, before normalisation. Titles are classes; notes are
// the names of files, of mixed images the other class, or with Draws what was drawn.
func (p Preview) Tiles() ([]Tile, error) {
	if err := p.Pack.Check(p.IDs); err != nil {
		return nil, err
	}
	n, shards := len(p.IDs), max(p.Shards, 1)
	warps := make([]pixel.Warp, n)
	for i, id := range p.IDs {
		warps[i] = p.Recipe.Draw(p.Seed, p.Epoch, id, p.Size)
	}
	for s := range shards {
		from, to := n*s/shards, n*(s+1)/shards
		p.Recipe.Mix(p.Seed, p.Epoch, p.Step, s, warps[from:to], p.Size)
		for i := from; i < to && warps[i].Mix != pixel.NoMix; i++ {
			warps[i].Mate += int32(from)
		}
	}
	bytes := p.Size * p.Size * 3
	pixels := make([]byte, n*bytes)
	if err := pixel.GatherBytes(pixels, p.Pack.Records(), p.IDs, warps, p.Size); err != nil {
		return nil, err
	}
	tiles := make([]Tile, n)
	for i := range tiles {
		title, other := p.shows(i, &warps[i])
		switch {
		case p.Draws:
			other = describe(&warps[i])
		case other == "":
			other = path.Base(p.Pack.Name(int(p.IDs[i])))
		}
		tiles[i] = Tile{Pixels: pixels[i*bytes : (i+1)*bytes], Side: p.Size, Title: title, Note: other}
	}
	return tiles, nil
}

// shows returns the class that picture i shows most of and, where it is mixed, the other one, each with its share.
func (p Preview) shows(i int, w *pixel.Warp) (most, other string) {
	most = p.class(p.IDs[i])
	if w.Mix == pixel.NoMix {
		return most, ""
	}
	other = p.class(p.IDs[w.Mate])
	percent := int(100*ownShare(w, p.Size) + 0.5)
	most, other = fmt.Sprintf("%s %d %%", most, percent), fmt.Sprintf("%s %d %%", other, 100-percent)
	if percent < 50 {
		return other, most
	}
	return most, other
}

func (p Preview) class(id int32) string {
	label := p.Pack.Label(int(id))
	if label < 0 {
		return "class unknown"
	}
	return strings.ReplaceAll(p.Pack.Classes()[label], "_", " ")
}

// describe says in a few words what a warp does.
func describe(w *pixel.Warp) string {
	var words []string
	det := float64(w.Map[0])*float64(w.Map[4]) - float64(w.Map[1])*float64(w.Map[3])
	if det < 0 {
		words = append(words, "mirror")
	}
	if w.Steps&pixel.EraseArea != 0 {
		words = append(words, "erase")
	}
	if w.Steps&pixel.Sharpen != 0 {
		words = append(words, fmt.Sprintf("sharpness %.1f", float64(w.Sharpness)/pixel.SharpenOne))
	}
	switch w.Tone {
	case pixel.Posterize:
		words = append(words, fmt.Sprintf("%d bits", w.ToneLevel))
	case pixel.Solarize:
		words = append(words, "solarize")
	case pixel.Autocontrast:
		words = append(words, "autocontrast")
	case pixel.Equalize:
		words = append(words, "equalize")
	}
	if w.Border == pixel.Fill {
		words = append(words, "moved")
	}
	words = append(words, [...]string{"nearest", "linear", "cubic"}[w.Interpolation])
	return strings.Join(words, ", ")
}
