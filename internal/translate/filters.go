package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	customresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/re2"
)

// httpFilters are the slots of policies and the router. A slot is there from the start and its content
// comes by ECDS, so that a policy never changes a listener. Until it has come the slot lets everything
// pass, and the listener does not wait for it.
func httpFilters() []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		{
			Name: CustomResponseFilter,
			ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
				ConfigSource:                     overADS(0),
				DefaultConfig:                    passThrough(),
				ApplyDefaultConfigWithoutWarming: true,
				TypeUrls: []string{
					passThrough().GetTypeUrl(),
					anyOf(&customresponsev3.CustomResponse{}).GetTypeUrl(),
				},
			}},
		},
		{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(&routerv3.Router{})},
		},
	}
}

// customResponseSlot is the content of the slot while no policy fills it. It is served, though it
// equals the slot's default, so that every fleet answers for every type and a fleet that is in order
// looks like one.
func customResponseSlot(f *catalog.Fleet) Resource {
	return Resource{
		Type: ECDS, Name: CustomResponseFilter, Source: f.Object.String(),
		Message: &corev3.TypedExtensionConfig{
			Name:        CustomResponseFilter,
			TypedConfig: passThrough(),
		},
	}
}

// passThrough changes nothing. It is no empty CustomResponse, which would do as well, because Envoy
// warns of that one as work in progress whenever it sees it, and most fleets never use it.
func passThrough() *anypb.Any { return anyOf(&headermutationv3.HeaderMutation{}) }

// runtimeLayer is the layer that the bootstrap asks for, and that an Envoy waits for before anything
// else. Without its one entry Envoy refuses expressions of a program size over 100, which a harmless
// one soon has, and with each the whole route configuration it is in.
func runtimeLayer(f *catalog.Fleet) Resource {
	return Resource{
		Type: RTDS, Name: RuntimeLayer, Source: f.Object.String(),
		Message: &runtimev3.Runtime{Name: RuntimeLayer, Layer: &structpb.Struct{Fields: map[string]*structpb.Value{
			"re2.max_program_size.error_level": structpb.NewNumberValue(re2.MaxProgram),
		}}},
	}
}
