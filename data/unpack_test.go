package data

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// member is an entry of a test archive.
type member struct {
	name    string
	kind    byte // 0 is a file
	content string
	link    string
}

func tarBytes(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if m.kind == 0 {
			m.kind = tar.TypeReg
		}
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.link, Size: int64(len(m.content)), Mode: 0o600}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

// wantFile fails the test unless dir holds the file with this content.
func wantFile(t testing.TB, dir, name, content string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != content {
		t.Errorf("%s: got %q, %v, want %q", name, b, err, content)
	}
}

func TestUnpackSeveralArchives(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "new", "place")
	put(t, from, "0.tar.gz", gzipped(t, tarBytes(t, member{name: "images/", kind: tar.TypeDir}, member{name: "images/train/a/1.jpg", content: "one"})))
	put(t, from, "1.tar.gz", gzipped(t, tarBytes(t, member{name: "./images/train/a/2.jpg", content: "two"}, member{name: "objects/x.xml", content: "x"})))
	put(t, from, "2.tar", tarBytes(t, member{name: "images/val/3.jpg", content: "three"}))
	put(t, to, "images/train/a/0.jpg", []byte("older"))
	put(t, to, "images/train/a/1.jpg", []byte("replaced"))
	var last, total int64
	got, err := Unpack(context.Background(), UnpackConfig{Archives: Archives(from), Dir: to, Progress: func(d, n int64) { last, total = d, n }})
	if err != nil || got.Files != 4 || got.Bytes != int64(len("one"+"two"+"x"+"three")) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if last != total || total == 0 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	wantFile(t, to, "images/train/a/0.jpg", "older")
	wantFile(t, to, "images/train/a/1.jpg", "one")
	wantFile(t, to, "images/train/a/2.jpg", "two")
	wantFile(t, to, "images/val/3.jpg", "three")
	wantOnly(t, to, "images", "objects")
	if info, err := os.Stat(filepath.Join(to, "objects/x.xml")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode: got %v, %v", info.Mode(), err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good := member{name: "images/train/1.jpg", content: "one"}
	noise := string(testContent(1))
	whole := gzipped(t, tarBytes(t, member{name: "a.jpg", content: noise}))
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 4
	wrongSum := bytes.Clone(whole)
	wrongSum[len(wrongSum)-6] ^= 1
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"traversal":      {tarBytes(t, good, member{name: "images/../../out.jpg", content: "x"}), "leads out"},
		"parent":         {tarBytes(t, good, member{name: "..", kind: tar.TypeDir}), "leads out"},
		"absolute":       {tarBytes(t, good, member{name: "/tmp/out.jpg", content: "x"}), "leads out"},
		"symbolic link":  {tarBytes(t, good, member{name: "l", kind: tar.TypeSymlink, link: "/etc"}, member{name: "l/passwd", content: "x"}), "is a link"},
		"hard link":      {tarBytes(t, good, member{name: "l", kind: tar.TypeLink, link: "images/train/1.jpg"}), "is a link"},
		"device":         {tarBytes(t, good, member{name: "null", kind: tar.TypeChar}), "neither file nor folder"},
		"control":        {tarBytes(t, good, member{name: "a\nb", content: "x"}), "control character"},
		"file as folder": {tarBytes(t, good, member{name: "images/train/1.jpg/2.jpg", content: "x"}), "1.jpg"},
		"too large":      {gzipped(t, tarBytes(t, good, member{name: "zeros", content: strings.Repeat("\x00", 300_000)})), "more than 200000 bytes"},
		"too many":       {tarBytes(t, good, good, good, good, good, good, good, good, good, good), "more than 10 files"},
		"cut":            {whole[:len(whole)-2000], "cut short"},
		"cut in a file":  {tarBytes(t, member{name: "a.jpg", content: noise})[:5000], "cut short"},
		"flipped":        {flipped, "damaged"},
		"checksum":       {wrongSum, "damaged"},
		"tail":           {gzipped(t, append(tarBytes(t, good), make([]byte, 3<<20)...)), "follow its last file"},
		"web page":       {[]byte("<html>" + strings.Repeat("not here ", 200)), "not a tar archive"},
		"no file":        {tarBytes(t, member{name: "images", kind: tar.TypeDir}), "hold no file"},
		"empty":          {nil, "no file"},
	} {
		t.Run(name, func(t *testing.T) {
			from, above := t.TempDir(), t.TempDir()
			to := filepath.Join(above, "new")
			put(t, from, "0.tar", tarBytes(t, member{name: "images/train/0.jpg", content: "zero"}))
			archives := Archives(from)
			if strings.HasSuffix(c.want, "no file") {
				archives = nil
			}
			put(t, from, "x.tar", c.archive)
			_, err := Unpack(context.Background(), UnpackConfig{Archives: append(archives, filepath.Join(from, "x.tar")), Dir: to, MaxBytes: 200_000, MaxFiles: 10})
			wantError(t, err, c.want)
			if !errors.Is(err, ErrData) {
				t.Errorf("error %v is not ErrData", err)
			}
			wantOnly(t, above)
			wantOnly(t, from, "0.tar", "x.tar")
		})
	}
}

func TestUnpackNamesTheArchive(t *testing.T) {
	dir := t.TempDir()
	_, err := Unpack(context.Background(), UnpackConfig{Archives: []string{filepath.Join(dir, "gone.tar.gz")}, Dir: dir})
	wantError(t, err, "gone.tar.gz", "no such file")
	put(t, dir, "x.tar.gz", []byte("text"))
	_, err = Unpack(context.Background(), UnpackConfig{Archives: Archives(dir), Dir: dir})
	wantError(t, err, filepath.Join(dir, "x.tar.gz"))
	put(t, dir, "y.tar.gz", tarBytes(t, member{name: "f", content: "x"}))
	_, err = Unpack(context.Background(), UnpackConfig{Archives: []string{filepath.Join(dir, "y.tar.gz")}, Dir: filepath.Join(dir, "x.tar.gz")})
	wantError(t, err, "not a directory")
}

func TestUnpackStopsAndClears(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	put(t, from, "0.tar", tarBytes(t, member{name: "a", content: string(testContent(1))}, member{name: "b", content: "b"}))
	put(t, to, stagingName+"/left/over.jpg", []byte("of a killed process"))
	ctx, cancel := context.WithCancel(context.Background())
	c := UnpackConfig{Archives: Archives(from), Dir: to, Progress: func(int64, int64) { cancel() }}
	if _, err := Unpack(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	wantOnly(t, to)
	unlock, err := lockDir(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Unpack(context.Background(), c)
	wantError(t, err, "another process")
	unlock()
	put(t, to, "a/in/the/way", nil)
	_, err = Unpack(context.Background(), c)
	wantError(t, err, "in the way")
	wantOnly(t, to, "a") // and no b: it is found before anything moves
}

func TestCopyLists(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	put(t, from, "train.txt", []byte("new"))
	put(t, from, "categories.txt", []byte("classes"))
	put(t, to, "train.txt", []byte("old"))
	got, err := CopyLists(from, to)
	if err != nil || len(got) != 1 || got[0] != "categories.txt" {
		t.Errorf("got %v, %v", got, err)
	}
	wantFile(t, to, "categories.txt", "classes")
	wantFile(t, to, "train.txt", "old")
	wantOnly(t, to, "categories.txt", "train.txt")
}

// FuzzUnpack: whatever its entries are called and wherever they point, an archive writes nothing outside the folder.
func FuzzUnpack(f *testing.F) {
	f.Add("images/train/1.jpg", byte(tar.TypeReg), "", "images", byte(tar.TypeDir), "", "pixels")
	f.Add("../x", byte(tar.TypeReg), "", "/x", byte(tar.TypeReg), "", "pixels")
	f.Add("l", byte(tar.TypeSymlink), "..", "l/x", byte(tar.TypeReg), "", "pixels")
	f.Add("a", byte(tar.TypeReg), "", "a/b", byte(tar.TypeLink), "a", "")
	f.Fuzz(func(t *testing.T, name1 string, kind1 byte, link1, name2 string, kind2 byte, link2, content string) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []*tar.Header{{Name: name1, Typeflag: kind1, Linkname: link1}, {Name: name2, Typeflag: kind2, Linkname: link2}} {
			if h.Typeflag == tar.TypeReg {
				h.Size = int64(len(content))
			}
			if w.WriteHeader(h) != nil {
				return // no archive can say this
			}
			if h.Size > 0 {
				io.WriteString(w, content)
			}
		}
		w.Close()
		above := t.TempDir()
		put(t, above, "in/.keep", nil)
		into, err := os.OpenRoot(filepath.Join(above, "in"))
		if err != nil {
			t.Fatal(err)
		}
		defer into.Close()
		u := &unpacking{c: UnpackConfig{MaxBytes: 1 << 20, MaxFiles: 50}, into: into, made: map[string]bool{".": true}, buf: make([]byte, 1<<10)}
		if err := u.stream(context.Background(), &b); err != nil && !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
		wantOnly(t, above, "in")
		filepath.WalkDir(above, func(p string, d os.DirEntry, err error) error {
			if err != nil || !d.IsDir() && !d.Type().IsRegular() {
				t.Errorf("%s is %v, %v", p, d, err)
			}
			return nil
		})
	})
}
