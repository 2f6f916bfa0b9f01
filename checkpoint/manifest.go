package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Names inside a checkpoint's directory.
const (
	manifestName  = "manifest.json"
	modelName     = "model.safetensors"
	optimizerName = "optimizer.safetensors"
)

// manifestVersion is the version of the format that this package writes and reads.
const manifestVersion = 1

// manifest is manifest.json: what the checkpoint is, and the size and checksum of each of its files.
type manifest struct {
	Version int `json:"version"`
	// Serial counts the checkpoints written to a folder; the highest is the newest, whatever clocks say.
	Serial int                 `json:"serial"`
	Meta   Meta                `json:"meta"`
	Digest string              `json:"digest"` // Digest of the model's tensors
	Files  map[string]fileMark `json:"files"`
	// Check is the SHA-256 of this manifest's compact JSON with Check empty.
	Check string `json:"check"`
}

type fileMark struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (m manifest) check() (string, error) {
	m.Check = ""
	b, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

func (m manifest) encode() ([]byte, error) {
	var err error
	if m.Check, err = m.check(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// readManifest reads and verifies dir/manifest.json. The files that it lists are not looked at.
func readManifest(dir string) (manifest, error) {
	var m manifest
	path := filepath.Join(dir, manifestName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, malformed("%s is missing: the folder is not a checkpoint, or was not copied completely", path)
	}
	if err != nil {
		return m, err
	}
	return parseManifest(path, b)
}

// parseManifest reads and verifies a manifest.
func parseManifest(path string, text []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return m, malformed("%s is damaged: %w", path, err)
	}
	if m.Version != manifestVersion {
		return m, malformed("%s has version %d, this program reads version %d: use the mp that wrote it", path, m.Version, manifestVersion)
	}
	sum, err := m.check()
	if err != nil || sum != m.Check {
		return m, malformed("%s does not match its own checksum: it was changed or damaged", path)
	}
	if _, ok := m.Files[modelName]; !ok {
		return m, malformed("%s lists no %s", path, modelName)
	}
	for name := range m.Files {
		if name != modelName && name != optimizerName {
			return m, malformed("%s lists the unknown file %q", path, name)
		}
	}
	return m, nil
}

// resumable says whether a run can go on from a checkpoint.
func (m manifest) resumable() bool {
	_, ok := m.Files[optimizerName]
	return ok
}

// compare tells whether a file is the one that the manifest lists.
func (m manifest) compare(dir, name string, got fileMark) error {
	want := m.Files[name]
	path := filepath.Join(dir, name)
	if got.Size != want.Size {
		return malformed("%s has %d bytes, the manifest says %d: it is cut short or was overwritten", path, got.Size, want.Size)
	}
	if got.SHA256 != want.SHA256 {
		return malformed("%s has another SHA-256 than the manifest says: its bytes are damaged", path)
	}
	return nil
}
