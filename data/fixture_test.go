package data

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plainDecoder is a Decoder by image/jpeg: the reference for tests that run without C.
type plainDecoder struct{}

func (plainDecoder) Decode(jpegs [][]byte, dst []byte) []error {
	errs := make([]error, len(jpegs))
	for i, b := range jpegs {
		errs[i] = plainDecode(b, dst[i*RecordBytes:(i+1)*RecordBytes])
	}
	return errs
}

func plainDecode(b, dst []byte) error {
	img, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if s := img.Bounds().Size(); s != image.Pt(ImageSize, ImageSize) {
		return fmt.Errorf("image is %dx%d: packs hold %dx%d", s.X, s.Y, ImageSize, ImageSize)
	}
	if _, cmyk := img.(*image.CMYK); cmyk {
		return fmt.Errorf("image is CMYK: packs hold RGB")
	}
	for y := range ImageSize {
		for x := range ImageSize {
			c := color.NRGBAModel.Convert(img.At(x, y)).(color.NRGBA)
			copy(dst[(y*ImageSize+x)*3:], []byte{c.R, c.G, c.B})
		}
	}
	return nil
}

// testJPEG returns a 128x128 JPEG that is different for each key.
func testJPEG(t testing.TB, key uint64) []byte {
	t.Helper()
	return encodeJPEG(t, testImage(key, ImageSize, ImageSize))
}

func testImage(key uint64, w, h int) image.Image {
	r := NewRand(key)
	a, b := r.IntN(256), r.IntN(256)
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.Set(x, y, color.RGBA{uint8(a + x), uint8(b + y), uint8(key), 255})
		}
	}
	return img
}

func encodeJPEG(t testing.TB, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// testRoot writes a MiniPlaces root of 3 classes with train and val images into a new folder.
func testRoot(t testing.TB, train, val int) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "categories.txt", []byte("/a/abbey 0\n/a/apartment/outdoor 1\n/b/beach 2\n"))
	var list strings.Builder
	for i := range train {
		name := fmt.Sprintf("train/%s/%08d.jpg", []string{"a/abbey", "a/apartment/outdoor", "b/beach"}[i%3], i/3+1)
		put(t, dir, "images/"+name, testJPEG(t, uint64(i)))
		fmt.Fprintf(&list, "%s %d\n", name, i%3)
	}
	put(t, dir, "train.txt", []byte(list.String()))
	list.Reset()
	for i := range val {
		name := fmt.Sprintf("val/%08d.jpg", i+1)
		put(t, dir, "images/"+name, testJPEG(t, uint64(1000+i)))
		fmt.Fprintf(&list, "%s %d\n", name, (i*2)%3)
	}
	put(t, dir, "val.txt", []byte(list.String()))
	return dir
}

// put writes a file and the folders above it.
func put(t testing.TB, dir, name string, content []byte) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func openTestRoot(t testing.TB, dir string) *Root {
	t.Helper()
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// testPack packs n images and returns the path.
func testPack(t testing.TB, n int) string {
	t.Helper()
	dir := testRoot(t, n, 0)
	path := filepath.Join(dir, "train.pack")
	err := WritePack(context.Background(), PackConfig{Root: openTestRoot(t, dir), Split: Train, Path: path, Decoder: plainDecoder{}})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func openTestPack(t testing.TB, path string) *Pack {
	t.Helper()
	p, err := OpenPack(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// wantError fails the test unless err contains all of parts.
func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got error %q, want it to contain %q", err, part)
		}
	}
}
