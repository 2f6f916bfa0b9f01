package data

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// UnpackConfig says what Unpack unpacks. Its limits are there for archives made to fill a disk; all of MiniPlaces is
// some 130,000 files and less than 1 GB.
type UnpackConfig struct {
	Archives []string                // tar files, gzipped or not
	Dir      string                  // made when missing
	MaxBytes int64                   // most bytes of all files together; 0 means 16 GiB
	MaxFiles int                     // most files and folders together; 0 means 4 million
	Progress func(done, total int64) // bytes of the archives read; may be nil
}

// Unpacked is what Unpack did.
type Unpacked struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// stagingName is the folder in UnpackConfig.Dir where files wait until all archives are unpacked.
const stagingName = ".unpack.part"

// Unpack unpacks archives into one folder. Nothing appears in it before every archive has been read to its end without
// fault: files wait in a folder .unpack.part, which an error removes and the next call clears. Archives may add to
// folders that are there; files of the same name are replaced. An archive with absolute paths, paths that lead out of
// the folder, links, devices, or more than the limits is refused with ErrData.
func Unpack(ctx context.Context, c UnpackConfig) (done Unpacked, err error) {
	if c.MaxBytes <= 0 {
		c.MaxBytes = 16 << 30
	}
	if c.MaxFiles <= 0 {
		c.MaxFiles = 4_000_000
	}
	var total int64
	for _, a := range c.Archives {
		info, err := os.Stat(a)
		if err != nil {
			return Unpacked{}, badf("unpack: %w", err)
		}
		if !info.Mode().IsRegular() {
			return Unpacked{}, badf("unpack %s: this is not a file", a)
		}
		total += info.Size()
	}
	_, missing := os.Stat(c.Dir)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return Unpacked{}, badf("unpack into %s: %w", c.Dir, err)
	}
	defer func() {
		if err != nil && missing != nil {
			os.Remove(c.Dir) // goes only if nothing else is in it
		}
	}()
	unlock, err := lockDir(c.Dir)
	if err != nil {
		return Unpacked{}, err
	}
	defer unlock()

	staging := filepath.Join(c.Dir, stagingName)
	if err := os.RemoveAll(staging); err != nil {
		return Unpacked{}, fmt.Errorf("clear %s: %w", staging, err)
	}
	if err := os.Mkdir(staging, 0o755); err != nil {
		return Unpacked{}, fmt.Errorf("unpack into %s: %w", c.Dir, err)
	}
	defer os.RemoveAll(staging)
	into, err := os.OpenRoot(staging)
	if err != nil {
		return Unpacked{}, fmt.Errorf("unpack into %s: %w", c.Dir, err)
	}
	defer into.Close()
	u := &unpacking{c: c, into: into, total: total, made: map[string]bool{".": true}, buf: make([]byte, 256<<10)}
	for _, a := range c.Archives {
		if err := u.archive(ctx, a); err != nil {
			return Unpacked{}, fmt.Errorf("unpack %s: %w", a, err)
		}
	}
	if u.done.Files == 0 {
		return Unpacked{}, badf("unpack: the archives hold no file")
	}
	if err := syncTree(staging); err != nil {
		return Unpacked{}, fmt.Errorf("unpack into %s: %w", c.Dir, err)
	}
	for _, move := range []func(from, to string) error{lookOnly, os.Rename} {
		if err := merge(staging, c.Dir, move); err != nil {
			return Unpacked{}, fmt.Errorf("unpack into %s: %w", c.Dir, err)
		}
	}
	return u.done, syncDir(c.Dir)
}

// CopyLists copies those of categories.txt, train.txt, val.txt and test.txt that lie in from and are missing in to. It
// returns their names.
func CopyLists(from, to string) ([]string, error) {
	var copied []string
	for _, name := range []string{"train.txt", "val.txt", "test.txt", "categories.txt"} {
		content, err := os.ReadFile(filepath.Join(from, name))
		if _, there := os.Stat(filepath.Join(to, name)); err != nil || there == nil {
			continue
		}
		if err := writeFile(filepath.Join(to, name), content); err != nil {
			return copied, err
		}
		copied = append(copied, name)
	}
	return copied, nil
}

// unpacking is the work of one call.
type unpacking struct {
	c       UnpackConfig
	into    *os.Root // keeps every path inside, also against links
	made    map[string]bool
	done    Unpacked
	folders int
	read    int64 // bytes of archives
	total   int64
	buf     []byte
}

// countingReader reports how much of the archives has been read: the bytes as they lie on disk, whose total is known.
type countingReader struct {
	f *os.File
	u *unpacking
}

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.f.Read(b)
	r.u.read += int64(n)
	if r.u.c.Progress != nil {
		r.u.c.Progress(r.u.read, r.u.total)
	}
	return n, err
}

// archive unpacks one file.
func (u *unpacking) archive(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return badf("%w", err)
	}
	defer f.Close()
	return u.stream(ctx, countingReader{f, u})
}

// stream unpacks what one file holds.
func (u *unpacking) stream(ctx context.Context, r io.Reader) error {
	raw := bufio.NewReaderSize(r, 256<<10)
	var plain io.Reader = raw
	if head, _ := raw.Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(raw)
		if err != nil {
			return readError(err)
		}
		plain = z
	}
	t := tar.NewReader(plain)
	entries := 0
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if entries == 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
				return badf("this is not a tar archive, gzipped or not (%w); delete it and fetch it again", err)
			}
			return readError(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := u.entry(ctx, t, h); err != nil {
			return err
		}
		entries++
	}
	return drain(plain)
}

// drain reads what follows the last entry, so that the checksum of a gzip archive is seen: padding, of a block or so.
func drain(r io.Reader) error {
	const most = 1 << 20
	n, err := io.Copy(io.Discard, io.LimitReader(r, most+1))
	if err != nil {
		return readError(err)
	}
	if n > most {
		return badf("more than %d bytes follow its last file", most)
	}
	return nil
}

// readError explains an archive that ends early or is damaged; other errors are the disk's.
func readError(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return badf("the archive is cut short; delete it and fetch it again")
	}
	return badf("the archive is damaged (%w); delete it and fetch it again", err)
}

// entry unpacks one entry of an archive.
func (u *unpacking) entry(ctx context.Context, t *tar.Reader, h *tar.Header) error {
	name := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink, tar.TypeLink:
		return badf("refused: %q is a link, which MiniPlaces does not have; nothing was unpacked", h.Name)
	default:
		return badf("refused: %q is neither file nor folder (type %q); nothing was unpacked", h.Name, h.Typeflag)
	}
	if path.IsAbs(h.Name) || !filepath.IsLocal(name) {
		return badf("refused: %q leads out of the folder; nothing was unpacked", h.Name)
	}
	if h.Typeflag == tar.TypeDir {
		return u.folder(name)
	}
	if err := checkName(name); err != nil {
		return badf("refused: %w; nothing was unpacked", err)
	}
	if err := u.folder(path.Dir(name)); err != nil {
		return err
	}
	return u.file(ctx, t, name)
}

// folder makes a folder and those above it.
func (u *unpacking) folder(name string) error {
	if u.made[name] {
		return nil
	}
	if err := u.folder(path.Dir(name)); err != nil {
		return err
	}
	if u.folders++; u.folders+u.done.Files > u.c.MaxFiles {
		return u.tooMany()
	}
	if err := u.into.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return u.pathError(name, err)
	}
	u.made[name] = true
	return nil
}

// file writes one file.
func (u *unpacking) file(ctx context.Context, from io.Reader, name string) error {
	if u.done.Files++; u.folders+u.done.Files > u.c.MaxFiles {
		return u.tooMany()
	}
	f, err := u.into.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return u.pathError(name, err)
	}
	defer f.Close()
	for {
		n, err := from.Read(u.buf)
		if u.done.Bytes += int64(n); u.done.Bytes > u.c.MaxBytes {
			return badf("refused: it unpacks to more than %d bytes; if it is meant to, raise --max-gb; nothing was unpacked", u.c.MaxBytes)
		}
		if _, err := f.Write(u.buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return f.Close()
		}
		if err != nil {
			return readError(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (u *unpacking) tooMany() error {
	return badf("refused: it holds more than %d files and folders; nothing was unpacked", u.c.MaxFiles)
}

// pathError explains names that contradict each other, such as a file where a folder belongs.
func (u *unpacking) pathError(name string, err error) error {
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENAMETOOLONG) {
		return badf("refused: %q: %w; nothing was unpacked", name, err)
	}
	return err
}

// lockDir keeps a second Unpack out of dir until unlock is called.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, badf("unpack into %s: %w", dir, err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, fmt.Errorf("unpack into %s: another process is writing there (%w)", dir, err)
	}
	return func() { d.Close() }, nil
}

// syncTree makes everything on the file system of dir durable in one call: a sync for each of 130,000 files would take
// longer than unpacking them.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// merge moves what from holds into to: whole folders where to has none of that name, else what they hold.
func merge(from, to string, move func(from, to string) error) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		source, target := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		info, err := os.Lstat(target)
		switch {
		case err == nil && e.IsDir() && info.IsDir():
			err = merge(source, target, move)
		case err == nil && e.IsDir() != info.IsDir():
			err = badf("%s is in the way; move it elsewhere", target)
		default:
			err = move(source, target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookOnly lets merge find what is in the way before anything moves.
func lookOnly(string, string) error { return nil }
