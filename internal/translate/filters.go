package translate

import (
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	customresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/re2"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// httpFilters are the slots of policies and the router. A slot is there from the start and its content
// comes by ECDS, so that a policy never changes a listener. Until it has come the slot lets everything
// pass, and the listener does not wait for it.
//
// A slot is disabled but for the routes that say they need it (enable): requests of the others do not pay
// for it. Requests take the slots from the first to the last, responses from the last to the first.
func httpFilters() []*hcmv3.HttpFilter {
	out := []*hcmv3.HttpFilter{slot(CustomResponseFilter, &customresponsev3.CustomResponse{}, &luav3.Lua{})}
	for i := range BucketSlots {
		out = append(out, slot(bucketFilter(i+1), &localratelimitv3.LocalRateLimit{}))
	}
	return append(out,
		slot(AllowFilter, &ratelimitv3.RateLimit{}),
		slot(DenyFilter, &ratelimitv3.RateLimit{}),
		&hcmv3.HttpFilter{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(&routerv3.Router{})},
		})
}

// slot is an empty one, for contents of these types.
func slot(name string, contents ...proto.Message) *hcmv3.HttpFilter {
	types := []string{passThrough().GetTypeUrl()}
	for _, m := range contents {
		types = append(types, anyOf(m).GetTypeUrl())
	}
	return &hcmv3.HttpFilter{
		Name:     name,
		Disabled: true,
		ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
			ConfigSource:                     overADS(0),
			DefaultConfig:                    passThrough(),
			ApplyDefaultConfigWithoutWarming: true,
			TypeUrls:                         types,
		}},
	}
}

// enable has a slot work for the requests of a route, or of a weighted cluster.
func enable() *anypb.Any { return anyOf(&routev3.FilterConfig{Config: &anypb.Any{}}) }

// slots are the contents of the slots. Each is served, though one that no policy fills equals the slot's
// default, so that every fleet answers for every type and a fleet that is in order looks like one.
func slots(f *catalog.Fleet, limitTimeout time.Duration) []Resource {
	contents := map[string]proto.Message{
		CustomResponseFilter: replyStatus(f.Rules),
		AllowFilter:          askService(f, v1alpha1.OnErrorAllow, limitTimeout),
		DenyFilter:           askService(f, v1alpha1.OnErrorDeny, limitTimeout),
	}
	for i := range BucketSlots {
		contents[bucketFilter(i+1)] = buckets(f.Rules, i+1)
	}
	var out []Resource
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		content := passThrough()
		if m := contents[name]; m != nil {
			content = anyOf(m)
		}
		out = append(out, Resource{
			Type: ECDS, Name: name, Source: f.Object.String(),
			Message: &corev3.TypedExtensionConfig{Name: name, TypedConfig: content},
		})
	}
	return out
}

// passThrough changes nothing. It is no empty CustomResponse, which would do as well, because Envoy
// warns of that one as work in progress whenever it sees it, and most fleets never use it.
func passThrough() *anypb.Any { return anyOf(&headermutationv3.HeaderMutation{}) }

// runtimeLayer is the layer that the bootstrap asks for, and that an Envoy waits for before anything
// else. Without the size of programs Envoy refuses expressions of a program size over 100, which a harmless
// one soon has, and with each the whole route configuration it is in.
//
// Leases are renewed by what Envoys report of the requests that go on, so where there are any all requests
// are reported.
func runtimeLayer(f *catalog.Fleet) Resource {
	reported := 0.0
	if slices.ContainsFunc(f.Rules, func(r *rlsconfig.Rule) bool { return r.Limit.Concurrency != nil }) {
		reported = 100
	}
	return Resource{
		Type: RTDS, Name: RuntimeLayer, Source: f.Object.String(),
		Message: &runtimev3.Runtime{Name: RuntimeLayer, Layer: &structpb.Struct{Fields: map[string]*structpb.Value{
			"re2.max_program_size.error_level": structpb.NewNumberValue(re2.MaxProgram),
			AccessLogKey:                       structpb.NewNumberValue(reported),
		}}},
	}
}
