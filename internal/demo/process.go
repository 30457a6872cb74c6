package demo

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// FindTool returns the path of a program that hack/tools.sh installs: the one in .tools/bin here or in a
// folder above, else the one on PATH.
func FindTool(name string) (string, error) {
	if dir, err := os.Getwd(); err == nil {
		for {
			if found, err := exec.LookPath(filepath.Join(dir, ".tools", "bin", name)); err == nil {
				return found, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return exec.LookPath(name)
}

// Process is a child process whose output goes to a file.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// StartProcess starts argv[0] with the rest as arguments and the environment env, nil for our own. Its
// output goes to <name>.log in dir. Where the system can see to it, the child ends with us even if we are
// killed.
func StartProcess(name, dir string, env []string, argv ...string) (*Process, error) {
	p := &Process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	output, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("%s: log file: %w", name, err)
	}
	defer output.Close() // the child has its own descriptor
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = childAttributes()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in cmd.ProcessState
	}()
	return p, nil
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// LogFile is where the child's output goes.
func (p *Process) LogFile() string { return p.log }

// Failure describes a child that has ended without being asked to, with the last lines of its output.
func (p *Process) Failure() error {
	<-p.done
	return fmt.Errorf("%s ended by itself (%v); its last output, from %s:\n%s", p.name, p.cmd.ProcessState, p.log, p.tail(12))
}

func (p *Process) tail(lines int) string {
	output, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimRight(output, "\n")), "\n")
	return "    " + strings.Join(all[max(0, len(all)-lines):], "\n    ")
}

// Stop asks the child to end, kills it if it has not after the grace period, and waits for its end.
func (p *Process) Stop(grace time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return
	case <-time.After(grace):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Kill ends the child without warning and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}
