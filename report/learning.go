package report

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"mp/chart"
	"mp/metrics"
)

// learning is the chapter on the course of training.
func (b *builder) learning() {
	b.section(2, "learning", "How it learned")
	known := false
	for _, r := range b.runs {
		if len(r.epochs) == 0 && len(r.validations) == 0 {
			b.lacks(r, "No epoch is recorded: `%s` is missing or holds none.", metrics.MetricsFile)
			continue
		}
		known = true
	}
	if !known {
		return
	}
	all := map[string]chart.Lines{}
	for _, r := range b.runs {
		prefix := ""
		if b.several() {
			prefix = r.Name + ", "
		}
		for _, c := range r.epochCurves(b.ink(r), prefix) {
			f := c.figure
			f.Curves = append(all[c.name].Curves, f.Curves...)
			all[c.name] = f
		}
	}
	b.plot("Top-1 accuracy by epoch. Training is measured on varied images while the weights change, validation on whole images after the epoch.", all[figureTop1])
	b.plot("Loss by epoch. With label smoothing, mixed images or attacks the training's loss is of another kind than the validation's.", all[figureLoss])
	b.plot("Top-1 accuracy by epoch on attacked images that the run does not train on: they are held out.", all[figureRobust])
	b.stepCurves()
	for _, r := range b.runs {
		if len(r.epochs)+len(r.validations) > 0 {
			b.part(r, "epochs")
			b.epochTable(r)
		}
		b.trainingPictures(r)
	}
}

// Names of the figures by epoch.
const (
	figureTop1   = "top1"
	figureLoss   = "loss"
	figureRobust = "robust"
)

// epochFigure is a figure by epoch and its name.
type epochFigure struct {
	name   string
	figure chart.Lines
}

// epochCurves are the run's figures by epoch: validation in an ink, training dashed; names begin with prefix. A run alone has
// another ink for training.
func (r *Run) epochCurves(ink chart.Ink, prefix string) []epochFigure {
	top1 := chart.Lines{XLabel: "epoch", YLabel: "top-1, per cent", WholeX: true, FromZero: true, Height: 300}
	loss := chart.Lines{XLabel: "epoch", YLabel: "loss (cross-entropy)", WholeX: true}
	robust := chart.Lines{XLabel: "epoch", YLabel: "top-1 under attack, per cent", WholeX: true, FromZero: true}
	val := chart.Curve{Name: prefix + "validation", Ink: ink, Dots: len(r.validations) <= 40}
	train := chart.Curve{Name: prefix + "training", Ink: ink, Dashed: true}
	if prefix == "" {
		train.Ink = chart.Series(1)
	}
	valLoss, attacked, trainLoss := val, val, train
	for _, v := range r.validations {
		at := float64(v.Epoch)
		val.Points = append(val.Points, [2]float64{at, v.Top1})
		valLoss.Points = append(valLoss.Points, [2]float64{at, float64(v.Loss)})
		if v.Robust != nil {
			attacked.Points = append(attacked.Points, [2]float64{at, v.Robust.Top1})
		}
	}
	for _, e := range r.epochs {
		train.Points = append(train.Points, [2]float64{float64(e.Epoch), e.Top1})
		trainLoss.Points = append(trainLoss.Points, [2]float64{float64(e.Epoch), float64(e.Loss)})
	}
	top1.Curves, loss.Curves = []chart.Curve{val, train}, []chart.Curve{valLoss, trainLoss}
	if len(attacked.Points) > 0 {
		robust.Curves = []chart.Curve{attacked}
	}
	return []epochFigure{{figureTop1, top1}, {figureLoss, loss}, {figureRobust, robust}}
}

// stepCurves are the figures that are known by update.
func (b *builder) stepCurves() {
	loss := chart.Lines{XLabel: "update", YLabel: "training loss", WholeX: true, Height: 230}
	lr := chart.Lines{XLabel: "update", YLabel: "learning rate", WholeX: true, FromZero: true, Height: 190}
	for _, r := range b.runs {
		l, c := chart.Curve{Name: r.Name, Ink: b.ink(r)}, chart.Curve{Name: r.Name, Ink: b.ink(r)}
		for _, s := range r.steps {
			l.Points = append(l.Points, [2]float64{float64(s.Update), float64(s.Loss)})
			c.Points = append(c.Points, [2]float64{float64(s.Update), s.LearningRate})
		}
		loss.Curves, lr.Curves = append(loss.Curves, l), append(lr.Curves, c)
	}
	b.plot("Training loss by update, each point the mean since the one before.", loss)
	b.plot("Learning rate by update.", lr)
}

// epochTable has a row an epoch, training and validation side by side.
func (b *builder) epochTable(r *Run) {
	t := Table{Caption: "Training and validation by epoch" + b.of(r) + ". The best epoch is marked.", Columns: []Column{
		{"epoch", true}, {"train top-1", true}, {"train top-5", true}, {"train loss", true}, {"val top-1", true}, {"val top-5", true}, {"val loss", true}, {"attacked", true}, {"images/s", true}, {"time", true},
	}}
	rows, order := map[int][]string{}, []int{}
	row := func(epoch int) []string {
		if rows[epoch] == nil {
			rows[epoch] = []string{fmt.Sprint(epoch), "–", "–", "–", "–", "–", "–", "–", "–", "–"}
			order = append(order, epoch)
		}
		return rows[epoch]
	}
	for _, e := range r.epochs {
		c := row(e.Epoch)
		c[1], c[2], c[3], c[8], c[9] = percent(e.Top1), percent(e.Top5), figure(float64(e.Loss), 3), rate(e.ImagesPerSecond), span(e.Seconds)
	}
	best := r.best()
	for i := range r.validations {
		v := &r.validations[i]
		c := row(v.Epoch)
		c[4], c[5], c[6] = percent(v.Top1), percent(v.Top5), figure(float64(v.Loss), 3)
		if v.Robust != nil {
			c[7] = percent(v.Robust.Top1)
		}
	}
	for i, epoch := range order {
		t.Rows = append(t.Rows, rows[epoch])
		if best != nil && best.Epoch == epoch {
			t.Best = i + 1
		}
	}
	b.add(dropEmpty(t))
	if text := r.cost(); text != "" {
		b.add(prose("%s", text))
	}
}

// of names a run in a caption, where there are several.
func (b *builder) of(r *Run) string {
	if b.several() {
		return " of " + r.Name
	}
	return ""
}

// cost says what training took.
func (r *Run) cost() string {
	text := ""
	if s := r.epochSeconds(); s > 0 {
		text = fmt.Sprintf("An epoch's training took %s (median), %s images a second over all epochs.", span(s), rate(r.speed()))
	}
	if m := r.memory(); m > 0 {
		text += fmt.Sprintf(" The most memory that a reported step saw is %s.", mebibytes(m))
	}
	wait, n := 0., 0
	for _, s := range r.steps {
		if !math.IsNaN(s.DataWait) {
			wait, n = wait+s.DataWait, n+1
		}
	}
	if n > 0 {
		text += fmt.Sprintf(" %s %% of the time of its steps was spent waiting for images.", figure(100*wait/float64(n), 1))
	}
	return text
}

// trainingPictures shows what was drawn during training: of each kind the first and the last.
func (b *builder) trainingPictures(r *Run) {
	for _, tag := range []string{metrics.TagImages, metrics.TagSaliency} {
		b.tagged(r, tag)
	}
}

// tagged shows the first and the last picture of a kind; whether there was one.
func (b *builder) tagged(r *Run, tag string) bool {
	var of []metrics.Picture
	for _, p := range r.pictures {
		if p.Tag == tag && filepath.IsLocal(filepath.FromSlash(p.File)) {
			of = append(of, p)
		}
	}
	if len(of) > 2 {
		of = []metrics.Picture{of[0], of[len(of)-1]}
	}
	shown := false
	for _, p := range of {
		caption := fmt.Sprintf("%s of epoch %d%s: %s.", p.Tag, p.Epoch, b.of(r), strings.TrimRight(p.Caption, ". "))
		if m, ok := r.image(filepath.Join(r.Directory, filepath.FromSlash(p.File)), caption); ok {
			b.add(Picture{m, caption})
			shown = true
		}
	}
	return shown
}
