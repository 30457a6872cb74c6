package translate

import (
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

// parseBootstrap reads a bootstrap as Envoy does: strictly.
func parseBootstrap(t interface{ Fatalf(string, ...any) }, text []byte) *bootstrapv3.Bootstrap {
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(asJSON, b); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return b
}

func TestBootstrapOfAFleet(t *testing.T) {
	text, err := Bootstrap(BootstrapOptions{Fleet: "shop/edge", AdminPort: 9901, Workers: 2, Zone: "a"})
	if err != nil {
		t.Fatal(err)
	}
	b := parseBootstrap(t, text)
	if b.GetNode().GetCluster() != "shop/edge" || b.GetNode().GetId() != "shop-edge" || b.GetNode().GetLocality().GetZone() != "a" ||
		b.GetNode().GetMetadata().GetFields()[WorkersKey].GetNumberValue() != 2 {
		t.Errorf("node %v", b.GetNode())
	}
	// A source without a timeout would be Envoy's 15 s: a start without listeners.
	for name, source := range map[string]*corev3.ConfigSource{"cds": b.GetDynamicResources().GetCdsConfig(), "lds": b.GetDynamicResources().GetLdsConfig()} {
		if source.GetInitialFetchTimeout() == nil || source.GetInitialFetchTimeout().AsDuration() != 0 {
			t.Errorf("%s: %v, want a timeout of zero", name, source)
		}
	}
	if b.GetLayeredRuntime().GetLayers()[0].GetRtdsLayer().GetName() != RuntimeLayer {
		t.Errorf("runtime %v", b.GetLayeredRuntime())
	}
	if got := b.GetAdmin().GetAddress().GetSocketAddress(); got.GetAddress() != "127.0.0.1" || got.GetPortValue() != 9901 {
		t.Errorf("admin %v", got)
	}
}

func TestBootstrapForEndpointsOnlyLeavesTheRestToTheUser(t *testing.T) {
	text, err := Bootstrap(BootstrapOptions{Fleet: "eds:shop"})
	if err != nil {
		t.Fatal(err)
	}
	b := parseBootstrap(t, text)
	if b.GetDynamicResources().GetCdsConfig() != nil || b.GetDynamicResources().GetLdsConfig() != nil || b.GetLayeredRuntime() != nil || b.GetAdmin() != nil {
		t.Errorf("more than endpoints:\n%s", text)
	}

	var example []string
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "#   "); ok {
			example = append(example, rest)
		}
	}
	asJSON, err := yaml.YAMLToJSON([]byte("clusters:\n" + strings.Join(example, "")))
	if err != nil {
		t.Fatal(err)
	}
	resources := &bootstrapv3.Bootstrap_StaticResources{}
	if err := protojson.Unmarshal(asJSON, resources); err != nil {
		t.Fatal(err)
	}
	if err := resources.ValidateAll(); err != nil || resources.GetClusters()[0].GetEdsClusterConfig().GetServiceName() != "shop/cart:8080" {
		t.Errorf("the example in the comment: %v, %v", resources, err)
	}
}

func TestBootstrapFindsTheControlPlane(t *testing.T) {
	for host, want := range map[string]clusterv3.Cluster_DiscoveryType{
		"10.0.0.1": clusterv3.Cluster_STATIC, "::1": clusterv3.Cluster_STATIC,
		"localhost": clusterv3.Cluster_STRICT_DNS, "evenkeel.evenkeel-system.svc": clusterv3.Cluster_STRICT_DNS,
	} {
		text, err := Bootstrap(BootstrapOptions{Fleet: "shop/edge", XDSHost: host, XDSPort: 443, TLSDir: "/etc/evenkeel/tls"})
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		c := parseBootstrap(t, text).GetStaticResources().GetClusters()[0]
		if c.GetType() != want || c.GetTransportSocket() == nil {
			t.Errorf("%s: %v", host, c)
		}
		if sni := strings.Contains(string(text), "sni: "+host); sni != (want == clusterv3.Cluster_STRICT_DNS) {
			t.Errorf("%s: server name sent: %v", host, sni)
		}
	}
}

// TestSDSIsWhatTheBootstrapNames: the secrets that it discovers are in the files that it names, and those name
// the files of Kubernetes and the folder to watch.
func TestSDSIsWhatTheBootstrapNames(t *testing.T) {
	o := BootstrapOptions{Fleet: "shop/edge", TLSDir: "/tls", SDSDir: "/config"}
	text, err := Bootstrap(o)
	if err != nil {
		t.Fatal(err)
	}
	var tls tlsv3.UpstreamTlsContext
	if err := parseBootstrap(t, text).GetStaticResources().GetClusters()[0].GetTransportSocket().GetTypedConfig().UnmarshalTo(&tls); err != nil {
		t.Fatal(err)
	}
	files, err := SDS(o)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	discovered := func(config *tlsv3.SdsSecretConfig) *tlsv3.Secret {
		t.Helper()
		name := config.GetSdsConfig().GetPathConfigSource().GetPath()
		asJSON, err := yaml.YAMLToJSON(files[strings.TrimPrefix(name, "/config/")])
		if err != nil {
			t.Fatal(err)
		}
		var response discoveryv3.DiscoveryResponse
		if err := protojson.Unmarshal(asJSON, &response); err != nil || len(response.GetResources()) != 1 {
			t.Fatalf("%s: %v, %v", name, &response, err)
		}
		var secret tlsv3.Secret
		if err := response.GetResources()[0].UnmarshalTo(&secret); err != nil || secret.GetName() != config.GetName() {
			t.Fatalf("%s has %q, want %q; %v", name, secret.GetName(), config.GetName(), err)
		}
		return &secret
	}
	certificate := discovered(tls.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs()[0]).GetTlsCertificate()
	if certificate.GetCertificateChain().GetFilename() != "/tls/tls.crt" || certificate.GetPrivateKey().GetFilename() != "/tls/tls.key" || certificate.GetWatchedDirectory().GetPath() != "/tls" {
		t.Errorf("%v", certificate)
	}
	combined := tls.GetCommonTlsContext().GetCombinedValidationContext()
	authority := discovered(combined.GetValidationContextSdsSecretConfig()).GetValidationContext()
	if authority.GetTrustedCa().GetFilename() != "/tls/ca.crt" || authority.GetWatchedDirectory().GetPath() != "/tls" {
		t.Errorf("%v", authority)
	}
	if names := combined.GetDefaultValidationContext().GetMatchTypedSubjectAltNames(); len(names) != 1 || names[0].GetMatcher().GetExact() != "127.0.0.1" {
		t.Errorf("the server's name is not checked: %v", names)
	}
	if _, err := SDS(BootstrapOptions{Fleet: "shop/edge", SDSDir: "/config"}); err == nil || !strings.Contains(err.Error(), "TLS directory") {
		t.Errorf("without certificates: %v", err)
	}
}

func TestBootstrapRefuses(t *testing.T) {
	ok := BootstrapOptions{Fleet: "shop/edge"}
	for want, change := range map[string]func(*BootstrapOptions){
		`fleet ""`:                     func(o *BootstrapOptions) { o.Fleet = "" },
		`fleet "shop"`:                 func(o *BootstrapOptions) { o.Fleet = "shop" },
		`fleet "shop/edge/80"`:         func(o *BootstrapOptions) { o.Fleet = "shop/edge/80" },
		`fleet "eds:"`:                 func(o *BootstrapOptions) { o.Fleet = "eds:" },
		`fleet "eds:shop\nadmin: {}"`:  func(o *BootstrapOptions) { o.Fleet = "eds:shop\nadmin: {}" },
		`xDS host "a b"`:               func(o *BootstrapOptions) { o.XDSHost = "a b" },
		`xDS port 70000`:               func(o *BootstrapOptions) { o.XDSPort = 70000 },
		`admin port -1`:                func(o *BootstrapOptions) { o.AdminPort = -1 },
		`admin address "example.com"`:  func(o *BootstrapOptions) { o.AdminAddress = "example.com" },
		`workers -2`:                   func(o *BootstrapOptions) { o.Workers = -2 },
		`node id "a\x00"`:              func(o *BootstrapOptions) { o.NodeID = "a\x00" },
		`zone "\u0085"`:                func(o *BootstrapOptions) { o.Zone = "\u0085" },
		`TLS directory "/tls\r\nx: y"`: func(o *BootstrapOptions) { o.TLSDir = "/tls\r\nx: y" },
	} {
		o := ok
		change(&o)
		if _, err := Bootstrap(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestBootstrapTakesAnyText: what is accepted comes out as it went in, whatever it means to YAML.
func TestBootstrapTakesAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := BootstrapOptions{Fleet: "shop/edge", NodeID: rapid.String().Draw(t, "id"), Zone: rapid.String().Draw(t, "zone"), TLSDir: rapid.String().Draw(t, "dir")}
		text, err := Bootstrap(o)
		if err != nil {
			return
		}
		n := parseBootstrap(t, text).GetNode()
		if o.NodeID != "" && n.GetId() != o.NodeID || n.GetLocality().GetZone() != o.Zone {
			t.Fatalf("%q, %q became %v", o.NodeID, o.Zone, n)
		}
	})
}
