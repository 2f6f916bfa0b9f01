package data

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	got, err := parseList(strings.NewReader("\ufefftrain/a/abbey/1.jpg 0\r\n\n  val/with space.jpg\t 2 \nx/y.jpg 1"), 3, true)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{{"train/a/abbey/1.jpg", 0}, {"val/with space.jpg", 2}, {"x/y.jpg", 1}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got, err = parseList(strings.NewReader("test/1.jpg\ntest/2.jpg 1\n"), 3, false)
	if want = []Entry{{"test/1.jpg", -1}, {"test/2.jpg", 1}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestParseListRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a.jpg 0\nb.jpg 3\n":               "line 2: label 3 of b.jpg: categories.txt names 3 classes, 0 to 2",
		"a.jpg -1":                         "line 1: label -1",
		"a.jpg":                            "line 1: want `path label`",
		"a.jpg x":                          "line 1: want `path label`",
		"a.jpg 1.0":                        "line 1: want `path label`",
		"a.jpg 99999999999999999999":       "line 1: want `path label`",
		"../a.jpg 0":                       "leads out",
		"/etc/passwd 0":                    "leads out",
		"x/../../a.jpg 0":                  "leads out",
		". 0":                              "leads out",
		"./x//y 0":                         `write it as "x/y"`,
		"a\x00b 0":                         "control character",
		strings.Repeat("a", 5000) + ".jpg": "line 1 is longer",
	} {
		_, err := parseList(strings.NewReader(text), 3, true)
		wantError(t, err, want)
		if !errors.Is(err, ErrData) {
			t.Errorf("%q: error %v is not ErrData", text, err)
		}
	}
}

func TestParseCategories(t *testing.T) {
	got, err := parseCategories(strings.NewReader("/b/beach 1\n/a/abbey 0\nsynth 002 2\n"))
	if want := []string{"/a/abbey", "/b/beach", "synth 002"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for text, want := range map[string]string{
		"": "no line", "a": "line 1: want `name id`", "a b": "line 1: want `name id`", "a 1": "line 1: id 1 of a: 1 classes have ids 0 to 0",
		"a 0\nb 0": "line 2: id 0 of b is also that of a", "a 0\na 1": "line 2: a is named twice", "a 0\nb -1": "line 2: id -1",
	} {
		_, err := parseCategories(strings.NewReader(text))
		wantError(t, err, want)
		if !errors.Is(err, ErrData) {
			t.Errorf("%q: error %v is not ErrData", text, err)
		}
	}
}

func TestClassName(t *testing.T) {
	for category, want := range map[string]string{
		"/a/abbey": "abbey", "/a/apartment_building/outdoor": "apartment_building/outdoor", "synth_000": "synth_000", "/": "", "ab/c": "ab/c", "/a/": "a/",
	} {
		if got := className(category); got != want {
			t.Errorf("%s: got %q, want %q", category, got, want)
		}
	}
}

// FuzzList: whatever a list holds, reading it ends in an error about it or in entries that read the same again.
func FuzzList(f *testing.F) {
	f.Add("train/a/abbey/00000001.jpg 0\nval/1.jpg 99\n", 100, true)
	f.Add("test/00000001.jpg\n", 3, false)
	f.Add("\ufeffa b c.jpg\t7\r\n./x//y 0", 8, true)
	f.Add("/a/abbey 0\n/b/beach 1\n", 2, true)
	f.Add("\ufeff 0 0", 12, true)
	f.Fuzz(func(t *testing.T, text string, classes int, labels bool) {
		entries, err := parseList(strings.NewReader(text), classes, labels)
		if err != nil && !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
		var again strings.Builder
		for _, e := range entries {
			if e.Label >= 0 && int(e.Label) >= classes || e.Label < 0 && labels || checkName(e.Name) != nil {
				t.Errorf("entry %q passes with %d classes", e, classes)
			}
			if e.Label >= 0 {
				fmt.Fprintf(&again, "%s %d\n", e.Name, e.Label)
			}
		}
		if labels && err == nil {
			reread, err := parseList(strings.NewReader(again.String()), classes, true)
			if err != nil || !reflect.DeepEqual(entries, reread) {
				t.Errorf("read %v, then %v, %v", entries, reread, err)
			}
		}
		names, err := parseCategories(strings.NewReader(text))
		if err != nil && !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
		for _, n := range names {
			if len(className(n)) > len(n) {
				t.Errorf("class of %q is %q, longer than it", n, className(n))
			}
		}
	})
}
