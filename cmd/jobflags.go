package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mp/job"
)

// jobFlags are the flags of a verb that starts a run: one for each of job.Options, the job file, and two short ways to
// name a device. A flag (or its MP_* twin) stands above the job file, the job file above the recipe's defaults.
type jobFlags struct {
	command *cobra.Command
	given   job.Spec // what the flags say; only fields whose flag has changed count
	file    string
	gpu     int
	cpu     bool
}

// maxJobFile bounds a job file in bytes; a run's own is about 1 kB.
const maxJobFile = 1 << 20

// addJobFlags gives c the flags of a run. The defaults that the help shows are those of the default model and recipe.
func addJobFlags(c *cobra.Command) (*jobFlags, error) {
	defaults, err := job.Default(job.Spec{})
	if err != nil {
		return nil, err
	}
	j := &jobFlags{command: c}
	flags := c.Flags()
	flags.SortFlags = false
	for _, o := range job.Options() {
		if o.Hidden {
			continue
		}
		help := o.Help
		if o.Words != nil {
			help += ": " + strings.Join(o.Words, ", ")
		}
		f := flags.VarPF(&optionValue{option: o, spec: &j.given}, o.Name, o.Short, help)
		f.DefValue = o.Value(defaults)
		f.Annotations = map[string][]string{flagGroup: {strings.ToUpper(o.Group[:1]) + o.Group[1:] + ":"}}
		if _, isBool := o.Field(&j.given).(*bool); isBool {
			f.NoOptDefVal = "true"
		}
		if o.Words != nil {
			if err := c.RegisterFlagCompletionFunc(o.Name, cobra.FixedCompletions(o.Words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
				return nil, fmt.Errorf("register completion of --%s: %w", o.Name, err)
			}
		}
	}
	flags.IntVar(&j.gpu, "gpu", 0, "train on this GPU, counted from 0: short for --device")
	flags.BoolVar(&j.cpu, "cpu", false, "train on the CPU: short for --device cpu")
	flags.StringVar(&j.file, "job", "", "YAML file of these options, without dashes in front; a run's job.yaml is one; empty: none")
	return j, nil
}

// resolve returns the run that the flags, the job file and, below both, base describe; data is the argument DATA, or
// empty when the job file names it. The run is valid.
func (j *jobFlags) resolve(data string, base ...job.Layer) (job.Spec, error) {
	layers, err := j.layers(data, base)
	if err != nil {
		return job.Spec{}, err
	}
	s, err := job.Resolve(layers...)
	if err != nil {
		return job.Spec{}, err
	}
	return s, s.Validate()
}

// layers are what resolve lays over the recipe's defaults.
func (j *jobFlags) layers(data string, base []job.Layer) ([]job.Layer, error) {
	layers := slices.Clone(base)
	if j.file != "" {
		content, err := readJobFile(j.file)
		if err != nil {
			return nil, err
		}
		layers = append(layers, job.File(j.file, content))
	}
	return append(layers, j.flags(data)), nil
}

// said is what is named above the recipe's defaults, and zero where nothing is.
func (j *jobFlags) said(base ...job.Layer) (said job.Spec, err error) {
	layers, err := j.layers("", base)
	for _, lay := range layers {
		if err == nil {
			err = lay(&said)
		}
	}
	return said, err
}

// flags is the layer of what the command line and the environment say.
func (j *jobFlags) flags(data string) job.Layer {
	return func(s *job.Spec) error {
		changed := j.command.Flags().Changed
		for _, o := range job.Options() {
			if o.Hidden || !changed(o.Name) {
				continue
			}
			if err := o.Set(s, o.Value(j.given)); err != nil {
				return fmt.Errorf("%w: --%w", job.ErrConfig, err)
			}
		}
		if data != "" {
			s.Data = data
		}
		var devices []string
		if changed("device") {
			devices = append(devices, "--device "+j.given.Device)
		}
		if changed("gpu") {
			devices = append(devices, fmt.Sprintf("--gpu %d", j.gpu))
			s.Device = strconv.Itoa(j.gpu)
		}
		if changed("cpu") && j.cpu {
			devices = append(devices, "--cpu")
			s.Device = job.DeviceCPU
		}
		if len(devices) > 1 {
			return fmt.Errorf("%w: %s contradict each other: give one of them", job.ErrConfig, strings.Join(devices, " and "))
		}
		return nil
	}
}

// readJobFile returns the content of a job file.
func readJobFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: no job file %s: give --job the path of a YAML file", job.ErrConfig, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read job file: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxJobFile+1))
	if err != nil {
		return nil, fmt.Errorf("read job file: %w", err)
	}
	if len(content) > maxJobFile {
		return nil, fmt.Errorf("%w: job file %s is larger than %d bytes: it is something else", job.ErrConfig, path, maxJobFile)
	}
	return content, nil
}

// optionValue is one option of a run as a flag.
type optionValue struct {
	option job.Option
	spec   *job.Spec
}

func (v *optionValue) Set(text string) error { return v.option.Set(v.spec, text) }
func (v *optionValue) String() string        { return v.option.Value(*v.spec) }

// Type is the word that stands for a value in the help; "bool" lets pflag leave it out.
func (v *optionValue) Type() string {
	switch v.option.Field(v.spec).(type) {
	case *bool:
		return "bool"
	case *float64:
		return "float"
	case *string:
		return "word"
	}
	return "int"
}
