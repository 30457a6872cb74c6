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
	admin   string        // URL
	ready   time.Duration // from its start until it was
}

// build builds the program like the one in the image, but for the symbols that a profile names.
func build(ctx context.Context, dir string) (string, error) {
	progress("building the program")
	program := filepath.Join(dir, "controlplane")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace", "-o", program, "evenkeel.io/controlplane/cmd/controlplane")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return program, nil
}

// startPlane starts the program with what env adds to our environment, and returns when it is ready.
func startPlane(ctx context.Context, program, dir, kubeconfig string, env ...string) (*plane, error) {
	loopback := netip.MustParseAddr("127.0.0.1")
	xds, err := demo.FreePort(0, loopback)
	if err != nil {
		return nil, err
	}
	admin, err := demo.FreePort(0, loopback)
	if err != nil {
		return nil, err
	}
	p := &plane{xds: fmt.Sprintf("127.0.0.1:%d", xds), admin: fmt.Sprintf("http://127.0.0.1:%d", admin)}
	began := time.Now()
	p.process, err = demo.StartProcess("controlplane", dir, append(os.Environ(), env...), program, "serve", "--kubeconfig", kubeconfig,
		"--xds-address", p.xds, "--admin-address", fmt.Sprintf("127.0.0.1:%d", admin), "--rls-address", "", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	for {
		if response, err := http.Get(p.admin + "/readyz"); err == nil {
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

// settle waits until the program has written no status for some seconds, and returns how many it has written,
// and how long after the call the last of them.
func (p *plane) settle(ctx context.Context) (written float64, last time.Duration, err error) {
	const silence = 5 * time.Second
	for began := time.Now(); time.Since(began) < last+silence; {
		all, err := p.metrics(ctx)
		if err != nil {
			return 0, 0, err
		}
		now := 0.0
		for name, value := range all {
			if strings.HasPrefix(name, "evenkeel_status_writes_total{") {
				now += value
			}
		}
		if now > written {
			written, last = now, time.Since(began)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return 0, 0, err
		}
	}
	return written, last, nil
}

func (p *plane) stop() { p.process.Stop(10 * time.Second) }

// rss is the memory that the process has now, and the most it ever had, in megabytes; anonymous and file
// are the parts of now: what it allocated, and the pages of the program that it touched.
type rss struct{ now, peak, anonymous, file float64 }

func (p *plane) rss() (m rss, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.process.PID()))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(fields[1], 64)
		switch mb := kb * 1024 / 1e6; fields[0] {
		case "VmRSS:":
			m.now = mb
		case "VmHWM:":
			m.peak = mb
		case "RssAnon:":
			m.anonymous = mb
		case "RssFile:":
			m.file = mb
		}
	}
	return m, nil
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
