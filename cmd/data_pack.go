package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mp/data"
)

func newDataPack(e *env) *cobra.Command {
	var out string
	var splits []string
	var jobs int
	c := &cobra.Command{
		Use:   "pack DIR",
		Short: "Decode a data set once into the packs that training reads",
		Long: "pack decodes every listed JPEG of the MiniPlaces root DIR into DIR/train.pack and DIR/val.pack: 49,152 bytes an\n" +
			"image, memory-mapped by training. A pack appears only when it is complete. Files that cannot be used are counted\n" +
			"and the first twenty named; then no pack of that split is written.",
		Example: "  mp data pack miniplaces\n  mp data pack miniplaces --out /fast/disk --split val",
		Args:    exactArgs("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			return packData(c.Context(), e, args[0], out, splits, jobs)
		},
	}
	c.Flags().StringVar(&out, "out", "", "folder for the packs, made when missing; empty: DIR")
	c.Flags().StringSliceVar(&splits, "split", nil, "splits to pack: train, val, test; empty: those of train and val that have a list")
	c.Flags().IntVar(&jobs, "jobs", 0, "goroutines that decode; 0 is one for each processor")
	return c
}

// packRow is one pack that `mp data pack` wrote.
type packRow struct {
	Pack            string  `json:"pack"`
	Split           string  `json:"split"`
	Images          int     `json:"images"`
	Classes         int     `json:"classes"`
	Bytes           int64   `json:"bytes"`
	Hash            string  `json:"hash"`
	Seconds         float64 `json:"seconds"`
	ImagesPerSecond float64 `json:"images_per_second"`
}

func packData(ctx context.Context, e *env, dir, out string, names []string, jobs int) error {
	root, err := data.OpenRoot(dir)
	if err != nil {
		return err
	}
	splits, err := chooseSplits(root, names)
	if err != nil {
		return err
	}
	if out == "" {
		out = dir
	} else if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("%w: --out: %w", data.ErrData, err)
	}
	rows := []packRow{}
	for _, split := range splits {
		row, err := packSplit(ctx, e, data.PackConfig{Root: root, Split: split, Path: data.PackPath(out, split), Decoder: decoder{}, Workers: jobs})
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if e.json {
		return e.printJSON(map[string]any{"packs": rows})
	}
	w := tabwriter.NewWriter(e.human(), 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d images\t%d classes\t%s\thash %.16s\n", r.Pack, r.Images, r.Classes, gigabytes(r.Bytes), r.Hash)
	}
	fmt.Fprintf(w, "next: mp train %s\n", out)
	return w.Flush()
}

// chooseSplits reads --split; without it train and val are packed, as far as the root lists them.
func chooseSplits(root *data.Root, names []string) ([]data.Split, error) {
	var chosen []data.Split
	for _, n := range names {
		s := data.Split(n)
		if s != data.Train && s != data.Val && s != data.Test {
			return nil, fmt.Errorf("%w: --split %s: choose from train, val, test", data.ErrData, n)
		}
		chosen = append(chosen, s)
	}
	if len(names) > 0 {
		return chosen, nil
	}
	for _, s := range root.Splits() {
		if s != data.Test {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%w: %s lists no training or validation images; pack its test images with --split test", data.ErrData, root.Dir())
	}
	return chosen, nil
}

func packSplit(ctx context.Context, e *env, c data.PackConfig) (packRow, error) {
	report, end := follow("pack "+string(c.Split), e.progress)
	c.Progress = counted(report)
	start := time.Now()
	err := data.WritePack(ctx, c)
	end()
	if err != nil {
		return packRow{}, err
	}
	seconds := time.Since(start).Seconds()
	p, err := data.OpenPack(c.Path)
	if err != nil {
		return packRow{}, err
	}
	defer p.Close()
	return packRow{
		Pack: p.Path(), Split: string(p.Split()), Images: p.Len(), Classes: len(p.Classes()), Bytes: p.Size(),
		Hash: fmt.Sprintf("%x", p.Hash()), Seconds: seconds, ImagesPerSecond: float64(p.Len()) / seconds,
	}, nil
}

func newDataVerify(e *env) *cobra.Command {
	var jobs int
	c := &cobra.Command{
		Use:   "verify DIR|PACK",
		Short: "Check every list, image and pack of a data set",
		Long: "verify goes over a MiniPlaces root: every line of its lists, every label, every listed file (is it there, does it\n" +
			"decode, is it 128x128), images listed twice, and, as notes, images that are copies of others. It also verifies the\n" +
			"packs that lie there, to the last bit, and compares them with the lists. Given a .pack file it verifies that alone.",
		Example: "  mp data verify miniplaces\n  mp data verify miniplaces/train.pack --json",
		Args:    exactArgs("DIR"),
		RunE:    func(c *cobra.Command, args []string) error { return verifyData(c.Context(), e, args[0], jobs) },
	}
	c.Flags().IntVar(&jobs, "jobs", 0, "goroutines that decode; 0 is one for each processor")
	return c
}

func verifyData(ctx context.Context, e *env, path string, jobs int) error {
	findings := []data.Findings{}
	var root *data.Root
	packs := []string{path}
	if !strings.HasSuffix(path, ".pack") {
		var err error
		root, err = data.OpenRoot(path)
		if packs = packsIn(path); err != nil && len(packs) == 0 {
			return err // neither a root nor a folder of packs
		}
	}
	if root != nil {
		bars := map[data.Split]func(done, total int64){}
		ends := []func(){}
		found, err := data.VerifyRoot(ctx, data.VerifyConfig{Root: root, Decoder: decoder{}, Workers: jobs, Progress: func(split data.Split, done, total int) {
			if bars[split] == nil {
				report, end := follow("verify "+string(split), e.progress)
				bars[split], ends = report, append(ends, end)
			}
			if bars[split](int64(done), int64(total)); done == total {
				ends[len(ends)-1]()
			}
		}})
		if err != nil {
			return err
		}
		findings = append(findings, found...)
	}
	for _, p := range packs {
		report, end := follow("verify "+filepath.Base(p), e.progress)
		found, err := data.VerifyPack(ctx, p, root, counted(report))
		end()
		if err != nil {
			return err
		}
		findings = append(findings, found)
	}
	return printVerdict(e, path, findings)
}

// packsIn lists the packs directly in a folder.
func packsIn(dir string) []string {
	var packs []string
	for _, split := range []data.Split{data.Train, data.Val, data.Test} {
		if path := data.PackPath(dir, split); fileExists(path) {
			packs = append(packs, path)
		}
	}
	return packs
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// printVerdict prints what was found; problems make it an error too.
func printVerdict(e *env, path string, findings []data.Findings) error {
	problems, first := 0, ""
	for _, f := range findings {
		if problems == 0 && f.Problems > 0 {
			first = f.Listed[0]
		}
		problems += f.Problems
	}
	if e.json {
		if err := e.printJSON(map[string]any{"path": path, "problems": problems, "findings": findings}); err != nil {
			return err
		}
	} else {
		out := e.human()
		for _, f := range findings {
			fmt.Fprintf(out, "%s: images %d, classes %d, problems %d, copies %d\n", f.Subject, f.Images, f.Classes, f.Problems, f.Copies)
			printSome(e, "problem", f.Listed, f.Problems)
			if e.verbose {
				printSome(e, "note", f.Notes, f.Copies)
			}
			if len(f.Empty) > 0 {
				fmt.Fprintf(out, "  note: %d classes have no image, such as %s\n", len(f.Empty), f.Empty[0])
			}
			if f.Hash != "" {
				fmt.Fprintf(out, "  hash %s\n", f.Hash)
			}
		}
	}
	if problems > 0 {
		return fmt.Errorf("%w in %s: problems: %d, the first: %s", data.ErrData, path, problems, first)
	}
	return nil
}

// printSome prints the lines known of count things.
func printSome(e *env, kind string, lines []string, count int) {
	for _, line := range lines {
		fmt.Fprintf(e.human(), "  %s: %s\n", kind, line)
	}
	if more := count - len(lines); more > 0 {
		fmt.Fprintf(e.human(), "  and %d more\n", more)
	}
}
