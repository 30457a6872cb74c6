package translate

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"
)

// WorkersKey of node.metadata says how many workers an Envoy runs (`--concurrency`), which it does
// not report by itself. Weights are pushed at a rate that leaves each worker enough picks between two.
const WorkersKey = "evenkeel.io/workers"

// BootstrapOptions describe one Envoy and the way to its control plane.
type BootstrapOptions struct {
	// Fleet becomes node.cluster: "<namespace>/<gateway>" for an Envoy that gets all from us, or
	// "eds:<namespace>" for one with listeners and clusters of its own that wants only endpoints.
	Fleet string
	// NodeID becomes node.id. Default: the fleet's name with a dash for each separator. Where several
	// Envoys share a bootstrap, `envoy --service-node` tells them apart.
	NodeID string
	// XDSHost is a name or an IP address. Default 127.0.0.1.
	XDSHost string
	// XDSPort, default 18000.
	XDSPort int
	// AdminAddress is an IP address. Default 127.0.0.1: the admin port can change and stop an Envoy.
	AdminAddress string
	// AdminPort; 0 leaves the admin port out.
	AdminPort int
	// TLSDir is a directory on the Envoy's machine with tls.crt, tls.key and ca.crt. The control plane
	// must then show a certificate of that authority for XDSHost. "" is plaintext.
	TLSDir string
	// SDSDir is a directory on the Envoy's machine with the files of SDS, by which Envoy takes up new files in
	// TLSDir. Without it Envoy reads those when it starts, and not again.
	SDSDir string
	// Workers is the Envoy's `--concurrency`; 0 does not say.
	Workers int
	// Region and Zone are the Envoy's locality; "" does not say.
	Region, Zone string
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// isObjectName reports whether s is a DNS subdomain, as Kubernetes names a Gateway.
func isObjectName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !dnsLabel.MatchString(label) {
			return false
		}
	}
	return true
}

// EDSOnly returns the namespace of a fleet's name of the form "eds:<namespace>".
func EDSOnly(fleet string) (namespace string, ok bool) { return strings.CutPrefix(fleet, "eds:") }

// ValidateFleet checks the form of a fleet's name; it does not know which fleets exist.
func ValidateFleet(fleet string) error {
	if namespace, ok := EDSOnly(fleet); ok {
		if !dnsLabel.MatchString(namespace) {
			return fmt.Errorf("fleet %q: expected eds:<namespace> with the name of a namespace", fleet)
		}
		return nil
	}
	namespace, gateway, ok := strings.Cut(fleet, "/")
	if !ok || !dnsLabel.MatchString(namespace) || !isObjectName(gateway) {
		return fmt.Errorf("fleet %q: expected <namespace>/<gateway>, or eds:<namespace> for endpoints only", fleet)
	}
	return nil
}

func (o BootstrapOptions) withDefaults() BootstrapOptions {
	o.NodeID = cmp.Or(o.NodeID, strings.NewReplacer("/", "-", ":", "-").Replace(o.Fleet))
	o.XDSHost = cmp.Or(o.XDSHost, "127.0.0.1")
	o.XDSPort = cmp.Or(o.XDSPort, 18000)
	o.AdminAddress = cmp.Or(o.AdminAddress, "127.0.0.1")
	return o
}

func (o BootstrapOptions) validate() error {
	errs := []error{ValidateFleet(o.Fleet)}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	_, notIP := netip.ParseAddr(o.XDSHost)
	check(notIP == nil || isObjectName(strings.ToLower(o.XDSHost)), "xDS host %q: expected an IP address or a DNS name", o.XDSHost)
	check(o.XDSPort > 0 && o.XDSPort < 1<<16, "xDS port %d: expected 1 to 65535", o.XDSPort)
	check(o.AdminPort >= 0 && o.AdminPort < 1<<16, "admin port %d: expected 1 to 65535, or 0 for none", o.AdminPort)
	_, notIP = netip.ParseAddr(o.AdminAddress)
	check(notIP == nil, "admin address %q: expected an IP address", o.AdminAddress)
	check(o.Workers >= 0 && o.Workers <= 1024, "workers %d: expected 1 to 1024, or 0 for unknown", o.Workers)
	for what, text := range map[string]string{"node id": o.NodeID, "region": o.Region, "zone": o.Zone, "TLS directory": o.TLSDir, "SDS directory": o.SDSDir} {
		// YAML folds or refuses most of what cannot be printed, the line breaks of Unicode among it.
		check(len(text) <= 256 && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }),
			"%s %q: expected at most 256 bytes of printable characters", what, text)
	}
	return errors.Join(errs...)
}

// Bootstrap makes the bootstrap of an Envoy as YAML, ready for `envoy -c`.
//
// It asks for delta ADS; keeps the connection alive by pings and returns within 2 s of a lost control
// plane (Envoy's own default backs off to 30 s); opens a load report stream; and, for a whole fleet,
// waits for the first clusters and listeners however long they take rather than start empty, and has
// a runtime layer over RTDS. For "eds:<namespace>" the configuration stays the user's: a comment
// shows a cluster that takes its endpoints from here.
func Bootstrap(o BootstrapOptions) ([]byte, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node: o.node(),
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: XDSCluster,
					RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
						BaseInterval: durationpb.New(250 * time.Millisecond),
						MaxInterval:  durationpb.New(2 * time.Second),
					}},
				}}}},
			},
		},
		ClusterManager: &bootstrapv3.ClusterManager{LoadStatsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: XDSCluster},
			}}},
		}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{o.xdsCluster()}},
	}
	if o.AdminPort > 0 {
		b.Admin = &bootstrapv3.Admin{Address: socketAddress(o.AdminAddress, uint32(o.AdminPort))}
	}
	header := fmt.Sprintf("# An Envoy of the fleet %s: envoy -c FILE", o.Fleet)
	if namespace, ok := EDSOnly(o.Fleet); ok {
		header = fmt.Sprintf(edsOnlyHeader, namespace)
	} else {
		b.StaticResources.Clusters = append(b.StaticResources.Clusters, o.rlsCluster())
		b.DynamicResources.CdsConfig = waiting()
		b.DynamicResources.LdsConfig = waiting()
		b.LayeredRuntime = &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{
			{Name: RuntimeLayer, LayerSpecifier: &bootstrapv3.RuntimeLayer_RtdsLayer_{RtdsLayer: &bootstrapv3.RuntimeLayer_RtdsLayer{
				Name: RuntimeLayer, RtdsConfig: overADS(2 * time.Second),
			}}},
			// Above ours, so that an operator at the admin port has the last word.
			{Name: "admin", LayerSpecifier: &bootstrapv3.RuntimeLayer_AdminLayer_{AdminLayer: &bootstrapv3.RuntimeLayer_AdminLayer{}}},
		}}
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	asYAML, err := toYAML(b)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return append([]byte(header+"\n"), asYAML...), nil
}

func toYAML(m proto.Message) ([]byte, error) {
	asJSON, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(asJSON)
}

// edsOnlyHeader goes before the YAML of an EDS-only bootstrap; its verb is a validated namespace.
const edsOnlyHeader = `# An Envoy with a configuration of its own that takes endpoints from the control plane. What counts is
# the node's cluster, ads_config and the cluster "xds"; add your listeners, and clusters such as
#
#   - name: cart
#     type: EDS
#     connect_timeout: 1s
#     eds_cluster_config:
#       service_name: %s/cart:8080          # <namespace>/<service>:<port>
#       eds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 2s}
#     common_lb_config: {healthy_panic_threshold: {value: 0}}
#     lb_policy: LEAST_REQUEST
#     least_request_lb_config: {active_request_bias: {default_value: 1.5, runtime_key: lb.bias}}`

func (o BootstrapOptions) node() *corev3.Node {
	n := &corev3.Node{Id: o.NodeID, Cluster: o.Fleet}
	if o.Region != "" || o.Zone != "" {
		n.Locality = &corev3.Locality{Region: o.Region, Zone: o.Zone}
	}
	if o.Workers > 0 {
		n.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{WorkersKey: structpb.NewNumberValue(float64(o.Workers))}}
	}
	return n
}

// controlPlane is a cluster of the control plane: HTTP/2, and behind the files for TLS if there are any.
func (o BootstrapOptions) controlPlane(name string, others ...*tlsv3.SubjectAltNameMatcher) *clusterv3.Cluster {
	protocol := anyOf(&upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				ConnectionKeepalive: &corev3.KeepaliveSettings{Interval: durationpb.New(10 * time.Second), Timeout: durationpb.New(5 * time.Second)},
			}},
		}},
	})
	c := &clusterv3.Cluster{
		Name:                          name,
		ConnectTimeout:                durationpb.New(time.Second),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
	}
	if o.TLSDir != "" {
		c.TransportSocket = o.transportSocket(others...)
	}
	return c
}

func (o BootstrapOptions) xdsCluster() *clusterv3.Cluster {
	c := o.controlPlane(XDSCluster)
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
	if _, notIP := netip.ParseAddr(o.XDSHost); notIP == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	}
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: XDSCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: socketAddress(o.XDSHost, uint32(o.XDSPort))},
		}}},
	}}}
	return c
}

// rlsCluster is the rate limit service. Where it is comes over the stream, so that it may move; that it is a
// cluster of the bootstrap is for the files of TLS, which the control plane does not know. Envoy starts without
// knowing where it is, and without it being there at all.
func (o BootstrapOptions) rlsCluster() *clusterv3.Cluster {
	c := o.controlPlane(RLSCluster, referenceService)
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
	c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS(edsFetchTimeout)}
	c.WaitForWarmOnInit = wrapperspb.Bool(false)
	c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}}
	c.IgnoreHealthOnHostRemoval = true
	c.CircuitBreakers = unlimited()
	return c
}

// waiting is a type taken over ADS that Envoy does not start without.
func waiting() *corev3.ConfigSource {
	source := overADS(0)
	source.InitialFetchTimeout = durationpb.New(0)
	return source
}
