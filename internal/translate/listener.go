package translate

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/catalog"
)

// accessLogFlushInterval is how often a request that goes on is reported, so that long streams count
// as load before they end.
const accessLogFlushInterval = 10 * time.Second

// listener makes the listener of one port. Any change of it drains all its connections, so it depends
// on nothing but its name and address: what routes and policies say travels in RDS, ECDS and RTDS.
func listener(f *catalog.Fleet, l *catalog.Listener, opts Options) Resource {
	ip := l.Address
	if ip == "" {
		ip = opts.ListenerAddress
	}
	if ip == "" {
		ip = "0.0.0.0"
	}
	address := socketAddress(ip, l.Port)
	// "::" means every address of the machine, as Go and most servers understand it.
	address.GetSocketAddress().Ipv4Compat = ip == "::"
	return Resource{
		Type: LDS, Name: l.Name, Source: f.Object.String(),
		Message: &listenerv3.Listener{
			Name:    l.Name,
			Address: address,
			FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
				Name:       "envoy.filters.network.http_connection_manager",
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(connectionManager(l.Name))},
			}}}},
		},
	}
}

// connectionManager treats requests as an edge proxy does. The client's address is the peer's
// (use_remote_address), never a header's. Paths are normalised before they are matched, in the way
// Envoy recommends for an edge, so that no spelling of a path gets around the route or the limit that
// is meant for it.
func connectionManager(name string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: name,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: name,
			ConfigSource:    overADS(0),
		}},
		HttpFilters:                  httpFilters(),
		UseRemoteAddress:             wrapperspb.Bool(true),
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT,
		// A client sees the Server header of the backend, or none.
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		UpgradeConfigs:             []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		AccessLog:                  []*accesslogv3.AccessLog{accessLog()},
		AccessLogOptions: &hcmv3.HttpConnectionManager_HcmAccessLogOptions{
			AccessLogFlushInterval: durationpb.New(accessLogFlushInterval),
		},
	}
}

// accessLog reports a part of the requests to the rate limit service: none until RTDS sets AccessLogKey.
func accessLog() *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.http_grpc",
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_RuntimeFilter{
			RuntimeFilter: &accesslogv3.RuntimeFilter{
				RuntimeKey:               AccessLogKey,
				PercentSampled:           &typev3.FractionalPercent{Numerator: 0, Denominator: typev3.FractionalPercent_HUNDRED},
				UseIndependentRandomness: true,
			},
		}},
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: anyOf(&grpclogv3.HttpGrpcAccessLogConfig{
			CommonConfig: &grpclogv3.CommonGrpcAccessLogConfig{
				LogName:             RuntimeLayer,
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: RLSCluster},
				}},
			},
		})},
	}
}
