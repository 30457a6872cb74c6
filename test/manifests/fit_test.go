package manifests

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"evenkeel.io/controlplane/internal/auth/identity"
	"evenkeel.io/controlplane/internal/kubetest"
)

// of are the objects of a kind as their Go type.
func of[T any](t *testing.T, objects []*unstructured.Unstructured, kind string) []T {
	t.Helper()
	var all []T
	for _, object := range objects {
		if object.GetKind() != kind {
			continue
		}
		var one T
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &one); err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

// workload is what a Deployment and a StatefulSet have in common.
type workload struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Template corev1.PodTemplateSpec `json:"template"`
	} `json:"spec"`
}

func workloads(t *testing.T, objects []*unstructured.Unstructured) []workload {
	return append(of[workload](t, objects, "Deployment"), of[workload](t, objects, "StatefulSet")...)
}

// TestSelectorsSelect: what is to apply to Pods applies to some, through ports that they have.
func TestSelectorsSelect(t *testing.T) {
	server := kubetest.Shared(t)
	kustomizations, _ := walk(t)
	for _, folder := range kustomizations {
		objects := render(t, server, folder)
		selected := func(what, namespace string, selector labels.Selector) []workload {
			found := slices.DeleteFunc(workloads(t, objects), func(w workload) bool {
				return w.Namespace != namespace || !selector.Matches(labels.Set(w.Spec.Template.Labels))
			})
			if len(found) != 1 {
				t.Errorf("%s: %s selects the Pods of %d workloads, expected one", folder, what, len(found))
			}
			return found
		}
		fromLabels := func(what, namespace string, selector *metav1.LabelSelector) []workload {
			s, err := metav1.LabelSelectorAsSelector(selector)
			if err != nil {
				t.Fatal(err)
			}
			return selected(what, namespace, s)
		}
		hasPort := func(what, name string, pods []workload) {
			for _, w := range pods {
				if !slices.ContainsFunc(w.Spec.Template.Spec.Containers, func(c corev1.Container) bool {
					return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
				}) {
					t.Errorf("%s: %s: the Pods of %s have no port %s", folder, what, w.Name, name)
				}
			}
		}
		services := of[corev1.Service](t, objects, "Service")
		for _, s := range services {
			pods := selected("Service "+s.Name, s.Namespace, labels.SelectorFromSet(s.Spec.Selector))
			for _, p := range s.Spec.Ports {
				hasPort("Service "+s.Name, p.TargetPort.String(), pods)
			}
		}
		for _, b := range of[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget") {
			fromLabels("PodDisruptionBudget "+b.Name, b.Namespace, b.Spec.Selector)
		}
		for _, p := range of[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy") {
			pods := fromLabels("NetworkPolicy "+p.Name, p.Namespace, &p.Spec.PodSelector)
			for _, rule := range p.Spec.Ingress {
				for _, port := range rule.Ports {
					hasPort("NetworkPolicy "+p.Name, port.Port.String(), pods)
				}
			}
		}
		for _, w := range of[appsv1.Deployment](t, objects, "Deployment") {
			for _, spread := range w.Spec.Template.Spec.TopologySpreadConstraints {
				fromLabels("topologySpreadConstraints of "+w.Name, w.Namespace, spread.LabelSelector)
			}
		}
		for _, h := range of[autoscalingv2.HorizontalPodAutoscaler](t, objects, "HorizontalPodAutoscaler") {
			if !slices.ContainsFunc(workloads(t, objects), func(w workload) bool { return w.Name == h.Spec.ScaleTargetRef.Name && w.Namespace == h.Namespace }) {
				t.Errorf("%s: HorizontalPodAutoscaler %s: there is no %s", folder, h.Name, h.Spec.ScaleTargetRef.Name)
			}
		}
		for _, m := range of[serviceMonitor](t, objects, "ServiceMonitor") {
			selector, err := metav1.LabelSelectorAsSelector(&m.Spec.Selector)
			if err != nil {
				t.Fatal(err)
			}
			for _, endpoint := range m.Spec.Endpoints {
				if !slices.ContainsFunc(services, func(s corev1.Service) bool {
					return s.Namespace == m.Namespace && selector.Matches(labels.Set(s.Labels)) &&
						slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == endpoint.Port })
				}) {
					t.Errorf("%s: ServiceMonitor %s: there is no Service with a port %s", folder, m.Name, endpoint.Port)
				}
			}
		}
	}
}

// serviceMonitor is what counts of the Prometheus operator's.
type serviceMonitor struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port string `json:"port"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// certificate is what counts of cert-manager's.
type certificate struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SecretName string   `json:"secretName"`
		DNSNames   []string `json:"dnsNames"`
		URIs       []string `json:"uris"`
		IssuerRef  struct{ Kind, Name string }
	} `json:"spec"`
}

// TestCertificatesFit: the Secrets that Pods mount are those that cert-manager is asked for, with the names
// that the other side looks for.
func TestCertificatesFit(t *testing.T) {
	server := kubetest.Shared(t)
	bootstrap, err := os.ReadFile(filepath.Join(root, "examples/envoy/config/envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	base := render(t, server, filepath.Join(root, "overlays/cert-manager"))
	service := of[corev1.Service](t, base, "Service")[0]
	host := service.Name + "." + service.Namespace + ".svc"
	if !strings.Contains(string(bootstrap), "address: "+host+"\n") {
		t.Errorf("the bootstrap of the example does not lead to %s", host)
	}
	objects := append(base, render(t, server, filepath.Join(root, "examples/envoy-cert-manager"))...)
	certificates := of[certificate](t, objects, "Certificate")
	mounted := map[string]string{} // namespace/name of Secrets, and by whom
	for _, w := range workloads(t, objects) {
		for _, v := range w.Spec.Template.Spec.Volumes {
			if v.Secret != nil {
				mounted[w.Namespace+"/"+v.Secret.SecretName] = w.Name
			}
		}
	}
	rules, err := identity.ParseRules("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := rules.OfFleet("shop/edge")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]func(certificate) bool{
		"evenkeel-controlplane": func(c certificate) bool {
			return slices.Contains(c.Spec.DNSNames, host) && slices.Equal(c.Spec.URIs, []string{rules.OfReplica().String()})
		},
		"envoy-edge": func(c certificate) bool {
			return slices.Equal(c.Spec.URIs, []string{fleet.String()}) && strings.Contains(string(bootstrap), "\n  cluster: shop/edge\n")
		},
	}
	for secret, by := range mounted {
		i := slices.IndexFunc(certificates, func(c certificate) bool { return c.Namespace+"/"+c.Spec.SecretName == secret })
		switch {
		case i < 0:
			t.Errorf("no Certificate makes the Secret %s of %s", secret, by)
		case !want[by](certificates[i]):
			t.Errorf("the Certificate of %s is for other names: %+v", by, certificates[i].Spec)
		}
	}
	if len(mounted) != len(want) {
		t.Errorf("%v are mounted", mounted)
	}
}

// TestEnvoyFindsItsFiles: the folders that the bootstrap names are mounted.
func TestEnvoyFindsItsFiles(t *testing.T) {
	server := kubetest.Shared(t)
	objects := render(t, server, filepath.Join(root, "examples/envoy"))
	var bootstrap string
	for _, c := range of[corev1.ConfigMap](t, objects, "ConfigMap") {
		bootstrap += c.Data["envoy.yaml"] + c.Data["sds-certificate.yaml"]
	}
	envoy := workloads(t, objects)[0].Spec.Template.Spec.Containers[0]
	for _, m := range envoy.VolumeMounts {
		if !strings.Contains(bootstrap, m.MountPath+"/") {
			t.Errorf("the bootstrap has no use for %s", m.MountPath)
		}
	}
	if len(envoy.VolumeMounts) != 2 {
		t.Errorf("%d mounts, expected those of the bootstrap and of the certificate", len(envoy.VolumeMounts))
	}
}

// TestInstallNamesOurGatewayAPI: the page has people install the version that we are built and tested with.
func TestInstallNamesOurGatewayAPI(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repository, "docs/install.md"))
	if err != nil {
		t.Fatal(err)
	}
	version, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "gateway-api/config/crd?ref=" + strings.TrimSpace(string(version)) + "\""; !strings.Contains(string(page), want) {
		t.Errorf("docs/install.md does not say %s", want)
	}
}
