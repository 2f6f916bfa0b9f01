package pixel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"mp/internal/shared"
)

// golden returns the JPEGs of the reference material, in order of name, and the pixels of a file beside them.
func golden(t testing.TB, pixels string) (jpegs [][]byte, pix []byte) {
	t.Helper()
	dir := filepath.Join(shared.Dir(t), "golden")
	pix, err := os.ReadFile(filepath.Join(dir, pixels))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "val100_jpeg.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string][]byte{}
	var names []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".jpg") {
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
			byName[h.Name] = b
		}
	}
	sort.Strings(names)
	for _, n := range names {
		jpegs = append(jpegs, byName[n])
	}
	if len(jpegs)*RecordBytes != len(pix) {
		t.Fatalf("%d JPEGs but %d bytes of pixels", len(jpegs), len(pix))
	}
	return jpegs, pix
}

// picture is a smooth scene with some texture.
func picture(w, h int, seed uint64) Image {
	r := rand.New(rand.NewPCG(seed, 1))
	m := Image{Pix: make([]byte, w*h*3), W: w, H: h}
	cx, cy := r.IntN(w), r.IntN(h)
	for y := range h {
		for x := range w {
			d := (x-cx)*(x-cx)/8 + (y-cy)*(y-cy)/8
			p := m.Pix[(y*w+x)*3:]
			p[0], p[1], p[2] = byte(min(255, d/4)), byte(255*x/w), byte(255*y/h/2+r.IntN(40))
		}
	}
	return m
}

func encode(t testing.TB, m image.Image, quality int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: quality}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// largest returns the largest difference of two byte slices and where it is.
func largest(t testing.TB, got, want []byte) (diff, at int) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if d := max(int(got[i])-int(want[i]), int(want[i])-int(got[i])); d > diff {
			diff, at = d, i
		}
	}
	return diff, at
}

func TestDecodeGolden(t *testing.T) {
	jpegs, want := golden(t, "val100_rgb_u8_NHWC_100x128x128x3.bin")
	got := make([]byte, len(want))
	if errs := Decode(jpegs, got); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	if d, at := largest(t, got, want); d != 0 {
		t.Errorf("largest difference %d, at image %d byte %d, want none", d, at/RecordBytes, at%RecordBytes)
	}
}

// Our entropy decoder takes over only one-scan baseline images, and the others go another way: both must agree with a
// decoder that is not libjpeg. Go's differs in the last bits of IDCT, upsampling and colour, so the mean counts.
func TestDecodeAgainstGo(t *testing.T) {
	for _, quality := range []int{5, 40, 75, 95, 100} {
		m := picture(Side, Side, uint64(quality))
		j := encode(t, m, quality)
		got := make([]byte, RecordBytes)
		if errs := Decode([][]byte{j}, got); errs != nil {
			t.Fatalf("quality %d: %v", quality, errs[0])
		}
		ref, err := jpeg.Decode(bytes.NewReader(j))
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for i := range Side * Side {
			r, g, b, _ := ref.At(i%Side, i/Side).RGBA()
			for c, v := range []uint32{r, g, b} {
				d := int(got[i*3+c]) - int(v>>8)
				sum += d * d
			}
		}
		if rms := float64(sum) / RecordBytes; rms > 25 {
			t.Errorf("quality %d: mean squared difference from image/jpeg %.2f, want below 25", quality, rms)
		}
	}
}

func TestDecodeGrey(t *testing.T) {
	g := image.NewGray(image.Rect(0, 0, Side, Side))
	for i := range g.Pix {
		g.Pix[i] = byte(i / Side)
	}
	got := make([]byte, RecordBytes)
	if errs := Decode([][]byte{encode(t, g, 100)}, got); errs != nil {
		t.Fatal(errs[0])
	}
	for i := range Side * Side {
		for c := range 3 {
			if d := int(got[i*3+c]) - i/Side; d < -2 || d > 2 {
				t.Fatalf("pixel %d channel %d is %d, want %d", i, c, got[i*3+c], i/Side)
			}
		}
	}
}

func TestDecodeBad(t *testing.T) {
	good := encode(t, picture(Side, Side, 1), 75)
	flipped := bytes.Clone(good)
	for i := len(flipped) / 2; i < len(flipped)/2+40; i++ {
		flipped[i] = 0xFF // markers inside the scan
	}
	cmyk := bytes.Clone(good)
	sof := bytes.Index(cmyk, []byte{0xFF, 0xC0})
	cmyk[sof+9] = 4 // four components, so that the header itself is wrong
	tests := []struct {
		name, want string
		jpeg       []byte
	}{
		{"empty", "empty", nil},
		{"one byte", "", []byte{0xFF}},
		{"text", "Not a JPEG", []byte("GIF89a, or anything else")},
		{"header only", "", good[:30]},
		{"cut in the scan", "Premature end", good[:len(good)*2/3]},
		{"cut before the end marker", "Premature end", good[:len(good)-2]},
		{"markers in the scan", "", flipped},
		{"components that do not fit", "", cmyk},
		{"another size", "64 x 32 pixels, want 128 x 128", encode(t, picture(64, 32, 2), 75)},
		{"CMYK", "CMYK", cmykJPEG(t)},
	}
	jpegs := [][]byte{good}
	for _, test := range tests {
		jpegs = append(jpegs, test.jpeg, good)
	}
	dst := make([]byte, len(jpegs)*RecordBytes)
	errs := Decode(jpegs, dst)
	if len(errs) != len(jpegs) {
		t.Fatalf("%d errors, want one for each of %d images", len(errs), len(jpegs))
	}
	for i, test := range tests {
		err := errs[2*i+1]
		if !errors.Is(err, ErrData) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want ErrData with %q", test.name, err, test.want)
		}
		if test.name != "another size" {
			if _, err := DecodeAny(test.jpeg); !errors.Is(err, ErrData) {
				t.Errorf("%s: DecodeAny's error %v, want ErrData", test.name, err)
			}
		}
	}
	for i := 0; i < len(jpegs); i += 2 {
		if errs[i] != nil {
			t.Errorf("good image %d: %v", i, errs[i])
		}
		if !bytes.Equal(dst[i*RecordBytes:][:RecordBytes], dst[:RecordBytes]) {
			t.Errorf("good image %d decodes differently after a bad one", i)
		}
	}
}

// Damage of any kind must end in pixels or in an error, never in a crash; our entropy decoder must find the same pixels and
// the same faults as libjpeg's; and what an image leaves behind must not touch the ones after it in the same call.
func TestDecodeDamaged(t *testing.T) {
	var whole [][]byte
	for i := range uint64(3) {
		whole = append(whole, encode(t, picture(Side, Side, i), 60))
	}
	r := rand.New(rand.NewPCG(1, 2))
	dst, plain := make([]byte, 6*RecordBytes), make([]byte, 6*RecordBytes)
	refused := 0
	for range 1500 {
		jpegs := make([][]byte, 6)
		for i := range jpegs {
			j := bytes.Clone(whole[r.IntN(3)])
			if i%3 == 1 {
				for range 1 + r.IntN(4) {
					at := r.IntN(len(j))
					if r.IntN(2) == 0 {
						at = r.IntN(650) // in the headers and tables
					}
					j[at] = byte(r.Uint32())
				}
				j = j[:len(j)-r.IntN(2)*r.IntN(len(j))]
			}
			if r.IntN(4) == 0 {
				j = append(j, "what comes after the end"...)
			}
			jpegs[i] = j
		}
		got, want := Decode(jpegs, dst), DecodePlain(jpegs, plain)
		if (got == nil) != (want == nil) {
			t.Fatalf("errors %v, libjpeg alone says %v", got, want)
		}
		for i := range jpegs {
			if got != nil && (got[i] != nil || want[i] != nil) {
				if got[i] == nil || want[i] == nil || got[i].Error() != want[i].Error() {
					t.Fatalf("image %d: error %v, libjpeg alone says %v", i, got[i], want[i])
				}
				refused++
				continue
			}
			if at := i * RecordBytes; !bytes.Equal(dst[at:at+RecordBytes], plain[at:at+RecordBytes]) {
				t.Fatalf("image %d: pixels differ from those of libjpeg alone", i)
			}
		}
	}
	if refused < 1500 || refused > 3000 {
		t.Errorf("%d of 3000 damaged images refused, want more than half and no others", refused)
	}
}

func TestDecodeAny(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {7, 300}, {333, 17}, {640, 480}} {
		m := picture(size[0], size[1], 9)
		got, err := DecodeAny(encode(t, m, 100))
		if err != nil {
			t.Fatalf("%v: %v", size, err)
		}
		if got.W != m.W || got.H != m.H || len(got.Pix) != len(m.Pix) {
			t.Fatalf("%v: got %d x %d, %d bytes", size, got.W, got.H, len(got.Pix))
		}
	}
}

// cmykJPEG is a JPEG of four equal components, marked by Adobe's segment as CMYK: a grey one whose frame and scan
// headers are written anew.
func cmykJPEG(t testing.TB) []byte {
	t.Helper()
	return []byte{
		0xFF, 0xD8,
		0xFF, 0xEE, 0, 14, 'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, 0,
		0xFF, 0xC0, 0, 20, 8, 0, Side, 0, Side, 4, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0, 4, 0x11, 0,
		0xFF, 0xDA, 0, 14, 4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0,
		0, 0xFF, 0xD9,
	}
}

func BenchmarkDecode(b *testing.B) {
	j := encode(b, picture(Side, Side, 3), 75)
	jpegs := make([][]byte, 100)
	for i := range jpegs {
		jpegs[i] = j
	}
	dst := make([]byte, len(jpegs)*RecordBytes)
	for name, decode := range map[string]func([][]byte, []byte) []error{"ours": Decode, "plain": DecodePlain} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if errs := decode(jpegs, dst); errs != nil {
					b.Fatal(errs[0])
				}
			}
			b.ReportMetric(float64(b.N*len(jpegs))/b.Elapsed().Seconds(), "images/s")
		})
	}
}
