package data

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func verifyTestRoot(t *testing.T, dir string) map[string]Findings {
	t.Helper()
	all, err := VerifyRoot(context.Background(), VerifyConfig{Root: openTestRoot(t, dir), Decoder: plainDecoder{}})
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]Findings)
	for _, f := range all {
		found[filepath.Base(f.Subject)] = f
	}
	return found
}

func TestVerifyGoodRoot(t *testing.T) {
	found := verifyTestRoot(t, testRoot(t, 40, 5))
	for list, images := range map[string]int{"train.txt": 40, "val.txt": 5} {
		if f := found[list]; f.Images != images || f.Classes != 3 || f.Problems != 0 || f.Copies != 0 || f.Empty != nil {
			t.Errorf("%s: got %+v", list, f)
		}
	}
}

func TestVerifyRootFindsEverything(t *testing.T) {
	dir := testRoot(t, 40, 5)
	train, _ := os.ReadFile(filepath.Join(dir, "train.txt"))
	put(t, dir, "train.txt", append(train, "train/a/abbey/00000001.jpg 1\ntrain/x.jpg 9\nnonsense\ntrain/gone.jpg 2\n"...))
	put(t, dir, "images/train/b/beach/00000002.jpg", []byte("text"))
	put(t, dir, "images/train/b/beach/00000003.jpg", testJPEG(t, 0)) // that of train/a/abbey/00000001.jpg
	put(t, dir, "images/val/00000004.jpg", testJPEG(t, 0))
	put(t, dir, "val.txt", []byte("val/00000004.jpg 1\n"))
	found := verifyTestRoot(t, dir)
	f := found["train.txt"]
	if f.Problems != 5 || len(f.Listed) != 5 || f.Copies != 1 || f.Images != 41 {
		t.Errorf("train: got %+v", f)
	}
	text := strings.Join(append(f.Listed, f.Notes...), "\n")
	for _, want := range []string{
		"00000001.jpg is listed twice, with labels 0 and 1", "line 42: label 9", "line 43: want `path label`", "gone.jpg: listed, but",
		"beach/00000002.jpg", "beach/00000003.jpg is a copy of train/a/abbey/00000001.jpg",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("findings lack %q:\n%s", want, text)
		}
	}
	f = found["val.txt"]
	if f.Problems != 0 || f.Copies != 1 || len(f.Empty) != 2 || f.Empty[0] != "abbey" {
		t.Errorf("val: got %+v", f)
	}
	if len(f.Notes) != 1 || f.Notes[0] != "val/00000004.jpg is a copy of train/a/abbey/00000001.jpg" {
		t.Errorf("val: got notes %q", f.Notes)
	}
}

func TestVerifyPackComparesWithItsList(t *testing.T) {
	path := testPack(t, 5)
	dir := filepath.Dir(path)
	verify := func() Findings {
		t.Helper()
		done := 0
		f, err := VerifyPack(context.Background(), path, openTestRoot(t, dir), func(d, _ int) { done = d })
		if err != nil || done != 5 {
			t.Fatalf("verified %d records: %v", done, err)
		}
		return f
	}
	if f := verify(); f.Problems != 0 || f.Images != 5 || len(f.Hash) != 64 {
		t.Errorf("a good pack: got %+v", f)
	}
	list, _ := os.ReadFile(filepath.Join(dir, "train.txt"))
	put(t, dir, "train.txt", []byte(strings.Replace(string(list), ".jpg 2", ".jpg 1", 1)))
	if f := verify(); f.Problems != 1 || !strings.Contains(f.Listed[0], "with label 2 at record 2") {
		t.Errorf("another label: got %+v", f)
	}
	put(t, dir, "train.txt", append(list, list[:len("train/a/abbey/00000001.jpg 0\n")]...))
	if f := verify(); f.Problems != 1 || !strings.Contains(f.Listed[0], "holds 5 images and") {
		t.Errorf("another count: got %+v", f)
	}
	put(t, dir, "train.txt", list)
	put(t, dir, "categories.txt", []byte("/a/abbey 0\n/a/apartment/outdoor 1\n/b/bog 2\n"))
	if f := verify(); f.Problems != 1 || !strings.Contains(f.Listed[0], "other classes") {
		t.Errorf("another class: got %+v", f)
	}
}
