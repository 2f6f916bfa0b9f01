package kubetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ContainWord is the first argument by which a program that calls Contain is told to become a container.
const ContainWord = "contain"

// container is one program on an image's root.
type container struct {
	Image    string // folder with the image's root
	Scratch  string // empty folder of its own, where the root is put together
	Hostname string
	Args     []string // the program's path in the image, then its arguments
	Env      []string // all of it
	Mounts   []mount
	User     int // and group
}

// mount is a folder or file that a container sees.
type mount struct {
	Source, Target string
	ReadOnly       bool
}

// process is a running container.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	code int           // of its end, as containers have them: 128 and the signal for a signal
}

// signal sends one.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // it may have ended

// start runs the container; everything that it says goes to out. The process is its own in every respect but the network.
func (c container) start(out io.Writer) (*process, error) {
	spec, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, ContainWord)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(string(spec)), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL, Setpgid: true,
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() { // Linux takes the end of the thread that started a child for its parent's death
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the state says it
		if w, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			p.code = 128 + int(w.Signal())
		} else {
			p.code = cmd.ProcessState.ExitCode()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Hostname, err)
	}
	return p, nil
}

// Contain is the container's side of start: it never returns. The caller is a process that was started with ContainWord.
func Contain() {
	var c container
	err := json.NewDecoder(os.Stdin).Decode(&c)
	if err == nil {
		err = c.become()
	}
	fmt.Fprintf(os.Stderr, "kubetest: %s does not start: %v\n", c.Hostname, err)
	os.Exit(128)
}

// become puts the root together, goes into it for good, gives up every right, and runs the program in this process.
func (c container) become() error {
	runtime.LockOSThread()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the node's mounts: %w", err)
	}
	if err := unix.Mount("root", c.Scratch, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount a root: %w", err)
	}
	if err := c.layImage(); err != nil {
		return err
	}
	if err := c.layDevices(); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if err := c.bind(m); err != nil {
			return err
		}
	}
	if err := unix.Mount("", c.Scratch, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return err
	}
	if err := unix.Chroot(c.Scratch); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	if err := unix.Dup2(int(null.Fd()), 0); err != nil {
		return err
	}
	if err := errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), syscall.Setgroups(nil), syscall.Setresgid(c.User, c.User, c.User), syscall.Setresuid(c.User, c.User, c.User)); err != nil {
		return fmt.Errorf("become user %d: %w", c.User, err)
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil { // which a change of user forgets
		return err
	}
	return syscall.Exec(c.Args[0], c.Args, c.Env)
}

// layImage shows the image's folders in the root. /etc is copied, since files are put there.
func (c container) layImage() error {
	entries, err := os.ReadDir(c.Image)
	if err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	for _, e := range entries {
		source, target := filepath.Join(c.Image, e.Name()), filepath.Join(c.Scratch, e.Name())
		switch {
		case slices.Contains([]string{"dev", "proc", "sys", "tmp"}, e.Name()):
			err = os.Mkdir(target, 0o755)
		case e.Name() == "etc":
			err = os.CopyFS(target, os.DirFS(source))
		case e.IsDir():
			if err = os.Mkdir(target, 0o755); err == nil {
				err = c.bind(mount{Source: source, Target: "/" + e.Name(), ReadOnly: true})
			}
		default:
			continue // the images of mp have folders only
		}
		if err != nil {
			return fmt.Errorf("lay /%s of the image: %w", e.Name(), err)
		}
	}
	return nil
}

// layDevices mounts what every container has.
func (c container) layDevices() error {
	if err := unix.Mount("proc", filepath.Join(c.Scratch, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, name := range []string{"null", "zero", "random", "urandom"} {
		path := filepath.Join("/dev", name)
		if err := c.bind(mount{Source: path, Target: path}); err != nil {
			return err
		}
	}
	return nil
}

// bind mounts a source of the node's at a target of the container's.
func (c container) bind(m mount) error {
	target := filepath.Join(c.Scratch, m.Target)
	info, err := os.Stat(m.Source)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Source, m.Target, err)
	}
	if m.ReadOnly {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount %s read-only: %w", m.Target, err)
		}
	}
	return nil
}
