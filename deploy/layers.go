package deploy

import (
	"fmt"
	"path"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/resid"
	"sigs.k8s.io/yaml"
)

// object is a manifest or a patch of one.
type object = map[string]any

// layers writes a cluster's two kustomizations: the settings, on an overlay, and around them what every object gets. Parts
// stand between the two, so that a JobSet takes the workers' Job over as it was set.
func (c Config) layers(write func(name string, content []byte) error) error {
	settings := types.Kustomization{
		TypeMeta:  types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind},
		Resources: []string{path.Join("../..", overlayFolder, c.base())},
	}
	for _, patch := range []object{c.coordinators(), c.workers(), c.budget()} {
		if err := add(&settings, patch); err != nil {
			return err
		}
	}
	whole := types.Kustomization{
		TypeMeta:  types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind},
		Namespace: c.Namespace,
		Resources: []string{settingsFolder},
		Images:    []types.Image{c.image()},
	}
	part := func(name string) { whole.Components = append(whole.Components, path.Join("..", componentFolder, name)) }
	for _, p := range c.With {
		part(p)
	}
	if len(c.Job) > 0 {
		part("submit")
		if err := write(path.Join("..", componentFolder, "submit", "job.yaml"), c.Job); err != nil {
			return err
		}
	}
	if c.path() {
		if c.Overlay != Local {
			part("data-path")
		}
		if err := add(&whole, object{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": object{"name": defaultClaim},
			"spec": object{"claimRef": object{"namespace": c.Namespace}, "hostPath": object{"path": c.Data}}}); err != nil {
			return err
		}
		if c.Namespace != defaultNamespace { // volumes belong to none: each cluster's has a name of its own, and its claim follows
			whole.Patches = append(whole.Patches, types.Patch{
				Target:  &types.Selector{ResId: resid.ResId{Gvk: resid.Gvk{Kind: "PersistentVolume"}, Name: defaultClaim}},
				Patch:   fmt.Sprintf(`[{"op": "replace", "path": "/metadata/name", "value": %q}]`, defaultClaim+"-"+c.Namespace),
				Options: &types.PatchArgs{AllowNameChange: true},
			})
		}
	} else if c.Overlay == Local { // the claim is somebody else's
		for _, kind := range []string{"PersistentVolume", "PersistentVolumeClaim"} {
			if err := add(&settings, object{"apiVersion": "v1", "kind": kind, "metadata": object{"name": defaultClaim}, "$patch": "delete"}); err != nil {
				return err
			}
		}
	}
	switch c.Overlay {
	case Kueue:
		part(Kueue)
		if err := add(&whole, object{"apiVersion": "batch/v1", "kind": "Job", "metadata": object{"name": "mp-worker", "labels": object{"kueue.x-k8s.io/queue-name": c.Queue}}}); err != nil {
			return err
		}
	case JobSet:
		part(JobSet)
	}
	if c.Version != "" {
		whole.Labels = []types.Label{{Pairs: map[string]string{"app.kubernetes.io/version": c.Version}}}
	}
	for name, k := range map[string]types.Kustomization{path.Join(settingsFolder, kustomizationYML): settings, kustomizationYML: whole} {
		content, err := yaml.Marshal(k)
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := write(name, content); err != nil {
			return err
		}
	}
	return nil
}

// base is the overlay that the settings are for.
func (c Config) base() string {
	if c.Overlay == Local {
		return Local
	}
	return GPU
}

// add adds a patch of one object.
func add(k *types.Kustomization, patch object) error {
	text, err := yaml.Marshal(patch)
	if err != nil {
		return fmt.Errorf("write a patch: %w", err)
	}
	k.Patches = append(k.Patches, types.Patch{Patch: string(text)})
	return nil
}

// coordinators sets their number, which each of them must know.
func (c Config) coordinators() object {
	var peers []string
	for _, address := range c.addresses() {
		name, _, _ := strings.Cut(address, ".")
		peers = append(peers, name+"="+address)
	}
	return object{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": object{"name": "mp-coordinator"}, "spec": object{
		"replicas": c.Coordinators,
		"template": object{"spec": object{"containers": []object{{"name": "coordinator", "env": []object{
			{"name": "MP_PEERS", "value": strings.Join(peers, ",")},
			{"name": "MP_MIN_WORKERS", "value": fmt.Sprint(c.MinWorkers)},
		}}}}},
	}}
}

// addresses are the coordinators' names in the headless Service.
func (c Config) addresses() []string {
	var all []string
	for i := range c.Coordinators {
		all = append(all, fmt.Sprintf("mp-coordinator-%d.mp-coordinators:7070", i))
	}
	return all
}

// workers sets their number, where they find coordinators and their images.
func (c Config) workers() object {
	claim := defaultClaim
	if !c.path() {
		claim = c.Data
	}
	return object{"apiVersion": "batch/v1", "kind": "Job", "metadata": object{"name": "mp-worker"}, "spec": object{
		"parallelism": c.Workers, "completions": c.Workers,
		"template": object{"spec": object{
			"containers": []object{{"name": "worker", "env": []object{{"name": "MP_COORDINATOR", "value": strings.Join(c.addresses(), ",")}}}},
			"volumes":    []object{{"name": "data", "persistentVolumeClaim": object{"claimName": claim}}},
		}},
	}}
}

// budget refuses evictions below the workers that a job needs.
func (c Config) budget() object {
	return object{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": object{"name": "mp-worker"}, "spec": object{"minAvailable": c.MinWorkers}}
}

// image replaces the name that stands for mp's in the tree.
func (c Config) image() types.Image {
	i := types.Image{Name: "mp"}
	name, digest, _ := strings.Cut(c.Image, "@")
	i.Digest = digest
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name, i.NewTag = name[:colon], name[colon+1:]
	}
	i.NewName = name
	return i
}
