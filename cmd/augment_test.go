package cmd

import (
	"strings"
	"testing"
)

// --augment strong trains, mixes images, and mixes none where it is told so: three runs, three results.
func TestStrongAugmentation(t *testing.T) {
	args, _ := shortRun(t)
	args = append(args, "--model", "simplenet", "--epochs", "1", "--checkpoint-every", "0", "--workers", "1")
	results := map[string]string{}
	for _, augment := range []string{"best", "strong", "strong --mixup 0 --cutmix 0"} {
		got := trainIn(t, append(args, append([]string{"--augment"}, strings.Fields(augment)...)...)...)
		if other := results[got.SHA256]; other != "" || got.SHA256 == "" {
			t.Errorf("--augment %s ends with the weights %q, as %q does", augment, got.SHA256, other)
		}
		results[got.SHA256] = augment
	}
	code, stdout, _ := callMain("train", args[1], "--augment", "strong", "--cpu", "--dry-run")
	if code != 0 || !strings.Contains(stdout, "strong") {
		t.Errorf("a dry run ended with %d and does not tell of strong: %s", code, stdout)
	}
	_, stdout, _ = callMain("train", "--help")
	if !strings.Contains(strings.Join(strings.Fields(stdout), " "), "strong adds TrivialAugment, erasing, mixup and cutmix") {
		t.Errorf("help does not say what strong is: %s", stdout)
	}
}
