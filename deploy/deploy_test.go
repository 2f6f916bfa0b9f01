package deploy

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the expected manifests anew")

// textOf is what kubectl reads.
func textOf(t *testing.T, c Config) string {
	t.Helper()
	all, err := Render(c)
	if err != nil {
		t.Fatal(err)
	}
	text, err := all.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// firstOther is the first line in which two texts differ.
func firstOther(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return strings.Join(a[max(0, i-3):min(i+3, len(a))], "\n")
		}
	}
	return "the end"
}

// plain is what manifests say, whatever the order of variables and volumes.
func plain(t *testing.T, text string) []any {
	t.Helper()
	var all []any
	for one := range strings.SplitSeq(text, "\n---\n") {
		var object any
		if err := yaml.Unmarshal([]byte(one), &object); err != nil {
			t.Fatal(err)
		}
		sortNamed(object)
		all = append(all, object)
	}
	return all
}

func sortNamed(of any) {
	switch of := of.(type) {
	case []any:
		for _, one := range of {
			sortNamed(one)
		}
	case map[string]any:
		for key, one := range of {
			if list, ok := one.([]any); ok && (key == "env" || key == "volumes") {
				slices.SortFunc(list, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
			sortNamed(one)
		}
	}
}

// A cluster that nobody has changed is its overlay.
func TestRenderIsKustomizeBuild(t *testing.T) {
	disk := filesys.MakeFsOnDisk()
	for _, overlay := range Overlays() {
		all, err := build(disk, filepath.Join(treeFolder, overlayFolder, overlay))
		if err != nil {
			t.Fatal(err)
		}
		want, err := all.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		if got := textOf(t, DefaultConfig(overlay)); !reflect.DeepEqual(plain(t, got), plain(t, string(want))) {
			t.Errorf("%s: render differs from kustomize build at\n%s", overlay, firstOther(got, string(want)))
		}
	}
}

// What is written to a folder builds to what is printed.
func TestWriteIsRender(t *testing.T) {
	c := DefaultConfig(Kueue)
	c.Workers, c.Namespace, c.Job = 5, "team-b", []byte("model: simplenet\n")
	folder, err := Write(c, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all, err := build(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatal(err)
	}
	got, err := all.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	if want := textOf(t, c); string(got) != want || !strings.Contains(want, "model: simplenet") {
		t.Errorf("the folder builds something else, at\n%s", firstOther(string(got), want))
	}
}

func TestExpectedManifests(t *testing.T) {
	for _, overlay := range Overlays() {
		c := DefaultConfig(overlay)
		c.Namespace, c.Image, c.Version, c.Workers, c.MinWorkers = "team-a", "registry.example/mp:1.2@sha256:"+strings.Repeat("0123456789abcdef", 4), "1.2", 4, 2
		c.With, c.Job = []string{withNATS}, []byte("model: scenenet\nepochs: 3\n")
		switch overlay {
		case Local:
			c.Data, c.Coordinators = "/srv/images", 1
		case Kueue:
			c.Queue, c.With = "team-a", []string{withDRA, withMonitoring}
		}
		name := filepath.Join("testdata", overlay+".yaml")
		got := textOf(t, c)
		if *update {
			if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal([]byte(got), want) {
			t.Errorf("%s differs at\n%s\n(go test ./deploy -update writes it anew)", name, firstOther(got, string(want)))
		}
	}
}

// Every file of the tree is part of something, and the program carries all of them.
func TestTheTreeIsWhole(t *testing.T) {
	err := fs.WalkDir(os.DirFS(treeFolder), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if _, err := tree.ReadFile(path.Join(treeFolder, name)); err != nil {
			t.Errorf("the program does not carry %s", name)
		}
		folder, file := path.Split(name)
		if file == kustomizationYML {
			return nil
		}
		list, err := os.ReadFile(filepath.Join(treeFolder, folder, kustomizationYML))
		if err != nil || !strings.Contains(string(list), file) {
			t.Errorf("%s is named by no kustomization beside it (%v)", name, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConfigurationsThatCannotBe(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"no overlay":            func(c *Config) { c.Overlay = "cloud" },
		"namespace":             func(c *Config) { c.Namespace = "Team" },
		"no image":              func(c *Config) { c.Image = "" },
		"want NAME":             func(c *Config) { c.Image = "a b" },
		"even number":           func(c *Config) { c.Coordinators = 2 },
		"0 workers":             func(c *Config) { c.Workers = 0 },
		"at least 3 workers":    func(c *Config) { c.MinWorkers = 3 },
		"is Kueue's":            func(c *Config) { c.Queue = "a" },
		"name a LocalQueue":     func(c *Config) { c.Overlay = Kueue },
		"clean path":            func(c *Config) { c.Data = "/a/../b" },
		"PersistentVolumeClaim": func(c *Config) { c.Data = "a/b" },
		"no part":               func(c *Config) { c.With = []string{"x"} },
		"named twice":           func(c *Config) { c.With = []string{withNATS, withNATS} },
		"allocates GPUs":        func(c *Config) { c.Overlay, c.With = Local, []string{withDRA} },
	} {
		c := DefaultConfig(GPU)
		change(&c)
		if _, err := Render(c); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for _, image := range []string{"mp", "mp:dev", "registry.example/a/mp", "registry:5000/mp:1", "mp@sha256:" + strings.Repeat("a", 64)} {
		c := DefaultConfig(GPU)
		c.Image = image
		if text := textOf(t, c); strings.Count(text, "image: "+image+"\n") != 2 {
			t.Errorf("image %s: not in both kinds of pods", image)
		}
	}
}
