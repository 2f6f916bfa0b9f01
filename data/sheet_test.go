package data

import (
	"context"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSheet(t *testing.T) {
	red := make([]byte, 4*4*3)
	for i := 0; i < len(red); i += 3 {
		red[i] = 255
	}
	s := Sheet{Title: "a title", Columns: 2, Zoom: 3, Tiles: []Tile{{red, 4, "one", "1.jpg"}, {red, 4, "two", "2.jpg"}, {red, 4, "three", "3.jpg"}}}
	path := filepath.Join(t.TempDir(), "sheet.png")
	if err := s.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	reds := 0
	for y := range m.Bounds().Dy() {
		for x := range m.Bounds().Dx() {
			if r, g, b, _ := m.At(x, y).RGBA(); r == 0xFFFF && g == 0 && b == 0 {
				reds++
			}
		}
	}
	if want := 3 * 4 * 4 * 3 * 3; reds != want {
		t.Errorf("%d red pixels, want %d", reds, want)
	}
	s.Tiles[1].Pixels = red[1:]
	if err := s.WriteFile(filepath.Join(t.TempDir(), "bad.png")); !isData(err) {
		t.Errorf("a picture with too few bytes: error %v, want ErrData", err)
	}
}

func TestPreview(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := Synth(context.Background(), SynthConfig{Dir: root, Classes: 3, Train: 12, Val: 3, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "train.pack")
	if err := WritePack(context.Background(), PackConfig{Root: r, Split: Train, Path: path, Decoder: plainDecoder{}}); err != nil {
		t.Fatal(err)
	}
	p, err := OpenPack(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	view := Preview{Pack: p, IDs: []int32{3, 1, 7, 11}, Recipe: mustRecipe(t, "none"), Size: ImageSize}
	tiles, err := view.Tiles()
	if err != nil {
		t.Fatal(err)
	}
	for i, tile := range tiles {
		id := int(view.IDs[i])
		if string(tile.Pixels) != string(p.Record(id)) {
			t.Errorf("picture %d is not record %d", i, id)
		}
		if want := strings.ReplaceAll(p.Classes()[p.Label(id)], "_", " "); tile.Title != want || tile.Note != filepath.Base(p.Name(id)) {
			t.Errorf("picture %d is called %q, %q", i, tile.Title, tile.Note)
		}
	}
	view.Recipe, view.Size, view.Shards, view.Draws = mustRecipe(t, "strong"), 40, 2, true
	if tiles, err = view.Tiles(); err != nil {
		t.Fatal(err)
	}
	for _, tile := range tiles {
		if !strings.Contains(tile.Title, "%") || !strings.Contains(tile.Note, "linear") || tile.Side != 40 {
			t.Errorf("a mixed picture of %d pixels is called %q, %q", tile.Side, tile.Title, tile.Note)
		}
	}
}
