package archtest

// module is the module's name in import paths.
const module = "mp"

// room is what one package may import beside the standard library. A path ending in /... stands for everything below it.
type room struct {
	path    string   // below the module; "" is main.go
	inside  []string // packages of this module
	outside []string // other modules
	why     string   // printed when the rule is broken
}

// rooms is the direction of imports: they point down only.
func rooms() []room {
	const torch = "github.com/wangkuiyi/gotorch/..."
	return []room{
		{"", []string{"cmd"}, nil, "main.go only calls cmd: whatever decides anything must be testable in process"},
		{"cmd", []string{"..."}, []string{"..."}, ""},
		{"job", nil, []string{"github.com/goccy/go-yaml/..."},
			"a job is only said here, so that whoever plans a run and whoever computes it share it without sharing anything else"},
		{"worker", []string{"job", "model", "optim", "attack", "attack/training", "explain", "data", "allreduce/...", "checkpoint", "metrics", "mppb", "ops/...", "worker/errand", "trust"},
			[]string{torch, "golang.org/x/sync/...", "google.golang.org/grpc/...", "google.golang.org/protobuf/..."},
			"a worker meets a coordinator in mppb only, and never knows how it was started"},
		{"worker/errand", []string{"attack", "data", "job", "model", "mppb", "ops/..."}, []string{torch, "google.golang.org/grpc/...", "google.golang.org/protobuf/..."},
			"an errand is a client's and a device's: it knows neither the training that goes on beside it nor who leads the cluster"},
		{"model", []string{"ops/..."}, []string{torch}, "a model is single-device code that knows nothing of data, optimizers or workers"},
		{"model/modeltest", []string{"model", "ops/...", "internal/shared"}, []string{torch}, "goldens of whole networks, for the tests of models and optimizers"},
		{"explain", []string{"ops"}, []string{torch}, "an explanation sees a network through a small interface: logits, and a probe into the layers"},
		{"attack", []string{"ops"}, []string{torch}, "an attack sees a network through one method: logits of images"},
		{"attack/training", []string{"attack", "ops"}, []string{torch}, "a way to train is a function of tensors: whoever computes it, and with whom, is the worker's"},
		{"attack/attacktest", []string{"attack", "ops"}, []string{torch}, "the conformance suite knows the interface only, so that it fits every attack"},
		{"devicecheck", []string{"attack", "explain", "model", "ops/..."}, []string{torch}, "a device is held to the CPU with what follows from names and seeds: no data, no files, no workers"},
		{"chart", nil, []string{"golang.org/x/image/..."}, "a figure is of numbers: what they mean, and where the page is, is its caller's"},
		{"report", []string{"chart", "metrics"}, []string{"codeberg.org/go-pdf/fpdf", "github.com/goccy/go-yaml/...", "github.com/yuin/goldmark/...", "golang.org/x/image/..."},
			"a report is made of files: what must be computed is computed by whoever asks for it, so that any machine can make one"},
		{"optim", []string{"ops/..."}, []string{torch}, "an optimizer sees flat buffers, not models"},
		{"ops", []string{"ops/..."}, []string{torch}, "ops is the bottom of the house: below it is only C"},
		{"ops/nvml", nil, []string{"github.com/NVIDIA/go-nvml/..."}, "the driver is asked without libtorch, so that doctor can on machines that cannot train"},
		{"ops/pixel", nil, nil, "pixels are decoded and warped without libtorch, so that data needs none"},
		{"data", []string{"ops/pixel"}, []string{"golang.org/x/sys/...", "golang.org/x/sync/...", "golang.org/x/image/..."},
			"data must not need libtorch: decoding and packing work on machines that cannot train"},
		{"allreduce", nil, nil, "a sum knows nothing of what is summed"},
		{"allreduce/rpc", []string{"allreduce"}, []string{"google.golang.org/grpc/...", "golang.org/x/sys/..."}, "a mechanism knows its interface and nothing above it; frames are bytes of its own"},
		{"allreduce/inproc", []string{"allreduce"}, nil, "a mechanism knows its interface and nothing above it"},
		{"allreduce/allreducetest", []string{"allreduce"}, nil, "the conformance suite knows the interface only, so that it fits every mechanism"},
		{"checkpoint", nil, nil, "checkpoints are plain bytes: whoever cannot load libtorch can still read them"},
		{"checkpoint/s3", nil, []string{"github.com/minio/minio-go/v7/..."}, "a mechanism stores bytes under keys: what they mean is checkpoint's, and where credentials come from is cmd's"},
		{"checkpoint/storetest", []string{"checkpoint"}, nil, "the conformance suite knows the interface only, so that it fits every store"},
		{"metrics", nil, []string{"github.com/schollz/progressbar/v3", "golang.org/x/term"},
			"metrics carries what others tell it and decides nothing about a run"},
		{"metrics/prometheus", []string{"metrics"}, []string{"github.com/prometheus/client_golang/..."}, "numbers for Prometheus are made of events and facts that others tell"},
		{"metrics/tensorboard", []string{"metrics"}, []string{"google.golang.org/protobuf/..."}, "files for TensorBoard are made of events, without TensorFlow"},
		{"metrics/nats", []string{"metrics"}, []string{"github.com/nats-io/..."}, "only this room knows how metrics travel"},
		{"trust", nil, nil, "who may speak to whom is decided with the standard library's cryptography, and without knowing what is said"},
		{"docs", nil, nil, "pages are there to be read"},
		{"deploy", nil, []string{"sigs.k8s.io/kustomize/...", "sigs.k8s.io/yaml"},
			"manifests are about processes, flags and exit codes: whoever renders them needs nothing of what runs"},
		{"mppb", []string{"trust"}, []string{"google.golang.org/grpc/...", "google.golang.org/protobuf/..."}, "the protocol belongs to nobody"},
		{"coordinator", []string{"coordinator/membership", "metrics/...", "mppb", "trust"},
			[]string{"github.com/hashicorp/...", "go.etcd.io/bbolt/...", "google.golang.org/grpc/...", "google.golang.org/protobuf/...", "golang.org/x/sync/..."},
			"a coordinator meets workers in mppb only, and needs no libtorch"},
		{"coordinator/web", []string{"metrics"}, nil, "the page shows what files and an interface tell: it cannot reach into a cluster, and needs nothing from other hosts"},
		{"coordinator/membership", nil, nil, "who computes what is decided without I/O, so that every decision can be replayed"},
		{"coordinator/membership/sim", []string{"coordinator/membership"}, nil, "a simulation has its own clock, network and workers: the same seed gives the same story on any machine"},
		{"internal/testcluster", []string{"..."}, []string{"..."}, ""},
		{"internal/archtest", nil, nil, "the rules stand outside the house"},
		{"internal/browser", nil, []string{"github.com/chromedp/..."}, "tests look at any page with it, so it knows none"},
		{"internal/shared", nil, nil, "it finds test material and nothing else"},
	}
}

// cgo are the packages that may import "C".
func cgo() []string { return []string{"ops", "ops/pixel"} }

const whyC = `only ops and ops/pixel import "C": every C call there returns an error, and nothing else can crash the process`

// outer names what only cmd may touch of the world outside.
const whyOuter = "only cmd reads the command line, environment and signals: everywhere else a run is what its Config says, so tests and clusters can start it"

// outerImports are packages that only cmd may import.
func outerImports() []string {
	return []string{"flag", "os/signal", "github.com/spf13/cobra", "github.com/spf13/pflag"}
}

// outerNames are names of package os that only cmd may use; main.go may use Args to pass it on.
func outerNames() []string {
	return []string{"Args", "Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv"}
}

// testOnly are packages that no code outside tests may import; they may read the environment.
func testOnly() []string {
	return []string{"internal/testcluster", "internal/shared", "internal/browser", "internal/archtest", "allreduce/allreducetest", "checkpoint/storetest", "model/modeltest", "attack/attacktest"}
}

// pure lists files, and packages by their folder, that compute and nothing else, with what they may not import.
func pure() map[string][]string {
	world := []string{"os", "os/exec", "net", "net/http", "syscall", "time", "crypto/rand"}
	return map[string][]string{
		"worker/errand/deal.go":   world,
		"optim/schedule.go":       world,
		"data/sampler.go":         world,
		"data/holdout.go":         world,
		"data/rand.go":            world,
		"data/recipe.go":          world,
		"data/augmentmix.go":      world,
		"data/augmentcourse.go":   world,
		"data/augmentmodern.go":   world,
		"data/augmentcolour.go":   world,
		"data/augmentgeometry.go": world,
		"coordinator/membership":  {"os", "os/exec", "net", "net/http", "syscall", "io/ioutil", "path/filepath", "crypto/rand", "math/rand", "math/rand/v2", "log", "log/slog", "sync"},
		"job":                     {"os", "os/exec", "net", "net/http", "syscall", "io/ioutil", "path/filepath"},
	}
}

const whyPure = "it is pure: the same on every worker and in every resumed run, whatever the clock, the disk and the network say"

const whyInit = "no init() functions: what runs before main cannot be chosen, tested or refused; use a plain table"

// seeded are the names of math/rand and math/rand/v2 that need a seed or draw nothing themselves.
func seeded() []string {
	return []string{"New", "NewPCG", "NewChaCha8", "NewSource", "NewZipf", "Rand", "PCG", "ChaCha8", "Source", "Source64", "Zipf"}
}

const whySeeded = "everything random comes from the run's seed: the process's own generator gives every run and worker other numbers"

const whyState = "no package state that changes: two runs in one process must not meet; put it in a struct that New makes"
