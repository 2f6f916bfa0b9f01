package report

import (
	"fmt"
	"math"

	"mp/chart"
)

// convolutions is the chapter on our own convolution beside the library's.
func (b *builder) convolutions() {
	own, library := b.convolutionPair()
	if own == nil {
		return
	}
	b.section(2, "convolution", "Our own convolution beside the library's")
	if own.best() == nil || library.best() == nil {
		b.lacks(nil, "%s and %s cannot be compared: a validation is missing.", own.Name, library.Name)
		return
	}
	b.besideTable(own, library)
	b.caution(own, library, "conv")
	loss := chart.Lines{XLabel: "update", YLabel: "training loss", WholeX: true}
	for _, r := range []*Run{library, own} { // ours on top, dashed: both are seen where they are one
		c := chart.Curve{Name: r.option("conv"), Ink: b.ink(r), Dashed: r == own}
		for _, s := range r.steps {
			c.Points = append(c.Points, [2]float64{float64(s.Update), float64(s.Loss)})
		}
		loss.Curves = append(loss.Curves, c)
	}
	b.plot("Loss of training with our own convolution (dashed) and the library's, at the same updates.", loss)
	b.add(b.parting(own, library))
	b.layers(own, library)
	b.causes(own, library)
}

// convolutionPair finds two runs of a model that differ in --conv, and of several such pairs the one that differs least in
// everything else.
func (b *builder) convolutionPair() (own, library *Run) {
	fewest := math.MaxInt
	for _, x := range b.runs {
		for _, y := range b.runs {
			if x.option("conv") != "own" || y.option("conv") != "library" || x.option("model") != y.option("model") {
				continue
			}
			differ := 0
			for _, name := range b.names() {
				if x.option(name) != y.option(name) {
					differ++
				}
			}
			if differ < fewest {
				own, library, fewest = x, y, differ
			}
		}
	}
	return own, library
}

// parting says how alike the losses are: both convolutions compute the same sums in another order.
func (b *builder) parting(own, library *Run) Block {
	at := map[int]float64{}
	for _, s := range library.steps {
		at[s.Update] = float64(s.Loss)
	}
	const apart = .01
	first, most, parts, compared := math.NaN(), 0., 0, 0
	for _, s := range own.steps {
		other, ok := at[s.Update]
		if !ok || math.IsNaN(other) || math.IsNaN(float64(s.Loss)) {
			continue
		}
		gap := math.Abs(float64(s.Loss)-other) / math.Abs(other)
		if compared++; compared == 1 {
			first = gap
		}
		most = max(most, gap)
		if gap > apart && parts == 0 {
			parts = s.Update
		}
	}
	if compared == 0 {
		return prose("The two runs report no update in common: their losses cannot be compared.")
	}
	text := fmt.Sprintf("Over %s that both report, the losses differ by %.2g of their value at first and %.2g at most", count(compared, "update"), first, most)
	if parts == 0 {
		return prose("%s: the curves are one within a hundredth.", text)
	}
	return prose("%s; from update %d on by more than a hundredth. Both compute the same sums in another order, so they round differently, and training makes small differences grow.", text, parts)
}

// layers is what `mp bench conv` measured.
func (b *builder) layers(own, library *Run) {
	rows := own.bench
	if len(rows) == 0 {
		rows = library.bench
	}
	if len(rows) == 0 {
		b.lacks(nil, "No times layer by layer: run `mp bench conv --json > %s/%s/%s` on a quiet machine.", own.place(), Folder, BenchConvFile)
		return
	}
	t := Table{Caption: "Convolutions one by one, as mp bench conv measures them in turn: our own beside the library's.", Columns: []Column{{"what", false}, {"value", true}, {"unit", false}, {"ratio", true}, {"beside", false}}}
	for _, r := range rows {
		beside := "–"
		if r.Ratio != 0 {
			beside = figure(r.Ratio, 2) + " ×"
		}
		t.Rows = append(t.Rows, []string{r.Name, fmt.Sprintf("%.4g", r.Value), r.Unit, beside, r.Peer})
	}
	b.add(t)
}

// causes says what explains the figures, each with the figure that it explains.
func (b *builder) causes(own, library *Run) {
	b.add(Heading{"Causes"})
	var l List
	if u, v := own.speed(), library.speed(); u > 0 && v > 0 {
		l.Items = append(l.Items, spans(fmt.Sprintf("Speed, %s: both end in matrix products of the same size. Ours unfolds patches of the image into columns first, in chunks that stay in the processor's cache or one launch of the GPU, and folds the gradient back; convolutions of one pixel need neither. The library chooses among several ways for each shape. The two runs had the machine at different times: `mp bench conv`, which measures both in turn, judges better.", ratio(u, v))))
	}
	if u, v := own.memory(), library.memory(); u > 0 && v > 0 {
		l.Items = append(l.Items, spans(fmt.Sprintf("Memory, %s: ours keeps the input and the weights for the backward pass, as the library does, and makes patches again, a chunk at a time. Unfolding all images at once, as the textbook does, would hold 12 times the input in SimpleNet's first layer alone.", ratio(float64(u), float64(v)))))
	}
	l.Items = append(l.Items, spans("Loss: the same function and the same gradients up to rounding, from the same first weights and the same batches; see the largest difference above."),
		spans("For comparison, the course's own program on a T4 at batch 256: 4,881 to 6,574 MiB with its own convolution and 3,113 without, 107 to 566 s an epoch and 105 to 155."))
	b.add(l)
}
