package kubetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"

	"evenkeel.io/controlplane/internal/demo"
)

// ErrNotInstalled says that the programs of an API server were not found.
var ErrNotInstalled = errors.New("no etcd and kube-apiserver: hack/tools.sh kube builds them")

// Options say where an API server lives.
type Options struct {
	// Dir holds its data, credentials, logs and kubeconfig.
	Dir string
	// Port it listens on, on 127.0.0.1, if it is free; 0 or a taken one: any.
	Port uint16
}

// APIServer is an etcd and a kube-apiserver on loopback. Start and Stop are called by one goroutine at a
// time; the configuration it gives is good for any number.
type APIServer struct {
	dir             string
	programs        struct{ etcd, apiserver string }
	ports           struct{ etcd, apiserver uint16 }
	config          *rest.Config
	etcd, apiserver *demo.Process // nil while stopped
	apply           applier
}

// New prepares an API server and starts nothing.
func New(o Options) (*APIServer, error) {
	s := &APIServer{dir: o.Dir}
	var err error
	if s.programs.etcd, err = demo.FindTool("etcd"); err != nil {
		return nil, ErrNotInstalled
	}
	if s.programs.apiserver, err = demo.FindTool("kube-apiserver"); err != nil {
		return nil, ErrNotInstalled
	}
	if s.ports.apiserver, err = demo.FreePort(o.Port, loopback); err != nil {
		return nil, err
	}
	if s.ports.etcd, err = demo.FreePort(0, loopback); err != nil {
		return nil, err
	}
	if err := s.writeCredentials(); err != nil {
		return nil, err
	}
	s.apply, err = newApplier(s.config)
	return s, err
}

var loopback = netip.MustParseAddr("127.0.0.1")

func (s *APIServer) path(name string) string { return filepath.Join(s.dir, name) }

// writeCredentials makes one self-signed certificate, whose key signs the tokens of service accounts as
// well, one administrator with a token, and the kubeconfig that holds them.
func (s *APIServer) writeCredentials() error {
	certificate, key, err := certutil.GenerateSelfSignedCertKey(loopback.String(), nil, nil)
	if err != nil {
		return fmt.Errorf("certificate of the API server: %w", err)
	}
	token := rand.Text()
	for name, content := range map[string]string{
		"tls.crt":    string(certificate),
		"tls.key":    string(key),
		"tokens.csv": token + ",administrator,administrator,system:masters\n",
	} {
		if err := os.WriteFile(s.path(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	kubeconfig := api.Config{
		CurrentContext: "test",
		Contexts:       map[string]*api.Context{"test": {Cluster: "test", AuthInfo: "administrator"}},
		AuthInfos:      map[string]*api.AuthInfo{"administrator": {Token: token}},
		Clusters: map[string]*api.Cluster{"test": {
			Server:                   fmt.Sprintf("https://%s:%d", loopback, s.ports.apiserver),
			CertificateAuthorityData: certificate,
		}},
	}
	if err := clientcmd.WriteToFile(kubeconfig, s.Kubeconfig()); err != nil {
		return err
	}
	s.config, err = clientcmd.NewDefaultClientConfig(kubeconfig, nil).ClientConfig()
	if err != nil {
		return err
	}
	s.config.QPS = -1 // a test is no tenant to be held back
	s.config.WarningHandler = rest.NoWarnings{}
	return nil
}

// Config is a client configuration for an administrator. Each call gives a copy.
func (s *APIServer) Config() *rest.Config { return rest.CopyConfig(s.config) }

// Kubeconfig is the path of a file with the same.
func (s *APIServer) Kubeconfig() string { return s.path("kubeconfig") }

// Start starts etcd and the API server, with the data they had when they were stopped, and waits until
// the API server is ready. If it fails, nothing runs.
func (s *APIServer) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	etcdURL := fmt.Sprintf("http://%s:%d", loopback, s.ports.etcd)
	s.etcd, err = demo.StartProcess("etcd", s.dir, nil, s.programs.etcd,
		"--data-dir", s.path("etcd"),
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:0",
		"--unsafe-no-fsync", "--log-level", "warn")
	if err != nil {
		return err
	}
	s.apiserver, err = demo.StartProcess("kube-apiserver", s.dir, nil, s.programs.apiserver,
		"--etcd-servers", etcdURL,
		"--bind-address", loopback.String(), "--secure-port", fmt.Sprint(s.ports.apiserver),
		"--tls-cert-file", s.path("tls.crt"), "--tls-private-key-file", s.path("tls.key"),
		"--token-auth-file", s.path("tokens.csv"), "--authorization-mode", "RBAC",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", s.path("tls.key"), "--service-account-signing-key-file", s.path("tls.key"),
		// It would wait for service accounts that no controller makes.
		"--disable-admission-plugins", "ServiceAccount",
		"--service-cluster-ip-range", "10.96.0.0/16",
		// The Service kubernetes gets no endpoints: the address to put there would have to be found.
		"--endpoint-reconciler-type", "none", "--advertise-address", "10.255.255.254")
	if err != nil {
		return err
	}
	return s.waitReady(ctx)
}

func (s *APIServer) waitReady(ctx context.Context) error {
	client, err := rest.HTTPClientFor(s.config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	for {
		err := ready(ctx, client, s.config.Host+"/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-s.etcd.Done():
			return s.etcd.Failure()
		case <-s.apiserver.Done():
			return s.apiserver.Failure()
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready: %w (its log: %s)", err, s.apiserver.LogFile())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ready(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	const maxBody = 16 << 10
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

// Stop ends the API server and etcd without warning, as a machine does that loses its power. What was
// written stays for the next Start, which listens on the same port.
func (s *APIServer) Stop() {
	for _, process := range []**demo.Process{&s.apiserver, &s.etcd} {
		if *process != nil {
			(*process).Kill()
			*process = nil
		}
	}
}

// Close stops the API server and removes its data.
func (s *APIServer) Close() {
	s.Stop()
	_ = os.RemoveAll(s.dir)
}
