package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func TestMain(m *testing.M) {
	PrivateNetwork()
	goleak.VerifyTestMain(Main(m))
}

func clientFor(t *testing.T, s *APIServer) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestStoppedAndStartedAgain: a stopped API server refuses connections; the next start has its data, at
// the same address and with the same credentials.
func TestStoppedAndStartedAgain(t *testing.T) {
	server := Start(t)
	services := clientFor(t, server).CoreV1().Services("default")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := services.Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	if _, err := services.Get(t.Context(), "kept", metav1.GetOptions{}); err == nil {
		t.Fatal("a stopped API server answers")
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// TestStartThatCannot: what ended by itself is named with its last words, and nothing is left running.
func TestStartThatCannot(t *testing.T) {
	server, err := New(Options{Dir: t.TempDir()})
	need(t, err)
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", server.ports.etcd))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	err = server.Start(ctx)
	if err == nil || !strings.Contains(err.Error(), "etcd ended by itself") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("%v", err)
	}
	if server.etcd != nil || server.apiserver != nil {
		t.Error("something is left running")
	}
}

func TestNamespaceIsEmptiedWithItsTest(t *testing.T) {
	server := Shared(t)
	var namespace string
	t.Run("a Test, with: characters that names do not have and of a length that they do not have either", func(t *testing.T) {
		namespace = server.Namespace(t)
		if err := server.Apply(t.Context(), namespace, `
apiVersion: v1
kind: Service
metadata: {name: gone}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: gone}
spec: {}
`); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := clientFor(t, server).CoreV1().Services(namespace).Get(t.Context(), "gone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Service outlived its test: %v", err)
	}
}

func TestApplyIsStrict(t *testing.T) {
	server := Shared(t)
	namespace := server.Namespace(t)
	for name, object := range map[string]string{
		"a kind of its own":     "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}], selektor: {}}}",
		"a kind of Gateway API": "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {ruels: []}}",
	} {
		if err := server.Apply(t.Context(), namespace, object); err == nil || !strings.Contains(err.Error(), "field not declared in schema") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPrivateNetwork: one listens on the address of a Pod, and the API server takes it.
func TestPrivateNetwork(t *testing.T) {
	server := Shared(t)
	namespace := server.Namespace(t)
	listener, err := net.Listen("tcp", "10.250.1.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := server.Apply(t.Context(), namespace, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a}
addressType: IPv4
endpoints: [{addresses: [10.250.1.2]}]
`); err != nil {
		t.Error(err)
	}
	dial := func(address string) error {
		connection, err := net.DialTimeout("tcp", address, time.Minute)
		if err == nil {
			_ = connection.Close()
		}
		return err
	}
	if err := dial(listener.Addr().String()); err != nil {
		t.Error(err)
	}
	for address, want := range map[string]syscall.Errno{
		"10.250.7.7:80": syscall.ECONNREFUSED,
		"192.0.2.1:80":  syscall.ENETUNREACH,
	} {
		if err := dial(address); !errors.Is(err, want) {
			t.Errorf("%s: %v; expected %v", address, err, want)
		}
	}
}

// outcome is a test that notes how it ended.
type outcome struct {
	testing.TB
	ended string
}

func (o *outcome) Helper()      {}
func (o *outcome) Skip(...any)  { o.ended = "skipped" }
func (o *outcome) Fatal(...any) { o.ended = "failed" }

func TestWhatIsMissingIsSkippedUnlessRequired(t *testing.T) {
	for _, missing := range []error{ErrNotInstalled, fmt.Errorf("%w: unshare", ErrNoPrivateNetwork)} {
		for required, want := range map[string]string{"": "skipped", "1": "failed"} {
			t.Setenv(RequireEnv, required)
			o := &outcome{TB: t}
			if need(o, missing); o.ended != want {
				t.Errorf("%v with %s=%q: %s; expected %s", missing, RequireEnv, required, o.ended, want)
			}
		}
	}
	t.Setenv(RequireEnv, "")
	o := &outcome{TB: t}
	if need(o, context.DeadlineExceeded); o.ended != "failed" {
		t.Errorf("an API server that does not come: %s", o.ended)
	}
}
