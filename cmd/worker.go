package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
	"mp/trust"
	"mp/worker"
)

// workerOptions is what `mp worker` is asked for.
type workerOptions struct {
	gpu         int // -1: not given
	cpu         bool
	slot        int
	threads     int
	coordinator string
	data        string
	listen      string
	advertise   string
	name        string
	trust       trustFlags
	natsCreds   string
	scratch     string
	monitor     string
	fault       string
}

// newWorkerCommand returns `mp worker`.
func newWorkerCommand(e *env) *cobra.Command {
	var o workerOptions
	c := &cobra.Command{
		Use:   "worker --coordinator HOST:PORT[,...] --data DIR",
		Short: "Compute for a cluster with one device of this machine",
		Long: "Belong to a cluster with one device: join by the address of any coordinator, copy what is missing from the other workers,\n" +
			"compute what the cluster hands out, one job after another. SIGTERM hands the work to others and ends with code 85.",
		Example: "  mp worker --gpu 0 --coordinator 10.0.0.1:7070 --data miniplaces\n  mp worker --cpu --coordinator 127.0.0.1:7070 --data miniplaces",
		Args:    cobra.NoArgs,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.coordinator, "coordinator", defaultCoordinator, "coordinators, HOST:PORT with commas between; one that answers is enough")
	f.StringVar(&o.data, "data", "", "folder of MiniPlaces or of packs; every worker of a cluster needs the same images; needed")
	f.IntVar(&o.gpu, "gpu", -1, "compute on this GPU, counted from 0; without --gpu and --cpu GPU 0 where there is one")
	f.BoolVar(&o.cpu, "cpu", false, "compute on the CPU")
	f.IntVar(&o.slot, "slot", -1, "number that tells workers on the CPU of one machine apart; -1: the process's own")
	f.IntVar(&o.threads, "threads", 0, "CPU threads of one operation where the job does not say; 0: as many as cores")
	f.StringVar(&o.listen, "listen", "", "HOST:PORT for other workers; empty: a free port of the interface that leads to the coordinator")
	f.StringVar(&o.advertise, "advertise", "", "HOST:PORT under which other workers reach --listen, where that is another one; empty: --listen")
	f.StringVar(&o.name, "name", "", "name for people; empty: the machine's and the device's")
	o.trust.add(f, tokenHelp)
	f.StringVar(&o.natsCreds, "nats-creds", "", "credentials file for a NATS server that the coordinators were given by URL; empty: the URL has what it asks for")
	f.StringVar(&o.scratch, "scratch", "", "folder for checkpoints on their way; empty: one under the system's for temporary files")
	f.StringVar(&o.monitor, "monitor", "", monitorHelp)
	f.StringVar(&o.fault, "fault", "", "for drills: fail at an update, KIND@UPDATE: memory, exception or device; empty: none")
	if err := f.MarkHidden("fault"); err != nil {
		panic(err) // the flag was just declared
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withMonitor(c.Context(), monitorOptions{o.monitor, o.trust.tls == tlsOff}, e.logger(slog.LevelInfo), func(ctx context.Context, m *monitor) error {
			return runWorker(ctx, e, o, m)
		})
	}
	return c
}

// runWorker belongs to the cluster until there is nothing left to do or, asked by a signal, the work is with others.
func runWorker(ctx context.Context, e *env, o workerOptions, m *monitor) error {
	word, err := o.device()
	if err != nil {
		return err
	}
	if o.data == "" {
		return fmt.Errorf("%w: no images: give --data a folder of MiniPlaces or of packs", job.ErrConfig)
	}
	c := worker.DefaultNodeConfig()
	if c.Fault, err = worker.ParseFault(o.fault); err != nil {
		return err
	}
	if c.Coordinators, err = addresses(o.coordinator); err != nil {
		return err
	}
	if c.Trust, err = o.identity(ctx, e, c.Coordinators); err != nil {
		return err
	}
	m.identify(c.Trust)
	defer renewed(c.Trust, e.logger(slog.LevelInfo))()
	if c.Train, err = openPack(ctx, e, o.data, data.Train); err != nil {
		return err
	}
	defer c.Train.Close()
	if c.Val, err = openPack(ctx, e, o.data, data.Val); err != nil {
		return err
	}
	defer c.Val.Close()
	if c.Device, err = openDevice(word, o.threads); err != nil {
		return err
	}
	defer c.Device.Close()
	if c.Scratch = o.scratch; c.Scratch == "" {
		if c.Scratch, err = os.MkdirTemp("", "mp-worker-"); err != nil {
			return fmt.Errorf("make a folder for temporary files: %w", err)
		}
		defer os.RemoveAll(c.Scratch)
	}
	if c.Listen = o.listen; c.Listen == "" {
		c.Listen = listenTowards(c.Coordinators)
	}
	c.Advertise, c.Token, c.Version, c.Logger = o.advertise, o.trust.secret(c.Trust), version(), e.logger(slog.LevelInfo)
	c.Host, c.Machine = hostName(), machineID()
	c.DeviceName = c.Device.String()
	if c.Device.IsCPU() {
		if o.slot < 0 {
			o.slot = os.Getpid()
		}
		c.DeviceName = "cpu:" + strconv.Itoa(o.slot)
	}
	c.Name, c.Sinks = o.name, natsSinks(natsAccess{o.natsCreds, c.Trust}, c.Logger)
	pages := newWorkerPages()
	if o.monitor != "" {
		c.Sinks = pages.sinks(c.Sinks)
	}
	node, err := worker.NewNode(c)
	if err != nil {
		return err
	}
	pages.node = node
	m.watch(node.Ready)
	m.show(func(context.Context) error { return node.Alive() }, pages.numbers.Handler())
	defer context.AfterFunc(ctx, node.Drain)()
	err = node.Run(context.WithoutCancel(ctx))
	if errors.Is(err, worker.ErrDrained) {
		return fmt.Errorf("%w: %w", errDrained, err)
	}
	return err
}

// reached are the addresses at which this worker is told to be reached.
func (o workerOptions) reached() []string {
	return slices.DeleteFunc([]string{o.listen, o.advertise}, func(a string) bool { return a == "" })
}

// identity is who this worker is in a cluster that speaks TLS.
func (o workerOptions) identity(ctx context.Context, e *env, coordinators []string) (*trust.Identity, error) {
	name := o.name
	if name == "" {
		name = hostName()
	}
	log := e.logger(slog.LevelInfo)
	i, err := o.trust.identity(ctx, name, coordinators, o.reached(), func(err error) { log.Warn("no coordinator gives a certificate yet; trying on", "reason", err) }, trust.Worker)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%w: leave before a coordinator gave a certificate: %w", errDrained, err)
	}
	return i, err
}

// device is the word for openDevice.
func (o workerOptions) device() (string, error) {
	switch {
	case o.cpu && o.gpu >= 0:
		return "", fmt.Errorf("%w: --cpu and --gpu %d contradict each other: give one of them", job.ErrConfig, o.gpu)
	case o.cpu:
		return job.DeviceCPU, nil
	case o.gpu >= 0:
		return strconv.Itoa(o.gpu), nil
	}
	return pickDevice(job.DeviceAuto)
}

// addresses reads a list of HOST:PORT.
func addresses(list string) ([]string, error) {
	var all []string
	for a := range strings.SplitSeq(list, ",") {
		a = strings.TrimSpace(a)
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("%w: coordinator %q: want HOST:PORT, with commas between several", job.ErrConfig, a)
		}
		all = append(all, a)
	}
	return all, nil
}

// listenTowards is a free port of the interface by which this machine reaches a coordinator: other workers come the same
// way. Nothing is sent.
func listenTowards(coordinators []string) string {
	for _, a := range coordinators {
		c, err := net.Dial("udp", a)
		if err != nil {
			continue
		}
		host, _, err := net.SplitHostPort(c.LocalAddr().String())
		c.Close()
		if err == nil {
			return net.JoinHostPort(host, "0")
		}
	}
	return "127.0.0.1:0"
}

// hostName is this machine's name, for people.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// machineID is the same for all processes that share this machine's files and devices: containers have names of their
// own, and of two machines with one name the system's number of this boot tells.
func machineID() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return hostName()
	}
	return hostName() + "/" + strings.TrimSpace(string(boot))
}
