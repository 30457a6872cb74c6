package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// plane is the program, running.
type plane struct {
	process *demo.Process
	xds     string        // address
	ready   time.Duration // from its start until it was
}

func build(ctx context.Context, dir string) (string, error) {
	progress("building the program")
	program := filepath.Join(dir, "controlplane")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "evenkeel.io/controlplane/cmd/controlplane").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return program, nil
}

func startPlane(ctx context.Context, program, dir string, c *cluster) (*plane, error) {
	loopback := netip.MustParseAddr("127.0.0.1")
	xds, err := demo.FreePort(0, loopback)
	if err != nil {
		return nil, err
	}
	admin, err := demo.FreePort(0, loopback)
	if err != nil {
		return nil, err
	}
	p := &plane{xds: fmt.Sprintf("127.0.0.1:%d", xds)}
	began := time.Now()
	p.process, err = demo.StartProcess("controlplane", dir, nil, program, "serve", "--kubeconfig", c.server.Kubeconfig(),
		"--xds-address", p.xds, "--admin-address", fmt.Sprintf("127.0.0.1:%d", admin), "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/readyz", admin)
	for {
		if response, err := http.Get(url); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				p.ready = time.Since(began)
				return p, nil
			}
		}
		select {
		case <-p.process.Done():
			return nil, p.process.Failure()
		case <-ctx.Done():
			p.stop()
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (p *plane) stop() { p.process.Stop(10 * time.Second) }

// rss is the memory the process has now, and the most it ever had, in megabytes.
func (p *plane) rss() (now, peak float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.process.PID()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch kb, _ := strconv.ParseFloat(fields[1], 64); fields[0] {
		case "VmRSS:":
			now = kb / 1000 * 1.024
		case "VmHWM:":
			peak = kb / 1000 * 1.024
		}
	}
	return now, peak, nil
}

// cpu is the CPU time that the process has used.
func (p *plane) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.process.PID()))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	const utime, stime, ticks = 11, 12, 100 // of a second, on every Linux
	user, _ := strconv.Atoi(fields[utime])
	system, _ := strconv.Atoi(fields[stime])
	return time.Duration(user+system) * time.Second / ticks, nil
}
