package deploy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Overlays: where a cluster of mp runs.
const (
	Local  = "local"  // on the CPU of one machine
	GPU    = "gpu"    // a GPU for each worker
	Kueue  = "kueue"  // as GPU, in a queue
	JobSet = "jobset" // as GPU, in a JobSet
)

// Overlays lists the overlays.
func Overlays() []string { return []string{Local, GPU, Kueue, JobSet} }

// Parts that a cluster may have beside the rest.
const (
	withNATS       = "nats"
	withDRA        = "dra"
	withMonitoring = "monitoring"
)

// Parts lists what Config.With may name.
func Parts() []string { return []string{withDRA, withMonitoring, withNATS} }

// Config is what a cluster of mp shall be.
type Config struct {
	// Overlay is one of Overlays.
	Overlay string
	// Namespace holds everything; it is among the manifests.
	Namespace string
	// Image is the container image of mp, as NAME[:TAG][@DIGEST].
	Image string
	// Version is a label on everything; empty: none.
	Version string
	// Coordinators is 1, 3 or 5.
	Coordinators int
	// Workers is the number of workers to begin with; it may be changed in the cluster at any time.
	Workers int
	// MinWorkers is the number below which a job waits, and evictions are refused.
	MinWorkers int
	// Data is the name of a PersistentVolumeClaim that holds the images, or the absolute path of a folder of every node.
	Data string
	// Queue is the LocalQueue of Kueue; only with that overlay.
	Queue string
	// With names further parts, of Parts.
	With []string
	// Job is a job file that is handed in as soon as the cluster is there; empty: none is.
	Job []byte
}

// DefaultConfig is what the overlay describes by itself.
func DefaultConfig(overlay string) Config {
	c := Config{Overlay: overlay, Namespace: defaultNamespace, Image: "mp", Coordinators: 3, Workers: 2, MinWorkers: 1, Data: defaultClaim}
	switch overlay {
	case Local:
		c.Data = defaultPath
	case Kueue:
		c.Queue = defaultQueue
	}
	return c
}

// Words of the tree that a configuration replaces.
const (
	defaultNamespace = "mp"
	defaultClaim     = "mp-data"
	defaultPath      = "/var/lib/miniplaces"
	defaultQueue     = "mp"
)

// maxWorkers is the size up to which a ring is of use.
const maxWorkers = 1000

var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	imageRef = regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9._/-]*(:[0-9]+/[a-zA-Z0-9._/-]+)?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$`)
)

// Validate reports what is wrong with c, matching ErrConfig, or nil.
func (c Config) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch {
	case !slices.Contains(Overlays(), c.Overlay):
		return bad("no overlay %q: choose %s", c.Overlay, strings.Join(Overlays(), ", "))
	case !dnsLabel.MatchString(c.Namespace):
		return bad("namespace %q: use up to 63 small letters, digits and dashes", c.Namespace)
	case c.Image == "":
		return bad("no image: name the one that was built from deploy/Dockerfile")
	case !imageRef.MatchString(c.Image):
		return bad("image %q: want NAME[:TAG][@sha256:DIGEST]", c.Image)
	case c.Coordinators != 1 && c.Coordinators != 3 && c.Coordinators != 5:
		return bad("%d coordinators: use 1, 3 or 5, an even number survives no more losses than one fewer", c.Coordinators)
	case c.Workers < 1 || c.Workers > maxWorkers:
		return bad("%d workers: choose from 1 to %d", c.Workers, maxWorkers)
	case c.MinWorkers < 1 || c.MinWorkers > c.Workers:
		return bad("at least %d workers of %d: choose from 1 to %d", c.MinWorkers, c.Workers, c.Workers)
	case c.Queue != "" && c.Overlay != Kueue:
		return bad("queue %q is Kueue's: use the overlay %s", c.Queue, Kueue)
	case c.Overlay == Kueue && !dnsLabel.MatchString(c.Queue):
		return bad("queue %q: name a LocalQueue of the namespace", c.Queue)
	case c.path() && (path.Clean(c.Data) != c.Data || c.Data == "/"):
		return bad("images in %q: want the clean path of a folder", c.Data)
	case !c.path() && !dnsLabel.MatchString(c.Data):
		return bad("images in %q: want the name of a PersistentVolumeClaim, or an absolute path", c.Data)
	}
	for i, part := range c.With {
		switch {
		case !slices.Contains(Parts(), part):
			return bad("no part %q: choose of %s", part, strings.Join(Parts(), ", "))
		case slices.Contains(c.With[:i], part):
			return bad("part %q is named twice", part)
		case part == withDRA && c.Overlay == Local:
			return bad("part %q allocates GPUs, and the overlay %s has none", part, c.Overlay)
		}
	}
	return nil
}

// path says whether the images lie in a folder of the nodes.
func (c Config) path() bool { return path.IsAbs(c.Data) }
