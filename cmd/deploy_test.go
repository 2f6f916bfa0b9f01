package cmd

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mp/deploy"
)

// container is a process of ours in a manifest, in compose.yaml or in a unit.
type container struct {
	where string // for people
	args  []string
	env   map[string]string // what has no value yet is empty
	ports map[string]int    // by name
}

// take asks the real command tree whether it would take a container's command line and environment, and returns the verb
// with all of it set. also is a verb that people call in the container.
func (c container) take(t *testing.T, also string) *cobra.Command {
	t.Helper()
	root, _ := newRoot(newEnv(io.Discard, io.Discard, os.LookupEnv))
	verb, rest, err := root.Find(c.args)
	if err != nil || verb == root {
		t.Fatalf("%s: %q is no verb (%v)", c.where, c.args, err)
	}
	if err := verb.ParseFlags(rest); err != nil {
		t.Errorf("%s: %v", c.where, err)
	}
	if left := verb.Flags().Args(); verb.ValidateArgs(left) != nil {
		t.Errorf("%s: %s does not take %q", c.where, verb.CommandPath(), left)
	}
	twins := map[string]*pflag.Flag{}
	for _, name := range []string{also, verb.Name()} {
		of, _, err := root.Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		of.InheritedFlags() // merges them
		of.Flags().VisitAll(func(f *pflag.Flag) { twins[twin(f.Name)] = f })
	}
	for name, value := range c.env {
		if !strings.HasPrefix(name, twinPrefix) {
			continue
		}
		f := twins[name]
		if f == nil {
			t.Errorf("%s: %s is no flag of %s", c.where, name, verb.CommandPath())
			continue
		}
		if f.Changed && verb.Flags().Lookup(f.Name) == f {
			t.Errorf("%s: %s is given on the command line too, which wins", c.where, name)
		}
		if value != "" {
			if err := f.Value.Set(value); err != nil {
				t.Errorf("%s: %s=%q: %v", c.where, name, value, err)
			}
		}
	}
	return verb
}

// manifest is what this test reads of one.
type manifest struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec jobOrSet `yaml:"spec"`
}

type jobOrSet struct {
	PodFailurePolicy struct {
		Rules []struct {
			Action      string `yaml:"action"`
			OnExitCodes struct {
				Values []int `yaml:"values"`
			} `yaml:"onExitCodes"`
		} `yaml:"rules"`
	} `yaml:"podFailurePolicy"`
	Template struct {
		Spec struct {
			Grace      int `yaml:"terminationGracePeriodSeconds"`
			Containers []struct {
				Name  string   `yaml:"name"`
				Image string   `yaml:"image"`
				Args  []string `yaml:"args"`
				Env   []struct {
					Name  string `yaml:"name"`
					Value string `yaml:"value"`
				} `yaml:"env"`
				Ports []struct {
					Name string `yaml:"name"`
					Port int    `yaml:"containerPort"`
				} `yaml:"ports"`
			} `yaml:"containers"`
		} `yaml:"spec"`
	} `yaml:"template"`
	ReplicatedJobs []struct {
		Template struct {
			Spec jobOrSet `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"replicatedJobs"`
}

// What the manifests start is what this program is: verbs, flags, variables, ports, exit codes and how long an end takes.
func TestManifestsFitTheProgram(t *testing.T) {
	for _, overlay := range deploy.Overlays() {
		for _, parts := range [][]string{nil, deploy.Parts()} {
			c := deploy.DefaultConfig(overlay)
			c.Image = "mp:test"
			if c.Job = []byte("model: simplenet\n"); overlay == deploy.Local {
				parts = slices.DeleteFunc(slices.Clone(parts), func(p string) bool { return p == "dra" })
			}
			c.With = parts
			all, err := deploy.Render(c)
			if err != nil {
				t.Fatal(err)
			}
			text, err := all.AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]int{}
			for one := range bytes.SplitSeq(text, []byte("\n---\n")) {
				var m manifest
				if err := yaml.Unmarshal(one, &m); err != nil {
					t.Fatal(err)
				}
				for _, r := range m.Spec.ReplicatedJobs {
					r.Template.Spec.fits(t, overlay+": "+m.Kind+" "+m.Metadata.Name, seen)
				}
				m.Spec.fits(t, overlay+": "+m.Kind+" "+m.Metadata.Name, seen)
			}
			if seen["coordinator"] != 1 || seen["worker"] != 1 || seen["submit"] != 1 {
				t.Errorf("%s starts %v", overlay, seen)
			}
		}
	}
}

// fits checks every container of ours, and what is made of their ends; seen counts verbs.
func (s jobOrSet) fits(t *testing.T, where string, seen map[string]int) {
	t.Helper()
	codes := map[string]string{}
	for _, rule := range s.PodFailurePolicy.Rules {
		for _, code := range rule.OnExitCodes.Values {
			codes[strconv.Itoa(code)] = rule.Action
		}
	}
	for _, k := range s.Template.Spec.Containers {
		if k.Image != "mp:test" {
			continue
		}
		c := container{where: where, args: k.Args, env: map[string]string{}, ports: map[string]int{}}
		for _, e := range k.Env {
			c.env[e.Name] = e.Value
		}
		for _, p := range k.Ports {
			c.ports[p.Name] = p.Port
		}
		verb := c.take(t, "jobs")
		seen[verb.Name()]++
		for flag, port := range map[string]string{"listen": map[string]string{"coordinator": "grpc", "worker": "ring"}[verb.Name()], "nats-listen": "nats", "monitor": "monitor"} {
			f := verb.Flags().Lookup(flag)
			if f == nil || f.Value.String() == "" {
				continue
			}
			if _, given, err := net.SplitHostPort(f.Value.String()); err != nil || given != strconv.Itoa(c.ports[port]) {
				t.Errorf("%s: --%s=%s, and the port called %s is %d (%v)", where, flag, f.Value, port, c.ports[port], err)
			}
		}
		switch verb.Name() {
		case "worker":
			if codes[strconv.Itoa(exitDrained)] != "Ignore" || codes[strconv.Itoa(exitBadInput)] != "FailJob" || len(codes) != 2 {
				t.Errorf("%s: %v is made of exit codes; %d is drained, %d is bad input", where, codes, exitDrained, exitBadInput)
			}
			if s.Template.Spec.Grace < int(stopGrace.Seconds()) {
				t.Errorf("%s: a worker gets %d s to end, and may need %s", where, s.Template.Spec.Grace, stopGrace)
			}
		case "submit":
			if codes[strconv.Itoa(exitBadInput)] != "FailJob" || len(codes) != 1 {
				t.Errorf("%s: %v is made of exit codes", where, codes)
			}
		}
	}
}

func TestComposeFitsTheProgram(t *testing.T) {
	text, err := os.ReadFile("../deploy/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Command     []string          `yaml:"command"`
			Environment map[string]string `yaml:"environment"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Services) != 10 {
		t.Errorf("%d services, want a coordinator, a worker on the CPU and eight on GPUs", len(file.Services))
	}
	for name, s := range file.Services {
		delete(s.Environment, "MP_TOKEN") // asked for at the start
		c := container{where: "compose.yaml: " + name, args: s.Command, env: s.Environment}
		verb := c.take(t, "jobs")
		if gpu := verb.Flags().Lookup("gpu"); strings.HasPrefix(name, "worker-") && name != "worker-cpu" && "worker-"+gpu.Value.String() != name {
			t.Errorf("%s computes on GPU %s", name, gpu.Value)
		}
	}
}

func TestUnitsFitTheProgram(t *testing.T) {
	units, err := filepath.Glob("../deploy/systemd/*.service")
	if err != nil || len(units) != 2 {
		t.Fatalf("got %q, %v", units, err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		c := container{where: unit, env: map[string]string{}}
		settings := map[string]string{}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			settings[key] = value
			if variable, ok := strings.CutPrefix(key, "#   "); ok && strings.HasPrefix(variable, twinPrefix) {
				c.env[variable] = strings.ReplaceAll(value, "...", "x")
			}
		}
		program, args, _ := strings.Cut(strings.ReplaceAll(settings["ExecStart"], "%i", "0"), " ")
		if filepath.Base(program) != "mp" || len(c.env) < 3 {
			t.Errorf("%s starts %s with %v", unit, program, c.env)
		}
		c.args = strings.Fields(args)
		verb := c.take(t, "jobs")
		if settings["RestartPreventExitStatus"] != strconv.Itoa(exitBadInput) {
			t.Errorf("%s starts again after bad input", unit)
		}
		if verb.Name() == "worker" && (settings["RestartForceExitStatus"] != strconv.Itoa(exitDrained) || settings["SuccessExitStatus"] != strconv.Itoa(exitDrained)) {
			t.Errorf("%s does not know %d, drained", unit, exitDrained)
		}
	}
}

func TestRenderPrintsAndWrites(t *testing.T) {
	dir := t.TempDir()
	jobFile := filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(jobFile, []byte("model: simplenet\nepochs: 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, text, stderr := callMain("deploy", "render", "--workers", "3", "--image", "mp:dev", "--data", "/srv/images", "--namespace", "lab", "--job", jobFile)
	for _, want := range []string{"parallelism: 3\n", "completions: 3\n", "image: mp:dev\n", "path: /srv/images\n", "namespace: lab\n", "model: simplenet\n", "app.kubernetes.io/version: dev\n"} {
		if code != 0 || stderr != "" || !strings.Contains(text, want) {
			t.Fatalf("ended with %d, %q; %q is missing in\n%s", code, stderr, want, text)
		}
	}
	code, text, _ = callMain("deploy", "render", "--gpus", "8", "--image", "r/mp:1", "--overlay", "kueue", "--queue", "team", "--coordinators", "1", "--with", "nats,dra", "--json")
	var list struct {
		Kind  string
		Items []map[string]any
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil || code != 0 || list.Kind != "List" || len(list.Items) < 12 || !strings.Contains(text, `"kueue.x-k8s.io/queue-name":"team"`) {
		t.Errorf("ended with %d, %v, %d items", code, err, len(list.Items))
	}
	out := filepath.Join(dir, "out")
	code, text, stderr = callMain("deploy", "render", "--gpus", "2", "--image", "mp:1", "--out", out)
	if folder := filepath.Join(out, "cluster"); code != 0 || text != "Next: kubectl apply -k "+folder+"\n" || !exists(filepath.Join(folder, "kustomization.yaml")) {
		t.Errorf("ended with %d, %q, %q", code, text, stderr)
	}
	for _, c := range []struct{ args, want string }{
		{"--image mp", "say how many workers"},
		{"--image mp --gpus 2 --workers 2", "say how many workers"},
		{"--image mp --gpus 2 --overlay local", "has no GPUs"},
		{"--image mp --workers 2 --overlay gpu", "gives each worker a GPU"},
		{"--gpus 2", "no image"},
		{"--image mp --gpus 2 --with x", "no part"},
		{"--image mp --gpus 2 --job " + filepath.Join(dir, "none"), "no job file"},
		{"--image mp --gpus 2 --job ../deploy/compose.yaml", "compose.yaml"},
	} {
		if code, _, stderr := callMain(append([]string{"deploy", "render"}, strings.Fields(c.args)...)...); code != exitBadInput || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: ended with %d, %q; want %d and %q", c.args, code, stderr, exitBadInput, c.want)
		}
	}
}
