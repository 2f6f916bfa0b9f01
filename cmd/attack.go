package cmd

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/attack"
	"mp/data"
	"mp/job"
)

// attackFlags is what `mp attack` is asked for.
type attackFlags struct {
	checkpoint, surrogate string
	model                 string
	attacks               []string
	eps, stepSize         string
	norm, loss            string
	steps, restarts       int
	target                string
	images, batch         int
	split                 string
	out, save             string
	curve, points         string
	precision, device     string
	threads               int
	seed                  uint64

	cluster       clusterFlags // its coordinator empty: on this machine
	courseTarget  string
	fixed, ascend bool
	everyStep     bool
	changed       func(flag string) bool // the command line or the environment gives it
}

// Words of --target and --curve.
const (
	targetLeastLikely = "least-likely"
	curveEps          = "eps"
	curveSteps        = "steps"
)

// newAttackCommand returns `mp attack`.
func newAttackCommand(e *env) *cobra.Command {
	var o attackFlags
	var lines []string
	about := attack.About()
	for i, name := range attack.Names() {
		lines = append(lines, fmt.Sprintf("  %-12s %s", name, about[i]))
	}
	c := &cobra.Command{
		Use:   "attack DATA --checkpoint F",
		Short: "Change images a little so that a network errs, and measure how often it does",
		Long: "attack changes images so little that people see the same, and measures what the network makes of them. Attacks work on\n" +
			"pixel values from 0 to 1, normalisation is the network's; course alone works in normalised units. Several with commas:\n" + strings.Join(lines, "\n") +
			"\n\nWhat is not given is each attack's own default, its eps 8/255 in linf. With --coordinator a cluster's workers compute, each\n" +
			"some batches: the same numbers as on one device of their kind, with as many --threads.",
		Example: "  mp attack miniplaces --checkpoint model_best.pth.tar --attack course,pgd --eps 1/255 --images 500 --out pictures\n" +
			"  mp attack miniplaces --checkpoint robust --attack autoattack --eps 4/255 --images 200 --json\n" +
			"  mp attack miniplaces --checkpoint robust --surrogate natural --attack mifgsm,tifgsm\n" +
			"  mp attack miniplaces --checkpoint robust --attack autoattack --images 0 --coordinator 10.0.0.1:7070\n" +
			"  mp attack miniplaces --checkpoint model_best.pth.tar --attack pgd --eps 1/255 --curve steps --out curves",
		Args: exactArgs("DATA"),
	}
	f := c.Flags()
	f.StringVar(&o.checkpoint, "checkpoint", "", "run directory, checkpoint, .safetensors or PyTorch file of the network that is measured; needed")
	f.StringVar(&o.surrogate, "surrogate", "", "attack this network and measure the other one: how well an attack transfers; empty: the one that is measured")
	f.StringVar(&o.model, "model", "", "architecture, for files that do not name theirs: simplenet, simplevit, resnet18, scenenet; empty: the file's")
	f.StringSliceVar(&o.attacks, "attack", []string{"course"}, "attacks, see above")
	f.StringVar(&o.eps, "eps", "", "how far a value may change, such as 8/255; with --norm l2 how long all changes together may be; empty: the attack's own")
	f.IntVar(&o.steps, "steps", 0, "gradient steps; square: queries")
	f.StringVar(&o.stepSize, "step-size", "", "how far a step goes, such as 2/255; empty: 2.5 eps / steps; cw: learning rate")
	f.StringVar(&o.norm, "norm", "", "linf or l2; empty: the attack's own")
	f.IntVar(&o.restarts, "restarts", 0, "tries from other starts, of which the best counts; cw: searches for its constant")
	f.StringVar(&o.loss, "loss", "", "what bim, pgd and their relatives climb: ce, dlr; empty: the attack's own")
	f.StringVar(&o.target, "targeted", "", "aim at this class, by name or number, or at the one that is "+targetLeastLikely+"; empty: at any that is wrong")
	f.StringVar(&o.courseTarget, "target", "least", "course: which label, the least or the most confident: least, most")
	f.BoolVar(&o.fixed, "fixed-target", false, "course: keep the label of the clean image")
	f.BoolVar(&o.ascend, "ascend", false, "course: make the loss greater, not smaller; of the least confident label that is the common mistake")
	f.BoolVar(&o.everyStep, "every-step", false, "take all steps with every image, also those that err already")
	f.IntVar(&o.images, "images", 500, "attack the first so many images; 0: all")
	f.StringVar(&o.split, "split", string(data.Val), "images to attack: train, val")
	f.StringVar(&o.out, "out", "", "folder for pictures, curves and attack.json, made if it is not there; empty: none are written")
	f.StringVar(&o.save, "save", "", "write the changed images to this .safetensors file, on which evaluate --on measures other networks; empty: to none")
	f.StringVar(&o.curve, "curve", "", "also measure over several eps or steps and draw it to --out: eps, steps; empty: neither")
	f.StringVar(&o.points, "points", "", "the points of --curve, by commas; default: fractions and multiples of eps, or 1 to 100 steps")
	f.StringVar(&o.precision, "precision", job.FP32, "numbers in the network: fp32, bf16, fp64")
	f.IntVarP(&o.batch, "batch-size", "b", 50, "images attacked together")
	f.Uint64Var(&o.seed, "seed", 0, "start of what is drawn")
	f.StringVar(&o.device, "device", job.DeviceAuto, "cpu, the number of a GPU, or auto")
	f.IntVar(&o.threads, "threads", 0, "CPU threads of one operation; 0: as many as cores")
	f.StringVar(&o.cluster.coordinator, "coordinator", "", "have a cluster's workers attack, beside what they train: coordinators, HOST:PORT with commas between; empty: on this machine")
	o.cluster.trust.add(f, tokenHelp)
	f.DurationVar(&o.cluster.wait, "wait", 10*time.Second, "with --coordinator: how long to look for one that leads, and for workers where none is left")
	c.RunE = func(c *cobra.Command, args []string) error {
		o.changed = c.Flags().Changed
		return attackData(c.Context(), e, args[0], o)
	}
	return c
}

// plan is one row of the table to come.
type plan struct {
	name    string
	options attack.Options
	attack  attack.Attack
}

// make makes the plan's attack.
func (p plan) make() (plan, error) {
	var err error
	p.attack, err = attack.New(p.name, p.options)
	return p, err
}

func badAttack(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{job.ErrConfig}, args...)...)
}

// check refuses what cannot be before anything is opened, and returns what is to be done.
func (o *attackFlags) check() ([]plan, error) {
	switch {
	case o.checkpoint == "":
		return nil, badAttack("no network: give --checkpoint a run directory or a file of weights")
	case len(o.attacks) == 0:
		return nil, badAttack("no attack: give --attack one of %s", strings.Join(attack.Names(), ", "))
	case !slices.Contains([]string{job.FP32, job.BF16, fp64}, o.precision):
		return nil, badAttack("--precision %q: choose %s, %s or %s", o.precision, job.FP32, job.BF16, fp64)
	case o.cluster.coordinator != "" && o.changed("device"):
		return nil, badAttack("--device chooses one of this machine; with --coordinator (or MP_COORDINATOR) each worker computes on its own: leave one of them out")
	case o.images < 0 || o.batch < 1 || o.threads < 0:
		return nil, badAttack("--images %d, --batch-size %d, --threads %d: choose a batch of at least 1 and nothing negative", o.images, o.batch, o.threads)
	case o.split != string(data.Train) && o.split != string(data.Val):
		return nil, badAttack("--split %q: choose train or val, whose labels are known", o.split)
	case o.courseTarget != "least" && o.courseTarget != "most":
		return nil, badAttack("--target %q: choose least or most; --targeted CLASS aims other attacks at a class", o.courseTarget)
	case o.curve != "" && o.curve != curveEps && o.curve != curveSteps:
		return nil, badAttack("--curve %q: choose eps or steps", o.curve)
	case o.curve != "" && o.out == "":
		return nil, badAttack("--curve needs a folder to draw to: give --out")
	case o.points != "" && o.curve == "":
		return nil, badAttack("--points belongs to --curve eps or --curve steps")
	case o.save != "" && !strings.HasSuffix(o.save, ".safetensors"):
		return nil, badAttack("--save %s: the name must end in .safetensors", o.save)
	case o.save != "" && len(o.attacks) > 1:
		return nil, badAttack("--save takes the images of one attack, not of %d: give --attack one name", len(o.attacks))
	}
	if o.out != "" {
		if info, err := os.Stat(o.out); err == nil && !info.IsDir() {
			return nil, badAttack("--out %s is a file: name a folder", o.out)
		}
	}
	var plans []plan
	for _, name := range o.attacks {
		options, err := o.options(name)
		if err != nil {
			return nil, err
		}
		p, err := plan{name: name, options: options}.make()
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// options are an attack's defaults with what the flags say.
func (o *attackFlags) options(name string) (attack.Options, error) {
	a, err := attack.Defaults(name)
	if err != nil {
		return a, err
	}
	if o.norm != "" {
		before := a.Norm
		if a.Norm, err = attack.ParseNorm(o.norm); err != nil {
			return a, err
		}
		if a.Norm != before && o.eps == "" {
			return a, badAttack("%s: its default eps %g is one of %s: give --eps with --norm %s", name, a.Eps, before, a.Norm)
		}
	}
	if o.eps != "" {
		before := a.Eps
		if a.Eps, err = parseAmount("eps", o.eps); err != nil {
			return a, err
		}
		if a.Eps > 1 && a.Norm == attack.Linf && !strings.Contains(o.eps, "/") {
			return a, badAttack("--eps %s is more than the whole range of a value, 0 to 1: did you mean %s/255?", o.eps, o.eps)
		}
		if a.StepSize > 0 && name != "cw" { // steps keep their size in radii
			a.StepSize *= a.Eps / before
		}
	}
	if o.changed("steps") {
		if o.steps < 1 {
			return a, badAttack("--steps %d: an attack without a step changes nothing; give at least 1", o.steps)
		}
		a.Steps = o.steps
	}
	if o.stepSize != "" {
		if a.StepSize, err = parseAmount("step-size", o.stepSize); err != nil {
			return a, err
		}
	}
	if o.changed("restarts") {
		if o.restarts < 1 {
			return a, badAttack("--restarts %d: give at least 1", o.restarts)
		}
		a.Restarts = o.restarts
	}
	if o.loss != "" {
		if a.Loss, err = attack.ParseLoss(o.loss); err != nil {
			return a, err
		}
	}
	switch {
	case o.changed("targeted") && o.target == "":
		return a, badAttack("--targeted without a target: give a class by name or number, or %s", targetLeastLikely)
	case o.target == targetLeastLikely:
		a.Goal = attack.LeastLikely
	case o.target != "":
		a.Goal = attack.Given
	}
	a.Most, a.Fixed, a.Ascend = o.courseTarget == "most", o.fixed, o.ascend
	if name != "course" && (o.fixed || o.ascend || o.changed("target")) && !slices.Contains(o.attacks, "course") {
		return a, badAttack("--target, --fixed-target and --ascend belong to --attack course")
	}
	if o.everyStep || o.surrogate != "" { // what fools the surrogate first need not fool the other one
		a.Leave = false
	}
	return a, nil
}

// parseAmount reads a number or a fraction such as 8/255.
func parseAmount(flag, text string) (float64, error) {
	above, below, fraction := strings.Cut(text, "/")
	v, err := strconv.ParseFloat(strings.TrimSpace(above), 64)
	if err == nil && fraction {
		var d float64
		d, err = strconv.ParseFloat(strings.TrimSpace(below), 64)
		v /= d
	}
	if err != nil || !(v > 0) || math.IsInf(v, 0) {
		return 0, badAttack("--%s %q: want a positive number or a fraction such as 8/255", flag, text)
	}
	return v, nil
}

// targetClass finds the class that --targeted names, -1 where it names none.
func (o *attackFlags) targetClass(classes []string) (int, error) {
	if o.target == "" || o.target == targetLeastLikely {
		return -1, nil
	}
	if i := slices.Index(classes, o.target); i >= 0 {
		return i, nil
	}
	if i, err := strconv.Atoi(o.target); err == nil && i >= 0 && i < len(classes) {
		return i, nil
	}
	return 0, badAttack("--targeted %s: no such class among the %d of the data, such as %s, nor a number below %[2]d", o.target, len(classes), classes[0])
}

// attacked is one row of the result.
type attacked struct {
	Attack  string  `json:"attack"`
	Norm    string  `json:"norm"`
	Eps     float64 `json:"eps"`
	Steps   int     `json:"steps"`
	Images  int     `json:"images"`
	Clean1  float64 `json:"clean_top1"` // per cent
	Clean5  float64 `json:"clean_top5"`
	Top1    float64 `json:"top1"` // after the attack
	Top5    float64 `json:"top5"`
	Success float64 `json:"success"` // per cent of all images taken for the target; untargeted: of the correct ones no longer so
	Queries float64 `json:"queries"` // images shown to the network for each, mean
	Linf    float64 `json:"linf"`    // largest change of a value
	L2      float64 `json:"l2"`      // mean length of the change, of changed images
	Seconds float64 `json:"seconds"`

	Broken   map[string]int `json:"broken,omitempty"`   // autoattack: images by the attack that broke them
	Warnings []string       `json:"warnings,omitempty"` // why the accuracy may be less than measured
}

func attackData(ctx context.Context, e *env, dir string, o attackFlags) error {
	plans, err := o.check()
	if err != nil {
		return err
	}
	curve, err := o.curvePlans(plans)
	if err != nil {
		return err
	}
	images, closeImages, err := openPictures(dir, data.Split(o.split))
	if err != nil {
		return err
	}
	defer closeImages()
	r := &attackRun{flags: o, source: images}
	if err := r.open(ctx, e, dir); err != nil {
		return err
	}
	defer r.hands.close()
	all := slices.Concat(plans, curve)
	bar := e.progress("attack", int64(len(all))*int64(r.total()))
	r.progress = func(n int) { bar.Add(int64(n)) }
	rows, found, err := r.table(ctx, all, len(plans))
	bar.Finish()
	if err != nil {
		return err
	}
	rows, found, points := rows[:len(plans)], found[:len(plans)], rows[len(plans):]
	for _, bad := range r.unreadable {
		fmt.Fprintf(e.stderr, "left out: %v\n", bad)
	}
	if o.save != "" {
		if err := r.write(o.save, plans[0], found[0]); err != nil {
			return err
		}
	}
	if o.out != "" {
		if err := writeAttack(o, r, attackResult{rows, found, points}); err != nil {
			return err
		}
	}
	if e.json {
		return e.printJSON(attackJSON{rows, points})
	}
	return printAttacked(e, rows, points, o.curve)
}

// attackJSON is the result of `mp attack` as JSON.
type attackJSON struct {
	Rows  []attacked `json:"rows"`
	Curve []attacked `json:"curve,omitempty"`
}

func printAttacked(e *env, rows, points []attacked, curve string) error {
	heading := []string{"attack", ">eps", ">images", ">clean top-1", ">top-5", ">attacked top-1", ">top-5", ">success", ">queries", ">linf x255", ">l2", ">time"}
	if err := writeTable(e.stdout, heading, attackCells(rows)); err != nil {
		return err
	}
	for _, r := range rows {
		for _, w := range r.Warnings {
			fmt.Fprintf(e.stdout, "warning: %s: %s\n", r.Attack, w)
		}
	}
	if len(points) == 0 {
		return nil
	}
	cells := make([][]string, len(points))
	for i, p := range points {
		at := epsText(p.Eps)
		if curve == curveSteps {
			at = fmt.Sprint(p.Steps)
		}
		cells[i] = []string{p.Attack, at, fmt.Sprintf("%.1f", p.Top1), fmt.Sprintf("%.1f", p.Top5)}
	}
	fmt.Fprintln(e.stdout)
	return writeTable(e.stdout, []string{"attack", ">" + curve, ">top-1", ">top-5"}, cells)
}

func attackCells(rows []attacked) [][]string {
	cells := make([][]string, len(rows))
	for i, r := range rows {
		cells[i] = []string{
			r.Attack, epsText(r.Eps), fmt.Sprint(r.Images), fmt.Sprintf("%.1f", r.Clean1), fmt.Sprintf("%.1f", r.Clean5), fmt.Sprintf("%.1f", r.Top1),
			fmt.Sprintf("%.1f", r.Top5), fmt.Sprintf("%.1f %%", r.Success), fmt.Sprintf("%.1f", r.Queries), fmt.Sprintf("%.2f", 255*r.Linf), fmt.Sprintf("%.2f", r.L2), secondsText(r.Seconds),
		}
	}
	return cells
}

// epsText is a radius as people write it: in 255ths where it is small and no short decimal.
func epsText(eps float64) string {
	if math.Round(eps*1000) == eps*1000 {
		return strconv.FormatFloat(eps, 'g', -1, 64)
	}
	if n := eps * 255; eps < .2 && math.Abs(n*16-math.Round(n*16)) < 1e-6 {
		return strconv.FormatFloat(math.Round(n*16)/16, 'g', -1, 64) + "/255"
	}
	return strconv.FormatFloat(eps, 'g', 4, 64)
}
