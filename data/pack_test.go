package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

func TestPackHoldsWhatWasPacked(t *testing.T) {
	const n = 70 // three batches of the decoder
	dir := testRoot(t, n, 0)
	root := openTestRoot(t, dir)
	path := filepath.Join(dir, "train.pack")
	last := 0
	err := WritePack(context.Background(), PackConfig{Root: root, Split: Train, Path: path, Decoder: plainDecoder{}, Progress: func(done, total int) {
		if done <= last || total != n {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	}})
	if err != nil || last != n {
		t.Fatalf("packed %d images: %v", last, err)
	}
	p := openTestPack(t, path)
	entries, _ := root.Entries(Train)
	if p.Len() != n || p.Split() != Train || !reflect.DeepEqual(p.Classes(), root.Classes()) || p.Path() != path {
		t.Errorf("pack of %d %s images, classes %v", p.Len(), p.Split(), p.Classes())
	}
	if info, err := os.Stat(path); err != nil || info.Size() != p.Size() {
		t.Errorf("size: got %d, want that of the file, %v", p.Size(), err)
	}
	want := make([]byte, RecordBytes)
	for i, e := range entries {
		if p.Name(i) != e.Name || p.Label(i) != int(e.Label) {
			t.Errorf("record %d: got %s %d, want %v", i, p.Name(i), p.Label(i), e)
		}
		file, _ := os.ReadFile(root.Path(e.Name))
		if err := plainDecode(file, want); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Record(i), want) || !bytes.Equal(p.Records()[i*RecordBytes:][:RecordBytes], want) {
			t.Errorf("record %d differs from its image", i)
		}
	}
	if at := uintptr(unsafe.Pointer(&p.Records()[0])); at%packPage != 0 {
		t.Errorf("records begin at %#x, not on a page", at)
	}
	if err := p.Check([]int32{0, n - 1, 5, 5}); err != nil {
		t.Error(err)
	}
	if err := p.Verify(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path + ".part"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

func TestPackHashIdentifiesTheData(t *testing.T) {
	dir := testRoot(t, 40, 40)
	hash := func(split Split, workers int) [32]byte {
		t.Helper()
		path := filepath.Join(dir, "x.pack")
		if err := WritePack(context.Background(), PackConfig{Root: openTestRoot(t, dir), Split: split, Path: path, Decoder: plainDecoder{}, Workers: workers}); err != nil {
			t.Fatal(err)
		}
		return openTestPack(t, path).Hash()
	}
	first := hash(Train, 1)
	if again := hash(Train, 4); again != first {
		t.Error("the number of workers changes the hash")
	}
	if val := hash(Val, 2); val == first {
		t.Error("train and val have one hash")
	}
	list, _ := os.ReadFile(filepath.Join(dir, "train.txt"))
	put(t, dir, "train.txt", bytes.Replace(list, []byte(".jpg 1"), []byte(".jpg 2"), 1))
	if hash(Train, 2) == first {
		t.Error("another label leaves the hash as it was")
	}
	put(t, dir, "train.txt", list)
	put(t, dir, "images/train/b/beach/00000001.jpg", testJPEG(t, 77))
	if hash(Train, 2) == first {
		t.Error("another image leaves the hash as it was")
	}
}

// Every single bit of a pack is covered: a flip anywhere is found, and named where it lies in a record.
func TestFlippedBitIsFound(t *testing.T) {
	path := testPack(t, 4)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := openTestPack(t, path)
	bad := filepath.Join(t.TempDir(), "bad.pack")
	flip := func(at uint64, want ...string) {
		t.Helper()
		b := bytes.Clone(good)
		b[at] ^= 1 << (at % 8)
		if err := os.WriteFile(bad, b, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := VerifyPack(context.Background(), bad, nil, nil)
		if err != nil || f.Problems == 0 {
			t.Errorf("flip in byte %d: got %d problems, %v", at, f.Problems, err)
			return
		}
		wantError(t, errors.New(f.Listed[0]), append(want, "bad.pack")...)
		if q, err := OpenPack(bad); err == nil {
			if err := q.Verify(); !errors.Is(err, ErrData) {
				t.Errorf("flip in byte %d: Verify gives %v", at, err)
			}
			q.Close()
		} else if !errors.Is(err, ErrData) {
			t.Errorf("flip in byte %d: OpenPack gives %v", at, err)
		}
	}
	for at := uint64(0); at < p.h.records.at; at++ {
		if header := at < packPage; header && at%43 == 0 || !header && at%7 == 0 || at == packPage-1 {
			flip(at)
		}
	}
	second := []string{"record 1", "train/a/apartment/outdoor/00000001.jpg"}
	flip(p.h.labels.at+4, second...)
	flip(p.h.sums.at+7, second...)
	flip(p.h.records.at+RecordBytes, second...)
	flip(p.h.records.at+2*RecordBytes-1, second...)
	flip(p.h.names.at+uint64(len("train/a/abbey/00000001.jpg")), "record 1")
	flip(p.h.nameEnds.at+8, "record 1")
	for _, i := range []uint64{0, 1, 1000, 49151, 49152 * 3, 4*49152 - 1} {
		flip(p.h.records.at+i, fmt.Sprintf("record %d", i/RecordBytes))
	}
}

func TestCheckFindsDamageOnFirstUse(t *testing.T) {
	path := testPack(t, 3)
	p := openTestPack(t, path)
	at := int64(p.h.records.at) + 2*RecordBytes + 5
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^p.Record(2)[5]}, at); err != nil {
		t.Fatal(err)
	}
	if err := p.Check([]int32{0, 1}); err != nil {
		t.Errorf("good records: %v", err)
	}
	err = p.Check([]int32{1, 2})
	wantError(t, err, path, "record 2", "train/b/beach/00000001.jpg")
	if !errors.Is(err, ErrData) {
		t.Errorf("error %v is not ErrData", err)
	}
}

func TestOpenPackRefuses(t *testing.T) {
	good, err := os.ReadFile(testPack(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	refuse := func(content []byte, parts ...string) {
		t.Helper()
		path := filepath.Join(dir, "x.pack")
		put(t, dir, "x.pack", content)
		_, err := OpenPack(path)
		wantError(t, err, append(parts, path)...)
		if !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
	}
	refuse(nil, "not a pack")
	refuse([]byte("JPEG"), "not a pack")
	refuse(make([]byte, 9000), "not a pack")
	refuse(good[:len(good)-1], "cut short")
	refuse(good[:packPage], "cut short")
	refuse(append(bytes.Clone(good), 0), "written over")
	other := bytes.Clone(good)
	binary.LittleEndian.PutUint32(other[len(packMagic):], packVersion+1)
	refuse(other, "version 2", "reads version 1", "mp data pack")
	_, err = OpenPack(filepath.Join(dir, "gone.pack"))
	wantError(t, err, "gone.pack", "no such file", "mp data pack "+dir)
	_, err = OpenPack(dir)
	wantError(t, err, dir, "not a pack")
}

func TestWritePackListsAllBadFiles(t *testing.T) {
	dir := testRoot(t, 60, 0)
	root := openTestRoot(t, dir)
	entries, _ := root.Entries(Train)
	whole := testJPEG(t, 1)
	spoil := map[int][]byte{
		0:  whole[:len(whole)/2],
		7:  []byte("GIF89a"),
		8:  {},
		20: encodeJPEG(t, testImage(3, 64, 128)),
		40: nil, // removed
	}
	for i, content := range spoil {
		put(t, dir, "images/"+entries[i].Name, content)
	}
	os.Remove(root.Path(entries[40].Name))
	gray := image.NewGray(image.Rect(0, 0, ImageSize, ImageSize))
	gray.SetGray(5, 5, color.Gray{200})
	put(t, dir, "images/"+entries[33].Name, encodeJPEG(t, gray))

	path := filepath.Join(dir, "train.pack")
	c := PackConfig{Root: root, Split: Train, Path: path, Decoder: plainDecoder{}}
	err := WritePack(context.Background(), c)
	if !errors.Is(err, ErrData) {
		t.Errorf("error %v is not ErrData", err)
	}
	wantError(t, err, "5 of 60 files", "64x128", "no such file", "the file is empty", "delete their lines")
	for i := range spoil {
		wantError(t, err, root.Path(entries[i].Name))
	}
	if strings.Contains(err.Error(), entries[33].Name) {
		t.Errorf("a grey image is refused: %v", err)
	}
	wantOnly(t, dir, "categories.txt", "images", "train.txt", "val.txt")

	for _, e := range entries {
		put(t, dir, "images/"+e.Name, []byte("no JPEG"))
	}
	err = WritePack(context.Background(), c)
	wantError(t, err, "60 of 60 files", "and 40 more", entries[19].Name)
	if strings.Contains(err.Error(), entries[20].Name) {
		t.Errorf("more than twenty files are listed: %v", err)
	}
}

func TestWritePackLeavesNothing(t *testing.T) {
	dir := testRoot(t, 64, 0)
	root := openTestRoot(t, dir)
	path := filepath.Join(dir, "train.pack")
	ctx, cancel := context.WithCancel(context.Background())
	c := PackConfig{Root: root, Split: Train, Path: path, Decoder: plainDecoder{}, Workers: 1, Progress: func(int, int) { cancel() }}
	if err := WritePack(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	wantOnly(t, dir, "categories.txt", "images", "train.txt", "val.txt")

	c.Path = filepath.Join(dir, "none", "train.pack")
	err := WritePack(context.Background(), c)
	wantError(t, err, c.Path, "no such file")
	if !errors.Is(err, ErrData) {
		t.Errorf("a missing folder: %v is not ErrData", err)
	}

	// A pack that is there survives a failed attempt to write it again.
	c.Path, c.Progress = path, nil
	if err := WritePack(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "images/train/a/abbey/00000001.jpg", nil)
	if err := WritePack(context.Background(), c); err == nil {
		t.Error("an empty file is packed")
	}
	if err := openTestPack(t, path).Verify(); err != nil {
		t.Errorf("the older pack: %v", err)
	}
}

// No disk here is full, but a limit on the size of files takes the same path: the reservation fails. The limit holds for
// a whole process, so the test runs itself again in one of its own.
func TestWritePackOnAFullDisk(t *testing.T) {
	const inside = "MP_TEST_FULL_DISK"
	if os.Getenv(inside) == "" {
		c := exec.Command(os.Args[0], "-test.run=^TestWritePackOnAFullDisk$", "-test.v")
		c.Env = append(os.Environ(), inside+"=1")
		if out, err := c.CombinedOutput(); err != nil || bytes.Contains(out, []byte("no tests to run")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := testRoot(t, 8, 0)
	limit := syscall.Rlimit{Cur: 5 * RecordBytes, Max: 5 * RecordBytes}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "train.pack")
	err := WritePack(context.Background(), PackConfig{Root: openTestRoot(t, dir), Split: Train, Path: path, Decoder: plainDecoder{}})
	wantError(t, err, path, "reserve", "free space")
	if errors.Is(err, ErrData) {
		t.Errorf("a full disk is called bad data: %v", err)
	}
	wantOnly(t, dir, "categories.txt", "images", "train.txt", "val.txt")
}

func TestTwoWritersDoNotMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	f, err := openPart(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openPart(path)
	wantError(t, err, "another process is writing")
	if err := commitPart(f, path); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("2")); err != nil {
		t.Errorf("after the first is done: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "2" {
		t.Errorf("got %q, want 2", b)
	}
}

// wantOnly fails the test unless dir holds exactly names.
func wantOnly(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !reflect.DeepEqual(got, names) {
		t.Errorf("folder holds %v, want %v", got, names)
	}
}

// FuzzPack: whatever bytes a pack holds, opening and using it ends in ErrData or in values within their bounds. The fuzzer
// makes up what is not zero: the head of the header, the sections before the records, and how many records follow.
func FuzzPack(f *testing.F) {
	const sections = len(packMagic) + 4*4 + 8 + 16
	const size = sections + 6*16
	const head = size + 8 + 4 + 32
	for _, n := range []int{1, 2} {
		b, err := os.ReadFile(testPack(f, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:head], bytes.TrimRight(b[packPage:2*packPage], "\x00"), n)
	}
	empty := packHeader{split: "val"}
	empty.layout(0, 0)
	f.Add(empty.encode()[:head], []byte{}, 0)
	f.Fuzz(func(t *testing.T, first, second []byte, n int) {
		usePack(t, first)
		raw := make([]byte, packPage*(1+(len(second)+packPage-1)/packPage)+(n&3)*RecordBytes)
		copy(raw[:packPage-4], first)
		copy(raw[packPage:], second)
		usePack(t, raw)
		// Go on behind the checks of size and checksums, which random bytes would never pass.
		binary.LittleEndian.PutUint64(raw[size:], uint64(len(raw)))
		if classes := binary.LittleEndian.Uint64(raw[sections+8:]); classes <= uint64(len(raw)-packPage) {
			binary.LittleEndian.PutUint32(raw[size+8:], packSum(raw[packPage:packPage+classes]))
		}
		binary.LittleEndian.PutUint32(raw[packPage-4:], packSum(raw[:packPage-4]))
		usePack(t, raw)
	})
}

func usePack(t *testing.T, raw []byte) {
	p, err := parsePack("fuzz", raw)
	if err != nil {
		return
	}
	for i := range p.Len() {
		p.Name(i)
		p.Label(i)
		if len(p.Record(i)) != RecordBytes {
			t.Errorf("record %d has %d bytes", i, len(p.Record(i)))
		}
		if err := p.Check([]int32{int32(i)}); err == nil && (p.Label(i) < -1 || p.Label(i) >= len(p.Classes())) {
			t.Errorf("record %d passes with label %d of %d classes", i, p.Label(i), len(p.Classes()))
		}
	}
	// Verify itself starts goroutines, whose order would make the fuzzer believe in news.
	var f Findings
	p.verifyRest(&f, 0, make([]byte, 32*p.Len()))
}
