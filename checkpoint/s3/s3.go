// Package s3 is storage that speaks S3 (Amazon's, MinIO, Ceph, Garage, a gateway) as a checkpoint.Store. It owns how objects
// travel and nothing of what they mean; it must never read the environment, and credentials never reach a log or an error.
//
// Large objects go in parts, three at a time, each with its CRC-32C, which the server compares; an object appears when its last
// part has come. Start reading at Config, then at Store.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// ErrConfig is in the chain of what Validate returns.
var ErrConfig = errors.New("unusable configuration of S3 storage")

// Config says where objects are kept and who asks.
type Config struct {
	// Endpoint is the server, http://HOST:PORT or https://HOST. Empty: Amazon's.
	Endpoint string
	// Region as the server knows it; empty: us-east-1, which most servers other than Amazon's take for any.
	Region string
	// Bucket must exist.
	Bucket string
	// Prefix stands before every key, with a slash between; empty: none.
	Prefix string
	// Key, Secret and Session are the credentials; Session is empty where they are not for a while only.
	Key, Secret, Session string
	// PartBytes is the size of a part, from 5 MiB; 0: 16 MiB.
	PartBytes uint64
}

// Validate returns what is wrong with the configuration, matching ErrConfig, or nil.
func (c Config) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(c.Endpoint)
	switch {
	case c.Endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != ""):
		return bad("the endpoint must be http://HOST:PORT or https://HOST, without a path or user (AWS_ENDPOINT_URL)")
	case c.Bucket == "":
		return bad("no bucket: want s3://BUCKET/PREFIX")
	case c.Key == "" || c.Secret == "":
		return bad("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	case c.PartBytes != 0 && c.PartBytes < 5<<20:
		return bad("parts of %d bytes: choose 5 MiB or more", c.PartBytes)
	}
	return nil
}

// Store is a checkpoint.Store in a bucket.
type Store struct {
	client *minio.Core
	cfg    Config
}

// tries bounds how often a request is sent that fails in a way that may pass; the pauses between grow to a second.
const tries = 5

// New checks the configuration. It connects to nobody yet.
func New(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.PartBytes == 0 {
		c.PartBytes = 16 << 20
	}
	if c.Endpoint == "" {
		c.Endpoint = "https://s3." + c.Region + ".amazonaws.com"
	}
	c.Prefix = strings.Trim(c.Prefix, "/")
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	client, err := minio.NewCore(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(c.Key, c.Secret, c.Session), Secure: u.Scheme == "https", Region: c.Region, TrailingHeaders: true, MaxRetries: tries,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return &Store{client, c}, nil
}

func (s *Store) object(key string) string { return path.Join(s.cfg.Prefix, key) }

// say makes a sentence of what a server answers.
func (s *Store) say(what, key string, err error) error {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return fmt.Errorf("%s %s at %s: %w", what, key, s.cfg.Endpoint, err)
	}
	switch {
	case answer.Code == "NoSuchBucket":
		return fmt.Errorf("%s %s: %s has no bucket %s: make it first", what, key, s.cfg.Endpoint, s.cfg.Bucket)
	case answer.Code == "NoSuchKey" || answer.Code == "" && answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s at %s: %w", what, key, s.cfg.Endpoint, fs.ErrNotExist)
	case answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s %s: %s does not let these credentials (AWS_ACCESS_KEY_ID) into bucket %s: %s", what, key, s.cfg.Endpoint, s.cfg.Bucket, answer.Code)
	}
	return fmt.Errorf("%s %s at %s: %w", what, key, s.cfg.Endpoint, err)
}

// Put stores an object. One that is larger than a part goes in parts; from is read several places at once if it is an
// io.ReaderAt.
func (s *Store) Put(ctx context.Context, key string, from io.Reader, size int64) error {
	_, err := s.client.Client.PutObject(ctx, s.cfg.Bucket, s.object(key), from, size,
		minio.PutObjectOptions{PartSize: s.cfg.PartBytes, NumThreads: 3, ContentType: "application/octet-stream", Checksum: minio.ChecksumCRC32C})
	if err != nil {
		return s.say("store", key, err)
	}
	return nil
}

// Get returns an object's bytes.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	r, _, _, err := s.client.GetObject(ctx, s.cfg.Bucket, s.object(key), minio.GetObjectOptions{})
	if err != nil {
		return nil, s.say("get", key, err)
	}
	return r, nil
}

// List returns the keys below dir.
func (s *Store) List(ctx context.Context, dir string) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when it is left
	defer cancel()
	var keys []string
	for o := range s.client.Client.ListObjects(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: s.object(dir) + "/", Recursive: true}) {
		if o.Err != nil {
			return nil, s.say("list", dir, o.Err)
		}
		keys = append(keys, strings.TrimPrefix(strings.TrimPrefix(o.Key, s.cfg.Prefix), "/"))
	}
	if err := ctx.Err(); err != nil {
		return nil, s.say("list", dir, err)
	}
	slices.Sort(keys)
	return keys, nil
}

// Remove removes an object.
func (s *Store) Remove(ctx context.Context, key string) error {
	if err := s.client.RemoveObject(ctx, s.cfg.Bucket, s.object(key), minio.RemoveObjectOptions{}); err != nil {
		return s.say("remove", key, err)
	}
	return nil
}

// Sweep gives up the uploads below dir whose last part has not come.
func (s *Store) Sweep(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for u := range s.client.Client.ListIncompleteUploads(ctx, s.cfg.Bucket, s.object(dir)+"/", true) {
		err := u.Err
		if err == nil {
			err = s.client.AbortMultipartUpload(ctx, s.cfg.Bucket, u.Key, u.UploadID)
		}
		if err != nil && minio.ToErrorResponse(err).Code != minio.NoSuchUpload { // it ended meanwhile, or there is none
			return s.say("give up uploads below", dir, err)
		}
	}
	return nil
}
