// Package data owns MiniPlaces on disk: finding, fetching, unpacking and checking the images, the pack of decoded
// records that training reads, and every random decision about data (order of samples, augmentation parameters), which
// are pure functions of (seed, epoch, sample). It may import the standard library, x/sys, x/sync and ops/pixel; it must
// never import ops or anything that knows of models or workers. Start reading at Root, then Pack, then Sampler.
package data

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Split names a part of MiniPlaces.
type Split string

// The three parts. Labels of the test images were never published.
const (
	Train Split = "train"
	Val   Split = "val"
	Test  Split = "test"
)

// Root is a MiniPlaces folder: categories.txt, train.txt and val.txt, and the images they list, in images/ (as the
// public archive has it) or directly beside the lists. It is immutable.
type Root struct {
	dir     string
	classes []string
	above   map[Split]string // the folder that holds the folder of a split
}

// OpenRoot finds a MiniPlaces root: dir itself, or the only folder directly in dir that is one. It reads categories.txt
// and no list of images. Errors are ErrData and say which command makes or completes a root.
func OpenRoot(dir string) (*Root, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, badf("open data set: no folder %s; name a MiniPlaces folder, or make one with `mp data fetch %[1]s` or `mp data synth %[1]s`", dir)
	case err != nil:
		return nil, badf("open data set: %w", err)
	case !info.IsDir():
		return nil, badf("open data set: %s is a file; name the folder that holds categories.txt, train.txt and val.txt", dir)
	}
	found, err := findRoot(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(found, "categories.txt"))
	if err != nil {
		return nil, badf("open data set: %w", err)
	}
	defer f.Close()
	categories, err := parseCategories(f)
	if err != nil {
		return nil, badf("read %s: %w", f.Name(), err)
	}
	r := &Root{dir: found, above: make(map[Split]string)}
	for _, c := range categories {
		r.classes = append(r.classes, className(c))
	}
	for _, split := range []Split{Train, Val, Test} {
		r.above[split] = filepath.Join(found, "images")
		if !isDir(filepath.Join(r.above[split], string(split))) && isDir(filepath.Join(found, string(split))) {
			r.above[split] = found
		}
	}
	if len(r.Splits()) == 0 {
		return nil, badf("open data set %s: categories.txt is there, train.txt and val.txt are not; `mp data fetch %[1]s` fetches them", found)
	}
	return r, nil
}

// findRoot returns dir or the one folder in it that holds a categories.txt.
func findRoot(dir string) (string, error) {
	if isFile(filepath.Join(dir, "categories.txt")) {
		return dir, nil
	}
	below, err := filepath.Glob(filepath.Join(globEscape(dir), "*", "categories.txt"))
	if err != nil {
		return "", badf("open data set %s: %w", dir, err)
	}
	switch {
	case len(below) == 1:
		return filepath.Dir(below[0]), nil
	case len(below) > 1:
		return "", badf("open data set %s: %d folders in it are MiniPlaces roots, such as %s; name one of them", dir, len(below), filepath.Dir(below[0]))
	case len(Archives(dir)) > 0:
		return "", badf("open data set %s: no categories.txt, train.txt, val.txt, but an archive; run `mp data unpack %[1]s`", dir)
	}
	return "", badf("open data set %s: no categories.txt, train.txt, val.txt in it; `mp data fetch %[1]s` fetches MiniPlaces, `mp data synth %[1]s` makes a stand-in", dir)
}

// Archives lists the tar archives directly in dir, in the order of their names.
func Archives(dir string) []string {
	var found []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() && (strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz") || strings.HasSuffix(name, ".tar")) {
			found = append(found, filepath.Join(dir, name))
		}
	}
	return found
}

// Dir is the folder that holds categories.txt.
func (r *Root) Dir() string { return r.dir }

// Classes returns the name of each class, such as abbey. The caller must not change it.
func (r *Root) Classes() []string { return r.classes }

// Splits returns the parts that this root can list.
func (r *Root) Splits() []Split {
	var splits []Split
	for _, s := range []Split{Train, Val} {
		if isFile(r.listPath(s)) {
			splits = append(splits, s)
		}
	}
	if isFile(r.listPath(Test)) || isDir(r.imageFolder(Test)) {
		splits = append(splits, Test)
	}
	return splits
}

// Entries reads the list of a split. Test images without a test.txt are all the JPEGs of the folder test, by name, with
// label -1. Errors are ErrData and name list and line.
func (r *Root) Entries(split Split) ([]Entry, error) {
	f, err := os.Open(r.listPath(split))
	if errors.Is(err, fs.ErrNotExist) && split == Test {
		return r.walk(split)
	}
	if err != nil {
		return nil, badf("open list of %s images: %w; `mp data fetch %s` fetches the lists", split, err, r.dir)
	}
	defer f.Close()
	entries, err := parseList(f, len(r.classes), split != Test)
	if err != nil {
		return nil, badf("read list %s %w", f.Name(), err)
	}
	if len(entries) == 0 {
		return nil, badf("read list %s: it is empty", f.Name())
	}
	if len(entries) > maxImages {
		return nil, badf("read list %s: %d images; the most is %d", f.Name(), len(entries), maxImages)
	}
	if folder := r.imageFolder(split); !isFile(r.Path(entries[0].Name)) && !isDir(folder) {
		hint := "unpack its archive there with `mp data unpack`"
		if len(Archives(r.dir)) > 0 {
			hint = "run `mp data unpack " + r.dir + "`"
		}
		return nil, badf("open %s images: no folder %s; %s", split, folder, hint)
	}
	return entries, nil
}

// Path returns the file of an image named by a list.
func (r *Root) Path(name string) string {
	first, _, _ := strings.Cut(name, "/")
	above, ok := r.above[Split(first)]
	if !ok {
		above = filepath.Join(r.dir, "images")
	}
	return filepath.Join(above, filepath.FromSlash(name))
}

func (r *Root) listPath(split Split) string { return filepath.Join(r.dir, string(split)+".txt") }

// imageFolder is where the images of a split lie: images/train, or train beside the lists.
func (r *Root) imageFolder(split Split) string { return filepath.Join(r.above[split], string(split)) }

// walk lists the JPEGs of a split that has no list.
func (r *Root) walk(split Split) ([]Entry, error) {
	folder := r.imageFolder(split)
	var entries []Entry
	err := filepath.WalkDir(folder, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".jpg", ".jpeg"}, strings.ToLower(filepath.Ext(p))) {
			return err
		}
		below, err := filepath.Rel(filepath.Dir(folder), p)
		entries = append(entries, Entry{Name: filepath.ToSlash(below), Label: -1})
		return err
	})
	if err != nil {
		return nil, badf("list %s images: %w", split, err)
	}
	if len(entries) == 0 {
		return nil, badf("list %s images: no JPEG in %s", split, folder)
	}
	return entries, nil
}

func isFile(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

func isDir(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.IsDir()
}

// globEscape makes filepath.Glob take a path literally.
func globEscape(p string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}
