package deploy

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// jobSet is what we say of a JobSet.
type jobSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Network struct {
			EnableDNSHostnames bool `json:"enableDNSHostnames"`
		} `json:"network"`
		FailurePolicy struct {
			MaxRestarts int32 `json:"maxRestarts"`
			Rules       []struct {
				Name                 string   `json:"name"`
				Action               string   `json:"action"`
				OnJobFailureReasons  []string `json:"onJobFailureReasons"`
				TargetReplicatedJobs []string `json:"targetReplicatedJobs"`
			} `json:"rules"`
		} `json:"failurePolicy"`
		ReplicatedJobs []struct {
			Name     string                  `json:"name"`
			Replicas int32                   `json:"replicas"`
			Template batchv1.JobTemplateSpec `json:"template"`
		} `json:"replicatedJobs"`
	} `json:"spec"`
}

// What we say of objects of the Prometheus operator.
type (
	endpoint struct {
		Port     string `json:"port"`
		Path     string `json:"path"`
		Interval string `json:"interval"`
		Scheme   string `json:"scheme"` // the probes' too: a pod is reached from elsewhere
		TLS      struct {
			InsecureSkipVerify bool `json:"insecureSkipVerify"`
		} `json:"tlsConfig"`
	}
	scrape struct { // a ServiceMonitor or a PodMonitor
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Selector            metav1.LabelSelector `json:"selector"`
			Endpoints           []endpoint           `json:"endpoints,omitempty"`
			PodMetricsEndpoints []endpoint           `json:"podMetricsEndpoints,omitempty"`
		} `json:"spec"`
	}
	rules struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Groups []struct {
				Name     string `json:"name"`
				Interval string `json:"interval"`
				Rules    []struct {
					Alert       string            `json:"alert"`
					Expr        string            `json:"expr"`
					For         string            `json:"for,omitempty"`
					Labels      map[string]string `json:"labels"`
					Annotations map[string]string `json:"annotations"`
				} `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
)

// pods is a template of pods in a manifest.
type pods struct {
	owner    string // "Job mp-worker"
	selector *metav1.LabelSelector
	labels   labels.Set
	spec     corev1.PodSpec
}

// cluster is a rendered cluster, parsed.
type cluster struct {
	t        *testing.T
	name     string
	kinds    map[string]metav1.ObjectMeta // by "Kind name"
	pods     []pods
	workers  []batchv1.JobSpec
	services []corev1.Service
	budgets  []policyv1.PodDisruptionBudget
	policies []networkingv1.NetworkPolicy
	scrapes  []scrape
	volumes  []string // that claims name
}

// parseInto reads a manifest whose every field must exist.
func parseInto[T any](c *cluster, text []byte) T {
	c.t.Helper()
	var into T
	if err := yaml.UnmarshalStrict(text, &into); err != nil {
		c.t.Errorf("%s: %v in\n%s", c.name, err, text)
	}
	return into
}

// parse reads every manifest into the type of its kind.
func parse(t *testing.T, name string, text []byte) *cluster {
	t.Helper()
	c := &cluster{t: t, name: name, kinds: map[string]metav1.ObjectMeta{}}
	for _, one := range bytes.Split(text, []byte("\n---\n")) {
		var head struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal(one, &head); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		id := head.Kind + " " + head.Name
		if _, twice := c.kinds[id]; twice {
			t.Errorf("%s: %s is there twice", name, id)
		}
		c.kinds[id] = head.ObjectMeta
		c.take(head.APIVersion+" "+head.Kind, id, one)
	}
	return c
}

func (c *cluster) take(kind, id string, text []byte) {
	c.t.Helper()
	template := func(p corev1.PodTemplateSpec, selector *metav1.LabelSelector) {
		c.pods = append(c.pods, pods{owner: id, selector: selector, labels: p.Labels, spec: p.Spec})
	}
	switch kind {
	case "v1 Namespace":
		parseInto[corev1.Namespace](c, text)
	case "v1 ServiceAccount":
		parseInto[corev1.ServiceAccount](c, text)
	case "v1 ConfigMap":
		parseInto[corev1.ConfigMap](c, text)
	case "v1 PersistentVolume":
		parseInto[corev1.PersistentVolume](c, text)
	case "v1 PersistentVolumeClaim":
		c.volumes = append(c.volumes, parseInto[corev1.PersistentVolumeClaim](c, text).Spec.VolumeName)
	case "v1 Service":
		c.services = append(c.services, parseInto[corev1.Service](c, text))
	case "apps/v1 StatefulSet":
		s := parseInto[appsv1.StatefulSet](c, text)
		template(s.Spec.Template, s.Spec.Selector)
	case "batch/v1 Job":
		j := parseInto[batchv1.Job](c, text)
		template(j.Spec.Template, j.Spec.Selector)
		if j.Name == "mp-worker" {
			c.workers = append(c.workers, j.Spec)
		}
	case "jobset.x-k8s.io/v1alpha2 JobSet":
		for _, r := range parseInto[jobSet](c, text).Spec.ReplicatedJobs {
			template(r.Template.Spec.Template, r.Template.Spec.Selector)
			c.workers = append(c.workers, r.Template.Spec)
		}
	case "policy/v1 PodDisruptionBudget":
		c.budgets = append(c.budgets, parseInto[policyv1.PodDisruptionBudget](c, text))
	case "networking.k8s.io/v1 NetworkPolicy":
		c.policies = append(c.policies, parseInto[networkingv1.NetworkPolicy](c, text))
	case "monitoring.coreos.com/v1 ServiceMonitor", "monitoring.coreos.com/v1 PodMonitor":
		c.scrapes = append(c.scrapes, parseInto[scrape](c, text))
	case "monitoring.coreos.com/v1 PrometheusRule":
		parseInto[rules](c, text)
	case "resource.k8s.io/v1 ResourceClaimTemplate":
		parseInto[resourcev1.ResourceClaimTemplate](c, text)
	default:
		c.t.Errorf("%s: %s is of the kind %s, which nobody checks", c.name, id, kind)
	}
}

// Every cluster that can be rendered, every overlay as it is and with everything, keeps every rule.
func TestManifests(t *testing.T) {
	for _, overlay := range Overlays() {
		plain := DefaultConfig(overlay)
		full := plain
		full.Namespace, full.Image, full.Version, full.Coordinators, full.Workers, full.MinWorkers = "team-a", "registry.example:5000/a/mp:1.2", "1.2", 5, 7, 2
		full.With, full.Job = []string{withNATS, withMonitoring, withDRA}, []byte("model: simplenet\nepochs: 3\n")
		if overlay == Local {
			full.With = full.With[:2]
		}
		if full.Data = "/srv/images"; plain.path() {
			full.Data = "images-of-all"
		}
		for name, config := range map[string]Config{overlay: plain, overlay + " with everything": full} {
			all, err := Render(config)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			text, err := all.AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			t.Run(name, func(t *testing.T) {
				c := parse(t, name, text)
				c.isWhole()
				c.meets()
				c.needs()
				c.isRestricted()
				c.isElastic()
			})
		}
	}
}

func TestAMisspeltFieldIsAnError(t *testing.T) {
	c := &cluster{t: &testing.T{}, name: "a wrong manifest"}
	parseInto[batchv1.Job](c, []byte("apiVersion: batch/v1\nkind: Job\nspec: {paralelism: 3}\n"))
	if !c.t.Failed() {
		t.Error("a misspelt field passes")
	}
}

// isWhole: everything that a cluster is of is there, labelled, in its namespace.
func (c *cluster) isWhole() {
	t := c.t
	if len(c.pods) < 2 || len(c.workers) != 1 || len(c.services) < 2 || len(c.budgets) != 2 || len(c.policies) < 3 {
		t.Errorf("%s: %d kinds of pods, %d of workers, %d services, %d budgets, %d policies", c.name, len(c.pods), len(c.workers), len(c.services), len(c.budgets), len(c.policies))
	}
	namespace := c.kinds["ServiceAccount mp"].Namespace
	if _, ok := c.kinds["Namespace "+namespace]; !ok {
		t.Errorf("%s: the namespace %q is not among the manifests", c.name, namespace)
	}
	for id, meta := range c.kinds {
		for _, label := range []string{"name", "instance", "managed-by"} {
			if meta.Labels["app.kubernetes.io/"+label] == "" {
				t.Errorf("%s: %s has no label %s", c.name, id, label)
			}
		}
		if id == "PersistentVolume mp-data" && namespace != "mp" {
			t.Errorf("%s: %s is another cluster's too", c.name, id)
		}
		if id != "Namespace "+namespace && !strings.HasPrefix(id, "PersistentVolume ") && meta.Namespace != namespace {
			t.Errorf("%s: %s is in namespace %q, want %q", c.name, id, meta.Namespace, namespace)
		}
	}
}

// chosen are the pods that a selector means.
func (c *cluster) chosen(s *metav1.LabelSelector) []pods {
	c.t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		c.t.Fatal(err)
	}
	var all []pods
	for _, p := range c.pods {
		if selector.Matches(p.labels) {
			all = append(all, p)
		}
	}
	return all
}

// port says whether one of the pods' containers has a port.
func (p pods) port(want intstr.IntOrString) bool {
	for _, k := range p.spec.Containers {
		for _, have := range k.Ports {
			if want.Type == intstr.String && have.Name == want.StrVal || want.Type == intstr.Int && have.ContainerPort == want.IntVal {
				return true
			}
		}
	}
	return false
}

// dns is the port of the cluster's names.
const dns = 53

// meets: selectors mean pods, and ports are those that pods have.
func (c *cluster) meets() {
	t := c.t
	bad := func(format string, args ...any) { t.Helper(); t.Errorf(c.name+": "+format, args...) }
	for _, p := range c.pods {
		if p.selector != nil && len(c.chosen(p.selector)) != 1 {
			bad("the selector of %s means %d kinds of pods", p.owner, len(c.chosen(p.selector)))
		}
	}
	for _, s := range c.services {
		all := c.chosen(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		if len(all) != 1 {
			bad("Service %s means %d kinds of pods", s.Name, len(all))
			continue
		}
		for _, port := range s.Spec.Ports {
			if !all[0].port(port.TargetPort) && !(port.Name == "nats" && c.kinds["StatefulSet mp-nats"].Name != "") { // whose own Service has it then
				bad("Service %s: %s has no port %s", s.Name, all[0].owner, port.TargetPort.String())
			}
		}
	}
	for _, b := range c.budgets {
		if n := len(c.chosen(b.Spec.Selector)); n != 1 {
			bad("budget %s means %d kinds of pods", b.Name, n)
		}
	}
	for _, s := range c.scrapes {
		all := c.chosen(&s.Spec.Selector)
		for _, e := range append(s.Spec.Endpoints, s.Spec.PodMetricsEndpoints...) {
			if len(all) != 1 || !all[0].port(intstr.FromString(e.Port)) {
				bad("%s %s asks %d kinds of pods at port %s", s.Kind, s.Name, len(all), e.Port)
			}
			if e.Scheme != "https" || !e.TLS.InsecureSkipVerify {
				bad("%s %s asks in %s: a monitor that is reached from elsewhere speaks TLS, with a certificate that says no name", s.Kind, s.Name, e.Scheme)
			}
		}
		if len(s.Spec.Endpoints) > 0 { // by way of a Service, and of one only
			n := 0
			for _, service := range c.services {
				selector, err := metav1.LabelSelectorAsSelector(&s.Spec.Selector)
				if err != nil {
					t.Fatal(err)
				}
				for _, port := range service.Spec.Ports {
					if selector.Matches(labels.Set(service.Labels)) && port.Name == s.Spec.Endpoints[0].Port {
						n++
					}
				}
			}
			if n != 1 {
				bad("ServiceMonitor %s finds its port in %d Services", s.Name, n)
			}
		}
	}
	for _, n := range c.policies {
		mine := c.chosen(&n.Spec.PodSelector)
		if len(mine) == 0 {
			bad("policy %s is for no pods", n.Name)
		}
		for _, rule := range n.Spec.Ingress {
			c.open(n.Name, mine, rule.Ports)
			for _, from := range rule.From {
				if from.PodSelector != nil && len(c.chosen(from.PodSelector)) == 0 {
					bad("policy %s lets in no pods", n.Name)
				}
			}
		}
		for _, rule := range n.Spec.Egress {
			for _, to := range rule.To {
				c.open(n.Name, c.chosen(to.PodSelector), rule.Ports)
			}
			if len(rule.To) == 0 && (len(rule.Ports) == 0 || rule.Ports[0].Port.IntVal != dns) {
				bad("policy %s lets out everywhere", n.Name)
			}
		}
	}
}

// open says which ports of a policy none of its pods has.
func (c *cluster) open(policy string, all []pods, ports []networkingv1.NetworkPolicyPort) {
	c.t.Helper()
	for _, port := range ports {
		found := false
		for _, p := range all {
			found = found || p.port(*port.Port)
		}
		if !found && !(port.Port.StrVal == "nats" && c.kinds["StatefulSet mp-nats"].Name != "") {
			c.t.Errorf("%s: policy %s: no pod has port %s", c.name, policy, port.Port.String())
		}
	}
}

// outside are the objects that somebody else makes.
func outside(c *cluster) []string {
	all := []string{"Secret mp-token"}
	if _, ours := c.kinds["PersistentVolumeClaim mp-data"]; !ours {
		all = append(all, "PersistentVolumeClaim mp-data", "PersistentVolumeClaim images-of-all")
	}
	return all
}

// needs: what pods name is among the manifests or made by somebody else, and their probes ask ports of theirs.
func (c *cluster) needs() {
	t := c.t
	there := map[string]bool{}
	for id := range c.kinds {
		there[id] = true
	}
	for _, id := range outside(c) {
		there[id] = true
	}
	for _, v := range c.volumes {
		if !there["PersistentVolume "+v] {
			t.Errorf("%s: a claim needs PersistentVolume %s, which is not there", c.name, v)
		}
	}
	for _, p := range c.pods {
		needs := []string{"ServiceAccount " + p.spec.ServiceAccountName}
		mounts := map[string]bool{"state": true, "store": true} // of volumeClaimTemplates
		for _, v := range p.spec.Volumes {
			mounts[v.Name] = true
			switch {
			case v.PersistentVolumeClaim != nil:
				needs = append(needs, "PersistentVolumeClaim "+v.PersistentVolumeClaim.ClaimName)
			case v.ConfigMap != nil:
				needs = append(needs, "ConfigMap "+v.ConfigMap.Name)
			}
		}
		for _, k := range p.spec.Containers {
			for _, e := range k.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					needs = append(needs, "Secret "+e.ValueFrom.SecretKeyRef.Name)
				}
			}
			for _, m := range k.VolumeMounts {
				if !mounts[m.Name] {
					t.Errorf("%s: %s mounts %s, which is no volume of its", c.name, p.owner, m.Name)
				}
			}
			for what, probe := range map[string]*corev1.Probe{"startup": k.StartupProbe, "liveness": k.LivenessProbe, "readiness": k.ReadinessProbe} {
				switch {
				case p.owner == "Job mp-submit": // ends by itself
				case probe == nil || probe.HTTPGet == nil:
					t.Errorf("%s: %s has no %s probe", c.name, p.owner, what)
				case p.owner != "StatefulSet mp-nats" && probe.HTTPGet.Scheme != corev1.URISchemeHTTPS: // that one is not of mp
					t.Errorf("%s: %s: the %s probe asks in %q: a monitor that is reached from elsewhere speaks TLS", c.name, p.owner, what, probe.HTTPGet.Scheme)
				case !p.port(probe.HTTPGet.Port):
					t.Errorf("%s: %s: the %s probe asks port %s, which it has not", c.name, p.owner, what, probe.HTTPGet.Port.String())
				}
			}
		}
		for _, claim := range p.spec.ResourceClaims {
			needs = append(needs, "ResourceClaimTemplate "+*claim.ResourceClaimTemplateName)
		}
		for _, id := range needs {
			if !there[id] {
				t.Errorf("%s: %s needs %s, which is not there", c.name, p.owner, id)
			}
		}
	}
}

// isRestricted: the rules of the pod security standard "restricted", which the namespace enforces, and three of our own.
func (c *cluster) isRestricted() {
	t := c.t
	for _, p := range c.pods {
		s := p.spec
		no := func(is bool, what string) {
			t.Helper()
			if is {
				t.Errorf("%s: %s %s", c.name, p.owner, what)
			}
		}
		no(s.HostNetwork || s.HostPID || s.HostIPC, "shares what is the node's")
		no(s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken, "gets a token for the API server")
		no(s.EnableServiceLinks == nil || *s.EnableServiceLinks, "gets variables of services, which would look like flags")
		no(s.SecurityContext == nil || s.SecurityContext.RunAsNonRoot == nil || !*s.SecurityContext.RunAsNonRoot, "may run as root")
		no(s.SecurityContext.SeccompProfile == nil || s.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault, "has no seccomp profile")
		for _, v := range s.Volumes {
			no(v.HostPath != nil, "mounts a path of the node")
		}
		for _, k := range append(s.InitContainers, s.Containers...) {
			sc := k.SecurityContext
			no(sc == nil || sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation, "may gain privileges")
			no(sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem, "writes to its image")
			no(sc.Capabilities == nil || fmt.Sprint(sc.Capabilities.Drop) != "[ALL]" || len(sc.Capabilities.Add) > 0, "keeps capabilities")
			no(k.Resources.Limits.Memory().IsZero() || k.Resources.Requests.Cpu().IsZero(), "does not say what it needs")
			no(len(k.Command) > 0, "does not start the image's own program, which must be process 1")
		}
	}
}

// isElastic: workers can be added, taken away, evicted and replaced one by one.
func (c *cluster) isElastic() {
	t := c.t
	for _, j := range c.workers {
		switch {
		case j.CompletionMode == nil || *j.CompletionMode != batchv1.IndexedCompletion, j.Parallelism == nil, *j.Parallelism != *j.Completions:
			t.Errorf("%s: parallelism and completions must be the same, of an Indexed Job, to be changed together", c.name)
		case j.BackoffLimitPerIndex == nil, j.PodReplacementPolicy == nil || *j.PodReplacementPolicy != batchv1.Failed:
			t.Errorf("%s: one worker's failures count for all, or it is replaced while it still runs", c.name)
		case j.Template.Spec.RestartPolicy != corev1.RestartPolicyNever:
			t.Errorf("%s: exit codes are not seen with restartPolicy %s", c.name, j.Template.Spec.RestartPolicy)
		}
	}
}
