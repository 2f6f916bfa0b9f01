package cmd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"mp/docs"
)

// command is one call of mp that a page shows.
type command struct {
	where string
	args  []string
	named bool // within a sentence: arguments may be left out
}

// Marks of commands in Markdown: what follows wide space or # is a remark.
const (
	remark       = `\s{3,}\S.*$|\s+#.*$`
	substitution = `<\(([^)]*)\)|\$\(([^)]*)\)`
)

// commandsOf finds every call of mp in a page: in its blocks of code, and in back quotes where there is more than a verb.
func commandsOf(name, page string) []command {
	var all []command
	add := func(line int, text string, named bool) {
		for _, m := range regexp.MustCompile(substitution).FindAllStringSubmatch(text, -1) {
			text += " && " + m[1] + m[2]
		}
		for _, part := range regexp.MustCompile(`&&|\|| {3,}`).Split(text, -1) {
			words := strings.Fields(part)
			for len(words) > 0 && regexp.MustCompile(`^[A-Z_]+=`).MatchString(words[0]) {
				words = words[1:]
			}
			if len(words) > 1 && (words[0] == "mp" || words[0] == "./mp") {
				for i, w := range words {
					words[i] = strings.Trim(w, `"'`)
				}
				all = append(all, command{fmt.Sprintf("%s:%d", name, line), words[1:], named})
			}
		}
	}
	for i, line := range strings.Split(page, "\n") {
		if strings.HasPrefix(line, "    ") {
			text := regexp.MustCompile(`\s+#.*$`).ReplaceAllString(line, "")
			for _, one := range strings.Split(text, "&&") {
				add(i+1, regexp.MustCompile(remark).ReplaceAllString(strings.TrimSpace(one), ""), false)
			}
			continue
		}
		for _, m := range regexp.MustCompile(markLiteral).FindAllStringSubmatch(line, -1) {
			add(i+1, m[1], true)
		}
	}
	return all
}

// parse tries a command on the real tree, without running it: its verb exists, its flags do and take their values, and as many
// arguments are there as it wants.
func (c command) parse() error {
	root, _ := newRoot(newEnv(io.Discard, io.Discard, func(string) (string, bool) { return "", false }))
	verb, rest, err := root.Find(c.args)
	if err != nil {
		return err
	}
	if verb == root {
		return fmt.Errorf("no verb %q", c.args[0])
	}
	if verb.Name() == "help" {
		return helpFinds(root, rest)
	}
	verb.InitDefaultHelpFlag()
	if c.named {
		return flagsExist(verb, rest)
	}
	if err := verb.ParseFlags(rest); err != nil {
		return err
	}
	if help, err := verb.Flags().GetBool("help"); err == nil && help {
		return nil
	}
	return verb.ValidateArgs(verb.Flags().Args())
}

// flagsExist looks at the names of flags alone.
func flagsExist(verb *cobra.Command, words []string) error {
	for _, w := range words {
		name, long := strings.CutPrefix(w, "--")
		name, _, _ = strings.Cut(name, "=")
		if long && verb.Flags().Lookup(name) == nil && verb.InheritedFlags().Lookup(name) == nil {
			return fmt.Errorf("unknown flag: --%s", name)
		}
	}
	return nil
}

func helpFinds(root *cobra.Command, words []string) error {
	for _, t := range topics() {
		if len(words) == 1 && words[0] == t.name {
			return nil
		}
	}
	if len(words) == 0 || words[0] == "TOPIC" {
		return nil
	}
	if found, rest, err := root.Find(words); err != nil || len(rest) > 0 || found == root {
		return fmt.Errorf("nothing to explain under %q", words)
	}
	return nil
}

// Every command in docs/ and README.md is one that this program takes.
func TestCommandsInPagesParse(t *testing.T) {
	pages := map[string]string{}
	files, err := docs.Pages.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := docs.Pages.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		pages["docs/"+f.Name()] = string(text)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	pages["README.md"] = string(readme)
	for name, page := range pages {
		commands := commandsOf(name, page)
		if least := map[string]int{"docs/course.md": 25, "docs/cluster.md": 20, "README.md": 20}[name]; len(commands) < least {
			t.Errorf("%s: found %d commands, want at least %d", name, len(commands), least)
		}
		for _, c := range commands {
			if strings.HasSuffix(c.args[0], "VERB") || strings.Contains(strings.Join(c.args, " "), "...") {
				continue // said of all verbs, or cut short
			}
			if err := c.parse(); err != nil {
				t.Errorf("%s: mp %s: %v", c.where, strings.Join(c.args, " "), err)
			}
		}
	}
}

// The test above sees what is wrong.
func TestWrongCommandsAreFound(t *testing.T) {
	page := "    mp trian x      wrong\n    mp train x --epoch 3 && mp jobs show 1 --ledger    # the first is wrong\n`mp evaluate` is fine, `mp evaluate x --mirrored` is not\n" +
		"    MP_SEED=1 mp train x --epochs many\n    source <(mp completion bash)\n    source <(mp complete bash)\n    mp attack\n    mp help courses\n    mp help course\n"
	var wrong []string
	for _, c := range commandsOf("p", page) {
		if c.parse() != nil {
			wrong = append(wrong, c.where)
		}
	}
	if got := strings.Join(wrong, " "); got != "p:1 p:2 p:3 p:4 p:6 p:7 p:8" {
		t.Errorf("found %s", got)
	}
}

// Links of pages lead to files.
func TestLinksInPagesLead(t *testing.T) {
	for name, dir := range map[string]string{"../README.md": "..", "../docs/*.md": "../docs"} {
		files, err := filepath.Glob(name)
		if err != nil || len(files) == 0 {
			t.Fatal(name, err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(markLink).FindAllStringSubmatch(string(text), -1) {
				to, _, _ := strings.Cut(m[2], "#")
				if strings.Contains(to, "://") || to == "" {
					continue
				}
				if _, err := os.Stat(filepath.Join(dir, to)); err != nil {
					t.Errorf("%s: %v", f, err)
				}
			}
		}
	}
}

func TestHelpPrintsPages(t *testing.T) {
	for _, topic := range topics() {
		code, stdout, stderr := callMain("help", topic.name)
		if code != 0 || stderr != "" || len(stdout) < 500 || strings.Contains(stdout, "`") || strings.Contains(stdout, "**") || strings.Contains(stdout, "\x1b") {
			t.Errorf("mp help %s: ended with %d, %q:\n%s", topic.name, code, stderr, stdout)
		}
		for _, line := range strings.Split(stdout, "\n") {
			if !strings.HasPrefix(line, "    ") && len([]rune(line)) > 100 {
				t.Errorf("mp help %s: a line of %d columns: %s", topic.name, len([]rune(line)), line)
			}
		}
	}
	if _, stdout, _ := callMain("help", "failures"); !strings.HasPrefix(stdout, "When something fails\n") || !strings.Contains(stdout, "85 ") || strings.Contains(stdout, "Three coordinators") {
		t.Errorf("mp help failures prints\n%s", stdout)
	}
	if _, stdout, _ := callMain(); !strings.Contains(stdout, "  course       The course's exercise") {
		t.Errorf("the help does not list its pages:\n%s", stdout)
	}
	if _, stdout, _ := callMain("__complete", "help", "co"); !strings.Contains(stdout, "course\t") {
		t.Errorf("completion of help: got %q", stdout)
	}
}

func TestPagesOnATerminal(t *testing.T) {
	r := pageRenderer{width: 40, color: true}
	got := r.render("# Title\n\nA **strong** word, `code` and a [link](x.md) that is longer than one line.\n\n- a point\n  that goes on for more than one line of it\n- another\n\n" +
		"    mp train x    # why\n\n| a | b |\n|---|---|\n| `c` | d e f g h i j k l m n o p q r s t u v w x y z |\n![A picture](step.svg)\n")
	want := "\x1b[1mTitle\x1b[0m\n\nA strong word, code and a link that is\nlonger than one line.\n\n- a point that goes on for more than one\n  line of it\n- another\n\n" +
		"    mp train x\x1b[2m    # why\x1b[0m\n\na  b\nc  d e f g h i j k l m n o p q r s t u v\n   w x y z\n(picture: docs/step.svg)\n"
	if got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	code, stdout, stderr := callMain("man", dir)
	if code != 0 || !strings.Contains(stdout, "pages in "+dir) {
		t.Fatalf("ended with %d, %q, %q", code, stdout, stderr)
	}
	text, err := os.ReadFile(filepath.Join(dir, "mp-train.1"))
	if err != nil {
		t.Fatal(err)
	}
	page := strings.ReplaceAll(string(text), `\`, "")
	for _, want := range []string{".TH", "mp-train - Train a network on this machine", "--batch-size", "[MP_BATCH_SIZE]", "[MP_WORKERS]"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	for _, verb := range verbs() {
		c := verb.make(newEnv(io.Discard, io.Discard, os.LookupEnv))
		if _, err := os.Stat(filepath.Join(dir, "mp-"+c.Name()+".1")); err != nil {
			t.Error(err)
		}
	}
}

// The words of failures that the page explains are those that the program says.
func TestFailureWordsAreSaid(t *testing.T) {
	var source strings.Builder
	for _, pattern := range []string{"*.go", "../coordinator/*.go", "../coordinator/membership/*.go", "../worker/*.go", "../mppb/*.go", "../ops/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	said := strings.ToLower(source.String())
	page, err := docs.Pages.ReadFile("cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	words, inTable := 0, false
	for _, line := range strings.Split(string(page), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			inTable = false
			continue
		}
		first := strings.TrimSpace(cells[1])
		switch {
		case first == "words":
			inTable = true
		case inTable && strings.Trim(first, "-") != "":
			for word := range strings.SplitSeq(first, ", ") {
				words++
				if !strings.Contains(said, strings.ToLower(word)) {
					t.Errorf("nothing says %q", word)
				}
			}
		}
	}
	if words < 15 {
		t.Errorf("found %d words only", words)
	}
}
