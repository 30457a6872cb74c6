package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// ErrNoEnvoy says that no Envoy binary was found.
var ErrNoEnvoy = errors.New("no Envoy found: set ENVOY to the binary, put one on PATH, or run `hack/tools.sh envoy`")

// FindEnvoy returns the path of an Envoy binary: $ENVOY, else .tools/bin/envoy here or in a folder above,
// else the one on PATH.
func FindEnvoy() (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("ENVOY=%s: %w", path, err)
		}
		return found, nil
	}
	path, err := FindTool("envoy")
	if err != nil {
		return "", ErrNoEnvoy
	}
	return path, nil
}

// EnvoyOptions say how to run an Envoy.
type EnvoyOptions struct {
	// Path of the binary.
	Path string
	// Name of the process and its files in Dir.
	Name, Dir string
	// Bootstrap configuration, YAML or JSON.
	Bootstrap []byte
	// AdminURL of the admin port that the bootstrap opens, without a slash at the end.
	AdminURL string
	// Concurrency is the number of worker threads. 0: 2.
	Concurrency int
}

// Envoy is a running Envoy.
type Envoy struct {
	*Process
	adminURL string
}

// StartEnvoy starts an Envoy and returns at once; see WaitReady.
func StartEnvoy(o EnvoyOptions) (*Envoy, error) {
	config := filepath.Join(o.Dir, o.Name+".yaml")
	if err := os.WriteFile(config, o.Bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("%s: bootstrap: %w", o.Name, err)
	}
	concurrency := o.Concurrency
	if concurrency == 0 {
		concurrency = 2
	}
	process, err := StartProcess(o.Name, o.Dir, nil, o.Path,
		"--config-path", config, "--concurrency", strconv.Itoa(concurrency),
		"--disable-hot-restart", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	return &Envoy{Process: process, adminURL: o.AdminURL}, nil
}

// AdminURL is the admin port, without a slash at the end.
func (e *Envoy) AdminURL() string { return e.adminURL }

// WaitReady waits until Envoy is LIVE. It fails if Envoy ends or the context does.
func (e *Envoy) WaitReady(ctx context.Context) error {
	return WaitHTTP(ctx, e.Process, e.adminURL+"/ready")
}

// WaitHTTP asks for the URL until it answers 200. It fails if the process ends or the context does.
func WaitHTTP(ctx context.Context, p *Process, url string) error {
	for {
		_, err := get(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return p.Failure()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its last output, from %s:\n%s", p.name, err, p.log, p.tail(12))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// EnvoyHost is one host of a cluster as Envoy's admin port shows it.
type EnvoyHost struct {
	Cluster string
	Address string // "127.0.0.1:8080"
	Weight  uint64
	// Requests that were sent to the host since it was added.
	Requests uint64
	// InFlight requests now.
	InFlight uint64
}

// Hosts returns the hosts of all clusters.
func (e *Envoy) Hosts(ctx context.Context) ([]EnvoyHost, error) { return EnvoyHosts(ctx, e.adminURL) }

// EnvoyHosts returns the hosts of all clusters of the Envoy with this admin port.
func EnvoyHosts(ctx context.Context, adminURL string) ([]EnvoyHost, error) {
	body, err := get(ctx, adminURL+"/clusters?format=json")
	if err != nil {
		return nil, err
	}
	return parseHosts(body)
}

func parseHosts(body []byte) ([]EnvoyHost, error) {
	var page struct {
		Clusters []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
				Weight uint64 `json:"weight"`
				Stats  []struct {
					Name  string      `json:"name"`
					Value json.Number `json:"value"`
				} `json:"stats"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("envoy /clusters: %w", err)
	}
	var hosts []EnvoyHost
	for _, cluster := range page.Clusters {
		for _, h := range cluster.Hosts {
			host := EnvoyHost{Cluster: cluster.Name, Weight: h.Weight}
			host.Address = fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port)
			for _, stat := range h.Stats {
				value, _ := strconv.ParseUint(stat.Value.String(), 10, 64)
				switch stat.Name {
				case "rq_total":
					host.Requests = value
				case "rq_active":
					host.InFlight = value
				}
			}
			hosts = append(hosts, host)
		}
	}
	return hosts, nil
}

// Stats returns the counters and gauges whose names match the RE2 expression.
func (e *Envoy) Stats(ctx context.Context, filter string) (map[string]uint64, error) {
	body, err := get(ctx, e.adminURL+"/stats?format=json&filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, err
	}
	var page struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("envoy /stats: %w", err)
	}
	stats := make(map[string]uint64, len(page.Stats))
	for _, s := range page.Stats {
		if value, err := strconv.ParseUint(string(s.Value), 10, 64); err == nil {
			stats[s.Name] = value
		}
	}
	return stats, nil
}

// maxAdminPage bounds what is read of an admin page.
const maxAdminPage = 64 << 20

// GetJSON reads a JSON document from the URL into the value.
func GetJSON(ctx context.Context, url string, into any) error {
	body, err := get(ctx, url)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	// One connection per request: nothing stays open when the rig is taken down.
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAdminPage))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return body, nil
}
