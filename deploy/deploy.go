// Package deploy is how mp comes onto machines. It owns the kustomizations under kubernetes, which every program carries
// within itself, and renders them for one cluster: it says how many, where and with which images, and the trees say the
// rest. It must never import anything of mp: manifests are about processes, flags and exit codes, and a test beside cmd
// holds them against the real ones. Start reading at Config, then at layers; README.md says how it is used.
package deploy

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// ErrConfig is matched by what Validate returns: the same configuration fails again.
var ErrConfig = errors.New("unusable deployment")

//go:embed kubernetes
var tree embed.FS

// Folders of the tree, and of what is written for one cluster beside them.
const (
	treeFolder       = "kubernetes"
	overlayFolder    = "overlays"
	componentFolder  = "components"
	clusterFolder    = "cluster"
	settingsFolder   = "settings" // below clusterFolder
	kustomizationYML = "kustomization.yaml"
)

// Render returns the manifests of a cluster, in the order in which they can be applied.
func Render(c Config) (resmap.ResMap, error) {
	files, err := plant(c)
	if err != nil {
		return nil, err
	}
	return build(files, clusterFolder)
}

// Write lays the tree with the cluster's own kustomization under dir, for `kubectl apply -k` on the folder that it returns.
// What is there already under the same names is replaced.
func Write(c Config, dir string) (string, error) {
	files, err := plant(c)
	if err != nil {
		return "", err
	}
	err = files.Walk("/", func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		content, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		target := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o644)
	})
	if err != nil {
		return "", fmt.Errorf("write kustomizations under %s: %w", dir, err)
	}
	return filepath.Join(dir, clusterFolder), nil
}

// build is `kustomize build`.
func build(files filesys.FileSystem, folder string) (resmap.ResMap, error) {
	all, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, folder)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", folder, err)
	}
	return all, nil
}

// plant returns the tree together with the kustomizations of one cluster.
func plant(c Config) (filesys.FileSystem, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	files := filesys.MakeFsInMemory()
	err := fs.WalkDir(tree, treeFolder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := tree.ReadFile(name)
		if err != nil {
			return err
		}
		return files.WriteFile(name[len(treeFolder)+1:], content)
	})
	if err != nil {
		return nil, fmt.Errorf("read the tree of kustomizations: %w", err)
	}
	return files, c.layers(func(name string, content []byte) error {
		return files.WriteFile(path.Join(clusterFolder, name), content)
	})
}
