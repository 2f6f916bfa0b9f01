package cmd

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRingIsMeasuredInTurn(t *testing.T) {
	log := filepath.Join(t.TempDir(), "order")
	side := func(name, seconds string) ringSide {
		return ringSide{name, func(spec string) *exec.Cmd {
			return exec.Command("sh", "-c", `case "$3" in *'"rank":0'*) echo "$0" >> "$1"; echo "$2";; esac`, name, log, seconds, spec)
		}}
	}
	sides := []ringSide{side("gloo", "[[0.4, 0.2, 9], [2]]"), side(ringSum, "[[0.1], [1]]")}
	spec := ringSpec{Size: 3, Lengths: []int{1, 2}}
	times, err := measureSides(spec, sides, 2)
	if err != nil {
		t.Fatal(err)
	}
	rows := ringRows(3, []float64{30, 60}, sides, times)
	if len(rows) != 2 || rows[0].Name != "3 x 30 MB sum" || rows[0].Ratio != 4 || rows[0].Unit != "GB/s" || rows[1].Ratio != 2 {
		t.Errorf("rows are %+v, want 30 MB four times and 60 MB twice as fast as gloo", rows)
	}
	if got := rows[0].Value; got < .399 || got > .401 { // 2 * 2/3 * 30 MB in 0.1 s
		t.Errorf("bandwidth is %g GB/s, want 0.4", got)
	}
	order, err := exec.Command("cat", log).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(strings.Fields(string(order)), " "), "gloo sum sum gloo"; got != want {
		t.Errorf("processes ran as %s, want %s", got, want)
	}
}

func TestARankThatFailsIsTold(t *testing.T) {
	command := func(spec string) *exec.Cmd {
		return exec.Command("sh", "-c", `case "$0" in *'"rank":1'*) echo trace >&2; echo "no such thing" >&2; exit 3;; esac; exec sleep 60`, spec)
	}
	_, err := ringSeconds(ringSpec{Size: 2, Lengths: []int{1}}, command)
	if err == nil || !strings.Contains(err.Error(), "rank") {
		t.Errorf("error is %v, want one that names a rank", err)
	}
}

func TestBenchRingRefusesWhatCannotBe(t *testing.T) {
	for _, args := range [][]string{
		{"--what", "product"},
		{"--workers", "1"},
		{"--size", "0"},
		{"--connections", "0"},
		{"--python", "/nowhere/python"},
		{"--measure", "{"},
	} {
		var out, complaint bytes.Buffer
		if code := Main(append([]string{"bench", "ring"}, args...), &out, &complaint); code != exitBadInput {
			t.Errorf("mp bench ring %s: exit code %d, want %d: %s", strings.Join(args, " "), code, exitBadInput, complaint.String())
		}
	}
}

// ranksInProcess measures with all ranks in this process.
func ranksInProcess(t *testing.T, spec ringSpec) {
	t.Helper()
	spec.Dir, spec.Rounds, spec.Lengths = t.TempDir(), 1, []int{1000, 100_000}
	errs := make(chan error, spec.Size)
	for rank := range spec.Size {
		spec := spec
		spec.Rank = rank
		go func() {
			group, leave, err := joinRing(t.Context(), spec)
			if err == nil {
				defer leave()
				for _, n := range spec.Lengths {
					if err = ringCall(spec, group, n)(t.Context()); err != nil {
						break
					}
				}
			}
			if err == nil {
				_, err = group.Exchange(t.Context(), nil) // so that nobody leaves too early
			}
			errs <- err
		}()
	}
	for range spec.Size {
		if err := <-errs; err != nil {
			t.Errorf("%+v: %v", spec, err)
		}
	}
}

func TestRanksMeasureEverySum(t *testing.T) {
	for _, what := range []string{ringSum, ringShards, ringInt16} {
		ranksInProcess(t, ringSpec{Size: 2, What: what, Connections: 1})
	}
	ranksInProcess(t, ringSpec{Size: 3, What: ringSum, Connections: 2, TCP: true})
	ranksInProcess(t, ringSpec{Size: 2, What: ringSum, Connections: 1, Inline: true})
}

func TestGlooMeasures(t *testing.T) {
	python := filepath.Join("..", "build", "venv", "bin", "python")
	if !exists(python) {
		t.Skip("gloo's side needs `make venv`")
	}
	seconds, err := ringSeconds(ringSpec{Size: 2, Lengths: []int{10, 1000}, Rounds: 2}, func(spec string) *exec.Cmd { return exec.Command(python, "-c", glooRing, spec) })
	if err != nil || len(seconds[1]) != 2 {
		t.Errorf("gloo measures %v, %v; want two calls of two lengths", seconds, err)
	}
}
