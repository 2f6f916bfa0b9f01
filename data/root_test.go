package data

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"mp/internal/shared"
)

func TestOpenRoot(t *testing.T) {
	dir := testRoot(t, 4, 3)
	r := openTestRoot(t, dir)
	if want := []string{"abbey", "apartment/outdoor", "beach"}; !reflect.DeepEqual(r.Classes(), want) {
		t.Errorf("classes: got %v, want %v", r.Classes(), want)
	}
	if want := []Split{Train, Val}; !reflect.DeepEqual(r.Splits(), want) {
		t.Errorf("splits: got %v, want %v", r.Splits(), want)
	}
	entries, err := r.Entries(Val)
	if want := []Entry{{"val/00000001.jpg", 0}, {"val/00000002.jpg", 2}, {"val/00000003.jpg", 1}}; err != nil || !reflect.DeepEqual(entries, want) {
		t.Errorf("val: got %v, %v, want %v", entries, err, want)
	}
	if got, want := r.Path("val/00000001.jpg"), filepath.Join(dir, "images", "val", "00000001.jpg"); got != want {
		t.Errorf("path: got %s, want %s", got, want)
	}
}

func TestOpenRootFindsOtherLayouts(t *testing.T) {
	dir := testRoot(t, 3, 2)
	for _, split := range []string{"train", "val"} {
		if err := os.Rename(filepath.Join(dir, "images", split), filepath.Join(dir, split)); err != nil {
			t.Fatal(err)
		}
		// After the first round train lies beside the lists and val in images: both must be found.
		r := openTestRoot(t, dir)
		for _, s := range []Split{Train, Val} {
			entries, err := r.Entries(s)
			if err != nil {
				t.Fatal(err)
			}
			if p := r.Path(entries[1].Name); !isFile(p) {
				t.Errorf("%s moved: no file %s", split, p)
			}
		}
	}
	above := t.TempDir()
	if err := os.Rename(dir, filepath.Join(above, "data")); err != nil {
		t.Fatal(err)
	}
	if got, want := openTestRoot(t, above).Dir(), filepath.Join(above, "data"); got != want {
		t.Errorf("root in a folder: got %s, want %s", got, want)
	}
}

func TestTestImagesNeedNoList(t *testing.T) {
	dir := testRoot(t, 1, 1)
	for _, name := range []string{"00000002.jpg", "00000001.jpg", "readme.txt"} {
		put(t, dir, "images/test/"+name, []byte("x"))
	}
	r := openTestRoot(t, dir)
	got, err := r.Entries(Test)
	if want := []Entry{{"test/00000001.jpg", -1}, {"test/00000002.jpg", -1}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	put(t, dir, "test.txt", []byte("test/00000002.jpg\n"))
	got, err = r.Entries(Test)
	if want := []Entry{{"test/00000002.jpg", -1}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestOpenRootRefuses(t *testing.T) {
	refuse := func(dir string, parts ...string) {
		t.Helper()
		_, err := OpenRoot(dir)
		wantError(t, err, parts...)
		if !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
	}
	dir := t.TempDir()
	refuse(filepath.Join(dir, "gone"), "no folder", "mp data fetch", "mp data synth")
	refuse(dir, "no categories.txt", "mp data fetch")
	put(t, dir, "data.tar.gz", nil)
	refuse(dir, "mp data unpack "+dir)
	refuse(filepath.Join(dir, "data.tar.gz"), "is a file")
	put(t, dir, "categories.txt", []byte("/a/abbey 0\n"))
	refuse(dir, "train.txt and val.txt are not")
	put(t, dir, "categories.txt", []byte("/a/abbey zero\n"))
	refuse(dir, "categories.txt", "line 1")

	two := t.TempDir()
	put(t, two, "a/categories.txt", nil)
	put(t, two, "b/categories.txt", nil)
	refuse(two, "2 folders", "name one of them")
}

func TestEntriesRefuse(t *testing.T) {
	dir := testRoot(t, 2, 2)
	r := openTestRoot(t, dir)
	refuse := func(split Split, parts ...string) {
		t.Helper()
		_, err := r.Entries(split)
		wantError(t, err, parts...)
		if !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
	}
	put(t, dir, "train.txt", []byte("train/a/abbey/00000001.jpg 0\ntrain/a/abbey/00000002.jpg 7\n"))
	refuse(Train, filepath.Join(dir, "train.txt"), "line 2", "label 7")
	put(t, dir, "train.txt", []byte("\n"))
	refuse(Train, "train.txt", "empty")
	refuse(Test, "test")
	if err := os.RemoveAll(filepath.Join(dir, "images", "val")); err != nil {
		t.Fatal(err)
	}
	refuse(Val, "no folder", "mp data unpack")
	os.Remove(filepath.Join(dir, "val.txt"))
	refuse(Val, "val.txt", "mp data fetch")
}

func TestRealLists(t *testing.T) {
	dir := filepath.Join(shared.Dir(t), "data", "miniplaces-mini")
	r := openTestRoot(t, dir)
	if got := len(r.Classes()); got != 100 || r.Classes()[0] != "abbey" {
		t.Errorf("got %d classes, the first %s, want 100 and abbey", got, r.Classes()[0])
	}
	_, err := r.Entries(Train) // its images are still in archives
	wantError(t, err, "mp data unpack "+dir)
}
