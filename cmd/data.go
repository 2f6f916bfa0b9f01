package cmd

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/metrics"
)

// newDataCommand returns `mp data`.
func newDataCommand(e *env) *cobra.Command {
	return newParent("data", "The data set on disk: fetch, unpack, verify, pack, look at, or make one up",
		newDataFetch(e), newDataUnpack(e), newDataVerify(e), newDataPack(e), newDataShow(e), newDataSynth(e))
}

// follow turns reports of how much is done into a bar, made by begin when the first report brings the total.
func follow(title string, begin func(title string, total int64) *metrics.Progress) (report func(done, total int64), end func()) {
	var bar *metrics.Progress
	var last int64
	report = func(done, total int64) {
		if bar == nil {
			bar = begin(title, total)
		}
		bar.Add(done - last)
		last = done
	}
	end = func() {
		if bar != nil {
			bar.Finish()
		}
	}
	return report, end
}

// counted makes a report of things out of one of int64.
func counted(report func(done, total int64)) func(done, total int) {
	return func(done, total int) { report(int64(done), int64(total)) }
}

// gigabytes prints a size as people say it.
func gigabytes(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

func newDataFetch(e *env) *cobra.Command {
	var address, lists, sum string
	c := &cobra.Command{
		Use:   "fetch DIR",
		Short: "Download MiniPlaces: its public archive and lists",
		Long: "fetch downloads the archive of MiniPlaces and the lists of the challenge's development kit into DIR. A download\n" +
			"that broke off goes on where it stopped when the same command is given again, as long as the server's file is\n" +
			"still the same. --url names a mirror of the archive, --lists the address that categories.txt, train.txt and\n" +
			"val.txt are below, or none.",
		Example: "  mp data fetch miniplaces\n  mp data fetch miniplaces --url http://mirror.example/data.tar.gz --lists none",
		Args:    exactArgs("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			return fetchData(c.Context(), e, args[0], address, lists, sum)
		},
	}
	c.Flags().StringVar(&address, "url", data.ArchiveURL, "address of the archive")
	c.Flags().StringVar(&lists, "lists", data.ListsURL, "address of the folder of lists, or none")
	c.Flags().StringVar(&sum, "sha256", "", "expected SHA-256 of the archive, in hexadecimal; empty: any")
	return c
}

// fetchResult is the result of `mp data fetch`.
type fetchResult struct {
	Dir     string `json:"dir"`
	Archive string `json:"archive"`
	data.Fetched
	Lists []string `json:"lists"` // those that were fetched or there
}

func fetchData(ctx context.Context, e *env, dir, address, lists, sum string) error {
	where, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%w: --url: %w", data.ErrData, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("%w: %w", data.ErrData, err)
	}
	result := fetchResult{Dir: dir, Lists: []string{}}
	for _, name := range []string{"categories.txt", "train.txt", "val.txt"} {
		if lists == "none" || lists == "" {
			break
		}
		if _, err := data.Fetch(ctx, data.FetchConfig{URL: strings.TrimRight(lists, "/") + "/" + name, Path: filepath.Join(dir, name)}); err != nil {
			return fmt.Errorf("%w; put %s into %s yourself and give --lists none to go on without it", err, name, dir)
		}
		result.Lists = append(result.Lists, name)
	}
	name := path.Base(where.Path)
	if len(name) < 2 {
		name = "data.tar.gz"
	}
	result.Archive = filepath.Join(dir, name)
	report, end := follow("fetch "+name, e.byteProgress)
	result.Fetched, err = data.Fetch(ctx, data.FetchConfig{URL: address, Path: result.Archive, SHA256: sum, Progress: report})
	end()
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(result)
	}
	_, err = fmt.Fprintf(e.human(), "%s: %s, SHA-256 %s\nnext: mp data unpack %s\n", result.Archive, gigabytes(result.Bytes), result.SHA256, dir)
	return err
}

func newDataUnpack(e *env) *cobra.Command {
	var gigabytes int
	c := &cobra.Command{
		Use:   "unpack DIR [ARCHIVE...]",
		Short: "Unpack the archives of MiniPlaces into a folder",
		Long: "unpack unpacks archives (.tar, .tar.gz) into DIR; without any named, those that lie in DIR. Lists that lie beside\n" +
			"an archive are copied when DIR has none. Nothing appears in DIR before all archives were read without fault.\n" +
			"Archives with absolute paths, paths out of the folder or links are refused.",
		Example: "  mp data unpack miniplaces\n  mp data unpack miniplaces ../downloads/*.tar.gz",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return unpackData(c.Context(), e, args[0], args[1:], int64(gigabytes)<<30)
		},
	}
	c.Flags().IntVar(&gigabytes, "max-gb", 16, "refuse archives that unpack to more than this many GiB")
	return c
}

// unpackResult is the result of `mp data unpack`.
type unpackResult struct {
	Dir      string   `json:"dir"`
	Archives []string `json:"archives"`
	data.Unpacked
	Lists []string `json:"lists"` // that were copied
}

func unpackData(ctx context.Context, e *env, dir string, archives []string, most int64) error {
	if len(archives) == 0 {
		if archives = data.Archives(dir); len(archives) == 0 {
			return fmt.Errorf("%w: unpack: no .tar.gz in %s; name the archives, or fetch one with `mp data fetch %s`", data.ErrData, dir, dir)
		}
	}
	report, end := follow("unpack", e.byteProgress)
	done, err := data.Unpack(ctx, data.UnpackConfig{Archives: archives, Dir: dir, MaxBytes: most, Progress: report})
	end()
	if err != nil {
		return err
	}
	result := unpackResult{Dir: dir, Archives: archives, Unpacked: done, Lists: []string{}}
	for _, a := range archives {
		copied, err := data.CopyLists(filepath.Dir(a), dir)
		if err != nil {
			return err
		}
		result.Lists = append(result.Lists, copied...)
	}
	if e.json {
		return e.printJSON(result)
	}
	next := "mp data pack " + dir
	if _, err := data.OpenRoot(dir); err != nil {
		next = fmt.Sprintf("the lists: %v", err)
	}
	_, err = fmt.Fprintf(e.human(), "%s: %d files, %s\nnext: %s\n", dir, done.Files, gigabytes(done.Bytes), next)
	return err
}

func newDataSynth(e *env) *cobra.Command {
	var s data.SynthConfig
	c := &cobra.Command{
		Use:   "synth DIR",
		Short: "Make up a data set that a model can learn, for machines without MiniPlaces",
		Long: "synth writes a MiniPlaces root of made-up images into DIR: 128x128 JPEGs, lists and categories. Each class has its\n" +
			"own colours, textures, shapes and layout; every image moves, recolours and relights them and adds noise. The same\n" +
			"sizes and seed give the same bytes on every machine.",
		Example: "  mp data synth /tmp/synth --classes 10 --train-images 5000 --val-images 1000",
		Args:    exactArgs("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			s.Dir = args[0]
			return synthData(c.Context(), e, s)
		},
	}
	c.Flags().IntVar(&s.Classes, "classes", 100, "number of classes")
	c.Flags().IntVar(&s.Train, "train-images", 20000, "number of training images")
	c.Flags().IntVar(&s.Val, "val-images", 5000, "number of validation images")
	c.Flags().Uint64Var(&s.Seed, "seed", 1, "seed of everything drawn")
	c.Flags().IntVar(&s.Workers, "jobs", 0, "images painted at once; 0 is one for each processor")
	return c
}

// synthResult is the result of `mp data synth`.
type synthResult struct {
	Dir     string  `json:"dir"`
	Classes int     `json:"classes"`
	Train   int     `json:"train"`
	Val     int     `json:"val"`
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
}

func synthData(ctx context.Context, e *env, s data.SynthConfig) error {
	report, end := follow("paint", e.progress)
	s.Progress = counted(report)
	start := time.Now()
	err := data.Synth(ctx, s)
	end()
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(synthResult{s.Dir, s.Classes, s.Train, s.Val, s.Seed, time.Since(start).Seconds()})
	}
	_, err = fmt.Fprintf(e.human(), "%s: %d classes, %d training and %d validation images\nnext: mp data pack %s\n", s.Dir, s.Classes, s.Train, s.Val, s.Dir)
	return err
}
