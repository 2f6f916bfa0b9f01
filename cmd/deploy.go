package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mp/deploy"
	"mp/job"
)

// newDeployCommand returns `mp deploy`.
func newDeployCommand(e *env) *cobra.Command {
	return newParent("deploy", "Manifests of a cluster for Kubernetes", newRenderCommand(e))
}

// renderOptions is what `mp deploy render` is asked for.
type renderOptions struct {
	config        deploy.Config
	gpus, workers int
	with          string
	job           string
	out           string
}

// newRenderCommand returns `mp deploy render`.
func newRenderCommand(e *env) *cobra.Command {
	var o renderOptions
	d := deploy.DefaultConfig(deploy.GPU)
	c := &cobra.Command{
		Use:   "render --gpus N --image IMAGE",
		Short: "Print the manifests of a cluster: coordinators, workers and what keeps them",
		Long: "Print what `kubectl apply -f -` takes: coordinators, an elastic Job of workers, budgets, network policies, and with --job\n" +
			"the handing in of a job. The program carries the kustomizations within itself; --out writes them for changes of your own.\n" +
			"The namespace needs a Secret before: kubectl create secret generic mp-token --from-literal=token=$(openssl rand -hex 32)",
		Example: "  mp deploy render --gpus 8 --image registry/mp:1 --job job.yaml | kubectl apply -f -\n" +
			"  mp deploy render --workers 2 --image mp:dev --data /srv/miniplaces   # on this machine: kind, minikube, k3s\n" +
			"  mp deploy render --gpus 8 --image registry/mp:1 --overlay kueue --queue team-a --out deployment",
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.SortFlags = false
	f.IntVar(&o.gpus, "gpus", 0, "workers with a GPU each")
	f.IntVar(&o.workers, "workers", 0, "workers on the CPU instead, on one machine")
	f.StringVar(&o.config.Image, "image", "", "container image with mp, built from deploy/Dockerfile: NAME[:TAG][@DIGEST]; needed")
	f.StringVar(&o.config.Overlay, "overlay", "", "where: "+strings.Join(deploy.Overlays(), ", ")+"; empty: gpu with --gpus, local with --workers")
	f.StringVar(&o.config.Namespace, "namespace", d.Namespace, "namespace for everything; it is among the manifests")
	f.IntVar(&o.config.Coordinators, "coordinators", d.Coordinators, "coordinators: 1, 3 or 5")
	f.IntVar(&o.config.MinWorkers, "min-workers", d.MinWorkers, "workers below which a job waits and evictions are refused")
	f.StringVar(&o.config.Data, "data", d.Data, "images: the name of a PersistentVolumeClaim, or the path of a folder of every node")
	f.StringVar(&o.config.Queue, "queue", "", "Kueue's LocalQueue, with --overlay kueue; empty: mp")
	f.StringVar(&o.with, "with", "", "further parts, with commas between: "+strings.Join(deploy.Parts(), ", ")+"; empty: none")
	f.StringVar(&o.job, "job", "", "job file to hand in as soon as the cluster is there; empty: none, hand them in with mp submit")
	f.StringVar(&o.out, "out", "", "folder for the kustomizations, for kubectl apply -k; empty: print manifests")
	c.RunE = func(*cobra.Command, []string) error { return render(e, o) }
	return c
}

// complete settles what the flags leave open.
func (o *renderOptions) complete() error {
	switch {
	case (o.gpus == 0) == (o.workers == 0):
		return fmt.Errorf("%w: say how many workers: --gpus N for workers with a GPU each, or --workers N for workers on the CPU of one machine", job.ErrConfig)
	case o.gpus != 0:
		o.config.Workers = o.gpus
		if o.config.Overlay == "" {
			o.config.Overlay = deploy.GPU
		}
		if o.config.Overlay == deploy.Local {
			return fmt.Errorf("%w: --overlay %s has no GPUs: give --workers, or another overlay", job.ErrConfig, deploy.Local)
		}
	default:
		o.config.Workers = o.workers
		if o.config.Overlay == "" {
			o.config.Overlay = deploy.Local
		}
		if o.config.Overlay != deploy.Local {
			return fmt.Errorf("%w: --overlay %s gives each worker a GPU: give --gpus, or --overlay %s", job.ErrConfig, o.config.Overlay, deploy.Local)
		}
	}
	if o.config.Overlay == deploy.Kueue && o.config.Queue == "" {
		o.config.Queue = deploy.DefaultConfig(deploy.Kueue).Queue
	}
	if o.with != "" {
		o.config.With = strings.Split(o.with, ",")
	}
	o.config.Version = imageTag(o.config.Image)
	if o.job == "" {
		return nil
	}
	var err error
	if o.config.Job, err = readJobFile(o.job); err != nil {
		return err
	}
	_, err = job.Resolve(job.File(o.job, o.config.Job), func(s *job.Spec) error { s.Data = imagesOfTheCluster; return nil })
	return err
}

// imageTag is the tag of an image, which is the version of what runs; empty without one.
func imageTag(image string) string {
	name, _, _ := strings.Cut(image, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		return name[colon+1:]
	}
	return ""
}

// rendered is what `mp deploy render --out --json` prints.
type rendered struct {
	Folder string `json:"folder"`
}

func render(e *env, o renderOptions) error {
	if err := o.complete(); err != nil {
		return err
	}
	if o.out != "" {
		folder, err := deploy.Write(o.config, o.out)
		if err != nil {
			return err
		}
		if e.json {
			return e.printJSON(rendered{folder})
		}
		_, err = fmt.Fprintf(e.stdout, "Next: kubectl apply -k %s\n", folder)
		return err
	}
	all, err := deploy.Render(o.config)
	if err != nil {
		return err
	}
	if !e.json {
		text, err := all.AsYaml()
		if err == nil {
			_, err = e.stdout.Write(text)
		}
		return err
	}
	list := struct {
		APIVersion string           `json:"apiVersion"`
		Kind       string           `json:"kind"`
		Items      []map[string]any `json:"items"`
	}{APIVersion: "v1", Kind: "List"}
	for _, r := range all.Resources() {
		item, err := r.Map()
		if err != nil {
			return err
		}
		list.Items = append(list.Items, item)
	}
	return e.printJSON(list)
}
