package cmd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"

	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/ops/pixel"
	"mp/report"
	"mp/worker"
)

// How much a report shows.
const (
	shownPairs     = 8 // of classes
	shownOfPair    = 3 // images of each class of a pair
	shownSaliency  = 12
	reportQuality  = 92 // of JPEGs
	digestInFolder = 12 // digits
)

// asked is one run's best checkpoint and the images that it is asked about.
type asked struct {
	options reportOptions
	run     string
	spec    job.Spec
	pack    *data.Pack
	source  report.Source
}

// compute asks the run's best checkpoint what the report needs, unless that is known.
func (o reportOptions) compute(ctx context.Context, e *env, in report.Input, spec job.Spec) error {
	best, _, err := checkpoint.Best(in.Directory)
	if err != nil {
		return err
	}
	state, err := checkpoint.Read(best)
	if err != nil {
		return err
	}
	folder := spec.Data
	if o.data != "" {
		folder = o.data
	}
	pack, err := openPack(ctx, e, folder, data.Val)
	if err != nil {
		return fmt.Errorf("%w; --data names another folder of images", err)
	}
	defer pack.Close()
	n := pack.Len()
	if o.images > 0 {
		n = min(n, o.images)
	}
	inside, err := filepath.Rel(in.Directory, best)
	if err != nil {
		return err
	}
	a := asked{options: o, run: in.Directory, spec: spec, pack: pack, source: report.Source{
		Version: report.FormatVersion, Digest: checkpoint.Digest(state.Model), Data: fmt.Sprintf("%x", pack.Hash()), Images: n, Checkpoint: filepath.ToSlash(inside),
	}}
	known, err := report.ReadEvaluation(in.Directory) // one that cannot be read is made again
	if err != nil || known == nil || known.Source != a.source {
		if err := a.evaluate(ctx, e); err != nil {
			return err
		}
	}
	seen, err := report.ReadSaliency(in.Directory)
	source := a.source
	source.Images = min(n, shownSaliency)
	if err != nil || seen == nil || seen.Source != source {
		if err := a.look(ctx, e, source); err != nil {
			return err
		}
	}
	return a.tidy()
}

// firstImages are the first of a pack.
type firstImages struct {
	*data.Pack
	n int
}

func (f firstImages) Len() int { return f.n }

// answer is what the network says of one image.
type answer struct {
	id         int32
	truth      int
	said       int
	sure, loss float64
	top5       bool
}

// answerOf reads a row of logits.
func answerOf(id int32, truth int, logits []float32) answer {
	a := answer{id: id, truth: truth}
	for i, v := range logits {
		if v > logits[a.said] {
			a.said = i
		}
	}
	most, z, before := float64(logits[a.said]), 0., 0
	for i, v := range logits {
		z += math.Exp(float64(v) - most)
		if i != truth && (v > logits[truth] || v == logits[truth] && i < truth) {
			before++
		}
	}
	a.sure, a.loss, a.top5 = 1/z, most+math.Log(z)-float64(logits[truth]), before < topFive
	return a
}

// evaluate finds the confusion matrix, and images of the most confused pairs.
func (a asked) evaluate(ctx context.Context, e *env) error {
	flags := networkFlags{
		checkpoints: []string{a.run}, conv: a.spec.Conv, scale: a.spec.Scale, interpolation: a.spec.Interpolation, precision: job.FP32, batch: a.options.batch,
		seed: a.spec.Seed, device: a.options.device, threads: a.options.threads,
	}
	networks, closeNetworks, err := flags.open(ctx, len(a.pack.Classes()))
	if err != nil {
		return err
	}
	defer closeNetworks()
	loader, err := flags.loader(firstImages{a.pack, a.source.Images})
	if err != nil {
		return err
	}
	defer loader.Close()
	bar := e.progress("evaluate "+filepath.Base(a.run), int64(a.source.Images))
	answers, err := ask(ctx, networks, loader, func(n int) { bar.Add(int64(n)) })
	bar.Finish()
	if err != nil {
		return err
	}
	if len(answers) == 0 {
		return fmt.Errorf("%w: no validation image has a label", data.ErrData)
	}
	found := report.Evaluation{Source: a.source, Model: networks.Models[0].Arch, Parameters: networks.Models[0].Params.Count(), Classes: a.pack.Classes()}
	cells := map[[2]int]int{}
	for _, w := range answers {
		cells[[2]int{w.truth, w.said}]++
		found.Loss += w.loss / float64(len(answers))
		for _, c := range []struct {
			holds bool
			of    *float64
		}{{w.truth == w.said, &found.Top1}, {w.top5, &found.Top5}} {
			if c.holds {
				*c.of += 100 / float64(len(answers))
			}
		}
	}
	if math.IsNaN(found.Loss) || math.IsInf(found.Loss, 0) {
		return fmt.Errorf("%w: the network's answers are no numbers: its training diverged", checkpoint.ErrFormat)
	}
	for key, n := range cells {
		found.Cells = append(found.Cells, report.Cell{True: key[0], Said: key[1], Count: n})
	}
	slices.SortFunc(found.Cells, func(x, y report.Cell) int { return cmp.Or(cmp.Compare(x.True, y.True), cmp.Compare(x.Said, y.Said)) })
	found.Pairs = report.Confused(found.Cells, shownPairs)
	for i := range found.Pairs {
		if err := a.picturePair(&found.Pairs[i], answers, i); err != nil {
			return err
		}
	}
	return a.write(report.EvaluationFile, found)
}

// ask hands every image with a label to the networks.
func ask(ctx context.Context, networks worker.Evaluation, loader *data.Loader, progress func(n int)) ([]answer, error) {
	var out []answer
	for {
		b, err := loader.Next(ctx)
		if errors.Is(err, data.ErrEnd) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		logits, err := networks.Logits(ctx, b)
		if err != nil {
			b.Release()
			return nil, err
		}
		classes := len(logits) / len(b.IDs)
		for i, id := range b.IDs {
			if label := b.Labels[i]; label >= 0 {
				out = append(out, answerOf(id, int(label), logits[i*classes:(i+1)*classes]))
			}
		}
		progress(len(b.IDs))
		b.Release()
	}
}

// picturePair keeps the images of a pair of which the network was surest though it erred.
func (a asked) picturePair(p *report.ConfusedPair, answers []answer, i int) error {
	for _, way := range [][2]int{{p.A, p.B}, {p.B, p.A}} {
		var wrong []answer
		for _, w := range answers {
			if w.truth == way[0] && w.said == way[1] {
				wrong = append(wrong, w)
			}
		}
		slices.SortStableFunc(wrong, func(x, y answer) int { return cmp.Compare(y.sure, x.sure) })
		for k, w := range wrong[:min(shownOfPair, len(wrong))] {
			name, err := a.picture(fmt.Sprintf("pair-%02d-%03d-%d.jpg", i+1, way[0], k+1), a.pack.Record(int(w.id)))
			if err != nil {
				return err
			}
			p.Pictures = append(p.Pictures, report.PairPicture{File: name, Name: a.pack.Name(int(w.id)), True: w.truth, Said: w.said, Sure: w.sure})
		}
	}
	return nil
}

// picture writes an image of a pack's size, and returns its name in the report's folder.
func (a asked) picture(name string, rgb []byte) (string, error) {
	m := image.NewRGBA(image.Rect(0, 0, pixel.Side, pixel.Side))
	for i := range pixel.Side * pixel.Side {
		copy(m.Pix[4*i:], []byte{rgb[3*i], rgb[3*i+1], rgb[3*i+2], 255})
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: reportQuality}); err != nil {
		return "", fmt.Errorf("encode picture: %w", err)
	}
	inside := path.Join(report.PicturesFolder, a.source.Digest[:digestInFolder], name)
	full := filepath.Join(a.run, report.Folder, filepath.FromSlash(inside))
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return "", fmt.Errorf("make the folder for pictures: %w", err)
	}
	return inside, writeWhole(full, b.Bytes())
}

// write keeps what was found. Its pictures are there before it is.
func (a asked) write(name string, found any) error {
	text, err := json.MarshalIndent(found, "", " ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return writeWhole(filepath.Join(a.run, report.Folder, name), append(text, '\n'))
}

// tidy removes pictures of weights that are no longer the best.
func (a asked) tidy() error {
	folder := filepath.Join(a.run, report.Folder, report.PicturesFolder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil // there are none
	}
	for _, e := range entries {
		if len(e.Name()) == digestInFolder && e.Name() != a.source.Digest[:digestInFolder] {
			if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
				return fmt.Errorf("remove pictures of older weights: %w", err)
			}
		}
	}
	return nil
}
