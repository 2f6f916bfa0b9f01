package data

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// Entry is one line of train.txt, val.txt or test.txt.
type Entry struct {
	Name  string // path of the JPEG below the folder of images, with forward slashes: train/a/abbey/00000001.jpg
	Label int32  // class, from 0; -1 where nobody says (the challenge's test images)
}

// maxLine bounds a line of a list: Linux knows no longer path.
const maxLine = 4096

// scanLines calls line for each non-empty line of a list, numbered from 1, without the white space around it, or the byte
// order mark that some editors on Windows write. It ends early with the first error of line.
func scanLines(r io.Reader, line func(number int, text string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, maxLine), maxLine)
	number := 0
	for s.Scan() {
		number++
		text := strings.TrimFunc(s.Text(), func(c rune) bool { return unicode.IsSpace(c) || c == '\ufeff' })
		if text == "" {
			continue
		}
		if err := line(number, text); err != nil {
			return err
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return badf("line %d is longer than %d bytes: this is no list of images", number+1, maxLine)
	}
	return s.Err()
}

// scanList reads a list of images. It calls entry for each good line, and bad for each line that cannot be used; entry
// and bad end the reading by returning an error. A line is `path label`, or only `path` where labels is false.
func scanList(r io.Reader, classes int, labels bool, entry func(Entry) error, bad func(error) error) error {
	return scanLines(r, func(number int, text string) error {
		e, err := parseEntry(text, classes, labels)
		if err != nil {
			return bad(badf("line %d: %w", number, err))
		}
		return entry(e)
	})
}

// parseList returns the entries of a list of images, or an error about the first bad line.
func parseList(r io.Reader, classes int, labels bool) ([]Entry, error) {
	var entries []Entry
	err := scanList(r, classes, labels,
		func(e Entry) error { entries = append(entries, e); return nil },
		func(err error) error { return err })
	if err != nil {
		return nil, err
	}
	return entries, nil
}

func parseEntry(text string, classes int, labels bool) (Entry, error) {
	name, number := text, ""
	if i := strings.LastIndexAny(text, " \t"); i >= 0 {
		name, number = strings.TrimRight(text[:i], " \t"), text[i+1:]
	}
	label := -1
	switch {
	case number != "":
		var err error
		if label, err = strconv.Atoi(number); err != nil {
			return Entry{}, fmt.Errorf("want `path label`, got %q", text)
		}
		if label < 0 || label >= classes {
			return Entry{}, fmt.Errorf("label %d of %s: categories.txt names %d classes, 0 to %d", label, name, classes, classes-1)
		}
	case labels:
		return Entry{}, fmt.Errorf("want `path label`, got %q", text)
	}
	if err := checkName(name); err != nil {
		return Entry{}, err
	}
	return Entry{Name: name, Label: int32(label)}, nil
}

// checkName refuses names that would lead out of the folder of images, or cannot be printed.
func checkName(name string) error {
	short := path.Clean(name)
	if !filepath.IsLocal(name) || short == "." {
		return fmt.Errorf("path %q leads out of the folder of images", name)
	}
	if short != name {
		return fmt.Errorf("path %q: write it as %q", name, short)
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("path %q holds a control character", name)
		}
	}
	return nil
}

// parseCategories reads categories.txt, lines `/a/abbey 0`, and returns the name of each class as it stands there. Ids
// may come in any order and must be 0 to n-1.
func parseCategories(r io.Reader) ([]string, error) {
	type category struct {
		line, id int
		name     string
	}
	var found []category
	err := scanLines(r, func(number int, text string) error {
		i := strings.LastIndexAny(text, " \t")
		if i < 0 {
			return badf("line %d: want `name id`, got %q", number, text)
		}
		id, err := strconv.Atoi(text[i+1:])
		if err != nil {
			return badf("line %d: want `name id`, got %q", number, text)
		}
		found = append(found, category{number, id, strings.TrimRight(text[:i], " \t")})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, badf("no line: want `name id` for each class")
	}
	names := make([]string, len(found))
	taken := make(map[string]bool, len(found))
	for _, c := range found {
		switch {
		case c.id < 0 || c.id >= len(found):
			return nil, badf("line %d: id %d of %s: %d classes have ids 0 to %d", c.line, c.id, c.name, len(found), len(found)-1)
		case names[c.id] != "":
			return nil, badf("line %d: id %d of %s is also that of %s", c.line, c.id, c.name, names[c.id])
		case taken[c.name]:
			return nil, badf("line %d: %s is named twice", c.line, c.name)
		}
		names[c.id] = c.name
		taken[c.name] = true
	}
	return names, nil
}

// className is what people call a category: /a/apartment_building/outdoor is apartment_building/outdoor.
func className(category string) string {
	name := strings.TrimPrefix(category, "/")
	if len(name) > 2 && name[1] == '/' {
		return name[2:]
	}
	return name
}
