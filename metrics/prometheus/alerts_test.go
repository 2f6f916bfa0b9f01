package prometheus

import (
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// Alerts ask for numbers that exist, by labels that they have; the namespace is Prometheus's own.
func TestAlertsAskForNumbersThatExist(t *testing.T) {
	labels := labelsOf(t)
	text, err := os.ReadFile("../../deploy/kubernetes/components/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Spec struct {
			Groups []struct {
				Rules []struct {
					Alert       string            `yaml:"alert"`
					Expr        string            `yaml:"expr"`
					Labels      map[string]string `yaml:"labels"`
					Annotations map[string]string `yaml:"annotations"`
				} `yaml:"rules"`
			} `yaml:"groups"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, g := range file.Spec.Groups {
		for _, rule := range g.Rules {
			alerts++
			found, err := numbersOf(rule.Expr)
			if err != nil || len(found) == 0 {
				t.Errorf("%s asks for %v (%v)", rule.Alert, found, err)
			}
			for _, n := range found {
				if labels[n.name] == nil {
					t.Errorf("%s asks for %s, which there is not", rule.Alert, n.name)
					continue
				}
				for _, l := range n.labels {
					if !labels[n.name][l] && l != "namespace" {
						t.Errorf("%s asks for %s by %s, which it does not have", rule.Alert, n.name, l)
					}
				}
			}
			if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s does not say how bad it is, what it is, or what to do", rule.Alert)
			}
			if said := rule.Annotations["summary"]; strings.Contains(said, "$labels.run") != strings.Contains(rule.Expr, "run)") {
				t.Errorf("%s speaks of a run that its query does not tell, or is silent about it: %s", rule.Alert, said)
			}
		}
	}
	if alerts < 5 {
		t.Errorf("%d alerts", alerts)
	}
}
