package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
	"mp/ops/pixel"
)

// topFive is how many labels the challenge asks for.
const topFive = 5

// newPredictCommand returns `mp predict`.
func newPredictCommand(e *env) *cobra.Command {
	var n networkFlags
	var out string
	classes := 100
	c := &cobra.Command{
		Use:   "predict IMAGES --checkpoint F",
		Short: "Write the five most likely classes of every image, in the challenge's format",
		Long: "Write the five most likely classes of every image, most likely first, one line an image:\n" +
			"test/00000001.jpg 5 60 3 9 10. IMAGES is a folder of JPEGs or a pack; images of other sizes than 128x128 are\n" +
			"scaled to 128 at their short side and cropped in the middle.",
		Example: "  mp predict miniplaces/images/test --checkpoint runs/20260102-030405-scenenet --mirror --out predictions.txt\n  mp predict miniplaces/val.pack --checkpoint model_best.pth.tar",
		Args:    exactArgs("IMAGES"),
	}
	n.add(c)
	c.Flags().StringVar(&out, "out", "", "file to write to; default: standard output")
	c.Flags().IntVar(&classes, "classes", classes, "classes that the networks know")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := n.check(); err != nil {
			return err
		}
		images, closeImages, err := openImages(args[0], classes)
		if err != nil {
			return err
		}
		defer closeImages()
		return predict(c.Context(), e, n, images, out)
	}
	return c
}

// namedImages are images with names: a pack, or a folder.
type namedImages interface {
	data.Images
	Name(i int) string
}

// openImages opens a pack or reads a folder of JPEGs.
func openImages(path string, classes int) (namedImages, func(), error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: no images at %s: give a folder of JPEGs or a pack", job.ErrConfig, path)
	}
	if info.IsDir() {
		f, err := readFolder(path, classes)
		return f, func() {}, err
	}
	p, err := data.OpenPack(path)
	if err != nil {
		return nil, nil, err
	}
	return p, func() { p.Close() }, nil
}

// prediction is one line of the result, as JSON.
type prediction struct {
	Image  string `json:"image"`
	Labels []int  `json:"labels"` // most likely first
}

func predict(ctx context.Context, e *env, n networkFlags, images namedImages, out string) (err error) {
	networks, closeNetworks, err := n.open(ctx, len(images.Classes()))
	if err != nil {
		return err
	}
	defer closeNetworks()
	loader, err := n.loader(images)
	if err != nil {
		return err
	}
	defer loader.Close()
	var all []prediction
	bar := e.progress("predict", int64(images.Len()))
	err = networks.Top(ctx, loader, topFive, func(ids []int32, labels [][]int) {
		for i, id := range ids {
			all = append(all, prediction{images.Name(int(id)), labels[i]})
		}
		bar.Add(int64(len(ids)))
	})
	if out != "" || e.json {
		bar.Finish()
	}
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(map[string][]prediction{"images": all})
	}
	if out == "" {
		return writePredictions(e.stdout, all)
	}
	f, err := os.Create(out + ".new")
	if err != nil {
		return fmt.Errorf("write predictions: %w", err)
	}
	if err := errors.Join(writePredictions(f, all), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write predictions: %w", err), os.Remove(out+".new"))
	}
	return os.Rename(out+".new", out)
}

func writePredictions(w io.Writer, all []prediction) error {
	b := bufio.NewWriter(w)
	for _, p := range all {
		fmt.Fprint(b, p.Image)
		for _, label := range p.Labels {
			fmt.Fprint(b, " ", label)
		}
		fmt.Fprintln(b)
	}
	return b.Flush()
}

// folder is the JPEGs below a directory, decoded.
type folder struct {
	names   []string
	records []byte
	classes []string
}

func (f *folder) Len() int            { return len(f.names) }
func (f *folder) Classes() []string   { return f.classes }
func (f *folder) Label(int) int       { return -1 }
func (f *folder) Records() []byte     { return f.records }
func (f *folder) Check([]int32) error { return nil }
func (f *folder) Name(i int) string   { return f.names[i] }

// readFolder decodes every JPEG below dir, in the order of their names, which begin with dir's own: test/00000001.jpg.
func readFolder(dir string, classes int) (*folder, error) {
	f := &folder{classes: make([]string, classes)}
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ext := strings.ToLower(filepath.Ext(path)); err == nil && !d.IsDir() && (ext == ".jpg" || ext == ".jpeg") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%w: no JPEG in %s", job.ErrConfig, dir)
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	var bad []error
	for _, path := range paths {
		record, err := readRecord(path)
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", path, err))
			continue
		}
		inside, err := filepath.Rel(dir, path)
		if err != nil {
			return nil, err
		}
		f.records = append(f.records, record...)
		f.names = append(f.names, filepath.ToSlash(filepath.Join(filepath.Base(absolute), inside)))
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("read images: %d of %d cannot be used: %w", len(bad), len(paths), errors.Join(bad[:min(len(bad), 20)]...))
	}
	return f, nil
}

// readRecord decodes one JPEG to the 128x128 pixels that networks see.
func readRecord(path string) ([]byte, error) {
	jpeg, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := pixel.DecodeAny(jpeg)
	if err != nil {
		return nil, err
	}
	if m, err = pixel.ScaleShort(m, pixel.Side, pixel.Bilinear); err != nil {
		return nil, err
	}
	if m, err = pixel.CropCentre(m, pixel.Side, pixel.Side); err != nil {
		return nil, err
	}
	return m.Pix, nil
}
