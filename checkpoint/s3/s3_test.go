package s3

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"mp/checkpoint"
	"mp/checkpoint/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t testing.TB) checkpoint.Store {
		backend := s3mem.New()
		if err := backend.CreateBucket("bucket"); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(unchunked(t, gofakes3.New(backend, gofakes3.WithLogger(gofakes3.StdLog(log.New(io.Discard, "", 0)))).Server()))
		t.Cleanup(server.Close)
		return open(t, Config{Endpoint: server.URL, Bucket: "bucket", Prefix: "some/where"})
	})
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	c.Key, c.Secret, c.PartBytes = "key", "very-secret", 5<<20
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Endpoint: "http://127.0.0.1:9000", Bucket: "b", Key: "k", Secret: "s"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		"bucket":                func(c *Config) { c.Bucket = "" },
		"AWS_SECRET_ACCESS_KEY": func(c *Config) { c.Secret = "" },
		"AWS_ENDPOINT_URL":      func(c *Config) { c.Endpoint = "127.0.0.1:9000" },
		"without a path":        func(c *Config) { c.Endpoint = "http://user:word@host/" },
		"5 MiB":                 func(c *Config) { c.PartBytes = 1 },
	} {
		c := good
		change(&c)
		if err := c.Validate(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "word") {
			t.Errorf("got %v, want ErrConfig with %q", err, want)
		}
	}
}

// A server that refuses gets an error that a person can use, and that says nothing of the secret.
func TestCredentialsAreNotTold(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(fmt.Sprint(r.Header, r.URL), "very-secret") {
			t.Error("the secret is in a request")
		}
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>")
	}))
	defer server.Close()
	s := open(t, Config{Endpoint: server.URL, Bucket: "bucket"})
	_, get := s.Get(t.Context(), "run/a")
	_, list := s.List(t.Context(), "run")
	for what, err := range map[string]error{
		"put": s.Put(t.Context(), "run/a", strings.NewReader("x"), 1), "get": get, "list": list, "remove": s.Remove(t.Context(), "run/a"), "sweep": s.Sweep(t.Context(), "run"),
	} {
		if err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") || strings.Contains(err.Error(), "very-secret") {
			t.Errorf("%s: got %v, want one that names AWS_ACCESS_KEY_ID", what, err)
		}
	}
}

// unchunked takes the chunks out of what comes, which that server does not in parts of an upload, and compares the checksum that
// follows them or stands before.
func unchunked(t testing.TB, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
			in, body := bufio.NewReader(r.Body), new(bytes.Buffer)
			for size := int64(1); size > 0; {
				line, _ := in.ReadString('\n') // what breaks off is no number
				var err error
				head, _, _ := strings.Cut(strings.TrimSpace(line), ";")
				if size, err = strconv.ParseInt(head, 16, 64); err == nil && size > 0 {
					_, err = io.CopyN(body, in, size)
					in.ReadString('\n')
				}
				if err != nil { // it breaks off
					w.WriteHeader(http.StatusBadRequest)
					return
				}
			}
			if r.Header.Get("X-Amz-Decoded-Content-Length") != strconv.Itoa(body.Len()) {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			trailer, _ := in.ReadString('\n')
			sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(body.Bytes(), crc32.MakeTable(crc32.Castagnoli)))
			said := cmp.Or(r.Header.Get("X-Amz-Checksum-Crc32c"), strings.TrimPrefix(strings.TrimSpace(trailer), "x-amz-checksum-crc32c:"))
			if want := base64.StdEncoding.EncodeToString(sum); said != want {
				t.Errorf("%s %s says it has CRC-32C %q, want %q", r.Method, r.URL.Path, said, want)
			}
			r.Body, r.ContentLength = io.NopCloser(body), int64(body.Len())
			r.Header.Set("Content-Length", strconv.Itoa(body.Len()))
			r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		}
		next.ServeHTTP(w, r)
	})
}
