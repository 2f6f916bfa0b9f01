package cmd

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"image"
	"image/jpeg"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/data"
)

// runData calls `mp data` in process and fails the test unless it ends with the code.
func runData(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	got, stdout, stderr := callMain(append([]string{"data"}, args...)...)
	if got != code {
		t.Fatalf("mp data %s: got code %d, want %d; stdout %q, stderr %q", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout, stderr
}

func wantAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("got %q, want it to contain %q", text, p)
		}
	}
}

// A made-up data set goes the way of the real one: packed by the real decoder and verified, with every kind of damage.
func TestDataSynthPackVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	out, _ := runData(t, exitDone, "synth", dir, "--classes", "4", "--train-images", "80", "--val-images", "20")
	wantAll(t, out, "4 classes, 80 training and 20 validation images", "mp data pack "+dir)
	out, _ = runData(t, exitDone, "pack", dir, "--json")
	var packed struct{ Packs []packRow }
	if err := json.Unmarshal([]byte(out), &packed); err != nil || len(packed.Packs) != 2 || packed.Packs[0].Images != 80 || packed.Packs[1].Images != 20 {
		t.Fatalf("got %s, %v", out, err)
	}
	p, err := data.OpenPack(filepath.Join(dir, "train.pack"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	checkAgainstPlainDecoder(t, p, dir)
	out, _ = runData(t, exitDone, "verify", dir)
	wantAll(t, out, "train.txt: images 80", "val.pack: images 20", "hash "+packed.Packs[1].Hash)

	spoil := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "images", name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, "images/val/00000001.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	spoil("val/00000002.jpg", whole[:len(whole)*2/3])
	spoil("val/00000003.jpg", []byte("\x89PNG and so on"))
	spoil("val/00000004.jpg", encode(t, image.NewRGBA(image.Rect(0, 0, 100, 128))))
	spoil("val/00000005.jpg", encode(t, image.NewGray(image.Rect(0, 0, 128, 128)))) // grey is fine
	_, errs := runData(t, exitBadInput, "pack", dir, "--split", "val", "--out", filepath.Join(dir, "packs"))
	wantAll(t, errs, "3 of 20 files cannot be used", "val/00000002.jpg", "val/00000003.jpg", "val/00000004.jpg", "100 x 128 pixels", "delete their lines")
	if left, _ := os.ReadDir(filepath.Join(dir, "packs")); len(left) != 0 {
		t.Errorf("a failed pack leaves %v", left)
	}
	out, errs = runData(t, exitBadInput, "verify", dir)
	wantAll(t, out, "val.txt: images 20, classes 4, problems 3")
	wantAll(t, errs, "problems: 3", "00000002.jpg")

	raw, err := os.ReadFile(filepath.Join(dir, "val.pack"))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 8
	flipped := filepath.Join(dir, "flipped.pack")
	if err := os.WriteFile(flipped, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	_, errs = runData(t, exitBadInput, "verify", flipped, "--quiet")
	wantAll(t, errs, "flipped.pack is damaged: record 19 (val/00000020.jpg)")
}

func encode(t *testing.T, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// checkAgainstPlainDecoder compares mean grey levels with image/jpeg, whose chroma upsampling differs from
// libjpeg-turbo's pixel by pixel.
func checkAgainstPlainDecoder(t *testing.T, p *data.Pack, dir string) {
	t.Helper()
	for i := range 5 {
		f, err := os.Open(filepath.Join(dir, "images", p.Name(i)))
		if err != nil {
			t.Fatal(err)
		}
		img, err := jpeg.Decode(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		want, got := 0.0, 0.0
		for y := range data.ImageSize {
			for x := range data.ImageSize {
				r, g, b, _ := img.At(x, y).RGBA()
				want += float64(r>>8 + g>>8 + b>>8)
			}
		}
		for _, v := range p.Record(i) {
			got += float64(v)
		}
		if d := (got - want) / data.RecordBytes; d < -1 || d > 1 {
			t.Errorf("%s: the mean differs by %.2f grey levels", p.Name(i), d)
		}
	}
}

func TestDataFetchUnpack(t *testing.T) {
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	picture := encode(t, image.NewRGBA(image.Rect(0, 0, 128, 128)))
	for _, name := range []string{"images/train/a/abbey/00000001.jpg", "images/val/00000001.jpg"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(picture)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(picture); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	z.Close()
	files := map[string][]byte{
		"/m/data.tar.gz": archive.Bytes(), "/kit/categories.txt": []byte("/a/abbey 0\n"),
		"/kit/train.txt": []byte("train/a/abbey/00000001.jpg 0\n"), "/kit/val.txt": []byte("val/00000001.jpg 0\n"),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(content)
	}))
	defer server.Close()

	dir := filepath.Join(t.TempDir(), "places")
	_, errs := runData(t, exitBadInput, "fetch", dir, "--url", server.URL+"/none.tar.gz", "--lists", "none")
	wantAll(t, errs, "none.tar.gz", "404", "--url")
	_, errs = runData(t, exitBadInput, "unpack", dir)
	wantAll(t, errs, "no .tar.gz in "+dir, "mp data fetch "+dir)
	out, _ := runData(t, exitDone, "fetch", dir, "--url", server.URL+"/m/data.tar.gz", "--lists", server.URL+"/kit/")
	wantAll(t, out, "data.tar.gz", "SHA-256", "next: mp data unpack "+dir)
	out, _ = runData(t, exitDone, "unpack", dir)
	wantAll(t, out, "2 files", "next: mp data pack "+dir)
	out, _ = runData(t, exitDone, "verify", dir, "--json")
	var verdict struct {
		Problems int
		Findings []data.Findings
	}
	if err := json.Unmarshal([]byte(out), &verdict); err != nil || verdict.Problems != 0 || len(verdict.Findings) != 2 || verdict.Findings[1].Copies != 1 {
		t.Errorf("got %s, %v", out, err)
	}
}

func TestDataBadArguments(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no folder", []string{"pack", filepath.Join(dir, "none")}},
		{"no folder", []string{"verify", filepath.Join(dir, "none")}},
		{"no such file", []string{"verify", filepath.Join(dir, "none.pack")}},
		{"no categories.txt", []string{"pack", dir}},
		{"choose 2 to 100000", []string{"synth", filepath.Join(dir, "x"), "--classes", "1"}},
		{"want DIR", []string{"fetch"}},
		{"requires at least 1 arg", []string{"unpack"}},
	} {
		_, errs := runData(t, exitBadInput, c.args...)
		wantAll(t, errs, c.want)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("refused commands leave %v", left)
	}
}
