package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mp/data"
)

// torchVersion is the libtorch that mp is built for and measured with.
const torchVersion = "2.11.0"

// Sizes in bytes below which the doctor speaks up. A pack of the whole of MiniPlaces has 4.9 GB.
const (
	littleMemory = 4 << 30
	littleDisk   = 8 << 30
)

func (m machine) read(path string) string {
	text, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		return ""
	}
	return string(text)
}

// checkMachine looks at processor, memory and disk.
func (m machine) checkMachine() []finding {
	model, flags := cpuinfo(m.read("proc/cpuinfo"))
	cores := fmt.Sprintf("%d cores", runtime.NumCPU())
	if usable := runtime.GOMAXPROCS(0); usable < runtime.NumCPU() {
		cores += fmt.Sprintf(", %d usable", usable)
	}
	all := []finding{{Name: "processor", Mark: markOK, Found: model + ", " + cores}}

	var fast []string
	for _, f := range []string{"avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"} {
		if slices.Contains(flags, f) {
			fast = append(fast, f)
		}
	}
	features := finding{Name: "instructions", Mark: markOK, Found: strings.Join(fast, " ")}
	switch {
	case !slices.Contains(flags, "avx2"):
		features.Mark, features.Found = markNote, strings.TrimSpace(features.Found+" no avx2")
		features.Advice = "expect training on this processor to be several times slower than on one with avx2"
	case !slices.Contains(flags, "avx512_bf16") && !slices.Contains(flags, "amx_bf16"):
		features.Found += "; none for bf16, which libtorch then computes by avx2"
	}
	all = append(all, features)

	total, free := m.memory()
	memory := finding{Name: "memory", Mark: markOK, Found: fmt.Sprintf("%s free of %s", gibibytes(free), gibibytes(total))}
	if free < littleMemory {
		memory.Mark, memory.Advice = markNote, "training may need more: lower --batch-size, and see `mp train DATA --dry-run` for the estimate"
	}
	all = append(all, memory)

	var fs unix.Statfs_t
	disk := finding{Name: "disk", Mark: markNote, Found: "unknown"}
	if err := unix.Statfs(m.dir, &fs); err == nil {
		space := fs.Bavail * uint64(fs.Bsize)
		disk = finding{Name: "disk", Mark: markOK, Found: fmt.Sprintf("%s free in %s", gibibytes(space), m.dir)}
		if space < littleDisk {
			disk.Mark, disk.Advice = markNote, "the images and the pack of the whole of MiniPlaces need 8 GiB: free some space, or keep them elsewhere"
		}
	}
	return append(all, disk)
}

// cpuinfo returns the name of the first processor and its feature flags.
func cpuinfo(text string) (model string, flags []string) {
	model = runtime.GOARCH
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "model name":
			model = value
		case "flags":
			return model, strings.Fields(value)
		}
	}
	return model, nil
}

// memory returns this process's memory and how much of it is free, in bytes: the machine's, or the limit of the
// process's control group where that is lower.
func (m machine) memory() (total, free uint64) {
	for line := range strings.Lines(m.read("proc/meminfo")) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseUint(f[1], 10, 64)
		switch {
		case err != nil:
		case f[0] == "MemTotal:":
			total = kib << 10
		case f[0] == "MemAvailable:":
			free = kib << 10
		}
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(m.read("sys/fs/cgroup/memory.max")), 10, 64)
	if err == nil && limit < total {
		used, err := strconv.ParseUint(strings.TrimSpace(m.read("sys/fs/cgroup/memory.current")), 10, 64)
		if err == nil && used <= limit {
			total, free = limit, min(free, limit-used)
		}
	}
	return total, free
}

// library looks for a shared library: first among those in use, then where they are built.
func (m machine) library(file, advice string) finding {
	for line := range strings.Lines(m.read("proc/self/maps")) {
		if f := strings.Fields(line); len(f) == 6 && strings.HasPrefix(filepath.Base(f[5]), file) {
			return finding{Name: file, Mark: markOK, Found: f[5] + ", in use"}
		}
	}
	for _, folder := range m.libraryFolders() {
		if path := filepath.Join(folder, file); isRegular(path) {
			return finding{Name: file, Mark: markOK, Found: path}
		}
	}
	return finding{Name: file, Mark: markMissing, Found: "not found", Advice: advice}
}

// libraryFolders are the places where make puts libraries, and the one the user names.
func (m machine) libraryFolders() []string {
	var folders []string
	if m.torch != "" {
		folders = append(folders, filepath.Join(m.torch, "lib"))
	}
	for _, base := range []string{m.program, m.dir} {
		if base != "" {
			folders = append(folders, filepath.Join(base, "build/lib"), filepath.Join(base, "build/site/torch/lib"))
		}
	}
	return folders
}

// checkLibraries looks for libtorch, our C++ and libjpeg.
func (m machine) checkLibraries() []finding {
	torch := m.library("libtorch_cpu.so", "run `make`, which fetches it, or name an installed torch "+torchVersion+" by LIBTORCH=DIR")
	torch.Name = "libtorch"
	if torch.Mark == markOK {
		path := strings.TrimSuffix(torch.Found, ", in use")
		version := torchVersionIn(filepath.Dir(filepath.Dir(path)))
		torch.Found = strings.TrimSpace(version + " in " + torch.Found)
		switch {
		case version == "":
			torch.Found, torch.Mark, torch.Advice = "unknown version "+torch.Found, markNote, "mp is measured with "+torchVersion
		case version != torchVersion && !strings.HasPrefix(version, torchVersion+"+"):
			torch.Mark, torch.Advice = markMissing, "mp needs "+torchVersion+": run `make`"
		}
	}
	all := []finding{torch}
	for _, file := range []string{"libcgotorch.so", "libmpops.so", "libmppixel.so"} {
		all = append(all, m.library(file, "run `make`"))
	}
	jpeg := m.library("libjpeg.so", "")
	if jpeg.Mark == markMissing {
		for _, pattern := range []string{"usr/lib/*/libjpeg.so*", "usr/lib/libjpeg.so*", "usr/lib64/libjpeg.so*", "usr/local/lib/libjpeg.so*"} {
			if found, err := filepath.Glob(filepath.Join(m.root, pattern)); err == nil && len(found) > 0 {
				jpeg.Mark, jpeg.Found = markOK, found[0]
				break
			}
		}
	}
	jpeg.Name = "libjpeg"
	if jpeg.Mark == markMissing {
		jpeg.Advice = "apt-get install libjpeg-dev"
	}
	return append(all, jpeg)
}

// torchVersionIn reads the version of the torch whose folder is given; empty when it does not say.
func torchVersionIn(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "version.py"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if version, ok := strings.CutPrefix(line, "__version__ = "); ok {
			return strings.Trim(strings.TrimSpace(version), `'"`)
		}
	}
	return ""
}

// checkTools looks for what make needs; a built mp runs without.
func (m machine) checkTools() []finding {
	var all []finding
	for _, t := range []struct{ program, advice string }{
		{"go", "install Go 1.26 from https://go.dev/dl"},
		{"g++", "apt-get install g++"},
		{"python3", "apt-get install python3 python3-pip; it fetches libtorch and never runs mp"},
		{"make", "apt-get install make"},
	} {
		f := finding{Name: t.program, Mark: markOK}
		var err error
		if f.Found, err = m.find(t.program); err != nil {
			f.Mark, f.Found, f.Advice = markNote, "not found", "to build mp again, "+t.advice
		}
		all = append(all, f)
	}
	return all
}

// checkData looks for a MiniPlaces root and for packs.
func (m machine) checkData() []finding {
	places := []string{m.data}
	if m.data == "" {
		places = []string{m.dir, filepath.Join(m.dir, "data"), filepath.Join(m.dir, "data/miniplaces"), filepath.Join(m.dir, "miniplaces"),
			filepath.Join(m.dir, "../data"), filepath.Join(m.dir, "../miniplaces"), filepath.Join(m.dir, "../shared/data/miniplaces-mini")}
		if m.home != "" {
			places = append(places, filepath.Join(m.home, "miniplaces"), filepath.Join(m.home, "data/miniplaces"))
		}
	}
	var all []finding
	for _, place := range places {
		root, err := data.OpenRoot(place)
		if err == nil {
			all = append(all, describeRoot(root))
		}
		packs, err := filepath.Glob(filepath.Join(place, "*.pack"))
		if err != nil {
			continue
		}
		for _, path := range packs {
			all = append(all, describePack(path))
		}
	}
	if len(all) == 0 {
		all = []finding{{Name: "MiniPlaces", Mark: markMissing, Found: "not found in " + strings.Join(places[:min(2, len(places))], ", "),
			Advice: "fetch it with `mp data fetch DIR`, or make a stand-in with `mp data synth DIR`; --data DIR looks elsewhere"}}
	}
	return all
}

// describeRoot counts what a MiniPlaces root lists.
func describeRoot(root *data.Root) finding {
	f := finding{Name: "MiniPlaces", Mark: markOK, Found: root.Dir()}
	counts := []string{fmt.Sprintf("%d classes", len(root.Classes()))}
	for _, split := range root.Splits() {
		entries, err := root.Entries(split)
		switch {
		case err == nil:
			counts = append(counts, fmt.Sprintf("%d %s", len(entries), split))
		case f.Mark == markOK:
			f.Mark, f.Advice = markMissing, err.Error()
		}
	}
	f.Found += ": " + strings.Join(counts, ", ")
	return f
}

// describePack says what a pack holds, without reading its images.
func describePack(path string) finding {
	f := finding{Name: "pack", Mark: markOK, Found: path}
	pack, err := data.OpenPack(path)
	if err != nil {
		f.Mark, f.Advice = markMissing, err.Error()
		return f
	}
	defer pack.Close()
	f.Found += fmt.Sprintf(": %d classes, %d %s", len(pack.Classes()), pack.Len(), pack.Split())
	return f
}

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func gibibytes(n uint64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }
