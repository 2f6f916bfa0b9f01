package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where MiniPlaces is published: the images as one archive, the lists in the challenge's development kit.
const (
	ArchiveURL = "http://miniplaces.csail.mit.edu/data/data.tar.gz"
	ListsURL   = "https://raw.githubusercontent.com/CSAILVision/miniplaces/43f337898589dc70f4cf024587ead2aa1cff4e73/data"
)

// FetchConfig says what Fetch downloads.
type FetchConfig struct {
	URL      string
	Path     string                  // of the file; PATH.part holds what has arrived until it is complete
	SHA256   string                  // expected, in hexadecimal; empty means unknown
	Client   *http.Client            // nil means one that follows the proxy settings of the environment
	Tries    int                     // attempts in a row that may bring nothing before Fetch gives up; 0 means 5
	Wait     time.Duration           // before the second attempt, doubled each time; 0 means a second
	Silence  time.Duration           // how long a connection may bring nothing; 0 means a minute
	Progress func(done, total int64) // bytes, those of earlier calls included; total is 0 when unknown; may be nil
}

// Fetched is what Fetch did.
type Fetched struct {
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
	Resumed int64  `json:"resumed"` // bytes that an earlier call had left
	There   bool   `json:"there"`   // the file was complete before
}

// origin is what is known of the file that a .part is a part of; it lies beside it, so that a later call can tell
// whether the server still has the same file.
type origin struct {
	URL          string `json:"url"`
	Size         int64  `json:"size"` // -1 when unknown
	ETag         string `json:"etag"`
	LastModified string `json:"last_modified"`
}

// same says whether the answer o comes from the file that p was begun with.
func (p origin) same(o origin) bool {
	return p.URL == o.URL && p.ETag == o.ETag && p.LastModified == o.LastModified && (p.Size == o.Size || o.Size < 0)
}

// validator is the value for If-Range: a strong ETag or a date. Weak ETags are not allowed there (RFC 9110, 13.1.5).
func (p origin) validator() string {
	if p.ETag != "" && !strings.HasPrefix(p.ETag, "W/") {
		return p.ETag
	}
	return p.LastModified
}

// Fetch downloads a file over HTTP. It goes on where an earlier call stopped, or where the connection broke, as long as
// the server says by ETag, date and size that its file is still the same, and starts anew otherwise. The file appears
// under its name only when size and checksum are right. A wrong checksum and an answer such as 404 are ErrData; a lost
// connection is not, and leaves the .part for the next call.
func Fetch(ctx context.Context, c FetchConfig) (Fetched, error) {
	if _, err := os.Stat(c.Path); err == nil {
		return c.there()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Fetched{}, badf("fetch %s: %w", c.Path, err)
	}
	f, err := openPart(c.Path)
	if err != nil {
		return Fetched{}, err
	}
	defer f.Close()
	d := &download{FetchConfig: c, f: f}
	d.restore()
	result := Fetched{Resumed: d.have}
	if err := d.run(ctx); err != nil {
		if d.have == 0 {
			d.forget()
		}
		return Fetched{}, fmt.Errorf("fetch %s: %w", c.URL, err)
	}
	if result.SHA256, err = sumFile(ctx, f); err != nil {
		return Fetched{}, fmt.Errorf("fetch %s: %w", c.URL, err)
	}
	result.Bytes = d.have
	if c.SHA256 != "" && !strings.EqualFold(c.SHA256, result.SHA256) {
		d.forget()
		return Fetched{}, badf("fetch %s: its %d bytes have SHA-256 %s, not %s; they were thrown away", c.URL, d.have, result.SHA256, c.SHA256)
	}
	os.Remove(d.notePath())
	return result, commitPart(f, c.Path)
}

// there answers for a file that is complete already.
func (c FetchConfig) there() (Fetched, error) {
	f, err := os.Open(c.Path)
	if err != nil {
		return Fetched{}, badf("fetch: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Fetched{}, badf("fetch: %w", err)
	}
	sum, err := sumFile(context.Background(), f)
	if err != nil {
		return Fetched{}, fmt.Errorf("read %s: %w", c.Path, err)
	}
	if c.SHA256 != "" && !strings.EqualFold(c.SHA256, sum) {
		return Fetched{}, badf("fetch: %s is there with SHA-256 %s, not %s; delete it to fetch it again", c.Path, sum, c.SHA256)
	}
	return Fetched{Bytes: info.Size(), SHA256: sum, There: true}, nil
}

// download is a file on its way.
type download struct {
	FetchConfig
	f    *os.File
	from origin
	have int64 // bytes of f that count
}

// notePath is where the origin of a .part is noted.
func (d *download) notePath() string { return d.Path + ".part.json" }

// restore finds what an earlier call left.
func (d *download) restore() {
	d.from = origin{Size: -1}
	note, err := os.ReadFile(d.notePath())
	info, err2 := d.f.Stat()
	if err != nil || err2 != nil || json.Unmarshal(note, &d.from) != nil || d.from.URL != d.URL || d.from.validator() == "" && d.from.Size < 0 {
		d.from = origin{Size: -1}
		return
	}
	d.have = info.Size()
}

// forget removes the .part and its note.
func (d *download) forget() {
	os.Remove(d.notePath())
	os.Remove(d.f.Name())
}

// run asks until the file is complete.
func (d *download) run(ctx context.Context) error {
	tries, wait := d.Tries, d.Wait
	if tries < 1 {
		tries = 5
	}
	if wait <= 0 {
		wait = time.Second
	}
	pause := wait
	for failed := 0; ; {
		before := d.have
		err := d.ask(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrData) || errors.Is(err, errWriting):
			return err
		case ctx.Err() != nil:
			return d.stopped(ctx.Err())
		case d.have > before:
			failed, pause = 0, wait
		default:
			failed++
		}
		if failed >= tries {
			return d.stopped(fmt.Errorf("%d attempts in a row brought nothing, the last: %w", failed, err))
		}
		select {
		case <-ctx.Done():
			return d.stopped(ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// stopped explains what the next call can build on.
func (d *download) stopped(err error) error {
	if d.have == 0 {
		return fmt.Errorf("%w; is the network up? a mirror may be named with --url", err)
	}
	return fmt.Errorf("%w; %d bytes are kept, the same command goes on from there", err, d.have)
}

// errWriting marks failures of the disk, which another request cannot mend.
var errWriting = errors.New("write")

// ask sends one request and takes what it brings; nil means that the file is complete. A connection that falls silent is
// cut.
func (d *download) ask(ctx context.Context) error {
	silence := d.Silence
	if silence <= 0 {
		silence = time.Minute
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	err := d.exchange(inner, func() { watchdog.Reset(silence) })
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return fmt.Errorf("the server sent nothing for %v", silence)
	}
	return err
}

// exchange is one request and its answer; it calls alive whenever something arrives.
func (d *download) exchange(ctx context.Context, alive func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL, nil)
	if err != nil {
		return badf("%w", err)
	}
	if s := req.URL.Scheme; s != "http" && s != "https" || req.URL.Host == "" {
		return badf("the address must begin with http:// or https://")
	}
	req.Header.Set("Accept-Encoding", "identity") // sizes and ranges are those of the file itself
	if d.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		if v := d.from.validator(); v != "" {
			req.Header.Set("If-Range", v)
		}
	}
	client := d.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	done, err := d.accept(resp)
	if done || err != nil {
		return err
	}
	return d.copy(resp.Body, alive)
}

// accept looks at an answer's head and decides where its bytes belong. done means that nothing is left to fetch.
func (d *download) accept(resp *http.Response) (done bool, err error) {
	o := origin{URL: d.URL, Size: -1, ETag: resp.Header.Get("ETag"), LastModified: resp.Header.Get("Last-Modified")}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		from, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		o.Size = total
		if !ok || from != d.have || !d.from.same(o) {
			return false, d.begin(origin{Size: -1}, "the server's file changed")
		}
		return false, nil
	case http.StatusOK: // all of it: the first time, or no ranges here, or another file
		o.Size = resp.ContentLength
		return false, d.begin(o, "")
	case http.StatusRequestedRangeNotSatisfiable:
		_, total, _ := parseContentRange(resp.Header.Get("Content-Range"))
		if total == d.have && total == d.from.Size {
			return true, nil
		}
		return false, d.begin(origin{Size: -1}, "the server's file changed")
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false, fmt.Errorf("the server answers %s", resp.Status)
	}
	return false, badf("the server answers %s; name a mirror with --url", resp.Status)
}

// begin throws away what has arrived and starts the file o. With a reason the present answer is of no use.
func (d *download) begin(o origin, reason string) error {
	d.have, d.from = 0, o
	if err := d.f.Truncate(0); err != nil {
		return fmt.Errorf("%w %s: %w", errWriting, d.f.Name(), err)
	}
	if reason != "" {
		return fmt.Errorf("%s: starting again", reason)
	}
	if err := d.checkSpace(); err != nil {
		return err
	}
	note, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := writeFile(d.notePath(), note); err != nil {
		return fmt.Errorf("%w: %w", errWriting, err)
	}
	return nil
}

// checkSpace refuses a file that is larger than the space left on the disk.
func (d *download) checkSpace() error {
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(d.Path), &s); err != nil || d.from.Size < 0 {
		return nil // the write itself will tell
	}
	if free := int64(s.Bavail) * int64(s.Bsize); free < d.from.Size {
		return fmt.Errorf("%w %s: %.2f GB are free and it needs %.2f GB", errWriting, d.Path, float64(free)/1e9, float64(d.from.Size)/1e9)
	}
	return nil
}

// copy appends body to what has arrived, calling alive at every piece.
func (d *download) copy(body io.Reader, alive func()) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			alive()
			if _, err := d.f.WriteAt(buf[:n], d.have); err != nil {
				return fmt.Errorf("%w %s: %w", errWriting, d.f.Name(), err)
			}
			d.have += int64(n)
			if d.Progress != nil {
				d.Progress(d.have, max(d.from.Size, 0))
			}
		}
		switch {
		case err == io.EOF && d.from.Size >= 0 && d.have < d.from.Size:
			return fmt.Errorf("the connection ended after %d of %d bytes", d.have, d.from.Size)
		case err == io.EOF && d.from.Size >= 0 && d.have > d.from.Size:
			d.have = 0 // nothing of this can be trusted
			return fmt.Errorf("the server sent more than its %d bytes", d.from.Size)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// parseContentRange reads `bytes 5-9/10` or `bytes */10`; total is -1 for `*`.
func parseContentRange(s string) (from, total int64, ok bool) {
	s, found := strings.CutPrefix(s, "bytes ")
	span, size, found2 := strings.Cut(s, "/")
	if !found || !found2 {
		return 0, -1, false
	}
	total, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		total = -1
	}
	first, _, _ := strings.Cut(span, "-")
	from, err = strconv.ParseInt(first, 10, 64)
	return from, total, err == nil
}

// sumFile returns the SHA-256 of a whole file in hexadecimal.
func sumFile(ctx context.Context, f *os.File) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return "", err
		}
	}
}
