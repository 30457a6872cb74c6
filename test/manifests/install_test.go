package manifests

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

// installation is what docs/install.md has people do, on a real API server and with the program and an Envoy as
// processes in place of Pods.
type installation struct {
	*testing.T
	server  *kubetest.APIServer
	objects []*unstructured.Unstructured
	dir     string
	program string
}

// TestInstalled: with the command line of the Deployment, the permissions of its ServiceAccount and the Secrets
// of certgen the program becomes ready, and an Envoy with the example's bootstrap gets the example's Gateway.
func TestInstalled(t *testing.T) {
	envoyPath, err := demo.FindEnvoy()
	if err != nil {
		t.Skip(err)
	}
	i := &installation{T: t, server: kubetest.Shared(t), dir: t.TempDir()}
	i.program = filepath.Join(i.dir, "controlplane")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", i.program, "../../cmd/controlplane").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ports := i.freePorts(5)
	xds, monitor, admin, envoyAdmin, listener := ports[0], ports[1], ports[2], ports[3], ports[4]
	for _, folder := range []string{"base", "examples/envoy"} {
		for _, object := range render(t, i.server, filepath.Join(root, folder)) {
			if object.GetKind() == "Gateway" { // for port 80 one would have to be root
				object.SetAnnotations(map[string]string{"evenkeel.io/bind-address": "127.0.0.1"})
				gateway := object.Object["spec"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
				gateway["port"] = int64(listener)
			}
			i.objects = append(i.objects, object)
			if _, err := i.server.ApplyObject(t.Context(), "", object, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	secrets, err := exec.CommandContext(t.Context(), i.program, "certgen", "--dir", filepath.Join(i.dir, "pki"), "--fleet", "shop/edge", "--secrets").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := i.server.Apply(t.Context(), "", string(secrets)); err != nil {
		t.Fatal(err)
	}

	controlplane := i.pod("evenkeel-controlplane")
	mounted := i.mount(controlplane)
	var args []string
	for _, arg := range controlplane.Spec.Template.Spec.Containers[0].Args {
		args = append(args, strings.NewReplacer(append(mounted, "[$(POD_IP)]:18000", fmt.Sprintf("[127.0.0.1]:%d", xds), "=:18000", fmt.Sprintf("=127.0.0.1:%d", xds), "=:19001", fmt.Sprintf("=127.0.0.1:%d", monitor))...).Replace(arg))
	}
	i.start("controlplane", i.program, append(args, fmt.Sprintf("--admin-address=127.0.0.1:%d", admin), "--kubeconfig="+i.kubeconfig(), "--lease-namespace=evenkeel-system")...)
	i.eventually(fmt.Sprintf("http://127.0.0.1:%d/readyz", monitor), http.StatusOK)

	envoy := i.pod("envoy-edge")
	mounted = append(i.mount(envoy),
		"address: evenkeel.evenkeel-system.svc\n", "address: 127.0.0.1\n", "port_value: 18000", fmt.Sprintf("port_value: %d", xds),
		"port_value: 9901", fmt.Sprintf("port_value: %d", envoyAdmin))
	config := mounted[1]
	for _, name := range []string{"envoy.yaml", "sds-certificate.yaml", "sds-authority.yaml"} {
		i.rewrite(filepath.Join(config, name), mounted)
	}
	args = nil
	for _, arg := range envoy.Spec.Template.Spec.Containers[0].Args {
		args = append(args, strings.NewReplacer(append(mounted, "$(POD_NAME)", "envoy-edge-1")...).Replace(arg))
	}
	i.start("envoy", envoyPath, args...)
	i.eventually(fmt.Sprintf("http://127.0.0.1:%d/ready", envoyAdmin), http.StatusOK)
	i.eventually(fmt.Sprintf("http://127.0.0.1:%d/", listener), http.StatusNotFound) // the Gateway has no route yet
}

func (i *installation) freePorts(n int) (ports []uint16) {
	i.Helper()
	for range n {
		port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			i.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}

// pod is the workload of a name.
func (i *installation) pod(name string) workload {
	i.Helper()
	for _, w := range workloads(i.T, i.objects) {
		if w.Name == name {
			return w
		}
	}
	i.Fatalf("there is no %s", name)
	return workload{}
}

// mount makes folders of the volumes of a workload's first container. It returns pairs of where a volume is
// mounted and which folder that is here, in the order of the mounts.
func (i *installation) mount(w workload) (pairs []string) {
	i.Helper()
	client := clientFor(i.T, i.server).CoreV1()
	for _, m := range w.Spec.Template.Spec.Containers[0].VolumeMounts {
		folder := filepath.Join(i.dir, w.Name, m.Name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			i.Fatal(err)
		}
		pairs = append(pairs, m.MountPath, folder)
		files := map[string][]byte{}
		for _, v := range w.Spec.Template.Spec.Volumes {
			switch {
			case v.Name != m.Name:
			case v.Secret != nil:
				secret, err := client.Secrets(w.Namespace).Get(i.Context(), v.Secret.SecretName, metav1.GetOptions{})
				if err != nil {
					i.Fatal(err)
				}
				files = secret.Data
			case v.ConfigMap != nil:
				config, err := client.ConfigMaps(w.Namespace).Get(i.Context(), v.ConfigMap.Name, metav1.GetOptions{})
				if err != nil {
					i.Fatal(err)
				}
				for name, text := range config.Data {
					files[name] = []byte(text)
				}
			}
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
				i.Fatal(err)
			}
		}
	}
	return pairs
}

func (i *installation) rewrite(file string, pairs []string) {
	i.Helper()
	content, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.NewReplacer(pairs...).Replace(string(content))), 0o600)
	}
	if err != nil {
		i.Fatal(err)
	}
}

// kubeconfig is that of the control plane's ServiceAccount.
func (i *installation) kubeconfig() string {
	i.Helper()
	token, err := clientFor(i.T, i.server).CoreV1().ServiceAccounts("evenkeel-system").
		CreateToken(i.Context(), "evenkeel-controlplane", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		i.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(i.server.Kubeconfig())
	if err != nil {
		i.Fatal(err)
	}
	config.AuthInfos = map[string]*api.AuthInfo{config.Contexts[config.CurrentContext].AuthInfo: {Token: token.Status.Token}}
	file := filepath.Join(i.dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		i.Fatal(err)
	}
	return file
}

func (i *installation) start(name, program string, args ...string) {
	i.Helper()
	process, err := demo.StartProcess(name, i.dir, nil, append([]string{program}, args...)...)
	if err != nil {
		i.Fatal(err)
	}
	i.Cleanup(func() {
		process.Kill()
		if log, err := os.ReadFile(process.LogFile()); i.Failed() && err == nil {
			i.Logf("%s: %s", name, log[max(0, len(log)-4000):])
		}
	})
}

// eventually waits until a URL answers with a status.
func (i *installation) eventually(url string, status int) {
	i.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	var last any
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		response, err := client.Get(url)
		if err != nil {
			last = err
			continue
		}
		response.Body.Close()
		if last = response.Status; response.StatusCode == status {
			return
		}
	}
	i.Fatalf("%s: %v", url, last)
}
