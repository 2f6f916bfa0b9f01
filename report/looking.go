package report

import (
	"fmt"
	"path"
	"slices"
)

// looking is the chapter on where networks look.
func (b *builder) looking() {
	b.section(2, "looking", "Where it looks")
	together := b.together()
	if together {
		b.mapsBeside()
	}
	for _, r := range b.runs {
		b.part(r, "looking")
		if s := r.saliency; s != nil {
			if !together {
				b.maps(r, s)
			}
		} else {
			b.lacks(r, "No saliency maps: run `mp report %s` where the images are, without `--no-compute`.", r.place())
		}
		b.scores(r)
	}
}

// together says whether all runs were asked about the same images by the same methods, and few enough to stand side by side.
func (b *builder) together() bool {
	const most = 6
	first := b.runs[0].saliency
	if !b.several() || len(b.runs) > most || first == nil {
		return false
	}
	return !slices.ContainsFunc(b.runs, func(r *Run) bool {
		return r.saliency == nil || !slices.Equal(r.saliency.Methods, first.Methods) || !slices.Equal(r.saliency.Classes, first.Classes) ||
			!slices.EqualFunc(r.saliency.Images, first.Images, func(x, y SaliencyImage) bool { return x.Name == y.Name })
	})
}

// shownBeside is how many images stand beside those of other runs.
const shownBeside = 6

// mapsBeside shows the same images through the eyes of all runs, method by method.
func (b *builder) mapsBeside() {
	first := b.runs[0]
	for k, method := range first.saliency.Methods {
		g := Gallery{Columns: 1 + len(b.runs), Caption: fmt.Sprintf("The same validation images, and where each run's best checkpoint looks by %s. Below an image what is true; below a map whose it is, and what that network says.", method)}
		for i, m := range first.saliency.Images[:min(shownBeside, len(first.saliency.Images))] {
			truth := "?"
			if m.True >= 0 {
				truth = spoken(first.saliency.Classes[m.True])
			}
			picture, ok := first.computedImage(m.File, "An image of "+truth)
			tiles := []Tile{{picture, truth, path.Base(m.Name)}}
			for _, r := range b.runs {
				m := r.saliency.Images[i]
				said := spoken(r.saliency.Classes[m.Said])
				over, found := r.computedImage(m.Maps[k], fmt.Sprintf("Where %s looks in it by %s, saying %s", r.Name, method, said))
				ok = ok && found
				tiles = append(tiles, Tile{over, r.Name, fmt.Sprintf("said %s, %.0f\u00a0%%", said, 100*m.Sure)})
			}
			if ok {
				g.Tiles = append(g.Tiles, tiles...)
			}
		}
		if len(g.Tiles) > 0 {
			b.add(g)
		}
	}
}

// maps shows images with where the network looked in them.
func (b *builder) maps(r *Run, s *Saliency) {
	per := 1 + len(s.Methods)
	g := Gallery{Columns: per * max(1, 6/per)}
	shares := "red where it exceeds twice its mean"
	g.Caption = fmt.Sprintf("Validation images and where the best checkpoint looks%s: %s. Saliency is the gradient of the loss of its own choice, the largest of three channels, %s.", b.of(r), joined(s.Methods), shares)
	for _, m := range s.Images {
		truth := "?"
		if m.True >= 0 {
			truth = spoken(s.Classes[m.True])
		}
		said := spoken(s.Classes[m.Said])
		picture, ok := r.computedImage(m.File, "An image of "+truth)
		if !ok {
			continue
		}
		tiles := []Tile{{picture, truth, fmt.Sprintf("said %s, %.0f\u00a0%%", said, 100*m.Sure)}}
		for i, file := range m.Maps {
			over, ok := r.computedImage(file, fmt.Sprintf("Where the network looks in it by %s, saying %s", s.Methods[i], said))
			if !ok {
				break
			}
			tiles = append(tiles, Tile{over, s.Methods[i], ""})
		}
		if len(tiles) == per {
			g.Tiles = append(g.Tiles, tiles...)
		}
	}
	if len(g.Tiles) > 0 {
		b.add(g)
	}
}

// scores is how far the maps can be believed, where `mp explain --scores` measured it.
func (b *builder) scores(r *Run) {
	t := Table{Caption: "How far to believe the maps" + b.of(r) + ": deletion, area under the label's probability as pixels go (small is good); insertion, as they come (large is good); infidelity, squared error of what small noise does to the logit (small is good).",
		Columns: []Column{{"method", false}, {"images", true}, {"deletion", true}, {"insertion", true}, {"infidelity", true}}}
	value := func(v *float64) string {
		if v == nil {
			return "–"
		}
		return fmt.Sprintf("%.3g", *v)
	}
	for _, row := range r.explained {
		if row.Deletion != nil {
			t.Rows = append(t.Rows, []string{row.Method, fmt.Sprint(row.Images), value(row.Deletion), value(row.Insertion), value(row.Infidelity)})
		}
	}
	if len(t.Rows) > 0 {
		b.add(t)
		return
	}
	b.lacks(r, "No scores of the maps: run `mp explain %s --checkpoint %s --method saliency,gradcam --scores --out %s/%s/explain`.", r.data(), r.place(), r.place(), Folder)
}
